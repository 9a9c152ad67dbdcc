//! The latest heartbeat of each peer. However long the database is away, what waits is bounded by the number of peers, and what
//! is taken then is news.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::Message;
use futures_util::StreamExt;
use omnirelay_bus::{Bus, Subscriber};
use omnirelay_contract::agent::Heartbeat;
use omnirelay_contract::subject;
use omnirelay_runtime::retry::{Backoff, until_done};
use omnirelay_workflow::PeerId;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// How many heartbeats one transaction takes.
pub const BATCH: usize = 500;
/// How long a heartbeat waits for others.
const LINGER: Duration = Duration::from_millis(50);
/// How often refused heartbeats are told of.
const COMPLAINT: Duration = Duration::from_secs(60);

/// A heartbeat and when it came.
#[derive(Debug, Clone)]
pub struct Beat {
    pub heartbeat: Heartbeat,
    pub received: Instant,
}

/// Why a message is not a heartbeat.
#[derive(Debug, thiserror::Error)]
pub enum BadHeartbeat {
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("it speaks for {0}, which is not the peer of its subject")]
    ForAnother(PeerId),
    #[error("it holds a NUL character")]
    Nul,
}

#[derive(Debug, Default)]
pub struct Inbox {
    waiting: Mutex<BTreeMap<PeerId, Beat>>,
    some: Notify,
    full: Notify,
}

impl Inbox {
    /// Receives until `shutdown`.
    pub async fn fill(&self, bus: &Bus, shutdown: &CancellationToken) {
        let mut refused = Refused::default();
        loop {
            let subscribe = || bus.subscribe_shared(subject::ALL_HEARTBEATS, "workers");
            let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
            let subscriber = until_done(shutdown, backoff, subscribe, |error, pause| {
                tracing::warn!(%error, pause_ms = pause.as_millis() as u64, "cannot listen for heartbeats");
            });
            let Some(subscriber) = subscriber.await else { return };
            if shutdown.run_until_cancelled(self.receive(subscriber, &mut refused)).await.is_none() {
                return;
            }
        }
    }

    /// Waits for heartbeats, a moment longer for more of them, and takes all; nothing after `shutdown`.
    pub async fn take(&self, shutdown: &CancellationToken) -> Option<Vec<Beat>> {
        let waited = async {
            self.some.notified().await;
            if self.lock().len() < BATCH {
                // Whether it is full or the time is over: what is there is taken.
                let _ = tokio::time::timeout(LINGER, self.full.notified()).await;
            }
        };
        shutdown.run_until_cancelled(waited).await?;
        Some(std::mem::take(&mut *self.lock()).into_values().collect())
    }

    /// Puts a heartbeat in the place of the peer's older one.
    pub fn put(&self, beat: Beat) {
        let mut waiting = self.lock();
        if let Some(other) = waiting.get(&beat.heartbeat.peer)
            && other.heartbeat.incarnation == beat.heartbeat.incarnation
            && other.heartbeat.seq >= beat.heartbeat.seq
        {
            return;
        }
        waiting.insert(beat.heartbeat.peer.clone(), beat);
        if waiting.len() >= BATCH {
            self.full.notify_one();
        }
        self.some.notify_one();
    }

    async fn receive(&self, mut subscriber: Subscriber, refused: &mut Refused) {
        let mut complaint = tokio::time::interval(COMPLAINT);
        complaint.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = subscriber.next() => {
                    let Some(message) = message else { return };
                    match parse(&message) {
                        Ok(heartbeat) => self.put(Beat { heartbeat, received: Instant::now() }),
                        Err(error) => refused.count(&message, &error),
                    }
                }
                _ = complaint.tick() => refused.tell(),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PeerId, Beat>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse(message: &Message) -> Result<Heartbeat, BadHeartbeat> {
    let heartbeat: Heartbeat = serde_json::from_slice(&message.payload)?;
    // PostgreSQL keeps no NUL in a text: one heartbeat must not spoil the batch that it is in.
    if message.payload.windows(6).any(|six| six == b"\\u0000") {
        return Err(BadHeartbeat::Nul);
    }
    // What an agent may publish to says whom it may speak for.
    if message.subject.rsplit('.').next() != Some(heartbeat.peer.as_str()) {
        return Err(BadHeartbeat::ForAnother(heartbeat.peer));
    }
    Ok(heartbeat)
}

/// Messages that were no heartbeats, since they were last told of.
#[derive(Debug, Default)]
struct Refused {
    count: u64,
    example: Option<(String, String)>,
}

impl Refused {
    fn count(&mut self, message: &Message, error: &BadHeartbeat) {
        metrics::counter!("omnirelay_heartbeats_refused_total").increment(1);
        self.count += 1;
        self.example.get_or_insert_with(|| (message.subject.to_string(), error.to_string()));
    }

    fn tell(&mut self) {
        if let Some((subject, error)) = self.example.take() {
            tracing::warn!(count = self.count, subject, error, "heartbeats were refused; this is the first of them");
        }
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::tests::heartbeat;

    #[tokio::test]
    async fn only_the_latest_of_a_peer_waits() {
        let inbox = Inbox::default();
        for (peer, seq) in [("a", 1), ("a", 3), ("a", 2), ("b", 1)] {
            let heartbeat = Heartbeat { seq, ..heartbeat(peer, "c") };
            inbox.put(Beat { heartbeat, received: Instant::now() });
        }
        let taken = inbox.take(&CancellationToken::new()).await.expect("some wait");
        let seqs: Vec<_> = taken.iter().map(|b| (b.heartbeat.peer.as_str(), b.heartbeat.seq)).collect();
        assert_eq!(seqs, [("a", 3), ("b", 1)]);
    }

    #[test]
    fn a_heartbeat_speaks_for_the_peer_of_its_subject_only() {
        let message = |subject: &str, payload: Vec<u8>| Message {
            subject: subject.into(),
            reply: None,
            length: payload.len(),
            payload: payload.into(),
            headers: None,
            status: None,
            description: None,
        };
        let good = serde_json::to_vec(&heartbeat("a", "c")).expect("serialises");
        assert!(parse(&message("omni.v1.heartbeat.a", good.clone())).is_ok());
        let another = parse(&message("omni.v1.heartbeat.b", good)).expect_err("another peer");
        assert!(matches!(another, BadHeartbeat::ForAnother(_)), "{another}");
        assert!(matches!(parse(&message("omni.v1.heartbeat.a", b"{}".to_vec())), Err(BadHeartbeat::Unreadable(_))));
        let mut nul = heartbeat("a", "c");
        nul.version = "1\0".to_owned();
        let nul = serde_json::to_vec(&nul).expect("serialises");
        assert!(matches!(parse(&message("omni.v1.heartbeat.a", nul)), Err(BadHeartbeat::Nul)));
    }
}
