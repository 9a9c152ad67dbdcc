//! Against a real PostgreSQL and nats-server.

mod following;
mod judging;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use omnirelay_bus::Bus;
use omnirelay_contract::agent::{AgentHealth, Heartbeat, ObservedWorkload, PeerDescription};
use omnirelay_contract::event::Event;
use omnirelay_contract::subject;
use omnirelay_devstack::testing::shared;
use omnirelay_store::live::LiveSettings;
use omnirelay_store::{PgPool, PoolOptions};
use omnirelay_workflow::resource::Handover;
use omnirelay_workflow::{ClusterId, OperationId, PeerId, WorkloadId};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::ObserverOptions;

/// A heartbeat of a healthy agent, number 1, that lists nothing.
pub fn heartbeat(peer: &str, cluster: &str) -> Heartbeat {
    Heartbeat {
        peer: PeerId::parse(peer).expect("an id"),
        incarnation: Uuid::from_u128(1),
        seq: 1,
        health: AgentHealth::Healthy,
        holds: Vec::new(),
        workloads: Vec::new(),
        lag_ms: None,
        cluster: None,
        version: "1.0.0".to_owned(),
        describe: PeerDescription {
            cluster: ClusterId::parse(cluster).expect("an id"),
            name: format!("{peer}.example"),
            role: "edge".to_owned(),
            address: "192.0.2.1:80".to_owned(),
            capacity: 100,
            labels: BTreeMap::new(),
        },
    }
}

/// A ready start-first workload.
pub fn observed(id: &str, epoch: u64) -> ObservedWorkload {
    ObservedWorkload {
        id: WorkloadId::parse(id).expect("an id"),
        service: "checkout".to_owned(),
        epoch,
        ready: true,
        remaining: None,
        unit: None,
        load: 1,
        handover: Handover::StartFirst,
        restorable: true,
        labels: BTreeMap::new(),
    }
}

/// An observer with a database and a NATS account of its own.
struct World {
    pool: PgPool,
    bus: Bus,
    woken: mpsc::Receiver<OperationId>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    seqs: BTreeMap<PeerId, u64>,
}

impl World {
    async fn start(timeout: Duration) -> Self {
        let stack = shared().await;
        let options = PoolOptions { max_connections: 4, index_scans_only: true, application: "observe-test" };
        let pool = omnirelay_store::connect(&stack.database().await, options).await.expect("connects");
        omnirelay_store::migrate(&pool).await.expect("migrates");
        let bus = Bus::connect(&stack.nats_account().await, "observe-test").await.expect("a url");
        eventually("the bus is there", async || bus.is_connected()).await;
        let (wake, woken) = mpsc::channel(64);
        let stop = CancellationToken::new();
        let settings = serde_json::json!({ "heartbeat": { "timeout": humantime(timeout) } });
        omnirelay_store::config::seed(&pool, &settings.to_string()).await.expect("seeds");
        let settings = LiveSettings::load(&pool).await.expect("settings");
        let published = Arc::new(Notify::new());
        let options = ObserverOptions { pool: pool.clone(), bus: bus.clone(), settings, wake, published };
        let task = tokio::spawn(super::run(options, stop.clone()));
        Self { pool, bus, woken, stop, task, seqs: BTreeMap::new() }
    }

    /// Sends it under the peer's next number.
    async fn beat(&mut self, heartbeat: &Heartbeat) {
        let seq = self.seqs.entry(heartbeat.peer.clone()).or_default();
        *seq += 1;
        let payload = serde_json::to_vec(&Heartbeat { seq: *seq, ..heartbeat.clone() }).expect("serialises");
        self.bus.client().publish(subject::heartbeat(&heartbeat.peer), payload.into()).await.expect("publishes");
    }

    /// Sends it again and again until `condition`.
    async fn beat_until(&mut self, heartbeats: &[Heartbeat], what: &str, condition: impl AsyncFn(&PgPool) -> bool) {
        let pool = self.pool.clone();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while !condition(&pool).await {
            assert!(tokio::time::Instant::now() < deadline, "in time: {what}");
            for heartbeat in heartbeats {
                self.beat(heartbeat).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.expect("ends");
    }
}

fn humantime(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

/// Waits for it, for at most twenty seconds.
async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The events of this type, in order.
async fn events(pool: &PgPool, kind: &str) -> Vec<Event> {
    let payloads: Vec<String> =
        sqlx::query_scalar("select payload from events order by id").fetch_all(pool).await.expect("reads");
    let events = payloads.iter().map(|payload| serde_json::from_str::<Event>(payload).expect("an event"));
    events.filter(|event| event.kind == kind).collect()
}

/// `(owner, epoch, ready)` of a workload.
async fn record(pool: &PgPool, id: &str) -> Option<(String, i64, bool)> {
    sqlx::query_as("select peer, epoch, ready from workloads where id = $1")
        .bind(id)
        .fetch_optional(pool)
        .await
        .expect("reads")
}

async fn health(pool: &PgPool, peer: &str) -> Option<String> {
    sqlx::query_scalar("select health from peer_observed where peer = $1")
        .bind(peer)
        .fetch_optional(pool)
        .await
        .expect("reads")
}

async fn execute(pool: &PgPool, sql: &'static str) {
    sqlx::query(sql).execute(pool).await.expect("executes");
}
