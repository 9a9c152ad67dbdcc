//! `mesh ops`: see operations, follow one, steer one. What is decided at a gate is in [`super::decide`].

use clap::{Args, Subcommand};
use omnirelay_contract::rest::{CancelBody, ControlBody, Mutated, Operation};
use omnirelay_contract::workflow::OperationId;
use omnirelay_contract::workflow::operation::{Control, State};
use serde::Serialize;
use uuid::Uuid;

use super::conclude::{WaitArgs, conclude, target_name};
use super::decide::{self, ApproveArgs, RejectArgs};
use super::retry::{self, RetryArgs};
use super::{LimitArgs, WhyArgs, confirmed, describe, filtered, word};
use crate::client::{Request, understand};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::follow::screen;
use crate::output::{self, Format};
use crate::resolve;
use crate::session::{GlobalArgs, Session};

pub const MEANT: &str = "An id, the tail of one (4 hex digits or more), or the target's name";

#[derive(Debug, Subcommand)]
pub enum Ops {
    /// List operations
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show an operation
    Get {
        #[arg(help = MEANT)]
        operation: String,
    },
    /// Follow an operation to its end; the exit code tells the outcome
    #[command(visible_alias = "watch")]
    Attach {
        #[arg(help = MEANT)]
        operation: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Stop an operation and put everything back, then follow that to its end
    Cancel {
        #[arg(help = MEANT)]
        operation: String,
        /// Leave what has moved where it is
        #[arg(long)]
        keep_moved: bool,
        #[command(flatten)]
        why: WhyArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Begin nothing new of an operation until it is resumed; what is on its way is finished
    Pause(ControlArgs),
    /// Go on with a paused operation
    Resume(ControlArgs),
    /// Say yes to exactly what is shown
    Approve(ApproveArgs),
    /// Say no, which is final
    Reject(RejectArgs),
    /// Ask for an ended operation again, with its plan and its confirmation
    Retry(RetryArgs),
    /// Close a stuck operation: it ends failed and frees what it held
    Resolve(ControlArgs),
}

#[derive(Debug, Args)]
pub struct ControlArgs {
    #[arg(help = MEANT)]
    operation: String,
    #[command(flatten)]
    why: WhyArgs,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Such as peers.drain
    #[arg(long)]
    verb: Option<String>,
    /// One state, or several with commas
    #[arg(long, value_delimiter = ',', value_parser = word::<State>)]
    state: Vec<State>,
    /// A peer's id or name, a cluster's id, or KIND/ID
    #[arg(long)]
    target: Option<String>,
    #[arg(long)]
    actor: Option<String>,
    #[arg(long, value_name = "ID")]
    parent: Option<OperationId>,
    #[command(flatten)]
    limit: LimitArgs,
}

pub async fn run(command: Ops, global: &GlobalArgs) -> Result<Exit, Failure> {
    match command {
        Ops::List(args) => list(args, &Session::open(global).await?).await,
        Ops::Get { operation } => {
            let session = Session::open(global).await?;
            output::one(session.format, &resolve::operation(&session.client, &operation).await?)?;
            Ok(Exit::Succeeded)
        }
        Ops::Attach { operation, wait } => {
            let session = Session::open(global).await?;
            let operation = resolve::operation(&session.client, &operation).await?;
            let name = target_name(&session, &operation).await;
            conclude(&session, Mutated { operation, resource: None, changed: false }, &name, &wait).await
        }
        Ops::Cancel { operation, keep_moved, why, wait } => {
            let session = Session::open(global).await?;
            let operation = resolve::operation(&session.client, &operation).await?;
            let name = target_name(&session, &operation).await;
            let keep_moved = keep_moved.then_some(true);
            let body = CancelBody { reason: why.reason, change_ticket: why.ticket, keep_moved };
            let mutated = control(&session, &operation, Control::Cancel, &body).await?;
            // Repeated, a cancel changes nothing; what is asked for is the same unwinding.
            conclude(&session, mutated, &name, &wait).await
        }
        Ops::Pause(args) => steer(&Session::open(global).await?, args, Control::Pause).await,
        Ops::Resume(args) => steer(&Session::open(global).await?, args, Control::Resume).await,
        Ops::Resolve(args) => steer(&Session::open(global).await?, args, Control::Resolve).await,
        Ops::Approve(args) => decide::approve(args, global).await,
        Ops::Reject(args) => decide::reject(args, global).await,
        Ops::Retry(args) => Box::pin(retry::run(args, global)).await,
    }
}

async fn list(args: ListArgs, session: &Session) -> Result<Exit, Failure> {
    let limit = args.limit.limit;
    let request = args.request(session).await?;
    output::list(session.format, &session.client.list::<Operation>(&request, limit).await?)?;
    Ok(Exit::Succeeded)
}

/// Pause, resume, resolve: done once it is answered.
async fn steer(session: &Session, args: ControlArgs, control: Control) -> Result<Exit, Failure> {
    let operation = resolve::operation(&session.client, &args.operation).await?;
    let name = target_name(session, &operation).await;
    let body = ControlBody { reason: args.why.reason, change_ticket: args.why.ticket };
    let mutated = self::control(session, &operation, control, &body).await?;
    let (id, what) = (resolve::short(operation.id), describe::what(&operation, &name));
    let (done, already) = match control {
        Control::Pause => ("PAUSED", "paused already"),
        Control::Resume => ("RESUMED", "not paused"),
        _ => ("RESOLVED", "closed already"),
    };
    if mutated.changed {
        output::note(&screen::colour(&format!("{done} {id}   {what}")));
    } else {
        output::note(&format!("nothing to do: {id} is {already}"));
    }
    if control == Control::Pause {
        output::note(&format!("  go on: omnirelay ops resume {id}"));
    }
    match session.format {
        Format::Json | Format::Yaml => output::document(session.format, &mutated)?,
        Format::Table | Format::Wide => {}
    }
    Ok(Exit::Succeeded)
}

async fn control(
    session: &Session,
    operation: &Operation,
    control: Control,
    body: &impl Serialize,
) -> Result<Mutated, Failure> {
    let path = format!("/control/operations/{}:{}", operation.id, control.action());
    let request = Request::post(path, &Uuid::new_v4().to_string(), confirmed::json(body)?);
    let answer = session.client.send(&request).await?;
    Ok(understand(&request.path, answer.body)?)
}

impl ListArgs {
    async fn request(self, session: &Session) -> Result<Request, Failure> {
        let target = match self.target {
            Some(target) if matches!(target.as_str(), "config" | "settings") => Some("config/settings".to_owned()),
            Some(target) if !target.contains('/') => Some(resolve::target(&session.client, &target).await?),
            target => target,
        };
        let states: Vec<&str> = self.state.iter().map(|state| state.as_str()).collect();
        Ok(filtered(
            Request::get("/control/operations"),
            &[
                ("verb", self.verb),
                ("state", (!states.is_empty()).then(|| states.join(","))),
                ("target", target),
                ("actor", self.actor),
                ("parent", self.parent.map(|parent| parent.to_string())),
            ],
        ))
    }
}
