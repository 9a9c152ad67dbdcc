//! The ingress: REST, the event stream, and the group commit behind every mutation.
//!
//! "A drain from request to done", as far as it is told here: [`routes`] reads the request, [`caller`] says who it is,
//! [`intake`] commits the intent together with all others that wait at that moment ([`admit`] decides each), [`wakeups`]
//! tells the worker, [`completion`] hears that it is done, and the handler answers.
//!
//! Absent here: any change of the registry (the worker's), any position of an event (the relay's).

mod access;
mod admit;
mod answer;
mod caller;
mod completion;
mod confirmation;
mod control;
mod digest;
mod grpc;
mod hub;
mod intake;
mod openapi;
mod page;
mod plan;
mod rate;
mod request;
mod routes;
mod sampler;
mod selector;
mod submission;
mod wakeups;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use axum::serve::ListenerExt;
use omnirelay_bus::Bus;
use omnirelay_runtime::auth::Authenticator;
use omnirelay_runtime::config::Limits;
use omnirelay_runtime::telemetry::PrometheusHandle;
use omnirelay_store::live::LiveSettings;
use omnirelay_store::{PgPool, StoreError};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::access::Sums;
use crate::completion::Completions;
use crate::confirmation::Confirmations;
use crate::hub::Hub;
use crate::intake::{Intake, IntakeTask};
use crate::rate::RateLimit;
use crate::wakeups::Wakeups;

/// Name of the key in `control_keys` that confirmation tokens are made with.
const CONFIRMATION_KEY: &str = "confirmation";

/// How long a shutdown waits for the last sums of refusals to be recorded.
const FINAL_FLUSH: Duration = Duration::from_secs(5);

/// What an ingress is started with.
#[derive(Debug)]
pub struct IngressOptions {
    /// Port 0 takes a free one.
    pub http: SocketAddr,
    /// Its own id, unlike that of any other ingress: where workers tell it what is done.
    pub instance: String,
    /// For reads.
    pub pool: PgPool,
    /// For the group commit; its connections use index scans only.
    pub intake_pool: PgPool,
    pub bus: Bus,
    pub auth: Arc<Authenticator>,
    pub metrics: PrometheusHandle,
    pub limits: Limits,
}

/// A running ingress.
#[derive(Debug)]
pub struct Ingress {
    pub addr: SocketAddr,
    /// Ends after the shutdown, when everything that was taken has been answered.
    pub task: JoinHandle<()>,
}

#[derive(Debug, thiserror::Error)]
pub enum IngressError {
    #[error("cannot listen on {address}: {source}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Descriptors(#[from] grpc::DescriptorError),
}

/// What every handler works with.
#[derive(Debug)]
pub(crate) struct App {
    instance: String,
    pool: PgPool,
    bus: Bus,
    auth: Arc<Authenticator>,
    metrics: PrometheusHandle,
    rate: RateLimit,
    sums: Sums,
    intake: Intake,
    wakeups: Wakeups,
    completions: Completions,
    confirmations: Confirmations,
    settings: LiveSettings,
    hub: Hub,
    lists: routes::ListCache,
    stop: CancellationToken,
}

impl App {
    /// Changes whenever this ingress hears that something has happened.
    fn generation(&self) -> u64 {
        self.hub.head().wrapping_add(self.completions.finished())
    }
}

/// Starts serving; returns when the address is bound. The schema must be there.
pub async fn serve(options: IngressOptions, stop: CancellationToken) -> Result<Ingress, IngressError> {
    let address = options.http;
    let failed = |source| IngressError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;

    // The services behind outlive the listener: what was taken is still answered.
    let behind = CancellationToken::new();
    let tracker = TaskTracker::new();
    let fresh: Vec<u8> =
        [Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4()].iter().flat_map(|id| *id.as_bytes()).collect();
    let key = omnirelay_store::intake::shared_key(&options.pool, CONFIRMATION_KEY, &fresh).await?;
    let confirmations = Confirmations::new(key);
    let settings = LiveSettings::load(&options.pool).await?;
    let (wakeups, wakeups_task) = Wakeups::start(options.bus.clone(), behind.clone());
    let backlog_full = Arc::new(AtomicBool::new(false));
    let intake_task = IntakeTask {
        pool: options.intake_pool,
        confirmations: confirmations.clone(),
        settings: settings.clone(),
        wakeups: wakeups.clone(),
        instance: options.instance.clone(),
        backlog_full: Arc::clone(&backlog_full),
    };
    let (intake, intake_task) = Intake::start(intake_task, behind.clone());
    let completions = Completions::default();
    tracker.spawn(completions.clone().run(
        options.bus.clone(),
        options.instance.clone(),
        options.pool.clone(),
        behind.clone(),
    ));
    let from = omnirelay_store::reads::position(&options.pool).await?;
    let hub = Hub::start(&tracker, options.bus.clone(), options.pool.clone(), from, stop.clone());
    let app = Arc::new(App {
        instance: options.instance,
        pool: options.pool.clone(),
        bus: options.bus,
        auth: options.auth,
        metrics: options.metrics.clone(),
        rate: RateLimit::new(options.limits.rate_per_actor),
        sums: Sums::default(),
        intake: intake.clone(),
        wakeups,
        completions,
        confirmations,
        settings,
        hub,
        lists: routes::ListCache::default(),
        stop: stop.clone(),
    });
    tracker.spawn(sampler::run(
        options.pool,
        options.metrics,
        backlog_full,
        options.limits.max_backlog,
        behind.clone(),
    ));
    let (sums, sums_intake, sums_stop) = (Arc::clone(&app), intake, behind.clone());
    tracker.spawn(async move { sums.sums.run(sums_intake, sums_stop).await });
    tracker.close();

    let router = grpc::beside(routes::router(Arc::clone(&app)), &stop)?;
    let router = router.into_make_service_with_connect_info::<SocketAddr>();
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "an answer may be delayed");
        }
    });
    let task = tokio::spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::error!(%error, "serving ended");
        }
        if tokio::time::timeout(FINAL_FLUSH, app.sums.flush(&app.intake)).await.is_err() {
            tracing::warn!("the last sums of refusals were not recorded");
        }
        behind.cancel();
        tracker.wait().await;
        // Both end by themselves once told to; a panic in one was logged where it happened.
        let _ended = tokio::join!(intake_task, wakeups_task);
    });
    tracing::info!(%addr, "the ingress is listening");
    Ok(Ingress { addr, task })
}
