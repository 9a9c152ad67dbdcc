//! What a promotion or a demotion would do.

use omnirelay_contract::rest::{ClusterImpact, FailoverImpact, Inverse};
use omnirelay_store::clusters::ClusterPeer;
use omnirelay_workflow::operation::{Blocker, BlockerCode};
use omnirelay_workflow::promote::{self, Aim, Checked, Limits, Params, World};
use omnirelay_workflow::resource::Health;
use omnirelay_workflow::{ClusterId, Timestamp};
use serde_json::json;

/// How many peers that are not reached are named one by one.
const NAMED: usize = 20;

/// The impact, and who would not be reached.
pub fn failover(
    params: &Params,
    limits: &Limits,
    world: &World,
    peers: &[ClusterPeer],
    checked: &Checked,
    now: Timestamp,
) -> (FailoverImpact, Vec<Blocker>) {
    let describe = |id: &ClusterId| {
        let cluster = world.clusters.get(id);
        let healthy = cluster.map_or(0, |c| c.peers.iter().filter(|(_, h)| *h == Health::Healthy).count());
        ClusterImpact {
            cluster: id.clone(),
            state: cluster.map(|cluster| cluster.state),
            peers: cluster.map_or(0, |cluster| cluster.peers.len() as u32),
            healthy_peers: healthy as u32,
            replication_lag_ms: cluster.and_then(|cluster| cluster.lag_ms),
        }
    };
    let concerned = peers.iter().filter(|peer| checked.clusters.contains_key(&peer.cluster));
    let unreachable: Vec<&ClusterPeer> = concerned.clone().filter(|peer| peer.health == Health::Unreachable).collect();
    let blockers = unreachable
        .iter()
        .take(NAMED)
        .map(|peer| Blocker {
            code: BlockerCode::PeerUnreachable,
            subject: peer.peer.to_string(),
            message: "it cannot be fenced now, and is told at its next heartbeat before anything else".to_owned(),
            since: now,
        })
        .collect();
    let impact = FailoverImpact {
        promote: params.promote.as_ref().map(describe),
        demote: params.demote.iter().map(describe).collect(),
        max_replication_lag_ms: limits.max_lag_ms,
        min_healthy_percent: limits.min_healthy_percent,
        fence: (concerned.count() - unreachable.len()) as u32,
        unreachable: unreachable.iter().map(|peer| peer.peer.clone()).collect(),
        active_after: world.other_active + u32::from(params.promote.is_some()),
        overridden: checked.overridden.iter().map(|one| format!("{}: {}", one.subject, one.message)).collect(),
        changed: !checked.clusters.is_empty(),
        inverse: promote::inverse(&changing(checked)).as_ref().and_then(inverse),
    };
    (impact, blockers)
}

/// Without the clusters that are as wished already: undoing it is not to touch them.
fn changing(checked: &Checked) -> Params {
    let of = |aim: Aim| checked.clusters.iter().filter(move |(_, is)| **is == aim).map(|(id, _)| id.clone());
    Params { promote: of(Aim::Promote).next(), demote: of(Aim::Demote).collect(), force: false }
}

/// The request that undoes a promotion after its cutover.
pub fn inverse(params: &Params) -> Option<Inverse> {
    let (cluster, action, body) = match (&params.promote, params.demote.as_slice()) {
        (Some(cluster), demote) => (cluster, "promote", json!({ "demote": demote })),
        (None, [cluster]) => (cluster, "demote", json!({})),
        (None, _) => return None,
    };
    Some(Inverse { method: "POST".to_owned(), path: format!("/control/clusters/{cluster}:{action}"), body })
}
