//! What must be true before anything changes. Pure and without a trace, so that a plan can ask the same.

use std::collections::BTreeMap;

use super::{Aim, Check, Cluster, Limits, Override, Params, World};
use crate::resource::{ClusterState, Health};
use crate::{ClusterId, Rejected};

/// What a promotion that may begin will do.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Checked {
    /// The clusters that change; none where everything is as wished.
    pub clusters: BTreeMap<ClusterId, Aim>,
    /// What `force` has passed.
    pub overridden: Vec<Override>,
}

/// Whether a promotion may begin, and what it changes. A cluster that is as wished already is left alone.
pub fn precheck(params: &Params, limits: &Limits, world: &World) -> Result<Checked, Rejected> {
    let mut checked = Checked::default();
    for id in params.named() {
        let cluster = find(world, id)?;
        let aim = if params.promote.as_ref() == Some(id) { Aim::Promote } else { Aim::Demote };
        match cluster.state {
            ClusterState::Promoting | ClusterState::Demoting => {
                return Err(Rejected::ClusterInTransition { cluster: id.clone(), state: cluster.state });
            }
            state if state == aim.after() => {}
            ClusterState::Active | ClusterState::Passive => {
                checked.clusters.insert(id.clone(), aim);
            }
        }
    }
    if let Some(cluster) = last_active(params, &checked.clusters, world) {
        return Err(Rejected::LastActiveCluster { cluster });
    }
    if let Some(id) = params.promote.as_ref().filter(|id| checked.clusters.contains_key(*id)) {
        for (check, rejected) in fitness(id, find(world, id)?, limits) {
            if !params.force {
                return Err(rejected);
            }
            let message = match rejected {
                Rejected::NoCapacity { detail, .. } => detail,
                Rejected::LagTooHigh { lag_ms, limit_ms, .. } => {
                    format!("it is {lag_ms} ms behind, {limit_ms} ms are allowed")
                }
                other => other.to_string(),
            };
            checked.overridden.push(Override { check, subject: id.to_string(), message });
        }
    }
    Ok(checked)
}

/// The first of the clusters to be demoted, if no cluster would be active afterwards. A promotion leaves the one that it promotes.
pub(super) fn last_active(params: &Params, changing: &BTreeMap<ClusterId, Aim>, world: &World) -> Option<ClusterId> {
    let stays = |id: &ClusterId| match changing.get(id) {
        Some(Aim::Promote) => true,
        Some(Aim::Demote) => false,
        None => world.clusters.get(id).is_some_and(|cluster| cluster.state == ClusterState::Active),
    };
    if world.other_active > 0 || params.named().any(stays) {
        return None;
    }
    changing.iter().find(|(_, aim)| **aim == Aim::Demote).map(|(id, _)| id.clone())
}

fn find<'a>(world: &'a World, id: &ClusterId) -> Result<&'a Cluster, Rejected> {
    world.clusters.get(id).ok_or_else(|| Rejected::UnknownCluster { cluster: id.clone() })
}

/// What keeps a cluster from taking over.
fn fitness(id: &ClusterId, cluster: &Cluster, limits: &Limits) -> Vec<(Check, Rejected)> {
    let mut against = Vec::new();
    let (total, healthy) = (cluster.peers.len(), cluster.peers.iter().filter(|(_, h)| *h == Health::Healthy).count());
    let percent = limits.min_healthy_percent;
    if healthy == 0 || healthy * 100 < total * percent as usize {
        let detail = match (total, healthy) {
            (0, _) => "it has no peers".to_owned(),
            (_, 0) => format!("none of its {total} peers is healthy"),
            _ => format!("{healthy} of its {total} peers are healthy, {percent} % must be"),
        };
        against.push((Check::Health, Rejected::NoCapacity { cluster: id.clone(), detail }));
    }
    if let (Some(lag_ms), Some(limit_ms)) = (cluster.lag_ms, limits.max_lag_ms)
        && lag_ms > limit_ms
    {
        against.push((Check::Lag, Rejected::LagTooHigh { cluster: id.clone(), lag_ms, limit_ms }));
    }
    against
}
