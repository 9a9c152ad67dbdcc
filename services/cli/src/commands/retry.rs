//! `ops retry`: what an ended operation was asked to do, asked again under a new key, with a new plan and confirmation.
//!
//! Of a drain of many only what did not succeed is asked for again, by name: the selector may match others by now.

use clap::Args;
use omnirelay_contract::rest::{
    BulkDrainBody, Config, CordonBody, DemoteBody, DrainBody, Humantime, Mutated, Operation, PatchPeerBody, Peer,
    PromoteBody, UncordonBody,
};
use omnirelay_contract::workflow::operation::Verb;
use omnirelay_contract::workflow::{ClusterId, PeerId};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;
use uuid::Uuid;

use super::conclude::{WaitArgs, conclude, display_name, had_nothing_to_do, unchanged};
use super::config::ChangeArgs;
use super::confirmed::AskArgs;
use super::{WhyArgs, bulk, config, confirmed, drain, label, promote};
use crate::client::{Request, understand};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::follow::around;
use crate::follow::bulk::is_bulk;
use crate::resolve;
use crate::session::{GlobalArgs, Session};

#[derive(Debug, Args)]
pub struct RetryArgs {
    #[arg(help = super::ops::MEANT)]
    operation: String,
    /// Of a drain of many: only the peers that failed, not those that were cancelled, skipped or never begun
    #[arg(long)]
    failed: bool,
    #[command(flatten)]
    why: WhyArgs,
    #[command(flatten)]
    ask: AskArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

pub async fn run(args: RetryArgs, global: &GlobalArgs) -> Result<Exit, Failure> {
    args.ask.require_terminal("a retry")?;
    let session = Session::open(global).await?;
    let operation = resolve::operation(&session.client, &args.operation).await?;
    let id = resolve::short(operation.id);
    if !operation.state.is_terminal() {
        return Err(Failure::new(
            Exit::Refused,
            format!("{id} is {}: there is nothing to try again yet", operation.state),
        )
        .hint(format!("follow it: omnirelay ops attach {id}")));
    }
    if args.failed && !is_bulk(&operation) {
        return Err(Failure::new(
            Exit::Usage,
            format!("--failed is for drains of many; {id} is of {}", operation.target),
        ));
    }
    // Why it was asked for is still why, unless something else is said.
    let why = WhyArgs {
        reason: args.why.reason.clone().or_else(|| operation.reason.clone()),
        ticket: args.why.ticket.clone().or_else(|| operation.change_ticket.clone()),
    };
    let params = Params(&operation.params);
    let (ask, wait) = (&args.ask, &args.wait);
    match operation.verb {
        Verb::PeersDrain if is_bulk(&operation) => {
            let peers = left(&operation, args.failed);
            if peers.is_empty() {
                return Err(Failure::new(Exit::Refused, format!("no peer of {id} is left to try again")));
            }
            Box::pin(bulk::of_many(&session, params.bulk(peers, why), ask, wait)).await
        }
        Verb::PeersDrain => {
            let peer: Peer = session.client.get(&format!("/control/{}", operation.target)).await?;
            Box::pin(drain::of_one(&session, &peer, params.drain(why), ask, wait)).await
        }
        Verb::PeersCordon => {
            let body = CordonBody { reason: why.reason, change_ticket: why.ticket, gate: None };
            quick(&session, &operation, confirmed::json(&body)?, wait).await
        }
        Verb::PeersUncordon => {
            let all = params.is("all");
            let body = UncordonBody { reason: why.reason, change_ticket: why.ticket, all, gate: None };
            quick(&session, &operation, confirmed::json(&body)?, wait).await
        }
        Verb::PeersPatch => {
            let peer: Peer = session.client.get(&format!("/control/{}", operation.target)).await?;
            let body = PatchPeerBody {
                reason: why.reason,
                change_ticket: why.ticket,
                labels: operation.params.get("labels").cloned(),
                metadata: operation.params.get("metadata").cloned(),
                gate: None,
            };
            label::patched(&session, peer, &body, wait).await
        }
        Verb::ClustersPromote => {
            let cluster = cluster_of(&operation)?;
            let demote = params.get::<Vec<ClusterId>>("demote").unwrap_or_default();
            let force = params.is("force");
            let (reason, change_ticket) = (why.reason, why.ticket);
            let body = PromoteBody { reason, change_ticket, demote, force, gate: None, confirmation: None };
            promote::promoted(&session, &cluster, body, ask, wait).await
        }
        Verb::ClustersDemote => {
            let cluster = cluster_of(&operation)?;
            let (reason, change_ticket) = (why.reason, why.ticket);
            let body = DemoteBody { reason, change_ticket, force: params.is("force"), gate: None, confirmation: None };
            promote::demoted(&session, &cluster, body, ask, wait).await
        }
        Verb::ConfigPatch => {
            let how = ChangeArgs { why, ask: ask.clone(), wait: wait.clone() };
            let current: Config = session.client.get("/control/config").await?;
            let patch = operation.params.get("settings").unwrap_or(&operation.params).clone();
            config::changed(&session, &current, patch, &how).await
        }
        Verb::ConfigRollback => {
            let how = ChangeArgs { why, ask: ask.clone(), wait: wait.clone() };
            let revision = params.get::<u64>("revision");
            let revision = revision.ok_or_else(|| Failure::error(format!("{id} does not say to which revision")))?;
            config::rolled_back(&session, revision, &how).await
        }
        Verb::PeersPut | Verb::ClustersPut => Err(Failure::new(
            Exit::Refused,
            format!("{id} wrote a whole {}: say again what it is to be", operation.target),
        )
        .hint("omnirelay mesh apply -f FILE")),
    }
}

/// Of the frozen list what failed, or all that did not succeed.
fn left(operation: &Operation, failed: bool) -> Vec<PeerId> {
    let lists: &[&str] = if failed { &["failed"] } else { &["failed", "cancelled", "skipped", "notStarted"] };
    around::peers_in(operation, lists).iter().filter_map(|peer| PeerId::parse(peer).ok()).collect()
}

async fn quick(session: &Session, operation: &Operation, body: Value, wait: &WaitArgs) -> Result<Exit, Failure> {
    let peer: Peer = session.client.get(&format!("/control/{}", operation.target)).await?;
    let path = format!("/control/{}:{}", operation.target, operation.verb.action());
    let request = Request::post(path, &Uuid::new_v4().to_string(), body);
    let answer = session.client.send(&request).await?;
    let mutated: Mutated = understand(&request.path, answer.body)?;
    if had_nothing_to_do(&mutated) {
        return unchanged(session, &mutated, &format!("{} is like that already", display_name(&peer)));
    }
    conclude(session, mutated, display_name(&peer), wait).await
}

fn cluster_of(operation: &Operation) -> Result<ClusterId, Failure> {
    let id = operation.target.strip_prefix("clusters/").unwrap_or(&operation.target);
    ClusterId::parse(id).map_err(|error| Failure::error(error.to_string()))
}

/// Parameters as an operation keeps them: the request's, completed by what held when it was submitted.
struct Params<'a>(&'a Value);

impl Params<'_> {
    fn get<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_value(self.0.get(name)?.clone()).ok()
    }

    fn is(&self, name: &str) -> bool {
        self.get(name).unwrap_or(false)
    }

    /// `deadlineSecs`, or `deadline` as in a request.
    fn duration(&self, name: &str) -> Option<Humantime> {
        let secs = self.get::<u64>(&format!("{name}Secs")).filter(|secs| *secs > 0);
        secs.map(|secs| Humantime(Duration::from_secs(secs))).or_else(|| self.get(name))
    }

    fn drain(&self, why: WhyArgs) -> DrainBody {
        DrainBody {
            reason: why.reason,
            change_ticket: why.ticket,
            deadline: self.duration("deadline"),
            on_deadline: self.get("onDeadline"),
            max_concurrent: self.get("maxConcurrent"),
            keep_moved: self.is("keepMoved"),
            gate: None,
            confirmation: None,
        }
    }

    /// Each peer's own parameters may be kept below `drain`.
    fn bulk(&self, peers: Vec<PeerId>, why: WhyArgs) -> BulkDrainBody {
        let each = Params(self.0.get("drain").unwrap_or(self.0));
        let nested = self.0.get("drain").is_some();
        let moves = if nested { each.get("maxConcurrent") } else { self.get("maxConcurrentMoves") };
        // A canary of all would leave nothing for after it.
        let canary = self.get::<u32>("canary").filter(|canary| *canary > 0 && (*canary as usize) < peers.len());
        BulkDrainBody {
            reason: why.reason,
            change_ticket: why.ticket,
            selector: None,
            max_concurrent: self.get("maxConcurrent"),
            soak: canary.and_then(|_| self.duration("soak")),
            canary,
            max_failures: self.get("maxFailures"),
            deadline: each.duration("deadline"),
            on_deadline: each.get("onDeadline"),
            max_concurrent_moves: moves,
            keep_moved: each.is("keepMoved"),
            gate: None,
            confirmation: None,
            peers: Some(peers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bulk(params: &Value, peers: usize) -> Value {
        let peers = (0..peers).map(|n| PeerId::parse(&format!("p-{n}")).expect("id")).collect();
        serde_json::to_value(Params(params).bulk(peers, WhyArgs::default())).expect("json")
    }

    #[test]
    fn the_same_parameters_for_the_peers_that_are_left() {
        let flat = json!({"selector": "a=b", "maxConcurrent": 4, "canary": 2, "soakSecs": 600, "maxFailures": 1,
            "deadlineSecs": 1_800, "onDeadline": "cancel", "maxConcurrentMoves": 3, "keepMoved": true});
        let expected = json!({"peers": ["p-0", "p-1", "p-2"], "maxConcurrent": 4, "canary": 2, "soak": "10m",
            "maxFailures": 1, "deadline": "30m", "onDeadline": "cancel", "maxConcurrentMoves": 3, "keepMoved": true});
        assert_eq!(bulk(&flat, 3), expected);
        let nested = json!({"maxConcurrent": 4, "canary": 2, "soakSecs": 600, "maxFailures": 1, "drain":
            {"deadlineSecs": 1_800, "onDeadline": "cancel", "maxConcurrent": 3, "keepMoved": true}});
        assert_eq!(bulk(&nested, 3), expected);
        assert_eq!(bulk(&json!({"canary": 2, "soakSecs": 60}), 1), json!({"peers": ["p-0"]}));
    }

    #[test]
    fn what_is_left_of_many() {
        let mut operation = crate::testing::operation(omnirelay_contract::workflow::operation::State::Failed);
        operation.result = Some(json!({"succeeded": ["p-1"], "failed": [{"peer": "p-2", "state": "failed"}],
            "skipped": [{"peer": "p-3", "why": "locked"}], "cancelled": ["p-4"], "notStarted": ["p-5"]}));
        let check = |failed: bool, expected: &[&str]| {
            let left: Vec<String> = left(&operation, failed).iter().map(ToString::to_string).collect();
            assert_eq!(left, expected);
        };
        check(true, &["p-2"]);
        check(false, &["p-2", "p-4", "p-3", "p-5"]);
    }

    #[test]
    fn a_drain_as_it_was() {
        let params = json!({"deadlineSecs": 60, "onDeadline": "hold", "maxConcurrent": 4, "keepMoved": false,
            "commandTtlSecs": 30});
        let body = serde_json::to_value(Params(&params).drain(WhyArgs::default())).expect("json");
        assert_eq!(body, json!({"deadline": "1m", "onDeadline": "hold", "maxConcurrent": 4}));
    }
}
