//! Patches and puts of peers and clusters, and edits of the settings: one step each, on the records.

use omnirelay_contract::audit::Actor;
use omnirelay_contract::rest::{PutClusterBody, PutPeerBody};
use omnirelay_store::StoreError;
use omnirelay_store::clusters::ClusterRecord;
use omnirelay_store::config::NewConfig;
use omnirelay_store::operations::WorkRow;
use omnirelay_store::reads::{ClusterRow, PeerRow};
use omnirelay_store::registry::PeerRecord;
use omnirelay_workflow::operation::{State, Target, Verb};
use omnirelay_workflow::patch::{self, PeerPatch};
use omnirelay_workflow::resource::{ClusterState, DrainMark, Hold, HoldKind, PeerState, peer_state};
use omnirelay_workflow::settings::{Settings, changes};
use omnirelay_workflow::{ClusterId, PeerId, Rejected, Timestamp};
use serde_json::{Value, json};

use crate::batch::end;
use crate::events::{About, Log, detail};
use crate::lifecycle::refuse;
use crate::quick::progress;
use crate::records::Records;
use crate::telling::text;

/// What an edit came to.
struct Edited {
    changed: bool,
    before: u64,
    after: u64,
    /// What the event of the resource tells.
    told: Value,
    result: Option<Value>,
}

/// Applies an edit; the operation ends with it.
pub fn apply(
    verb: Verb,
    work: &mut WorkRow,
    actor: &Actor,
    target: &Target,
    records: &mut Records,
    log: &mut Log,
    now: Timestamp,
) -> Result<(), StoreError> {
    work.row.started_at = Some(now);
    let edited = match target {
        Target::Peer(peer) if verb == Verb::PeersPut => put_peer(work, actor, peer, records, now)?,
        Target::Peer(peer) => patch_peer(work, peer, records)?,
        Target::Cluster(cluster) => put_cluster(work, cluster, records)?,
        Target::Settings => settings(verb, work, actor, records)?,
        Target::Many(_) => Err(Rejected::NotPossible { detail: "a bulk operation edits nothing".to_owned() }),
    };
    let edited = match edited {
        Ok(edited) => edited,
        Err(rejected) => return refuse(work, actor, &rejected, log, now),
    };
    work.row.progress = progress(true, target.resource());
    work.row.changed = edited.changed;
    work.row.result = edited.result.map(|result| result.to_string());
    let signed = |revision: u64| i64::try_from(revision).unwrap_or(i64::MAX);
    let revisions = Some((signed(edited.before), signed(edited.after)));
    if edited.changed {
        let id = target.id();
        let about = About { resource: target.resource(), id: &id, what: "changed", outcome: "changed" };
        work.row.state = State::Running.as_str().to_owned();
        log.add(work, actor, about, revisions, detail(edited.told), now)?;
    }
    end(work, actor, State::Succeeded, None, revisions, log, now)
}

fn patch_peer(work: &WorkRow, id: &PeerId, records: &mut Records) -> Result<Result<Edited, Rejected>, StoreError> {
    let Some(record) = records.peers.get(id) else { return Ok(Err(gone(id))) };
    let params: Value = parsed("a patch's parameters", &work.row.params)?;
    let wanted = PeerPatch { labels: params.get("labels").cloned(), metadata: params.get("metadata").cloned() };
    let (old_labels, old_metadata) =
        (parsed("a peer's labels", &record.row.labels)?, parsed::<Value>("a peer's metadata", &record.row.metadata)?);
    let (labels, metadata) = match patch::peer(&old_labels, &old_metadata, &wanted) {
        Ok(after) => after,
        Err(wrong) => return Ok(Err(Rejected::InvalidChange { detail: wrong.to_string() })),
    };
    let before = record.revision;
    let changed = labels != old_labels || metadata != old_metadata;
    if changed {
        let (labels, metadata) = (text("labels", &labels)?, text("metadata", &metadata)?);
        records.edit_peer(id, |peer| {
            peer.row.labels = labels;
            peer.row.metadata = metadata;
        });
    }
    let after = records.peers.get(id).map_or(before, |record| record.revision);
    let told = json!({ "peer": id, "before": {"labels": old_labels, "metadata": old_metadata},
                       "after": {"labels": labels, "metadata": metadata} });
    Ok(Ok(Edited { changed, before: before.unsigned_abs(), after: after.unsigned_abs(), told, result: None }))
}

fn put_peer(
    work: &WorkRow,
    actor: &Actor,
    id: &PeerId,
    records: &mut Records,
    now: Timestamp,
) -> Result<Result<Edited, Rejected>, StoreError> {
    let body: PutPeerBody = parsed("a put's parameters", &work.row.params)?;
    let name = body
        .name
        .clone()
        .unwrap_or_else(|| records.peers.get(id).map_or_else(|| id.to_string(), |record| record.row.name.clone()));
    if records.names.get(&name).is_some_and(|owner| owner != id.as_str()) {
        return Ok(Err(Rejected::NotPossible { detail: format!("another peer is called {name}: names are unique") }));
    }
    let labels = text("labels", &body.labels)?;
    let metadata = text("metadata", &body.metadata.clone().unwrap_or_else(|| json!({})))?;
    let Some(record) = records.peers.get(id) else {
        let Some(cluster) = body.cluster.clone() else {
            return Ok(Err(Rejected::InvalidChange { detail: format!("peer {id} is new: say its cluster") }));
        };
        let holds = match body.state {
            Some(PeerState::Cordoned) => vec![Hold {
                id: work.row.id,
                kind: HoldKind::Manual,
                owner: actor.subject.clone(),
                operation: Some(work.row.id),
                reason: work.row.reason.clone(),
                change_ticket: work.row.change_ticket.clone(),
                since: now,
            }],
            _ => Vec::new(),
        };
        let row = PeerRow {
            id: id.to_string(),
            name: name.clone(),
            cluster: cluster.to_string(),
            role: body.role.unwrap_or_default(),
            address: body.address.unwrap_or_default(),
            labels,
            metadata,
            capacity: body.capacity.and_then(|n| i32::try_from(n).ok()).unwrap_or(0),
            holds: "[]".to_owned(),
            drain_mark: DrainMark::None.to_string(),
            revision: 1,
            health: None,
            version: None,
            last_seen: None,
            operation: None,
            workloads: 0,
        };
        let record = PeerRecord { id: id.clone(), cluster, holds, mark: DrainMark::None, revision: 1, row };
        records.names.insert(name, id.to_string());
        records.new_peer(record);
        let told = json!({ "peer": id, "created": true });
        return Ok(Ok(Edited { changed: true, before: 0, after: 1, told, result: Some(json!({ "created": true })) }));
    };
    // Somebody else may have made it meanwhile.
    if body.cluster.as_ref().is_some_and(|cluster| *cluster != record.cluster) {
        let detail = format!("peer {id} belongs to cluster {}: a peer does not change its cluster", record.cluster);
        return Ok(Err(Rejected::NotPossible { detail }));
    }
    let known = peer_state(record.mark, &record.holds);
    if body.state.is_some_and(|state| state != known) {
        let detail =
            format!("peer {id} is {known}: `state` is only for its creation; use :cordon, :uncordon or :drain");
        return Ok(Err(Rejected::NotPossible { detail }));
    }
    let before = record.revision;
    let old = record.row.clone();
    let mut new = old.clone();
    new.name = name;
    new.role = body.role.unwrap_or_default();
    new.labels = labels;
    new.metadata = metadata;
    if let Some(address) = body.address {
        new.address = address;
    }
    if let Some(capacity) = body.capacity {
        new.capacity = i32::try_from(capacity).unwrap_or(i32::MAX);
    }
    let same = |a: &str, b: &str| parsed::<Value>("json", a).ok() == parsed::<Value>("json", b).ok();
    let changed = (&old.name, &old.role, &old.address, old.capacity)
        != (&new.name, &new.role, &new.address, new.capacity)
        || !same(&old.labels, &new.labels)
        || !same(&old.metadata, &new.metadata);
    if changed {
        // Names are unique within a batch, too.
        records.names.remove(&old.name);
        records.names.insert(new.name.clone(), id.to_string());
        records.edit_peer(id, |peer| peer.row = PeerRow { revision: peer.row.revision, ..new });
    }
    let after = records.peers.get(id).map_or(before, |record| record.revision);
    let told = json!({ "peer": id, "created": false });
    Ok(Ok(Edited {
        changed,
        before: before.unsigned_abs(),
        after: after.unsigned_abs(),
        told,
        result: Some(json!({ "created": false })),
    }))
}

fn put_cluster(work: &WorkRow, id: &ClusterId, records: &mut Records) -> Result<Result<Edited, Rejected>, StoreError> {
    let body: PutClusterBody = parsed("a put's parameters", &work.row.params)?;
    let max_unavailable = body.max_unavailable.as_ref().map(|amount| match amount {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    let labels = text("labels", &body.labels)?;
    let Some(record) = records.clusters.get(id) else {
        let state = body.state.unwrap_or(ClusterState::Passive);
        let row = ClusterRow {
            id: id.to_string(),
            region: body.region.unwrap_or_default(),
            priority: body.priority.unwrap_or(0),
            state: state.to_string(),
            failover_version: i64::try_from(records.mesh_version).unwrap_or(i64::MAX),
            replication_lag_ms: None,
            max_unavailable,
            labels,
            revision: 1,
            operation: None,
            peers: 0,
            healthy_peers: 0,
        };
        records.new_cluster(ClusterRecord { id: id.clone(), state, row });
        let told = json!({ "cluster": id, "clusterState": state, "created": true });
        return Ok(Ok(Edited { changed: true, before: 0, after: 1, told, result: Some(json!({ "created": true })) }));
    };
    if let Some(state) = body.state.filter(|state| *state != record.state) {
        let detail = format!("cluster {id} is {}, not {state}: use :promote or :demote", record.state);
        return Ok(Err(Rejected::NotPossible { detail }));
    }
    let before = record.row.revision;
    let old = record.row.clone();
    let same = |a: &str, b: &str| parsed::<Value>("json", a).ok() == parsed::<Value>("json", b).ok();
    let (region, priority) = (body.region.unwrap_or_default(), body.priority.unwrap_or(0));
    let changed = (&old.region, old.priority, &old.max_unavailable) != (&region, priority, &max_unavailable)
        || !same(&old.labels, &labels);
    if changed {
        records.edit_cluster(id, |cluster| {
            cluster.row.region = region;
            cluster.row.priority = priority;
            cluster.row.max_unavailable = max_unavailable;
            cluster.row.labels = labels;
        });
    }
    let after = records.clusters.get(id).map_or(before, |record| record.row.revision);
    let told = json!({ "cluster": id, "created": false });
    Ok(Ok(Edited {
        changed,
        before: before.unsigned_abs(),
        after: after.unsigned_abs(),
        told,
        result: Some(json!({ "created": false })),
    }))
}

fn settings(
    verb: Verb,
    work: &WorkRow,
    actor: &Actor,
    records: &mut Records,
) -> Result<Result<Edited, Rejected>, StoreError> {
    let params: Value = parsed("an edit's parameters", &work.row.params)?;
    let Some(config) = &records.config else {
        return Err(StoreError::corrupt("the settings", std::io::Error::other("they were not loaded")));
    };
    let nothing = json!({});
    let (base, patch) = match verb {
        Verb::ConfigRollback => {
            let wanted = params.get("revision").and_then(Value::as_u64).unwrap_or(0);
            match records.revisions.get(&wanted) {
                Some(value) => (value, &nothing),
                None => {
                    let detail = format!("there is no revision {wanted} of the settings");
                    return Ok(Err(Rejected::NotPossible { detail }));
                }
            }
        }
        _ => (&config.value, params.get("settings").unwrap_or(&nothing)),
    };
    let (after, settings) = match Settings::patched(base, patch) {
        Ok(after) => after,
        Err(wrong) => {
            return Ok(Err(Rejected::InvalidSetting {
                detail: wrong.to_string(),
                key: wrong.key().to_owned(),
                rule: wrong.rule().to_owned(),
            }));
        }
    };
    let before = config.revision;
    let changed = after != config.value;
    let told = json!({ "revisionBefore": before, "revision": if changed { before + 1 } else { before },
                       "changes": changes(&config.value, &after) });
    let result = json!({ "revisionBefore": before, "revision": if changed { before + 1 } else { before } });
    if changed {
        let new = NewConfig {
            revision: before + 1,
            settings: text("the settings", &after)?,
            actor: actor.subject.clone(),
            operation: work.row.id,
            reason: work.row.reason.clone(),
            change_ticket: work.row.change_ticket.clone(),
        };
        records.new_settings(new, after, settings);
    }
    let revision = if changed { before + 1 } else { before };
    Ok(Ok(Edited { changed, before, after: revision, told, result: Some(result) }))
}

fn gone(id: &PeerId) -> Rejected {
    Rejected::NotPossible { detail: format!("there is no peer {id} any more") }
}

fn parsed<T: serde::de::DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::corrupt(what, error))
}
