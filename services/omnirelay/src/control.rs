//! The control plane's roles, composed: each in this process or in its own, with the same code.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use omnirelay_audit::{AuditOptions, CheckpointEvery};
use omnirelay_bus::{Bus, StreamOptions};
use omnirelay_ingress::IngressOptions;
use omnirelay_runtime::auth::Authenticator;
use omnirelay_runtime::config::Limits;
use omnirelay_runtime::telemetry;
use omnirelay_store::live::LiveSettings;
use omnirelay_store::{PgPool, PoolOptions};
use omnirelay_worker::WorkerOptions;
use omnirelay_workflow::settings::Settings;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    Ingress,
    Worker,
    Audit,
    All,
}

impl Role {
    /// For traces.
    pub const fn word(self) -> &'static str {
        match self {
            Role::Ingress => "ingress",
            Role::Worker => "worker",
            Role::Audit => "audit",
            Role::All => "all",
        }
    }

    fn includes(self, role: Role) -> bool {
        self == Role::All || self == role
    }
}

/// What the roles are started with.
pub struct ControlOptions {
    pub http: SocketAddr,
    pub database_url: String,
    pub nats_url: String,
    pub nats_credentials: Option<PathBuf>,
    pub auth: Arc<Authenticator>,
    pub limits: Limits,
    /// Settings that a mesh without any begins with.
    pub first_settings: serde_json::Value,
    pub streams: StreamOptions,
    pub audit_log_dir: Option<PathBuf>,
    pub audit_rotate_bytes: u64,
    pub audit_key: omnirelay_contract::chain::SigningKey,
    /// Where a process without an ingress serves its metrics.
    pub metrics: Option<SocketAddr>,
}

/// Running roles.
pub struct Control {
    /// Of the ingress, if it runs here.
    pub http: Option<SocketAddr>,
    tasks: JoinSet<anyhow::Result<()>>,
    stop: CancellationToken,
}

impl Control {
    /// Migrates the schema and starts the roles; they run until `stop`.
    pub async fn start(options: ControlOptions, role: Role, stop: CancellationToken) -> anyhow::Result<Self> {
        let metrics = telemetry::metrics()?;
        let setup = pool(&options.database_url, 1, false, "omnirelay-setup").await?;
        omnirelay_store::migrate(&setup).await?;
        let settings = settings(&setup, &options.first_settings).await?;
        setup.close().await;
        let short = Uuid::new_v4().simple().to_string();
        let instance = short.get(..12).unwrap_or(&short).to_owned();
        let mut tasks = JoinSet::new();
        if role.includes(Role::Worker) {
            let worker = WorkerOptions {
                instance: format!("worker-{instance}"),
                pool: pool(&options.database_url, 8, true, "omnirelay-worker").await?,
                bus: bus(&options, "omnirelay-worker").await?,
                streams: options.streams,
                settings: settings.clone(),
                events_retention: options.streams.events_max_age,
            };
            let stop = stop.clone();
            tasks.spawn(async move {
                omnirelay_worker::run(worker, stop).await;
                Ok(())
            });
        }
        if role.includes(Role::Audit) {
            let audit = AuditOptions {
                pool: pool(&options.database_url, 3, true, "omnirelay-audit").await?,
                bus: bus(&options, "omnirelay-audit").await?,
                log_dir: options.audit_log_dir.clone(),
                signing_key: options.audit_key.clone(),
                rotate_bytes: options.audit_rotate_bytes,
                checkpoint_every: CheckpointEvery { records: 10_000, time: Duration::from_secs(30) },
            };
            tasks.spawn(omnirelay_audit::run(audit, stop.clone()));
        }
        let mut http = None;
        if role.includes(Role::Ingress) {
            let ingress = IngressOptions {
                http: options.http,
                instance: format!("ingress-{instance}"),
                pool: pool(&options.database_url, 8, false, "omnirelay-ingress").await?,
                intake_pool: pool(&options.database_url, 2, true, "omnirelay-intake").await?,
                bus: bus(&options, "omnirelay-ingress").await?,
                auth: options.auth.clone(),
                metrics: metrics.clone(),
                limits: options.limits,
            };
            let ingress = omnirelay_ingress::serve(ingress, stop.clone()).await?;
            http = Some(ingress.addr);
            tasks.spawn(async move { ingress.task.await.context("the ingress ended badly") });
        }
        if http.is_none() {
            tasks.spawn(crate::metrics::beside(options.metrics, metrics, stop.clone()).await?);
        }
        Ok(Self { http, tasks, stop })
    }

    /// Waits until every role has ended. A role that ends by itself takes the others down: half a control plane would look
    /// like a whole one.
    pub async fn ended(mut self) -> anyhow::Result<()> {
        let mut first = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            let ended = ended.context("a role panicked").and_then(|result| result);
            if !self.stop.is_cancelled() {
                tracing::error!(?ended, "a role ended before it was told to");
                self.stop.cancel();
                if ended.is_ok() {
                    first = Err(anyhow::anyhow!("a role ended before it was told to"));
                }
            }
            if first.is_ok() {
                first = ended;
            }
        }
        first
    }
}

/// Writes the first settings where there are none, and reads what holds.
async fn settings(pool: &PgPool, first: &serde_json::Value) -> anyhow::Result<LiveSettings> {
    let nothing = Settings::default_value();
    let (whole, _) = Settings::patched(&nothing, first).context("the first settings (drain, heartbeat)")?;
    omnirelay_store::config::seed(pool, &whole.to_string()).await?;
    Ok(LiveSettings::load(pool).await?)
}

pub async fn pool(url: &str, max: u32, hot: bool, application: &'static str) -> anyhow::Result<PgPool> {
    let options = PoolOptions { max_connections: max, index_scans_only: hot, application };
    omnirelay_store::connect(url, options).await.context("cannot connect to PostgreSQL (database_url)")
}

async fn bus(options: &ControlOptions, name: &str) -> anyhow::Result<Bus> {
    Bus::connect_as(&options.nats_url, name, options.nats_credentials.as_deref())
        .await
        .context("cannot use NATS (nats_url)")
}
