//! What is asked of the API and how it refuses: who may do what, in which order it looks, and what it does not take.

use std::collections::BTreeSet;

use omnirelay_tests::{Api, Mesh, PATIENCE, Role, Sse, Stack, StackOptions, eventually_ok};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// One stack for this file; each test has a cluster of its own.
async fn stack() -> &'static Stack {
    static STACK: OnceCell<Stack> = OnceCell::const_new();
    let options = StackOptions { clusters: 10, peers: 3, workloads: 1, ..StackOptions::default() };
    STACK.get_or_init(|| Stack::start(options)).await
}

const READS: &[&str] = &[
    "/control/peers",
    "/control/clusters",
    "/control/operations",
    "/control/audit",
    "/control/status",
    "/control/versions",
    "/control/peers/cluster-1-peer-1",
    "/control/peers/cluster-1-peer-1/workloads",
    "/control/clusters/cluster-1",
];

#[tokio::test]
async fn every_role_may_read_and_only_some_may_change() {
    let stack = stack().await;
    let mesh = stack.mesh();
    let cordon = mesh.operator.peer(&mesh.peers[0], "cordon", &json!({})).send().await.expect(200).operation();
    for role in Role::ALL {
        let api = stack.api(role);
        for path in READS {
            assert_eq!(api.get(path).send().await.status, 200, "{role:?} {path}");
        }
        assert_eq!(api.get(&format!("/control/operations/{cordon}")).send().await.status, 200, "{role:?}");
        let may = matches!(role, Role::Operate | Role::Admin);
        for verb in ["cordon", "uncordon", "drain"] {
            let path = format!("/control/peers/{}:{verb}?validateOnly=true", mesh.peers[1]);
            let answer = api.post(&path, &json!({})).send().await;
            if may {
                answer.expect(200)
            } else {
                answer.refused(403, "insufficient-scope")
            };
        }
        let cancel = api.cancel(&cordon).await;
        if may {
            cancel.refused(409, "too-late")
        } else {
            cancel.refused(403, "insufficient-scope")
        };
    }
}

#[tokio::test]
async fn nobody_unknown_is_let_in_anywhere() {
    let stack = stack().await;
    let mesh = stack.mesh();
    let tampered = {
        let token = stack.token(Role::Admin);
        let (head, signature) = token.rsplit_once('.').expect("a JWT");
        let flipped = if signature.starts_with('A') { "B" } else { "A" };
        format!("{head}.{flipped}{}", &signature[1..])
    };
    for token in [None, Some(""), Some("nonsense"), Some(tampered.as_str())] {
        let api = Api::new(stack.url(), token);
        for path in READS.iter().chain(&["/control/events"]) {
            api.get(path).send().await.refused(401, "unauthenticated");
        }
        for verb in ["cordon", "uncordon", "drain"] {
            api.peer(&mesh.peers[0], verb, &json!({})).send().await.refused(401, "unauthenticated");
        }
        api.cancel("0193d1f0-0000-7000-8000-000000000009").await.refused(401, "unauthenticated");
    }
    let in_the_url = Api::new(stack.url(), None);
    let path = format!("/control/peers?access_token={}", stack.token(Role::Admin));
    in_the_url.get(&path).send().await.refused(401, "unauthenticated");
    for open in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(in_the_url.get(open).send().await.status, 200, "{open} is for probes");
    }
}

/// Each request has all faults from its row on; the first in the contract's order is told.
#[tokio::test]
async fn faults_are_told_in_the_order_of_the_contract() {
    let stack = stack().await;
    let mesh = stack.mesh();
    let [busy, cordoned, free] = [0, 1, 2].map(|n| mesh.peers[n].as_str());
    mesh.fault(busy, "busy").await;
    let drain = mesh.operator.drain(busy, &json!({})).await;
    mesh.operator.peer(cordoned, "cordon", &json!({})).key("used").send().await.expect(200);
    let bad = json!({"colour": 1});
    let fine = json!({});
    let stranger = Api::new(stack.url(), None);
    let of = |api: &Api, peer: &str, body: &Value, key: &str, if_match: &str| {
        let ask = api.peer(peer, "drain", body).key(key);
        if if_match.is_empty() { ask } else { ask.header("if-match", if_match) }
    };
    let nobody = "nobody-is-here";
    for (ask, status, code) in [
        (of(&stranger, nobody, &bad, "used", "\"0\""), 401, "unauthenticated"),
        (of(&mesh.reader, nobody, &bad, "used", "\"0\""), 403, "insufficient-scope"),
        (of(&mesh.operator, nobody, &bad, "used", "\"0\""), 400, "invalid-argument"),
        (of(&mesh.operator, nobody, &fine, "used", "\"0\""), 422, "idempotency-key-reused"),
        (of(&mesh.operator, nobody, &fine, "order-1", "\"0\""), 404, "not-found"),
        (of(&mesh.operator, busy, &fine, "order-2", "\"0\""), 412, "revision-mismatch"),
        (of(&mesh.operator, busy, &fine, "order-3", ""), 409, "operation-in-progress"),
        (of(&mesh.operator, free, &fine, "order-4", ""), 428, "confirmation-required"),
    ] {
        ask.send().await.refused(status, code);
    }
    mesh.fault(busy, "none").await;
    assert_eq!(mesh.operator.ended(&drain).await["state"], "succeeded");
}

#[tokio::test]
async fn what_is_not_understood_is_refused_by_name() {
    let mesh = stack().await.mesh();
    let id = mesh.peers[0].as_str();
    for (verb, body, named) in [
        ("cordon", json!({"colour": 1}), "colour"),
        ("cordon", json!({"all": true}), "all"),
        ("uncordon", json!({"all": "yes"}), "all"),
        ("drain", json!({"deadline": "soon"}), "soon"),
        ("drain", json!({"deadline": 30}), "deadline"),
        ("drain", json!({"onDeadline": "explode"}), "explode"),
        ("drain", json!({"maxConcurrent": 0}), "maxConcurrent"),
        ("drain", json!({"maxConcurrent": -1}), "maxConcurrent"),
        ("drain", json!({"gate": "sometime"}), "gate"),
        ("cordon", json!({"reason": 7}), "reason"),
        ("cordon", json!({"reason": "x".repeat(5_000)}), "reason"),
        ("cordon", json!({"changeTicket": "x".repeat(5_000)}), "changeTicket"),
        ("cordon", json!({"reason": "a\u{0}b"}), "reason"),
        ("cordon", json!([]), ""),
    ] {
        let answer = mesh.operator.peer(id, verb, &body).send().await;
        answer.refused(400, "invalid-argument");
        let detail = answer.body["detail"].as_str().unwrap_or("");
        // serde does not tell the member of a value that is out of its type's range.
        let named = if body == json!({"maxConcurrent": -1}) || body == json!({"deadline": 30}) { "" } else { named };
        let named = if matches!(body["reason"], Value::Number(_)) || body["all"] == "yes" { "" } else { named };
        assert!(detail.contains(named), "{verb} {body}: {detail}");
    }
    for query in ["validateOnly=maybe", "validateonly=true", "validateOnly=true&validateOnly=false"] {
        let path = format!("/control/peers/{id}:cordon?{query}");
        mesh.operator.post(&path, &json!({})).send().await.refused(400, "invalid-argument");
    }
    for (header, value) in [("prefer", "wait=long"), ("if-match", "seven"), ("idempotency-key", "")] {
        let ask = mesh.operator.peer(id, "cordon", &json!({})).header(header, value);
        ask.send().await.refused(400, "invalid-argument");
    }
    let long = mesh.operator.peer(id, "cordon", &json!({})).key(&"k".repeat(256)).send().await;
    long.refused(400, "invalid-argument");
}

#[tokio::test]
async fn ids_are_checked_before_they_go_anywhere() {
    let mesh = stack().await.mesh();
    for id in ["a.b", "-a", "a%20b", "a%2Fb", "a*", "a>b", "%C3%A4", &"a".repeat(64), "%2e%2e"] {
        let answer = mesh.operator.peer(id, "cordon", &json!({})).send().await;
        assert_eq!((answer.status, answer.code()), (400, "invalid-argument"), "{id}: {}", answer.body);
        let read = mesh.reader.get(&format!("/control/peers/{id}")).send().await;
        assert!(matches!(read.status, 400 | 404), "{id}: {} {}", read.status, read.body);
    }
    for id in ["x", "0193d1f0", "0193d1f0-0000-7000-8000-00000000000g"] {
        mesh.operator.cancel(id).await.refused(400, "invalid-argument");
        mesh.reader.get(&format!("/control/operations/{id}")).send().await.refused(400, "invalid-argument");
    }
    mesh.operator.peer(&"a".repeat(63), "cordon", &json!({})).send().await.refused(404, "not-found");
}

#[tokio::test]
async fn bodies_are_json_of_a_bounded_size() {
    let mesh = stack().await.mesh();
    let path = format!("/control/peers/{}:cordon", mesh.peers[0]);
    let raw = |media_type: &str, body: String| mesh.operator.ask(Method::POST, &path).raw(media_type, body).send();
    raw("application/json", format!("{{\"reason\": \"{}\"}}", "x".repeat(70_000)))
        .await
        .refused(413, "payload-too-large");
    raw("text/plain", "{}".to_owned()).await.refused(415, "unsupported-media-type");
    raw("application/x-www-form-urlencoded", "reason=a".to_owned()).await.refused(415, "unsupported-media-type");
    for broken in ["{", "{\"reason\": }", "\u{feff}{}", "{\"reason\": \"a\", \"reason\": \"b\"}"] {
        raw("application/json", broken.to_owned()).await.refused(400, "invalid-argument");
    }
    raw("application/json; charset=utf-8", "{}".to_owned()).await.expect(200);
    let nothing = mesh.operator.ask(Method::POST, &path).send().await;
    nothing.expect(200);
}

#[tokio::test]
async fn routes_and_methods_that_are_not_there_say_so() {
    let mesh = stack().await.mesh();
    let id = mesh.peers[0].as_str();
    for (method, path, status, code) in [
        (Method::GET, "/control/nothing".to_owned(), 404, "not-found"),
        (Method::GET, "/control/peers/nobody".to_owned(), 404, "not-found"),
        (Method::GET, "/control/peers/nobody/workloads".to_owned(), 404, "not-found"),
        (Method::GET, "/control/clusters/nowhere".to_owned(), 404, "not-found"),
        (Method::GET, "/control/operations/0193d1f0-0000-7000-8000-000000000009".to_owned(), 404, "not-found"),
        (Method::GET, "/control/events?operation=0193d1f0-0000-7000-8000-000000000009".to_owned(), 404, "not-found"),
        (Method::POST, format!("/control/peers/{id}:explode"), 404, "not-found"),
        (Method::POST, "/control/peers".to_owned(), 405, "method-not-allowed"),
        (Method::DELETE, format!("/control/peers/{id}"), 405, "method-not-allowed"),
        (Method::PUT, format!("/control/peers/{id}:cordon"), 405, "method-not-allowed"),
    ] {
        let answer = mesh.admin.ask(method.clone(), &path).send().await;
        assert_eq!((answer.status, answer.code()), (status, code), "{method} {path}: {}", answer.body);
        answer.refused(status, code);
    }
}

#[tokio::test]
async fn lists_come_in_pages_that_belong_together() {
    let mesh = stack().await.mesh();
    let filter = format!("cluster={}", mesh.cluster);
    let first = mesh.reader.read(&format!("/control/peers?{filter}&pageSize=2")).await;
    assert!(first["position"].as_u64().is_some(), "where a subscription goes on: {first}");
    let token = first["nextPageToken"].as_str().expect("another page");
    let second = mesh.reader.read(&format!("/control/peers?{filter}&pageSize=2&pageToken={token}")).await;
    let ids = |page: &Value| -> Vec<String> {
        let items = page["items"].as_array().expect("items").iter();
        items.map(|item| item["id"].as_str().unwrap_or("").to_owned()).collect()
    };
    assert_eq!([ids(&first), ids(&second)].concat(), mesh.peers);
    assert_eq!(second["nextPageToken"], Value::Null);
    for bad in [
        format!("/control/peers?pageSize=2&pageToken={token}"),
        format!("/control/operations?pageToken={token}"),
        "/control/peers?pageToken=AAAA".to_owned(),
        "/control/peers?pageSize=0".to_owned(),
        "/control/peers?colour=red".to_owned(),
        "/control/peers?state=happy".to_owned(),
        "/control/peers?orderBy=colour".to_owned(),
        "/control/audit?since=yesterday".to_owned(),
    ] {
        mesh.reader.get(&bad).send().await.refused(400, "invalid-argument");
    }
}

#[tokio::test]
async fn metrics_name_what_the_contract_promises() {
    let mesh: Mesh = stack().await.mesh();
    mesh.operator.peer(&mesh.peers[0], "cordon", &json!({})).send().await.expect(200);
    mesh.fault(&mesh.peers[0], "busy").await;
    let drain = mesh.operator.drain(&mesh.peers[0], &json!({})).await;
    let _watcher = Sse::open(&mesh.reader, "", None).await;
    let promised = [
        "omnirelay_mutations_total",
        "omnirelay_mutation_seconds",
        "omnirelay_operations",
        "omnirelay_workflow_step_seconds",
        "omnirelay_batch_size",
        "omnirelay_outbox_lag_seconds",
        "omnirelay_outbox_pending",
        "omnirelay_consumer_pending",
        "omnirelay_audit_lag_seconds",
        "omnirelay_sse_clients",
        "omnirelay_approvals_pending",
        "omnirelay_effect_attempts_total",
        "omnirelay_agents",
    ];
    eventually_ok("all metrics", PATIENCE, async || {
        let answer = mesh.reader.get("/metrics").send().await;
        let text = answer.expect(200).body.as_str().expect("text").to_owned();
        let told: BTreeSet<&str> = text.lines().filter_map(|line| line.split(['{', ' ']).next()).collect();
        let is_told = |name: &&str| ["", "_count"].iter().any(|end| told.contains(format!("{name}{end}").as_str()));
        let missing: Vec<&str> = promised.into_iter().filter(|name| !is_told(name)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} of {told:?}")) }
    })
    .await;
    mesh.fault(&mesh.peers[0], "none").await;
    assert_eq!(mesh.operator.ended(&drain).await["state"], "succeeded");
    eventually_ok("no drain runs", PATIENCE, async || {
        let text = mesh.reader.get("/metrics").send().await.body.as_str().unwrap_or("").to_owned();
        let of = |line: &&str| line.starts_with("omnirelay_operations{") && line.contains("peers.drain");
        let running: Vec<&str> = text.lines().filter(of).filter(|line| !line.ends_with(" 0")).collect();
        if running.is_empty() { Ok(()) } else { Err(running.join("\n")) }
    })
    .await;
}
