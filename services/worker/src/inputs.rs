//! Where inputs come from: the two streams, the poll behind them, and whoever asks for a look at an operation.

use std::collections::HashSet;
use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::pull::Config as PullConfig;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer};
use futures_util::StreamExt;
use omnirelay_bus::{Bus, BusError, RequestMessage, StreamOptions};
use omnirelay_contract::agent::Report;
use omnirelay_contract::subject;
use omnirelay_runtime::retry::Backoff;
use omnirelay_store::{PgPool, effects, operations};
use omnirelay_workflow::OperationId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Something for the next batch.
#[derive(Debug)]
pub enum Work {
    /// Look at this operation.
    Wake(OperationId),
    /// An agent's report. The message is acknowledged when the transaction that took it is committed; until then it is
    /// delivered again.
    Report(Box<(Report, Message)>),
}

/// How often operations are looked for that no message spoke of.
const POLL: Duration = Duration::from_millis(250);

/// One of the worker's consumers, which all workers share.
#[derive(Debug, Clone, Copy)]
pub struct Consumer {
    /// For the metric.
    pub name: &'static str,
    stream: &'static str,
    durable: &'static str,
}

const REQUESTS: Consumer = Consumer { name: "requests", stream: subject::STREAM_REQUESTS, durable: "worker-requests" };
const REPORTS: Consumer = Consumer { name: "reports", stream: subject::STREAM_REPORTS, durable: "worker-reports" };

pub const CONSUMERS: [Consumer; 2] = [REQUESTS, REPORTS];

/// Messages that a consumer has yet to get, and those that it has not acknowledged.
pub async fn pending(bus: &Bus, consumer: Consumer) -> Result<u64, BusError> {
    let found: Result<PullConsumer, _> =
        bus.jetstream().get_consumer_from_stream(consumer.durable, consumer.stream).await;
    let found = found.map_err(|error| BusError::JetStream(error.to_string()))?;
    let info = found.cached_info();
    Ok(info.num_pending + info.num_ack_pending as u64)
}

/// Mutation requests. Wake-ups only: nothing is acknowledged, the poll is behind them.
pub async fn requests(bus: Bus, streams: StreamOptions, work: mpsc::Sender<Work>, shutdown: CancellationToken) {
    let config = PullConfig {
        durable_name: Some(REQUESTS.durable.to_owned()),
        ack_policy: AckPolicy::None,
        deliver_policy: DeliverPolicy::New,
        ..PullConfig::default()
    };
    // A request that cannot be read wakes nobody; the poll finds the operation.
    let wake = |message: Message| match serde_json::from_slice::<RequestMessage>(&message.payload) {
        Ok(request) => Ok(Work::Wake(request.operation)),
        Err(_) => Err(Box::new(message)),
    };
    consume(&bus, streams, REQUESTS.stream, &config, work, &shutdown, wake).await;
}

/// Reports of agents.
pub async fn reports(bus: Bus, streams: StreamOptions, work: mpsc::Sender<Work>, shutdown: CancellationToken) {
    let config = PullConfig {
        durable_name: Some(REPORTS.durable.to_owned()),
        ack_policy: AckPolicy::Explicit,
        deliver_policy: DeliverPolicy::All,
        ack_wait: Duration::from_secs(20),
        max_ack_pending: 20_000,
        ..PullConfig::default()
    };
    let report = |message: Message| match serde_json::from_slice::<Report>(&message.payload) {
        Ok(report) => Ok(Work::Report(Box::new((report, message)))),
        Err(error) => {
            tracing::warn!(subject = %message.subject, %error, "a report that cannot be read is dropped");
            Err(Box::new(message))
        }
    };
    consume(&bus, streams, REPORTS.stream, &config, work, &shutdown, report).await;
}

/// Pulls for as long as the process lives, over lost connections and deleted consumers.
async fn consume(
    bus: &Bus,
    streams: StreamOptions,
    stream: &str,
    config: &PullConfig,
    work: mpsc::Sender<Work>,
    shutdown: &CancellationToken,
    read: fn(Message) -> Result<Work, Box<Message>>,
) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    while !shutdown.is_cancelled() {
        let opened = tokio::select! {
            () = shutdown.cancelled() => return,
            opened = open(bus, streams, stream, config) => opened,
        };
        match opened {
            Ok(mut messages) => loop {
                let next = tokio::select! {
                    () = shutdown.cancelled() => return,
                    next = messages.next() => next,
                };
                match next {
                    Some(Ok(message)) => {
                        backoff.reset();
                        match read(message) {
                            // A closed channel means shutdown.
                            Ok(input) => {
                                let _ = work.send(input).await;
                            }
                            // Delivered again it would be no more readable.
                            Err(message) => {
                                let _ = message.ack().await;
                            }
                        }
                    }
                    Some(Err(error)) => {
                        tracing::debug!(stream, %error, "the consumer was lost");
                        break;
                    }
                    None => break,
                }
            },
            Err(error) => tracing::debug!(stream, %error, "no consumer yet"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(backoff.pause()) => {}
        }
    }
}

async fn open(
    bus: &Bus,
    streams: StreamOptions,
    stream: &str,
    config: &PullConfig,
) -> Result<async_nats::jetstream::consumer::pull::Stream, BusError> {
    bus.ensure_streams(streams).await?;
    let error = |error: &dyn std::fmt::Display| BusError::JetStream(error.to_string());
    let consumer: PullConsumer =
        bus.jetstream().create_consumer_on_stream(config.clone(), stream).await.map_err(|e| error(&e))?;
    consumer
        .stream()
        .max_messages_per_batch(500)
        .expires(Duration::from_secs(10))
        .heartbeat(Duration::from_secs(3))
        .messages()
        .await
        .map_err(|e| error(&e))
}

/// Finds what is due: timers, and whatever a lost message should have woken.
pub async fn poll(pool: PgPool, work: mpsc::Sender<Work>, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(POLL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        // While the queue is long, what is due is most likely in it.
        if work.capacity() < work.max_capacity() / 2 {
            continue;
        }
        match due(&pool).await {
            Ok(due) => {
                for id in due {
                    if work.send(Work::Wake(id)).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "cannot look for what is due"),
        }
    }
}

async fn due(pool: &PgPool) -> Result<HashSet<OperationId>, omnirelay_store::StoreError> {
    let mut due: HashSet<OperationId> = operations::due(pool, 500, 0.05).await?.into_iter().collect();
    due.extend(effects::expire(pool, 1_000).await?);
    due.extend(effects::untaken(pool, 500).await?);
    Ok(due)
}

/// Looks that the observer asks for.
pub async fn wakes(mut wake: mpsc::Receiver<OperationId>, work: mpsc::Sender<Work>, shutdown: CancellationToken) {
    loop {
        let id = tokio::select! {
            () = shutdown.cancelled() => return,
            id = wake.recv() => id,
        };
        let Some(id) = id else { return };
        if work.send(Work::Wake(id)).await.is_err() {
            return;
        }
    }
}
