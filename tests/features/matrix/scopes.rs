//! The full matrix of scope and verb, at both doors.

use omnirelay_tests::{Call, Door, Protocol, Registry, Scope, records};
use serde_json::{Value, json};

use crate::{MESH_WIDE, NO_OPERATION, stack};

/// A verb, the scope that it wants, a call that only authorisation and its own first look decide about, and what is said to
/// somebody who may: a refusal in every case, so that the whole table leaves no trace but records.
fn verbs() -> Vec<(Scope, Call, &'static str)> {
    let call = Call::new;
    let operation = |verb| call(verb, NO_OPERATION, json!({}));
    let decision = |verb| call(verb, NO_OPERATION, json!({"digest": "d"}));
    vec![
        (Scope::Operate, call("peers.cordon", "nobody", json!({})), "not-found"),
        (Scope::Operate, call("peers.uncordon", "nobody", json!({})), "not-found"),
        (Scope::Operate, call("peers.drain", "nobody", json!({})), "not-found"),
        (Scope::Operate, call("peers.drain.many", "", json!({})), "invalid-argument"),
        (Scope::Operate, call("peers.patch", "nobody", json!({"labels": {"a": "b"}})), "not-found"),
        (Scope::Admin, call("peers.put", "nobody", json!({"cluster": "nowhere"})), "not-found"),
        (Scope::Admin, call("clusters.put", "cluster-1", json!({})).creates(), "revision-mismatch"),
        (Scope::Admin, call("clusters.promote", "nowhere", json!({})), "not-found"),
        (Scope::Admin, call("clusters.demote", "nowhere", json!({})), "not-found"),
        (Scope::Admin, call("config.patch", "", json!({"settings": {"drain": {}}})), "precondition-required"),
        (Scope::Admin, call("config.rollback", "", json!({"revision": 999_999})), "not-found"),
        (Scope::Operate, operation("operations.cancel"), "not-found"),
        (Scope::Operate, operation("operations.pause"), "not-found"),
        (Scope::Operate, operation("operations.resume"), "not-found"),
        (Scope::Approve, decision("operations.approve"), "not-found"),
        (Scope::Approve, decision("operations.reject"), "not-found"),
        (Scope::Admin, operation("operations.resolve"), "not-found"),
    ]
}

/// Of the contract: operate and approve stand side by side, admin above both.
fn may(has: Scope, wants: Scope) -> bool {
    has == Scope::Admin || (has == wants && matches!(has, Scope::Operate | Scope::Approve))
}

/// What an audit record calls a call.
fn named(call: &Call) -> (String, String) {
    let verb = if call.verb == "peers.drain.many" { "peers.drain" } else { call.verb };
    let resource = verb.split('.').next().unwrap_or_default();
    let target = match (resource, call.id.as_str()) {
        ("config", _) => "config/settings".to_owned(),
        (resource, "") => resource.to_owned(),
        (resource, id) => format!("{resource}/{id}"),
    };
    (verb.to_owned(), target)
}

#[tokio::test]
async fn each_verb_is_for_those_with_its_scope_and_each_refusal_is_on_record() {
    let stack = stack().await;
    let mesh = stack.mesh();
    let _alone = MESH_WIDE.lock().await;
    let before = Registry::to_the_digit(&mesh.reader, "cluster-1").await;
    for protocol in Protocol::BOTH {
        let door = Door::open(protocol, mesh.reader.clone()).await;
        for (_, call, _) in verbs() {
            let stranger = door.with_token(None).ask(&call).await;
            assert_eq!((stranger.status, stranger.code.as_str()), (401, "unauthenticated"), "{}", call.verb);
        }
        for scope in Scope::ALL {
            let subject = format!("matrix-{}-{}", protocol.name(), scope.as_str().replace('.', "-"));
            let door = door.with_token(Some(&stack.token_of(&subject, *scope)));
            let mut expected = Vec::new();
            for (wants, call, code) in verbs() {
                let reply = door.ask(&call).await;
                let allowed = may(*scope, wants);
                let code = if allowed { code } else { "insufficient-scope" };
                assert_eq!(reply.code, code, "{} {subject}: {}", call.verb, reply.body);
                assert_eq!(reply.status == 403, !allowed, "{} {subject}", call.verb);
                if !allowed {
                    let detail = reply.body["detail"].as_str().unwrap_or_default();
                    assert!(detail.contains(wants.as_str()), "it says which scope is wanted: {detail}");
                }
                let (verb, target) = named(&call);
                let outcome = if allowed { "refused" } else { "denied" };
                expected.push([verb, target, outcome.to_owned(), code.to_owned()].join(" "));
            }
            let all = records(&mesh.reader, &format!("actor={subject}"), |all| all.len() >= expected.len()).await;
            let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
            let told = |record: &Value| {
                [&record["verb"], &record["target"], &record["outcome"], &record["detail"]["code"]].map(text).join(" ")
            };
            let mut told: Vec<String> = all.iter().map(told).collect();
            told.sort();
            expected.sort();
            assert_eq!(told, expected, "{subject}");
            for record in &all {
                assert_eq!(record["actor"]["scopes"], json!([scope.as_str()]), "{record}");
                assert!(record["operation"].is_null() || record["target"] == format!("operations/{NO_OPERATION}"));
            }
            let operations = mesh.reader.list(&format!("/control/operations?actor={subject}")).await;
            assert_eq!(operations, Vec::<Value>::new(), "{subject}");
        }
    }
    assert_eq!(Registry::to_the_digit(&mesh.reader, "cluster-1").await.differences(&before), Vec::<String>::new());
}
