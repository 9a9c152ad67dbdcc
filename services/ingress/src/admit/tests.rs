use std::sync::Arc;

use omnirelay_runtime::auth::{Principal, Scope};
use omnirelay_store::intake::{Bound, PeerFacts};
use omnirelay_workflow::PeerId;
use uuid::Uuid;

use super::*;
use crate::request::IfMatch;
use crate::submission::Draft;

fn submission(verb: Verb) -> Submission {
    let principal = Arc::new(Principal {
        subject: "ana".to_owned(),
        scopes: [Scope::Operate].into_iter().collect(),
        granted: vec![Scope::Operate.to_string()],
        token_id: None,
    });
    let draft = Draft {
        verb,
        peer: PeerId::parse("edge-7").expect("an id"),
        principal: &principal,
        address: "127.0.0.1".to_owned(),
        reason: None,
        change_ticket: None,
        params: "{}".to_owned(),
        request_digest: "digest-1".to_owned(),
        traceparent: String::new(),
    };
    draft.prepare().expect("a submission")
}

fn peer() -> PeerFacts {
    PeerFacts { revision: 7, drain_mark: "none".to_owned(), holds: "[]".to_owned(), locked_by: None }
}

fn bound(digest: &str) -> Option<Bound> {
    Some(Bound { operation: Uuid::from_u128(1), request_digest: digest.to_owned() })
}

fn now() -> Timestamp {
    Timestamp::from_second(1_000).expect("a time")
}

fn confirmations() -> Confirmations {
    Confirmations::new(b"key".to_vec())
}

fn confirmed(revision: u64) -> Option<String> {
    let subject = Subject { actor: "ana", request_digest: "digest-1", target: "peers/edge-7", revision };
    Some(confirmations().give(subject, now()).token)
}

/// `create`, `replay`, `plan`, `plan <why>` or the code of the refusal.
fn verdict(submission: &Submission, facts: &Facts) -> String {
    match admit(submission, facts, &confirmations(), now()) {
        Verdict::Create => "create".to_owned(),
        Verdict::Replay(_) => "replay".to_owned(),
        Verdict::Written => "written".to_owned(),
        Verdict::Plan { unconfirmed: None, .. } => "plan".to_owned(),
        Verdict::Plan { unconfirmed: Some(why), .. } => format!("plan {why:?}"),
        Verdict::Refuse(problem) => problem.code.to_string(),
    }
}

#[test]
fn checks_come_in_the_contracts_order() {
    let held = PeerFacts { locked_by: Some(Uuid::from_u128(2)), ..peer() };
    let drained = PeerFacts { drain_mark: "drained".to_owned(), ..peer() };
    let stale = Some(IfMatch::Revisions(vec![6]));
    let fresh = Some(IfMatch::Revisions(vec![6, 7]));
    let (cordon, drain) = (submission(Verb::PeersCordon), submission(Verb::PeersDrain));
    let check = |submission: &Submission, bound: Option<Bound>, peer: Option<&PeerFacts>, expect: &str| {
        let facts = Facts { bound, peer: peer.cloned() };
        assert_eq!(verdict(submission, &facts), expect, "{} {facts:?}", submission.verb);
    };
    let with = |base: &Submission, change: &dyn Fn(&mut Submission)| {
        let mut changed = base.clone();
        change(&mut changed);
        changed
    };
    let cordon_stale = with(&cordon, &|s| s.if_match.clone_from(&stale));
    let drain_stale = with(&drain, &|s| s.if_match.clone_from(&stale));
    let drain_confirmed = with(&drain, &|s| s.confirmation = confirmed(7));

    // A key that is bound comes before everything else, the peer's absence included.
    check(&drain_stale, bound("digest-1"), None, "replay");
    check(&drain_stale, bound("digest-2"), Some(&held), "idempotency-key-reused");
    check(&drain_stale, Some(Bound { operation: drain.id, request_digest: "x".to_owned() }), Some(&held), "written");
    check(&cordon_stale, None, None, "not-found");
    check(&cordon_stale, None, Some(&peer()), "revision-mismatch");
    check(&drain_stale, None, Some(&held), "revision-mismatch");
    check(&with(&cordon, &|s| s.if_match.clone_from(&fresh)), None, Some(&peer()), "create");
    check(&with(&cordon, &|s| s.if_match = Some(IfMatch::Any)), None, Some(&peer()), "create");
    check(&drain, None, Some(&held), "operation-in-progress");
    check(&drain_confirmed, None, Some(&held), "operation-in-progress");
    // A cordon does not mind a drain; whether an uncordon does is the worker's to say.
    check(&cordon, None, Some(&held), "create");
    check(&submission(Verb::PeersUncordon), None, Some(&held), "create");
    check(&drain, None, Some(&peer()), "plan Missing");
    check(&with(&drain, &|s| s.confirmation = Some("nonsense".to_owned())), None, Some(&peer()), "plan Malformed");
    check(&with(&drain, &|s| s.confirmation = confirmed(6)), None, Some(&peer()), "plan Stale");
    check(&drain_confirmed, None, Some(&peer()), "create");
    check(&drain, None, Some(&drained), "create");
    // A plan alone is refused as the request would be.
    check(&with(&drain, &|s| s.validate_only = true), None, Some(&peer()), "plan");
    check(&with(&cordon, &|s| s.validate_only = true), None, Some(&peer()), "plan");
    check(&with(&drain, &|s| s.validate_only = true), None, Some(&held), "operation-in-progress");
    check(&with(&drain, &|s| s.validate_only = true), None, None, "not-found");
}

#[test]
fn a_refusal_names_what_stands_in_the_way() {
    let holder = Uuid::from_u128(2);
    let facts = Facts { bound: None, peer: Some(PeerFacts { locked_by: Some(holder), ..peer() }) };
    let Verdict::Refuse(problem) = admit(&submission(Verb::PeersDrain), &facts, &confirmations(), now()) else {
        panic!("not refused");
    };
    assert_eq!(problem.extra.get("operation"), Some(&serde_json::json!(holder)));
    let mut stale = submission(Verb::PeersCordon);
    stale.if_match = Some(IfMatch::Revisions(vec![1]));
    let facts = Facts { bound: None, peer: Some(peer()) };
    let Verdict::Refuse(problem) = admit(&stale, &facts, &confirmations(), now()) else { panic!("not refused") };
    assert_eq!(problem.extra.get("revision"), Some(&serde_json::json!(7)));
}
