//! One tail of the event log for all watchers of this ingress.
//!
//! Events come by core NATS with their position in a header; a gap is filled from the record, and so is everything while
//! NATS is away. Each event is parsed and framed once. Watchers read the ring behind a cursor of their own: the hub never waits
//! for one, and a slow one finds that its place is gone.
//!
//! Watchers are woken at most forty times a second: two thousand of them would else be woken for each event.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use omnirelay_bus::{Bus, Subscriber};
use omnirelay_contract::subject::{ALL_EVENTS, HEADER_POSITION};
use omnirelay_store::reads::events::{self, LoggedEvent};
use omnirelay_store::{PgPool, StoreError, reads};
use omnirelay_workflow::OperationId;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Events that are kept for watchers.
const RING: usize = 8_192;
/// Events read from the record at once.
const PAGE: u32 = 1_000;
/// Without an event for so long, the record is asked.
const POLL: Duration = Duration::from_millis(500);
/// Watchers are not woken again sooner than this.
const LINGER: Duration = Duration::from_millis(25);
/// Events that came before an earlier one; beyond it the gap is filled from the record alone.
const MAX_EARLY: usize = 4_096;

/// An event as watchers get it.
#[derive(Debug)]
pub struct Framed {
    pub position: u64,
    /// The whole SSE frame.
    pub frame: Bytes,
    pub operation: Option<OperationId>,
    /// `peers/edge-7`.
    pub resource: String,
}

/// What a watcher wants to see. Nothing set: everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub operation: Option<OperationId>,
    /// `peers/edge-7`, or the id alone.
    pub resource: Option<String>,
    /// `peers`.
    pub kind: Option<String>,
}

/// The shared tail. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Hub {
    ring: Arc<RwLock<Ring>>,
    head: watch::Receiver<u64>,
}

/// The last events, dense in position.
#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Arc<Framed>>,
    /// The position of the last event that went in, or of the start.
    head: u64,
    /// What watchers without a filter are sent, joined once for all that stand at the same place.
    joined: Option<(u64, u64, Bytes)>,
}

/// What a cursor finds in the ring.
#[derive(Debug, PartialEq, Eq)]
pub enum Tail {
    /// These frames, and the position behind them; none where nothing passes the filter.
    Frames(Bytes, u64),
    /// The cursor's place is older than the ring.
    Behind,
}

#[derive(Deserialize)]
struct Probe<'a> {
    #[serde(rename = "type", borrow)]
    kind: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    subject: std::borrow::Cow<'a, str>,
    data: ProbeData,
}

#[derive(Deserialize)]
struct ProbeData {
    #[serde(default)]
    operation: Option<OperationId>,
}

impl Hub {
    /// Starts the tail behind the position `from`; it ends with `stop`, and then so do the streams.
    pub fn start(tracker: &TaskTracker, bus: Bus, pool: PgPool, from: u64, stop: CancellationToken) -> Self {
        let ring = Arc::new(RwLock::new(Ring { head: from, ..Ring::default() }));
        let (wake, head) = watch::channel(from);
        let task = TailTask { ring: Arc::clone(&ring), wake, pool, early: BTreeMap::new(), woken: Instant::now() };
        tracker.spawn(async move {
            stop.run_until_cancelled(task.run(bus)).await;
        });
        Self { ring, head }
    }

    /// A receiver that is told of a new head.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.head.clone()
    }

    /// The position of the last event that is known here.
    pub fn head(&self) -> u64 {
        self.read().head
    }

    /// What is behind `cursor`.
    pub fn behind(&self, cursor: u64, filter: &Filter) -> Tail {
        if *filter == Filter::default() {
            return self.all_behind(cursor);
        }
        let ring = self.read();
        let Some(events) = ring.behind(cursor) else { return Tail::Behind };
        let mut frames = BytesMut::new();
        for event in events.filter(|event| filter.passes(event)) {
            frames.extend_from_slice(&event.frame);
        }
        Tail::Frames(frames.freeze(), ring.head.max(cursor))
    }

    fn all_behind(&self, cursor: u64) -> Tail {
        {
            let ring = self.read();
            if let Some((from, to, frames)) = &ring.joined
                && *from == cursor
                && *to == ring.head
            {
                return Tail::Frames(frames.clone(), *to);
            }
        }
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        let Some(events) = ring.behind(cursor) else { return Tail::Behind };
        let mut frames = BytesMut::new();
        events.for_each(|event| frames.extend_from_slice(&event.frame));
        let (frames, head) = (frames.freeze(), ring.head.max(cursor));
        ring.joined = Some((cursor, head, frames.clone()));
        Tail::Frames(frames, head)
    }

    fn read(&self) -> RwLockReadGuard<'_, Ring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Filter {
    pub fn passes(&self, event: &Framed) -> bool {
        let (kind, id) = event.resource.split_once('/').unwrap_or((event.resource.as_str(), ""));
        self.operation.is_none_or(|operation| event.operation == Some(operation))
            && self.kind.as_deref().is_none_or(|wanted| wanted == kind)
            && self
                .resource
                .as_deref()
                .is_none_or(|wanted| if wanted.contains('/') { wanted == event.resource } else { wanted == id })
    }
}

impl Framed {
    /// Nothing where the payload is no CloudEvent of ours; it keeps its place all the same.
    pub fn new(position: u64, payload: &str) -> Self {
        let Ok(probe) = serde_json::from_str::<Probe<'_>>(payload) else {
            tracing::error!(position, "an event of the log cannot be read");
            return Self { position, frame: Bytes::new(), operation: None, resource: String::new() };
        };
        Self {
            position,
            frame: frame(Some(position), &probe.kind, payload),
            operation: probe.data.operation,
            resource: probe.subject.into_owned(),
        }
    }
}

/// An SSE frame. A line break in the data becomes a line of its own, as the format wants it.
pub fn frame(position: Option<u64>, event: &str, data: &str) -> Bytes {
    let mut text = String::with_capacity(data.len() + event.len() + 48);
    if let Some(position) = position {
        text.push_str("id: ");
        text.push_str(&position.to_string());
        text.push('\n');
    }
    text.push_str("event: ");
    text.push_str(event);
    for line in data.split('\n') {
        text.push_str("\ndata: ");
        text.push_str(line.trim_end_matches('\r'));
    }
    text.push_str("\n\n");
    Bytes::from(text)
}

impl Ring {
    /// The events behind a position; nothing where some of them are no longer here.
    fn behind(&self, cursor: u64) -> Option<impl Iterator<Item = &Arc<Framed>>> {
        let first = self.events.front().map_or(self.head + 1, |event| event.position);
        if cursor + 1 < first {
            return None;
        }
        let skip = usize::try_from(cursor + 1 - first).unwrap_or(usize::MAX);
        Some(self.events.iter().skip(skip))
    }

    fn push(&mut self, event: Framed) {
        self.head = event.position;
        if self.events.len() == RING {
            self.events.pop_front();
        }
        self.events.push_back(Arc::new(event));
        self.joined = None;
    }
}

struct TailTask {
    ring: Arc<RwLock<Ring>>,
    wake: watch::Sender<u64>,
    pool: PgPool,
    /// Events whose predecessors are missing.
    early: BTreeMap<u64, String>,
    woken: Instant,
}

impl TailTask {
    async fn run(mut self, bus: Bus) {
        let mut messages = match bus.subscribe(ALL_EVENTS).await {
            Ok(messages) => Some(messages),
            Err(error) => {
                tracing::warn!(%error, "events are only polled");
                None
            }
        };
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut linger = tokio::time::interval(LINGER);
        linger.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut troubled = false;
        loop {
            let unseen = *self.wake.borrow() != self.head();
            let filled = tokio::select! {
                message = next(&mut messages) => match message {
                    Some((position, payload)) => {
                        poll.reset();
                        self.take(position, payload).await
                    }
                    None => Ok(()),
                },
                _ = poll.tick() => self.fill().await,
                _ = linger.tick(), if unseen => Ok(()),
            };
            match filled {
                Ok(()) => troubled = false,
                // Said once for an outage, not twice a second.
                Err(error) if !troubled => {
                    tracing::warn!(%error, "the event log cannot be read");
                    troubled = true;
                }
                Err(_) => {}
            }
            self.wake_watchers();
        }
    }

    async fn take(&mut self, position: u64, payload: String) -> Result<(), StoreError> {
        let head = self.head();
        if position <= head {
            return Ok(());
        }
        if position > head + 1 {
            if self.early.len() < MAX_EARLY {
                self.early.insert(position, payload);
            }
            return self.fill().await;
        }
        self.push(position, &payload);
        self.push_early();
        Ok(())
    }

    /// Takes what the record has behind the head.
    async fn fill(&mut self) -> Result<(), StoreError> {
        loop {
            let head = self.head();
            let page = events::after(&self.pool, head, PAGE).await?;
            let full = page.len() == PAGE as usize;
            if page.is_empty() {
                let position = reads::position(&self.pool).await?;
                if position < head {
                    // The record was set back to an earlier time: what is here never happened.
                    tracing::warn!(head, position, "the event log went back, the stream begins again");
                    let mut ring = self.write();
                    *ring = Ring { head: position, ..Ring::default() };
                    drop(ring);
                    self.early.clear();
                    self.wake.send_replace(position);
                }
                return Ok(());
            }
            for LoggedEvent { position, payload } in page {
                self.push(position, &payload);
            }
            self.push_early();
            if !full {
                return Ok(());
            }
            self.wake_watchers();
        }
    }

    fn push_early(&mut self) {
        while let Some((position, payload)) = self.early.pop_first() {
            let head = self.head();
            if position == head + 1 {
                self.push(position, &payload);
            } else if position > head {
                self.early.insert(position, payload);
                return;
            }
        }
    }

    /// Positions are dense. Where the record has lost some (retention), the ring begins anew behind the hole, so that
    /// nobody takes it for complete.
    fn push(&self, position: u64, payload: &str) {
        let framed = Framed::new(position, payload);
        let mut ring = self.write();
        if position != ring.head + 1 {
            ring.events.clear();
        }
        ring.push(framed);
    }

    fn wake_watchers(&mut self) {
        let head = self.head();
        if *self.wake.borrow() != head && self.woken.elapsed() >= LINGER {
            self.woken = Instant::now();
            self.wake.send_replace(head);
        }
    }

    fn head(&self) -> u64 {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).head
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Ring> {
        self.ring.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next event with a position. Without a subscription there is never one.
async fn next(messages: &mut Option<Subscriber>) -> Option<(u64, String)> {
    let Some(subscriber) = messages else { return std::future::pending().await };
    let Some(message) = subscriber.next().await else {
        *messages = None;
        return None;
    };
    let position = message.headers.as_ref()?.get(HEADER_POSITION)?.as_str().parse().ok()?;
    let payload = String::from_utf8(message.payload.to_vec()).ok()?;
    Some((position, payload))
}

#[cfg(test)]
mod tests;
