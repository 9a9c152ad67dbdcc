//! A drain is cancelled: everything is as before, or what is not is named. Nothing in between.

use std::time::Duration;

use omnirelay_tests::{
    Answer, Listener, Mesh, PATIENCE, Role, Sse, Stack, StackOptions, eventually, gap_free, owners, records_of,
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// One stack for this file; each test has a cluster of its own.
async fn stack() -> &'static Stack {
    static STACK: OnceCell<Stack> = OnceCell::const_new();
    let options = StackOptions { clusters: 14, handover: "40ms..80ms", ..StackOptions::default() };
    STACK.get_or_init(|| Stack::start(options)).await
}

async fn mesh() -> Mesh {
    stack().await.mesh()
}

const NONE: Vec<String> = Vec::new();

/// Some have moved, some are on their way, some have not begun.
fn is_halfway(operation: &Value) -> bool {
    operation["progress"]["done"].as_u64().is_some_and(|done| (1..4).contains(&done))
}

#[tokio::test]
async fn a_drain_cancelled_halfway_restores_peer_workloads_and_somebody_elses_cordon() {
    let stack = stack().await;
    let mesh = stack.mesh();
    let peer = mesh.peers[0].as_str();
    mesh.cordon(&mesh.admin, peer).await;
    let before = mesh.registry().await;
    assert_eq!(owners(before.peer(peer)), ["manual admin"]);

    let listener = Listener::start(stack.nats_url()).await;
    let operation = mesh.operator.drain(peer, &json!({"maxConcurrent": 1, "reason": "kernel"})).await;
    mesh.operator.operation_that("is halfway", &operation, is_halfway).await;
    let output =
        stack.cli(Role::Operate).run(&["ops", "cancel", &operation, "--reason", "changed my mind", "-o", "json"]).await;
    let told = output.expect(11).json();
    assert!(output.stderr.contains("difference: none"), "{}", output.stderr);

    assert_eq!(mesh.registry().await.differences(&before), NONE);
    let ended = mesh.operator.operation(&operation).await;
    assert_eq!(ended["state"], "cancelled");
    assert_eq!((&ended["cancel"]["by"], &ended["cancel"]["reason"]), (&json!("operator"), &json!("changed my mind")));
    assert_eq!(ended["result"]["notRestored"], json!([]));
    assert_eq!(told["operation"], ended);

    let mut sse = Sse::open(&mesh.reader, &format!("operation={operation}"), None).await;
    let by_sse = sse.to_the_end().await.to_vec();
    gap_free(&by_sse);
    let end = by_sse.last().expect("an end");
    assert_eq!((end.what(), &end.data()["progress"]), ("operations.cancelled", &ended["progress"]));
    let turned = by_sse.iter().position(|event| event.what() == "operations.unwinding").expect("it turned round");
    let forward = |event: &omnirelay_tests::Event| event.what() == "workloads.moved";
    assert!(!by_sse[turned..].iter().any(forward), "no forward step after the cancel");
    assert_eq!(listener.whole(&operation).await, by_sse);

    let audited = records_of(&mesh.reader, &operation, "cancelled").await;
    assert_eq!(audited.len(), by_sse.len());
    let asked = audited.iter().find(|record| record["verb"] == "operations.cancel").expect("the cancel's own record");
    assert_eq!((&asked["actor"]["subject"], &asked["reason"]), (&json!("operator"), &json!("changed my mind")));
}

#[tokio::test]
async fn a_cancel_before_anything_has_moved_leaves_nothing_behind() {
    let mesh = mesh().await;
    let peer = mesh.peers[0].as_str();
    let before = mesh.registry().await;
    mesh.fault(peer, "silent").await;
    let operation = mesh.operator.drain(peer, &json!({})).await;
    mesh.operator.operation_that("has begun", &operation, |it| it["phase"] == "cordoning").await;
    mesh.operator.cancel(&operation).await.expect(202);
    assert_eq!(mesh.operator.ended(&operation).await["state"], "cancelled");
    mesh.fault(peer, "none").await;
    assert_eq!(mesh.registry().await.differences(&before), NONE);
}

#[tokio::test]
async fn a_second_cancel_changes_nothing_and_is_told_so() {
    let mesh = mesh().await;
    let peer = mesh.peers[0].as_str();
    let before = mesh.registry().await;
    let operation = mesh.operator.drain(peer, &json!({"maxConcurrent": 1})).await;
    mesh.operator.operation_that("is halfway", &operation, is_halfway).await;
    let first = mesh.operator.cancel(&operation).await;
    assert_eq!(first.expect(202).body["changed"], true);
    assert_eq!(first.operation(), operation, "no operation is created by a cancel");
    let second = mesh.admin.cancel(&operation).await;
    assert_eq!(second.expect(200).body["changed"], false);
    let ended = mesh.operator.ended(&operation).await;
    assert_eq!((&ended["state"], &ended["cancel"]["by"]), (&json!("cancelled"), &json!("operator")));
    let third = mesh.operator.cancel(&operation).await;
    assert_eq!(third.expect(200).body["changed"], false);
    assert_eq!(third.body["operation"]["state"], "cancelled");
    assert_eq!(mesh.registry().await.differences(&before), NONE);
}

#[tokio::test]
async fn a_cancel_that_races_with_the_end_either_restores_all_or_is_too_late() {
    let mesh = mesh().await;
    let mut outcomes = Vec::new();
    for round in 0..6_u64 {
        let peer = mesh.peers[(round % 3) as usize].as_str();
        let before = mesh.registry().await;
        let operation = mesh.operator.drain(peer, &json!({"maxConcurrent": 4})).await;
        // Later from round to round: from the last moves to after the end.
        let reached = |it: &Value| match round {
            0 | 1 => it["progress"]["done"].as_u64() >= Some(2),
            2 | 3 => it["phase"] == "verifying" || it["state"] != "running",
            _ => it["state"] == "succeeded",
        };
        mesh.operator.operation_that("is near its end", &operation, reached).await;
        let cancel = mesh.operator.cancel(&operation).await;
        let ended = mesh.operator.ended(&operation).await;
        match cancel.status {
            202 => {
                assert_eq!(ended["state"], "cancelled", "an acknowledged cancel is kept: {ended}");
                assert_eq!(mesh.registry().await.differences(&before), NONE);
            }
            409 => {
                cancel.refused(409, "too-late");
                assert_eq!(ended["state"], "succeeded", "{ended}");
                assert_eq!(mesh.workloads(peer).await, NONE);
                undo_by_the_inverse(&mesh, &cancel, peer).await;
            }
            other => panic!("neither taken nor too late: {other} {}", cancel.body),
        }
        outcomes.push(cancel.status);
    }
    assert!(outcomes.contains(&202) && outcomes.contains(&409), "both sides of the race were seen: {outcomes:?}");
}

/// A cancel that is too late names the request that undoes what can be undone, ready to send.
async fn undo_by_the_inverse(mesh: &Mesh, too_late: &Answer, peer: &str) {
    let inverse = &too_late.body["inverse"];
    assert_eq!(inverse["method"], "POST");
    let path = inverse["path"].as_str().expect("a path");
    mesh.operator.post(path, &inverse["body"]).send().await.expect(200);
    let freed = mesh.reader.read(&format!("/control/peers/{peer}")).await;
    assert_eq!(freed["state"], "active");
}

#[tokio::test]
async fn a_drain_blocked_for_want_of_room_is_cancelled() {
    let mesh = mesh().await;
    let [source, second, third] = [0, 1, 2].map(|n| mesh.peers[n].as_str());
    mesh.cordon(&mesh.admin, second).await;
    mesh.cordon(&mesh.admin, third).await;
    let before = mesh.registry().await;
    let operation = mesh.operator.drain(source, &json!({})).await;
    mesh.operator.blocked(&operation, "no-capacity").await;
    mesh.operator.cancel(&operation).await.expect(202);
    let ended = mesh.operator.ended(&operation).await;
    assert_eq!((&ended["state"], &ended["blockers"]), (&json!("cancelled"), &json!([])));
    assert_eq!(mesh.registry().await.differences(&before), NONE);
}

#[tokio::test]
async fn a_drain_blocked_by_targets_that_do_not_get_ready_is_cancelled() {
    let stack = stack().await;
    let mesh = stack.mesh();
    let [source, second, third] = [0, 1, 2].map(|n| mesh.peers[n].as_str());
    let before = mesh.registry().await;
    for target in [second, third] {
        omnirelay_tests::fault(stack.nats_url(), target, "not-ready", "ready check 503 from the test").await;
    }
    let operation = mesh.operator.drain(source, &json!({})).await;
    let blocker = mesh.operator.blocked(&operation, "not-ready").await;
    assert!(blocker["message"].as_str().is_some_and(|text| text.contains("503 from the test")), "{blocker}");
    mesh.operator.cancel(&operation).await.expect(202);
    assert_eq!(mesh.operator.ended(&operation).await["state"], "cancelled");
    assert_eq!(mesh.registry().await.differences(&before), NONE);
}

#[tokio::test]
async fn a_drain_blocked_by_a_busy_source_is_cancelled() {
    let mesh = mesh().await;
    let source = mesh.peers[0].as_str();
    let before = mesh.registry().await;
    mesh.fault(source, "busy").await;
    let operation = mesh.operator.drain(source, &json!({})).await;
    mesh.operator.blocked(&operation, "busy").await;
    mesh.operator.cancel(&operation).await.expect(202);
    let ended = mesh.operator.ended(&operation).await;
    assert_eq!(ended["state"], "cancelled", "{ended}");
    mesh.fault(source, "none").await;
    assert_eq!(mesh.registry().await.differences(&before), NONE);
}

#[tokio::test]
async fn what_another_drain_has_moved_on_since_is_named_and_left_there() {
    let stack = stack().await;
    let mesh = stack.mesh();
    let [source, second, third] = [0, 1, 2].map(|n| mesh.peers[n].as_str());
    // Everything that leaves the source goes to the second peer; one workload cannot leave, so the drain stays open.
    mesh.cordon(&mesh.admin, third).await;
    let operation = mesh.operator.drain(source, &json!({"maxConcurrent": 1})).await;
    mesh.operator.operation_that("is halfway", &operation, is_halfway).await;
    mesh.fault(source, "busy").await;
    mesh.operator.blocked(&operation, "busy").await;
    mesh.admin.peer(third, "uncordon", &json!({})).send().await.expect(200);
    let other = mesh.admin.drain(second, &json!({})).await;
    eventually("what has moved moves on", PATIENCE, async || {
        let third = mesh.workloads(third).await;
        third.iter().any(|workload| workload.starts_with(source)).then_some(())
    })
    .await;
    mesh.fault(source, "none").await;
    let output = stack.cli(Role::Operate).run(&["ops", "cancel", &operation, "-o", "json"]).await;
    let told = output.expect(17).json();
    let left = told["operation"]["result"]["notRestored"].as_array().expect("notRestored");
    assert!(!left.is_empty(), "{told}");
    for one in left {
        assert!(one["why"].as_str().is_some_and(|why| !why.is_empty()), "{one}");
        let name = one["workload"].as_str().expect("a workload");
        assert!(output.stderr.contains(name), "{name} is named to people too: {}", output.stderr);
        let placed = mesh.registry().await.placement();
        assert_ne!(placed[name], source, "{name} stays where the other drain took it");
    }
    assert_eq!(mesh.operator.ended(&other).await["state"], "succeeded");
    let freed = mesh.reader.read(&format!("/control/peers/{source}")).await;
    assert_eq!((&freed["state"], owners(&freed)), (&json!("active"), NONE));
}

#[tokio::test]
async fn a_cancel_that_keeps_what_has_moved_only_frees_the_peer() {
    let mesh = mesh().await;
    let source = mesh.peers[0].as_str();
    let operation = mesh.operator.drain(source, &json!({"maxConcurrent": 1})).await;
    mesh.operator.operation_that("is halfway", &operation, is_halfway).await;
    let path = format!("/control/operations/{operation}:cancel");
    mesh.operator.post(&path, &json!({"keepMoved": true})).send().await.expect(202);
    let ended = mesh.operator.ended(&operation).await;
    assert_eq!(ended["state"], "cancelled");
    let moved = ended["result"]["moved"].as_array().expect("moved").len();
    assert!((1..4).contains(&moved), "{ended}");
    assert_eq!(mesh.workloads(source).await.len(), 4 - moved, "the others are still here");
    let freed = mesh.reader.read(&format!("/control/peers/{source}")).await;
    assert_eq!((&freed["state"], owners(&freed)), (&json!("active"), NONE));
}

#[tokio::test]
async fn the_peer_can_be_drained_again_right_after_a_cancel() {
    let mesh = mesh().await;
    let source = mesh.peers[0].as_str();
    let operation = mesh.operator.drain(source, &json!({"maxConcurrent": 1})).await;
    mesh.operator.operation_that("is halfway", &operation, is_halfway).await;
    mesh.operator.cancel(&operation).await.expect(202);
    mesh.operator.ended(&operation).await;
    assert_eq!(mesh.drained(source, &json!({})).await["state"], "succeeded");
    assert_eq!(mesh.workloads(source).await, NONE);
}

#[tokio::test]
async fn a_cancel_that_waits_is_answered_when_everything_is_back() {
    let mesh = mesh().await;
    let source = mesh.peers[0].as_str();
    let before = mesh.registry().await;
    let operation = mesh.operator.drain(source, &json!({"maxConcurrent": 1})).await;
    mesh.operator.operation_that("is halfway", &operation, is_halfway).await;
    let path = format!("/control/operations/{operation}:cancel");
    let answer = mesh.operator.post(&path, &json!({})).header("prefer", "wait=30").send().await;
    assert_eq!(answer.expect(200).body["operation"]["state"], "cancelled");
    assert_eq!(answer.body["changed"], true);
    assert_eq!(mesh.registry().await.differences(&before), NONE);
}

#[tokio::test]
async fn an_earlier_target_that_is_gone_is_named_within_bounds() {
    let mesh = mesh().await;
    let [source, second, third] = [0, 1, 2].map(|n| mesh.peers[n].as_str());
    mesh.cordon(&mesh.admin, third).await;
    let operation = mesh.operator.drain(source, &json!({"maxConcurrent": 1})).await;
    mesh.operator.operation_that("is halfway", &operation, is_halfway).await;
    mesh.fault(second, "silent").await;
    mesh.operator.cancel(&operation).await.expect(202);
    let unwinding = mesh.operator.operation_that("waits for it", &operation, |it| it["blockers"][0].is_object()).await;
    assert_eq!(unwinding["state"], "unwinding", "{unwinding}");
    assert_eq!(unwinding["blockers"][0]["code"], "peer-unreachable", "{unwinding}");
    mesh.fault(second, "none").await;
    // It came back in time, so everything goes home; had it not, it would have been named.
    let ended = mesh.operator.ended_within(&operation, Duration::from_secs(90)).await;
    assert_eq!(ended["state"], "cancelled", "{ended}");
    assert_eq!(mesh.workloads(source).await.len(), 4, "{ended}");
}

#[tokio::test]
async fn what_was_quick_cannot_be_cancelled_any_more() {
    let mesh = mesh().await;
    let peer = mesh.peers[0].as_str();
    let cordon = mesh.operator.peer(peer, "cordon", &json!({})).send().await.expect(200).operation();
    let late = mesh.operator.cancel(&cordon).await;
    late.refused(409, "too-late");
    undo_by_the_inverse(&mesh, &late, peer).await;
    let unknown = mesh.operator.cancel("0193d1f0-0000-7000-8000-000000000009").await;
    unknown.refused(404, "not-found");
}
