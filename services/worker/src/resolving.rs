//! `resolve`: somebody has looked at a stuck operation. It ends as failed; its lock, its slot and what it holds up are free again.
//! What it could not put back stays as it is, and stays named in its result.

use omnirelay_store::StoreError;
use omnirelay_workflow::drain::Change;
use omnirelay_workflow::operation::{Paused, State, Target, Verb};
use omnirelay_workflow::resource::{ClusterState, DrainMark};
use omnirelay_workflow::{ClusterId, Timestamp};
use serde_json::{Value, json};

use crate::batch::{Decided, end};
use crate::events::{About, detail};
use crate::load::{Loaded, Workflow};
use crate::records::Records;

/// A promotion that was set aside on its way leaves clusters that are neither active nor passive, which nothing else could ever
/// change. They go back to what they were, under a further version, which the observer tells their agents.
fn back_to_before(
    op: &mut Loaded,
    records: &mut Records,
    decided: &mut Decided,
    now: Timestamp,
) -> Result<(), StoreError> {
    let named: Vec<ClusterId> = op.target.cluster().cloned().into_iter().chain(op.named()).collect();
    let mut stranded: Vec<(ClusterId, ClusterState)> = named
        .into_iter()
        .filter_map(|id| {
            let before = match records.clusters.get(&id)?.state {
                ClusterState::Promoting => ClusterState::Passive,
                ClusterState::Demoting => ClusterState::Active,
                ClusterState::Active | ClusterState::Passive => return None,
            };
            Some((id, before))
        })
        .collect();
    stranded.sort();
    stranded.dedup();
    if stranded.is_empty() {
        return Ok(());
    }
    records.mesh_version += 1;
    records.mesh_changed = true;
    let version = i64::try_from(records.mesh_version).unwrap_or(i64::MAX);
    for (id, before) in stranded {
        let old = records.clusters.get(&id).map_or(0, |cluster| cluster.row.revision);
        records.edit_cluster(&id, |cluster| {
            cluster.set_state(before);
            cluster.row.failover_version = version;
        });
        let about = About { resource: "clusters", id: id.as_str(), what: "changed", outcome: "changed" };
        let told = json!({ "cluster": id, "clusterState": before, "failoverVersion": version });
        decided.log.add(&mut op.work, &op.actor, about, Some((old, old + 1)), detail(told), now)?;
    }
    Ok(())
}

pub fn apply(op: &mut Loaded, records: &mut Records, decided: &mut Decided, now: Timestamp) -> Result<(), StoreError> {
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
    if matches!(op.verb, Verb::ClustersPromote | Verb::ClustersDemote) {
        back_to_before(op, records, decided, now)?;
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
