//! The worker is killed (kill -9, a process of its own) at any point of a drain, and comes back: nothing is lost, nothing is
//! done twice, and what was acknowledged is kept.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use omnirelay_tests::{Event, Mesh, Process, Services, Sse, Stack, StackOptions, gap_free, records_of, settled_moves};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

/// A stack with its roles as processes. The worker is one test's at a time.
struct Site {
    stack: Stack,
    worker: Mutex<Option<Process>>,
    _others: [Process; 2],
}

async fn site() -> &'static Site {
    static SITE: OnceCell<Site> = OnceCell::const_new();
    SITE.get_or_init(|| async {
        let options = StackOptions {
            clusters: 12,
            peers: 4,
            handover: "60ms..120ms",
            services: Services::None,
            ..StackOptions::default()
        };
        let stack = Stack::start(options).await;
        let others = ["ingress", "audit"].map(|role| stack.serve(role, role));
        let worker = stack.serve("worker", "worker");
        stack.answers().await;
        stack.healthy().await;
        Site { stack, worker: Mutex::new(Some(worker)), _others: others }
    })
    .await
}

/// The one worker, for the test that has it.
struct Worker<'a> {
    site: &'a Site,
    process: MutexGuard<'a, Option<Process>>,
}

impl Site {
    async fn worker(&self) -> Worker<'_> {
        let mut process = self.worker.lock().await;
        if process.is_none() {
            *process = Some(self.stack.serve("worker", "worker"));
        }
        Worker { site: self, process }
    }
}

impl Worker<'_> {
    fn kill_9(&mut self) {
        self.process.take().expect("it runs").kill_9();
    }

    fn start(&mut self) {
        *self.process = Some(self.site.stack.serve("worker", "worker"));
    }
}

/// The events of an operation that has ended, checked to be whole.
async fn whole(mesh: &Mesh, operation: &str) -> Vec<Event> {
    let mut sse = Sse::open(&mesh.reader, &format!("operation={operation}"), None).await;
    let events = sse.to_the_end().await.to_vec();
    gap_free(&events);
    let started = events.iter().filter(|event| event.what() == "operations.started").count();
    let ends = events.iter().filter(|event| event.is_end()).count();
    assert!(started <= 1 && ends == 1, "{started} starts, {ends} ends");
    events
}

/// Kills the worker once the drain is at the point, starts it again, and checks that the drain ends as if nothing had been.
async fn drained_through_a_kill(point: &str, params: Value, at: impl Fn(&Value) -> bool) {
    let site = site().await;
    let mesh = site.stack.mesh();
    let mut worker = site.worker().await;
    let peer = mesh.peers[0].as_str();
    let before = mesh.registry().await.placement();
    let operation = mesh.operator.drain(peer, &params).await;
    mesh.operator.operation_that(point, &operation, at).await;
    worker.kill_9();
    worker.start();
    let ended = mesh.operator.ended(&operation).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let events = whole(&mesh, &operation).await;
    let moves = settled_moves(&events);
    assert_eq!(moves.len(), 4, "{moves:?}");
    assert!(moves.values().all(|count| *count == (1, 0)), "each workload moved exactly once: {moves:?}");
    let after = mesh.registry().await.placement();
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "nothing is lost");
    assert!(after.values().all(|at| at != peer), "{after:?}");
    records_of_soon(&mesh, &operation).await;
}

/// The relay's lease of a killed worker has to run out first, so not within the usual two seconds.
async fn records_of_soon(mesh: &Mesh, operation: &str) {
    let records = records_of(&mesh.reader, operation, "succeeded").await;
    let seqs: BTreeSet<u64> = records.iter().filter_map(|record| record["detail"]["operationSeq"].as_u64()).collect();
    assert_eq!(seqs.len(), records.len(), "each event is recorded once");
}

#[tokio::test]
async fn killed_before_it_has_begun() {
    let site = site().await;
    let mesh = site.stack.mesh();
    let mut worker = site.worker().await;
    worker.kill_9();
    let operation = mesh.operator.drain(&mesh.peers[0], &json!({})).await;
    let cordon = mesh.operator.peer(&mesh.peers[1], "cordon", &json!({})).header("prefer", "wait=1").send().await;
    assert_eq!(cordon.expect(202).body["operation"]["state"], "submitted", "acknowledged, and not done");
    assert_eq!(mesh.operator.operation(&operation).await["state"], "submitted");
    worker.start();
    assert_eq!(mesh.operator.ended(&cordon.operation()).await["state"], "succeeded");
    assert_eq!(mesh.operator.ended(&operation).await["state"], "succeeded");
    let moves = settled_moves(&whole(&mesh, &operation).await);
    assert!(moves.values().all(|count| *count == (1, 0)), "{moves:?}");
}

#[tokio::test]
async fn killed_while_the_first_moves_are_on_their_way() {
    drained_through_a_kill("has moves in flight", json!({}), |it| it["progress"]["inFlight"].as_u64() >= Some(1)).await;
}

#[tokio::test]
async fn killed_between_moves() {
    let halfway = |it: &Value| it["progress"]["done"].as_u64() >= Some(2);
    drained_through_a_kill("is halfway", json!({"maxConcurrent": 1}), halfway).await;
}

#[tokio::test]
async fn killed_while_verifying_or_just_after() {
    let late = |it: &Value| it["phase"] == "verifying" || it["state"] == "succeeded";
    drained_through_a_kill("verifies", json!({}), late).await;
}

#[tokio::test]
async fn killed_again_and_again() {
    let site = site().await;
    let mesh = site.stack.mesh();
    let mut worker = site.worker().await;
    let operation = mesh.operator.drain(&mesh.peers[0], &json!({"maxConcurrent": 1})).await;
    for done in 1..=3_u64 {
        let reached = |it: &Value| it["progress"]["done"].as_u64() >= Some(done) || it["state"] == "succeeded";
        mesh.operator.operation_that("goes on", &operation, reached).await;
        worker.kill_9();
        worker.start();
    }
    assert_eq!(mesh.operator.ended(&operation).await["state"], "succeeded");
    let moves = settled_moves(&whole(&mesh, &operation).await);
    assert!(moves.len() == 4 && moves.values().all(|count| *count == (1, 0)), "{moves:?}");
}

#[tokio::test]
async fn killed_while_unwinding() {
    let site = site().await;
    let mesh = site.stack.mesh();
    let mut worker = site.worker().await;
    let before = mesh.registry().await;
    let operation = mesh.operator.drain(&mesh.peers[0], &json!({"maxConcurrent": 1})).await;
    let halfway = |it: &Value| it["progress"]["done"].as_u64() >= Some(2);
    mesh.operator.operation_that("is halfway", &operation, halfway).await;
    mesh.operator.cancel(&operation).await.expect(202);
    worker.kill_9();
    worker.start();
    let ended = mesh.operator.ended(&operation).await;
    assert_eq!(ended["state"], "cancelled", "{ended}");
    assert_eq!(mesh.registry().await.differences(&before), Vec::<String>::new());
    whole(&mesh, &operation).await;
}

#[tokio::test]
async fn a_cancel_taken_while_no_worker_runs_is_kept() {
    let site = site().await;
    let mesh = site.stack.mesh();
    let mut worker = site.worker().await;
    let before = mesh.registry().await;
    let operation = mesh.operator.drain(&mesh.peers[0], &json!({"maxConcurrent": 1})).await;
    let begun = |it: &Value| it["progress"]["done"].as_u64() >= Some(1);
    mesh.operator.operation_that("has begun", &operation, begun).await;
    worker.kill_9();
    mesh.operator.cancel(&operation).await.expect(202);
    worker.start();
    assert_eq!(mesh.operator.ended(&operation).await["state"], "cancelled");
    assert_eq!(mesh.registry().await.differences(&before), Vec::<String>::new());
    let events = whole(&mesh, &operation).await;
    let turned = events.iter().position(|event| event.what() == "operations.unwinding").expect("it turned round");
    assert!(
        !events[turned..].iter().any(|event| event.what() == "workloads.moved"),
        "no forward step after the cancel"
    );
}

#[tokio::test]
async fn two_workers_side_by_side_are_correct_and_one_carries_on_for_the_other() {
    let site = site().await;
    let mut worker = site.worker().await;
    let second = site.stack.serve("worker", "worker-2");
    let meshes = [site.stack.mesh(), site.stack.mesh(), site.stack.mesh()];
    // 200 cordons and uncordons of two peers each, and a drain each, all at once; the first worker is killed among them.
    let quick = (0..200_usize).map(|n| {
        let mesh = &meshes[n % 3];
        let verb = if n % 2 == 0 { "cordon" } else { "uncordon" };
        let api = if n % 4 < 2 { &mesh.operator } else { &mesh.admin };
        let body = json!({"reason": n.to_string()});
        async move { api.peer(&mesh.peers[2 + n % 2], verb, &body).header("prefer", "wait=40").send().await }
    });
    let drains = meshes.iter().map(|mesh| async move {
        let operation = mesh.operator.drain(&mesh.peers[0], &json!({})).await;
        (mesh, operation)
    });
    let kill = async {
        let busy = |it: &Value| it["progress"]["inFlight"].as_u64() >= Some(1) || it["state"] == "succeeded";
        let list = meshes[0].operator.list(&format!("/control/operations?target=peers/{}", meshes[0].peers[0])).await;
        if let Some(id) = list.first().and_then(|operation| operation["id"].as_str()) {
            meshes[0].operator.operation_that("moves", id, busy).await;
        }
        worker.kill_9();
    };
    let (answers, drains, ()) = tokio::join!(join_all(quick), join_all(drains), kill);
    let mut ids = BTreeSet::new();
    for answer in &answers {
        assert!(answer.status == 200 || answer.code() == "peer-held", "{} {}", answer.status, answer.body);
        if answer.status == 200 {
            assert!(ids.insert(answer.operation()), "each request is an operation of its own");
        }
    }
    for (mesh, operation) in drains {
        for n in [2, 3] {
            mesh.admin.peer(&mesh.peers[n], "uncordon", &json!({"all": true})).send().await.expect(200);
        }
        let ended = mesh.operator.ended(&operation).await;
        assert_eq!(ended["state"], "succeeded", "{ended}");
        let moves = settled_moves(&whole(mesh, &operation).await);
        assert!(moves.len() == 4 && moves.values().all(|count| *count == (1, 0)), "{moves:?}");
    }
    worker.start();
    drop(second);
}
