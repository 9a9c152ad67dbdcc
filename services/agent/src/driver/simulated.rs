//! A peer that exists in memory: moves take a random time, faults are set from outside. For the fleet.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use omnirelay_workflow::WorkloadId;
use omnirelay_workflow::resource::word_enum;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Deserialize;

use super::{Answer, Call, Driver, Line, Target, Verb};

word_enum!(
    FaultMode {
        None = "none",
        /// Neither heartbeats nor replies: the peer looks gone.
        Silent = "silent",
        /// Acquires begin and never get ready.
        NotReady = "not-ready",
        /// Commands are refused.
        Refuse = "refuse",
        /// Releases stay busy.
        Busy = "busy",
        /// Roles are not answered, everything else is.
        NoRole = "no-role",
        /// Roles fail.
        RoleFails = "role-fails",
    }
);

/// What is wrong with a simulated peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub mode: FaultMode,
    /// The driver's words. Empty for words of the mode's own.
    pub message: String,
}

impl Fault {
    pub const NONE: Fault = Fault { mode: FaultMode::None, message: String::new() };

    pub fn words(&self) -> String {
        let own = match self.mode {
            FaultMode::None | FaultMode::Silent | FaultMode::NoRole => "",
            FaultMode::RoleFails => "the database did not switch",
            FaultMode::NotReady => "ready check 503",
            FaultMode::Refuse => "refused by a simulated fault",
            FaultMode::Busy => "sessions left",
        };
        if self.message.is_empty() { own.to_owned() } else { self.message.clone() }
    }
}

/// What is changed about a simulated peer; what is left out stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Change {
    #[serde(default)]
    pub mode: Option<FaultMode>,
    /// Goes with `mode`.
    #[serde(default)]
    pub message: String,
    #[serde(default)]
    pub lag_ms: Option<u64>,
}

struct Simulated {
    service: String,
    ready: bool,
}

struct Inside {
    workloads: BTreeMap<WorkloadId, Simulated>,
    fault: Fault,
    lag_ms: u64,
}

pub struct SimulatedDriver {
    inside: Mutex<Inside>,
    /// How long a command takes, uniformly random; nothing when empty and at zero.
    latency: Range<Duration>,
    seed: u64,
}

impl SimulatedDriver {
    pub fn new(workloads: impl IntoIterator<Item = (WorkloadId, String)>, latency: Range<Duration>, seed: u64) -> Self {
        let workloads = workloads.into_iter().map(|(id, service)| (id, Simulated { service, ready: true })).collect();
        Self { inside: Mutex::new(Inside { workloads, fault: Fault::NONE, lag_ms: 0 }), latency, seed }
    }

    pub fn change(&self, change: Change) {
        let mut inside = self.lock();
        if let Some(mode) = change.mode {
            inside.fault = Fault { mode, message: change.message };
        }
        inside.lag_ms = change.lag_ms.unwrap_or(inside.lag_ms);
    }

    pub fn fault(&self) -> Fault {
        self.lock().fault.clone()
    }

    pub fn mode(&self) -> FaultMode {
        self.lock().fault.mode
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same for the same verb, subject (workload, peer) and number: a run can be repeated.
    fn delay(&self, verb: Verb, subject: &str, number: u64) -> Duration {
        if self.latency.end <= self.latency.start {
            return self.latency.start;
        }
        let mut hasher = DefaultHasher::new();
        (self.seed, verb.as_str(), subject, number).hash(&mut hasher);
        SmallRng::seed_from_u64(hasher.finish()).random_range(self.latency.clone())
    }

    async fn take_time(&self, delay: Duration) {
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }

    async fn role(&self, call: &Call) -> Answer {
        let Some(cluster) = &call.cluster else { return Answer::failed("which role?") };
        self.take_time(self.delay(Verb::Role, call.peer.as_str(), cluster.failover_version)).await;
        match self.fault() {
            fault if fault.mode == FaultMode::RoleFails => Answer::failed(fault.words()),
            _ => Answer::done(Vec::new()),
        }
    }
}

impl Driver for SimulatedDriver {
    fn call(&self, call: Call) -> BoxFuture<'_, Answer> {
        async move {
            let Some(target) = &call.target else {
                return match call.verb {
                    Verb::List => Answer::done(self.lock().lines(None)),
                    Verb::Cordon | Verb::Uncordon => Answer::done(Vec::new()),
                    Verb::Role => self.role(&call).await,
                    Verb::Status | Verb::Acquire | Verb::Release => Answer::failed("which workload?"),
                };
            };
            if matches!(call.verb, Verb::Acquire | Verb::Release) {
                self.take_time(self.delay(call.verb, target.id.as_str(), target.epoch)).await;
            }
            self.lock().answer(call.verb, target)
        }
        .boxed()
    }

    fn lag_ms(&self) -> Option<u64> {
        Some(self.lock().lag_ms)
    }
}

impl Inside {
    fn answer(&mut self, verb: Verb, target: &Target) -> Answer {
        let healthy = self.fault.mode != FaultMode::NotReady;
        match verb {
            Verb::Acquire => {
                let service = target.service.clone();
                let entry = self.workloads.entry(target.id.clone()).or_insert(Simulated { service, ready: false });
                entry.ready |= healthy;
                self.status(target)
            }
            Verb::Status => {
                if let Some(entry) = self.workloads.get_mut(&target.id) {
                    entry.ready |= healthy;
                }
                self.status(target)
            }
            Verb::Release if self.fault.mode == FaultMode::Busy && self.workloads.contains_key(&target.id) => {
                let mut lines = self.lines(Some(&target.id));
                for line in &mut lines {
                    line.remaining = Some(1);
                }
                Answer::busy(lines, self.fault.words())
            }
            Verb::Release => {
                self.workloads.remove(&target.id);
                Answer::done(Vec::new())
            }
            Verb::List | Verb::Cordon | Verb::Uncordon | Verb::Role => Answer::done(self.lines(None)),
        }
    }

    fn status(&self, target: &Target) -> Answer {
        let mut answer = Answer::done(self.lines(Some(&target.id)));
        if answer.lines.iter().any(|line| !line.ready) {
            answer.message = self.fault.words();
        }
        answer
    }

    fn lines(&self, only: Option<&WorkloadId>) -> Vec<Line> {
        self.workloads
            .iter()
            .filter(|(id, _)| only.is_none_or(|only| only == *id))
            .map(|(id, w)| Line {
                id: id.clone(),
                service: w.service.clone(),
                ready: w.ready,
                remaining: None,
                unit: None,
            })
            .collect()
    }
}
