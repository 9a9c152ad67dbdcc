//! The service: receives, appends, acknowledges, mirrors, signs, until it is told to stop.

use std::path::PathBuf;
use std::time::Duration;

use omnirelay_bus::Bus;
use omnirelay_runtime::retry::Backoff;
use omnirelay_store::audit as store;
use omnirelay_store::{PgPool, StoreError};
use omnirelay_workflow::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::SigningKey;
use crate::appender::{Appended, Appender, Incoming, incoming_from_bus};
use crate::checkpoints::Checkpoints;
use crate::mirror::Mirror;
use crate::source::{Received, Source};

/// What the service needs. The schema is there; the stream may come later, go and come back.
#[derive(Debug, Clone)]
pub struct AuditOptions {
    pub pool: PgPool,
    pub bus: Bus,
    /// Where `audit.jsonl` and its predecessors are; none: no files.
    pub log_dir: Option<PathBuf>,
    pub signing_key: SigningKey,
    /// A log file that is larger is closed, and a new one begun.
    pub rotate_bytes: u64,
    pub checkpoint_every: CheckpointEvery,
}

/// A checkpoint is signed when there are so many new records, or some and so much time has passed.
#[derive(Debug, Clone, Copy)]
pub struct CheckpointEvery {
    pub records: u64,
    pub time: Duration,
}

impl Default for CheckpointEvery {
    fn default() -> Self {
        Self { records: 10_000, time: Duration::from_secs(10) }
    }
}

/// Runs until `shutdown`. Neither a database nor a bus that is away ends it.
pub async fn run(options: AuditOptions, shutdown: CancellationToken) -> anyhow::Result<()> {
    let source = Source::start(options.bus.jetstream().clone(), shutdown.clone());
    let mut service = Service {
        appender: Appender::new(options.pool.clone()),
        mirror: Mirror::new(options.log_dir, options.rotate_bytes),
        checkpoints: Checkpoints::new(options.signing_key, options.checkpoint_every),
        pool: options.pool,
        bus: options.bus,
        end: End { seq: 0, hash: String::new() },
    };
    service.receive_until(source, &shutdown).await;
    service.close().await;
    Ok(())
}

/// Without messages for so long, the service asks the database whether there is anything that the bus did not bring.
const IDLE: Duration = Duration::from_millis(250);

struct Service {
    pool: PgPool,
    bus: Bus,
    appender: Appender,
    mirror: Mirror,
    checkpoints: Checkpoints,
    end: End,
}

/// The last record that this service knows to be committed.
struct End {
    seq: u64,
    hash: String,
}

impl Service {
    async fn receive_until(&mut self, mut source: Source, shutdown: &CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut failing = false;
        let mut incoming = Vec::new();
        // Before the first event: files that a crash left behind are filled.
        let mut look = true;
        loop {
            let done = async {
                if incoming.is_empty() && !look {
                    let received = source.receive(IDLE).await;
                    look = received.is_empty();
                    take_in(&received, &mut incoming);
                    self.append_all(&mut incoming).await?;
                    source.acknowledge(received).await;
                } else {
                    self.append_all(&mut incoming).await?;
                }
                if look {
                    self.look_into_database().await?;
                    look = false;
                }
                self.sign_if_due().await
            };
            let Some(done) = shutdown.run_until_cancelled(done).await else { return };
            match done {
                Ok(()) => {
                    if failing {
                        failing = false;
                        backoff.reset();
                        tracing::info!("the audit goes on");
                    }
                }
                Err(error) => {
                    let pause = backoff.pause();
                    if !failing {
                        failing = true;
                        tracing::error!(%error, "the audit cannot write its log; it keeps trying");
                    }
                    // What was received and not acknowledged comes again, or is read from the database.
                    look = true;
                    if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    /// Appends what came. A gap in it is filled from the database.
    async fn append_all(&mut self, incoming: &mut Vec<Incoming>) -> Result<(), StoreError> {
        while !incoming.is_empty() {
            let appended = self.appender.append(incoming).await?;
            self.committed(appended).await?;
        }
        Ok(())
    }

    /// Takes from the database what the bus did not bring, and lets the mirror see what others have appended.
    async fn look_into_database(&mut self) -> Result<(), StoreError> {
        loop {
            let head = store::head(&self.pool).await?;
            self.end = End { seq: head.seq, hash: head.hash };
            if head.positioned <= head.position {
                metrics::gauge!("omnirelay_audit_lag_seconds").set(0.0);
                break;
            }
            let mut incoming = Vec::new();
            let appended = self.appender.append(&mut incoming).await?;
            let moved = appended.moved;
            self.committed(appended).await?;
            self.append_all(&mut incoming).await?;
            self.sign_if_due().await?;
            if !moved {
                break;
            }
        }
        self.mirror.catch_up(&self.pool, self.end.seq).await
    }

    async fn committed(&mut self, appended: Appended) -> Result<(), StoreError> {
        if let Some(newest) = appended.newest {
            let lag = Timestamp::now().duration_since(newest).as_secs_f64().max(0.0);
            metrics::gauge!("omnirelay_audit_lag_seconds").set(lag);
            metrics::histogram!("omnirelay_batch_size", "stage" => "audit").record(appended.records as f64);
            self.end = End { seq: appended.last_seq, hash: appended.hash };
            self.mirror.append(&self.pool, appended.first_seq, appended.last_seq, appended.lines).await?;
        }
        Ok(())
    }

    async fn sign_if_due(&mut self) -> Result<(), StoreError> {
        if self.checkpoints.is_due(self.end.seq, Instant::now()) {
            self.sign().await?;
        }
        Ok(())
    }

    async fn sign(&mut self) -> Result<(), StoreError> {
        let checkpoint = self.checkpoints.sign(&self.pool, &self.bus, self.end.seq, &self.end.hash).await?;
        if let Some(checkpoint) = checkpoint {
            self.mirror.append_checkpoint(&self.pool, checkpoint).await?;
        }
        Ok(())
    }

    /// The last checkpoint. A database that is away must not hold up the end.
    async fn close(mut self) {
        let last = async {
            // A batch may have been committed in the moment of the stop.
            let head = store::head(&self.pool).await?;
            self.end = End { seq: head.seq, hash: head.hash };
            self.mirror.catch_up(&self.pool, self.end.seq).await?;
            self.mirror.append_late_checkpoint(&self.pool).await?;
            if self.checkpoints.is_new(self.end.seq) {
                self.sign().await?;
            }
            Ok::<_, StoreError>(())
        };
        match tokio::time::timeout(Duration::from_secs(5), last).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the audit stops without a last checkpoint"),
            Err(_) => tracing::warn!("the audit stops without a last checkpoint: the database does not answer"),
        }
    }
}

fn take_in(received: &Received, incoming: &mut Vec<Incoming>) {
    incoming.extend(received.messages.iter().filter_map(incoming_from_bus));
    metrics::gauge!("omnirelay_consumer_pending", "consumer" => "audit").set(received.pending as f64);
}
