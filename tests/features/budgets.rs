//! No more of a cluster, and of a service, is out of service at once than its budget allows: who comes too much waits in a queue,
//! and says for whom.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;
use omnirelay_tests::{
    Event, Listener, Mesh, Process, Registry, Role, Sampler, Services, Stack, StackOptions, eventually, eventually_ok,
    most_out,
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::{Mutex, OnceCell};

/// One stack for most of this file; each test has a cluster of its own, with a budget of its own.
async fn stack() -> &'static Stack {
    static STACK: OnceCell<Stack> = OnceCell::const_new();
    let options = StackOptions { clusters: 9, peers: 4, workloads: 2, ..StackOptions::default() };
    STACK.get_or_init(|| Stack::start(options)).await
}

async fn mesh() -> Mesh {
    stack().await.mesh()
}

/// A drain that stays where it is until its peer's fault is taken away.
async fn lasting_drain(mesh: &Mesh, peer: &str) -> String {
    mesh.fault(peer, "busy").await;
    let operation = mesh.operator.drain(peer, &json!({})).await;
    mesh.operator.operation_that("moves", &operation, |it| it["progress"]["inFlight"].as_u64() >= Some(1)).await;
    operation
}

async fn queued(mesh: &Mesh, operation: &str, position: u64) -> Value {
    let there = |it: &Value| it["state"] == "queued" && it["queue"]["position"] == position;
    mesh.operator.operation_that(&format!("is queued at {position}"), operation, there).await
}

#[tokio::test]
async fn who_comes_second_waits_and_says_for_whom() {
    let mesh = mesh().await;
    mesh.budget(1).await;
    let [a, b, c, d] = [0, 1, 2, 3].map(|n| mesh.peers[n].as_str());
    let first = lasting_drain(&mesh, a).await;
    let second = mesh.operator.drain(b, &json!({})).await;
    let waiting = queued(&mesh, &second, 1).await;
    assert_eq!(waiting["queue"], json!({"position": 1, "holders": [first]}), "{waiting}");
    let blocker = mesh.operator.blocked(&second, "budget").await;
    assert_eq!(blocker["subject"], mesh.cluster, "{blocker}");
    let message = blocker["message"].as_str().expect("a message");
    assert!(message.contains("allows 1") && message.contains(a) && message.contains(&first), "{message}");
    let third = mesh.operator.drain(c, &json!({})).await;
    queued(&mesh, &third, 2).await;
    let fourth = mesh.operator.drain(d, &json!({})).await;
    queued(&mesh, &fourth, 3).await;
    let idle = mesh.reader.read(&format!("/control/peers/{b}")).await;
    assert_eq!((&idle["state"], &idle["schedulable"], &idle["holds"]), (&json!("active"), &json!(true), &json!([])));

    // Who leaves the queue changed nothing, and lets the others move up.
    let answer = mesh.operator.cancel(&second).await;
    assert!([200, 202].contains(&answer.status), "{}", answer.body);
    let cancelled = mesh.operator.ended(&second).await;
    assert_eq!((&cancelled["state"], &cancelled["startedAt"]), (&json!("cancelled"), &Value::Null), "{cancelled}");
    assert_eq!(cancelled["result"]["notRestored"], json!([]), "{cancelled}");
    let untouched = mesh.reader.read(&format!("/control/peers/{b}")).await;
    assert_eq!(
        (&untouched["state"], &untouched["holds"], &untouched["revision"]),
        (&idle["state"], &idle["holds"], &idle["revision"])
    );
    queued(&mesh, &third, 1).await;
    queued(&mesh, &fourth, 2).await;

    // A slot that is given back by a cancel is the next one's.
    mesh.fault(a, "none").await;
    mesh.operator.cancel(&first).await.expect(202);
    assert_eq!(mesh.operator.ended(&first).await["state"], "cancelled");
    assert_eq!(mesh.operator.ended(&third).await["state"], "succeeded");
    queued(&mesh, &fourth, 1).await;
    mesh.operator.cancel(&fourth).await;
    mesh.operator.ended(&fourth).await;
}

#[tokio::test]
async fn a_drained_peer_counts_until_it_is_uncordoned() {
    let mesh = mesh().await;
    mesh.budget(1).await;
    let [a, b] = [0, 1].map(|n| mesh.peers[n].as_str());
    assert_eq!(mesh.drained(a, &json!({})).await["state"], "succeeded");
    let second = mesh.operator.drain(b, &json!({})).await;
    let waiting = queued(&mesh, &second, 1).await;
    assert_eq!(waiting["queue"]["holders"], json!([]), "{waiting}");
    let message = mesh.operator.blocked(&second, "budget").await["message"].as_str().expect("a message").to_owned();
    assert!(message.contains(a) && message.contains("drained"), "{message}");
    // To drain what is drained already costs nothing and is nothing.
    let again = mesh.operator.peer(a, "drain", &json!({})).send().await;
    assert_eq!(again.expect(200).body["changed"], false, "{}", again.body);
    mesh.uncordon(a).await;
    let ended = mesh.operator.ended(&second).await;
    assert_eq!((&ended["state"], &ended["blockers"]), (&json!("succeeded"), &json!([])), "{ended}");
    assert_eq!(mesh.out().await, BTreeSet::from([b.to_owned()]));
}

#[tokio::test]
async fn the_command_line_tells_the_queue_and_ends_with_eleven_where_it_is_left() {
    let stack = stack().await;
    let mesh = stack.mesh();
    mesh.budget(1).await;
    let first = lasting_drain(&mesh, &mesh.peers[0]).await;
    let cli = stack.cli(Role::Operate);
    let args = ["drain", mesh.peers[1].as_str(), "--yes", "-o", "json"];
    let cancelled = async {
        let target = format!("peers/{}", mesh.peers[1]);
        let second = eventually("the second drain is there", omnirelay_tests::PATIENCE, async || {
            let list = mesh.reader.list(&format!("/control/operations?target={target}")).await;
            list.first().and_then(|operation| operation["id"].as_str().map(str::to_owned))
        })
        .await;
        queued(&mesh, &second, 1).await;
        mesh.operator.cancel(&second).await;
    };
    let (output, ()) = tokio::join!(cli.run(&args), cancelled);
    assert_eq!(output.expect(11).json()["operation"]["state"], "cancelled");
    mesh.fault(&mesh.peers[0], "none").await;
    mesh.operator.ended(&first).await;
}

#[tokio::test]
async fn a_share_is_counted_of_the_clusters_peers() {
    let mesh = mesh().await;
    mesh.budget("50%").await;
    let [a, b, c] = [0, 1, 2].map(|n| mesh.peers[n].as_str());
    let plan = mesh.operator.peer(a, "drain", &json!({})).send().await.body["plan"].clone();
    let budget = &plan["impact"]["budgets"][0];
    assert_eq!(budget["subject"], format!("clusters/{}", mesh.cluster), "{plan}");
    assert_eq!((&budget["maxUnavailable"], &budget["unavailable"]), (&json!(2), &json!(0)), "{plan}");
    assert_eq!((&budget["total"], &budget["unavailableAfter"]), (&json!(4), &json!(1)), "{plan}");
    assert_eq!(plan["blockers"], json!([]), "{plan}");
    let (first, second) = (lasting_drain(&mesh, a).await, lasting_drain(&mesh, b).await);
    let plan = mesh.operator.peer(c, "drain", &json!({})).send().await.body["plan"].clone();
    assert_eq!(plan["blockers"][0]["code"], "budget", "{plan}");
    assert!(plan["blockers"][0]["message"].as_str().is_some_and(|m| m.contains("position 1")), "{plan}");
    let third = mesh.operator.drain(c, &json!({})).await;
    assert_eq!(queued(&mesh, &third, 1).await["queue"]["holders"], json!([first, second]));
    for peer in [a, b] {
        mesh.fault(peer, "none").await;
    }
    mesh.operator.ended(&first).await;
    mesh.operator.ended(&second).await;
    // The budget itself may change: what waits hears of it.
    mesh.budget("75%").await;
    assert_eq!(mesh.operator.ended(&third).await["state"], "succeeded");
}

#[tokio::test]
async fn an_unreachable_peer_counts_and_costs_itself_nothing() {
    let mesh = mesh().await;
    mesh.budget(1).await;
    let [gone, other] = [0, 1].map(|n| mesh.peers[n].as_str());
    mesh.fault(gone, "silent").await;
    mesh.reader.peer_that("is unreachable", gone, |peer| peer["health"] == "unreachable").await;
    let waits = mesh.operator.drain(other, &json!({})).await;
    let waiting = queued(&mesh, &waits, 1).await;
    assert_eq!(waiting["queue"]["holders"], json!([]), "{waiting}");
    let message = mesh.operator.blocked(&waits, "budget").await["message"].as_str().expect("a message").to_owned();
    assert!(message.contains(gone) && message.contains("unreachable"), "{message}");
    let itself = mesh.operator.drain(gone, &json!({})).await;
    mesh.operator.operation_that("runs", &itself, |it| it["state"] == "running").await;
    mesh.operator.cancel(&itself).await;
    mesh.fault(gone, "none").await;
    assert_eq!(mesh.operator.ended(&itself).await["state"], "cancelled");
    assert_eq!(mesh.operator.ended(&waits).await["state"], "succeeded", "heard of again, it counts no longer");
}

#[tokio::test]
async fn a_paused_one_in_the_queue_holds_nobody_up() {
    let mesh = mesh().await;
    mesh.budget(1).await;
    let [a, b, c] = [0, 1, 2].map(|n| mesh.peers[n].as_str());
    let first = lasting_drain(&mesh, a).await;
    let second = mesh.operator.drain(b, &json!({})).await;
    queued(&mesh, &second, 1).await;
    let third = mesh.operator.drain(c, &json!({})).await;
    queued(&mesh, &third, 2).await;
    let pause =
        |verb: &str| mesh.operator.post(&format!("/control/operations/{second}:{verb}"), &json!({"reason": "lunch"}));
    pause("pause").send().await.expect(200);
    let blocker = mesh.operator.blocked(&second, "paused").await;
    assert!(blocker["message"].as_str().is_some_and(|m| m.contains("lunch")), "{blocker}");
    queued(&mesh, &third, 1).await;
    mesh.fault(a, "none").await;
    mesh.operator.ended(&first).await;
    mesh.uncordon(a).await;
    assert_eq!(mesh.operator.ended(&third).await["state"], "succeeded");
    mesh.uncordon(c).await;
    assert_eq!(mesh.operator.operation(&second).await["state"], "queued", "still paused");
    pause("resume").send().await.expect(200);
    assert_eq!(mesh.operator.ended(&second).await["state"], "succeeded");
}

#[tokio::test]
async fn a_budget_of_nothing_lets_nobody_begin() {
    let mesh = mesh().await;
    mesh.budget(0).await;
    let operation = mesh.operator.drain(&mesh.peers[0], &json!({})).await;
    let waiting = queued(&mesh, &operation, 1).await;
    assert_eq!(waiting["queue"]["holders"], json!([]));
    mesh.budget(1).await;
    assert_eq!(mesh.operator.ended(&operation).await["state"], "succeeded");
}

/// A stack with its roles as processes. One test has it at a time: its workers, and its settings.
struct Site {
    stack: Stack,
    workers: Mutex<Vec<Process>>,
    _others: [Process; 2],
}

async fn site() -> &'static Site {
    static SITE: OnceCell<Site> = OnceCell::const_new();
    SITE.get_or_init(|| async {
        let options = StackOptions {
            clusters: 5,
            peers: 10,
            workloads: 5,
            handover: "40ms..80ms",
            services: Services::None,
            ..StackOptions::default()
        };
        let stack = Stack::start(options).await;
        let others = ["ingress", "audit"].map(|role| stack.serve(role, role));
        let workers = vec![stack.serve("worker", "worker-1")];
        stack.answers().await;
        stack.healthy().await;
        Site { stack, workers: Mutex::new(workers), _others: others }
    })
    .await
}

async fn set(mesh: &Mesh, patch: Value) {
    let revision = mesh.reader.read("/control/config").await["revision"].as_u64().expect("a revision");
    let ask = |body: &Value| {
        let ask = mesh.admin.ask(Method::PATCH, "/control/config").header("if-match", &format!("\"{revision}\""));
        ask.raw("application/json", body.to_string())
    };
    let mut body = patch;
    let plan = ask(&body).send().await;
    body["confirmation"] = plan.refused(428, "confirmation-required").body["plan"]["confirmation"]["token"].clone();
    ask(&body).send().await.expect(200);
}

#[tokio::test]
async fn the_settings_say_it_for_clusters_that_do_not_and_are_followed_live() {
    let site = site().await;
    let _alone = site.workers.lock().await;
    let mesh = site.stack.mesh();
    set(&mesh, json!({"settings": {"disruption": {"maxUnavailable": 1}}})).await;
    let first = lasting_drain(&mesh, &mesh.peers[0]).await;
    let second = mesh.operator.drain(&mesh.peers[1], &json!({})).await;
    assert_eq!(queued(&mesh, &second, 1).await["queue"]["holders"], json!([first]));
    set(&mesh, json!({"settings": {"disruption": {"maxUnavailable": 2}}})).await;
    mesh.operator.operation_that("runs as soon as it may", &second, |it| it["state"] == "running").await;
    mesh.fault(&mesh.peers[0], "none").await;
    mesh.operator.ended(&first).await;
    assert_eq!(mesh.operator.ended(&second).await["state"], "succeeded");
    set(&mesh, json!({"settings": {"disruption": {"maxUnavailable": null}}})).await;
}

#[tokio::test]
async fn a_service_is_moved_one_by_one_where_its_budget_is_one() {
    let site = site().await;
    let _alone = site.workers.lock().await;
    let (stack, mesh) = (&site.stack, site.stack.mesh());
    // Each service has one workload on each peer: two drains at once want two of each.
    set(&mesh, json!({"settings": {"disruption": {"services": {"svc-1": 1, "svc-2": "10%"}}}})).await;
    let plan = mesh.operator.peer(&mesh.peers[0], "drain", &json!({})).send().await.body["plan"].clone();
    let budgets = plan["impact"]["budgets"].as_array().expect("budgets");
    let service = budgets.iter().find(|budget| budget["subject"] == "services/svc-1").expect("the service's budget");
    assert_eq!((&service["total"], &service["maxUnavailable"]), (&json!(10), &json!(1)), "{plan}");
    let listener = Listener::start(stack.nats_url()).await;
    mesh.fault(&mesh.peers[0], "busy").await;
    let first = mesh.operator.drain(&mesh.peers[0], &json!({"maxConcurrent": 5})).await;
    let all = |it: &Value| it["progress"]["inFlight"] == 5;
    mesh.operator.operation_that("moves all", &first, all).await;
    let second = mesh.operator.drain(&mesh.peers[1], &json!({"maxConcurrent": 5})).await;
    let blocked = eventually_ok("the second waits for its services", omnirelay_tests::PATIENCE, async || {
        let operation = mesh.operator.operation(&second).await;
        let blockers = operation["blockers"].as_array().cloned().unwrap_or_default();
        let subjects: BTreeSet<String> = blockers
            .iter()
            .filter(|blocker| blocker["code"] == "budget")
            .filter_map(|blocker| blocker["subject"].as_str().map(str::to_owned))
            .collect();
        if subjects == BTreeSet::from(["svc-1".to_owned(), "svc-2".to_owned()]) { Ok(blockers) } else { Err(operation) }
    })
    .await;
    let told = blocked.iter().find(|blocker| blocker["subject"] == "svc-1").expect("a blocker");
    assert_eq!(told["message"], "svc-1 9/10 ready, needs 9", "{told}");
    mesh.fault(&mesh.peers[0], "none").await;
    for operation in [&first, &second] {
        let ended = mesh.operator.ended(operation).await;
        assert_eq!(ended["state"], "succeeded", "{ended}");
        listener.whole(operation).await;
    }
    for service in ["svc-1", "svc-2"] {
        assert_eq!(most_moving(&listener.events(), &mesh.cluster, service), 1, "{service}");
    }
    set(&mesh, json!({"settings": {"disruption": {"services": null}}})).await;
}

/// The most workloads of a service that were on the move at once, at any position of the events.
fn most_moving(events: &[Event], cluster: &str, service: &str) -> usize {
    let mut events: Vec<&Event> = events.iter().filter(|event| event.data()["service"] == service).collect();
    events.sort_by_key(|event| event.position);
    let (mut moving, mut most) = (BTreeSet::new(), 0);
    for event in events {
        let workload = event.data()["workload"].as_str().expect("a workload");
        if !workload.starts_with(&format!("{cluster}-")) {
            continue;
        }
        match event.what() {
            "workloads.moving" => {
                moving.insert(workload);
            }
            "workloads.moved" | "workloads.restored" => {
                moving.remove(workload);
            }
            _ => {}
        }
        most = most.max(moving.len());
    }
    most
}

/// Asks for a drain until it is taken: a 503 says to try again, and the key keeps that from becoming two.
async fn taken(mesh: &Mesh, peer: &str) -> String {
    let ask = async |body: &Value| mesh.operator.peer(peer, "drain", body).key(&format!("storm-{peer}")).send().await;
    eventually_ok(format!("a drain of {peer} is taken"), omnirelay_tests::PATIENCE, async || {
        let mut answer = ask(&json!({})).await;
        if answer.code() == "confirmation-required" {
            answer = ask(&json!({"confirmation": answer.body["plan"]["confirmation"]["token"]})).await;
        }
        if answer.code() == "unavailable" { Err(answer.body) } else { Ok(answer.operation()) }
    })
    .await
}

/// All ten peers at once where two may be out; somebody takes back what is drained. `disturb` comes when it is under way.
async fn storm(mesh: Arc<Mesh>, nats_url: &str, disturb: impl AsyncFnOnce()) {
    mesh.budget(2).await;
    let before: Registry = mesh.registry().await;
    let listener = Listener::start(nats_url).await;
    let sampler = Sampler::start(&mesh);
    let operations = join_all(mesh.peers.iter().map(|peer| taken(&mesh, peer))).await;
    let (disturbing, ended) = (
        async {
            let done = |events: &[Event]| events.iter().filter(|event| event.what() == "peers.drained").count() >= 2;
            eventually("it is under way", omnirelay_tests::PATIENCE, async || done(&listener.events()).then_some(()))
                .await;
            disturb().await;
        },
        join_all(
            operations.iter().map(|operation| mesh.operator.ended_within(operation, omnirelay_tests::PATIENCE * 2)),
        ),
    );
    let (ended, ()) = mesh.taking_back(async { tokio::join!(ended, disturbing) }).await;
    for operation in ended {
        assert_eq!(operation["state"], "succeeded", "{operation}");
    }
    for operation in &operations {
        listener.whole(operation).await;
    }
    let (most, drained) = most_out(&listener.events(), &mesh.cluster);
    assert_eq!(most, 2, "at every position of the events");
    assert_eq!(drained.len(), 10);
    assert!(drained.values().all(|times| *times == 1), "{drained:?}");
    assert_eq!(sampler.stop().await, 2, "whenever the registry is read");
    assert_eq!(mesh.registry().await.placement().len(), before.placement().len(), "nothing is lost");
}

#[tokio::test]
async fn ten_at_once_never_exceed_a_budget_of_two() {
    let site = site().await;
    let _workers = site.workers.lock().await;
    storm(Arc::new(site.stack.mesh()), site.stack.nats_url(), async || {}).await;
}

#[tokio::test]
async fn a_worker_that_is_killed_keeps_the_slots() {
    let site = site().await;
    let mut workers = site.workers.lock().await;
    storm(Arc::new(site.stack.mesh()), site.stack.nats_url(), async || {
        workers.pop().expect("it runs").kill_9();
        workers.push(site.stack.serve("worker", "worker-1"));
    })
    .await;
}

#[tokio::test]
async fn two_workers_side_by_side_never_exceed_it() {
    let site = site().await;
    let mut workers = site.workers.lock().await;
    workers.push(site.stack.serve("worker", "worker-2"));
    storm(Arc::new(site.stack.mesh()), site.stack.nats_url(), async || {}).await;
    workers.pop().expect("it runs").stop().await;
}
