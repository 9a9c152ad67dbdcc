//! The audit's facts of whatever is taken or refused here, enumerated over verbs and codes.

use std::time::Duration;

use omnirelay_contract::problem::{Code, Problem};
use omnirelay_runtime::auth::Scope;
use omnirelay_workflow::operation::Control;
use serde_json::json;

use super::*;
use crate::access::{self, AccessRefusal};

fn principal() -> Arc<Principal> {
    Arc::new(Principal {
        subject: "ana".to_owned(),
        scopes: [Scope::Operate].into_iter().collect(),
        granted: vec![Scope::Operate.to_string()],
        token_id: Some("t-1".to_owned()),
    })
}

fn read(event: &PreparedEvent) -> Event {
    serde_json::from_str(&event.payload).expect("a CloudEvent")
}

#[track_caller]
fn whole(event: &Event, verb: &str, outcome: &str) {
    let facts = &event.data.audit;
    assert_eq!((facts.verb.as_str(), facts.outcome.as_str()), (verb, outcome));
    let actor = facts.actor.as_ref().expect("an actor");
    assert_eq!((actor.subject.as_str(), actor.token_id.as_deref()), ("ana", Some("t-1")), "{verb} {outcome}");
    assert_eq!(
        (actor.address.as_deref(), actor.scopes.as_slice()),
        (Some("10.0.0.1"), &["mesh.operate".to_owned()][..])
    );
    assert_eq!(
        (facts.reason.as_deref(), facts.change_ticket.as_deref()),
        (Some("kernel"), Some("CHG-1")),
        "{verb} {outcome}"
    );
    assert_eq!(event.data.detail.get("target"), Some(&json!("peers/a")), "{verb} {outcome}");
}

#[test]
fn every_verb_is_accepted_with_who_what_why_and_which_ticket() {
    for verb in Verb::ALL.iter().copied() {
        let draft = Draft {
            id: None,
            verb,
            about: Target::Peer(PeerId::parse("a").expect("an id")),
            asked: Asked::Peer,
            principal: &principal(),
            address: "10.0.0.1".to_owned(),
            reason: Some("kernel".to_owned()),
            change_ticket: Some("CHG-1".to_owned()),
            params: "{}".to_owned(),
            request_digest: String::new(),
            traceparent: "00-1-2-01".to_owned(),
        };
        let submission = draft.prepare().expect("a submission");
        let event = read(&submission.event);
        whole(&event, verb.as_str(), "accepted");
        assert_eq!(event.kind, "omnirelay.operations.submitted");
        assert_eq!((event.data.operation, event.data.operation_seq), (Some(submission.id), Some(1)));
        assert_eq!(event.traceparent.as_deref(), Some("00-1-2-01"));
    }
}

#[test]
fn every_refusal_of_everything_that_can_be_asked_is_recorded_whole() {
    let verbs = Verb::ALL.iter().map(|verb| verb.as_str()).chain(Control::ALL.iter().map(|control| control.as_str()));
    for verb in verbs {
        for code in Code::ALL.iter().copied() {
            let problem = Problem::new(code, "look at it");
            let event = access::event(AccessRefusal {
                actor: principal().actor(Some("10.0.0.1".to_owned())),
                verb,
                target: "peers/a",
                reason: Some("kernel"),
                change_ticket: Some("CHG-1"),
                traceparent: "",
                latency: Duration::from_millis(3),
                problem: &problem,
            });
            let event = read(&event.expect("an event"));
            let outcome = if code.http_status() == 403 { "denied" } else { "refused" };
            whole(&event, verb, outcome);
            assert_eq!(event.kind, format!("omnirelay.access.{outcome}"));
            let detail = &event.data.detail;
            assert_eq!((&detail["code"], &detail["status"]), (&json!(code.as_str()), &json!(code.http_status())));
            assert_eq!((&detail["detail"], event.data.audit.latency_ms), (&json!("look at it"), Some(3)));
        }
    }
}
