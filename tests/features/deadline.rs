//! A drain that is not done in time does what it was told to do then, and peers that do not answer are no surprise.

use std::time::Duration;

use omnirelay_tests::{Mesh, Role, Stack, StackOptions, owners};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// One stack for this file; each test has a cluster of its own.
async fn stack() -> &'static Stack {
    static STACK: OnceCell<Stack> = OnceCell::const_new();
    STACK.get_or_init(|| Stack::start(StackOptions { clusters: 7, ..StackOptions::default() })).await
}

async fn mesh() -> Mesh {
    stack().await.mesh()
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().filter_map(|one| one["workload"].as_str()).collect()
}

#[tokio::test]
async fn hold_stops_there_keeps_the_cordon_and_lists_the_rest() {
    let stack = stack().await;
    let mesh = stack.mesh();
    let [peer, second, third] = [0, 1, 2].map(|n| mesh.peers[n].as_str());
    mesh.cordon(&mesh.admin, second).await;
    mesh.cordon(&mesh.admin, third).await;
    let args = ["drain", peer, "--yes", "--deadline", "1s", "--on-deadline", "hold", "-o", "json"];
    let output = stack.cli(Role::Operate).run(&args).await;
    let told = output.expect(12).json();
    let operation = &told["operation"];
    assert_eq!(operation["state"], "failed", "{operation}");
    assert_eq!(names(&operation["result"]["rest"]), mesh.workloads(peer).await, "{operation}");
    for name in names(&operation["result"]["rest"]) {
        assert!(output.stderr.contains(name), "{name} in {}", output.stderr);
    }
    let held = mesh.reader.read(&format!("/control/peers/{peer}")).await;
    assert_eq!((&held["schedulable"], &held["operation"]), (&json!(false), &Value::Null));
    assert_eq!(owners(&held), ["drain operator"]);
    mesh.admin.peer(second, "uncordon", &json!({})).send().await.expect(200);
    assert_eq!(mesh.drained(peer, &json!({})).await["state"], "succeeded", "the rest can be drained");
}

#[tokio::test]
async fn hold_lets_what_is_in_flight_land_first() {
    let mesh = mesh().await;
    let peer = mesh.peers[0].as_str();
    mesh.fault(peer, "busy").await;
    let body = json!({"deadline": "1s", "onDeadline": "hold", "maxConcurrent": 2});
    let operation = mesh.operator.drain(peer, &body).await;
    let stopping = mesh.operator.operation_that("stops", &operation, |it| it["phase"] == "stopping").await;
    assert_eq!(stopping["progress"]["inFlight"], 2, "{stopping}");
    mesh.fault(peer, "none").await;
    let ended = mesh.operator.ended(&operation).await;
    assert_eq!((&ended["state"], ended["progress"]["done"].as_u64()), (&json!("failed"), Some(2)), "{ended}");
    assert_eq!(names(&ended["result"]["rest"]), mesh.workloads(peer).await, "{ended}");
    assert_eq!(mesh.drained(peer, &json!({})).await["state"], "succeeded", "the rest can be drained");
}

#[tokio::test]
async fn cancel_puts_everything_back() {
    let mesh = mesh().await;
    let peer = mesh.peers[0].as_str();
    let before = mesh.registry().await;
    mesh.cordon(&mesh.admin, &mesh.peers[1]).await;
    mesh.cordon(&mesh.admin, &mesh.peers[2]).await;
    let operation = mesh.operator.drain(peer, &json!({"deadline": "1s", "onDeadline": "cancel"})).await;
    let ended = mesh.operator.ended(&operation).await;
    assert_eq!(ended["state"], "cancelled", "{ended}");
    for target in [1, 2] {
        mesh.admin.peer(&mesh.peers[target], "uncordon", &json!({})).send().await.expect(200);
    }
    assert_eq!(mesh.registry().await.differences(&before), Vec::<String>::new());
}

#[tokio::test]
async fn force_takes_the_rest_from_a_silent_source_and_says_what_may_run_twice() {
    let stack = stack().await;
    let mesh = stack.mesh();
    let peer = mesh.peers[0].as_str();
    let all = mesh.workloads(peer).await;
    mesh.fault(peer, "silent").await;
    let cli = stack.cli(Role::Operate);
    let args = ["drain", peer, "--yes", "--deadline", "2s", "--on-deadline", "force", "-o", "json"];
    let output = cli.run(&args).await;
    let told = output.expect(13).json();
    let operation = &told["operation"];
    assert_eq!((&operation["state"], &operation["result"]["forced"]), (&json!("succeeded"), &json!(true)));
    let mut twice = names(&operation["result"]["mayRunTwice"]);
    twice.sort_unstable();
    assert_eq!(twice, all, "nobody knows what the silent one still runs");
    assert!(output.stderr.contains(&all[0]) && output.stderr.contains("may run twice"), "{}", output.stderr);
    let placement = mesh.registry().await.placement();
    for workload in &all {
        assert_ne!(placement[workload], peer, "{workload} has an owner that answers");
    }
    mesh.fault(peer, "none").await;
}

#[tokio::test]
async fn an_unreachable_peer_is_drained_with_a_blocker_and_goes_on_when_it_is_back() {
    let mesh = mesh().await;
    let peer = mesh.peers[0].as_str();
    mesh.fault(peer, "silent").await;
    mesh.reader.peer_that("is unreachable", peer, |it| it["health"] == "unreachable").await;
    let planned =
        mesh.operator.post(&format!("/control/peers/{peer}:drain?validateOnly=true"), &json!({})).send().await;
    assert_eq!(planned.expect(200).body["blockers"][0]["code"], "peer-unreachable", "{}", planned.body);
    let answer = mesh.operator.confirmed_drain(peer, &json!({})).await;
    let operation = answer.expect(202).operation();
    assert_eq!(answer.header("location"), format!("/control/operations/{operation}"));
    let blocker = mesh.operator.blocked(&operation, "peer-unreachable").await;
    assert_eq!(blocker["subject"], peer, "{blocker}");
    mesh.fault(peer, "none").await;
    assert_eq!(mesh.operator.ended_within(&operation, Duration::from_secs(60)).await["state"], "succeeded");
    let back = mesh.reader.read(&format!("/control/peers/{peer}")).await;
    assert_eq!((&back["state"], &back["health"]), (&json!("drained"), &json!("healthy")));
}

#[tokio::test]
async fn peers_that_go_silent_are_never_targets() {
    let mesh = mesh().await;
    let [source, silent, other] = [0, 1, 2].map(|n| mesh.peers[n].as_str());
    mesh.fault(silent, "silent").await;
    mesh.reader.peer_that("is unreachable", silent, |it| it["health"] == "unreachable").await;
    assert_eq!(mesh.drained(source, &json!({})).await["state"], "succeeded");
    assert_eq!(mesh.workloads(other).await.len(), 8);
    mesh.fault(silent, "none").await;
    mesh.reader.peer_that("is healthy again", silent, |it| it["health"] == "healthy").await;
    assert_eq!(mesh.workloads(silent).await.len(), 4, "what it runs was never touched");
}
