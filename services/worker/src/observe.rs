//! Takes what agents say: the registry follows it where nobody has decided otherwise.
//!
//! ```text
//!  heartbeats ──▶ inbox (the latest of each peer) ──▶ batch: what is due? ──▶ one transaction ──▶ wake, publish
//!                                                       │  │                   adopt clusters and peers
//!                               role commands, at once ◀┘  └▶ hold commands    write what was observed, with health
//!  every second ──▶ judge (one worker, by a lease): silent peers                diff: workloads appear, change, go; drift
//! ```
//!
//! Nearly all heartbeats say what the last one said: they cost a read by key, and a write only once in a while so that
//! `lastSeen` stays fresh. The record is read by [`diff`](mod@diff), which is pure, only when there is something new, when something was
//! left open, or after a long time. A heartbeat tells of a moment in the past: what contradicts the record must be seen twice
//! before anything is concluded from it.

mod asking;
mod batch;
mod diff;
mod due;
mod holds;
mod inbox;
mod judge;
mod memory;
mod news;
mod roles;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use omnirelay_bus::Bus;
use omnirelay_store::PgPool;
use omnirelay_store::live::LiveSettings;
use omnirelay_workflow::OperationId;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// What the observer needs.
#[derive(Debug, Clone)]
pub struct ObserverOptions {
    pub pool: PgPool,
    pub bus: Bus,
    /// A peer that is silent for `heartbeat.timeout` is unreachable; for half of it, suspect.
    pub settings: LiveSettings,
    /// Operations to look at now.
    pub wake: mpsc::Sender<OperationId>,
    /// Told after events have been written.
    pub published: Arc<Notify>,
}

/// Observes until `shutdown`.
pub async fn run(options: ObserverOptions, shutdown: CancellationToken) {
    let steady = Arc::new(judge::Steady::new());
    let inbox = Arc::new(inbox::Inbox::default());
    let observer = batch::Observer::new(options.clone(), steady.clone());
    tokio::join!(
        inbox.fill(&options.bus, &shutdown),
        observer.run(&inbox, &shutdown),
        judge::run(&options, &steady, &shutdown),
    );
}

/// Hands operations to the worker. It is a hint: whoever has no room for it finds them by their timers.
async fn wake(options: &ObserverOptions, operations: &[OperationId], shutdown: &CancellationToken) {
    for id in operations {
        if !matches!(shutdown.run_until_cancelled(options.wake.send(*id)).await, Some(Ok(()))) {
            return;
        }
    }
}
