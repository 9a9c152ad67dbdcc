//! Cordon and uncordon: the contract's table of cases, keys, preconditions, and everything at once.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use omnirelay_tests::{Api, Mesh, Role, Stack, StackOptions, owners};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// One stack for this file; each test has a cluster of its own.
async fn stack() -> &'static Stack {
    static STACK: OnceCell<Stack> = OnceCell::const_new();
    let options = StackOptions { clusters: 12, peers: 2, workloads: 2, ..StackOptions::default() };
    STACK.get_or_init(|| Stack::start(options)).await
}

async fn mesh() -> Mesh {
    stack().await.mesh()
}

async fn peer(api: &Api, id: &str) -> Value {
    api.read(&format!("/control/peers/{id}")).await
}

#[tokio::test]
async fn a_cordon_by_each_actor_is_a_hold_of_its_own() {
    let mesh = mesh().await;
    let id = mesh.peers[0].as_str();
    let body = json!({"reason": "disk", "changeTicket": "CHG-7"});
    let first = mesh.operator.peer(id, "cordon", &body).send().await;
    assert_eq!(first.expect(200).body["changed"], true);
    assert_eq!(first.body["operation"]["state"], "succeeded");
    assert_eq!(first.body["operation"]["verb"], "peers.cordon");
    assert_eq!(first.body["resource"]["state"], "cordoned", "{}", first.body);
    let again = mesh.operator.peer(id, "cordon", &body).send().await;
    assert_eq!(again.expect(200).body["changed"], false);
    let other = mesh.admin.peer(id, "cordon", &json!({})).send().await;
    assert_eq!(other.expect(200).body["changed"], true);
    let held = peer(&mesh.reader, id).await;
    assert_eq!(owners(&held), ["manual admin", "manual operator"]);
    let mine = held["holds"].as_array().expect("holds").iter().find(|hold| hold["owner"] == "operator").expect("mine");
    assert_eq!((&mine["reason"], &mine["changeTicket"]), (&json!("disk"), &json!("CHG-7")));
    assert_eq!((&held["state"], &held["schedulable"]), (&json!("cordoned"), &json!(false)));
}

#[tokio::test]
async fn uncordon_takes_mine_and_others_only_when_told() {
    let mesh = mesh().await;
    let id = mesh.peers[0].as_str();
    let nothing = mesh.operator.peer(id, "uncordon", &json!({})).send().await;
    assert_eq!(nothing.expect(200).body["changed"], false);
    mesh.cordon(&mesh.admin, id).await;
    let theirs = mesh.operator.peer(id, "uncordon", &json!({})).send().await;
    theirs.refused(409, "peer-held");
    assert!(theirs.body.to_string().contains("admin"), "it names who holds it: {}", theirs.body);
    mesh.cordon(&mesh.operator, id).await;
    let mine = mesh.operator.peer(id, "uncordon", &json!({})).send().await;
    assert_eq!(mine.expect(200).body["changed"], true);
    assert_eq!(owners(&peer(&mesh.reader, id).await), ["manual admin"]);
    let all = mesh.operator.peer(id, "uncordon", &json!({"all": true})).send().await;
    assert_eq!(all.expect(200).body["changed"], true);
    let free = peer(&mesh.reader, id).await;
    assert_eq!((&free["state"], &free["schedulable"]), (&json!("active"), &json!(true)));
}

#[tokio::test]
async fn the_same_key_fifty_times_at_once_is_one_operation() {
    let mesh = mesh().await;
    let id = mesh.peers[0].as_str();
    let body = json!({"reason": "fifty"});
    let asks = (0..50).map(|_| mesh.operator.peer(id, "cordon", &body).key("fifty-at-once").send());
    let answers = join_all(asks).await;
    let operations: BTreeSet<String> = answers.iter().map(|answer| answer.expect(200).operation()).collect();
    assert_eq!(operations.len(), 1, "one operation");
    let replayed = answers.iter().filter(|answer| answer.header("idempotency-replayed") == "true").count();
    assert_eq!(replayed, 49, "the others are told that they are repetitions");
    assert!(answers.iter().all(|answer| answer.header("idempotency-key") == "fifty-at-once"));
    assert!(answers.iter().all(|answer| answer.body["changed"] == true), "all have the same answer");
    let of_target = mesh.reader.list(&format!("/control/operations?target=peers/{id}")).await;
    assert_eq!(of_target.len(), 1);
    assert_eq!(owners(&peer(&mesh.reader, id).await), ["manual operator"]);
}

#[tokio::test]
async fn a_key_is_bound_to_its_request_and_its_actor() {
    let mesh = mesh().await;
    let id = mesh.peers[0].as_str();
    let first = mesh.operator.peer(id, "cordon", &json!({"reason": "a"})).key("bound").send().await;
    let operation = first.expect(200).operation();
    for other in [
        mesh.operator.peer(id, "cordon", &json!({"reason": "b"})).key("bound"),
        mesh.operator.peer(id, "uncordon", &json!({"reason": "a"})).key("bound"),
        mesh.operator.peer(&mesh.peers[1], "cordon", &json!({"reason": "a"})).key("bound"),
        mesh.operator.peer(id, "cordon", &json!({"reason": "a"})).key("bound").header("if-match", "*"),
    ] {
        let answer = other.send().await;
        answer.refused(422, "idempotency-key-reused");
        assert_eq!(answer.body["operation"], operation);
    }
    let same = mesh.operator.peer(id, "cordon", &json!({"reason": "a"})).key("bound").send().await;
    assert_eq!((same.expect(200).operation(), same.header("idempotency-replayed")), (operation.clone(), "true"));
    let reordered = mesh.operator.ask(reqwest::Method::POST, &format!("/control/peers/{id}:cordon")).key("bound");
    let reordered = reordered.raw("application/json", "{ \"reason\" :\t\"a\" }").send().await;
    assert_eq!(reordered.expect(200).operation(), operation, "the canonical body counts");
    let admins = mesh.admin.peer(id, "cordon", &json!({"reason": "a"})).key("bound").send().await;
    assert_ne!(admins.expect(200).operation(), operation, "another actor's key is another key");
}

#[tokio::test]
async fn a_key_that_was_refused_is_not_bound() {
    let mesh = mesh().await;
    let id = mesh.peers[0].as_str();
    mesh.operator.peer(id, "cordon", &json!({"colour": 1})).key("free").send().await.refused(400, "invalid-argument");
    mesh.operator.peer("nobody", "cordon", &json!({})).key("free").send().await.refused(404, "not-found");
    let taken = mesh.operator.peer(id, "cordon", &json!({})).key("free").send().await;
    assert_eq!(taken.expect(200).header("idempotency-replayed"), "");
}

#[tokio::test]
async fn without_a_key_one_is_made_and_told() {
    let mesh = mesh().await;
    let answers = [
        mesh.operator.peer(&mesh.peers[0], "cordon", &json!({})).send().await,
        mesh.operator.peer(&mesh.peers[0], "cordon", &json!({})).send().await,
    ];
    let keys: BTreeSet<&str> = answers.iter().map(|answer| answer.expect(200).header("idempotency-key")).collect();
    assert!(keys.len() == 2 && !keys.contains(""), "{keys:?}");
    let replay = mesh.operator.peer(&mesh.peers[0], "cordon", &json!({})).key(keys.iter().next().expect("a key"));
    assert_eq!(replay.send().await.expect(200).header("idempotency-replayed"), "true");
}

#[tokio::test]
async fn if_match_protects_against_what_changed_meanwhile() {
    let mesh = mesh().await;
    let path = format!("/control/peers/{}", mesh.peers[0]);
    let id = mesh.peers[0].as_str();
    let read = mesh.reader.get(&path).send().await;
    let (etag, revision) = (read.header("etag").to_owned(), read.body["revision"].as_u64().expect("a revision"));
    assert_eq!(etag, format!("\"{revision}\""));
    let cached = mesh.reader.get(&path).header("if-none-match", &etag).send().await;
    assert_eq!(cached.expect(304).body, json!(""));
    mesh.operator.peer(id, "cordon", &json!({})).header("if-match", &etag).send().await.expect(200);
    let stale = mesh.admin.peer(id, "cordon", &json!({})).header("if-match", &etag).send().await;
    stale.refused(412, "revision-mismatch");
    let now = mesh.reader.get(&path).header("if-none-match", &etag).send().await;
    assert_eq!(now.expect(200).body["revision"], stale.body["revision"], "the refusal tells the revision");
    assert!(now.body["revision"].as_u64() > Some(revision));
    for (tag, status) in [("*", 200), ("W/\"1\"", 412), ("\"0\", \"1\"", 412), ("7", 400)] {
        let answer = mesh.admin.peer(id, "cordon", &json!({})).header("if-match", tag).send().await;
        assert_eq!(answer.status, status, "{tag}: {}", answer.body);
    }
    let many = format!("\"0\", {}", mesh.reader.get(&path).send().await.header("etag"));
    mesh.admin.peer(id, "uncordon", &json!({})).header("if-match", &many).send().await.expect(200);
}

#[tokio::test]
async fn an_unchanged_list_is_not_sent_again() {
    let mesh = mesh().await;
    for path in [
        format!("/control/peers?cluster={}&state=cordoned", mesh.cluster),
        format!("/control/operations?target=peers/{}", mesh.peers[0]),
    ] {
        let etag = mesh.reader.get(&path).send().await.expect(200).header("etag").to_owned();
        assert!(etag.len() > 2, "{path}");
        mesh.reader.get(&path).header("if-none-match", &etag).send().await.expect(304);
        mesh.operator.peer(&mesh.peers[0], "cordon", &json!({"reason": path})).send().await.expect(200);
        let changed = mesh.reader.get(&path).header("if-none-match", &etag).send().await;
        assert!(changed.expect(200).body["items"].as_array().is_some_and(|items| !items.is_empty()), "{path}");
        mesh.operator.peer(&mesh.peers[0], "uncordon", &json!({})).send().await.expect(200);
    }
}

#[tokio::test]
async fn validate_only_shows_the_plan_and_changes_nothing() {
    let mesh = mesh().await;
    let id = mesh.peers[0].as_str();
    let before = mesh.registry().await;
    for verb in ["cordon", "uncordon", "drain"] {
        let path = format!("/control/peers/{id}:{verb}?validateOnly=true");
        let plan = mesh.operator.post(&path, &json!({})).send().await;
        for member in ["impact", "blockers", "approval", "digest", "confirmation"] {
            assert!(plan.expect(200).body.get(member).is_some(), "{verb}: {member} in {}", plan.body);
        }
    }
    mesh.operator
        .post("/control/peers/nobody:cordon?validateOnly=true", &json!({}))
        .send()
        .await
        .refused(404, "not-found");
    assert_eq!(mesh.registry().await.differences(&before), Vec::<String>::new());
    assert_eq!(mesh.reader.list(&format!("/control/operations?target=peers/{id}")).await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_drain_wants_its_plan_confirmed_and_only_as_long_as_the_plan_is_true() {
    let mesh = mesh().await;
    let id = mesh.peers[0].as_str();
    let body = json!({"reason": "kernel"});
    let asked = mesh.operator.peer(id, "drain", &body).send().await;
    asked.refused(428, "confirmation-required");
    let plan = &asked.body["plan"];
    let impact = &plan["impact"];
    assert_eq!((&impact["peer"], &impact["workloads"]), (&json!(id), &json!(2)));
    assert_eq!(impact["moves"].as_array().map(Vec::len), Some(2));
    assert_eq!(impact["moves"][0]["target"], json!(mesh.peers[1]));
    assert!(plan["confirmation"]["expiresAt"].as_str().is_some_and(|at| at.ends_with('Z')));
    let confirm = |body: &Value, plan: &Value| {
        let mut body = body.clone();
        body["confirmation"] = plan["confirmation"]["token"].clone();
        body
    };
    let confirmed = confirm(&body, plan);
    // Not of another request, another actor, nor made up.
    let other = confirm(&json!({"reason": "other"}), plan);
    mesh.operator.peer(id, "drain", &other).send().await.refused(428, "confirmation-required");
    mesh.admin.peer(id, "drain", &confirmed).send().await.refused(428, "confirmation-required");
    let forged = json!({"reason": "kernel", "confirmation": "AAAA"});
    mesh.operator.peer(id, "drain", &forged).send().await.refused(428, "confirmation-required");
    // Nor once the peer has changed.
    mesh.cordon(&mesh.admin, id).await;
    let stale = mesh.operator.peer(id, "drain", &confirmed).send().await;
    stale.refused(428, "confirmation-required");
    assert_ne!(stale.body["plan"]["confirmation"]["token"], plan["confirmation"]["token"]);
    assert_eq!(stale.body["plan"]["impact"]["holds"][0]["owner"], "admin", "the fresh plan shows what changed");
    let fresh = confirm(&body, &stale.body["plan"]);
    let operation = mesh.operator.peer(id, "drain", &fresh).key("confirmed").send().await.expect(202).operation();
    // The digest leaves the confirmation out: the same request without it is the same request.
    let replay = mesh.operator.peer(id, "drain", &body).key("confirmed").send().await;
    assert_eq!((replay.operation(), replay.header("idempotency-replayed")), (operation.clone(), "true"));
    assert_eq!(mesh.operator.ended(&operation).await["state"], "succeeded");
}

#[tokio::test]
async fn cordons_and_uncordons_of_one_peer_at_once_end_as_one_order_of_them_would() {
    let mesh = mesh().await;
    let id = mesh.peers[0].as_str();
    let asks = (0..40).map(|n| {
        let api = if n % 2 == 0 { &mesh.operator } else { &mesh.admin };
        let verb = if n % 3 == 0 { "uncordon" } else { "cordon" };
        async move { api.peer(id, verb, &json!({"reason": n.to_string()})).send().await }
    });
    for answer in join_all(asks).await {
        // An uncordon may come while only the other holds it.
        assert!(answer.status == 200 || answer.code() == "peer-held", "{} {}", answer.status, answer.body);
    }
    let end = peer(&mesh.reader, id).await;
    let owners = owners(&end);
    assert!(owners.len() <= 2 && owners.iter().collect::<BTreeSet<_>>().len() == owners.len(), "{owners:?}");
    assert_eq!(end["schedulable"], owners.is_empty());
    let events = mesh.reader.list(&format!("/control/operations?target=peers/{id}")).await;
    assert_eq!(events.len(), 40);
    let changed = events.iter().filter(|operation| operation["state"] == "succeeded").count();
    assert!(changed > 0);
}

#[tokio::test]
async fn a_wait_of_nothing_is_answered_at_once_and_the_operation_found_later() {
    let stack = stack().await;
    let mesh = stack.mesh();
    for prefer in ["respond-async", "wait=0"] {
        let answer = mesh.operator.peer(&mesh.peers[0], "cordon", &json!({})).header("prefer", prefer).send().await;
        let id = answer.expect(202).operation();
        assert_eq!(answer.header("location"), format!("/control/operations/{id}"));
        assert_eq!(stack.api(Role::Read).ended(&id).await["state"], "succeeded");
    }
}
