//! Every order of what can happen in small worlds, and random orders in larger ones.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use proptest::prelude::*;

use super::*;

const CASES: u32 = 600;

fn params(deadline_secs: Option<u64>, on_deadline: OnDeadline, max_concurrent: u32) -> DrainParams {
    DrainParams { deadline_secs, on_deadline, max_concurrent, ..DrainParams::default() }
}

/// `f` start-first, `x` stop-first, `r` release-only, `n` release-only that is not restorable.
fn workloads(kinds: &str) -> Vec<Workload> {
    let one = |(n, kind): (usize, char)| {
        let handover = match kind {
            'f' => Handover::StartFirst,
            'x' => Handover::StopFirst,
            _ => Handover::ReleaseOnly,
        };
        record_of(&format!("w{n}"), "s", handover, kind != 'n')
    };
    kinds.chars().enumerate().map(one).collect()
}

/// What tells two states apart; what was heard already does not.
fn fingerprint(sim: &Sim) -> u64 {
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(&sim.run).expect("JSON").hash(&mut hasher);
    let Sim { now, wake_at, holds, records, targets, agents, health, cordoned, paused, rows, reports, budget, .. } =
        sim;
    format!("{now:?}{wake_at:?}{holds:?}{targets:?}{agents:?}{health:?}{cordoned:?}{paused}{reports:?}{budget:?}")
        .hash(&mut hasher);
    for row in rows {
        (row.command.id.as_str(), row.sent, row.accepted, row.on_wire, row.done).hash(&mut hasher);
    }
    for record in records.values() {
        format!("{}{}{}{:?}", record.id, record.peer, record.epoch, record.operation).hash(&mut hasher);
    }
    hasher.finish()
}

/// Tries everything that can happen from the start. In each state reached everybody may begin to behave, and in each a cancel
/// may come first. Returns how many states there are.
fn explore(kinds: &str, params: DrainParams, budget: Budget) -> usize {
    let first = Sim::new(params, &workloads(kinds), budget);
    let mut seen = HashSet::from([fingerprint(&first)]);
    let mut queue = VecDeque::from([first]);
    while let Some(sim) = queue.pop_front() {
        sim.clone().behave();
        for keep_moved in [false, true] {
            let mut cancelled = sim.clone();
            cancelled.act(&Action::Cancel { keep_moved });
            cancelled.behave();
        }
        if matches!(sim.run.phase, Phase::Ended(_)) {
            continue;
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
    let deadline = prop_oneof![
        2 => Just((None, OnDeadline::Hold)),
        1 => Just((Some(40), OnDeadline::Hold)),
        1 => Just((Some(40), OnDeadline::Cancel)),
        2 => Just((Some(40), OnDeadline::Force)),
    ];
    let budgets = (0u32..8, 0u32..20, 0u32..3, 0u32..3);
    ("[fxrn]{1,4}", deadline, 1u32..4, budgets, prop::option::of(1u32..3)).prop_map(
        |(kinds, (secs, on_deadline), most, (faults, ticks, cancels, pauses), service_budget)| {
            let budget = Budget { faults, ticks, cancels, pauses };
            let sim = Sim::new(params(secs, on_deadline, most), &workloads(&kinds), budget);
            Sim { service_budget, ..sim }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(CASES) })]

    #[test]
    fn any_order_of_things_ends_as_promised(sim in worlds(), picks in prop::collection::vec(any::<u16>(), 0..90)) {
        walk(sim, &picks);
    }
}

/// Nothing goes wrong but the order of things and one command that takes too long; a cancel comes anywhere, and then any order.
#[test]
fn every_order_of_things_ends_as_promised() {
    for kinds in ["f", "x", "r", "n"] {
        let states =
            explore(kinds, params(None, OnDeadline::Hold, 1), Budget { faults: 0, ticks: 1, cancels: 1, pauses: 0 });
        assert!(states > 30, "{kinds}: {states}");
    }
}

/// It is paused and resumed anywhere, and cancelled while it is.
#[test]
fn a_pause_anywhere_ends_as_promised() {
    for kinds in ["f", "x", "r"] {
        let states =
            explore(kinds, params(None, OnDeadline::Hold, 1), Budget { faults: 0, ticks: 0, cancels: 0, pauses: 1 });
        assert!(states > 20, "{kinds}: {states}");
    }
}

/// One thing goes wrong, whatever and wherever, and a cancel comes in each state.
#[test]
fn one_fault_anywhere_and_a_cancel_anywhere_end_as_promised() {
    for kinds in ["f", "x", "r", "n"] {
        let states =
            explore(kinds, params(None, OnDeadline::Hold, 1), Budget { faults: 1, ticks: 0, cancels: 0, pauses: 0 });
        assert!(states > 100, "{kinds}: {states}");
    }
    for kinds in ["fx", "xr"] {
        let states =
            explore(kinds, params(None, OnDeadline::Hold, 2), Budget { faults: 0, ticks: 0, cancels: 0, pauses: 0 });
        assert!(states > 30, "{kinds}: {states}");
    }
}
