//! Where a workload goes: a pure function over the candidates of its cluster.
//!
//! A target is healthy, schedulable, allowed by the workload's labels, has room, and is the least loaded for its
//! capacity. Ties go to the smaller id, so that the same world always gives the same plan.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::PeerId;
use crate::resource::{Health, Labels};

/// Prefix of a workload's labels that are requirements on the peer: `requires/disk=nvme` wants a peer labelled `disk=nvme`.
pub const REQUIRES: &str = "requires/";

/// A peer that could take a workload.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    pub peer: PeerId,
    pub health: Health,
    pub schedulable: bool,
    pub labels: Labels,
    /// How much load it can carry; 0 means nobody said, so it is not limited.
    pub capacity: u32,
    /// The load of what it owns.
    pub load: u32,
}

/// Why nobody can take it, most hopeful reason first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoCapacity(pub String);

/// The peer that should take a workload of `load` and `labels` from `source`, which may be among the candidates.
///
/// `inbound` is load already promised to a peer by moves in flight; `avoid` are peers that failed to acquire it, taken
/// only when nobody else is left.
pub fn place<'a>(
    candidates: &'a [Candidate],
    source: &PeerId,
    inbound: &BTreeMap<PeerId, u32>,
    load: u32,
    labels: &Labels,
    avoid: &[PeerId],
) -> Result<&'a PeerId, NoCapacity> {
    let planned = |c: &Candidate| c.load.saturating_add(inbound.get(&c.peer).copied().unwrap_or(0));
    candidates
        .iter()
        .filter(|c| c.peer != *source && c.health == Health::Healthy && c.schedulable && allows(c, labels))
        .filter(|c| c.capacity == 0 || planned(c).saturating_add(load) <= c.capacity)
        .min_by(|a, b| {
            let avoided = |c: &Candidate| avoid.contains(&c.peer);
            avoided(a)
                .cmp(&avoided(b))
                .then_with(|| fill(planned(a), a.capacity, planned(b), b.capacity))
                .then_with(|| a.peer.cmp(&b.peer))
        })
        .map(|c| &c.peer)
        .ok_or_else(|| NoCapacity(explain(candidates, source, inbound, load, labels)))
}

fn allows(candidate: &Candidate, labels: &Labels) -> bool {
    labels
        .iter()
        .filter_map(|(key, value)| key.strip_prefix(REQUIRES).map(|key| (key, value)))
        .all(|(key, value)| candidate.labels.get(key) == Some(value))
}

/// Compares load over capacity without division: a/ca <=> b/cb. An unlimited peer counts as capacity 100.
fn fill(load_a: u32, capacity_a: u32, load_b: u32, capacity_b: u32) -> Ordering {
    let capacity = |c: u32| u64::from(if c == 0 { 100 } else { c });
    (u64::from(load_a) * capacity(capacity_b)).cmp(&(u64::from(load_b) * capacity(capacity_a)))
}

fn explain(
    candidates: &[Candidate],
    source: &PeerId,
    inbound: &BTreeMap<PeerId, u32>,
    load: u32,
    labels: &Labels,
) -> String {
    let others: Vec<&Candidate> = candidates.iter().filter(|c| c.peer != *source).collect();
    if others.is_empty() {
        return "the cluster has no other peer".to_owned();
    }
    let allowed: Vec<&Candidate> = others.into_iter().filter(|c| allows(c, labels)).collect();
    if allowed.is_empty() {
        let wants: Vec<String> = labels
            .iter()
            .filter_map(|(key, value)| key.strip_prefix(REQUIRES).map(|key| format!("{key}={value}")))
            .collect();
        return format!("no peer of the cluster has {}", wants.join(" and "));
    }
    let healthy = allowed.iter().filter(|c| c.health == Health::Healthy).count();
    let schedulable: Vec<&&Candidate> =
        allowed.iter().filter(|c| c.health == Health::Healthy && c.schedulable).collect();
    if schedulable.is_empty() {
        return format!(
            "of {} peers that could take it {} are cordoned and {} are not healthy",
            allowed.len(),
            healthy,
            allowed.len() - healthy
        );
    }
    let room = schedulable
        .iter()
        .map(|c| c.capacity.saturating_sub(c.load.saturating_add(inbound.get(&c.peer).copied().unwrap_or(0))))
        .max()
        .unwrap_or(0);
    format!("it needs {load}, the most that any of {} schedulable peers has free is {room}", schedulable.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> PeerId {
        PeerId::parse(text).expect("an id")
    }

    fn candidate(id: &str, load: u32, capacity: u32) -> Candidate {
        Candidate { peer: peer(id), health: Health::Healthy, schedulable: true, labels: Labels::new(), capacity, load }
    }

    fn check(candidates: &[Candidate], load: u32, labels: &Labels, avoid: &[PeerId], expect: Result<&str, &str>) {
        let got = place(candidates, &peer("source"), &BTreeMap::new(), load, labels, avoid);
        assert_eq!(
            got.map(PeerId::as_str),
            expect.map_err(|text| NoCapacity(text.to_owned())).as_ref().map_err(Clone::clone).copied()
        );
    }

    #[test]
    fn the_least_loaded_for_its_capacity_takes_it() {
        let none = Labels::new();
        check(&[candidate("a", 5, 10), candidate("b", 6, 20)], 1, &none, &[], Ok("b"));
        check(&[candidate("b", 5, 10), candidate("a", 5, 10)], 1, &none, &[], Ok("a"));
        check(&[candidate("a", 0, 0), candidate("b", 1, 10)], 1, &none, &[], Ok("a"));
        check(&[candidate("a", 0, 10), candidate("b", 9, 10)], 1, &none, &[peer("a")], Ok("b"));
        check(&[candidate("a", 0, 10)], 1, &none, &[peer("a")], Ok("a"));
    }

    #[test]
    fn who_cannot_take_it_says_why() {
        let none = Labels::new();
        let nvme = Labels::from([(format!("{REQUIRES}disk"), "nvme".to_owned())]);
        let mut cordoned = candidate("a", 0, 10);
        cordoned.schedulable = false;
        check(&[], 1, &none, &[], Err("the cluster has no other peer"));
        check(&[candidate("a", 0, 10)], 1, &nvme, &[], Err("no peer of the cluster has disk=nvme"));
        check(&[cordoned], 1, &none, &[], Err("of 1 peers that could take it 1 are cordoned and 0 are not healthy"));
        check(
            &[candidate("a", 8, 10)],
            5,
            &none,
            &[],
            Err("it needs 5, the most that any of 1 schedulable peers has free is 2"),
        );
    }

    #[test]
    fn load_that_is_on_its_way_counts() {
        let inbound = BTreeMap::from([(peer("a"), 9)]);
        let candidates = [candidate("a", 0, 10), candidate("b", 5, 10)];
        let got = place(&candidates, &peer("source"), &inbound, 2, &Labels::new(), &[]);
        assert_eq!(got, Ok(&peer("b")));
    }
}
