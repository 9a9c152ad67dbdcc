//! What is sampled every second: the backlog, the outbox, the lag of the audit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use omnirelay_runtime::telemetry::PrometheusHandle;
use omnirelay_store::{PgPool, StoreError, intake, reads};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Samples until `stop`; `backlog_full` is what the intake looks at.
pub async fn run(
    pool: PgPool,
    metrics: PrometheusHandle,
    backlog_full: Arc<AtomicBool>,
    max_backlog: u64,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ticks: u64 = 0;
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        if let Err(error) = sample(&pool, &backlog_full, max_backlog).await {
            tracing::warn!(%error, "the state of the whole cannot be sampled");
        }
        ticks += 1;
        if ticks.is_multiple_of(5) {
            // Folds what the histograms gathered; without it they grow until somebody scrapes.
            metrics.run_upkeep();
        }
    }
}

async fn sample(pool: &PgPool, backlog_full: &AtomicBool, max_backlog: u64) -> Result<(), StoreError> {
    let backlog = intake::backlog(pool, max_backlog.saturating_add(1)).await?;
    backlog_full.store(backlog > max_backlog, Ordering::Relaxed);
    let lags = reads::status::lags(pool).await?;
    metrics::gauge!("omnirelay_outbox_pending").set(lags.outbox_pending as f64);
    metrics::gauge!("omnirelay_outbox_lag_seconds").set(lags.outbox_lag_seconds);
    metrics::gauge!("omnirelay_audit_lag_seconds").set(lags.audit_lag_seconds);
    Ok(())
}
