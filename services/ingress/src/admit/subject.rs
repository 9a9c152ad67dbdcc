//! What a request is about, found in the record: 404 where it is not there, and what stands in the way where something does.

use std::collections::BTreeMap;

use omnirelay_contract::problem::{Code, Problem};
use omnirelay_store::intake::PeerFacts;
use omnirelay_workflow::operation::Verb;
use omnirelay_workflow::patch::{self, PeerPatch};
use omnirelay_workflow::promote::{self, Cluster, Limits, World};
use omnirelay_workflow::resource::{ClusterState, DrainMark, Hold, Labels, PeerState, peer_state};
use omnirelay_workflow::selector::Selector;
use omnirelay_workflow::settings::Settings;
use omnirelay_workflow::{ClusterId, Rejected};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Record;
use crate::submission::{Asked, Frozen, Submission};

/// The subject of a request.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Nothing where it is not there yet.
    pub revision: Option<u64>,
    /// What a confirmation binds: the revision, or a fingerprint where there are several.
    pub bound: u64,
    /// 409, told after 412 and 422.
    pub in_the_way: Option<Box<Problem>>,
    /// What rules select by: each resource that is concerned.
    selectable: Vec<Selectable>,
    pub touches_rules: bool,
}

#[derive(Debug, Clone, Default)]
struct Selectable {
    labels: Labels,
    built_in: BTreeMap<&'static str, String>,
}

impl Found {
    /// Whether a rule's selector holds for any of the resources concerned.
    pub fn matches(&self, selector: &Selector) -> bool {
        self.selectable.iter().any(|one| selector.matches(&one.labels, |key| one.built_in.get(key).map(String::as_str)))
    }
}

pub fn find(submission: &Submission, record: Record<'_>) -> Result<Found, Box<Problem>> {
    let mut found = found(submission, record)?;
    // A rule is about what it selects before and after: a label can be neither taken away nor given behind its back.
    if !record.settings.settings.approvals.rules.is_empty()
        && let Some(labels) = labels_after(submission, &found)
    {
        let built_in = found.selectable.first().map(|one| one.built_in.clone()).unwrap_or_default();
        found.selectable.push(Selectable { labels, built_in });
    }
    Ok(found)
}

/// The labels that a patch or a put would leave.
fn labels_after(submission: &Submission, found: &Found) -> Option<Labels> {
    let before = found.selectable.first().map(|one| &one.labels)?;
    let wanted = || serde_json::from_str::<serde_json::Value>(&submission.params).ok()?.get("labels").cloned();
    match submission.verb {
        Verb::PeersPatch => {
            let patch = PeerPatch { labels: wanted(), metadata: None };
            patch::peer(before, &serde_json::json!({}), &patch).ok().map(|(labels, _)| labels)
        }
        Verb::PeersPut | Verb::ClustersPut => patch::checked_labels(&wanted().unwrap_or_default()).ok(),
        Verb::PeersCordon
        | Verb::PeersUncordon
        | Verb::PeersDrain
        | Verb::ClustersPromote
        | Verb::ClustersDemote
        | Verb::ConfigPatch
        | Verb::ConfigRollback => None,
    }
}

fn found(submission: &Submission, record: Record<'_>) -> Result<Found, Box<Problem>> {
    match &submission.asked {
        Asked::Peer => peer(submission, record),
        Asked::Many { peers, .. } => Ok(many(peers)),
        Asked::Missing(detail) => Err(not_found(detail.clone())),
        Asked::PutPeer { cluster, state, .. } => put_peer(submission, record, cluster.as_ref(), *state),
        Asked::Clusters(params) => clusters(params, record),
        Asked::PutCluster { state, .. } => Ok(put_cluster(submission, record, *state)),
        Asked::Config { patch, whole } => Ok(Found {
            revision: Some(record.facts.config),
            bound: record.facts.config,
            selectable: vec![Selectable::default()],
            touches_rules: *whole || patch.get("approvals").is_some(),
            ..Found::default()
        }),
    }
}

/// Whether it would change nothing, as far as that can be seen here; 422 for settings that cannot be.
pub fn unchanged(submission: &Submission, record: Record<'_>, found: &Found) -> Result<bool, Box<Problem>> {
    match &submission.asked {
        Asked::Peer => Ok(submission.verb == Verb::PeersDrain
            && record.facts.peer.as_ref().is_some_and(|peer| peer.drain_mark == DrainMark::Drained.as_str())),
        Asked::Many { peers, .. } => Ok(peers.is_empty()),
        Asked::Missing(_) => Ok(false),
        Asked::PutPeer { .. } | Asked::PutCluster { .. } => Ok(false),
        Asked::Clusters(params) => {
            let limits = limits(&record.settings.settings);
            let checked = promote::precheck(params, &limits, &world(params, record));
            Ok(found.in_the_way.is_none() && checked.is_ok_and(|checked| checked.clusters.is_empty()))
        }
        Asked::Config { patch, whole } => {
            let nothing = serde_json::json!({});
            let (current, patch) = if *whole { (patch, &nothing) } else { (&record.settings.value, patch) };
            let (after, _) = Settings::patched(current, patch).map_err(|wrong| {
                let problem = Problem::new(Code::InvalidSetting, wrong.to_string());
                Box::new(problem.with("key", wrong.key()).with("rule", wrong.rule()))
            })?;
            Ok(after == record.settings.value)
        }
    }
}

/// What the mesh asks of promotions now.
pub fn limits(settings: &Settings) -> Limits {
    Limits {
        min_healthy_percent: settings.promote.min_healthy_percent,
        max_lag_ms: settings.promote.max_replication_lag_ms,
        fence_timeout: settings.promote.fence_timeout,
    }
}

fn peer(submission: &Submission, record: Record<'_>) -> Result<Found, Box<Problem>> {
    let id = submission.about.id();
    let Some(peer) = &record.facts.peer else {
        return Err(not_found(format!("there is no peer {id}: `GET /control/peers` lists them")));
    };
    let locked = peer.locked_by.filter(|_| submission.verb == Verb::PeersDrain);
    let in_the_way = locked.map(|operation| {
        let resource = submission.target.clone();
        Box::new(Problem::from(&Rejected::OperationInProgress { resource, operation }))
    });
    Ok(Found {
        revision: Some(peer.revision),
        bound: peer.revision,
        in_the_way,
        selectable: vec![of_peer(&id, peer)],
        ..Found::default()
    })
}

fn many(peers: &[Frozen]) -> Found {
    let selectable = peers
        .iter()
        .map(|peer| Selectable {
            labels: peer.labels.clone(),
            built_in: BTreeMap::from([
                ("id", peer.id.to_string()),
                ("name", peer.name.clone()),
                ("cluster", peer.cluster.to_string()),
                ("role", peer.role.clone()),
                ("state", peer.state.clone()),
                ("health", peer.health.clone()),
            ]),
        })
        .collect();
    Found { bound: fingerprint(peers.iter().map(|peer| peer.id.as_str())), selectable, ..Found::default() }
}

fn put_peer(
    submission: &Submission,
    record: Record<'_>,
    cluster: Option<&ClusterId>,
    state: Option<PeerState>,
) -> Result<Found, Box<Problem>> {
    let id = submission.about.id();
    if let Some(cluster) = cluster.filter(|id| !record.clusters.iter().any(|known| known.id == **id)) {
        return Err(not_found(format!("there is no cluster {cluster}: PUT /control/clusters/{cluster} makes it")));
    }
    let Some(peer) = &record.facts.peer else {
        if cluster.is_none() {
            let detail = format!("peer {id} is new: say which cluster it belongs to");
            return Err(Box::new(Problem::new(Code::InvalidArgument, detail)));
        }
        let cluster = cluster.map(ToString::to_string).unwrap_or_default();
        return Ok(Found { selectable: vec![wanted(submission, &id, cluster)], ..Found::default() });
    };
    let in_the_way = if cluster.is_some_and(|cluster| cluster.as_str() != peer.cluster) {
        Some(format!("peer {id} belongs to cluster {}: a peer does not change its cluster", peer.cluster))
    } else {
        let known = state_of(peer);
        state.filter(|state| *state != known).map(|_| {
            format!("peer {id} is {known}: `state` is only for its creation; use :cordon, :uncordon or :drain")
        })
    };
    Ok(Found {
        revision: Some(peer.revision),
        bound: peer.revision,
        in_the_way: in_the_way.map(|detail| Box::new(Problem::new(Code::InvalidState, detail))),
        selectable: vec![of_peer(&id, peer), wanted(submission, &id, peer.cluster.clone())],
        ..Found::default()
    })
}

/// What a put is to make of its target: rules are about that as much as about what is there.
fn wanted(submission: &Submission, id: &str, cluster: String) -> Selectable {
    let body: Value = serde_json::from_str(&submission.params).unwrap_or(Value::Null);
    let labels = body.get("labels").and_then(|labels| serde_json::from_value(labels.clone()).ok()).unwrap_or_default();
    let mut built_in = BTreeMap::from([("id", id.to_owned()), ("cluster", cluster)]);
    for name in ["name", "role", "state"] {
        if let Some(text) = body.get(name).and_then(Value::as_str) {
            built_in.insert(name, text.to_owned());
        }
    }
    Selectable { labels, built_in }
}

fn clusters(params: &promote::Params, record: Record<'_>) -> Result<Found, Box<Problem>> {
    let mut found = Found::default();
    let mut revisions = Vec::new();
    for id in params.named() {
        let Some(cluster) = record.clusters.iter().find(|known| known.id == *id) else {
            return Err(not_found(format!("there is no cluster {id}: `GET /control/clusters` lists them")));
        };
        found.revision.get_or_insert(cluster.revision);
        revisions.push(format!("{id}@{}", cluster.revision));
        found.selectable.push(Selectable {
            labels: cluster.labels.clone(),
            built_in: BTreeMap::from([
                ("id", id.to_string()),
                ("cluster", id.to_string()),
                ("state", cluster.state.to_string()),
            ]),
        });
        if let Some(operation) = cluster.locked_by {
            let rejected = Rejected::OperationInProgress { resource: format!("clusters/{id}"), operation };
            found.in_the_way.get_or_insert_with(|| Box::new(Problem::from(&rejected)));
        }
    }
    found.bound = match revisions.len() {
        1 => found.revision.unwrap_or_default(),
        _ => fingerprint(revisions.iter().map(String::as_str)),
    };
    if found.in_the_way.is_none()
        && let Err(rejected) = promote::precheck(params, &limits(&record.settings.settings), &world(params, record))
    {
        found.in_the_way = Some(Box::new(Problem::from(&rejected)));
    }
    Ok(found)
}

fn put_cluster(submission: &Submission, record: Record<'_>, state: Option<ClusterState>) -> Found {
    let id = submission.about.id();
    let known = record.clusters.iter().find(|known| known.id.as_str() == id);
    let selectable = Selectable {
        labels: known.map(|known| known.labels.clone()).unwrap_or_default(),
        built_in: BTreeMap::from([("id", id.clone()), ("cluster", id.clone())]),
    };
    let in_the_way = known.zip(state).filter(|(known, state)| known.state != *state).map(|(known, _)| {
        let detail =
            format!("cluster {id} is {}: `state` is only for its creation; use :promote or :demote", known.state);
        Box::new(Problem::new(Code::InvalidState, detail))
    });
    Found {
        revision: known.map(|known| known.revision),
        bound: known.map_or(0, |known| known.revision),
        in_the_way,
        selectable: vec![selectable, wanted(submission, &id, id.clone())],
        ..Found::default()
    }
}

fn of_peer(id: &str, peer: &PeerFacts) -> Selectable {
    let labels = peer.labels.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let built_in = BTreeMap::from([
        ("id", id.to_owned()),
        ("name", peer.name.clone()),
        ("cluster", peer.cluster.clone()),
        ("role", peer.role.clone()),
        ("state", state_of(peer).to_string()),
        ("health", peer.health.clone()),
    ]);
    Selectable { labels, built_in }
}

fn state_of(peer: &PeerFacts) -> PeerState {
    let holds: Vec<Hold> = serde_json::from_str(&peer.holds).unwrap_or_default();
    peer_state(peer.drain_mark.parse().unwrap_or(DrainMark::None), &holds)
}

/// The mesh as the prechecks see it.
pub fn world(params: &promote::Params, record: Record<'_>) -> World {
    let named: Vec<&ClusterId> = params.named().collect();
    let clusters = record
        .clusters
        .iter()
        .filter(|cluster| named.contains(&&cluster.id))
        .map(|cluster| {
            let peers = record.peers.iter().filter(|peer| peer.cluster == cluster.id);
            let world = Cluster {
                state: cluster.state,
                failover_version: 0,
                lag_ms: cluster.lag_ms,
                peers: peers.map(|peer| (peer.peer.clone(), peer.health)).collect(),
            };
            (cluster.id.clone(), world)
        })
        .collect();
    let other_active = record
        .clusters
        .iter()
        .filter(|cluster| cluster.state == ClusterState::Active && !named.contains(&&cluster.id))
        .count();
    World { clusters, mesh_version: 0, other_active: other_active as u32, paused: None }
}

fn not_found(detail: String) -> Box<Problem> {
    Box::new(Problem::new(Code::NotFound, detail))
}

fn fingerprint<'a>(parts: impl Iterator<Item = &'a str>) -> u64 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let digest = hash.finalize();
    digest.iter().take(8).fold(0, |all, byte| (all << 8) | u64::from(*byte))
}
