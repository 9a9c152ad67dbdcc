//! What a drain would do: a pure function of the registry as it is read, with the worker's own placement.

use std::collections::BTreeMap;

use omnirelay_contract::rest::{DrainImpact, Peer, PlannedMove, Workload};
use omnirelay_workflow::operation::{Blocker, BlockerCode};
use omnirelay_workflow::placement::{Candidate, NoCapacity, place};
use omnirelay_workflow::resource::{Handover, Health};
use omnirelay_workflow::{PeerId, Timestamp};

/// The impact, and what the drain would have to wait for. Moves are placed one after the other; what each is promised counts
/// for the next, so that the plan does not send everything to one peer.
pub fn drain(
    peer: &Peer,
    workloads: &[Workload],
    candidates: &[Candidate],
    now: Timestamp,
) -> (DrainImpact, Vec<Blocker>) {
    let mut blockers = Vec::new();
    let mut blocked = |code, subject: String, message: String| {
        blockers.push(Blocker { code, subject, message, since: now });
    };
    if peer.health == Health::Unreachable {
        let message = "its agent is not heard of: nothing can be released there until it is".to_owned();
        blocked(BlockerCode::PeerUnreachable, peer.id.to_string(), message);
    }
    let mut promised: BTreeMap<PeerId, u32> = BTreeMap::new();
    let mut moves = Vec::with_capacity(workloads.len());
    for workload in workloads {
        let target = match workload.handover {
            Handover::ReleaseOnly => None,
            Handover::StartFirst | Handover::StopFirst => {
                match place(candidates, &peer.id, &promised, workload.load, &workload.labels, &[]) {
                    Ok(target) => Some(target.clone()),
                    Err(NoCapacity(why)) => {
                        blocked(BlockerCode::NoCapacity, workload.id.to_string(), why);
                        None
                    }
                }
            }
        };
        if let Some(target) = &target {
            *promised.entry(target.clone()).or_default() += workload.load;
        }
        moves.push(PlannedMove {
            workload: workload.id.clone(),
            service: workload.service.clone(),
            unit: workload.unit.clone(),
            handover: workload.handover,
            target,
            remaining: workload.remaining,
        });
    }
    let others = candidates.iter().filter(|other| other.schedulable && other.health == Health::Healthy).count() as u32;
    let itself = u32::from(peer.schedulable && peer.health == Health::Healthy);
    let impact = DrainImpact {
        peer: peer.id.clone(),
        name: peer.name.clone(),
        cluster: peer.cluster.clone(),
        workloads: workloads.len() as u32,
        moves,
        peers_available: others + itself,
        peers_available_after: others,
        not_restorable: workloads.iter().filter(|one| !one.restorable).map(|one| one.id.clone()).collect(),
        holds: peer.holds.clone(),
        budgets: Vec::new(),
    };
    (impact, blockers)
}

#[cfg(test)]
mod tests {
    use omnirelay_workflow::resource::{Labels, PeerState, WorkloadState};
    use omnirelay_workflow::{ClusterId, WorkloadId};

    use super::*;

    fn peer(health: Health) -> Peer {
        Peer {
            id: PeerId::parse("a").expect("an id"),
            name: "a".to_owned(),
            cluster: ClusterId::parse("c").expect("an id"),
            role: String::new(),
            address: String::new(),
            version: String::new(),
            labels: Labels::new(),
            metadata: serde_json::json!({}),
            health,
            schedulable: true,
            state: PeerState::Active,
            holds: Vec::new(),
            workloads: 0,
            capacity: 10,
            last_seen: None,
            operation: None,
            revision: 1,
        }
    }

    fn workload(id: &str, load: u32, handover: Handover) -> Workload {
        Workload {
            id: WorkloadId::parse(id).expect("an id"),
            service: "checkout".to_owned(),
            peer: PeerId::parse("a").expect("an id"),
            load,
            labels: Labels::new(),
            handover,
            restorable: handover != Handover::ReleaseOnly,
            ready: true,
            remaining: None,
            unit: None,
            epoch: 1,
            state: WorkloadState::Running,
        }
    }

    fn candidate(id: &str, capacity: u32) -> Candidate {
        Candidate {
            peer: PeerId::parse(id).expect("an id"),
            health: Health::Healthy,
            schedulable: true,
            labels: Labels::new(),
            capacity,
            load: 0,
        }
    }

    fn targets(impact: &DrainImpact) -> Vec<&str> {
        impact.moves.iter().map(|one| one.target.as_ref().map_or("-", PeerId::as_str)).collect()
    }

    #[test]
    fn what_one_move_takes_the_next_no_longer_has() {
        let workloads = ["w1", "w2", "w3"].map(|id| workload(id, 4, Handover::StartFirst));
        let candidates = [candidate("b", 8), candidate("c", 4)];
        let (impact, blockers) = drain(&peer(Health::Healthy), &workloads, &candidates, Timestamp::UNIX_EPOCH);
        assert_eq!(targets(&impact), ["b", "c", "b"]);
        assert!(blockers.is_empty());
        assert_eq!((impact.peers_available, impact.peers_available_after), (3, 2));
    }

    #[test]
    fn what_would_wait_is_a_blocker() {
        let workloads = [
            workload("w1", 9, Handover::StopFirst),
            workload("w2", 1, Handover::ReleaseOnly),
            workload("w3", 1, Handover::StartFirst),
        ];
        let (impact, blockers) =
            drain(&peer(Health::Unreachable), &workloads, &[candidate("b", 8)], Timestamp::UNIX_EPOCH);
        assert_eq!(targets(&impact), ["-", "-", "b"]);
        let codes: Vec<_> = blockers.iter().map(|blocker| (blocker.code, blocker.subject.as_str())).collect();
        assert_eq!(codes, [(BlockerCode::PeerUnreachable, "a"), (BlockerCode::NoCapacity, "w1")]);
        assert_eq!(impact.not_restorable, [WorkloadId::parse("w2").expect("an id")]);
    }
}
