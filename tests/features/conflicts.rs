//! Whoever comes second is told what is in the way: the contract's case table, its order of checks, keys, pauses, and what is stuck.

use std::time::Duration;

use futures_util::future::join_all;
use omnirelay_tests::{
    Answer, Api, Ask, Mesh, PATIENCE, Scope, Stack, StackOptions, eventually, owners, records, records_of,
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// One stack for this file; each test has a cluster of its own. The first is the active one.
async fn stack() -> &'static Stack {
    static STACK: OnceCell<Stack> = OnceCell::const_new();
    let options = StackOptions { clusters: 14, peers: 3, handover: "40ms..80ms", ..StackOptions::default() };
    STACK
        .get_or_init(|| async {
            let stack = Stack::start(options).await;
            stack.healthy().await;
            // Nobody's: it stays active.
            let active = stack.mesh();
            assert_eq!(active.cluster, "cluster-1");
            stack
        })
        .await
}

async fn mesh() -> Mesh {
    stack().await.mesh()
}

/// A line of the contract's case table: who asks what, and what they are told.
struct Case {
    what: &'static str,
    ask: Ask,
    status: u16,
    /// The code of the refusal, or whether it has changed something.
    told: Result<bool, &'static str>,
}

/// Sends it and checks it.
async fn check(case: Case) -> Answer {
    let answer = case.ask.send().await;
    match case.told {
        Ok(changed) => {
            assert_eq!(
                (answer.status, &answer.body["changed"]),
                (case.status, &json!(changed)),
                "{}: {}",
                case.what,
                answer.body
            );
        }
        Err(code) => {
            assert_eq!((answer.status, answer.code()), (case.status, code), "{}: {}", case.what, answer.body);
            answer.refused(case.status, code);
        }
    }
    answer
}

fn case(what: &'static str, ask: Ask, status: u16, told: Result<bool, &'static str>) -> Case {
    Case { what, ask, status, told }
}

fn act(api: &Api, operation: &str, action: &str) -> Ask {
    api.post(&format!("/control/operations/{operation}:{action}"), &json!({}))
}

/// The holder that a refusal names.
#[track_caller]
fn names(answer: &Answer, operation: &str) {
    assert_eq!(answer.body["operation"], operation, "{}", answer.body);
    assert!(answer.body["detail"].as_str().is_some_and(|detail| detail.contains(operation)), "{}", answer.body);
}

/// Some have moved, some are on their way, some have not begun.
fn is_halfway(operation: &Value) -> bool {
    operation["progress"]["done"].as_u64().is_some_and(|done| (1..3).contains(&done))
}

#[tokio::test]
async fn cordons_and_uncordons_by_the_table() {
    let mesh = mesh().await;
    let (operator, admin) = (&mesh.operator, &mesh.admin);
    let peer = mesh.peers[0].as_str();
    let fine = json!({});
    check(case("uncordon of an uncordoned peer", operator.peer(peer, "uncordon", &fine), 200, Ok(false))).await;
    check(case("cordon", operator.peer(peer, "cordon", &fine), 200, Ok(true))).await;
    check(case("cordon again by the same actor", operator.peer(peer, "cordon", &fine), 200, Ok(false))).await;
    let second = check(case("cordon by another", admin.peer(peer, "cordon", &fine), 200, Ok(true))).await;
    assert_eq!(owners(&second.body["resource"]), ["manual admin", "manual operator"]);
    check(case("uncordon where some are mine", operator.peer(peer, "uncordon", &fine), 200, Ok(true))).await;
    let held =
        check(case("uncordon where only others hold", operator.peer(peer, "uncordon", &fine), 409, Err("peer-held")))
            .await;
    assert_eq!(held.body["owners"], json!(["admin"]));
    check(case("uncordon of all", operator.peer(peer, "uncordon", &json!({"all": true})), 200, Ok(true))).await;
    mesh.fault(peer, "busy").await;
    let drain = operator.drain(peer, &fine).await;
    operator.operation_that("runs", &drain, |it| it["state"] == "running").await;
    for body in [json!({}), json!({"all": true})] {
        let during = operator.peer(peer, "uncordon", &body);
        let during = check(case("uncordon during a drain", during, 409, Err("operation-in-progress"))).await;
        names(&during, &drain);
    }
    mesh.fault(peer, "none").await;
    operator.ended(&drain).await;
    check(case("drain of a drained peer", operator.peer(peer, "drain", &fine), 200, Ok(false))).await;
}

#[tokio::test]
async fn drains_and_what_is_done_to_them_by_the_table() {
    let mesh = mesh().await;
    let (operator, admin) = (&mesh.operator, &mesh.admin);
    let peer = mesh.peers[0].as_str();
    let approver = stack().await.api_of("ana", Scope::Approve);
    mesh.fault(peer, "busy").await;
    let drain = operator.drain(peer, &json!({})).await;
    for (what, body) in [("second drain", json!({})), ("with a token of nobody", json!({"confirmation": "x"}))] {
        names(&check(case(what, admin.peer(peer, "drain", &body), 409, Err("operation-in-progress"))).await, &drain);
    }
    let planned = admin.post(&format!("/control/peers/{peer}:drain?validateOnly=true"), &json!({}));
    names(&check(case("a plan of a second drain", planned, 409, Err("operation-in-progress"))).await, &drain);
    let decision = json!({"digest": "d"});
    for action in ["approve", "reject"] {
        let ask = approver.post(&format!("/control/operations/{drain}:{action}"), &decision);
        check(case("no gate is open", ask, 409, Err("already-decided"))).await;
    }
    check(case("resolve of a running one", act(admin, &drain, "resolve"), 409, Err("invalid-state"))).await;
    check(case("resume of what is not paused", act(operator, &drain, "resume"), 200, Ok(false))).await;
    check(case("pause", act(operator, &drain, "pause"), 200, Ok(true))).await;
    check(case("pause repeated", act(admin, &drain, "pause"), 200, Ok(false))).await;
    check(case("resume", act(operator, &drain, "resume"), 200, Ok(true))).await;
    check(case("resume repeated", act(operator, &drain, "resume"), 200, Ok(false))).await;
    let cancelled = check(case("cancel", act(operator, &drain, "cancel"), 202, Ok(true))).await;
    assert_eq!(cancelled.operation(), drain, "the target operation; none is created");
    check(case("cancel of an unwinding one", act(operator, &drain, "cancel"), 200, Ok(false))).await;
    mesh.fault(peer, "none").await;
    assert_eq!(operator.ended(&drain).await["state"], "cancelled");
    check(case("cancel of a cancelled one", act(operator, &drain, "cancel"), 200, Ok(false))).await;
    for action in ["pause", "resume"] {
        check(case("of a terminal one", act(operator, &drain, action), 409, Err("invalid-state"))).await;
    }
    check(case("resolve of a cancelled one", act(admin, &drain, "resolve"), 409, Err("invalid-state"))).await;
    let done = mesh.drained(peer, &json!({})).await;
    let done = done["id"].as_str().expect("an id");
    let late = check(case("cancel of a succeeded one", act(operator, done, "cancel"), 409, Err("too-late"))).await;
    let inverse = &late.body["inverse"];
    assert_eq!(
        (&inverse["method"], &inverse["path"]),
        (&json!("POST"), &json!(format!("/control/peers/{peer}:uncordon")))
    );
    let bulk = operator.post("/control/peers:drain", &json!({"selector": "cluster=nowhere"}));
    check(case("a bulk drain that matches nothing", bulk, 200, Ok(false))).await;
    let live = operator.list(&format!("/control/operations?target=operations/{drain}")).await;
    assert_eq!(live, Vec::<Value>::new(), "controls are no operations");
}

#[tokio::test]
async fn clusters_by_the_table() {
    let mesh = mesh().await;
    let (passive, fine) = (mesh.cluster.as_str(), json!({}));
    let post = |cluster: &str, action: &str, body: &Value| {
        mesh.admin.post(&format!("/control/clusters/{cluster}:{action}"), body)
    };
    check(case("demote of a passive cluster", post(passive, "demote", &fine), 200, Ok(false))).await;
    check(case("promote of an active cluster", post("cluster-1", "promote", &fine), 200, Ok(false))).await;
    check(case("demote of the last active", post("cluster-1", "demote", &fine), 409, Err("last-active-cluster"))).await;
    check(case("promote of a stranger", post("nowhere", "promote", &fine), 404, Err("not-found"))).await;
    check(case("promote", post(passive, "promote", &fine), 428, Err("confirmation-required"))).await;
    let path = format!("/control/clusters/{passive}:promote");
    let gated = json!({"gate": "start"});
    let promote = mesh.admin.confirmed(Method::POST, &path, None, &gated).await.expect(202).operation();
    for action in ["promote", "demote"] {
        let ask = post(passive, action, &fine);
        names(&check(case("of a cluster in an operation", ask, 409, Err("operation-in-progress"))).await, &promote);
    }
    check(case("cancel at its gate", act(&mesh.operator, &promote, "cancel"), 202, Ok(true))).await;
    assert_eq!(mesh.operator.ended(&promote).await["state"], "cancelled");
    check(case("it is free again", post(passive, "promote", &fine), 428, Err("confirmation-required"))).await;
}

#[tokio::test]
async fn an_unreachable_peer_may_be_drained_and_blocks() {
    let mesh = mesh().await;
    let peer = mesh.peers[0].as_str();
    mesh.fault(peer, "silent").await;
    mesh.reader.peer_that("is unreachable", peer, |it| it["health"] == "unreachable").await;
    let drain = mesh.operator.confirmed_drain(peer, &json!({})).await;
    let drain = drain.expect(202).operation();
    let blocker = mesh.operator.blocked(&drain, "peer-unreachable").await;
    assert_eq!(blocker["subject"], peer);
    mesh.operator.cancel(&drain).await.expect(202);
    mesh.fault(peer, "none").await;
    assert_eq!(mesh.operator.ended(&drain).await["state"], "cancelled");
}

#[tokio::test]
async fn of_two_drains_at_once_one_is_taken_and_the_other_is_told_of_it() {
    let mesh = mesh().await;
    for peer in &mesh.peers {
        mesh.fault(peer, "busy").await;
        let plans = join_all((0..8).map(|_| mesh.operator.peer(peer, "drain", &json!({})).send())).await;
        let confirmed = |plan: &Answer| json!({"confirmation": plan.body["plan"]["confirmation"]["token"]});
        let bodies: Vec<Value> = plans.iter().map(confirmed).collect();
        let answers = join_all(bodies.iter().map(|body| mesh.operator.peer(peer, "drain", body).send())).await;
        let taken: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 202).collect();
        assert_eq!(taken.len(), 1, "{:?}", answers.iter().map(|a| a.status).collect::<Vec<_>>());
        let holder = taken[0].operation();
        for other in answers.iter().filter(|answer| answer.status != 202) {
            other.refused(409, "operation-in-progress");
            names(other, &holder);
        }
        mesh.operator.cancel(&holder).await.expect(202);
        mesh.fault(peer, "none").await;
        assert_eq!(mesh.operator.ended(&holder).await["state"], "cancelled");
    }
}

/// Each request has all faults from its row on; the first in the contract's order is told.
#[tokio::test]
async fn edits_are_checked_in_the_order_of_the_contract() {
    let mesh = mesh().await;
    let stranger = Api::new(stack().await.url(), None);
    let config = "/control/config";
    let (_, tag) = mesh.reader.tagged(config).await;
    let used = format!("used-{}", mesh.cluster);
    mesh.admin.peer(&mesh.peers[1], "cordon", &json!({})).key(&used).send().await.expect(200);
    let (bad, wrong) = (json!({"colour": 1}), json!({"settings": {"drain": {"maxConcurrent": 0}}}));
    let fine = json!({"settings": {"drain": {"maxConcurrent": 9}}});
    let of = |api: &Api, body: &Value, key: &str, if_match: &str| {
        let ask = api.patch(config, body).key(key);
        if if_match.is_empty() { ask } else { ask.header("if-match", if_match) }
    };
    for (ask, status, code) in [
        (of(&stranger, &bad, &used, "\"0\""), 401, "unauthenticated"),
        (of(&mesh.operator, &bad, &used, "\"0\""), 403, "insufficient-scope"),
        (of(&mesh.admin, &bad, &used, "\"0\""), 400, "invalid-argument"),
        (of(&mesh.admin, &wrong, &used, "\"0\""), 422, "idempotency-key-reused"),
        (of(&mesh.admin, &wrong, "edit-1", ""), 428, "precondition-required"),
        (of(&mesh.admin, &wrong, "edit-2", "\"0\""), 412, "revision-mismatch"),
        (of(&mesh.admin, &wrong, "edit-3", &tag), 422, "invalid-setting"),
        (of(&mesh.admin, &fine, "edit-4", &tag), 428, "confirmation-required"),
    ] {
        ask.send().await.refused(status, code);
    }
    let peer = mesh.peers[0].as_str();
    let path = |peer: &str| format!("/control/peers/{peer}");
    let patch = json!({"labels": {"a": "b"}});
    let of = |api: &Api, peer: &str, body: &Value, key: &str, if_match: &str| {
        let ask = api.patch(&path(peer), body).key(key);
        if if_match.is_empty() { ask } else { ask.header("if-match", if_match) }
    };
    let used = format!("patched-{}", mesh.cluster);
    mesh.operator.peer(&mesh.peers[1], "cordon", &json!({})).key(&used).send().await.expect(200);
    for (ask, status, code) in [
        (of(&stranger, "nobody", &bad, &used, ""), 401, "unauthenticated"),
        (of(&mesh.reader, "nobody", &bad, &used, ""), 403, "insufficient-scope"),
        (of(&mesh.operator, "nobody", &bad, &used, ""), 400, "invalid-argument"),
        (of(&mesh.operator, "nobody", &patch, &used, ""), 422, "idempotency-key-reused"),
        (of(&mesh.operator, "nobody", &patch, "patch-1", ""), 404, "not-found"),
        (of(&mesh.operator, peer, &patch, "patch-2", ""), 428, "precondition-required"),
        (of(&mesh.operator, peer, &patch, "patch-3", "\"0\""), 412, "revision-mismatch"),
    ] {
        ask.send().await.refused(status, code);
    }
    // What is done to an operation itself.
    let done = mesh.operator.peer(peer, "cordon", &json!({})).send().await.expect(200).operation();
    let resolve = |api: &Api, operation: &str, body: &Value, if_match: &str| {
        let ask = api.post(&format!("/control/operations/{operation}:resolve"), body);
        if if_match.is_empty() { ask } else { ask.header("if-match", if_match) }
    };
    let nobody = "0193d1f0-0000-7000-8000-000000000009";
    for (ask, status, code) in [
        (resolve(&stranger, nobody, &bad, "\"0\""), 401, "unauthenticated"),
        (resolve(&mesh.operator, nobody, &bad, "\"0\""), 403, "insufficient-scope"),
        (resolve(&mesh.admin, nobody, &bad, "\"0\""), 400, "invalid-argument"),
        (resolve(&mesh.admin, nobody, &json!({}), "\"0\""), 404, "not-found"),
        (resolve(&mesh.admin, &done, &json!({}), "\"0\""), 412, "revision-mismatch"),
        (resolve(&mesh.admin, &done, &json!({}), ""), 409, "invalid-state"),
    ] {
        ask.send().await.refused(status, code);
    }
    assert_eq!(mesh.reader.tagged(config).await.1, tag, "none of it has changed anything");
}

#[tokio::test]
async fn a_key_names_one_request_for_every_kind_of_mutation() {
    let mesh = mesh().await;
    let peer = mesh.peers[0].as_str();
    let path = format!("/control/peers/{peer}");
    let (_, tag) = mesh.reader.tagged(&path).await;
    let key = |n: u32| format!("key-{n}-{}", mesh.cluster);
    let patch =
        |body: &Value, tag: &str, n: u32| mesh.operator.patch(&path, body).header("if-match", tag).key(&key(n)).send();
    let body = json!({"labels": {"zone": "a"}, "reason": "r"});

    // What is refused binds nothing.
    patch(&body, "\"0\"", 1).await.refused(412, "revision-mismatch");
    let first = patch(&body, &tag, 1).await;
    assert_eq!(
        (first.expect(200).header("idempotency-key"), first.header("idempotency-replayed")),
        (key(1).as_str(), "")
    );
    // The same again, although its ETag no longer holds: it was applied once.
    let again = patch(&body, &tag, 1).await;
    assert_eq!((again.expect(200).operation(), again.header("idempotency-replayed")), (first.operation(), "true"));
    assert_eq!(again.body, first.body);
    let (_, now) = mesh.reader.tagged(&path).await;
    patch(&body, &now, 1).await.refused(422, "idempotency-key-reused");
    let other = patch(&json!({"labels": {"zone": "b"}}), &tag, 1).await;
    other.refused(422, "idempotency-key-reused");
    assert_eq!(other.body["operation"], first.operation());
    // The spelling of a body is not the request.
    let spelt = mesh
        .operator
        .ask(Method::PATCH, &path)
        .raw("application/merge-patch+json", "{\"reason\":\"r\",  \"labels\":{\"zone\":\"a\"}}");
    let spelt = spelt.header("if-match", &tag).key(&key(1)).send().await;
    assert_eq!(spelt.expect(200).operation(), first.operation());
    // Somebody else's key is another.
    let theirs =
        mesh.admin.patch(&path, &json!({"labels": {"zone": "c"}})).header("if-match", &now).key(&key(1)).send().await;
    assert_ne!(theirs.expect(200).operation(), first.operation());

    let made = format!("/control/clusters/{}-made", mesh.cluster);
    let put = || mesh.admin.put(&made, &json!({"region": "eu"})).header("if-none-match", "*").key(&key(2)).send();
    let (first, again) = (put().await, put().await);
    assert_eq!(
        (first.expect(201).operation(), again.expect(201).header("idempotency-replayed")),
        (again.operation(), "true")
    );

    // In flight: whoever comes joins. The retry's own Prefer says how long it waits.
    mesh.fault(peer, "busy").await;
    let plan = mesh.operator.peer(peer, "drain", &json!({})).key(&key(3)).send().await;
    plan.refused(428, "confirmation-required");
    let confirmed = json!({"confirmation": plan.body["plan"]["confirmation"]["token"]});
    let drain =
        |prefer: &str| mesh.operator.peer(peer, "drain", &confirmed).key(&key(3)).header("prefer", prefer).send();
    let answers = join_all((0..6).map(|_| drain("respond-async"))).await;
    let id = answers[0].expect(202).operation();
    assert!(answers.iter().all(|answer| answer.status == 202 && answer.operation() == id));
    let replayed = answers.iter().filter(|answer| answer.header("idempotency-replayed") == "true").count();
    assert_eq!(replayed, 5, "one has made it");
    // Without its confirmation it is the same request.
    let bare =
        mesh.operator.peer(peer, "drain", &json!({})).key(&key(3)).header("prefer", "respond-async").send().await;
    assert_eq!(bare.expect(202).operation(), id);
    let (joined, ()) = tokio::join!(drain("wait=60"), mesh.fault(peer, "none"));
    assert_eq!((joined.expect(200).operation(), &joined.body["operation"]["state"]), (id.clone(), &json!("succeeded")));
    assert_eq!(
        drain("respond-async").await.expect(200).operation(),
        id,
        "it has ended, so there is nothing to wait for"
    );
}

#[tokio::test]
async fn a_paused_drain_begins_nothing_new_and_says_who_holds_it() {
    let mesh = mesh().await;
    let peer = mesh.peers[0].as_str();
    let drain = mesh.operator.drain(peer, &json!({"maxConcurrent": 1})).await;
    mesh.operator.operation_that("is halfway", &drain, is_halfway).await;
    let paused = mesh.operator.act(&drain, "pause", &json!({"reason": "incident", "changeTicket": "CHG-3"})).await;
    assert_eq!(paused.expect(200).body["operation"]["paused"]["by"], "operator");
    let blocker = mesh.operator.blocked(&drain, "paused").await;
    assert!(
        blocker["message"].as_str().is_some_and(|text| text.contains("operator") && text.contains("incident")),
        "{blocker}"
    );
    let idle =
        mesh.operator.operation_that("has nothing in flight", &drain, |it| it["progress"]["inFlight"] == 0).await;
    let left = mesh.workloads(peer).await;
    assert!(!left.is_empty(), "{idle}");
    // Time passes, which is told by other drains of the mesh that come and go.
    mesh.drained(&mesh.peers[1], &json!({})).await;
    assert_eq!(mesh.workloads(peer).await, left, "nothing new was begun");
    assert_eq!(mesh.operator.operation(&drain).await["progress"], idle["progress"]);
    let resumed = mesh.admin.act(&drain, "resume", &json!({})).await;
    assert_eq!(resumed.expect(200).body["operation"]["paused"], Value::Null);
    let ended = mesh.operator.ended(&drain).await;
    assert_eq!((&ended["state"], &ended["blockers"]), (&json!("succeeded"), &json!([])));
    let audited = records_of(&mesh.reader, &drain, "succeeded").await;
    let told = |verb: &str| audited.iter().find(|one| one["verb"] == verb).expect(verb).clone();
    let pause = told("operations.pause");
    assert_eq!(
        (&pause["actor"]["subject"], &pause["reason"], &pause["changeTicket"]),
        (&json!("operator"), &json!("incident"), &json!("CHG-3"))
    );
    assert_eq!(told("operations.resume")["actor"]["subject"], "admin");
}

#[tokio::test]
async fn a_pause_holds_up_neither_a_cancel_nor_the_deadline() {
    let mesh = mesh().await;
    let [first, second] = [0, 1].map(|n| mesh.peers[n].as_str());
    let before = mesh.registry().await;
    let drain = mesh.operator.drain(first, &json!({"maxConcurrent": 1})).await;
    mesh.operator.operation_that("is halfway", &drain, is_halfway).await;
    mesh.operator.act(&drain, "pause", &json!({})).await.expect(200);
    mesh.operator.cancel(&drain).await.expect(202);
    assert_eq!(mesh.operator.ended(&drain).await["state"], "cancelled");
    assert_eq!(mesh.registry().await.differences(&before), Vec::<String>::new());

    let drain =
        mesh.operator.drain(second, &json!({"maxConcurrent": 1, "deadline": "2s", "onDeadline": "cancel"})).await;
    // The deadline runs from its beginning: one that is paused before that has none to run.
    mesh.operator.operation_that("has begun", &drain, |it| !it["startedAt"].is_null()).await;
    mesh.operator.act(&drain, "pause", &json!({})).await.expect(200);
    let ended = mesh.operator.ended(&drain).await;
    assert_eq!(ended["state"], "cancelled", "the deadline runs on: {ended}");
    assert_eq!(mesh.registry().await.differences(&before), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_stuck_is_resolved_by_an_admin_and_frees_its_peer() {
    let mesh = mesh().await;
    let peer = mesh.peers[0].as_str();
    let drain = mesh.operator.drain(peer, &json!({"maxConcurrent": 1})).await;
    mesh.operator.operation_that("is halfway", &drain, is_halfway).await;
    // Nothing that has left can come back.
    mesh.fault(peer, "refuse").await;
    mesh.operator.cancel(&drain).await.expect(202);
    let stuck = mesh.operator.ended_within(&drain, Duration::from_secs(90)).await;
    assert_eq!(stuck["state"], "stuck", "{stuck}");
    let left = stuck["result"]["notRestored"].as_array().expect("what is left").len();
    assert!(left > 0, "{stuck}");
    mesh.fault(peer, "none").await;
    let (operator, admin) = (&mesh.operator, &mesh.admin);
    names(
        &check(case("it keeps its lock", operator.peer(peer, "drain", &json!({})), 409, Err("operation-in-progress")))
            .await,
        &drain,
    );
    check(case("pause of a stuck one", act(operator, &drain, "pause"), 409, Err("invalid-state"))).await;
    check(case("cancel of a stuck one", act(operator, &drain, "cancel"), 409, Err("too-late"))).await;
    check(case("resolve is for admins", act(operator, &drain, "resolve"), 403, Err("insufficient-scope"))).await;
    let resolved = admin.act(&drain, "resolve", &json!({"reason": "looked at it", "changeTicket": "INC-4"})).await;
    assert_eq!((resolved.expect(200).operation(), &resolved.body["changed"]), (drain.clone(), &json!(true)));
    let ended = operator.operation_that("is resolved", &drain, |it| it["state"] == "failed").await;
    assert_eq!(ended["result"]["notRestored"], stuck["result"]["notRestored"], "what was left stays named");
    assert_eq!(
        (&ended["result"]["resolved"]["by"], &ended["result"]["resolved"]["reason"]),
        (&json!("admin"), &json!("looked at it"))
    );
    check(case("resolve repeated", act(admin, &drain, "resolve"), 409, Err("invalid-state"))).await;
    let freed = mesh.reader.read(&format!("/control/peers/{peer}")).await;
    assert_eq!(
        (&freed["operation"], &freed["state"]),
        (&Value::Null, &json!("cordoned")),
        "its hold stays until somebody uncordons"
    );
    let audited = records(&mesh.reader, &format!("operation={drain}&outcome=failed"), |all| !all.is_empty()).await;
    assert_eq!(audited.len(), 1, "{audited:?}");
    let all = records(&mesh.reader, &format!("operation={drain}&verb=operations.resolve"), |all| !all.is_empty()).await;
    assert_eq!(
        (&all[0]["actor"]["subject"], &all[0]["reason"], &all[0]["changeTicket"]),
        (&json!("admin"), &json!("looked at it"), &json!("INC-4"))
    );
    // The peer is free for the next drain, which takes what is left.
    assert_eq!(mesh.drained(peer, &json!({})).await["state"], "succeeded");
    operator.peer(peer, "uncordon", &json!({})).send().await.expect(200);
    eventually("the peer is schedulable", PATIENCE, async || {
        let peer = mesh.reader.read(&format!("/control/peers/{peer}")).await;
        (peer["state"] == "active").then_some(())
    })
    .await;
}
