//! Disruption budgets: how much of a cluster, and of a service, may be out of service at once.
//!
//! A cluster's budget decides whether an operation on one of its peers begins or waits. The slots are the operations' own and
//! are counted anew each time, never kept: what is counted cannot drift. A service's budget decides over each single move.

use std::collections::BTreeSet;

use crate::settings::Amount;
use crate::{OperationId, PeerId};

/// A blocker names at most so many peers.
const MAX_NAMED: usize = 5;

/// One peer of the cluster, as a budget sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub peer: PeerId,
    /// Draining, drained or unreachable.
    pub unavailable: bool,
    /// The operation on it that holds a slot.
    pub holder: Option<OperationId>,
}

/// Whether an operation may begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    Start,
    Queue {
        /// From 1.
        position: u32,
        /// The operations that have the slots, by id; fewer than the budget where peers are out without one.
        holders: Vec<OperationId>,
    },
}

/// The cluster's budget in peers: its own, else that of the settings, else none.
pub fn of_cluster(own: Option<&Amount>, settings: Option<&Amount>, peers: u32) -> Option<u32> {
    own.or(settings).map(|amount| amount.of(peers))
}

/// Whether the operation on `me` may take a slot; `ahead` were queued before it. A peer that is out already costs nothing. First
/// come, first served: a free slot is for whoever has waited longest.
pub fn admit(budget: Option<u32>, peers: &[Standing], me: &PeerId, ahead: u32) -> Admission {
    let Some(budget) = budget else { return Admission::Start };
    let counted = |standing: &&Standing| standing.unavailable || standing.holder.is_some();
    let used = peers.iter().filter(counted).count() as u64;
    let mine = peers.iter().filter(counted).any(|standing| standing.peer == *me);
    if mine || used + u64::from(ahead) < u64::from(budget) {
        return Admission::Start;
    }
    let holders: BTreeSet<OperationId> = peers.iter().filter_map(|standing| standing.holder).collect();
    Admission::Queue { position: ahead.saturating_add(1), holders: holders.into_iter().collect() }
}

/// Who has the slots, as a blocker tells it: operations give theirs back by themselves, peers that are out are somebody's to see to.
pub fn taken_by(peers: &[Standing]) -> String {
    let counted: Vec<&Standing> = peers.iter().filter(|one| one.unavailable || one.holder.is_some()).collect();
    if counted.is_empty() {
        return "none is allowed".to_owned();
    }
    let one = |standing: &&Standing| match standing.holder {
        Some(operation) => format!("{} (operation {operation})", standing.peer),
        None => format!("{} (drained or unreachable)", standing.peer),
    };
    let mut named: Vec<String> = counted.iter().take(MAX_NAMED).map(one).collect();
    named.extend((counted.len() > MAX_NAMED).then(|| format!("{} more", counted.len() - MAX_NAMED)));
    format!("taken by {}", named.join(", "))
}

/// How a cluster's part of a service stands: that is what its budget is of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServiceLoad {
    pub total: u32,
    /// Not ready, or being moved by anybody.
    pub unavailable: u32,
}

/// Why a move has to wait.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{service} {ready}/{total} ready, needs {needs}")]
pub struct BudgetBlock {
    pub service: String,
    pub ready: u32,
    pub total: u32,
    /// So many have to be ready beside the one that is to move.
    pub needs: u32,
}

/// Whether a move of one more workload of the service may begin.
pub fn may_move(service: &str, budget: Option<&Amount>, load: ServiceLoad) -> Result<(), BudgetBlock> {
    let Some(budget) = budget else { return Ok(()) };
    let allowed = budget.of(load.total);
    if load.unavailable < allowed {
        return Ok(());
    }
    Err(BudgetBlock {
        service: service.to_owned(),
        ready: load.total.saturating_sub(load.unavailable),
        total: load.total,
        needs: load.total.saturating_sub(allowed),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(n: u128) -> OperationId {
        OperationId::from_u128(n)
    }

    /// Peers `a`, `b` …: `.` is well, `u` is out, a digit is the operation that holds a slot there.
    fn cluster(text: &str) -> Vec<Standing> {
        let one = |(name, what): (char, char)| Standing {
            peer: PeerId::parse(&name.to_string()).expect("an id"),
            unavailable: what == 'u',
            holder: what.to_digit(10).map(|n| operation(n.into())),
        };
        ('a'..).zip(text.chars()).map(one).collect()
    }

    #[test]
    fn slots_are_counted_and_waited_for_in_order() {
        let check = |budget: Option<u32>, peers: &str, me: &str, ahead: u32, expect: &str| {
            let me = PeerId::parse(me).expect("an id");
            let told = match admit(budget, &cluster(peers), &me, ahead) {
                Admission::Start => "start".to_owned(),
                Admission::Queue { position, holders } => {
                    let holders: Vec<String> = holders.iter().map(|id| id.as_u128().to_string()).collect();
                    format!("{position} behind {}", holders.join(" "))
                }
            };
            assert_eq!(told, expect, "{budget:?} {peers} {me} {ahead}");
        };
        check(None, "uuu.", "d", 7, "start");
        check(Some(0), "....", "a", 0, "1 behind ");
        check(Some(1), "....", "a", 0, "start");
        check(Some(1), "....", "a", 1, "2 behind ");
        check(Some(1), "1...", "b", 0, "1 behind 1");
        check(Some(2), "1...", "b", 0, "start");
        check(Some(2), "1...", "b", 1, "2 behind 1");
        check(Some(2), "21..", "c", 3, "4 behind 1 2");
        check(Some(2), "1u..", "c", 0, "1 behind 1");
        // Who is out already costs nothing, also beyond the budget.
        check(Some(1), "1u..", "b", 5, "start");
        check(Some(1), "1...", "a", 0, "start");
    }

    #[test]
    fn a_blocker_names_who_has_the_slots() {
        let check = |peers: &str, expect: &str| assert_eq!(taken_by(&cluster(peers)), expect, "{peers}");
        let one = operation(1);
        check("....", "none is allowed");
        check("1.u.", &format!("taken by a (operation {one}), c (drained or unreachable)"));
        let named =
            "abcde".chars().map(|name| format!("{name} (drained or unreachable)")).collect::<Vec<_>>().join(", ");
        check("uuuuu.u.u", &format!("taken by {named}, 2 more"));
    }

    #[test]
    fn a_clusters_own_budget_comes_first() {
        let check = |own: Option<Amount>, settings: Option<Amount>, expect: Option<u32>| {
            assert_eq!(of_cluster(own.as_ref(), settings.as_ref(), 10), expect, "{own:?} {settings:?}");
        };
        check(None, None, None);
        check(None, Some(Amount::Percent(25)), Some(2));
        check(Some(Amount::Count(5)), Some(Amount::Percent(25)), Some(5));
        check(Some(Amount::Count(0)), Some(Amount::Percent(25)), Some(0));
    }

    #[test]
    fn a_service_keeps_what_it_needs() {
        let check = |budget: Option<Amount>, total: u32, unavailable: u32, expect: &str| {
            let told = may_move("checkout", budget.as_ref(), ServiceLoad { total, unavailable });
            let told = told.map_or_else(|block| block.to_string(), |()| "may".to_owned());
            assert_eq!(told, expect, "{budget:?} {unavailable} of {total}");
        };
        check(None, 12, 12, "may");
        check(Some(Amount::Count(1)), 12, 0, "may");
        check(Some(Amount::Count(1)), 12, 1, "checkout 11/12 ready, needs 11");
        check(Some(Amount::Percent(25)), 12, 2, "may");
        check(Some(Amount::Percent(25)), 12, 3, "checkout 9/12 ready, needs 9");
        check(Some(Amount::Percent(25)), 2, 0, "may");
        check(Some(Amount::Count(0)), 12, 0, "checkout 12/12 ready, needs 12");
        check(Some(Amount::Count(5)), 2, 7, "checkout 0/2 ready, needs 0");
    }
}
