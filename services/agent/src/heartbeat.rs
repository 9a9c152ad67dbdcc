//! A peer's heartbeat: every interval, and soon after every change.
//!
//! A change is told after a moment (changes come in bursts: one heartbeat for all of them), and changes alone never cause
//! more than four heartbeats an interval. Nothing is told before the driver could list once: an empty list would say that
//! everything is gone. Nothing is queued while the connection is down: old heartbeats are worthless.

use std::sync::Arc;
use std::time::Duration;

use omnirelay_contract::agent::AgentHealth;
use omnirelay_contract::subject;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::core::Core;
use crate::driver::{Exit, Line};
use crate::link::Link;
use crate::observe::Observer;

/// How long a change waits for others.
const COALESCE: Duration = Duration::from_millis(50);

/// When a peer's heart beats.
#[derive(Debug, Clone, Copy)]
pub struct Rhythm {
    pub interval: Duration,
    /// The peer's place in the interval, in [0, 1): thousands of peers do not beat together.
    pub offset: f64,
}

/// Beats until `stop`. While `silent` says so, nothing is sent.
pub async fn beat(
    core: Arc<Core>,
    observer: Arc<Observer>,
    link: Link,
    rhythm: Rhythm,
    silent: impl Fn() -> bool + Send,
    stop: CancellationToken,
) {
    let mut heart = Heart { core, observer, link, seq: 0, lines: None };
    stop.run_until_cancelled(heart.run(rhythm, silent)).await;
}

struct Heart {
    core: Arc<Core>,
    observer: Arc<Observer>,
    link: Link,
    seq: u64,
    /// The last list that the driver gave.
    lines: Option<Vec<Line>>,
}

impl Heart {
    async fn run(&mut self, rhythm: Rhythm, silent: impl Fn() -> bool) {
        let mut connections = self.link.connections();
        // After a (re)connect everybody is waited for: all beat within a fraction of the interval.
        let soon = rhythm.interval.mul_f64(rhythm.offset * 0.15);
        let gap = rhythm.interval / 4;
        let phase = Instant::now() + rhythm.interval.mul_f64(rhythm.offset);
        self.link.connected().await;
        tokio::time::sleep(soon).await;
        loop {
            if !silent() && self.link.is_connected() {
                self.beat_once().await;
            }
            let last = Instant::now();
            tokio::select! {
                () = tokio::time::sleep_until(next_beat(phase, rhythm.interval)) => {}
                () = self.core.changed.notified() => {
                    tokio::time::sleep_until((Instant::now() + COALESCE).max(last + gap)).await;
                }
                // The sender lives as long as the link.
                _ = connections.changed() => tokio::time::sleep(soon).await,
            }
        }
    }

    async fn beat_once(&mut self) {
        let (answer, lag_ms) = tokio::join!(self.core.observe(), self.core.lag_ms());
        let health = match answer.exit {
            Exit::Done => {
                self.lines = Some(answer.lines);
                AgentHealth::Healthy
            }
            Exit::Busy | Exit::Failed => {
                tracing::warn!(peer = %self.core.peer, error = answer.message, "the driver cannot list");
                AgentHealth::Suspect
            }
        };
        let Some(lines) = &self.lines else { return };
        self.seq += 1;
        let heartbeat = self.observer.heartbeat(self.seq, health, lines, lag_ms, &self.core.journal);
        let payload = match serde_json::to_vec(&heartbeat) {
            Ok(payload) => payload,
            Err(error) => {
                tracing::error!(peer = %self.core.peer, %error, "a heartbeat cannot be written");
                return;
            }
        };
        if let Err(error) = self.link.client().publish(subject::heartbeat(&self.core.peer), payload.into()).await {
            tracing::warn!(peer = %self.core.peer, %error, "a heartbeat cannot be sent");
        }
    }
}

/// The next instant of the peer's own phase.
fn next_beat(phase: Instant, interval: Duration) -> Instant {
    let now = Instant::now();
    if phase > now {
        return phase;
    }
    let interval_ns = interval.as_nanos().max(1);
    let into = (now - phase).as_nanos() % interval_ns;
    now + Duration::from_nanos((interval_ns - into) as u64)
}
