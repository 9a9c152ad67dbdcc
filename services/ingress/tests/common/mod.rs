//! An ingress over a real database and bus, with a small registry. There is no worker: tests play it where they need one.

use std::sync::Arc;
use std::time::Duration;

use omnirelay_bus::Bus;
use omnirelay_devstack::testing;
use omnirelay_ingress::{Ingress, IngressOptions, serve};
use omnirelay_runtime::auth::{Algorithm, Authenticator, Claims, Key, KeyPair, Scope, generate_key_pair, mint};
use omnirelay_runtime::config::Limits;
use omnirelay_runtime::telemetry;
use omnirelay_store::{PgPool, PoolOptions, connect, migrate};
use tokio_util::sync::CancellationToken;

const ISSUER: &str = "test";
const AUDIENCE: &str = "omnirelay";

#[allow(dead_code, reason = "each test file uses what it needs")]
pub struct Site {
    pub base: String,
    pub pool: PgPool,
    pub bus: Bus,
    pub stop: CancellationToken,
    pub ingress: Ingress,
    pair: KeyPair,
}

/// Cluster `c` with peers `a` and `b`, and `d`, which is drained; two workloads run on `a`.
pub async fn site() -> Site {
    let stack = testing::shared().await;
    site_on(stack.database().await, stack.nats_account().await).await
}

/// The same on a database and a bus of the test's own.
pub async fn site_on(url: String, nats: String) -> Site {
    // Whoever comes first in this process installs the provider; the others find it there.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let pool_of = |index_scans_only| PoolOptions { max_connections: 8, index_scans_only, application: "ingress-test" };
    let pool = connect(&url, pool_of(false)).await.expect("a database");
    migrate(&pool).await.expect("the schema");
    for statement in [
        "insert into clusters (id, state) values ('c', 'active')",
        "insert into peers (id, name, cluster, capacity, labels) values
            ('a', 'web-a', 'c', 10, '{\"zone\":\"x\"}'), ('b', 'web-b', 'c', 10, '{\"zone\":\"y\"}')",
        "insert into peers (id, name, cluster, drain_mark) values ('d', 'web-d', 'c', 'drained')",
        "insert into peer_observed (peer, incarnation, seq, health, version, last_seen)
            select id, gen_random_uuid(), 1, 'healthy', '1.0', now() from peers",
        "insert into workloads (id, service, peer, load, handover) values
            ('w1', 'checkout', 'a', 1, 'start-first'), ('w2', 'checkout', 'a', 1, 'release-only')",
    ] {
        sqlx::query(statement).execute(&pool).await.expect("a registry");
    }
    let pair = generate_key_pair().expect("a key");
    let key = Key { kid: "k".to_owned(), alg: Algorithm::EdDsa, material: pair.public_pem.clone().into_bytes() };
    let bus = Bus::connect(&nats, "ingress-test").await.expect("a bus");
    let stop = CancellationToken::new();
    let options = IngressOptions {
        http: ([127, 0, 0, 1], 0).into(),
        instance: "ingress-1".to_owned(),
        pool: pool.clone(),
        intake_pool: connect(&url, pool_of(true)).await.expect("a database"),
        bus: bus.clone(),
        auth: Arc::new(Authenticator::with_keys(ISSUER, AUDIENCE, &[key]).expect("keys")),
        metrics: telemetry::metrics().expect("metrics"),
        limits: Limits::default(),
    };
    let ingress = serve(options, stop.clone()).await.expect("an ingress");
    Site { base: format!("http://{}", ingress.addr), pool, bus, stop, ingress, pair }
}

#[allow(dead_code, reason = "each test file uses what it needs")]
impl Site {
    /// Stops the ingress and waits for its end. Whoever keeps it from ending fails the test.
    pub async fn stopped(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(20), self.ingress.task);
        ended.await.expect("it ends").expect("no panic");
    }

    pub fn token(&self, subject: &str, scope: Scope) -> String {
        let claims = Claims {
            issuer: ISSUER.to_owned(),
            audience: AUDIENCE.to_owned(),
            subject: subject.to_owned(),
            scopes: vec![scope],
            valid_for: Duration::from_secs(600),
            kid: "k".to_owned(),
        };
        mint(&self.pair.private_pem, &claims).expect("a token")
    }
}
