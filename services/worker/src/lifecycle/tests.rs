//! What is told at an end: the problem that clients see, and the facts that the audit keeps. Enumerated, so that a new verb or
//! rejection does not compile without its line here.

use omnirelay_contract::event::Event;
use omnirelay_contract::problem::Code;
use omnirelay_store::events::NewEvent;
use omnirelay_store::operations::Poisoned;
use omnirelay_store::reads::OperationRow;
use omnirelay_workflow::OperationId;
use omnirelay_workflow::operation::Verb;
use omnirelay_workflow::resource::ClusterState;
use serde_json::Value;

use super::*;
use crate::events;

fn now() -> Timestamp {
    Timestamp::from_second(1_000).expect("a time")
}

fn id() -> OperationId {
    OperationId::from_u128(7)
}

fn actor() -> Actor {
    Actor { scopes: vec!["mesh.operate".to_owned()], ..Actor::system("ana") }
}

fn work(verb: Verb) -> WorkRow {
    let row = OperationRow {
        id: id(),
        verb: verb.to_string(),
        target: "peers/a".to_owned(),
        state: State::Submitted.to_string(),
        phase: None,
        progress: r#"{"done":0,"total":0,"inFlight":0,"failed":0,"unit":"peers"}"#.to_owned(),
        blockers: "[]".to_owned(),
        actor: "ana".to_owned(),
        reason: Some("kernel".to_owned()),
        change_ticket: Some("CHG-1".to_owned()),
        params: "{}".to_owned(),
        digest: String::new(),
        cancel: None,
        created_at: Timestamp::from_second(990).expect("a time"),
        started_at: None,
        finished_at: None,
        deadline_at: None,
        result: None,
        error: None,
        revision: 2,
        changed: true,
        resource: None,
        event_seq: 1,
        approval: None,
        paused: None,
        parent: None,
        children: None,
        waits_for: None,
        queue: None,
    };
    WorkRow {
        row,
        actor_json: String::new(),
        ingress: None,
        traceparent: None,
        run: None,
        wake_at: None,
        progress_at: None,
        gates: None,
        resolve: None,
        if_match: None,
        holds_slot: false,
        gates_beside: false,
        key: String::new(),
    }
}

/// One of each, with the code that it has to become.
fn rejections() -> Vec<(Rejected, Code)> {
    let cluster = || ClusterId::parse("c").expect("an id");
    let detail = || "because".to_owned();
    let all = vec![
        Rejected::PeerHeld { peer: PeerId::parse("a").expect("an id"), owners: vec!["bo".to_owned()] },
        Rejected::OperationInProgress { resource: "peers/a".to_owned(), operation: id() },
        Rejected::TooLate { operation: id(), state: State::Succeeded },
        Rejected::InvalidState { operation: id(), state: State::Succeeded },
        Rejected::LastActiveCluster { cluster: cluster() },
        Rejected::NoCapacity { cluster: cluster(), detail: detail() },
        Rejected::LagTooHigh { cluster: cluster(), lag_ms: 900, limit_ms: 500 },
        Rejected::ClusterInTransition { cluster: cluster(), state: ClusterState::Promoting },
        Rejected::UnknownCluster { cluster: cluster() },
        Rejected::RevisionMismatch { resource: "peers/a".to_owned(), revision: Some(3) },
        Rejected::InvalidChange { detail: detail() },
        Rejected::NotPossible { detail: detail() },
        Rejected::InvalidSetting { detail: detail(), key: "drain".to_owned(), rule: "an object".to_owned() },
    ];
    let code = |rejected: &Rejected| match rejected {
        Rejected::PeerHeld { .. } => (0, Code::PeerHeld),
        Rejected::OperationInProgress { .. } => (1, Code::OperationInProgress),
        Rejected::TooLate { .. } => (2, Code::TooLate),
        Rejected::InvalidState { .. } => (3, Code::InvalidState),
        Rejected::LastActiveCluster { .. } => (4, Code::LastActiveCluster),
        Rejected::NoCapacity { .. } => (5, Code::NoCapacity),
        Rejected::LagTooHigh { .. } => (6, Code::InvalidState),
        Rejected::ClusterInTransition { .. } => (7, Code::InvalidState),
        Rejected::UnknownCluster { .. } => (8, Code::NotFound),
        Rejected::RevisionMismatch { .. } => (9, Code::RevisionMismatch),
        Rejected::InvalidChange { .. } => (10, Code::InvalidArgument),
        Rejected::NotPossible { .. } => (11, Code::InvalidState),
        Rejected::InvalidSetting { .. } => (12, Code::InvalidSetting),
    };
    let places: Vec<usize> = all.iter().map(|rejected| code(rejected).0).collect();
    assert_eq!(places, (0..13).collect::<Vec<_>>(), "one of each");
    let codes: Vec<Code> = all.iter().map(|rejected| code(rejected).1).collect();
    all.into_iter().zip(codes).collect()
}

fn read(event: &NewEvent) -> Event {
    serde_json::from_str(&event.payload).expect("a CloudEvent")
}

/// The facts of the last event, which must be whole.
#[track_caller]
fn audited(work: &WorkRow, log: &Log, verb: Verb, outcome: &str) -> Event {
    let event = read(log.events.last().expect("an event"));
    let facts = &event.data.audit;
    assert_eq!((facts.verb.as_str(), facts.outcome.as_str()), (verb.as_str(), outcome));
    assert_eq!(facts.actor.as_ref(), Some(&actor()), "{verb} {outcome}");
    assert_eq!(
        (facts.reason.as_deref(), facts.change_ticket.as_deref()),
        (Some("kernel"), Some("CHG-1")),
        "{verb} {outcome}"
    );
    assert_eq!(facts.latency_ms, Some(10_000), "{verb} {outcome}");
    assert_eq!(event.data.detail.get("target"), Some(&json!("peers/a")), "{verb} {outcome}");
    assert_eq!(event.data.operation_seq, Some(work.row.event_seq.unsigned_abs()), "{verb} {outcome}");
    event
}

#[test]
fn every_rejection_of_every_verb_is_told_and_audited() {
    for verb in Verb::ALL.iter().copied() {
        for (rejected, code) in rejections() {
            let (mut work, mut log) = (work(verb), Log::default());
            refuse(&mut work, &actor(), &rejected, &mut log, now()).expect("refused");
            let event = audited(&work, &log, verb, "refused");
            assert_eq!(event.kind, "omnirelay.operations.refused");
            assert_eq!((work.row.state.as_str(), work.row.changed), ("refused", false), "{verb} {rejected:?}");
            let problem: Problem = serde_json::from_str(work.row.error.as_deref().expect("a problem")).expect("JSON");
            assert_eq!((problem.code, problem.status), (code, code.http_status()), "{verb} {rejected:?}");
            assert_eq!(problem.detail, rejected.to_string());
            assert_eq!(
                (problem.title.as_str(), problem.kind.as_str()),
                (code.title(), &*format!("urn:omnirelay:problem:{code}"))
            );
            assert_eq!(problem.instance.as_deref(), Some(&*format!("/control/operations/{}", id())));
            assert!((400..500).contains(&problem.status), "{rejected:?}");
            assert_eq!(event.data.detail.get("error"), Some(&serde_json::to_value(&problem).expect("JSON")));
        }
    }
}

#[test]
fn every_end_of_every_verb_is_audited() {
    for verb in Verb::ALL.iter().copied() {
        for state in State::ALL.iter().copied().filter(|state| state.is_terminal()) {
            let (mut work, mut log) = (work(verb), Log::default());
            end(&mut work, &actor(), state, None, Some((3, 4)), &mut log, now()).expect("ended");
            let event = audited(&work, &log, verb, state.as_str());
            let facts = &event.data.audit;
            assert_eq!((facts.revision_before, facts.revision_after), (Some(3), Some(4)), "{verb} {state}");
            assert_eq!((event.data.state, work.row.finished_at), (Some(state), Some(now())), "{verb} {state}");
        }
        let (mut work, mut log) = (work(verb), Log::default());
        cancelled_first(&mut work, &actor(), None, &mut log, now()).expect("cancelled");
        audited(&work, &log, verb, "cancelled");
    }
}

#[test]
fn what_a_poisoned_input_leaves_stuck_is_audited_like_any_end() {
    for verb in Verb::ALL.iter().copied() {
        let poisoned = Poisoned {
            event_seq: 4,
            actor_json: String::new(),
            target: "peers/a".to_owned(),
            verb: verb.to_string(),
            reason: Some("kernel".to_owned()),
            change_ticket: Some("CHG-1".to_owned()),
        };
        let event = read(&events::stuck(id(), &poisoned, Some(actor()), "bad data").expect("an event"));
        let facts = &event.data.audit;
        assert_eq!((facts.verb.as_str(), facts.outcome.as_str()), (verb.as_str(), "stuck"));
        assert_eq!((facts.reason.as_deref(), facts.change_ticket.as_deref()), (Some("kernel"), Some("CHG-1")));
        assert_eq!((facts.actor.as_ref(), event.data.operation_seq), (Some(&actor()), Some(4)));
    }
}

/// Passes the start gate with one approval demanded; the peer is at `revision`.
fn pass(work: &mut WorkRow, log: &mut Log, revision: u64, at: i64) -> Passage {
    let policy = GatePolicy {
        gate: GateAt::Start,
        required: 1,
        approver_scope: "mesh.approve".to_owned(),
        expires_in_secs: 100,
        rule: "prod".to_owned(),
    };
    let subject = GateSubject {
        revisions: BTreeMap::from([("peers/a".to_owned(), revision)]),
        peers: &[],
        plan: json!({ "peers": 1 }),
    };
    let now = Timestamp::from_second(at).expect("a time");
    let mut gate = AtGate { work, actor: &actor(), log, now };
    gate.pass(&[policy], GateAt::Start, &subject).expect("a passage")
}

fn told(log: &Log) -> Vec<String> {
    log.events.iter().map(|event| read(event).kind.trim_start_matches("omnirelay.").to_owned()).collect()
}

/// Somebody speaks at the gate in the row, as the ingress writes it.
fn decided(work: &mut WorkRow, status: Decision) {
    let mut gate: Gate = serde_json::from_str(work.row.approval.as_deref().expect("a gate")).expect("JSON");
    gate.status = status;
    work.row.approval = Some(serde_json::to_string(&gate).expect("JSON"));
}

#[test]
fn every_verb_waits_at_its_gate_and_each_way_on_is_audited() {
    for verb in Verb::ALL.iter().copied() {
        let opened = || {
            let (mut work, mut log) = (work(verb), Log::default());
            assert_eq!(pass(&mut work, &mut log, 1, 1_000), Passage::Waits);
            assert_eq!(told(&log), ["operations.awaitingApproval", "approvals.requested"]);
            let requested = read(&log.events[1]).data;
            for member in ["digest", "plan", "required", "expiresAt"] {
                assert!(requested.detail.get(member).is_some_and(|value| !value.is_null()), "{verb} {member}");
            }
            assert_eq!(requested.audit.outcome, "requested");
            assert_eq!(work.row.digest, requested.detail["digest"], "the operation's digest is what is to be approved");
            log.events.clear();
            (work, log)
        };
        let (mut work, mut log) = opened();
        assert_eq!(
            (pass(&mut work, &mut log, 1, 1_001), told(&log)),
            (Passage::Waits, Vec::new()),
            "nothing is told twice"
        );
        decided(&mut work, Decision::Granted);
        assert_eq!((pass(&mut work, &mut log, 1, 1_002), told(&log)), (Passage::On, Vec::new()), "{verb}");
        assert_eq!(pass(&mut work, &mut log, 2, 2_000), Passage::On, "what has passed has passed");

        let (mut work, mut log) = opened();
        decided(&mut work, Decision::Granted);
        assert_eq!(pass(&mut work, &mut log, 2, 1_001), Passage::Waits, "{verb}");
        assert_eq!(told(&log), ["approvals.requested"]);
        let note = read(&log.events[0]).data.detail["note"].clone();
        assert!(note.as_str().is_some_and(|note| note.contains("from revision 1 to 2")), "{note}");

        let (mut work, mut log) = opened();
        decided(&mut work, Decision::Rejected);
        assert_eq!(
            (pass(&mut work, &mut log, 1, 1_001), told(&log)),
            (Passage::Ended, vec!["operations.rejected".to_owned()])
        );
        assert_eq!((work.row.state.as_str(), work.row.changed), ("rejected", false), "{verb}");

        let (mut work, mut log) = opened();
        assert_eq!(pass(&mut work, &mut log, 1, 1_100), Passage::Ended, "{verb}");
        assert_eq!(told(&log), ["approvals.expired", "operations.expired"]);
        assert_eq!((work.row.state.as_str(), work.row.changed), ("expired", false), "{verb}");
        for event in &log.events {
            let facts = read(event).data.audit;
            assert_eq!((facts.outcome.as_str(), facts.change_ticket.as_deref()), ("expired", Some("CHG-1")), "{verb}");
        }
    }
}

#[test]
fn preconditions_are_revisions_and_nought_is_what_is_not_there() {
    let check = |wanted: Option<&str>, revision: Option<u64>, holds: bool| {
        let work = WorkRow { if_match: wanted.map(str::to_owned), ..work(Verb::PeersPut) };
        let found = still_matches(&work, revision).expect("readable");
        assert_eq!(found.is_ok(), holds, "{wanted:?} {revision:?}");
        if let Err(rejected) = found {
            assert_eq!(rejected, Rejected::RevisionMismatch { resource: "peers/a".to_owned(), revision });
        }
    };
    check(None, None, true);
    check(None, Some(3), true);
    check(Some("[3]"), Some(3), true);
    check(Some("[2,3]"), Some(3), true);
    check(Some("[2]"), Some(3), false);
    check(Some("[]"), Some(3), false);
    check(Some("[3]"), None, false);
    check(Some("[0]"), None, true);
    check(Some("[0]"), Some(1), false);
    let broken = WorkRow { if_match: Some("x".to_owned()), ..work(Verb::PeersPut) };
    assert!(still_matches(&broken, Some(1)).is_err());
}

#[test]
fn a_pause_is_said_with_who_and_why() {
    let check = |text: Option<Value>, expect: Option<&str>| {
        let text = text.map(|value| value.to_string());
        assert_eq!(paused(text.as_deref()).expect("readable").as_deref(), expect);
    };
    check(None, None);
    check(Some(json!({"by": "ana", "at": now(), "reason": null})), Some("paused by ana"));
    check(Some(json!({"by": "ana", "at": now(), "reason": "incident"})), Some("paused by ana: incident"));
    assert!(paused(Some("x")).is_err());
}
