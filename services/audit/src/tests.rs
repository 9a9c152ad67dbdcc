//! Against a real PostgreSQL and nats-server.

mod appending;
mod files;
mod service;
mod tampering;

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use omnirelay_bus::{Bus, StreamOptions};
use omnirelay_contract::audit::AuditRecord;
use omnirelay_contract::event::{AuditFacts, Event, EventData};
use omnirelay_contract::subject::HEADER_POSITION;
use omnirelay_devstack::testing::shared;
use omnirelay_store::audit as store;
use omnirelay_store::{PgPool, PoolOptions};
use omnirelay_workflow::Timestamp;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{AuditOptions, CheckpointEvery, SigningKey};

/// A database of its own with the schema.
async fn database() -> PgPool {
    let url = shared().await.database().await;
    let options = PoolOptions { max_connections: 4, index_scans_only: true, application: "audit-test" };
    let pool = omnirelay_store::connect(&url, options).await.expect("connects");
    omnirelay_store::migrate(&pool).await.expect("migrates");
    pool
}

/// A NATS account of its own.
async fn bus() -> Bus {
    let bus = Bus::connect(&shared().await.nats_account().await, "audit-test").await.expect("a url");
    eventually("the bus is there", async || bus.is_connected()).await;
    bus
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

/// The event that position `n` has in these tests: ten operations, one after the other.
fn event(n: u64) -> Event {
    let data = EventData {
        operation: Some(Uuid::from_u128(u128::from(n % 10) + 1)),
        operation_seq: Some((n - 1) / 10 + 1),
        actor: Some(format!("user-{}", n % 3)),
        audit: AuditFacts {
            verb: "peers.cordon".to_owned(),
            outcome: if n.is_multiple_of(2) { "accepted" } else { "succeeded" }.to_owned(),
            reason: Some(format!("because of {n}")),
            latency_ms: Some(n),
            ..AuditFacts::default()
        },
        ..EventData::default()
    };
    let at = Timestamp::from_second(1_800_000_000 + n as i64).expect("in range");
    Event::new(Uuid::from_u128(1 << 64 | u128::from(n)), "peers", &format!("edge-{}", n % 4), "cordoned", at, data)
}

fn payload(event: &Event) -> String {
    serde_json::to_string(event).expect("serialises")
}

/// Writes events into the event log with their positions, as the relay does.
async fn log_events(pool: &PgPool, positions: impl IntoIterator<Item = u64>) {
    let mut transaction = pool.begin().await.expect("begins");
    let mut last = 0;
    for position in positions {
        let event = event(position);
        insert(&mut transaction, position, event.id, &payload(&event)).await;
        last = position;
    }
    move_positioned(&mut transaction, last).await;
    transaction.commit().await.expect("commits");
}

async fn insert(connection: &mut sqlx::PgConnection, position: u64, event_id: Uuid, payload: &str) {
    sqlx::query("insert into events (position, event_id, resource, nats_subject, payload) values ($1, $2, $3, '', $4)")
        .bind(position as i64)
        .bind(event_id)
        .bind("peers/edge-1")
        .bind(payload)
        .execute(connection)
        .await
        .expect("inserts");
}

async fn move_positioned(connection: &mut sqlx::PgConnection, position: u64) {
    sqlx::query("update watermarks set position = $1 where name = 'positioned'")
        .bind(position as i64)
        .execute(connection)
        .await
        .expect("updates");
}

/// Publishes events to the stream, as the relay does.
async fn publish(bus: &Bus, positions: impl IntoIterator<Item = u64>) {
    let mut acks = Vec::new();
    for position in positions {
        let event = event(position);
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(HEADER_POSITION, position.to_string());
        let subject = event.nats_subject().expect("a subject");
        acks.push(
            bus.jetstream().publish_with_headers(subject, headers, payload(&event).into()).await.expect("is sent"),
        );
    }
    for ack in acks {
        ack.await.expect("is stored");
    }
}

async fn ensure_stream(bus: &Bus, next: u64) {
    bus.ensure_events(StreamOptions::default(), next).await.expect("a stream");
}

/// A running service.
struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    fn start(pool: &PgPool, bus: &Bus, log_dir: Option<PathBuf>) -> Self {
        let shutdown = CancellationToken::new();
        let options = AuditOptions {
            pool: pool.clone(),
            bus: bus.clone(),
            log_dir,
            signing_key: key(),
            rotate_bytes: 100_000,
            checkpoint_every: CheckpointEvery { records: 100, time: Duration::from_millis(200) },
        };
        Self { task: tokio::spawn(crate::run(options, shutdown.clone())), shutdown }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("no panic").expect("no error");
    }
}

async fn audited(pool: &PgPool, position: u64) {
    eventually(&format!("position {position} is audited"), async || {
        store::head(pool).await.is_ok_and(|head| head.position == position)
    })
    .await;
}

/// Each position of `1..=last` has one record, and the chain holds.
async fn assert_whole(pool: &PgPool, last: u64) {
    let records = all(pool).await;
    let positions: Vec<u64> = records.iter().map(|record| record.position).collect();
    assert_eq!(positions, (1..=last).collect::<Vec<_>>());
    let found = crate::verify_database(pool, Some(key().verifying_key())).await.expect("reads");
    assert!(found.ok, "{found:?}");
    assert_eq!(found.records, last);
}

async fn all(pool: &PgPool) -> Vec<AuditRecord> {
    let records = store::after(pool, 0, 100_000).await.expect("reads");
    records.into_iter().collect::<Result<_, _>>().expect("readable")
}

async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("not within 30 s: {what}"));
}
