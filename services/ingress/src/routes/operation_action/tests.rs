use std::net::SocketAddr;
use std::time::Instant;

use omnirelay_contract::event::Event;
use omnirelay_runtime::auth::Principal;
use omnirelay_workflow::gate::{self, GateAt, GatePolicy, Subject};
use omnirelay_workflow::operation::{Paused, Progress, State as At, Verb};
use serde_json::json;

use super::*;

fn operation(verb: Verb, state: At) -> Operation {
    let revisions = BTreeMap::new();
    let policy = GatePolicy {
        gate: GateAt::Start,
        required: 1,
        approver_scope: "mesh.approve".to_owned(),
        expires_in_secs: 100,
        rule: "prod".to_owned(),
    };
    let subject = Subject { verb: verb.as_str(), target: "peers/a", params: "{}", revisions: &revisions, peers: &[] };
    let paused = Paused { by: "cy".to_owned(), at: now(), reason: None };
    Operation {
        id: OperationId::from_u128(7),
        verb,
        target: "peers/a".to_owned(),
        state,
        phase: None,
        progress: Progress::default(),
        blockers: Vec::new(),
        paused: (state == At::Queued).then_some(paused),
        actor: "ana".to_owned(),
        reason: None,
        change_ticket: None,
        params: json!({}),
        digest: String::new(),
        approval: (state == At::AwaitingApproval).then(|| gate::open(&policy, subject, now())),
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

fn now() -> omnirelay_workflow::Timestamp {
    omnirelay_workflow::Timestamp::from_second(1_000).expect("a time")
}

/// A state in which the control changes something. A new one does not compile without.
fn taken_in(control: Control) -> At {
    match control {
        Control::Cancel | Control::Pause => At::Running,
        Control::Resume => At::Queued,
        Control::Approve | Control::Reject => At::AwaitingApproval,
        Control::Resolve => At::Stuck,
    }
}

#[test]
fn every_control_is_recorded_with_who_what_why_and_which_ticket() {
    let caller = Caller {
        principal: Arc::new(Principal {
            subject: "bo".to_owned(),
            scopes: [Scope::Admin].into_iter().collect(),
            granted: vec![Scope::Admin.to_string()],
            token_id: None,
        }),
        address: SocketAddr::from(([10, 0, 0, 1], 999)),
        since: Instant::now(),
    };
    for (verb, control) in Verb::ALL.iter().flat_map(|verb| Control::ALL.iter().map(move |control| (*verb, *control))) {
        let operation = operation(verb, taken_in(control));
        let digest = operation.approval.as_ref().map(|gate| gate.digest.clone()).unwrap_or_default();
        let asking = match control {
            Control::Cancel => Asking::Cancel { keep_moved: None },
            Control::Pause => Asking::Pause,
            Control::Resume => Asking::Resume,
            Control::Approve => Asking::Approve { digest, comment: Some("fine".to_owned()) },
            Control::Reject => Asking::Reject { digest, comment: None },
            Control::Resolve => Asking::Resolve,
        };
        let mut trail = Trail::new(control.as_str(), "operations/7".to_owned(), &http::Request::new(()).into_parts().0);
        (trail.reason, trail.change_ticket) = (Some("kernel".to_owned()), Some("CHG-1".to_owned()));
        let asker = Asker { subject: "bo", is_admin: true, reason: trail.reason.as_deref() };
        let change = decide(&operation, &asking, asker, &BTreeMap::new(), now()).expect("taken").expect("a change");
        let wanted = Wanted {
            asking: &asking,
            caller: &caller,
            if_match: None,
            validate_only: false,
            waits: false,
            trail: &trail,
        };
        let event = event(5, &operation, &change, &wanted).expect("an event");
        let read: Event = serde_json::from_str(&event.payload).expect("a CloudEvent");
        let facts = &read.data.audit;
        assert_eq!((facts.verb.as_str(), facts.outcome.as_str()), (control.as_str(), "accepted"));
        assert_eq!(
            facts.actor.as_ref().map(|actor| actor.subject.as_str()),
            Some("bo"),
            "who asked, not who is asked about"
        );
        assert_eq!(
            (facts.reason.as_deref(), facts.change_ticket.as_deref()),
            (Some("kernel"), Some("CHG-1")),
            "{control}"
        );
        assert_eq!((facts.revision_before, facts.revision_after), (Some(3), Some(4)), "{control}");
        assert!(facts.latency_ms.is_some(), "{control}");
        assert_eq!(read.traceparent, Some(trail.traceparent.clone()), "{control}");
        assert_eq!((read.data.operation, read.data.operation_seq), (Some(operation.id), Some(5)), "{control}");
        assert_eq!((&read.data.detail["verb"], &read.data.detail["target"]), (&json!(verb), &json!("peers/a")));
        assert_eq!(read.kind, format!("omnirelay.{}.{}", change.resource, change.what));
        assert_eq!(event.nats_subject, format!("omni.v1.event.{}.{}.{}", change.resource, operation.id, change.what));
    }
}
