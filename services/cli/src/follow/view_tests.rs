use super::*;
use crate::testing::operation;
use omnirelay_contract::event::EventData;
use serde_json::{Value, json};

/// An event as it comes: `what` is `operations.progressed`, `data` its data without the audit's part.
fn event(what: &str, data: Value) -> Event {
    let (resource, what) = what.split_once('.').expect("resource.what");
    let id = data["workload"].as_str().unwrap_or("x").to_owned();
    let mut data = data;
    data["audit"] = json!({"verb": "peers.drain", "outcome": what});
    let data: EventData = serde_json::from_value(data).expect("data");
    let at = "2026-11-23T12:00:00Z".parse().expect("time");
    Event::new("0193d1f0-0000-7000-8000-000000000001".parse().expect("id"), resource, &id, what, at, data)
}

fn progress(done: u32, total: u32, in_flight: u32) -> Value {
    json!({"done": done, "total": total, "inFlight": in_flight, "failed": 0, "unit": "workloads"})
}

fn check(view: &View, expected: &[&str]) {
    assert_eq!(view.lines("2026-11-23T12:00:45Z".parse().expect("time")), expected);
}

fn evicting(done: u32) -> View {
    let mut view = View::new(&operation(State::Running));
    view.apply(&event("operations.started", json!({"state": "running", "phase": "cordoning"})));
    view.apply(&event(
        "operations.progressed",
        json!({"state": "running", "phase": "evicting", "progress": progress(done, 10, 2)}),
    ));
    view
}

#[test]
fn states_in_a_line() {
    for (state, line) in [
        (State::Submitted, "  submitted"),
        (State::AwaitingApproval, "  APPROVAL awaited"),
        (State::Queued, "  queued     waits for its turn"),
        (State::Running, "  running"),
        (State::Unwinding, "  unwinding  [--------------------] 0/0 restored"),
    ] {
        check(&View::new(&operation(state)), &[line]);
    }
    for state in State::ALL.iter().filter(|state| state.is_terminal()) {
        check(&View::new(&operation(*state)), &[]);
    }
}

#[test]
fn a_drain_with_moves_in_flight_and_blockers() {
    let mut view = evicting(4);
    view.apply(&event("workloads.moving", json!({"workload": "w-5", "unit": "checkout@5", "to": "web-03"})));
    view.apply(&event("workloads.moving", json!({"workload": "w-9", "unit": "haproxy/web", "to": null})));
    view.apply(&event("workloads.moving", json!({"workload": "w-6", "to": "web-05"})));
    view.apply(&event("workloads.moved", json!({"workload": "w-6", "to": "web-05"})));
    view.apply(&event(
        "operations.blocked",
        json!({"state": "running", "phase": "evicting", "blockers": [
            {"code": "not-ready", "subject": "w-5", "message": "ready check 503", "since": "2026-11-23T12:00:40Z"},
            {"code": "busy", "subject": "w-9", "message": "17 sessions left", "since": "2026-11-23T12:00:40Z"},
            {"code": "no-capacity", "subject": "w-7", "message": "needs disk=nvme", "since": "2026-11-23T12:00:00Z"}]}),
    ));
    check(
        &view,
        &[
            "  cordoning  done",
            "  evicting   [########------------] 4/10  2 moving",
            "    checkout@5 -> web-03   ready check 503",
            "    haproxy/web   17 sessions left",
            "  BLOCKED 45s no-capacity: w-7 needs disk=nvme",
        ],
    );
    view.apply(&event("operations.unblocked", json!({"state": "running", "phase": "evicting"})));
    assert_eq!(view.lines(Timestamp::UNIX_EPOCH).len(), 4);
    assert_eq!(view.plain(), "evicting  4/10  2 moving");
}

#[test]
fn late_and_repeated_events_change_nothing() {
    let mut view = evicting(4);
    let before = view.lines(Timestamp::UNIX_EPOCH);
    for late in [
        event("operations.submitted", json!({"state": "submitted"})),
        event(
            "operations.progressed",
            json!({"state": "running", "phase": "cordoning", "progress": progress(0, 0, 0)}),
        ),
        event(
            "operations.progressed",
            json!({"state": "running", "phase": "evicting", "progress": progress(3, 10, 1)}),
        ),
    ] {
        assert!(!view.apply(&late));
    }
    assert_eq!(view.lines(Timestamp::UNIX_EPOCH), before);
}

#[test]
fn a_cancel_turns_the_bar_round() {
    let mut view = evicting(6);
    view.apply(&event("workloads.moving", json!({"workload": "w-7", "to": "web-03"})));
    view.apply(&event("operations.unwinding", json!({"state": "unwinding", "progress": progress(0, 6, 0)})));
    check(&view, &["  unwinding  [--------------------] 0/6 restored"]);
    view.apply(&event("operations.progressed", json!({"state": "unwinding", "progress": progress(3, 6, 2)})));
    check(&view, &["  unwinding  [##########----------] 3/6 restored  2 moving"]);
    assert!(view.apply(&event("operations.cancelled", json!({"state": "cancelled"}))));
    check(&view, &[]);
}

#[test]
fn the_truth_wins_over_events() {
    let mut view = evicting(6);
    view.apply(&event("workloads.moving", json!({"workload": "w-7", "to": "web-03"})));
    let mut truth = operation(State::Running);
    truth.phase = Some("verifying".to_owned());
    (truth.progress.done, truth.progress.total) = (9, 12);
    view.sync(&truth);
    check(&view, &["  cordoning  done", "  evicting   done", "  verifying  [###############-----] 9/12"]);
}

#[test]
fn a_terminal_event_asks_for_the_truth_and_ends_the_view() {
    let mut view = evicting(9);
    assert!(view.apply(&event("operations.failed", json!({"state": "failed"}))));
    assert!(!view.apply(&event("operations.progressed", json!({"state": "running", "progress": progress(1, 1, 1)}))));
    assert_eq!(view.state(), State::Failed);
    // An event of the drained peer carries no state of its own and ends nothing.
    assert!(!evicting(9).apply(&event("peers.drained", json!({}))));
}

#[test]
fn many_rows_are_counted() {
    let mut view = evicting(0);
    for n in 0..12 {
        view.apply(&event("workloads.moving", json!({"workload": format!("w-{n:02}"), "to": "web-03"})));
    }
    let lines = view.lines(Timestamp::UNIX_EPOCH);
    assert_eq!((lines.len(), lines.last().map(String::as_str)), (11, Some("    and 4 more")));
}

#[test]
fn what_stays_on_the_screen() {
    let check = |state, expected: &[&str]| {
        let mut operation = operation(state);
        (operation.progress.done, operation.progress.total) = (6, 6);
        assert_eq!(View::ended(&operation), expected);
    };
    check(State::Succeeded, &["  cordoning  done", "  evicting   [####################] 6/6", "  verifying  done"]);
    check(State::Cancelled, &["  unwinding  [####################] 6/6 restored"]);
    check(State::Failed, &["  drain      [####################] 6/6"]);
    check(State::Refused, &[]);
}

#[test]
fn a_gate_a_pause_and_a_queue() {
    let mut waiting = operation(State::AwaitingApproval);
    waiting.approval = Some(crate::testing::gate(2));
    check(
        &View::new(&waiting),
        &[
            "  APPROVAL 0/2   29:15 left   may decide: scope mesh.approve, not ana",
            "    omnirelay ops approve 9c41e07b   cutover gate, rule prod-failover   digest 4f9a11c2",
        ],
    );
    let mut paused = operation(State::Running);
    let by = json!({"by": "bo", "at": "2026-11-23T12:00:00Z", "reason": "night"});
    paused.paused = Some(serde_json::from_value(by).expect("a pause"));
    check(&View::new(&paused), &["  PAUSED 45s by bo: night", "  running"]);

    let mut queued = operation(State::Queued);
    let queue = json!({"position": 3, "holders": [crate::testing::ID, "0193d1f0-0000-7000-8000-0000000000b2"]});
    queued.queue = Some(serde_json::from_value(queue).expect("a queue"));
    let mut view = View::new(&queued);
    let names = BTreeMap::from([(crate::testing::ID.to_owned(), "drain web-02".to_owned())]);
    view.surround(Around { names, ..Around::default() });
    check(&view, &["  QUEUED position 3, slots held by 9c41e07b (drain web-02), 000000b2"]);
}

#[test]
fn what_is_told_by_the_operation_only_is_asked_for() {
    for what in ["approvals.approved", "approvals.requested", "operations.paused", "operations.queued"] {
        assert!(evicting(4).apply(&event(what, json!({}))), "{what}");
    }
}

#[test]
fn a_log_hears_each_approval_once() {
    let mut waiting = operation(State::AwaitingApproval);
    let mut gate = crate::testing::gate(2);
    waiting.approval = Some(gate.clone());
    let mut view = View::new(&waiting);
    let now = "2026-11-23T12:00:45Z".parse().expect("time");
    let first = view.plain_news(&PlainKey::default(), now);
    assert!(first[0].starts_with("APPROVAL 0/2   29:15 left"), "{first:?}");
    let before = view.plain_key();
    assert_eq!(view.plain_news(&before, now), Vec::<String>::new());
    let given = json!([{"actor": "policy-bot", "at": "2026-11-23T12:00:00Z", "comment": "no freeze"}]);
    gate.approvals = serde_json::from_value(given).expect("approvals");
    waiting.approval = Some(gate);
    view.sync(&waiting);
    let news = view.plain_news(&before, now);
    assert_eq!(news[0], "policy-bot approved   \"no freeze\"");
    assert!(news[1].starts_with("APPROVAL 1/2"), "{news:?}");
}

#[test]
fn many_peers_have_one_bar_and_a_row_for_each_that_runs() {
    let mut many = operation(State::Running);
    many.children = Some(BTreeMap::from([("succeeded".to_owned(), 9), ("running".to_owned(), 1)]));
    many.params = json!({"canary": 2, "soakSecs": 600});
    many.phase = Some("rest".to_owned());
    many.progress = serde_json::from_value(progress(9, 38, 1)).expect("progress");
    let mut child = operation(State::Running);
    child.target = "peers/p-11".to_owned();
    child.phase = Some("evicting".to_owned());
    (child.progress.done, child.progress.total) = (4, 10);
    let mut view = View::new(&many);
    let names = BTreeMap::from([("peers/p-11".to_owned(), "web-11".to_owned())]);
    view.surround(Around { children: vec![child], names });
    check(
        &view,
        &[
            "  canary     done",
            "  soak       done",
            "  rest       [####----------------] 9/38   1 running, 28 waiting",
            "    web-11 evicting   [########------------] 4/10",
        ],
    );
}

#[test]
fn a_promotion_goes_through_its_phases() {
    let mut promotion = operation(State::Running);
    promotion.verb = Verb::ClustersPromote;
    promotion.phase = Some("verifying".to_owned());
    promotion.progress = serde_json::from_value(progress(60, 78, 18)).expect("progress");
    check(
        &View::new(&promotion),
        &[
            "  prechecking done",
            "  fencing    done",
            "  cutover    done",
            "  verifying  [###############-----] 60/78  18 asked",
        ],
    );
}
