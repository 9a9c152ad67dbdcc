//! Every order of what can happen in small meshes, and random orders in larger ones.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use proptest::prelude::*;

use super::*;

const CASES: u32 = 600;

/// What tells two states apart; what was heard already does not.
fn fingerprint(sim: &Sim) -> u64 {
    let mut hasher = DefaultHasher::new();
    let Sim { now, waiting, ops, clusters, mesh_version, agents, rows, reports, budget, .. } = sim;
    format!("{now:?}{clusters:?}{mesh_version}{agents:?}{reports:?}{budget:?}{}", waiting.len()).hash(&mut hasher);
    for op in ops {
        (serde_json::to_string(&op.run).expect("JSON"), op.wake_at, op.paused).hash(&mut hasher);
    }
    for row in rows {
        (row.command.id.as_str(), row.sent, row.accepted, row.on_wire, row.done).hash(&mut hasher);
    }
    hasher.finish()
}

/// Tries everything that can happen from the start. In each state reached everybody may begin to behave, and in each a cancel
/// of each operation may come first. Returns how many states there are.
fn explore(first: Sim) -> usize {
    let mut seen = HashSet::from([fingerprint(&first)]);
    let mut queue = VecDeque::from([first]);
    while let Some(sim) = queue.pop_front() {
        sim.clone().behave();
        for op in 0..sim.ops.len() {
            let mut cancelled = sim.clone();
            cancelled.cancel(op);
            cancelled.behave();
        }
        for action in sim.actions() {
            let mut next = sim.clone();
            next.act(&action);
            if seen.insert(fingerprint(&next)) {
                queue.push_back(next);
            }
        }
    }
    seen.len()
}

/// Walks on at random, then lets everybody behave.
fn walk(mut sim: Sim, picks: &[u16]) {
    for pick in picks {
        let actions = sim.actions();
        if actions.is_empty() {
            break;
        }
        sim.act(&actions[usize::from(*pick) * actions.len() / 65536]);
    }
    sim.behave();
}

fn worlds() -> impl Strategy<Value = Sim> {
    let wish = prop::sample::select(vec![
        "p -a", "! p -a", "p -a ?", "-a", "! -a", "-b", "-b ?", "q", "q -b", "! q -b", "a -p", "b", "-p", "-a -b",
    ]);
    (1usize..3, prop::collection::vec(wish, 1..4), 0u32..10, 0u32..20, 0u32..3).prop_map(
        |(peers, wishes, faults, ticks, cancels)| Sim::new("ABpq", peers, &wishes, Budget { faults, ticks, cancels }),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(CASES) })]

    #[test]
    fn any_order_of_things_ends_as_promised(sim in worlds(), picks in prop::collection::vec(any::<u16>(), 0..120)) {
        walk(sim, &picks);
    }
}

fn budget(faults: u32, ticks: u32, cancels: u32) -> Budget {
    Budget { faults, ticks, cancels }
}

/// Nothing goes wrong but the order of things and one command that takes too long; a cancel comes in each state.
#[test]
fn every_order_of_things_ends_as_promised() {
    for words in ["p -a", "! p -a"] {
        let states = explore(Sim::new("Ap", 1, &[words], budget(0, 1, 0)));
        assert!(states > 30, "{words}: {states}");
    }
}

/// One thing goes wrong, whatever and wherever, and a cancel comes in each state.
#[test]
fn one_fault_anywhere_and_a_cancel_anywhere_end_as_promised() {
    for words in ["p", "! -a", "p ?"] {
        let states = explore(Sim::new("ABp", 1, &[words], budget(1, 1, 0)));
        assert!(states > 100, "{words}: {states}");
    }
}

/// Each counts on the other's cluster; whatever the order, and whichever is cancelled, one stays active.
#[test]
fn two_at_once_never_leave_nobody_active() {
    for (wishes, cancels, most) in [(["-a", "-b"], 2, 30), (["-a", "p -b"], 0, 300), (["p -b", "-a"], 0, 30)] {
        let states = explore(Sim::new("ABp", 1, &wishes, budget(0, 0, cancels)));
        assert!(states > most, "{wishes:?}: {states}");
    }
}

/// To refuse both would be safe too; that one of them wins is what people want.
#[test]
fn of_two_demotions_at_once_one_wins() {
    let mut sim = Sim::new("AB", 1, &["-a", "-b"], budget(0, 0, 0));
    sim.act(&Action::Start);
    sim.act(&Action::Start);
    sim.behave();
    let ends: Vec<State> = sim.ops.iter().map(|op| op.run.status().state).collect();
    assert_eq!(ends, [State::Succeeded, State::Refused]);
}
