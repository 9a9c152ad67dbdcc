use std::sync::Arc;

use omnirelay_runtime::auth::{Principal, Scope};
use omnirelay_store::intake::{Bound, PeerFacts};
use omnirelay_workflow::operation::Target;
use omnirelay_workflow::promote;
use omnirelay_workflow::resource::{ClusterState, Health, PeerState};
use omnirelay_workflow::rules::GateRequest;
use omnirelay_workflow::settings::Settings;
use omnirelay_workflow::{ClusterId, PeerId};
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::confirmation::Subject;
use crate::request::IfMatch;
use crate::submission::{Draft, Frozen};

fn cluster_id(id: &str) -> ClusterId {
    ClusterId::parse(id).expect("an id")
}

/// A request of each verb, about peer `edge-7`, cluster `c` or the settings. A new verb does not compile without.
fn of(verb: Verb) -> (Target, Asked) {
    let peer = || Target::Peer(PeerId::parse("edge-7").expect("an id"));
    let cluster = || Target::Cluster(cluster_id("c"));
    let params = |promote: Option<&str>, demote: &[&str]| promote::Params {
        promote: promote.map(cluster_id),
        demote: demote.iter().map(|id| cluster_id(id)).collect(),
        force: false,
    };
    match verb {
        Verb::PeersCordon | Verb::PeersUncordon | Verb::PeersDrain | Verb::PeersPatch => (peer(), Asked::Peer),
        Verb::PeersPut => (peer(), Asked::PutPeer { create: false, cluster: Some(cluster_id("c")), state: None }),
        Verb::ClustersPromote => (cluster(), Asked::Clusters(params(Some("c"), &["b"]))),
        Verb::ClustersDemote => (cluster(), Asked::Clusters(params(None, &["c"]))),
        Verb::ClustersPut => (cluster(), Asked::PutCluster { create: false, state: None }),
        Verb::ConfigPatch => {
            (Target::Settings, Asked::Config { patch: json!({"drain": {"maxConcurrent": 2}}), whole: false })
        }
        Verb::ConfigRollback => {
            let mut whole = Settings::default_value();
            whole["drain"]["maxConcurrent"] = json!(3);
            (Target::Settings, Asked::Config { patch: whole, whole: true })
        }
    }
}

fn submission(verb: Verb) -> Submission {
    let principal = Arc::new(Principal {
        subject: "ana".to_owned(),
        scopes: [Scope::Operate].into_iter().collect(),
        granted: vec![Scope::Operate.to_string()],
        token_id: None,
    });
    let (about, asked) = of(verb);
    let draft = Draft {
        id: None,
        verb,
        about,
        asked,
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

fn with(base: &Submission, change: impl FnOnce(&mut Submission)) -> Submission {
    let mut changed = base.clone();
    change(&mut changed);
    changed
}

fn peer() -> PeerFacts {
    PeerFacts {
        revision: 7,
        drain_mark: "none".to_owned(),
        holds: "[]".to_owned(),
        locked_by: None,
        labels: Some("{\"env\":\"prod\"}".to_owned()),
        cluster: "c".to_owned(),
        role: "web".to_owned(),
        name: "web-07".to_owned(),
        health: "healthy".to_owned(),
    }
}

fn cluster(id: &str, state: ClusterState) -> ClusterFacts {
    ClusterFacts {
        id: cluster_id(id),
        revision: 7,
        state,
        labels: [("env".to_owned(), "prod".to_owned())].into(),
        region: String::new(),
        locked_by: None,
        peers: 1,
        healthy: 1,
        lag_ms: Some(0),
    }
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

fn confirmed(submission: &Submission, revision: u64) -> Option<String> {
    Some(confirmations().give(submission.confirms(revision), now()).token)
}

/// The record: everything there and free, at revision 7; the mesh has two active clusters, `c` is passive for a promotion.
struct World {
    facts: Facts,
    clusters: Vec<ClusterFacts>,
    peers: Vec<ClusterPeer>,
    settings: Snapshot,
}

fn world(verb: Verb) -> World {
    let state = if verb == Verb::ClustersDemote { ClusterState::Active } else { ClusterState::Passive };
    let healthy = |cluster: &str| ClusterPeer {
        cluster: cluster_id(cluster),
        peer: PeerId::parse(&format!("{cluster}-1")).expect("an id"),
        health: Health::Healthy,
        lag_ms: Some(0),
    };
    World {
        facts: Facts { bound: None, peer: Some(peer()), config: 7 },
        clusters: vec![cluster("a", ClusterState::Active), cluster("b", ClusterState::Active), cluster("c", state)],
        peers: ["b", "c"].map(healthy).into(),
        settings: Snapshot { revision: 7, value: Settings::default_value(), settings: Settings::default() },
    }
}

impl World {
    fn with_rules(mut self, rules: &Value) -> Self {
        let (value, settings) =
            Settings::patched(&self.settings.value, &json!({"approvals": {"rules": rules}})).expect("rules");
        self.settings = Snapshot { revision: 7, value, settings };
        self
    }

    fn admit(&self, submission: &Submission) -> Verdict {
        let record =
            Record { facts: &self.facts, clusters: &self.clusters, peers: &self.peers, settings: &self.settings };
        admit(submission, record, &confirmations(), now())
    }

    /// `create`, `replay`, `plan`, `plan <why>` or the code of the refusal.
    fn verdict(&self, submission: &Submission) -> String {
        match self.admit(submission) {
            Verdict::Create { .. } => "create".to_owned(),
            Verdict::Replay(_) => "replay".to_owned(),
            Verdict::Written => "written".to_owned(),
            Verdict::Plan { unconfirmed: None, .. } => "plan".to_owned(),
            Verdict::Plan { unconfirmed: Some(why), .. } => format!("plan {why:?}"),
            Verdict::Refuse(problem) => problem.code.to_string(),
        }
    }

    fn problem(&self, submission: &Submission) -> Problem {
        match self.admit(submission) {
            Verdict::Refuse(problem) => *problem,
            other => panic!("not refused: {other:?}"),
        }
    }
}

fn fresh() -> Option<IfMatch> {
    Some(IfMatch::Revisions(vec![6, 7]))
}

fn stale() -> Option<IfMatch> {
    Some(IfMatch::Revisions(vec![6]))
}

/// What a confirmation of the verb binds: the revision, or a fingerprint where it is about several resources.
fn bound_revision(world: &World, submission: &Submission) -> u64 {
    match world.admit(&with(submission, |s| s.validate_only = true)) {
        Verdict::Plan { revision, .. } => revision,
        other => panic!("no plan of {}: {other:?}", submission.verb),
    }
}

#[test]
fn every_verb_is_checked_in_the_contracts_order() {
    for verb in Verb::ALL.iter().copied() {
        let needs_match = matches!(verb, Verb::PeersPatch | Verb::ConfigPatch | Verb::ConfigRollback);
        let wanted = with(&submission(verb), |s| s.if_match = fresh());
        let check = |world: &World, submission: &Submission, expect: &str| {
            assert_eq!(world.verdict(submission), expect, "{verb} {:?}", world.facts);
        };
        let world = world(verb);

        // A key that is bound comes before everything else, the target's absence included.
        for (bound, expect) in [
            (bound("digest-1"), "replay"),
            (bound("digest-2"), "idempotency-key-reused"),
            (Some(Bound { operation: wanted.id, request_digest: "x".to_owned() }), "written"),
        ] {
            let mut world = self::world(verb);
            world.facts = Facts { bound, peer: None, config: 7 };
            world.clusters.clear();
            check(&world, &with(&wanted, |s| s.if_match = stale()), expect);
        }
        check(&world, &with(&wanted, |s| s.if_match = stale()), "revision-mismatch");
        check(
            &world,
            &with(&wanted, |s| s.if_match = None),
            match (needs_match, verb.is_destructive()) {
                (true, _) => "precondition-required",
                (false, true) => "plan Missing",
                (false, false) => "create",
            },
        );
        check(&world, &with(&wanted, |s| s.validate_only = true), "plan");
        if !verb.is_destructive() {
            check(&world, &wanted, "create");
            check(&world, &with(&wanted, |s| s.if_match = Some(IfMatch::Any)), "create");
            continue;
        }
        let revision = bound_revision(&world, &wanted);
        check(&world, &wanted, "plan Missing");
        check(&world, &with(&wanted, |s| s.confirmation = Some("nonsense".to_owned())), "plan Malformed");
        let old = confirmed(&wanted, revision.wrapping_sub(1));
        check(&world, &with(&wanted, |s| s.confirmation = old), "plan Stale");
        let token = confirmed(&wanted, revision);
        check(&world, &with(&wanted, |s| s.confirmation = token), "create");
    }
}

#[test]
fn what_is_not_there_is_not_found_unless_it_is_to_be_made() {
    for verb in Verb::ALL.iter().copied() {
        let mut world = world(verb);
        world.facts.peer = None;
        world.clusters.retain(|cluster| cluster.id.as_str() != "c");
        let expect = match verb {
            Verb::PeersCordon | Verb::PeersUncordon | Verb::PeersDrain | Verb::PeersPatch => "not-found",
            // Its cluster is not there either.
            Verb::PeersPut => "not-found",
            Verb::ClustersPromote | Verb::ClustersDemote => "not-found",
            Verb::ClustersPut => "create",
            Verb::ConfigPatch | Verb::ConfigRollback => "precondition-required",
        };
        assert_eq!(world.verdict(&submission(verb)), expect, "{verb}");
    }
}

#[test]
fn a_rollback_to_nowhere_is_not_found_after_its_key_was_looked_up() {
    let mut world = world(Verb::ConfigRollback);
    let nowhere = with(&submission(Verb::ConfigRollback), |s| {
        s.if_match = stale();
        s.asked = Asked::Missing("there is no revision 9 of the settings".to_owned());
    });
    assert_eq!(world.verdict(&nowhere), "not-found");
    world.facts.bound = bound("digest-2");
    assert_eq!(world.verdict(&nowhere), "idempotency-key-reused");
}

#[test]
fn who_is_in_the_way_is_named() {
    let holder = Uuid::from_u128(2);
    for verb in Verb::ALL.iter().copied() {
        let mut world = world(verb);
        world.facts.peer = Some(PeerFacts { locked_by: Some(holder), ..peer() });
        world.clusters[2].locked_by = Some(holder);
        let wanted = with(&submission(verb), |s| s.if_match = fresh());
        // Cordons, patches and puts mind nobody; whether an uncordon does is the worker's to say.
        if !matches!(verb, Verb::PeersDrain | Verb::ClustersPromote | Verb::ClustersDemote) {
            assert_ne!(world.verdict(&wanted), "operation-in-progress", "{verb}");
            continue;
        }
        for wanted in [
            wanted.clone(),
            with(&wanted, |s| s.validate_only = true),
            with(&wanted, |s| s.confirmation = Some("nonsense".to_owned())),
        ] {
            let problem = world.problem(&wanted);
            assert_eq!(problem.code, Code::OperationInProgress, "{verb}");
            assert_eq!(problem.extra.get("operation"), Some(&json!(holder)), "{verb}");
        }
        let stale = with(&wanted, |s| s.if_match = stale());
        assert_eq!(world.problem(&stale).extra.get("revision"), Some(&json!(7)), "412 comes first: {verb}");
    }
}

#[test]
fn what_changes_nothing_needs_no_confirmation_and_no_approval() {
    let rules = json!([{"name": "all", "verbs": ["peers.drain", "clusters.promote", "clusters.demote", "config.patch"],
                        "gate": "start"}]);
    for verb in [Verb::PeersDrain, Verb::ClustersPromote, Verb::ClustersDemote, Verb::ConfigPatch] {
        let mut world = world(verb).with_rules(&rules);
        world.facts.peer = Some(PeerFacts { drain_mark: "drained".to_owned(), ..peer() });
        let (promoted, others) = if verb == Verb::ClustersPromote {
            (ClusterState::Active, ClusterState::Passive)
        } else {
            (ClusterState::Passive, ClusterState::Active)
        };
        world.clusters[2].state = promoted;
        world.clusters[1].state = others;
        let wanted = with(&submission(verb), |s| {
            s.if_match = fresh();
            if verb == Verb::ConfigPatch {
                s.asked = Asked::Config { patch: json!({"drain": {}}), whole: false };
            }
        });
        // Bound to what was looked at: later it might change something.
        let Verdict::Create { gates, pin } = world.admit(&wanted) else { panic!("{verb} is taken") };
        assert!(gates.is_empty() && pin.is_some(), "{verb}");
    }
    let nobody = with(&submission(Verb::PeersDrain), |s| s.asked = Asked::Many { peers: Vec::new(), canary: 0 });
    assert_eq!(world(Verb::PeersDrain).verdict(&nobody), "create");
}

#[test]
fn a_setting_that_cannot_be_is_named_with_its_rule() {
    let world = world(Verb::ConfigPatch);
    let check = |patch: Value, key: &str| {
        let wanted = with(&submission(Verb::ConfigPatch), |s| {
            s.if_match = fresh();
            s.asked = Asked::Config { patch: patch.clone(), whole: false };
        });
        let problem = world.problem(&wanted);
        assert_eq!((problem.code, problem.status), (Code::InvalidSetting, 422), "{patch}");
        assert_eq!(problem.extra.get("key"), Some(&json!(key)), "{patch}");
        assert!(problem.extra.get("rule").and_then(Value::as_str).is_some_and(|rule| !rule.is_empty()), "{patch}");
        // 412 comes first.
        assert_eq!(world.verdict(&with(&wanted, |s| s.if_match = stale())), "revision-mismatch", "{patch}");
    };
    check(json!({"drain": {"maxConcurrent": 0}}), "drain.maxConcurrent");
    check(json!({"drain": {"deadline": "soon"}}), "drain.deadline");
    check(json!({"colour": 1}), "colour");
    check(
        json!({"approvals": {"rules": [{"name": "x", "verbs": ["peers.explode"], "gate": "start"}]}}),
        "approvals.rules[0].verbs[0]",
    );
}

#[test]
fn puts_make_what_is_not_there_and_keep_what_is() {
    let put = |create, cluster: Option<&str>, state| Asked::PutPeer { create, cluster: cluster.map(cluster_id), state };
    let check = |asked: Asked, there: bool, expect: &str| {
        let mut world = world(Verb::PeersPut);
        if !there {
            world.facts.peer = None;
        }
        let wanted = with(&submission(Verb::PeersPut), |s| s.asked = asked.clone());
        assert_eq!(world.verdict(&wanted), expect, "{asked:?} {there}");
    };
    check(put(false, Some("c"), None), false, "create");
    check(put(false, Some("nowhere"), None), false, "not-found");
    check(put(false, None, None), false, "invalid-argument");
    check(put(true, Some("c"), Some(PeerState::Cordoned)), false, "create");
    check(put(false, None, None), true, "create");
    check(put(true, Some("c"), None), true, "revision-mismatch");
    check(put(false, Some("b"), None), true, "invalid-state");
    check(put(false, Some("c"), Some(PeerState::Cordoned)), true, "invalid-state");
    check(put(false, Some("c"), Some(PeerState::Active)), true, "create");
    let check = |create, state, there: bool, expect: &str| {
        let mut world = world(Verb::ClustersPut);
        if !there {
            world.clusters.clear();
        }
        let wanted = with(&submission(Verb::ClustersPut), |s| s.asked = Asked::PutCluster { create, state });
        assert_eq!(world.verdict(&wanted), expect, "{create} {state:?} {there}");
    };
    check(true, Some(ClusterState::Active), false, "create");
    check(true, None, true, "revision-mismatch");
    check(false, Some(ClusterState::Active), true, "invalid-state");
    check(false, Some(ClusterState::Passive), true, "create");
    check(false, None, true, "create");
}

#[test]
fn what_creates_only_is_looked_at_again_by_the_worker() {
    let check = |asked: Asked, if_match: Option<IfMatch>, expect: Option<&str>| {
        let mut wanted =
            with(&submission(Verb::PeersPut), |s| (s.asked, s.if_match) = (asked.clone(), if_match.clone()));
        wanted.keep_preconditions();
        assert_eq!(wanted.if_match_json.as_deref(), expect, "{asked:?} {if_match:?}");
    };
    check(Asked::PutPeer { create: true, cluster: None, state: None }, None, Some("[0]"));
    check(Asked::PutPeer { create: false, cluster: None, state: None }, None, None);
    check(Asked::Peer, fresh(), Some("[6,7]"));
    check(Asked::Peer, Some(IfMatch::Any), None);
    check(Asked::Peer, Some(IfMatch::Revisions(Vec::new())), Some("[]"));
}

#[test]
fn gates_come_from_the_rules_that_match_and_from_the_request() {
    let rules = json!([
        {"name": "prod", "verbs": ["peers.drain", "peers.patch", "clusters.promote"], "selector": "env=prod", "gate": "start",
         "required": 2},
        {"name": "named", "verbs": ["peers.drain"], "selector": "name=web-08", "gate": "start", "required": 9},
        {"name": "ticketed", "verbs": ["peers.cordon"], "gate": "start", "requireTicket": true},
    ]);
    let gates = |submission: &Submission, change: &dyn Fn(&mut World)| {
        let mut world = world(submission.verb).with_rules(&rules);
        change(&mut world);
        match world.admit(&with(submission, |s| s.validate_only = true)) {
            Verdict::Plan { gates, .. } => gates
                .iter()
                .map(|gate| format!("{} {} {}", gate.gate, gate.required, gate.rule))
                .collect::<Vec<_>>()
                .join("; "),
            Verdict::Refuse(problem) => {
                format!("{} {}", problem.code, problem.extra.get("rule").unwrap_or(&json!("-")))
            }
            other => panic!("{other:?}"),
        }
    };
    let as_it_is = |_: &mut World| {};
    let drain = submission(Verb::PeersDrain);
    assert_eq!(gates(&drain, &as_it_is), "start 2 prod");
    let in_test = |world: &mut World| {
        world.facts.peer = Some(PeerFacts { labels: Some("{\"env\":\"test\"}".to_owned()), ..peer() });
    };
    assert_eq!(gates(&drain, &in_test), "");
    let own = |gate: &str| Some(GateRequest::parse(&json!(gate)).expect("a gate"));
    assert_eq!(gates(&with(&drain, |s| s.gate = own("start")), &in_test), "start 1 request");
    // What it never comes to would hold it up nowhere.
    assert_eq!(gates(&with(&drain, |s| s.gate = own("cutover")), &as_it_is), "start 2 prod");
    assert_eq!(gates(&submission(Verb::ClustersPromote), &as_it_is), "start 2 prod");
    assert_eq!(gates(&submission(Verb::PeersCordon), &as_it_is), "ticket-required \"ticketed\"");
    let ticket = with(&submission(Verb::PeersCordon), |s| s.change_ticket = Some("CHG-1".to_owned()));
    assert_eq!(gates(&ticket, &as_it_is), "start 1 ticketed");
    // A bulk drain needs what any of its peers needs.
    let frozen = |name: &str, env: &str| Frozen {
        id: PeerId::parse(name).expect("an id"),
        name: name.to_owned(),
        cluster: cluster_id("c"),
        role: String::new(),
        state: "active".to_owned(),
        health: "healthy".to_owned(),
        labels: [("env".to_owned(), env.to_owned())].into(),
    };
    let bulk = |peers: Vec<Frozen>| with(&drain, |s| s.asked = Asked::Many { peers, canary: 0 });
    assert_eq!(gates(&bulk(vec![frozen("x", "test"), frozen("y", "prod")]), &as_it_is), "start 2 prod");
    assert_eq!(gates(&bulk(vec![frozen("web-08", "test")]), &as_it_is), "start 9 named");
    assert_eq!(gates(&bulk(vec![frozen("x", "test")]), &as_it_is), "");
    // Labels are neither given nor taken away behind a rule's back.
    let patch = |labels: Value| {
        with(&submission(Verb::PeersPatch), |s| {
            s.if_match = fresh();
            s.params = json!({"labels": labels}).to_string();
        })
    };
    assert_eq!(gates(&patch(json!({"env": "prod"})), &in_test), "start 2 prod");
    assert_eq!(gates(&patch(json!({"env": null})), &as_it_is), "start 2 prod");
    assert_eq!(gates(&patch(json!({"zone": "a"})), &in_test), "");
    // The rules guard themselves.
    let edit = |patch: Value| {
        with(&submission(Verb::ConfigPatch), |s| {
            s.if_match = fresh();
            s.asked = Asked::Config { patch, whole: false };
        })
    };
    assert_eq!(gates(&edit(json!({"approvals": {"rules": []}})), &as_it_is), "start 9 approvals-guard");
    assert_eq!(gates(&edit(json!({"drain": {"maxConcurrent": 3}})), &as_it_is), "");
    let rollback = with(&submission(Verb::ConfigRollback), |s| s.if_match = fresh());
    assert_eq!(gates(&rollback, &as_it_is), "start 9 approvals-guard");
}

#[test]
fn a_confirmation_is_of_what_was_looked_at() {
    let drain = submission(Verb::PeersDrain);
    let mine = Subject { actor: "ana", request_digest: "digest-1", target: "peers/edge-7", revision: 7 };
    let world = world(Verb::PeersDrain);
    let check = |subject: Subject<'_>, expect: &str| {
        let token = Some(confirmations().give(subject, now()).token);
        assert_eq!(world.verdict(&with(&drain, |s| s.confirmation = token)), expect, "{subject:?}");
    };
    check(mine, "create");
    check(Subject { actor: "bo", ..mine }, "plan Stale");
    check(Subject { request_digest: "digest-2", ..mine }, "plan Stale");
    check(Subject { revision: 6, ..mine }, "plan Stale");
    // A promotion binds all its clusters.
    let promote = submission(Verb::ClustersPromote);
    let mut changed = self::world(Verb::ClustersPromote);
    let before = bound_revision(&changed, &promote);
    changed.clusters[1].revision = 8;
    assert_ne!(bound_revision(&changed, &promote), before);
}
