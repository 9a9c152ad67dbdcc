//! What comes after a mutation was taken: leave, or follow; then say how it ended, and end with that code.

use std::time::Duration;

use clap::Args;
use omnirelay_contract::rest::{Mutated, Operation};
use omnirelay_contract::workflow::operation::State;

use super::confirmed::Taken;
use super::duration;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::follow::around;
use crate::follow::bulk::is_bulk;
use crate::follow::outcome::{self, Leave};
use crate::follow::{self, Followed, screen};
use crate::output::{self, Format, note};
use crate::session::Session;

/// The outcome is known; its resource is worth this much more.
const RESOURCE_WITHIN: Duration = Duration::from_secs(3);

/// A gate opens in the first step of an operation: it is worth this much to leave with the code that says so.
const GATE_WITHIN: Duration = Duration::from_secs(3);

/// How long to stay.
#[derive(Debug, Clone, Default, Args)]
pub struct WaitArgs {
    /// Leave as soon as the operation is taken (exit 10, or 15 where it waits for approval)
    #[arg(long, visible_alias = "no-wait")]
    pub detach: bool,
    /// Leave after this long (exit 10); the operation goes on
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "detach")]
    pub wait_timeout: Option<Duration>,
}

/// Follows the operation of an answer to its end and reports it. `name` is what the target is called.
pub async fn conclude(session: &Session, mutated: Mutated, name: &str, wait: &WaitArgs) -> Result<Exit, Failure> {
    let Mutated { operation, resource, changed } = mutated;
    let followed = if operation.state.is_terminal() {
        Followed::Ended(operation)
    } else if wait.detach {
        Followed::Left(operation, Leave::Asked)
    } else {
        follow::follow(session, operation, wait.wait_timeout).await?
    };
    let (operation, resource) = match followed {
        Followed::Ended(operation) => {
            let audit = follow::audit_seq(&session.client, &operation).await;
            let failed = around::failed(&session.client, &operation).await;
            for line in outcome::lines(&operation, name, audit, &failed) {
                note(&screen::colour(&line));
            }
            // As it is now: the answer's was taken before anything was done.
            let path = match operation.target.as_str() {
                "config/settings" => "/control/config".to_owned(),
                target => format!("/control/{target}"),
            };
            let now = tokio::time::timeout(RESOURCE_WITHIN, session.client.get(&path)).await;
            (operation, now.ok().and_then(Result::ok).or(resource))
        }
        Followed::Left(operation, why) => {
            note(&outcome::detached(&operation, name, why));
            (operation, resource)
        }
    };
    let exit = Exit::of_operation(&operation);
    document(session, &Mutated { operation, resource, changed })?;
    Ok(exit)
}

/// The operation of a taken request; where this side is about to leave and the plan has a gate, as it is once that is open.
pub async fn settle_gate(session: &Session, taken: Taken, wait: &WaitArgs) -> Mutated {
    let Taken { mut mutated, gated } = taken;
    if !wait.detach || !gated {
        return mutated;
    }
    let path = format!("/control/operations/{}", mutated.operation.id);
    let opened = async {
        while mutated.operation.state == State::Submitted {
            tokio::time::sleep(Duration::from_millis(100)).await;
            match session.client.get::<Operation>(&path).await {
                Ok(operation) => mutated.operation = operation,
                // It is taken, whatever can be read of it.
                Err(_) => return,
            }
        }
    };
    let _ = tokio::time::timeout(GATE_WITHIN, opened).await;
    mutated
}

/// Whether the operation is over and had nothing to do. One that goes on has changed nothing *yet*.
pub fn had_nothing_to_do(mutated: &Mutated) -> bool {
    mutated.operation.state.is_terminal() && !mutated.changed
}

/// Says that nothing had to be done.
pub fn unchanged(session: &Session, mutated: &Mutated, why: &str) -> Result<Exit, Failure> {
    note(&format!("nothing to do: {why}"));
    document(session, mutated)?;
    Ok(Exit::Succeeded)
}

/// What the target of an operation is called: its name where it can be read, else its id; the operation's own tail where it is of
/// many peers.
pub async fn target_name(session: &Session, operation: &Operation) -> String {
    if is_bulk(operation) {
        return crate::resolve::short(operation.id);
    }
    let id = operation.target.split_once('/').map_or(operation.target.as_str(), |(_, id)| id);
    if !operation.target.starts_with("peers/") {
        return id.to_owned();
    }
    match session.client.get::<omnirelay_contract::rest::Peer>(&format!("/control/{}", operation.target)).await {
        Ok(peer) => display_name(&peer).to_owned(),
        Err(_) => id.to_owned(),
    }
}

/// The free name, or the id where there is none.
pub fn display_name(peer: &omnirelay_contract::rest::Peer) -> &str {
    if peer.name.is_empty() { peer.id.as_str() } else { &peer.name }
}

/// The answer of a mutation, for programs. People have had their line.
fn document(session: &Session, mutated: &Mutated) -> Result<(), Failure> {
    match session.format {
        Format::Json | Format::Yaml => output::document(session.format, mutated),
        Format::Table | Format::Wide => Ok(()),
    }
}
