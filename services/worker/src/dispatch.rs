//! Commands on their way to agents. No transaction is open meanwhile.
//!
//! A command is sent by the process that wrote it, or, if that one died, by whoever leases it next. Its id is its
//! idempotency key, so a second sending is harmless. The agent's reply means accepted; what came of it is a report.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use async_nats::{HeaderMap, RequestErrorKind};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use omnirelay_bus::Bus;
use omnirelay_contract::agent::Reply;
use omnirelay_contract::subject::{self, HEADER_TRACEPARENT};
use omnirelay_runtime::spans::{self, Kind, Told};
use omnirelay_store::effects::{self, NewEffect};
use omnirelay_store::{PgPool, StoreError};
use omnirelay_workflow::{OperationId, PeerId};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::inputs::Work;

/// How long an agent has for its reply.
const REPLY: Duration = Duration::from_secs(2);
/// How often commands are looked for that no process is sending.
const LOOK: Duration = Duration::from_millis(500);
/// Replies are written together, at most this late.
const SETTLE: Duration = Duration::from_millis(20);
const MAX_IN_FLIGHT: usize = 2_048;
const MAX_TAKEN: usize = 512;

pub struct Dispatcher {
    pub pool: PgPool,
    pub bus: Bus,
    pub work: mpsc::Sender<Work>,
}

/// What came of sending a command.
#[derive(Debug)]
enum Sent {
    Accepted,
    Refused(String),
    /// No reply came. The agent may have it all the same, and only a report or a release tells.
    Unanswered,
    /// It surely did not reach anybody: no agent listens, or the bus is away. Again after a pause.
    Unreached,
}

/// A command that is to be sent now, in its operation's trace.
struct Standing {
    effect: NewEffect,
    attempts: i32,
    traceparent: Option<String>,
}

#[derive(Debug)]
struct Settled {
    id: String,
    operation: OperationId,
    attempts: i32,
    sent: Sent,
}

impl Dispatcher {
    pub async fn run(self, mut fresh: mpsc::Receiver<NewEffect>, shutdown: CancellationToken) {
        let mut flights = FuturesUnordered::new();
        let mut settled: Vec<Settled> = Vec::new();
        let mut taken = Vec::with_capacity(MAX_TAKEN);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut settle = tokio::time::interval(SETTLE);
        settle.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(done) = flights.next(), if !flights.is_empty() => {
                    settled.push(done);
                    continue;
                }
                count = fresh.recv_many(&mut taken, MAX_TAKEN), if flights.len() < MAX_IN_FLIGHT => {
                    if count == 0 {
                        break;
                    }
                    let batch = taken.drain(..).map(|effect| (effect, 1)).collect();
                    for standing in self.standing(batch).await {
                        flights.push(self.send(standing));
                    }
                }
                _ = settle.tick(), if !settled.is_empty() => {
                    if let Err(error) = self.settle(&settled).await {
                        // They are leased for a while and are then sent again, which repeats their reports.
                        tracing::debug!(%error, "replies of agents were not written");
                    }
                    settled.clear();
                }
                _ = look.tick(), if flights.len() < MAX_IN_FLIGHT => {
                    match effects::lease(&self.pool, MAX_TAKEN as i64).await {
                        Ok(leased) => {
                            let batch = leased.into_iter().map(|leased| (leased.effect, leased.attempts)).collect();
                            for standing in self.standing(batch).await {
                                flights.push(self.send(standing));
                            }
                        }
                        Err(error) => tracing::debug!(%error, "cannot look for commands"),
                    }
                }
            }
        }
    }

    /// Looks whether commands still stand before any of them is sent. If that cannot be told, nothing is sent now.
    async fn standing(&self, batch: Vec<(NewEffect, i32)>) -> Vec<Standing> {
        if batch.is_empty() {
            return Vec::new();
        }
        let ids: Vec<&str> = batch.iter().map(|(effect, _)| effect.id.as_str()).collect();
        match effects::standing(&self.pool, &ids).await {
            Ok(mut standing) => batch
                .into_iter()
                .filter_map(|(effect, attempts)| {
                    let traceparent = standing.remove(&effect.id)?;
                    Some(Standing { effect, attempts, traceparent })
                })
                .collect(),
            Err(error) => {
                tracing::debug!(%error, "commands wait for the database");
                Vec::new()
            }
        }
    }

    fn send(&self, Standing { effect, attempts, traceparent }: Standing) -> impl Future<Output = Settled> + use<> {
        let client = self.bus.client().clone();
        let connected = self.bus.is_connected();
        async move {
            let started = Instant::now();
            let own = traceparent.as_deref().and_then(spans::beneath);
            let headers = headers(
                own.map(|own| own.to_string()).as_deref().or(traceparent.as_deref()).filter(|text| !text.is_empty()),
            );
            let sent = match PeerId::parse(&effect.peer) {
                // The client would keep it and send it whenever the bus is back, expired or not.
                Ok(_) if !connected => Sent::Unreached,
                Ok(peer) => {
                    let subject = subject::agent(&peer, &effect.verb);
                    let request = client.request_with_headers(subject, headers, Bytes::from(effect.payload));
                    match tokio::time::timeout(REPLY, request).await {
                        Ok(Ok(message)) => match serde_json::from_slice(&message.payload) {
                            Ok(Reply::Accepted) => Sent::Accepted,
                            Ok(Reply::Refused { message }) => Sent::Refused(message),
                            Err(error) => Sent::Refused(format!("its agent's reply cannot be read: {error}")),
                        },
                        Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => Sent::Unreached,
                        Ok(Err(_)) | Err(_) => Sent::Unanswered,
                    }
                }
                Err(error) => Sent::Refused(error.to_string()),
            };
            let outcome = match &sent {
                Sent::Accepted => "accepted",
                Sent::Refused(_) => "refused",
                Sent::Unanswered => "unanswered",
                Sent::Unreached => "unreached",
            };
            metrics::counter!("omnirelay_effect_attempts_total", "kind" => effect.verb.clone(), "outcome" => outcome)
                .increment(1);
            if let Some(own) = own {
                let parent = traceparent.and_then(|text| text.parse().ok());
                spans::ended(own, parent, started.elapsed(), || Told {
                    name: format!("command {}", effect.verb).into(),
                    kind: Kind::Client,
                    attributes: vec![
                        ("omnirelay.command", effect.id.clone()),
                        ("omnirelay.operation", effect.operation.to_string()),
                        ("omnirelay.peer", effect.peer.clone()),
                        ("omnirelay.outcome", outcome.to_owned()),
                    ],
                    failed: (outcome != "accepted").then_some(outcome.into()),
                });
            }
            Settled { id: effect.id, operation: effect.operation, attempts, sent }
        }
    }

    async fn settle(&self, settled: &[Settled]) -> Result<(), StoreError> {
        let (mut accepted, mut later, mut pauses) = (Vec::new(), Vec::new(), Vec::new());
        let (mut refused, mut outcomes, mut wake) = (Vec::new(), Vec::new(), HashSet::new());
        for one in settled {
            match &one.sent {
                Sent::Accepted | Sent::Unanswered => accepted.push(one.id.clone()),
                Sent::Refused(message) => {
                    refused.push(one.id.clone());
                    outcomes.push(json!({ "refused": message }).to_string());
                    wake.insert(one.operation);
                }
                Sent::Unreached => {
                    later.push(one.id.clone());
                    pauses.push(pause(one.attempts));
                }
            }
        }
        if !accepted.is_empty() {
            effects::accepted(&self.pool, &accepted).await?;
        }
        if !later.is_empty() {
            effects::later(&self.pool, &later, &pauses).await?;
        }
        if !refused.is_empty() {
            effects::answer(&self.pool, &refused, &outcomes).await?;
            for operation in wake {
                // A full queue is no loss: the poll finds answers that no step has taken.
                let _ = self.work.try_send(Work::Wake(operation));
            }
        }
        Ok(())
    }
}

/// The trace goes with the command.
fn headers(traceparent: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(traceparent) = traceparent {
        headers.insert(HEADER_TRACEPARENT, traceparent);
    }
    headers
}

/// 0.25 s, 0.5 s, 1 s … 5 s.
fn pause(attempts: i32) -> Duration {
    let doubled = 250u64.saturating_mul(1 << attempts.clamp(1, 6).unsigned_abs().saturating_sub(1));
    Duration::from_millis(doubled).min(Duration::from_secs(5))
}
