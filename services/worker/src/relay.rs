//! The one relay: gives events their positions and publishes them, in order, for ever.
//!
//! One worker holds the lease; its fencing number guards every position. A message's sequence in the stream *is* its
//! position, so a stream that vanished, was wiped or went back in time is seen at once and refilled from PostgreSQL. Nothing
//! is remembered beyond the last position that the stream holds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::message::PublishMessage;
use omnirelay_bus::{Bus, BusError, StreamOptions};
use omnirelay_contract::subject;
use omnirelay_runtime::retry::Backoff;
use omnirelay_store::events::{self, Positioned};
use omnirelay_store::reads::watermark;
use omnirelay_store::{PgPool, StoreError, leases};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

const LEASE: &str = "relay";
const LEASE_SECS: f64 = 2.5;
const RENEW: Duration = Duration::from_millis(800);
/// Events written by others (ingresses, other workers) are found this late at most while things happen.
const BUSY_LOOK: Duration = Duration::from_millis(10);
const IDLE_LOOK: Duration = Duration::from_millis(100);
const RECORD: Duration = Duration::from_millis(200);
const BATCH: i64 = 1_000;

pub struct Relay {
    pub instance: String,
    pub pool: PgPool,
    pub bus: Bus,
    pub streams: StreamOptions,
    pub published: Arc<Notify>,
}

#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// The holder's state. Lost with the lease.
struct Leader {
    fence: i64,
    renewed: Instant,
    /// The last position that the stream holds; none while the stream has not been looked at.
    published: Option<u64>,
    /// What the watermark says of that.
    recorded: u64,
    recorded_at: Instant,
    /// The bus is not asked again before this.
    bus_pause: Option<Instant>,
    backoff: Backoff,
}

impl Relay {
    pub async fn run(self, shutdown: CancellationToken) {
        let mut leader: Option<Leader> = None;
        while !shutdown.is_cancelled() {
            let pause = match self.turn(&mut leader).await {
                Ok(pause) => pause,
                Err(error) => {
                    tracing::debug!(%error, "the relay waits");
                    Duration::from_millis(250)
                }
            };
            if pause.is_zero() {
                continue;
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.published.notified(), if leader.is_some() => {
                    // A little linger makes one batch of what comes together; nobody waits for it.
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
        if leader.is_some()
            && let Err(error) = leases::release(&self.pool, LEASE, &self.instance).await
        {
            tracing::debug!(%error, "the relay's lease runs out by itself");
        }
    }

    /// One turn; how long to wait for the next if nothing happens before.
    async fn turn(&self, leader: &mut Option<Leader>) -> Result<Duration, RelayError> {
        let fresh = leader.as_ref().is_some_and(|leader| leader.renewed.elapsed() < RENEW);
        if !fresh {
            let started = Instant::now();
            match leases::take(&self.pool, LEASE, &self.instance, LEASE_SECS).await? {
                Some(fence) => match leader {
                    Some(leader) if leader.fence == fence => leader.renewed = started,
                    _ => {
                        tracing::info!(fence, "this worker relays events");
                        *leader = Some(Leader {
                            fence,
                            renewed: started,
                            published: None,
                            recorded: 0,
                            recorded_at: started,
                            bus_pause: None,
                            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(2)),
                        });
                    }
                },
                None => *leader = None,
            }
        }
        let Some(leader) = leader else { return Ok(Duration::from_millis(500)) };
        let positioned = match events::position(&self.pool, BATCH, &self.instance, leader.fence).await {
            Ok(positioned) => positioned,
            Err(error) => {
                // It may have been committed all the same: what is published is compared with the record again.
                leader.published = None;
                return Err(error.into());
            }
        };
        if !positioned.is_empty() {
            metrics::histogram!("omnirelay_batch_size", "stage" => "relay").record(positioned.len() as f64);
        }
        let full = positioned.len() as i64 == BATCH;
        let any = !positioned.is_empty();
        // Positions are given whether or not there is a bus: the streams of the API go on from PostgreSQL.
        if leader.bus_pause.is_none_or(|until| until <= Instant::now()) {
            match self.publish(leader, positioned).await {
                Ok(()) => {
                    leader.backoff.reset();
                    leader.bus_pause = None;
                }
                Err(error) => {
                    tracing::debug!(%error, "events wait for the bus");
                    leader.published = None;
                    leader.bus_pause = Some(Instant::now() + leader.backoff.pause());
                }
            }
        }
        Ok(match (full, any) {
            (true, _) => Duration::ZERO,
            (false, true) => BUSY_LOOK,
            (false, false) => IDLE_LOOK,
        })
    }

    /// Publishes what was positioned now, or everything behind the stream's end if that is not the same.
    async fn publish(&self, leader: &mut Leader, positioned: Vec<Positioned>) -> Result<(), RelayError> {
        let known = leader.published.is_some();
        let mut last = match leader.published {
            Some(last) => last,
            None => self.look_at_stream().await?,
        };
        leader.published = Some(last);
        if positioned.first().is_some_and(|first| first.position == last + 1) {
            last = self.send(last, &positioned).await?;
            leader.published = Some(last);
        }
        let head = match positioned.last() {
            Some(event) => event.position,
            None if known && leader.bus_pause.is_none() => last,
            None => watermark(&self.pool, "positioned").await?,
        };
        while last < head {
            let missing = events::behind(&self.pool, last, BATCH).await?;
            if missing.is_empty() {
                break;
            }
            last = self.send(last, &missing).await?;
            leader.published = Some(last);
        }
        // For people who look at lags, not for the relay: the stream itself says where it ends.
        if leader.recorded != last && leader.recorded_at.elapsed() >= RECORD {
            events::published(&self.pool, last).await?;
            leader.recorded = last;
            leader.recorded_at = Instant::now();
        }
        Ok(())
    }

    /// Finds the stream's end, and makes the stream where it is missing. Its next sequence is the next position.
    async fn look_at_stream(&self) -> Result<u64, RelayError> {
        let head = watermark(&self.pool, "positioned").await?;
        let first = events::first(&self.pool).await?.unwrap_or(head + 1);
        let stream = self.bus.ensure_events(self.streams, first).await?;
        if stream.last_sequence > head {
            // PostgreSQL is the truth; a stream that is ahead of it tells of a past that was taken back.
            tracing::warn!(
                stream = stream.last_sequence,
                head,
                "the event stream is ahead of the record and is rebuilt"
            );
            self.bus.drop_events().await?;
            let stream = self.bus.ensure_events(self.streams, first).await?;
            return Ok(stream.last_sequence);
        }
        if stream.last_sequence + 1 < first {
            tracing::warn!(stream = stream.last_sequence, first, "events between are gone; the stream is rebuilt");
            self.bus.drop_events().await?;
            let stream = self.bus.ensure_events(self.streams, first).await?;
            return Ok(stream.last_sequence);
        }
        Ok(stream.last_sequence)
    }

    /// Publishes in one flush and waits for all acknowledgements. Each message expects the one before it, so that two relays,
    /// or a repeated attempt, cannot double or reorder anything.
    async fn send(&self, last: u64, events: &[Positioned]) -> Result<u64, RelayError> {
        let jetstream = self.bus.jetstream();
        let mut acknowledgements = Vec::with_capacity(events.len());
        let mut expected = last;
        for event in events {
            let mut headers = HeaderMap::new();
            headers.insert(subject::HEADER_POSITION, event.position.to_string().as_str());
            let message = PublishMessage::build()
                .payload(event.payload.clone().into())
                .headers(headers)
                .message_id(event.id.to_string())
                .expected_last_sequence(expected);
            let acknowledgement = jetstream
                .send_publish(event.nats_subject.clone(), message)
                .await
                .map_err(|error| BusError::JetStream(error.to_string()))?;
            acknowledgements.push((event.position, acknowledgement));
            expected = event.position;
        }
        for (position, acknowledgement) in acknowledgements {
            let acknowledged = acknowledgement.await.map_err(|error| BusError::JetStream(error.to_string()))?;
            if acknowledged.sequence != position {
                let detail = format!("position {position} became sequence {}", acknowledged.sequence);
                return Err(RelayError::Bus(BusError::JetStream(detail)));
            }
        }
        Ok(expected)
    }
}
