//! Cordon and uncordon: one step, decided by the pure crate, carried out on the records.

use omnirelay_contract::audit::Actor;
use omnirelay_store::StoreError;
use omnirelay_store::operations::WorkRow;
use omnirelay_workflow::cordon;
use omnirelay_workflow::drain::Change;
use omnirelay_workflow::operation::{Progress, State, Verb};
use omnirelay_workflow::resource::{DrainMark, Hold, HoldKind};
use omnirelay_workflow::{PeerId, Timestamp};
use serde::Deserialize;
use serde_json::json;

use crate::batch::end;
use crate::events::{About, Log, detail};
use crate::lifecycle::refuse;
use crate::records::Records;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct UncordonParams {
    all: bool,
}

/// Whether it is one of these.
pub fn is_one(verb: Verb) -> bool {
    matches!(verb, Verb::PeersCordon | Verb::PeersUncordon)
}

/// Applies a quick verb; the operation ends with it.
pub fn apply(
    verb: Verb,
    work: &mut WorkRow,
    actor: &Actor,
    peer: &PeerId,
    records: &mut Records,
    log: &mut Log,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Some(record) = records.peers.get(peer) else {
        return Err(StoreError::corrupt("an operation's target", std::io::Error::other("there is no such peer")));
    };
    let before = record.revision;
    let decided = match verb {
        Verb::PeersCordon => {
            let hold = Hold {
                id: work.row.id,
                kind: HoldKind::Manual,
                owner: actor.subject.clone(),
                operation: Some(work.row.id),
                reason: work.row.reason.clone(),
                change_ticket: work.row.change_ticket.clone(),
                since: now,
            };
            Ok(cordon::cordon(&record.holds, hold).into_iter().map(Change::AddHold).collect::<Vec<_>>())
        }
        Verb::PeersUncordon => {
            let params: UncordonParams = serde_json::from_str(&work.row.params)
                .map_err(|error| StoreError::corrupt("an uncordon's parameters", error))?;
            let running = record.row.operation;
            cordon::uncordon(peer, &record.holds, &actor.subject, params.all, running).map(|removed| {
                let drained = record.mark == DrainMark::Drained
                    && record.holds.iter().any(|h| h.kind == HoldKind::Drain && removed.contains(&h.id));
                let mut changes: Vec<Change> = removed.into_iter().map(Change::RemoveHold).collect();
                if drained {
                    changes.push(Change::Mark(DrainMark::None));
                }
                changes
            })
        }
        _ => Ok(Vec::new()),
    };
    work.row.started_at = Some(now);
    work.row.progress = progress(decided.is_ok(), "peers");
    match decided {
        Ok(changes) => {
            work.row.changed = !changes.is_empty();
            for change in changes {
                records.change(work.row.id, peer, change);
            }
            let after = records.peers.get(peer).map_or(before, |record| record.revision);
            if work.row.changed {
                let what = if verb == Verb::PeersCordon { "cordoned" } else { "uncordoned" };
                let about = About { resource: "peers", id: peer.as_str(), what, outcome: what };
                work.row.state = State::Running.as_str().to_owned();
                log.add(work, actor, about, Some((before, after)), detail(json!({ "peer": peer })), now)?;
            }
            end(work, actor, State::Succeeded, None, Some((before, after)), log, now)
        }
        Err(rejected) => refuse(work, actor, &rejected, log, now),
    }
}

/// Of a verb that is done in one step.
pub fn progress(done: bool, unit: &str) -> String {
    let progress = Progress { done: u32::from(done), total: 1, in_flight: 0, failed: 0, unit: unit.to_owned() };
    serde_json::to_string(&progress).unwrap_or_else(|_| "{}".to_owned())
}
