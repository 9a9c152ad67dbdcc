//! The servers beneath go away and come back in the middle of things. Without NATS the product goes on, slower; without
//! PostgreSQL it refuses clearly. After either returns everything continues by itself.

use omnirelay_tests::{
    Mesh, PATIENCE, Server, Sse, Stack, StackOptions, eventually_ok, gap_free, positions_in_stream, settled_moves,
};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

/// A stack whose servers are one test's at a time.
struct Site {
    stack: Stack,
    servers: Mutex<Servers>,
}

struct Servers {
    nats: Server,
    postgres: Server,
}

async fn site() -> (&'static Stack, MutexGuard<'static, Servers>) {
    static SITE: OnceCell<Site> = OnceCell::const_new();
    let site = SITE
        .get_or_init(|| async {
            let options = StackOptions { clusters: 6, handover: "80ms..160ms", ..StackOptions::default() };
            let stack = Stack::start(options).await;
            let servers = Servers { nats: Server::nats(&stack), postgres: Server::postgres(&stack) };
            Site { stack, servers: Mutex::new(servers) }
        })
        .await;
    (&site.stack, site.servers.lock().await)
}

fn halfway(operation: &Value) -> bool {
    operation["progress"]["done"].as_u64() >= Some(1)
}

/// It has ended well, each workload moved once, every event is there.
async fn ends_well(mesh: &Mesh, operation: &str) {
    let ended = mesh.operator.ended(operation).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let mut sse = Sse::open(&mesh.reader, &format!("operation={operation}"), None).await;
    let events = sse.to_the_end().await;
    gap_free(events);
    let moves = settled_moves(events);
    assert!(moves.len() == 4 && moves.values().all(|count| *count == (1, 0)), "{moves:?}");
    let placement = mesh.registry().await.placement();
    assert!(placement.len() == 12 && placement.values().all(|peer| *peer != mesh.peers[0]), "{placement:?}");
}

/// The stream has everything that the record has, at the same positions.
async fn stream_is_whole(stack: &Stack, mesh: &Mesh) -> Vec<(u64, u64, String)> {
    eventually_ok("the stream is whole", PATIENCE, async || {
        let head = mesh.reader.read("/control/operations?pageSize=1").await["position"].as_u64().unwrap_or_default();
        let kept = positions_in_stream(stack.nats_url()).await?;
        let last = kept.last().map_or(0, |last| last.0);
        let dense = kept.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0) && kept.iter().all(|it| it.0 == it.1);
        if !dense {
            return Err(format!("not dense: {kept:?}"));
        }
        if last >= head { Ok(kept) } else { Err(format!("the stream is at {last}, the record at {head}")) }
    })
    .await
}

#[tokio::test]
async fn nats_is_killed_and_restarted_in_a_drain() {
    let (stack, mut servers) = site().await;
    let mesh = stack.mesh();
    let operation = mesh.operator.drain(&mesh.peers[0], &json!({"maxConcurrent": 1})).await;
    mesh.operator.operation_that("is halfway", &operation, halfway).await;
    servers.nats.kill_9().await;
    servers.nats.start();
    ends_well(&mesh, &operation).await;
    stream_is_whole(stack, &mesh).await;
}

#[tokio::test]
async fn with_nats_gone_cordons_are_done_and_drains_wait_and_go_on_after() {
    let (stack, mut servers) = site().await;
    let mesh = stack.mesh();
    let operation = mesh.operator.drain(&mesh.peers[0], &json!({"maxConcurrent": 1})).await;
    mesh.operator.operation_that("is halfway", &operation, halfway).await;
    servers.nats.kill_9().await;
    for n in 0..5 {
        let verb = if n % 2 == 0 { "cordon" } else { "uncordon" };
        let answer = mesh.admin.peer(&mesh.peers[2], verb, &json!({"reason": n.to_string()})).send().await;
        assert_eq!(answer.expect(200).body["changed"], true, "{}", answer.body);
    }
    let live = mesh.operator.operation(&operation).await;
    assert_eq!(live["state"], "running", "{live}");
    // It is waited for, not guessed at: so long as nobody can be heard, nobody is called unreachable.
    let sse = Sse::open(&mesh.reader, "kind=peers", None).await;
    drop(sse);
    servers.nats.start();
    mesh.admin.peer(&mesh.peers[2], "uncordon", &json!({})).send().await.expect(200);
    ends_well(&mesh, &operation).await;
    stream_is_whole(stack, &mesh).await;
}

#[tokio::test]
async fn a_frozen_nats_stops_nobody_who_asks() {
    let (stack, servers) = site().await;
    let mesh = stack.mesh();
    servers.nats.freeze();
    let answers = [
        mesh.admin.peer(&mesh.peers[1], "cordon", &json!({})).send().await,
        mesh.admin.peer(&mesh.peers[1], "uncordon", &json!({})).send().await,
    ];
    servers.nats.thaw();
    assert!(answers.iter().all(|answer| answer.expect(200).body["changed"] == true));
    assert_eq!(mesh.drained(&mesh.peers[0], &json!({})).await["state"], "succeeded");
    stream_is_whole(stack, &mesh).await;
}

#[tokio::test]
async fn a_stream_that_was_lost_is_filled_again_with_the_same_positions() {
    let (stack, mut servers) = site().await;
    let mesh = stack.mesh();
    mesh.cordon(&mesh.admin, &mesh.peers[1]).await;
    let before = stream_is_whole(stack, &mesh).await;
    servers.nats.kill_9().await;
    std::fs::remove_dir_all(stack.state_dir().join("nats/store")).expect("the disk is lost");
    servers.nats.start();
    mesh.admin.peer(&mesh.peers[1], "uncordon", &json!({})).send().await.expect(200);
    let operation = mesh.operator.drain(&mesh.peers[0], &json!({})).await;
    ends_well(&mesh, &operation).await;
    let after = stream_is_whole(stack, &mesh).await;
    assert!(after.len() > before.len());
    assert_eq!(after[..before.len()], before[..], "the same events at the same positions");
}

#[tokio::test]
async fn without_postgresql_it_refuses_clearly_and_continues_after() {
    let (stack, mut servers) = site().await;
    let mesh = stack.mesh();
    let operation = mesh.operator.drain(&mesh.peers[0], &json!({"maxConcurrent": 1})).await;
    mesh.operator.operation_that("is halfway", &operation, halfway).await;
    servers.postgres.shut_down().await;
    for ask in [
        mesh.operator.peer(&mesh.peers[1], "cordon", &json!({})).key("through-the-outage"),
        mesh.reader.get(&format!("/control/peers/{}", mesh.peers[1])),
        mesh.operator.post(&format!("/control/operations/{operation}:cancel"), &json!({})),
    ] {
        let answer = ask.send().await;
        answer.refused(503, "unavailable");
        assert!(answer.header("retry-after").parse::<u64>().is_ok(), "{answer:?}");
    }
    let ready = mesh.reader.get("/readyz").send().await;
    assert_eq!(ready.status, 503, "no traffic for one that cannot answer");
    assert_eq!(mesh.reader.get("/livez").send().await.status, 200, "a restart would not help");
    servers.postgres.start();
    ends_well(&mesh, &operation).await;
    // The same key finds out what became of the request.
    let again = mesh.operator.peer(&mesh.peers[1], "cordon", &json!({})).key("through-the-outage").send().await;
    assert_eq!(again.expect(200).body["operation"]["state"], "succeeded");
    stream_is_whole(stack, &mesh).await;
}
