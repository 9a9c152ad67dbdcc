//! What is counted every other second rather than told when it changes: operations by state, open gates, the outbox, what the bus
//! still holds for us. Every worker tells the same, since all of it is read from the record and the bus.

use std::time::Duration;

use omnirelay_bus::Bus;
use omnirelay_store::{PgPool, StoreError, events, operations};
use omnirelay_workflow::operation::{State, Verb};
use tokio_util::sync::CancellationToken;

use crate::inputs::{CONSUMERS, pending};

const EVERY: Duration = Duration::from_secs(2);

pub async fn run(pool: PgPool, bus: Bus, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if let Err(error) = record(&pool).await {
            tracing::debug!(%error, "the record cannot be counted");
        }
        for consumer in CONSUMERS {
            match pending(&bus, consumer).await {
                Ok(pending) => {
                    let gauge = metrics::gauge!("omnirelay_consumer_pending", "consumer" => consumer.name);
                    gauge.set(pending as f64);
                }
                Err(error) => tracing::debug!(consumer = consumer.name, %error, "a consumer cannot be counted"),
            }
        }
    }
}

async fn record(pool: &PgPool) -> Result<(), StoreError> {
    let counts = operations::by_state(pool).await?;
    for verb in Verb::ALL {
        for state in State::ALL.iter().filter(|state| !state.is_terminal() || **state == State::Stuck) {
            let is_it = |(v, s, _): &&(String, String, i64)| v == verb.as_str() && s == state.as_str();
            let count = counts.iter().find(is_it).map_or(0, |(_, _, count)| *count);
            metrics::gauge!("omnirelay_operations", "verb" => verb.as_str(), "state" => state.as_str())
                .set(count as f64);
        }
    }
    let gates: i64 = counts.iter().filter(|(_, s, _)| s == State::AwaitingApproval.as_str()).map(|(_, _, n)| n).sum();
    metrics::gauge!("omnirelay_approvals_pending").set(gates as f64);
    let (pending, age) = events::lag(pool).await?;
    metrics::gauge!("omnirelay_outbox_pending").set(pending as f64);
    metrics::gauge!("omnirelay_outbox_lag_seconds").set(age);
    Ok(())
}
