//! Who has not been heard of. One worker judges at a time, and only one that would have heard: an outage of ours, of the bus or
//! of the database, makes nobody unreachable.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use omnirelay_store::{StoreError, events, leases, observed};
use omnirelay_workflow::OperationId;
use omnirelay_workflow::resource::Health;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{ObserverOptions, news, wake};

const LEASE: &str = "judge";
const LEASE_SECS: f64 = 5.0;
/// How often it is looked, at most: a tenth of the time-out where that is shorter.
const TICK: Duration = Duration::from_secs(1);
/// A process that slept this long was not there to hear.
const SLEPT: Duration = Duration::from_secs(4);
/// Ticks between two counts of all peers.
const COUNT_EVERY: u64 = 10;
/// How many peers one transaction judges.
const LIMIT: i64 = 1_000;

/// Since when heartbeats have been received and written without interruption.
#[derive(Debug)]
pub struct Steady {
    since: Mutex<Instant>,
}

impl Steady {
    pub fn new() -> Self {
        Self { since: Mutex::new(Instant::now()) }
    }

    /// Something was in the way just now.
    pub fn interrupted(&self) {
        *self.lock() = Instant::now();
    }

    fn for_at_least(&self, time: Duration) -> bool {
        self.lock().elapsed() >= time
    }

    fn lock(&self) -> MutexGuard<'_, Instant> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Judges until `shutdown`.
pub async fn run(options: &ObserverOptions, steady: &Steady, shutdown: &CancellationToken) {
    let holder = format!("observer-{}", Uuid::new_v4().simple());
    let mut judge = Judge { options, holder, holding: false, connects: 0, ticks: 0 };
    let mut timeout = options.settings.seen().settings.heartbeat.timeout;
    let mut ticker = tokio::time::interval(TICK.min(timeout / 10).max(Duration::from_millis(10)));
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    while shutdown.run_until_cancelled(ticker.tick()).await.is_some() {
        if last.elapsed() > SLEPT || !judge.stayed_connected() {
            steady.interrupted();
        }
        last = Instant::now();
        match options.settings.fresh(&options.pool).await {
            Ok(settings) => timeout = settings.settings.heartbeat.timeout,
            Err(error) => tracing::debug!(%error, "the settings cannot be read: what was seen last holds"),
        }
        let look = judge.look(timeout, steady.for_at_least(timeout), shutdown);
        match shutdown.run_until_cancelled(look).await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                steady.interrupted();
                tracing::warn!(%error, "peers cannot be judged");
            }
            None => break,
        }
    }
    judge.let_go().await;
}

struct Judge<'a> {
    options: &'a ObserverOptions,
    holder: String,
    holding: bool,
    /// How often the bus has connected so far: a reconnect between two looks counts as well.
    connects: u64,
    ticks: u64,
}

impl Judge<'_> {
    fn stayed_connected(&mut self) -> bool {
        let bus = &self.options.bus;
        let connects = bus.client().statistics().connects.load(Ordering::Relaxed);
        let stayed = bus.is_connected() && connects == self.connects;
        self.connects = connects;
        stayed
    }

    async fn look(&mut self, timeout: Duration, able: bool, shutdown: &CancellationToken) -> Result<(), StoreError> {
        if !able {
            self.let_go().await;
            return Ok(());
        }
        let pool = &self.options.pool;
        let Some(fence) = leases::take(pool, LEASE, &self.holder, LEASE_SECS).await? else {
            self.forget();
            return Ok(());
        };
        self.holding = true;
        let concerned = self.judge(timeout, fence).await?;
        wake(self.options, &concerned, shutdown).await;
        if self.ticks.is_multiple_of(COUNT_EVERY) {
            gauges(&observed::by_health(pool).await?);
        }
        self.ticks += 1;
        Ok(())
    }

    /// One transaction; returns the operations that may wait for those peers.
    async fn judge(&self, timeout: Duration, fence: i64) -> Result<Vec<OperationId>, StoreError> {
        let options = self.options;
        let unreachable = timeout.as_secs_f64();
        let mut transaction = options.pool.begin().await?;
        let judged =
            observed::judge(&mut transaction, &self.holder, fence, unreachable / 2.0, unreachable, LIMIT).await?;
        if judged.is_empty() {
            transaction.rollback().await?;
            return Ok(Vec::new());
        }
        let news = judged
            .iter()
            .map(|j| news::health(&j.peer, j.health, j.was, j.last_seen))
            .collect::<Result<Vec<_>, _>>()?;
        events::insert(&mut transaction, &news).await?;
        let peers: Vec<&str> = judged.iter().map(|j| j.peer.as_str()).collect();
        let mut clusters: Vec<&str> = judged.iter().map(|j| j.cluster.as_str()).collect();
        clusters.sort_unstable();
        clusters.dedup();
        let concerned = observed::concerned(&mut transaction, &peers, &clusters).await?;
        transaction.commit().await?;
        options.published.notify_one();
        tracing::info!(count = judged.len(), first = %judged[0].peer, "peers were not heard of");
        Ok(concerned)
    }

    /// Lets another worker judge at once.
    async fn let_go(&mut self) {
        if self.holding {
            if let Err(error) = leases::release(&self.options.pool, LEASE, &self.holder).await {
                tracing::debug!(%error, "the judge's lease is left to expire");
            }
            self.forget();
        }
    }

    /// The sum over all workers shall be the number of peers.
    fn forget(&mut self) {
        if self.holding {
            gauges(&[]);
        }
        self.holding = false;
        self.ticks = 0;
    }
}

fn gauges(counts: &[(String, i64)]) {
    for health in Health::ALL {
        let count = counts.iter().find(|(word, _)| word == health.as_str()).map_or(0, |(_, count)| *count);
        metrics::gauge!("omnirelay_agents", "health" => health.as_str()).set(count as f64);
    }
}
