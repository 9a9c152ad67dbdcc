//! A peer is drained: everything that runs there leaves it, everybody who watches is told the same, and it stays empty.

use std::collections::BTreeSet;

use omnirelay_tests::{
    Listener, Mesh, Role, Services, Sse, Stack, StackOptions, eventually, gap_free, owners, records_of, settled_moves,
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// One stack for this file; each test has a cluster of its own.
async fn stack() -> &'static Stack {
    static STACK: OnceCell<Stack> = OnceCell::const_new();
    let options = StackOptions { clusters: 10, services: Services::All, ..StackOptions::default() };
    STACK.get_or_init(|| Stack::start(options)).await
}

async fn mesh() -> Mesh {
    stack().await.mesh()
}

#[tokio::test]
async fn a_drain_moves_everything_and_ends_succeeded() {
    let mesh = mesh().await;
    let peer = mesh.peers[0].as_str();
    let before = mesh.registry().await;
    let all: BTreeSet<String> = mesh.workloads(peer).await.into_iter().collect();
    assert_eq!(all.len(), 4);

    let operation = mesh.operator.drain(peer, &json!({"reason": "kernel", "changeTicket": "CHG-1"})).await;
    let ended = mesh.operator.ended(&operation).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(ended["progress"], json!({"done": 4, "total": 4, "inFlight": 0, "failed": 0, "unit": "workloads"}));
    assert_eq!((&ended["reason"], &ended["changeTicket"]), (&json!("kernel"), &json!("CHG-1")));
    assert_eq!((&ended["actor"], &ended["target"]), (&json!("operator"), &json!(format!("peers/{peer}"))));
    assert_eq!(ended["blockers"], json!([]));

    let drained = mesh.reader.read(&format!("/control/peers/{peer}")).await;
    assert_eq!((&drained["state"], &drained["schedulable"]), (&json!("drained"), &json!(false)));
    assert_eq!((&drained["workloads"], &drained["operation"]), (&json!(0), &Value::Null));
    assert_eq!(owners(&drained), ["drain operator"]);

    let placement = mesh.registry().await.placement();
    assert_eq!(placement.keys().collect::<Vec<_>>(), before.placement().keys().collect::<Vec<_>>(), "none is lost");
    for workload in &all {
        assert_ne!(placement[workload], peer, "{workload} is elsewhere");
    }
    let moved = ended["result"]["moved"].as_array().expect("moved");
    let named: BTreeSet<String> = moved.iter().map(|one| one["workload"].as_str().unwrap_or("").to_owned()).collect();
    assert_eq!(named, all);
    for one in moved {
        assert_eq!(one["from"], peer);
        assert_eq!(one["to"], placement[one["workload"].as_str().expect("a workload")], "the result tells where it is");
    }
}

#[tokio::test]
async fn everybody_who_watches_a_drain_is_told_the_same() {
    let stack = stack().await;
    let mesh = stack.mesh();
    let peer = mesh.peers[0].as_str();
    let listener = Listener::start(stack.nats_url()).await;
    let output = stack.cli(Role::Operate).run(&["drain", peer, "--yes", "--reason", "same", "-o", "json"]).await;
    let told = output.expect(0).json();
    let operation = told["operation"]["id"].as_str().expect("an id");
    assert!(output.stderr.contains("SUCCEEDED"), "{}", output.stderr);
    assert!(output.stderr.contains("4 moved"), "{}", output.stderr);

    let mut sse = Sse::open(&mesh.reader, &format!("operation={operation}"), None).await;
    let by_sse = sse.to_the_end().await.to_vec();
    gap_free(&by_sse);
    let end = by_sse.last().expect("events");
    assert_eq!(end.what(), "operations.succeeded");
    assert_eq!(end.data()["progress"], told["operation"]["progress"]);
    assert_eq!(end.data()["state"], told["operation"]["state"]);
    let kinds: Vec<&str> = by_sse.iter().map(|event| event.what()).collect();
    assert_eq!(kinds[0], "operations.submitted");
    for expected in ["operations.started", "peers.draining", "peers.drained", "operations.progressed"] {
        assert!(kinds.contains(&expected), "{expected} in {kinds:?}");
    }
    assert_eq!(settled_moves(&by_sse).values().filter(|count| **count == (1, 0)).count(), 4, "{kinds:?}");

    let by_nats = listener.whole(operation).await;
    assert_eq!(by_nats, by_sse, "NATS and SSE carry the same events");

    let audited = records_of(&mesh.reader, operation, "succeeded").await;
    let ids =
        |of: &mut dyn Iterator<Item = &Value>| of.map(|id| id.as_str().unwrap_or("").to_owned()).collect::<Vec<_>>();
    assert_eq!(
        ids(&mut audited.iter().map(|record| &record["eventId"])),
        ids(&mut by_sse.iter().map(|event| &event.body["id"])),
        "each event has its record"
    );
    for (record, event) in audited.iter().zip(&by_sse) {
        assert_eq!(record["position"], event.position);
        assert_eq!((&record["actor"]["subject"], &record["reason"]), (&json!("operator"), &json!("same")));
    }
}

#[tokio::test]
async fn progress_only_grows_and_ends_whole() {
    let mesh = mesh().await;
    let operation = mesh.operator.drain(&mesh.peers[1], &json!({"maxConcurrent": 1})).await;
    let mut sse = Sse::open(&mesh.reader, &format!("operation={operation}"), None).await;
    let events = sse.to_the_end().await;
    let done: Vec<u64> = events.iter().filter_map(|event| event.data()["progress"]["done"].as_u64()).collect();
    assert!(done.windows(2).all(|pair| pair[0] <= pair[1]), "{done:?}");
    assert_eq!(done.last(), Some(&4));
    let phases: Vec<&str> = events.iter().filter_map(|event| event.data()["phase"].as_str()).collect();
    for phase in ["cordoning", "evicting", "verifying"] {
        assert!(phases.contains(&phase), "{phase} in {phases:?}");
    }
}

#[tokio::test]
async fn no_more_moves_are_in_flight_than_asked_for() {
    let mesh = mesh().await;
    for (peer, most) in [(&mesh.peers[0], 1), (&mesh.peers[1], 2)] {
        let operation = mesh.operator.drain(peer, &json!({"maxConcurrent": most})).await;
        let mut sse = Sse::open(&mesh.reader, &format!("operation={operation}"), None).await;
        let (mut open, mut highest) = (BTreeSet::new(), 0);
        for event in sse.to_the_end().await {
            let told = event.data()["progress"]["inFlight"].as_u64().unwrap_or(0);
            assert!(told <= most, "{told} in flight: {}", event.body);
            let subject = event.body["subject"].as_str().unwrap_or("").to_owned();
            match event.what() {
                "workloads.moving" => {
                    open.insert(subject);
                    highest = highest.max(open.len() as u64);
                }
                "workloads.moved" => {
                    open.remove(&subject);
                }
                _ => {}
            }
        }
        assert_eq!(highest, most, "as many as allowed, and no more");
        assert_eq!(mesh.operator.ended(&operation).await["state"], "succeeded");
        // The next round needs somewhere to go.
        mesh.operator.peer(peer, "uncordon", &json!({})).send().await.expect(200);
    }
}

#[tokio::test]
async fn a_second_drain_of_a_peer_is_refused_and_told_of_the_first() {
    let mesh = mesh().await;
    let peer = mesh.peers[0].as_str();
    mesh.fault(peer, "busy").await;
    let first = mesh.operator.drain(peer, &json!({})).await;
    for asked in [
        mesh.admin.confirmed_drain(peer, &json!({"reason": "me too"})).await,
        mesh.operator.post(&format!("/control/peers/{peer}:drain?validateOnly=true"), &json!({})).send().await,
    ] {
        asked.refused(409, "operation-in-progress");
        assert_eq!(asked.body["operation"], first);
    }
    let uncordon = mesh.operator.peer(peer, "uncordon", &json!({"all": true})).send().await;
    uncordon.refused(409, "operation-in-progress");
    assert!(uncordon.body.to_string().contains(&first), "{}", uncordon.body);
    mesh.fault(peer, "none").await;
    assert_eq!(mesh.operator.ended(&first).await["state"], "succeeded");
}

#[tokio::test]
async fn a_drained_peer_is_drained_again_without_a_question_or_a_change() {
    let mesh = mesh().await;
    let peer = mesh.peers[0].as_str();
    assert_eq!(mesh.drained(peer, &json!({})).await["state"], "succeeded");
    let before = mesh.registry().await;
    let again = mesh.admin.peer(peer, "drain", &json!({})).header("prefer", "wait=10").send().await;
    assert_eq!(again.expect(200).body["changed"], false);
    assert_eq!(again.body["operation"]["state"], "succeeded");
    assert_eq!(mesh.registry().await.differences(&before), Vec::<String>::new());
}

#[tokio::test]
async fn a_drained_peer_serves_again_once_somebody_uncordons_it() {
    let mesh = mesh().await;
    let peer = mesh.peers[2].as_str();
    mesh.drained(peer, &json!({})).await;
    let freed = mesh.operator.peer(peer, "uncordon", &json!({})).send().await;
    assert_eq!(freed.expect(200).body["changed"], true);
    let now = mesh.reader.read(&format!("/control/peers/{peer}")).await;
    assert_eq!((&now["state"], &now["schedulable"], owners(&now)), (&json!("active"), &json!(true), vec![]));
    // And takes what leaves another.
    mesh.cordon(&mesh.operator, &mesh.peers[1]).await;
    assert_eq!(mesh.drained(&mesh.peers[0], &json!({})).await["state"], "succeeded");
    assert!(!mesh.workloads(peer).await.is_empty());
}

#[tokio::test]
async fn a_drain_keeps_others_cordons_and_theirs_alone_remain() {
    let mesh = mesh().await;
    let peer = mesh.peers[0].as_str();
    mesh.cordon(&mesh.admin, peer).await;
    assert_eq!(mesh.drained(peer, &json!({})).await["state"], "succeeded");
    let drained = mesh.reader.read(&format!("/control/peers/{peer}")).await;
    assert_eq!(owners(&drained), ["drain operator", "manual admin"]);
    let freed = mesh.operator.peer(peer, "uncordon", &json!({})).send().await;
    assert_eq!(freed.expect(200).body["changed"], true);
    let now = mesh.reader.read(&format!("/control/peers/{peer}")).await;
    assert_eq!((&now["state"], owners(&now)), (&json!("cordoned"), vec!["manual admin".to_owned()]));
}

#[tokio::test]
async fn a_drain_with_nowhere_to_go_says_so_and_goes_on_once_there_is_room() {
    let mesh = mesh().await;
    let [source, second, third] = [0, 1, 2].map(|n| mesh.peers[n].as_str());
    mesh.cordon(&mesh.admin, second).await;
    mesh.cordon(&mesh.admin, third).await;
    let operation = mesh.operator.drain(source, &json!({})).await;
    let blocker = mesh.operator.blocked(&operation, "no-capacity").await;
    for member in ["subject", "message", "since"] {
        assert!(blocker[member].as_str().is_some_and(|text| !text.is_empty()), "{blocker}");
    }
    let mut sse = Sse::open(&mesh.reader, &format!("operation={operation}"), None).await;
    sse.until("it is told to be blocked", |events| events.iter().any(|e| e.what() == "operations.blocked")).await;
    mesh.admin.peer(third, "uncordon", &json!({})).send().await.expect(200);
    assert_eq!(mesh.operator.ended(&operation).await["state"], "succeeded");
    assert_eq!(mesh.workloads(third).await.len(), 8);
}

#[tokio::test]
async fn a_target_that_does_not_get_ready_is_named_with_its_own_words_and_another_is_found() {
    let stack = stack().await;
    let mesh = stack.mesh();
    let [source, second, third] = [0, 1, 2].map(|n| mesh.peers[n].as_str());
    omnirelay_tests::fault(stack.nats_url(), second, "refuse", "no room in the inn").await;
    omnirelay_tests::fault(stack.nats_url(), third, "refuse", "no room in the inn").await;
    let operation = mesh.operator.drain(source, &json!({})).await;
    let told = eventually("a blocker in the driver's words", omnirelay_tests::PATIENCE, async || {
        let operation = mesh.operator.operation(&operation).await;
        operation["blockers"].to_string().contains("no room in the inn").then_some(operation)
    })
    .await;
    assert_eq!(told["state"], "running");
    mesh.fault(second, "none").await;
    assert_eq!(mesh.operator.ended(&operation).await["state"], "succeeded");
    assert_eq!(mesh.workloads(second).await.len(), 8, "everything went where it could");
}
