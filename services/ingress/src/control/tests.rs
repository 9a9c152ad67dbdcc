use omnirelay_workflow::OperationId;
use omnirelay_workflow::gate::{self, GateAt, GatePolicy, Subject};
use omnirelay_workflow::operation::Progress;

use super::*;

const REQUESTER: &str = "ana";

fn now() -> Timestamp {
    Timestamp::from_second(1_000).expect("a time")
}

fn revisions(revision: u64) -> BTreeMap<String, u64> {
    BTreeMap::from([("peers/a".to_owned(), revision)])
}

fn gate(required: u32) -> Gate {
    let policy = GatePolicy {
        gate: GateAt::Start,
        required,
        approver_scope: "mesh.approve".to_owned(),
        expires_in_secs: 100,
        rule: "prod".to_owned(),
    };
    let revisions = revisions(1);
    let subject = Subject { verb: "peers.drain", target: "peers/a", params: "{}", revisions: &revisions, peers: &[] };
    gate::open(&policy, subject, now())
}

fn operation(verb: Verb, state: State) -> Operation {
    Operation {
        id: OperationId::from_u128(7),
        verb,
        target: "peers/a".to_owned(),
        state,
        phase: None,
        progress: Progress::default(),
        blockers: Vec::new(),
        paused: None,
        actor: REQUESTER.to_owned(),
        reason: None,
        change_ticket: None,
        params: json!({}),
        digest: String::new(),
        approval: (state == State::AwaitingApproval).then(|| gate(1)),
        cancel: None,
        queue: None,
        parent: None,
        children: None,
        created_at: now(),
        started_at: None,
        finished_at: None,
        deadline_at: None,
        result: None,
        error: None,
        revision: 3,
    }
}

/// A request of each control; a new one does not compile without.
fn asking(control: Control) -> Asking {
    let digest = gate(1).digest;
    match control {
        Control::Cancel => Asking::Cancel { keep_moved: None },
        Control::Pause => Asking::Pause,
        Control::Resume => Asking::Resume,
        Control::Approve => Asking::Approve { digest, comment: None },
        Control::Reject => Asking::Reject { digest, comment: None },
        Control::Resolve => Asking::Resolve,
    }
}

const BO: Asker<'_> = Asker { subject: "bo", is_admin: false, reason: Some("seen") };

fn ask(operation: &Operation, asking: &Asking, asker: Asker<'_>) -> Result<Option<Change>, Box<Problem>> {
    decide(operation, asking, asker, &revisions(1), now())
}

/// `unchanged`, the event that it becomes, or the code of the refusal.
fn told(outcome: &Result<Option<Change>, Box<Problem>>) -> String {
    match outcome {
        Ok(None) => "unchanged".to_owned(),
        Ok(Some(change)) => format!("{}.{}", change.resource, change.what),
        Err(problem) => problem.code.to_string(),
    }
}

/// What the contract says of each control in each state.
fn expected(control: Control, state: State) -> &'static str {
    let over = state.is_terminal();
    match control {
        Control::Cancel => match state {
            State::Unwinding | State::Cancelled => "unchanged",
            _ if over => "too-late",
            _ => "operations.unwinding",
        },
        Control::Pause if over || state == State::Unwinding => "invalid-state",
        Control::Pause => "operations.paused",
        Control::Resume if over => "invalid-state",
        Control::Resume => "unchanged",
        Control::Approve if state == State::AwaitingApproval => "approvals.approved",
        Control::Reject if state == State::AwaitingApproval => "approvals.rejected",
        Control::Approve | Control::Reject => "already-decided",
        Control::Resolve if state == State::Stuck => "operations.resolving",
        Control::Resolve => "invalid-state",
    }
}

#[test]
fn every_control_in_every_state() {
    for control in Control::ALL.iter().copied() {
        for state in State::ALL.iter().copied() {
            let operation = operation(Verb::PeersDrain, state);
            let asking = asking(control);
            assert_eq!(asking.control(), control);
            let outcome = ask(&operation, &asking, BO);
            assert_eq!(told(&outcome), expected(control, state), "{control} {state}");
            if let Err(problem) = outcome {
                assert!(!problem.detail.is_empty(), "{control} {state}");
                assert_eq!(
                    problem.extra.get("operation"),
                    Some(&json!(operation.id)),
                    "{control} {state}: {problem:?}"
                );
            }
        }
    }
}

#[test]
fn what_is_so_already_stays_as_it_is() {
    let paused = |state| Operation {
        paused: Some(Paused { by: "cy".to_owned(), at: now(), reason: None }),
        ..operation(Verb::PeersDrain, state)
    };
    for state in [State::AwaitingApproval, State::Queued, State::Running] {
        assert_eq!(told(&ask(&paused(state), &Asking::Pause, BO)), "unchanged", "{state}");
        assert_eq!(told(&ask(&paused(state), &Asking::Resume, BO)), "operations.resumed", "{state}");
    }
    assert_eq!(told(&ask(&paused(State::Unwinding), &Asking::Resume, BO)), "operations.resumed");
}

#[test]
fn a_cancel_keeps_moved_workloads_as_the_drain_was_asked_to_unless_it_says_otherwise() {
    let check = |params: Value, keep_moved: Option<bool>, expect: bool| {
        let operation = Operation { params, ..operation(Verb::PeersDrain, State::Running) };
        let change = ask(&operation, &Asking::Cancel { keep_moved }, BO).expect("in time").expect("a change");
        let Written::Cancel(cancel) = change.write else { panic!("{change:?}") };
        assert_eq!((cancel.keep_moved, cancel.by.as_str(), cancel.reason.as_deref()), (expect, "bo", Some("seen")));
    };
    check(json!({}), None, false);
    check(json!({"keepMoved": true}), None, true);
    check(json!({"keepMoved": true}), Some(false), false);
    check(json!({}), Some(true), true);
}

#[test]
fn after_the_cutover_it_is_too_late_to_cancel() {
    for verb in Verb::ALL.iter().copied() {
        let verifying = Operation { phase: Some("verifying".to_owned()), ..operation(verb, State::Running) };
        let late = matches!(verb, Verb::ClustersPromote | Verb::ClustersDemote);
        let expect = if late { "too-late" } else { "operations.unwinding" };
        assert_eq!(told(&ask(&verifying, &Asking::Cancel { keep_moved: None }, BO)), expect, "{verb}");
    }
}

#[test]
fn who_may_decide_at_a_gate() {
    let check = |asking: Control, asker: Asker<'_>, scope: &str, expect: &str| {
        let mut operation = operation(Verb::PeersDrain, State::AwaitingApproval);
        if let Some(gate) = &mut operation.approval {
            scope.clone_into(&mut gate.approver_scope);
        }
        let outcome = ask(&operation, &self::asking(asking), asker);
        assert_eq!(told(&outcome), expect, "{asking} {asker:?} {scope}");
        outcome.err().map(|problem| problem.status)
    };
    let admin = |subject| Asker { subject, is_admin: true, reason: None };
    let approver = |subject| Asker { subject, is_admin: false, reason: None };
    for asker in [approver(REQUESTER), admin(REQUESTER)] {
        assert_eq!(check(Control::Approve, asker, "mesh.approve", "self-approval"), Some(403));
    }
    assert_eq!(check(Control::Approve, approver("bo"), "mesh.admin", "insufficient-scope"), Some(403));
    assert_eq!(check(Control::Reject, approver("bo"), "mesh.admin", "insufficient-scope"), Some(403));
    check(Control::Approve, admin("bo"), "mesh.admin", "approvals.approved");
    check(Control::Approve, approver("bo"), "mesh.approve", "approvals.approved");
    // Taking one's own request back is no approval.
    check(Control::Reject, approver(REQUESTER), "mesh.approve", "approvals.rejected");
}

#[test]
fn an_approval_is_of_what_is_there_now() {
    let operation = operation(Verb::PeersDrain, State::AwaitingApproval);
    let digest = operation.approval.as_ref().expect("a gate").digest.clone();
    let approve = |digest: &str| Asking::Approve { digest: digest.to_owned(), comment: None };
    let wrong = ask(&operation, &approve("other"), BO).expect_err("a wrong digest");
    assert_eq!((wrong.code, wrong.extra.get("digest")), (Code::DigestMismatch, Some(&json!(digest))));
    // Changed by somebody else, and the worker has not looked yet.
    let stale = decide(&operation, &approve(&digest), BO, &revisions(2), now()).expect_err("stale");
    assert_eq!(stale.code, Code::DigestMismatch);
    let change = ask(&operation, &approve(&digest), BO).expect("fresh").expect("a change");
    assert_eq!((&change.detail["approver"], &change.detail["given"]), (&json!("bo"), &json!(1)));
}

#[test]
fn a_repeated_yes_changes_nothing_whatever_has_become_of_it() {
    let mut gate = gate(1);
    let digest = gate.digest.clone();
    let voice = Voice { actor: "bo", has_scope: true, digest: &digest, comment: None };
    gate.approve(REQUESTER, voice, now()).expect("in time");
    for state in [State::AwaitingApproval, State::Running, State::Succeeded, State::Cancelled] {
        let operation = Operation { approval: Some(gate.clone()), ..operation(Verb::PeersDrain, state) };
        let asking = Asking::Approve { digest: digest.clone(), comment: None };
        assert_eq!(told(&ask(&operation, &asking, BO)), "unchanged", "{state}");
        let other = Asker { subject: "cy", ..BO };
        assert_eq!(told(&ask(&operation, &asking, other)), "already-decided", "{state}");
    }
}

#[test]
fn a_gate_that_a_cancel_left_open_listens_to_nobody() {
    for state in State::ALL.iter().copied().filter(|state| *state != State::AwaitingApproval) {
        let operation = Operation { approval: Some(gate(1)), ..operation(Verb::PeersDrain, state) };
        for control in [Control::Approve, Control::Reject] {
            assert_eq!(told(&ask(&operation, &asking(control), BO)), "already-decided", "{control} {state}");
        }
    }
}

/// The request that undoes each verb once it has succeeded: `POST path body`. A new verb does not compile without.
fn undone_by(verb: Verb) -> Option<(&'static str, Value)> {
    match verb {
        Verb::PeersCordon | Verb::PeersDrain => Some(("/control/peers/a:uncordon", json!({}))),
        Verb::PeersUncordon => Some(("/control/peers/a:cordon", json!({}))),
        Verb::ClustersPromote => Some(("/control/clusters/old:promote", json!({"demote": ["new"]}))),
        Verb::ClustersDemote => Some(("/control/clusters/old:promote", json!({"demote": []}))),
        Verb::ConfigPatch | Verb::ConfigRollback => Some(("/control/config:rollback", json!({"revision": 4}))),
        // What was there before is in the event, not in the operation.
        Verb::PeersPatch | Verb::PeersPut | Verb::ClustersPut => None,
    }
}

#[test]
fn every_verb_has_its_inverse_or_none() {
    for verb in Verb::ALL.iter().copied() {
        let mut done = operation(verb, State::Succeeded);
        done.result = Some(json!({"revisionBefore": 4, "revision": 5}));
        done.params = match verb {
            Verb::ClustersPromote => json!({"promote": "new", "demote": ["old"], "force": false}),
            Verb::ClustersDemote => json!({"promote": null, "demote": ["old"], "force": false}),
            _ => json!({}),
        };
        let got = inverse(&done).map(|inverse| (inverse.method, inverse.path, inverse.body));
        let expect = undone_by(verb).map(|(path, body)| ("POST".to_owned(), path.to_owned(), body));
        assert_eq!(got, expect, "{verb}");
        let late = ask(&done, &Asking::Cancel { keep_moved: None }, BO).expect_err("it has ended");
        assert_eq!(
            (late.code, late.extra.contains_key("inverse")),
            (Code::TooLate, undone_by(verb).is_some()),
            "{verb}"
        );
        for state in State::ALL.iter().copied() {
            let other = Operation { state, ..done.clone() };
            let kept = match (verb, state) {
                (_, State::Succeeded) => true,
                // Stopped where it was, at its deadline.
                (Verb::PeersDrain, State::Failed) => true,
                // After its cutover.
                (Verb::ClustersPromote | Verb::ClustersDemote, State::Running) => true,
                _ => false,
            };
            assert_eq!(inverse(&other).is_some(), kept && undone_by(verb).is_some(), "{verb} {state}");
        }
    }
    // The children of a bulk drain are undone one by one.
    let bulk = Operation { children: Some(BTreeMap::new()), ..operation(Verb::PeersDrain, State::Succeeded) };
    assert_eq!(inverse(&bulk), None);
}

#[test]
fn scopes_are_those_of_the_contract() {
    for control in Control::ALL.iter().copied() {
        let expect = match control {
            Control::Cancel | Control::Pause | Control::Resume => "mesh.operate",
            Control::Approve | Control::Reject => "mesh.approve",
            Control::Resolve => "mesh.admin",
        };
        assert_eq!(scope(control).to_string(), expect, "{control}");
    }
}
