use prost::Message;
use serde_json::{Value as Json, json};

use super::json::Value;
use super::v1;
use crate::problem::{Code, Problem};

/// JSON that a message has read, written again; and the message over the wire in between.
fn through<M: Message + Default + serde::Serialize + serde::de::DeserializeOwned>(json: &Json) -> Json {
    let message: M = serde_json::from_value(json.clone()).expect("a message");
    let wire = M::decode(message.encode_to_vec().as_slice()).expect("the message again");
    serde_json::to_value(&wire).expect("JSON")
}

#[test]
fn free_json_comes_back_as_it_was() {
    for json in [
        json!(null),
        json!(true),
        json!("x"),
        json!(2),
        json!(-7),
        json!(2.5),
        json!(9_007_199_254_740_992_u64),
        json!([1, [], {}, null]),
        json!({"a": {"b": [{"c": null}]}, "": 0}),
    ] {
        assert_eq!(through::<Value>(&json), json);
    }
    let infinite = Value { kind: Some(super::json::Kind::Number(f64::INFINITY)) };
    assert!(serde_json::to_value(&infinite).is_err());
}

#[test]
fn messages_have_the_members_of_the_rest_api() {
    let peer = json!({
        "id": "edge-7", "name": "web", "cluster": "c", "role": "edge", "address": "10.0.0.1", "version": "1.0",
        "labels": {"zone": "a"}, "metadata": {"rack": 4}, "health": "healthy", "schedulable": true, "state": "cordoned",
        "holds": [{"id": "h", "kind": "manual", "owner": "ana", "operation": "o", "reason": "r", "changeTicket": "C",
                   "since": "2026-01-01T00:00:00Z"}],
        "workloads": 3, "capacity": 10, "lastSeen": "2026-01-01T00:00:00Z", "operation": "o", "revision": 18_446_744_073_709_551_615_u64,
    });
    assert_eq!(through::<v1::Peer>(&peer), peer);
    let sparse = json!({"id": "edge-7", "labels": null, "lastSeen": null, "metadata": null, "holds": null});
    assert_eq!(through::<v1::Peer>(&sparse), json!({"id": "edge-7"}));
    let event = json!({"type": "omnirelay.peers.changed", "data": {"operationSeq": 1, "audit": {"verb": "x"}, "labels": {"a": "b"}}});
    assert_eq!(through::<v1::Event>(&event), event);
}

#[test]
fn a_null_in_a_patch_is_not_the_same_as_nothing() {
    let patch = v1::PatchPeerRequest { id: "a".to_owned(), labels: Some(Json::Null.into()), ..Default::default() };
    let patch = v1::PatchPeerRequest::decode(patch.encode_to_vec().as_slice()).expect("a patch");
    assert_eq!(serde_json::to_value(&patch).expect("JSON"), json!({"id": "a", "labels": null}));
}

#[test]
fn members_of_single_problems_are_kept() {
    let problem = Problem::new(Code::TooLate, "late").with("inverse", json!({"method": "POST"})).with("operation", "o");
    let problem = serde_json::to_value(&problem).expect("JSON");
    assert_eq!(through::<v1::Problem>(&problem), problem);
}

#[test]
fn no_refusal_is_success() {
    for code in Code::ALL {
        assert!(!matches!(code.grpc_code(), tonic::Code::Ok | tonic::Code::Unknown), "{code}");
    }
}
