//! `/metrics` and `/livez` of a process without an ingress, which has them itself.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use omnirelay_runtime::telemetry::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Serves where `address` says, if it does; returns what runs until `stop`.
pub async fn beside(
    address: Option<SocketAddr>,
    handle: PrometheusHandle,
    stop: CancellationToken,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>>> {
    let listener = match address {
        Some(address) => {
            let listener = TcpListener::bind(address).await;
            Some(listener.with_context(|| format!("cannot listen on {address} (telemetry.metrics)"))?)
        }
        None => None,
    };
    Ok(async move {
        let Some(listener) = listener else {
            upkeep(&handle, &stop).await;
            return Ok(());
        };
        let address = listener.local_addr().map(|address| address.to_string()).unwrap_or_default();
        tracing::info!(address, "metrics are served");
        let rendered = handle.clone();
        let metrics = async move || ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], rendered.render());
        let router = Router::new().route("/metrics", get(metrics)).route("/livez", get(async || "ok\n"));
        let served = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
        let (served, ()) = tokio::join!(served.into_future(), upkeep(&handle, &stop));
        served.context("metrics are not served any more")
    })
}

/// Folds what the histograms gathered; without it they grow until somebody scrapes, and perhaps nobody does.
async fn upkeep(handle: &PrometheusHandle, stop: &CancellationToken) {
    let mut ticks = tokio::time::interval(UPKEEP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        handle.run_upkeep();
    }
}
