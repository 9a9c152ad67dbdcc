//! Many peers are drained by one operation: a frozen list, a few at a time, a canary first, people asked in between, and an honest
//! account at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use omnirelay_tests::{
    Api, Event, Listener, Mesh, Process, Role, Sampler, Services, Stack, StackOptions, eventually, eventually_ok,
    most_children, most_out,
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::{Mutex, OnceCell};

/// One stack for most of this file; each test has a cluster of its own.
async fn stack() -> &'static Stack {
    static STACK: OnceCell<Stack> = OnceCell::const_new();
    let options = StackOptions { clusters: 14, peers: 5, workloads: 2, ..StackOptions::default() };
    STACK.get_or_init(|| Stack::start(options)).await
}

async fn mesh() -> Mesh {
    stack().await.mesh()
}

fn of_cluster(mesh: &Mesh, more: &Value) -> Value {
    let mut body = json!({"selector": format!("cluster={}", mesh.cluster)});
    for (name, value) in more.as_object().expect("members") {
        body[name] = value.clone();
    }
    body
}

fn of(mesh: &Mesh, peers: &[usize], more: &Value) -> Value {
    let mut body = json!({"peers": peers.iter().map(|n| mesh.peers[*n].as_str()).collect::<Vec<_>>()});
    for (name, value) in more.as_object().expect("members") {
        body[name] = value.clone();
    }
    body
}

/// The peers of a list of the result: ids, or objects with one.
fn names(list: &Value) -> Vec<&str> {
    let list = list.as_array().expect("a list");
    list.iter().filter_map(|one| one.as_str().or_else(|| one["peer"].as_str())).collect()
}

fn control(api: &Api, operation: &str, verb: &str, body: &Value) -> omnirelay_tests::Ask {
    api.post(&format!("/control/operations/{operation}:{verb}"), body)
}

async fn plan(api: &Api, body: &Value) -> Value {
    api.post("/control/peers:drain?validateOnly=true", body).send().await.expect(200).body.clone()
}

/// The events of the children, once all that have begun have ended.
async fn told(listener: &Listener, parent: &str) -> Vec<Event> {
    listener.whole(parent).await;
    listener.events().into_iter().filter(|event| event.data()["parent"] == parent).collect()
}

/// The child that drains this peer is at work.
async fn at_work(mesh: &Mesh, parent: &str, peer: &str) -> String {
    let child = mesh.operator.child_of(parent, peer).await;
    mesh.operator.operation_that("moves", &child, |it| it["progress"]["inFlight"].as_u64() >= Some(1)).await;
    child
}

#[tokio::test]
async fn all_that_match_are_drained_a_few_at_a_time() {
    let stack = stack().await;
    let mesh = stack.mesh();
    // The third may lean on the first two alone.
    let body = of(&mesh, &[2, 0, 1], &json!({"maxConcurrent": 2, "reason": "kernel", "changeTicket": "CHG-9"}));
    let planned = plan(&mesh.operator, &body).await;
    let impact = &planned["impact"];
    let listed = impact["peers"].as_array().expect("peers").iter().filter_map(|peer| peer["id"].as_str());
    let listed: Vec<&str> = listed.collect();
    assert_eq!(listed, [&mesh.peers[0], &mesh.peers[1], &mesh.peers[2]], "{impact}");
    assert_eq!((&impact["maxConcurrent"], &impact["workloads"]), (&json!(2), &json!(6)), "{impact}");
    assert_eq!((&impact["canary"], &impact["changed"]), (&json!(0), &json!(true)), "{impact}");
    let listener = Listener::start(stack.nats_url()).await;
    let parent = mesh.operator.bulk(&body).await;
    let ended = mesh.operator.ended(&parent).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(ended["target"], format!("peers/{parent}"), "{ended}");
    assert_eq!(ended["progress"], json!({"done": 3, "total": 3, "inFlight": 0, "failed": 0, "unit": "peers"}));
    assert_eq!(ended["children"], json!({"succeeded": 3}), "{ended}");
    assert_eq!(ended["result"]["summary"], "3 succeeded", "{ended}");
    assert_eq!(names(&ended["result"]["succeeded"]), [&mesh.peers[0], &mesh.peers[1], &mesh.peers[2]]);
    assert_eq!(names(&ended["params"]["peers"]).len(), 3, "the list is frozen in the operation");
    assert_eq!(mesh.out().await, mesh.peers[..3].iter().cloned().collect());

    let children = mesh.operator.children(&parent).await;
    assert_eq!(children.len(), 3);
    for child in &children {
        assert_eq!((&child["parent"], &child["state"]), (&json!(parent), &json!("succeeded")), "{child}");
        assert_eq!((&child["reason"], &child["changeTicket"]), (&json!("kernel"), &json!("CHG-9")), "{child}");
        assert_eq!((&child["actor"], &child["verb"]), (&json!("operator"), &json!("peers.drain")), "{child}");
    }
    let told = told(&listener, &parent).await;
    let ids: BTreeSet<&str> = children.iter().filter_map(|child| child["id"].as_str()).collect();
    for id in &ids {
        let of: Vec<Event> = told.iter().filter(|event| event.operation() == Some(id)).cloned().collect();
        omnirelay_tests::gap_free(&of);
        assert!(
            of.last().is_some_and(|last| last.what() == "operations.succeeded"),
            "every event of it names its parent"
        );
    }
    assert_eq!(most_children(&told, &parent), 2);
    let whole = listener.whole(&parent).await;
    omnirelay_tests::gap_free(&whole);
    let starts = whole.iter().filter(|event| event.what() == "operations.started").count();
    assert_eq!(starts, 1, "{:?}", whole.iter().map(Event::what).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_matches_nothing_changes_nothing_and_is_not_confirmed() {
    let mesh = mesh().await;
    let answer = mesh.operator.post("/control/peers:drain", &json!({"selector": "cluster=nowhere"})).send().await;
    assert_eq!(
        (&answer.expect(200).body["changed"], &answer.body["operation"]["state"]),
        (&json!(false), &json!("succeeded"))
    );
    for (body, detail) in [
        (json!({}), "selector"),
        (json!({"selector": "cluster=a", "peers": ["b"]}), "one of the two"),
        (json!({"selector": "cluster==a,,"}), "selector"),
        (json!({"selector": "cluster=a", "maxConcurrent": 0}), "maxConcurrent"),
        (json!({"selector": "cluster=a", "maxFailure": 1}), "maxFailure"),
        (json!({"selector": "cluster=a", "soak": "8d"}), "soak"),
    ] {
        let answer = mesh.operator.post("/control/peers:drain", &body).send().await;
        let told = answer.refused(400, "invalid-argument").body["detail"].as_str().unwrap_or("").to_owned();
        assert!(told.contains(detail), "{detail} in {told}");
    }
    let answer = mesh.operator.post("/control/peers:drain", &json!({"peers": ["nobody"]})).send().await;
    answer.refused(404, "not-found");
    mesh.reader.post("/control/peers:drain", &json!({})).send().await.refused(403, "insufficient-scope");
}

#[tokio::test]
async fn a_confirmation_is_for_the_list_that_was_shown() {
    let mesh = mesh().await;
    let wave = format!("wave-of-{}", mesh.cluster);
    let label = async |n: usize| {
        let path = format!("/control/peers/{}", mesh.peers[n]);
        let tag = mesh.operator.get(&path).send().await.header("etag").to_owned();
        let body = json!({"labels": {"wave": wave}}).to_string();
        let patch = mesh.operator.ask(Method::PATCH, &path).header("if-match", &tag).raw("application/json", body);
        patch.send().await.expect(200);
    };
    label(0).await;
    label(1).await;
    let mut body = json!({"selector": format!("wave={wave}")});
    let asked = mesh.operator.post("/control/peers:drain", &body).send().await;
    let listed = |plan: &Value| plan["impact"]["peers"].as_array().expect("peers").len();
    assert_eq!(listed(&asked.refused(428, "confirmation-required").body["plan"]), 2);
    let key = "frozen-list";
    body["confirmation"] = asked.body["plan"]["confirmation"]["token"].clone();
    label(2).await;
    let again = mesh.operator.post("/control/peers:drain", &body).key(key).send().await;
    assert_eq!(
        listed(&again.refused(428, "confirmation-required").body["plan"]),
        3,
        "a fresh plan, of what is there now"
    );
    body["confirmation"] = again.body["plan"]["confirmation"]["token"].clone();
    let parent = mesh.operator.post("/control/peers:drain", &body).key(key).send().await.expect(202).operation();
    // What comes later is not part of it, and a repetition is the same operation.
    label(3).await;
    let repeated = mesh.operator.post("/control/peers:drain", &body).key(key).send().await;
    assert_eq!((repeated.operation(), repeated.header("idempotency-replayed")), (parent.clone(), "true"));
    let ended = mesh.operator.ended(&parent).await;
    assert_eq!(names(&ended["result"]["succeeded"]), mesh.peers[..3].iter().collect::<Vec<_>>(), "{ended}");
}

#[tokio::test]
async fn a_canary_goes_first_soaks_and_waits_for_somebody_else() {
    let stack = stack().await;
    let mesh = stack.mesh();
    let approver = stack.api(Role::Approve);
    let body = of(&mesh, &[0, 1, 2], &json!({"maxConcurrent": 2, "canary": 1, "soak": "2s", "gate": "rest"}));
    let planned = plan(&mesh.operator, &body).await;
    assert_eq!(planned["approval"]["gates"][0]["gate"], "rest", "{planned}");
    assert_eq!((&planned["impact"]["canary"], &planned["impact"]["soakSecs"]), (&json!(1), &json!(2)), "{planned}");
    let listener = Listener::start(stack.nats_url()).await;
    let parent = mesh.operator.bulk(&body).await;
    mesh.operator.operation_that("soaks", &parent, |it| it["phase"] == "soak").await;
    assert_eq!(mesh.operator.children(&parent).await.len(), 1, "only the canary");
    let waiting =
        mesh.operator.operation_that("waits for approval", &parent, |it| it["state"] == "awaitingApproval").await;
    assert_eq!(mesh.operator.children(&parent).await.len(), 1, "nothing behind an open gate");
    assert_eq!(waiting["children"], json!({"succeeded": 1}), "{waiting}");
    let gates = mesh.reader.list("/control/approvals").await;
    assert!(
        gates.iter().any(|one| one["operation"]["id"] == parent.as_str() || one["id"] == parent.as_str()),
        "{gates:?}"
    );
    let digest = waiting["approval"]["digest"].as_str().expect("a digest");
    control(&mesh.operator, &parent, "approve", &json!({"digest": digest}))
        .send()
        .await
        .refused(403, "insufficient-scope");
    control(&approver, &parent, "approve", &json!({"digest": "0"})).send().await.refused(409, "digest-mismatch");
    control(&approver, &parent, "approve", &json!({"digest": digest, "comment": "fine"})).send().await.expect(200);
    let ended = mesh.operator.ended(&parent).await;
    assert_eq!((&ended["state"], &ended["result"]["summary"]), (&json!("succeeded"), &json!("3 succeeded")), "{ended}");
    assert_eq!(ended["approval"]["approvals"][0]["actor"], "approver", "{ended}");

    let whole = listener.whole(&parent).await;
    omnirelay_tests::gap_free(&whole);
    let kinds: Vec<&str> = whole.iter().map(Event::what).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "operations.started").count(), 1, "{kinds:?}");
    let at = |kind: &str| whole.iter().find(|event| event.what() == kind).map(|event| event.position);
    assert!(at("approvals.requested") < at("approvals.approved"), "{kinds:?}");
    let requested = whole.iter().find(|event| event.what() == "approvals.requested").expect("it was asked for");
    assert_eq!(requested.data()["digest"], digest);
    assert_eq!(names(&requested.data()["plan"]["params"]["peers"]).len(), 3, "the request shows the list");
    let second = told(&listener, &parent).await;
    let second = second.iter().filter(|event| event.what() == "operations.submitted").nth(1).expect("a second child");
    assert!(Some(second.position) > at("approvals.approved"), "the rest begins behind the gate");
}

#[tokio::test]
async fn two_lists_have_two_digests_at_the_gate() {
    let stack = stack().await;
    let mesh = stack.mesh();
    let approver = stack.api(Role::Approve);
    let gate = |peer: usize| of(&mesh, &[0, peer], &json!({"canary": 1, "gate": "rest", "maxConcurrent": 1}));
    let mut digests = Vec::new();
    for peer in [1, 2] {
        let parent = mesh.operator.bulk(&gate(peer)).await;
        let waits = |it: &Value| it["state"] == "awaitingApproval";
        let waiting = mesh.operator.operation_that("waits for approval", &parent, waits).await;
        digests.push(waiting["approval"]["digest"].as_str().expect("a digest").to_owned());
        let reject = json!({"digest": digests.last(), "comment": "not today"});
        control(&approver, &parent, "reject", &reject).send().await.expect(200);
        let ended = mesh.operator.ended(&parent).await;
        assert_eq!((&ended["state"], &ended["changed"]), (&json!("rejected"), &Value::Null), "{ended}");
        let result = &ended["result"];
        assert_eq!(names(&result["succeeded"]), [&mesh.peers[0]], "the canary is named: {result}");
        assert_eq!(names(&result["notStarted"]), [&mesh.peers[peer]], "{result}");
        assert_eq!(result["summary"], "1 succeeded, 1 not started", "{result}");
    }
    assert_ne!(digests[0], digests[1]);
    assert_eq!(mesh.out().await, BTreeSet::from([mesh.peers[0].clone()]));
}

#[tokio::test]
async fn too_many_failures_stop_it_and_the_failed_can_be_tried_again() {
    let mesh = mesh().await;
    mesh.fault(&mesh.peers[1], "busy").await;
    let short = json!({"deadline": "1s", "onDeadline": "cancel"});
    let with = |more: Value| {
        let mut body = of(&mesh, &[0, 1, 2], &short);
        for (name, value) in more.as_object().expect("members") {
            body[name] = value.clone();
        }
        body
    };
    // An undo needs the peer too: it answers again once the deadline is over.
    let parent = mesh.operator.bulk(&with(json!({}))).await;
    let child = at_work(&mesh, &parent, &mesh.peers[1]).await;
    mesh.operator.operation_that("turns back", &child, |it| it["state"] == "unwinding").await;
    mesh.fault(&mesh.peers[1], "none").await;
    let ended = mesh.operator.ended(&parent).await;
    assert_eq!(ended["state"], "failed", "{ended}");
    let result = &ended["result"];
    assert_eq!(result["summary"], format!("1 succeeded, 1 failed ({}), 1 not started", mesh.peers[1]), "{result}");
    assert_eq!(
        (&result["failed"][0]["operation"], names(&result["notStarted"])),
        (&json!(child), vec![mesh.peers[2].as_str()])
    );
    assert_eq!(ended["children"], json!({"succeeded": 1, "cancelled": 1}), "{ended}");
    assert_eq!(ended["progress"]["failed"], 1, "{ended}");

    // One failure is put up with: it goes on to the end, which is honest all the same.
    mesh.fault(&mesh.peers[1], "busy").await;
    mesh.uncordon(&mesh.peers[0]).await;
    let parent = mesh.operator.bulk(&with(json!({"maxFailures": 1}))).await;
    let child = at_work(&mesh, &parent, &mesh.peers[1]).await;
    mesh.operator.operation_that("turns back", &child, |it| it["state"] == "unwinding").await;
    mesh.fault(&mesh.peers[1], "none").await;
    let ended = mesh.operator.ended(&parent).await;
    assert_eq!(ended["state"], "failed", "{ended}");
    assert_eq!(ended["result"]["summary"], format!("2 succeeded, 1 failed ({})", mesh.peers[1]), "{ended}");

    // As `ops retry --failed` does it.
    let failed = names(&ended["result"]["failed"]);
    let retry = mesh.operator.bulk(&json!({"peers": failed})).await;
    let ended = mesh.operator.ended(&retry).await;
    assert_eq!(
        (&ended["state"], names(&ended["result"]["succeeded"])),
        (&json!("succeeded"), vec![mesh.peers[1].as_str()])
    );
}

#[tokio::test]
async fn a_peer_that_somebody_else_drains_is_skipped() {
    let mesh = mesh().await;
    mesh.fault(&mesh.peers[0], "busy").await;
    let other = mesh.admin.drain(&mesh.peers[0], &json!({})).await;
    mesh.admin
        .peer(&mesh.peers[1], "cordon", &json!({"reason": "mine", "changeTicket": "CHG-1"}))
        .send()
        .await
        .expect(200);
    let body = of(&mesh, &[0, 1], &json!({}));
    let planned = plan(&mesh.operator, &body).await;
    let impact = &planned["impact"];
    assert!(impact["peers"][0]["skipped"].as_str().is_some_and(|why| why.contains(&other)), "{impact}");
    assert_eq!(impact["peers"][1]["skipped"], Value::Null, "{impact}");
    let warnings = impact["warnings"].to_string();
    assert!(warnings.contains("held by admin (CHG-1)"), "{warnings}");
    let ended = mesh.operator.ended(&mesh.operator.bulk(&body).await).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(ended["children"], json!({"skipped": 1, "succeeded": 1}), "{ended}");
    let skipped = &ended["result"]["skipped"][0];
    assert_eq!(skipped["peer"], mesh.peers[0], "{skipped}");
    assert!(skipped["why"].as_str().is_some_and(|why| why.contains(&other)), "{skipped}");
    assert_eq!(ended["result"]["summary"], format!("1 succeeded, 1 skipped ({})", mesh.peers[0]), "{ended}");
    let held = mesh.reader.read(&format!("/control/peers/{}", mesh.peers[1])).await;
    assert_eq!(omnirelay_tests::owners(&held), ["drain operator", "manual admin"], "somebody's hold stays");
    // All of it locked: nothing to do, said after the confirmation.
    let ended = mesh.operator.ended(&mesh.operator.bulk(&of(&mesh, &[0], &json!({}))).await).await;
    assert_eq!((&ended["state"], &ended["children"]), (&json!("succeeded"), &json!({"skipped": 1})), "{ended}");
    mesh.fault(&mesh.peers[0], "none").await;
    mesh.admin.ended(&other).await;
}

#[tokio::test]
async fn a_cancel_undoes_what_runs_and_names_what_was_done() {
    let stack = stack().await;
    let mesh = stack.mesh();
    let before = mesh.registry().await;
    for n in [1, 2] {
        mesh.fault(&mesh.peers[n], "busy").await;
    }
    let parent = mesh.operator.bulk(&of(&mesh, &[0, 1, 2, 3], &json!({"maxConcurrent": 2}))).await;
    let running = [at_work(&mesh, &parent, &mesh.peers[1]).await, at_work(&mesh, &parent, &mesh.peers[2]).await];
    for n in [1, 2] {
        mesh.fault(&mesh.peers[n], "none").await;
    }
    // Nothing of it goes on meanwhile: busy commands are asked again with pauses, and the cancel is quicker.
    let answer = mesh.operator.cancel(&parent).await;
    assert_eq!(answer.expect(202).body["operation"]["state"], "unwinding", "{}", answer.body);
    let ended = mesh.operator.ended(&parent).await;
    assert_eq!(ended["state"], "cancelled", "{ended}");
    let result = &ended["result"];
    let drained = names(&result["succeeded"]);
    assert!(drained.contains(&mesh.peers[0].as_str()), "{result}");
    assert!(names(&result["notStarted"]).contains(&mesh.peers[3].as_str()), "{result}");
    assert_eq!(names(&result["notRestored"]), drained, "{result}");
    let left = &result["notRestored"][0];
    assert_eq!(left["undo"], format!("omnirelay mesh peers uncordon {}", mesh.peers[0]), "{left}");
    // What the drained one gave away may be anywhere; what the others had is there again.
    let (was, is) = (before.placement(), mesh.registry().await.placement());
    let restored = |peer: &str| was.iter().filter(|(_, at)| *at == peer).all(|(workload, _)| is[workload] == peer);
    for (n, child) in [1, 2].into_iter().zip(&running) {
        let told = mesh.operator.operation(child).await;
        if told["state"] == "cancelled" {
            assert_eq!(told["cancel"]["by"], "operator", "{told}");
            let peer = mesh.reader.read(&format!("/control/peers/{}", mesh.peers[n])).await;
            assert_eq!((&peer["state"], &peer["holds"]), (&json!("active"), &json!([])), "{peer}");
            assert!(restored(&mesh.peers[n]), "{is:?}");
        }
    }
    assert!(names(&result["cancelled"]).len() + drained.len() == 3, "{result}");
    assert!(!names(&result["cancelled"]).is_empty(), "{result}");
    assert!(restored(&mesh.peers[3]), "never touched: {is:?}");
    let again = mesh.operator.cancel(&parent).await;
    assert_eq!(again.expect(200).body["changed"], false);
    // What was done stays until somebody takes it back.
    for peer in &drained {
        mesh.uncordon(peer).await;
    }
    assert_eq!(mesh.out().await, BTreeSet::new());
}

#[tokio::test]
async fn a_cancel_before_anything_began_changes_nothing() {
    let mesh = mesh().await;
    let before = mesh.registry().await;
    let parent = mesh.operator.bulk(&of_cluster(&mesh, &json!({"gate": "start"}))).await;
    mesh.operator.operation_that("waits for approval", &parent, |it| it["state"] == "awaitingApproval").await;
    mesh.operator.cancel(&parent).await;
    let ended = mesh.operator.ended(&parent).await;
    assert_eq!(ended["state"], "cancelled", "{ended}");
    assert_eq!(ended["result"]["summary"], "0 succeeded, 5 not started", "{ended}");
    assert_eq!(mesh.operator.children(&parent).await, Vec::<Value>::new());
    assert_eq!(mesh.registry().await.differences(&before), Vec::<String>::new());
}

#[tokio::test]
async fn a_pause_of_the_parent_holds_all_of_it() {
    let stack = stack().await;
    let mesh = stack.mesh();
    mesh.budget(2).await;
    mesh.fault(&mesh.peers[0], "busy").await;
    mesh.fault(&mesh.peers[1], "busy").await;
    // Two at work, the third waits for the budget, the fourth for its turn.
    let body = of(&mesh, &[0, 1, 2, 3], &json!({"maxConcurrent": 3, "maxConcurrentMoves": 1}));
    let parent = mesh.operator.bulk(&body).await;
    let first = at_work(&mesh, &parent, &mesh.peers[0]).await;
    let second = at_work(&mesh, &parent, &mesh.peers[1]).await;
    let third = mesh.operator.child_of(&parent, &mesh.peers[2]).await;
    mesh.operator.operation_that("is queued", &third, |it| it["state"] == "queued").await;
    let counts = |it: &Value| it["children"] == json!({"running": 2, "queued": 1});
    mesh.operator.operation_that("counts its children", &parent, counts).await;
    control(&mesh.operator, &parent, "pause", &json!({"reason": "lunch"})).send().await.expect(200);
    for child in [&first, &second, &third] {
        let blocker = mesh.operator.blocked(child, "paused").await;
        assert!(blocker["message"].as_str().is_some_and(|m| m.contains("lunch")), "{blocker}");
    }
    mesh.operator.blocked(&parent, "paused").await;
    // What is in flight lands; nothing else begins.
    mesh.fault(&mesh.peers[0], "none").await;
    let landed = |it: &Value| it["progress"]["inFlight"] == 0;
    mesh.operator.operation_that("has nothing in flight", &first, landed).await;
    mesh.fault(&mesh.peers[1], "none").await;
    mesh.operator.operation_that("has nothing in flight", &second, landed).await;
    let third_now = mesh.operator.operation(&third).await;
    assert_eq!((&third_now["state"], &third_now["startedAt"]), (&json!("queued"), &Value::Null), "{third_now}");
    assert_eq!(mesh.operator.children(&parent).await.len(), 3);
    // Somebody else in the cluster is not held up by what is paused in the queue, only by who has the slots.
    let other = mesh.admin.drain(&mesh.peers[4], &json!({})).await;
    mesh.operator.operation_that("is first", &other, |it| it["queue"]["position"] == 1).await;
    mesh.admin.cancel(&other).await;
    mesh.admin.ended(&other).await;

    // Pausing again says nothing; resumed, all of it goes on.
    let again = control(&mesh.operator, &parent, "pause", &json!({})).send().await;
    assert_eq!(again.expect(200).body["changed"], false);
    control(&mesh.operator, &parent, "resume", &json!({})).send().await.expect(200);
    let ended = mesh.taking_back(mesh.operator.ended(&parent)).await;
    assert_eq!((&ended["state"], &ended["result"]["summary"]), (&json!("succeeded"), &json!("4 succeeded")), "{ended}");
    control(&mesh.operator, &parent, "pause", &json!({})).send().await.refused(409, "invalid-state");
}

#[tokio::test]
async fn paused_it_asks_all_the_same_and_goes_on_only_when_resumed() {
    let stack = stack().await;
    let mesh = stack.mesh();
    let body = of(&mesh, &[0, 1], &json!({"canary": 1, "soak": "3s", "gate": "rest"}));
    let parent = mesh.operator.bulk(&body).await;
    mesh.operator.operation_that("soaks", &parent, |it| it["phase"] == "soak").await;
    control(&mesh.operator, &parent, "pause", &json!({})).send().await.expect(200);
    mesh.operator.blocked(&parent, "paused").await;
    let paused = mesh.operator.operation(&parent).await;
    let waits = |it: &Value| it["state"] == "awaitingApproval";
    let waiting = mesh.operator.operation_that("asks", &parent, waits).await;
    if paused["phase"] == "soak" {
        // It was looked at every second meanwhile, which is no change: only that it asks is one.
        let revision = |of: &Value| of["revision"].as_u64().expect("a revision");
        assert_eq!(revision(&waiting), revision(&paused) + 1, "{paused} {waiting}");
    }
    let digest = json!({"digest": waiting["approval"]["digest"]});
    control(&stack.api(Role::Approve), &parent, "approve", &digest).send().await.expect(200);
    let passed = |it: &Value| it["state"] == "running";
    let held = mesh.operator.operation_that("is through its gate", &parent, passed).await;
    assert_eq!((&held["phase"], &held["blockers"][0]["code"]), (&json!("rest"), &json!("paused")), "{held}");
    assert_eq!(mesh.operator.children(&parent).await.len(), 1, "nothing new while it is paused");
    control(&mesh.operator, &parent, "resume", &json!({})).send().await.expect(200);
    let ended = mesh.operator.ended(&parent).await;
    assert_eq!((&ended["state"], &ended["result"]["summary"]), (&json!("succeeded"), &json!("2 succeeded")), "{ended}");
}

#[tokio::test]
async fn a_lost_wake_up_after_a_resume_only_costs_seconds() {
    let stack = stack().await;
    let mesh = stack.mesh();
    mesh.fault(&mesh.peers[0], "busy").await;
    let parent = mesh.operator.bulk(&of(&mesh, &[0], &json!({"maxConcurrentMoves": 1}))).await;
    let child = at_work(&mesh, &parent, &mesh.peers[0]).await;
    control(&mesh.operator, &parent, "pause", &json!({})).send().await.expect(200);
    mesh.operator.blocked(&child, "paused").await;
    mesh.fault(&mesh.peers[0], "none").await;
    mesh.operator.operation_that("has nothing in flight", &child, |it| it["progress"]["inFlight"] == 0).await;
    // As if the one who resumed had died before it woke anybody.
    let mut database = stack.database().await;
    let id: sqlx::types::Uuid = parent.parse().expect("an id");
    sqlx::query("update operations set paused = null where id = $1")
        .bind(id)
        .execute(&mut database)
        .await
        .expect("done");
    assert_eq!(mesh.operator.ended(&child).await["state"], "succeeded");
    assert_eq!(mesh.operator.ended(&parent).await["state"], "succeeded");
}

/// A stack with its roles as processes. One test has its worker at a time.
struct Site {
    stack: Stack,
    worker: Mutex<Option<Process>>,
    _others: [Process; 2],
}

async fn site() -> &'static Site {
    static SITE: OnceCell<Site> = OnceCell::const_new();
    SITE.get_or_init(|| async {
        let options =
            StackOptions { clusters: 2, peers: 40, workloads: 1, services: Services::None, ..StackOptions::default() };
        let stack = Stack::start(options).await;
        let others = ["ingress", "audit"].map(|role| stack.serve(role, role));
        let worker = stack.serve("worker", "worker");
        stack.answers().await;
        stack.healthy().await;
        Site { stack, worker: Mutex::new(Some(worker)), _others: others }
    })
    .await
}

/// Forty peers, four children at once, two peers out at most; somebody takes back what is drained.
async fn forty(mesh: &Arc<Mesh>, nats_url: &str, disturb: impl AsyncFnOnce()) {
    mesh.budget(2).await;
    let listener = Listener::start(nats_url).await;
    let sampler = Sampler::start(mesh);
    let body = of_cluster(mesh, &json!({"maxConcurrent": 4}));
    let planned = plan(&mesh.operator, &body).await;
    assert_eq!(planned["blockers"][0]["code"], "budget", "{planned}");
    let budget = &planned["impact"]["budgets"][0];
    assert_eq!((&budget["maxUnavailable"], &budget["unavailableAfter"]), (&json!(2), &json!(40)), "{budget}");
    let parent = mesh.operator.bulk(&body).await;
    let disturbing = async {
        let some = |it: &Value| it["progress"]["done"].as_u64() >= Some(5);
        mesh.operator.operation_that("is under way", &parent, some).await;
        disturb().await;
    };
    let ended = mesh.operator.ended_within(&parent, Duration::from_secs(150));
    let (ended, ()) = mesh.taking_back(async { tokio::join!(ended, disturbing) }).await;
    assert_eq!(
        (&ended["state"], &ended["result"]["summary"]),
        (&json!("succeeded"), &json!("40 succeeded")),
        "{ended}"
    );
    assert_eq!(ended["progress"]["done"], 40, "{ended}");
    let children = mesh.operator.children(&parent).await;
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for child in &children {
        *times.entry(child["target"].as_str().expect("a target")).or_default() += 1;
    }
    assert!(times.len() == 40 && times.values().all(|times| *times == 1), "one child for each peer: {times:?}");
    let told = told(&listener, &parent).await;
    assert!(most_children(&told, &parent) <= 4, "{}", most_children(&told, &parent));
    let all_drained = async || {
        let (most, drained) = most_out(&listener.events(), &mesh.cluster);
        if drained.len() == 40 { Ok((most, drained)) } else { Err(format!("{drained:?}")) }
    };
    let (most, drained) = eventually_ok("all are told drained", omnirelay_tests::PATIENCE, all_drained).await;
    assert!(drained.values().all(|times| *times == 1), "no peer is drained twice: {drained:?}");
    assert_eq!(most, 2, "at every position of the events");
    assert!(sampler.stop().await <= 2, "whenever the registry is read");
}

#[tokio::test]
async fn forty_peers_go_through_a_budget_of_two() {
    let site = site().await;
    let _worker = site.worker.lock().await;
    forty(&Arc::new(site.stack.mesh()), site.stack.nats_url(), async || {}).await;
}

#[tokio::test]
async fn a_worker_that_is_killed_drains_nothing_twice() {
    let site = site().await;
    let mut worker = site.worker.lock().await;
    forty(&Arc::new(site.stack.mesh()), site.stack.nats_url(), async || {
        worker.take().expect("it runs").kill_9();
        *worker = Some(site.stack.serve("worker", "worker"));
    })
    .await;
    eventually("the worker runs", omnirelay_tests::PATIENCE, async || worker.is_some().then_some(())).await;
}
