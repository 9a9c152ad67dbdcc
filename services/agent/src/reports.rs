//! What became of commands, told to the control plane through JetStream until the stream has acknowledged it.
//!
//! The stream belongs to the control plane and may not exist yet, or be out of reach for hours. Memory stays bounded: of a
//! command only the newest interim report is kept; a final one always, and it replaces interim ones. Reports of one command keep
//! their order (the next is sent when the one before was acknowledged), those of different commands are pipelined.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use omnirelay_contract::agent::Report;
use omnirelay_contract::subject;
use omnirelay_workflow::{CommandId, PeerId};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::journal::{Journal, is_final};

/// How many reports may be on their way at once.
const WINDOW: usize = 512;
const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after a failure, doubling up to the maximum.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// The outbox of reports. Clones share it.
#[derive(Clone, Default)]
pub struct Reports(Arc<Outbox>);

#[derive(Default)]
struct Outbox {
    queue: Mutex<Queue>,
    added: Notify,
    drained: Notify,
}

type Key = (PeerId, CommandId);

#[derive(Default)]
struct Queue {
    commands: HashMap<Key, Pending>,
    /// Commands with something to send and nothing on its way.
    ready: VecDeque<Key>,
}

struct Pending {
    journal: Arc<Journal>,
    sending: Option<Report>,
    next: Option<Report>,
}

impl Reports {
    /// Queues a report. When a final one is acknowledged, the journal hears of it.
    pub fn send(&self, journal: &Arc<Journal>, report: Report) {
        self.lock().push(journal, report);
        self.0.added.notify_one();
    }

    /// Resolves when everything was acknowledged.
    pub async fn drained(&self) {
        loop {
            let drained = self.0.drained.notified();
            if self.lock().commands.is_empty() {
                return;
            }
            drained.await;
        }
    }

    /// Publishes until `stop`.
    pub async fn publish(&self, client: async_nats::Client, stop: CancellationToken) {
        let context = jetstream::ContextBuilder::new()
            .ack_timeout(ACK_TIMEOUT)
            .max_ack_inflight(2 * WINDOW)
            .build(client.clone());
        let mut sending = FuturesUnordered::new();
        let mut failing: Option<Failing> = None;
        loop {
            // While it fails, one report at a time finds out whether it works again.
            let window = if failing.is_some() { 1 } else { WINDOW };
            let paused = failing.as_ref().map(|f| f.until).filter(|until| *until > Instant::now());
            while sending.len() < window && paused.is_none() {
                let Some((key, report)) = self.lock().take() else { break };
                sending.push(publish_one(&context, key, report));
            }
            tokio::select! {
                () = stop.cancelled() => return,
                Some((key, result)) = sending.next(), if !sending.is_empty() => match result {
                    Ok(()) => {
                        if failing.take().is_some() {
                            tracing::info!("reports reach the stream again");
                        }
                        self.acknowledged(&key);
                    }
                    Err(error) => {
                        self.lock().put_back(&key);
                        failing = Some(Failing::again(failing, &error));
                    }
                },
                () = self.0.added.notified(), if sending.len() < window && paused.is_none() => {}
                () = tokio::time::sleep_until(paused.unwrap_or_else(Instant::now)), if paused.is_some() => {}
            }
        }
    }

    fn acknowledged(&self, key: &Key) {
        let mut queue = self.lock();
        let told = queue.acknowledged(key);
        let empty = queue.commands.is_empty();
        drop(queue);
        if let Some(journal) = told {
            journal.told(&key.0, &key.1);
        }
        if empty {
            self.0.drained.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn publish_one(context: &jetstream::Context, key: Key, report: Report) -> (Key, Result<(), String>) {
    let result = async {
        let payload = serde_json::to_vec(&report).map_err(|error| error.to_string())?;
        let ack = context
            .publish(subject::report(&report.peer, "command"), Bytes::from(payload))
            .await
            .map_err(|error| error.to_string())?;
        ack.await.map_err(|error| error.to_string())?;
        Ok(())
    };
    let result = result.await;
    (key, result)
}

/// The stream cannot be reached since a while.
struct Failing {
    pause: Duration,
    until: Instant,
    since: Instant,
}

impl Failing {
    fn again(before: Option<Failing>, error: &str) -> Self {
        let now = Instant::now();
        match before {
            // Those that were on their way together fail together.
            Some(failing) if failing.until > now => failing,
            Some(failing) => {
                let pause = (failing.pause * 2).min(PAUSE.1);
                tracing::debug!(error, failing_s = failing.since.elapsed().as_secs(), "reports still wait");
                Self { pause, until: now + pause, since: failing.since }
            }
            None => {
                tracing::warn!(error, "reports do not reach the stream, they wait");
                Self { pause: PAUSE.0, until: now + PAUSE.0, since: now }
            }
        }
    }
}

impl Queue {
    fn push(&mut self, journal: &Arc<Journal>, report: Report) {
        let key = (report.peer.clone(), report.command.clone());
        let pending = self.commands.entry(key.clone()).or_insert_with(|| Pending {
            journal: journal.clone(),
            sending: None,
            next: None,
        });
        let waits = pending.next.is_some();
        if pending.next.as_ref().is_some_and(|next| is_final(&next.outcome)) && !is_final(&report.outcome) {
            return;
        }
        pending.next = Some(report);
        if pending.sending.is_none() && !waits {
            self.ready.push_back(key);
        }
    }

    fn take(&mut self) -> Option<(Key, Report)> {
        loop {
            let key = self.ready.pop_front()?;
            let Some(pending) = self.commands.get_mut(&key) else { continue };
            if let Some(report) = pending.next.take() {
                pending.sending = Some(report.clone());
                return Some((key, report));
            }
        }
    }

    /// Gives the journal to tell when it was a final report.
    fn acknowledged(&mut self, key: &Key) -> Option<Arc<Journal>> {
        let pending = self.commands.get_mut(key)?;
        let told = pending.sending.take().filter(|report| is_final(&report.outcome)).map(|_| pending.journal.clone());
        if pending.next.is_some() {
            self.ready.push_back(key.clone());
        } else {
            self.commands.remove(key);
        }
        told
    }

    /// Not acknowledged: it is sent again, unless something newer waits.
    fn put_back(&mut self, key: &Key) {
        let Some(pending) = self.commands.get_mut(key) else { return };
        if let Some(report) = pending.sending.take()
            && (pending.next.is_none() || is_final(&report.outcome))
        {
            pending.next = Some(report);
        }
        self.ready.push_front(key.clone());
    }
}

#[cfg(test)]
mod tests {
    use omnirelay_contract::agent::Outcome;
    use omnirelay_workflow::Timestamp;

    use super::*;

    fn report(id: &str, outcome: Outcome) -> Report {
        let command = CommandId::parse(id).unwrap();
        Report { command, peer: PeerId::parse("p1").unwrap(), at: Timestamp::UNIX_EPOCH, outcome }
    }

    fn busy(n: u64) -> Outcome {
        Outcome::Busy { remaining: Some(n), message: String::new() }
    }

    #[test]
    fn the_newest_interim_and_every_final_report_are_kept_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Arc::new(Journal::open(&folder.path().join("j"), u64::MAX).unwrap());
        let mut queue = Queue::default();
        queue.push(&journal, report("c1", busy(3)));
        queue.push(&journal, report("c1", busy(2)));
        let (key, first) = queue.take().unwrap();
        assert_eq!(first.outcome, busy(2), "the older interim report is gone");
        assert!(queue.take().is_none());

        queue.push(&journal, report("c1", busy(1)));
        queue.push(&journal, report("c1", Outcome::Done));
        queue.push(&journal, report("c1", busy(0)));
        assert!(queue.take().is_none(), "one at a time");
        queue.put_back(&key);
        let (key, second) = queue.take().unwrap();
        assert_eq!(second.outcome, Outcome::Done, "what failed was overtaken");
        queue.put_back(&key);
        let (key, again) = queue.take().unwrap();
        assert_eq!(again.outcome, Outcome::Done, "a final report is never given up");
        assert!(queue.acknowledged(&key).is_some());
        assert!(queue.commands.is_empty() && queue.take().is_none());
    }
}
