//! The stream's side: a durable pull consumer, read by a task of its own, so that a bus that is away holds up nobody.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::{self, Message};
use futures_util::StreamExt as _;
use omnirelay_contract::subject;
use omnirelay_runtime::retry::Backoff;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// The most messages of a batch, and so records of a transaction.
pub const BATCH: usize = 1_000;
/// How long a batch waits for more. It is off every waiter's path, and saves a commit per event.
const LINGER: Duration = Duration::from_millis(5);
const CONSUMER: &str = "audit";

/// Messages, as they come.
pub struct Source {
    messages: mpsc::Receiver<Message>,
    _reader: AbortOnDropHandle<()>,
}

/// A batch. Its messages are acknowledged together.
#[derive(Default)]
pub struct Received {
    pub messages: Vec<Message>,
    /// Messages behind this batch in the stream.
    pub pending: u64,
}

impl Received {
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

impl Source {
    pub fn start(jetstream: jetstream::Context, shutdown: CancellationToken) -> Self {
        let (sender, messages) = mpsc::channel(4 * BATCH);
        let reader = tokio::spawn(async move {
            shutdown.run_until_cancelled(read_for_ever(jetstream, sender)).await;
        });
        Self { messages, _reader: AbortOnDropHandle::new(reader) }
    }

    /// Up to [`BATCH`] messages; none if none came within `idle`.
    pub async fn receive(&mut self, idle: Duration) -> Received {
        let mut messages = Vec::new();
        // Both ends of the time-out mean the same: nothing to do now. The channel only closes at the end.
        if let Ok(1..) = timeout(idle, self.messages.recv_many(&mut messages, BATCH)).await {
            let deadline = Instant::now() + LINGER;
            while messages.len() < BATCH {
                let room = BATCH - messages.len();
                match timeout_at(deadline, self.messages.recv_many(&mut messages, room)).await {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => break,
                }
            }
        }
        let pending = messages.last().and_then(|last| last.info().ok()).map_or(0, |info| info.pending);
        Received { messages, pending: pending + self.messages.len() as u64 }
    }

    /// Acknowledges a batch that was committed. A failure is nothing: what comes again is known by its position.
    pub async fn acknowledge(&self, received: Received) {
        if let Some(last) = received.messages.last()
            && let Err(error) = last.ack().await
        {
            tracing::debug!(%error, "the acknowledgement was lost");
        }
    }
}

async fn read_for_ever(jetstream: jetstream::Context, sender: mpsc::Sender<Message>) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    let mut failing = false;
    loop {
        let error = match open(&jetstream).await {
            Ok(mut messages) => {
                if failing {
                    failing = false;
                    tracing::info!("the audit hears the event stream again");
                }
                loop {
                    match messages.next().await {
                        Some(Ok(message)) => {
                            backoff.reset();
                            if sender.send(message).await.is_err() {
                                return;
                            }
                        }
                        // The consumer was deleted with its stream, or the server is away: begin anew.
                        Some(Err(error)) => break error.to_string(),
                        None => break "the subscription ended".to_owned(),
                    }
                }
            }
            Err(error) => error,
        };
        if !failing {
            failing = true;
            tracing::warn!(%error, "the audit does not hear the event stream; it reads the database until it does");
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

/// The consumer is created if it is missing. The stream is not: that is the relay's.
async fn open(jetstream: &jetstream::Context) -> Result<pull::Stream, String> {
    let consumer = jetstream
        .create_consumer_on_stream(
            pull::Config {
                durable_name: Some(CONSUMER.to_owned()),
                deliver_policy: DeliverPolicy::All,
                ack_policy: AckPolicy::All,
                ack_wait: Duration::from_secs(30),
                max_ack_pending: 100_000,
                ..pull::Config::default()
            },
            subject::STREAM_EVENTS,
        )
        .await
        .map_err(|error| error.to_string())?;
    consumer
        .stream()
        .max_messages_per_batch(2 * BATCH)
        .expires(Duration::from_secs(15))
        .heartbeat(Duration::from_secs(3))
        .messages()
        .await
        .map_err(|error| error.to_string())
}
