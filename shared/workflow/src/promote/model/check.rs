//! What must hold: in every state, of every step, at every cutover, and when all has ended.

use super::*;

/// In every state.
pub(super) fn always(sim: &Sim) {
    // A cluster that is being demoted counts here: until the cutover it can still come back.
    let alive = |c: &Cluster| matches!(c.state, ClusterState::Active | ClusterState::Demoting);
    assert!(sim.clusters.values().any(alive), "no cluster is active, nor can be again\n{}", told(sim));
    for op in &sim.ops {
        let run = &op.run;
        let json = serde_json::to_string(run).expect("JSON");
        assert_eq!(serde_json::from_str::<Promote>(&json).expect("a run"), *run, "what is stored is what was meant");
        no_two_act(sim, run);
        if run.is_ended() {
            continue;
        }
        // Whatever is waited for must be able to come.
        let mut out = false;
        let halted = op.paused && !matches!(run.phase, Phase::Unwinding { .. });
        for member in run.members.values() {
            let At::Asked(ask) = &member.at else { continue };
            match &ask.command {
                Some(command) => {
                    out = true;
                    let comes = sim.rows.iter().any(|row| row.command.id == *command && !row.done);
                    assert!(comes, "{command} is waited for and will never be answered\n{}", told(sim));
                }
                None => assert!(halted || op.wake_at.is_some(), "{ask:?} is never looked at again\n{}", told(sim)),
            }
        }
        let waits = out || halted || op.wake_at.is_some() || run.phase == Phase::AwaitingGate;
        assert!(waits, "nothing is out and nothing will wake it\n{}", told(sim));
    }
}

/// After a cutover no agent of what was demoted is active under an older version, but for those that are named.
fn no_two_act(sim: &Sim, run: &Promote) {
    let version = match &run.phase {
        Phase::Verifying { version, .. } => *version,
        Phase::Ended(End { state: State::Succeeded, version: Some(version), .. }) => *version,
        _ => return,
    };
    for (peer, _) in run.members.iter().filter(|(_, m)| m.aim == Aim::Demote && m.unfenced.is_none()) {
        let (under, role) = sim.agents[peer].role;
        assert!(under >= version || role != Role::Active, "{peer} is still active under {under}\n{}", told(sim));
    }
}

/// Right after the changes of a cutover.
pub(super) fn cutover(sim: &Sim) {
    let active = sim.clusters.values().any(|cluster| cluster.state == ClusterState::Active);
    assert!(active, "a cutover leaves somebody active\n{}", told(sim));
}

/// Of a step, before it is committed.
pub(super) fn step(sim: &Sim, n: usize, step: &Step) {
    let (run, next) = (&sim.ops[n].run, &step.next);
    if run.is_ended() {
        assert_eq!(next, run, "what has ended never changes");
        assert!(step.changes.is_empty() && step.commands.is_empty() && step.events.is_empty() && !step.void);
    }
    let back = matches!(next.phase, Phase::Unwinding { .. } | Phase::Ended(End { state: State::Cancelled, .. }));
    if back {
        let after = |change: &Change| match change {
            Change::State { cluster, state } => *state != next.clusters[cluster].before(),
            Change::Version { .. } => false,
        };
        assert!(step.commands.iter().all(|c| c.undo), "no forward command after a cancel: {:?}", step.commands);
        assert!(!step.changes.iter().any(after), "and no forward change: {:?}", step.changes);
    }
    assert!(back || !step.commands.iter().any(|c| c.undo), "{:?}", step.commands);
    if matches!(run.phase, Phase::AwaitingGate) && matches!(next.phase, Phase::AwaitingGate) {
        assert!(step.changes.is_empty() && step.commands.is_empty(), "nothing changes before the gate");
    }
    if sim.ops[n].paused && !back && !matches!(run.phase, Phase::Unwinding { .. }) {
        assert!(step.commands.is_empty() && step.changes.is_empty(), "nothing begins in a pause: {step:#?}");
        let entered = std::mem::discriminant(&run.phase) != std::mem::discriminant(&next.phase);
        assert!(!entered || run.phase == Phase::AwaitingGate, "no phase is entered in a pause: {next:?}");
    }
    for command in &step.commands {
        let version = match &next.phase {
            Phase::Fencing { version, .. } | Phase::Verifying { version, .. } | Phase::Unwinding { version, .. } => {
                *version
            }
            other => panic!("no command in {other:?}"),
        };
        assert_eq!(command.version, version, "every command carries the version of its phase");
        assert!(command.expires_at > sim.now, "and a time");
    }
}

/// Nothing is left to do after a step, and what was heard already says nothing new.
pub(super) fn quiet(sim: &Sim, n: usize) {
    let op = &sim.ops[n];
    let world = sim.world(&op.run.params, op.paused);
    let over = |id: &CommandId| !sim.rows.iter().any(|row| row.command.id == *id && !row.done);
    let repeats = sim.heard.iter().rev().take(6).filter(|(by, id, _)| *by == n && over(id));
    let repeats = repeats.map(|(_, id, outcome)| Input::Report { command: id.clone(), outcome: outcome.clone() });
    for input in repeats.chain([Input::Timer]) {
        let step = super::super::step(&op.run, &world, input.clone(), sim.now).expect("a step");
        assert_eq!(step.next, op.run, "{input:?} changes nothing");
        assert!(step.changes.is_empty() && step.commands.is_empty() && step.events.is_empty(), "{input:?}: {step:#?}");
        assert_eq!(step.wake_at, op.wake_at, "{input:?} wakes at the same time");
    }
}

/// When every operation has ended and nothing is under way any more.
pub(super) fn ended(sim: &Sim) {
    let mut named = BTreeSet::new();
    for op in &sim.ops {
        let Phase::Ended(end) = &op.run.phase else { panic!("it has not ended") };
        assert!(matches!(end.state, State::Succeeded | State::Refused | State::Cancelled), "{end:?}\n{}", told(sim));
        assert_eq!(end.state == State::Refused, end.rejected.is_some(), "a refusal has a reason, and nothing else");
        let result = op.run.status().result.expect("a result");
        for entry in ["unfenced", "notRestored"].iter().flat_map(|key| result[*key].as_array().expect("a list")) {
            if entry["told"] != true {
                named.insert(peer(entry["peer"].as_str().expect("a peer")));
            }
        }
    }
    for (id, cluster) in &sim.clusters {
        assert_eq!(cluster.state, sim.meant[id], "{id}\n{}", told(sim));
    }
    assert!(sim.clusters.values().any(|c| c.state == ClusterState::Active), "nobody is active\n{}", told(sim));
    for (peer, agent) in &sim.agents {
        let behind = sim.is_behind(agent);
        assert!(!behind || named.contains(peer), "{peer} has {:?} and is not named\n{}", agent.role, told(sim));
        // What the observer tells it then must not be refused, or it would stay as it is for ever.
        assert!(!agent.refuses(sim.role_of(&agent.cluster)), "{peer} refuses its role: {agent:?}\n{}", told(sim));
    }
}

/// The state and how it came to be, for the reader of a failure.
pub(super) fn told(sim: &Sim) -> String {
    let runs: Vec<String> = sim.ops.iter().map(|op| serde_json::to_string(&op.run).expect("JSON")).collect();
    let story: Vec<String> = sim.story.iter().take(120).map(|action| format!("  {action:?}")).collect();
    format!("{}\nafter {} things:\n{}", runs.join("\n"), sim.story.len(), story.join("\n"))
}
