//! The reconciler: wakes what nothing else would, prunes what nobody needs, and counts.

use std::time::Duration;

use omnirelay_store::{PgPool, StoreError, events, operations};
use omnirelay_workflow::operation::{State, Verb};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::inputs::Work;

const EVERY: Duration = Duration::from_secs(5);

pub async fn run(pool: PgPool, work: mpsc::Sender<Work>, retention: Duration, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if let Err(error) = once(&pool, &work, retention).await {
            tracing::debug!(%error, "the reconciler waits");
        }
    }
}

async fn once(pool: &PgPool, work: &mpsc::Sender<Work>, retention: Duration) -> Result<(), StoreError> {
    for id in operations::forgotten(pool).await? {
        tracing::warn!(operation = %id, "an operation made no progress and nothing would wake it");
        let _ = work.send(Work::Wake(id)).await;
    }
    // Whoever frees a slot wakes its queue, but not somebody who came into it at the same moment.
    let mut connection = pool.acquire().await?;
    let queues = operations::queues(&mut connection).await?;
    if !queues.is_empty() {
        for id in operations::wake_queued(&mut connection, &queues).await? {
            let _ = work.send(Work::Wake(id)).await;
        }
    }
    drop(connection);
    while events::prune(pool, retention.as_secs_f64()).await? == 1_000 {}
    let counts = operations::by_state(pool).await?;
    for verb in Verb::ALL {
        for state in State::ALL.iter().filter(|state| !state.is_terminal() || **state == State::Stuck) {
            let is_it = |(v, s, _): &&(String, String, i64)| v == verb.as_str() && s == state.as_str();
            let count = counts.iter().find(is_it).map_or(0, |(_, _, count)| *count);
            metrics::gauge!("omnirelay_operations", "verb" => verb.as_str(), "state" => state.as_str())
                .set(count as f64);
        }
    }
    let (pending, age) = events::lag(pool).await?;
    metrics::gauge!("omnirelay_outbox_pending").set(pending as f64);
    metrics::gauge!("omnirelay_outbox_lag_seconds").set(age);
    Ok(())
}
