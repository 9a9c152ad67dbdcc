//! Against a real PostgreSQL and nats-server: what a batch does with operations that cannot be applied or were cancelled first.

use omnirelay_devstack::testing::shared;
use omnirelay_store::PoolOptions;
use uuid::Uuid;

use super::*;

struct Bench {
    applier: Applier,
    pool: PgPool,
}

async fn bench() -> Bench {
    let stack = shared().await;
    let options = PoolOptions { max_connections: 2, index_scans_only: true, application: "test" };
    let pool = omnirelay_store::connect(&stack.database().await, options).await.expect("a database");
    omnirelay_store::migrate(&pool).await.expect("a schema");
    sqlx::query("insert into clusters (id, state) values ('c', 'active')").execute(&pool).await.expect("a cluster");
    sqlx::query("insert into peers (id, name, cluster) values ('p', 'p', 'c')").execute(&pool).await.expect("a peer");
    let bus = Bus::connect(&stack.nats_account().await, "test").await.expect("a bus");
    let settings = LiveSettings::load(&pool).await.expect("settings");
    let ((dispatch, _), (work, _)) = (mpsc::channel(8), mpsc::channel(8));
    let published = Arc::new(Notify::new());
    Bench { applier: Applier { pool: pool.clone(), bus, settings, dispatch, work, published }, pool }
}

impl Bench {
    /// An operation on peer `p` that waits for its first step.
    async fn submitted(&self, verb: &str) -> Uuid {
        let id = Uuid::now_v7();
        sqlx::query(
            "insert into operations (id, verb, target, state, actor, actor_json, digest, idempotency_key, request_digest,
                                     created_at, wake_at, event_seq)
             values ($1, $2, 'peers/p', 'submitted', 'ana', '{\"subject\":\"ana\"}', '', $3, '', now(), now(), 1)",
        )
        .bind(id)
        .bind(verb)
        .bind(id.to_string())
        .execute(&self.pool)
        .await
        .expect("an operation");
        id
    }

    async fn apply(&self, id: Uuid) {
        let batch = Batch::from([(id, Inputs::default())]);
        assert!(self.applier.apply(batch, &CancellationToken::new()).await, "it was applied");
    }

    async fn text(&self, sql: &'static str, id: Uuid) -> String {
        sqlx::query_scalar(sql).bind(id).fetch_one(&self.pool).await.expect("one value")
    }

    async fn state(&self, id: Uuid) -> String {
        self.text("select state from operations where id = $1", id).await
    }
}

#[tokio::test]
async fn a_poisoned_operation_is_set_aside_and_its_neighbours_are_not() {
    let bench = bench().await;
    let poisoned = bench.submitted("peers.teleport").await;
    let neighbour = bench.submitted("peers.cordon").await;

    bench.apply(neighbour).await;
    assert_eq!(bench.state(neighbour).await, "succeeded");
    assert_eq!(bench.state(poisoned).await, "submitted");

    bench.apply(poisoned).await;
    assert_eq!(bench.state(poisoned).await, "stuck");
    let letter = bench.text("select error from dead_letters where operation = $1", poisoned).await;
    assert!(letter.contains("verb"), "{letter}");
    let told = bench.text("select nats_subject from events where operation = $1", poisoned).await;
    assert_eq!(told, format!("omni.v1.event.operations.{poisoned}.stuck"));
}

#[tokio::test]
async fn a_cordon_that_was_cancelled_before_its_step_holds_nothing() {
    let bench = bench().await;
    let id = bench.submitted("peers.cordon").await;
    sqlx::query("update operations set state = 'unwinding', cancel = '{\"by\":\"bo\",\"at\":\"2026-11-23T12:00:00Z\",\"reason\":null}' where id = $1")
        .bind(id)
        .execute(&bench.pool)
        .await
        .expect("a cancel");

    bench.apply(id).await;
    assert_eq!(bench.state(id).await, "cancelled");
    let holds: String =
        sqlx::query_scalar("select holds::text from peers").fetch_one(&bench.pool).await.expect("holds");
    assert_eq!(holds, "[]");
}
