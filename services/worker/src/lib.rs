//! The worker: takes inputs in batches, runs the workflows' steps, commands agents, relays events.
//!
//! ```text
//!  OMNI_REQUESTS ──wake──┐                        ┌─▶ dispatch ──▶ agents ──▶ OMNI_REPORTS ─┐
//!  OMNI_REPORTS ─report──┼─▶ apply (one batch, ───┤                                          │
//!  poll, timers ──wake───┤    one transaction)    ├─▶ relay ──▶ OMNI_EVENTS                  │
//!  heartbeats ──observe──┘          ▲             └─▶ omni.v1.done.<ingress>                 │
//!                                   └────────────────────────────────────────────────────────┘
//! ```
//!
//! Nothing of a workflow lives in memory between inputs. Several workers side by side are correct: rows are locked, always
//! in the order operations, mesh, clusters, peers, workloads, each by id.

mod apply;
mod batch;
mod bulks;
mod dispatch;
mod drains;
mod edits;
mod events;
mod failovers;
mod gauges;
mod inputs;
mod lifecycle;
mod load;
pub mod observe;
mod quick;
mod reconcile;
mod records;
mod relay;
mod resolving;
mod telling;

use std::sync::Arc;
use std::time::Duration;

use omnirelay_bus::{Bus, StreamOptions};
use omnirelay_store::PgPool;
use omnirelay_store::live::LiveSettings;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a worker needs.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Its name in leases and logs; unique among the workers.
    pub instance: String,
    /// Hot statements: a pool with `index_scans_only`.
    pub pool: PgPool,
    pub bus: Bus,
    pub streams: StreamOptions,
    pub settings: LiveSettings,
    /// How long events are kept for those who resume.
    pub events_retention: Duration,
}

/// Runs until `shutdown`; returns when everything in flight has ended.
pub async fn run(options: WorkerOptions, shutdown: CancellationToken) {
    let published = Arc::new(Notify::new());
    let (work_tx, work_rx) = mpsc::channel(8_192);
    let (dispatch_tx, dispatch_rx) = mpsc::channel(8_192);
    let (wake_tx, wake_rx) = mpsc::channel(1_024);

    let tasks = TaskTracker::new();
    let applier = apply::Applier {
        pool: options.pool.clone(),
        bus: options.bus.clone(),
        settings: options.settings.clone(),
        dispatch: dispatch_tx,
        work: work_tx.clone(),
        published: published.clone(),
    };
    tasks.spawn(applier.run(work_rx, shutdown.clone()));
    tasks.spawn(inputs::requests(options.bus.clone(), options.streams, work_tx.clone(), shutdown.clone()));
    tasks.spawn(inputs::reports(options.bus.clone(), options.streams, work_tx.clone(), shutdown.clone()));
    tasks.spawn(inputs::poll(options.pool.clone(), work_tx.clone(), shutdown.clone()));
    tasks.spawn(inputs::wakes(wake_rx, work_tx.clone(), shutdown.clone()));
    let dispatcher =
        dispatch::Dispatcher { pool: options.pool.clone(), bus: options.bus.clone(), work: work_tx.clone() };
    tasks.spawn(dispatcher.run(dispatch_rx, shutdown.clone()));
    let relay = relay::Relay {
        instance: options.instance.clone(),
        pool: options.pool.clone(),
        bus: options.bus.clone(),
        streams: options.streams,
        published: published.clone(),
    };
    tasks.spawn(relay.run(shutdown.clone()));
    let observer = observe::ObserverOptions {
        pool: options.pool.clone(),
        bus: options.bus.clone(),
        settings: options.settings.clone(),
        wake: wake_tx,
        published,
    };
    tasks.spawn(observe::run(observer, shutdown.clone()));
    tasks.spawn(gauges::run(options.pool.clone(), options.bus.clone(), shutdown.clone()));
    tasks.spawn(reconcile::run(options.pool, work_tx, options.events_retention, shutdown));
    tasks.close();
    tasks.wait().await;
}
