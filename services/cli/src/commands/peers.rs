//! `mesh peers`: reads, cordon and uncordon. The other verbs have files of their own.

use clap::{Args, Subcommand};
use omnirelay_contract::problem::Code;
use omnirelay_contract::rest::{CordonBody, Mutated, Peer, UncordonBody, Workload};
use omnirelay_contract::workflow::resource::{Health, PeerState};
use serde::Serialize;
use uuid::Uuid;

use super::conclude::{WaitArgs, conclude, display_name, had_nothing_to_do, unchanged};
use super::drain::{self, DrainArgs};
use super::label::{self, LabelArgs, Part};
use super::{LimitArgs, WhyArgs, confirmed, filtered, why, word};
use crate::client::{ClientError, Request, understand};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::{GlobalArgs, Session};
use crate::{output, resolve};

#[derive(Debug, Subcommand)]
pub enum Peers {
    /// List peers
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show a peer with its holds
    Get {
        /// Id or name
        peer: String,
    },
    /// List what runs on a peer
    Workloads {
        /// Id or name
        peer: String,
        #[command(flatten)]
        limit: LimitArgs,
    },
    /// Hold a peer: nothing new is scheduled there
    Cordon {
        /// Id or name
        peer: String,
        #[command(flatten)]
        why: WhyArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Take your own holds off a peer, and those of finished drains
    Uncordon {
        /// Id or name
        peer: String,
        /// Other people's manual holds too
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        why: WhyArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Move everything off one peer or many, with a plan, a prompt and bars
    Drain(DrainArgs),
    /// Set labels (KEY=VALUE) and take them away (KEY-)
    Label(LabelArgs),
    /// Set metadata (KEY=JSON) and take it away (KEY-)
    Annotate(LabelArgs),
    /// Why a peer is as it is: holds, operations, who approved them, what is in the way, what to type next
    Why {
        /// Id or name
        peer: String,
    },
}

#[derive(Debug, Args)]
pub struct ListArgs {
    #[arg(long, value_name = "ID")]
    cluster: Option<String>,
    #[arg(long)]
    role: Option<String>,
    /// active, cordoned, draining or drained
    #[arg(long, value_parser = word::<PeerState>)]
    state: Option<PeerState>,
    /// healthy, suspect or unreachable
    #[arg(long, value_parser = word::<Health>)]
    health: Option<Health>,
    #[arg(long)]
    version: Option<String>,
    #[arg(long)]
    name: Option<String>,
    /// Labels, such as zone=a,kernel=5.15
    #[arg(short = 'l', long)]
    selector: Option<String>,
    #[command(flatten)]
    limit: LimitArgs,
}

pub async fn run(command: Peers, global: &GlobalArgs) -> Result<Exit, Failure> {
    let command = match command {
        Peers::Drain(args) => return Box::pin(drain::run(args, global)).await,
        Peers::Label(args) => return label::run(args, Part::Labels, global).await,
        Peers::Annotate(args) => return label::run(args, Part::Metadata, global).await,
        Peers::Why { peer } => return why::run(&peer, global).await,
        other => other,
    };
    let session = Session::open(global).await?;
    match command {
        Peers::Drain(_) | Peers::Label(_) | Peers::Annotate(_) | Peers::Why { .. } => {}
        Peers::List(args) => {
            let limit = args.limit.limit;
            output::list(session.format, &session.client.list::<Peer>(&args.request(), limit).await?)?;
        }
        Peers::Get { peer } => output::one(session.format, &resolve::peer(&session.client, &peer).await?)?,
        Peers::Workloads { peer, limit } => {
            let peer = resolve::peer(&session.client, &peer).await?;
            let request = Request::get(format!("/control/peers/{}/workloads", peer.id));
            output::list(session.format, &session.client.list::<Workload>(&request, limit.limit).await?)?;
        }
        Peers::Cordon { peer, why, wait } => {
            let body = CordonBody { reason: why.reason, change_ticket: why.ticket, gate: None };
            return mutate(&session, &peer, "cordon", body, &wait, "is held by you already").await;
        }
        Peers::Uncordon { peer, all, why, wait } => {
            let body = UncordonBody { reason: why.reason, change_ticket: why.ticket, all, gate: None };
            return mutate(&session, &peer, "uncordon", body, &wait, "is not held").await;
        }
    }
    Ok(Exit::Succeeded)
}

async fn mutate(
    session: &Session,
    peer: &str,
    verb: &str,
    body: impl Serialize,
    wait: &WaitArgs,
    already: &str,
) -> Result<Exit, Failure> {
    let peer = resolve::peer(&session.client, peer).await?;
    let name = display_name(&peer);
    let path = format!("/control/peers/{}:{verb}", peer.id);
    let mut request = Request::post(path, &Uuid::new_v4().to_string(), confirmed::json(&body)?);
    if wait.detach {
        request = request.header("prefer", "respond-async");
    }
    let answer = session.client.send(&request).await.map_err(|error| match &error {
        ClientError::Problem(problem) if problem.code == Code::PeerHeld => {
            let helps = format!("if they agree: omnirelay mesh peers uncordon {name} --all");
            Failure::from(error).hint(helps)
        }
        _ => error.into(),
    })?;
    let mutated: Mutated = understand(&request.path, answer.body)?;
    if had_nothing_to_do(&mutated) {
        return unchanged(session, &mutated, &format!("{name} {already}"));
    }
    conclude(session, mutated, name, wait).await
}

impl ListArgs {
    fn request(self) -> Request {
        filtered(
            Request::get("/control/peers"),
            &[
                ("cluster", self.cluster),
                ("role", self.role),
                ("state", self.state.map(|state| state.to_string())),
                ("health", self.health.map(|health| health.to_string())),
                ("version", self.version),
                ("name", self.name),
                ("selector", self.selector),
            ],
        )
    }
}
