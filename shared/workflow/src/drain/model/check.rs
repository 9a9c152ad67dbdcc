//! What must hold: in every state, of every step, and when a drain has ended.

use super::*;

/// In every state.
pub(super) fn always(sim: &Sim) {
    assert!(sim.holds.contains(&OTHERS_HOLD), "somebody else's hold survives");
    for (id, record) in &sim.records {
        let named = sim.run.strays.iter().any(|(stray, ..)| stray == id);
        let on = runs_on(sim, id);
        match record.handover {
            Handover::StopFirst => assert!(on.len() <= 1 || named, "{id} runs on {on:?}\n{}", told(sim)),
            // A release that was reported as failed may have stopped it nevertheless, but then it runs at its target.
            Handover::StartFirst => assert!(!on.is_empty(), "{id} runs nowhere\n{}", told(sim)),
            Handover::ReleaseOnly => {}
        }
    }
    if matches!(sim.run.phase, Phase::Ended(_)) {
        return;
    }
    // Whatever is waited for must be able to come.
    let phase = match &sim.run.phase {
        Phase::Cordoning { ask } | Phase::Verifying { ask } => Some(ask),
        _ => None,
    };
    let asks: Vec<&Ask> = phase.into_iter().chain(sim.run.moves.values().filter_map(|m| m.at.ask())).collect();
    for ask in &asks {
        match &ask.command {
            Some(command) => {
                let comes = sim.rows.iter().any(|row| row.command.id == *command && !row.done);
                assert!(comes, "{command} is waited for and will never be answered\n{}", told(sim));
            }
            None => assert!(sim.wake_at.is_some(), "{ask:?} is never looked at again\n{}", told(sim)),
        }
    }
    let out = asks.iter().any(|ask| ask.command.is_some());
    assert!(out || sim.paused || sim.wake_at.is_some(), "nothing is out and nothing will wake it\n{}", told(sim));
    let json = serde_json::to_string(&sim.run).expect("JSON");
    assert_eq!(serde_json::from_str::<Drain>(&json).expect("a drain"), sim.run, "what is stored is what was meant");
}

/// Of a step, before it is committed.
pub(super) fn step(sim: &Sim, step: &Step) {
    if matches!(step.next.phase, Phase::Unwinding { .. }) {
        assert!(step.commands.iter().all(|c| c.undo), "no forward command after a cancel: {:?}", step.commands);
    }
    if matches!(sim.run.phase, Phase::Ended(_)) {
        assert_eq!(step.next, sim.run, "what has ended never changes");
        assert!(step.changes.is_empty() && step.commands.is_empty() && step.events.is_empty() && !step.void);
    }
    let before = sim.run.moves.values().filter(|m| m.in_flight()).count();
    let after = step.next.moves.values().filter(|m| m.in_flight()).count();
    let most = step.next.params.max_concurrent.max(1) as usize;
    assert!(after <= most.max(before), "{after} in flight of at most {most}\n{}", told(sim));
    let begun = step.events.iter().filter(|event| matches!(event, Event::Moving { .. })).count() as u32;
    assert!(begun == 0 || !sim.paused, "nothing is begun while it is paused\n{}", told(sim));
    let forced = step.next.forced && sim.health[&sim.run.peer] == Health::Unreachable;
    if let Some(most) = sim.service_budget.filter(|_| begun > 0 && !forced) {
        let mut after = sim.clone();
        after.commit(step.clone());
        let moving = after.load().unavailable;
        assert!(moving <= most, "{moving} moving of at most {most}, {begun} of them begun now\n{}", told(sim));
    }
}

/// Nothing is left to do after a step, and what was heard already says nothing new.
pub(super) fn quiet(sim: &Sim) {
    let world = sim.world();
    let repeats =
        sim.heard.iter().rev().take(6).filter(|(id, _)| !sim.rows.iter().any(|r| r.command.id == *id && !r.done));
    let repeats =
        repeats.map(|(command, outcome)| Input::Report { command: command.clone(), outcome: outcome.clone() });
    for input in repeats.chain([Input::Timer]) {
        let step = super::super::step(&sim.run, &world, input.clone(), sim.now).expect("a step");
        assert_eq!(step.next, sim.run, "{input:?} changes nothing");
        assert!(step.changes.is_empty() && step.commands.is_empty() && step.events.is_empty(), "{input:?}: {step:#?}");
        assert_eq!(step.wake_at, sim.wake_at, "{input:?} wakes at the same time");
    }
}

/// When the drain has ended and nothing is under way any more.
pub(super) fn ended(sim: &Sim) {
    let Phase::Ended(end) = &sim.run.phase else { panic!("it has not ended") };
    let result = sim.run.status().result.expect("a result");
    let names = |key: &str| -> BTreeSet<String> {
        let list = result[key].as_array().expect("a list");
        list.iter().map(|entry| entry["workload"].as_str().expect("a workload").to_owned()).collect()
    };
    let named: BTreeSet<String> = ["notRestored", "mayRunTwice"].into_iter().flat_map(names).collect();
    let kept = names("moved");
    let source = &sim.run.peer;
    let cancelled = end.state == State::Cancelled;
    assert_eq!(sim.holds.contains(&OWN_HOLD), !cancelled, "its own hold goes with a cancel only");
    for (id, home) in &sim.home {
        if named.contains(id.as_str()) || (end.state == State::Failed && names("rest").contains(id.as_str())) {
            continue;
        }
        let on = runs_on(sim, id);
        let record = sim.records.get(id);
        let story = || format!("{id}: {end:?} runs on {on:?}, record {record:?}\n{result:#}\n{}", told(sim));
        if let Some(record) = record {
            assert_eq!(record.operation, None, "{}", story());
            assert_eq!(record.state, WorkloadState::Running, "{}", story());
            assert_eq!(on, vec![record.peer.clone()], "{}", story());
        } else {
            assert!(on.is_empty(), "{}", story());
        }
        match end.state {
            State::Cancelled | State::Stuck
                if !kept.contains(id.as_str()) && !names("released").contains(id.as_str()) =>
            {
                assert_eq!(on, vec![home.clone()], "{}", story());
            }
            State::Succeeded => assert!(!on.contains(source), "{}", story()),
            _ => {}
        }
    }
    let mark = if end.state == State::Succeeded { DrainMark::Drained } else { DrainMark::None };
    assert!(end.state == State::Stuck || sim.mark == mark, "{:?} after {:?}", sim.mark, end.state);
    assert!(end.state != State::Stuck || !names("notRestored").is_empty(), "what is stuck is named: {result:#}");
}

fn runs_on(sim: &Sim, id: &WorkloadId) -> Vec<PeerId> {
    sim.agents.iter().filter(|(_, agent)| agent.running.contains(id)).map(|(p, _)| p.clone()).collect()
}

/// The state and how it came to be, for the reader of a failure.
pub(super) fn told(sim: &Sim) -> String {
    let run = serde_json::to_string(&sim.run).expect("JSON");
    let story: Vec<String> = sim.story.iter().take(120).map(|action| format!("  {action:?}")).collect();
    format!("{run}\nafter {} things:\n{}", sim.story.len(), story.join("\n"))
}
