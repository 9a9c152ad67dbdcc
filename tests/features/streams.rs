//! Events as they happen: over SSE from any point on, over NATS, and the same in both.

use std::collections::BTreeSet;

use omnirelay_tests::{Api, Event, Listener, Mesh, Role, Sse, Stack, StackOptions, gap_free, positions_in_stream};
use serde_json::json;
use tokio::sync::OnceCell;

/// One stack for this file; each test has a cluster of its own.
async fn stack() -> &'static Stack {
    static STACK: OnceCell<Stack> = OnceCell::const_new();
    STACK.get_or_init(|| Stack::start(StackOptions { clusters: 8, ..StackOptions::default() })).await
}

fn has_end(events: &[Event]) -> bool {
    events.iter().any(Event::is_end)
}

async fn drained(mesh: &Mesh) -> String {
    let operation = mesh.operator.drain(&mesh.peers[0], &json!({"maxConcurrent": 1})).await;
    mesh.operator.ended(&operation).await;
    operation
}

#[tokio::test]
async fn an_operations_stream_begins_at_its_first_event_however_late_one_comes() {
    let mesh = stack().await.mesh();
    let operation = mesh.operator.drain(&mesh.peers[0], &json!({})).await;
    let mut early = Sse::open(&mesh.reader, &format!("operation={operation}"), None).await;
    let early = early.to_the_end().await.to_vec();
    let mut late = Sse::open(&mesh.reader, &format!("operation={operation}"), None).await;
    let late = late.to_the_end().await;
    gap_free(&early);
    assert_eq!(early, late);
    assert_eq!(early[0].what(), "operations.submitted");
    assert!(early.iter().all(|event| event.operation() == Some(operation.as_str())));
}

#[tokio::test]
async fn events_are_cloudevents_with_what_the_contract_names() {
    let mesh = stack().await.mesh();
    let operation = drained(&mesh).await;
    let mut sse = Sse::open(&mesh.reader, &format!("operation={operation}"), None).await;
    for event in sse.to_the_end().await {
        let body = &event.body;
        assert_eq!((&body["specversion"], &body["type"]), (&json!("1.0"), &json!(event.kind)));
        assert!(event.kind.starts_with("omnirelay."), "{body}");
        for member in ["id", "source", "subject", "time", "traceparent"] {
            assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "{member} of {body}");
        }
        let data = event.data();
        assert_eq!((&data["operation"], &data["actor"]), (&json!(operation), &json!("operator")));
        assert!(data["operationSeq"].is_u64() && data["state"].is_string() && data["progress"].is_object(), "{data}");
        assert!(event.position > 0);
    }
}

#[tokio::test]
async fn a_stream_resumes_behind_any_event_without_gap_or_repetition() {
    let mesh = stack().await.mesh();
    let operation = drained(&mesh).await;
    let query = format!("operation={operation}");
    let mut whole = Sse::open(&mesh.reader, &query, None).await;
    let whole = whole.to_the_end().await.to_vec();
    for (n, last) in whole.iter().enumerate() {
        if n + 1 == whole.len() {
            break;
        }
        let mut rest = Sse::open(&mesh.reader, &query, Some(last.position)).await;
        assert_eq!(rest.to_the_end().await, &whole[n + 1..], "after {}", last.position);
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_and_resumed_again_and_again_is_whole() {
    let mesh = stack().await.mesh();
    let operation = mesh.operator.drain(&mesh.peers[0], &json!({"maxConcurrent": 1})).await;
    let query = format!("operation={operation}");
    let mut heard: Vec<Event> = Vec::new();
    while !has_end(&heard) {
        let mut sse = Sse::open(&mesh.reader, &query, heard.last().map(|event| event.position)).await;
        sse.until("anything", |events| !events.is_empty()).await;
        heard.append(&mut sse.events);
    }
    gap_free(&heard);
}

#[tokio::test]
async fn nats_and_sse_carry_the_same_events_at_the_same_positions() {
    let stack = stack().await;
    let mesh = stack.mesh();
    let listener = Listener::start(stack.nats_url()).await;
    let operation = drained(&mesh).await;
    let mut sse = Sse::open(&mesh.reader, &format!("operation={operation}"), None).await;
    assert_eq!(listener.whole(&operation).await, sse.to_the_end().await);
}

#[tokio::test]
async fn positions_are_dense_and_are_the_sequences_of_the_bus() {
    let stack = stack().await;
    let mesh = stack.mesh();
    drained(&mesh).await;
    let kept = positions_in_stream(stack.nats_url()).await.expect("the stream");
    assert_eq!(kept.first().map(|first| first.0), Some(1));
    assert!(kept.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0), "dense");
    assert!(kept.iter().all(|(sequence, position, _)| sequence == position));
    let ids: BTreeSet<&String> = kept.iter().map(|(_, _, id)| id).collect();
    assert_eq!(ids.len(), kept.len(), "each event once");
}

#[tokio::test]
async fn a_stream_without_an_operation_begins_now_and_can_be_narrowed() {
    let mesh = stack().await.mesh();
    let id = mesh.peers[0].as_str();
    let cordon = mesh.operator.peer(id, "cordon", &json!({})).send().await.expect(200).operation();
    // An answer may be ahead of the stream: "now" is behind the cordon only once that was told.
    Sse::open(&mesh.reader, &format!("operation={cordon}"), None).await.to_the_end().await;
    let mut by_resource = Sse::open(&mesh.reader, &format!("resource=peers/{id}"), None).await;
    let mut by_kind = Sse::open(&mesh.reader, "kind=peers", None).await;
    let page = mesh.reader.read(&format!("/control/peers?cluster={}", mesh.cluster)).await;
    let mut since = Sse::open(&mesh.reader, &format!("resource=peers/{id}"), page["position"].as_u64()).await;
    mesh.operator.peer(id, "uncordon", &json!({})).send().await.expect(200);
    for sse in [&mut by_resource, &mut since] {
        let events = sse.until("the uncordon", |all| all.iter().any(|e| e.what() == "peers.uncordoned")).await;
        assert!(events.iter().all(|event| event.body["subject"] == format!("peers/{id}")), "{events:?}");
        assert!(
            !events.iter().any(|event| event.what() == "peers.cordoned"),
            "what was before is not told: {events:?}"
        );
    }
    let wanted = |event: &Event| event.what() == "peers.uncordoned" && event.body["subject"] == format!("peers/{id}");
    let events = by_kind.until("the uncordon", |all| all.iter().any(wanted)).await;
    assert!(events.iter().all(|event| event.kind.starts_with("omnirelay.peers.")), "{events:?}");
}

#[tokio::test]
async fn a_position_from_the_future_is_a_gap_with_a_snapshot_and_then_the_tail() {
    let mesh = stack().await.mesh();
    let id = mesh.peers[0].as_str();
    let mut sse = Sse::open(&mesh.reader, &format!("resource=peers/{id}"), Some(9_000_000)).await;
    let complete = |event: &Event| event.kind == "snapshot" && event.body["complete"] == true;
    let events = sse.until("a whole snapshot", |all| all.iter().any(complete)).await;
    assert_eq!(events[0].kind, "gap");
    let snapshot = events.iter().find(|event| event.body["kind"] == "peers").expect("the peer");
    assert_eq!(snapshot.body["items"][0]["id"], id);
    let position = events.last().expect("the last").position;
    mesh.cordon(&mesh.operator, id).await;
    let events = sse.until("the tail", |all| all.iter().any(|event| event.what() == "peers.cordoned")).await;
    assert!(events.last().expect("the last").position > position);
}

#[tokio::test]
async fn streams_are_for_those_who_may_observe() {
    let stack = stack().await;
    let stranger = Sse::try_open(&Api::new(stack.url(), None), "", None).await.err().expect("refused");
    stranger.refused(401, "unauthenticated");
    let nonsense = Sse::try_open(&stack.api(Role::Read), "colour=red", None).await.err().expect("refused");
    nonsense.refused(400, "invalid-argument");
    let last = stack.api(Role::Read).get("/control/events").header("last-event-id", "x").send().await;
    last.refused(400, "invalid-argument");
    assert!(Sse::try_open(&stack.api(Role::Read), "", None).await.is_ok(), "the reader's token may observe");
}
