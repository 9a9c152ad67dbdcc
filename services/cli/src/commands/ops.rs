//! `mesh ops`: see operations, follow one, cancel one.

use clap::{Args, Subcommand};
use omnirelay_contract::rest::{CancelBody, Mutated, Operation};
use omnirelay_contract::workflow::OperationId;
use omnirelay_contract::workflow::operation::State;
use uuid::Uuid;

use super::conclude::{WaitArgs, conclude, target_name};
use super::{LimitArgs, WhyArgs, filtered, word};
use crate::client::{Request, understand};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::{GlobalArgs, Session};
use crate::{output, resolve};

const MEANT: &str = "An id, the tail of one (4 hex digits or more), or the target's name";

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
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Such as peers.drain
    #[arg(long)]
    verb: Option<String>,
    /// One state, or several with commas
    #[arg(long, value_delimiter = ',', value_parser = word::<State>)]
    state: Vec<State>,
    /// A peer's id or name, or peers/ID
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
    let session = Session::open(global).await?;
    match command {
        Ops::List(args) => {
            let limit = args.limit.limit;
            let request = args.request(&session).await?;
            output::list(session.format, &session.client.list::<Operation>(&request, limit).await?)?;
            Ok(Exit::Succeeded)
        }
        Ops::Get { operation } => {
            output::one(session.format, &resolve::operation(&session.client, &operation).await?)?;
            Ok(Exit::Succeeded)
        }
        Ops::Attach { operation, wait } => {
            let operation = resolve::operation(&session.client, &operation).await?;
            let name = target_name(&session, &operation).await;
            conclude(&session, Mutated { operation, resource: None, changed: false }, &name, &wait).await
        }
        Ops::Cancel { operation, keep_moved, why, wait } => {
            let operation = resolve::operation(&session.client, &operation).await?;
            let name = target_name(&session, &operation).await;
            let keep_moved = keep_moved.then_some(true);
            let body = CancelBody { reason: why.reason, change_ticket: why.ticket, keep_moved };
            let body = serde_json::to_value(body).map_err(|error| Failure::error(format!("the request: {error}")))?;
            let path = format!("/control/operations/{}:cancel", operation.id);
            let request = Request::post(path, &Uuid::new_v4().to_string(), body);
            let answer = session.client.send(&request).await?;
            // Repeated, a cancel changes nothing; what is asked for is the same unwinding.
            conclude(&session, understand(&request.path, answer.body)?, &name, &wait).await
        }
    }
}

impl ListArgs {
    async fn request(self, session: &Session) -> Result<Request, Failure> {
        let target = match self.target {
            Some(target) if !target.contains('/') => {
                Some(format!("peers/{}", resolve::peer(&session.client, &target).await?.id))
            }
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
