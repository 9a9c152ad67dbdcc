//! The reconciler: wakes what nothing else would, prunes what nobody needs.

use std::time::Duration;

use omnirelay_store::{PgPool, StoreError, events, operations};
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
    // Whoever frees a slot wakes its queue, but not somebody who came into it at the same moment; and a peer that is healthy again
    // frees one as well, and says so to nobody in particular.
    let mut connection = pool.acquire().await.map_err(StoreError::from)?;
    let queues = operations::queues(&mut connection).await?;
    if !queues.is_empty() {
        for id in operations::wake_queues(&mut connection, &queues).await? {
            let _ = work.send(Work::Wake(id)).await;
        }
    }
    drop(connection);
    while events::prune(pool, retention.as_secs_f64()).await? == 1_000 {}
    Ok(())
}
