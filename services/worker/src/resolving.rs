//! `resolve`: somebody has looked at a stuck operation. It ends as failed; its lock, its slot and what it holds up are free again.
//! What it could not put back stays as it is, and stays named in its result.

use omnirelay_store::StoreError;
use omnirelay_workflow::Timestamp;
use omnirelay_workflow::drain::Change;
use omnirelay_workflow::operation::{Paused, State, Target};
use omnirelay_workflow::resource::DrainMark;
use serde_json::{Value, json};

use crate::batch::{Decided, end};
use crate::load::{Loaded, Workflow};
use crate::records::Records;

pub fn apply(
    op: &mut Loaded,
    records: &mut Records,
    decided: &mut Decided,
    now: Timestamp,
) -> Result<(), StoreError> {
    let resolve: Paused = op
        .work
        .resolve
        .as_deref()
        .map(serde_json::from_str)
        .transpose()
        .map_err(|error| StoreError::corrupt("a resolve", error))?
        .ok_or_else(|| StoreError::corrupt("a resolve", std::io::Error::other("it is not there")))?;
    let mut revisions = None;
    if let (Workflow::Drain(drain), Target::Peer(peer)) = (&op.workflow, &op.target) {
        let before = records.peers.get(peer).map(|peer| peer.revision);
        // Its hold stays: whether the peer may be scheduled again is for somebody to say, by an uncordon.
        if records.peers.get(peer).is_some_and(|peer| peer.mark == DrainMark::Draining) {
            records.change(op.work.row.id, peer, Change::Mark(DrainMark::None));
        }
        let mine: Vec<_> = drain.touched().cloned().collect();
        for workload in mine {
            let moving = records.workload(&workload).is_some_and(|r| r.workload.operation == Some(op.work.row.id));
            if moving {
                records.change(op.work.row.id, peer, Change::Settled { workload });
            }
        }
        let after = records.peers.get(peer).map(|peer| peer.revision);
        revisions = before.zip(after);
    }
    let mut result: Value = op
        .work
        .row
        .result
        .as_deref()
        .and_then(|text| serde_json::from_str(text).ok())
        .filter(Value::is_object)
        .unwrap_or_else(|| json!({}));
    if let Some(members) = result.as_object_mut() {
        members.insert("resolved".to_owned(), json!(resolve));
    }
    op.work.row.result = Some(result.to_string());
    let told = json!({ "result": result, "resolvedBy": resolve.by });
    end(&mut op.work, &op.actor, State::Failed, Some(told), revisions, &mut decided.log, now)
}
