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
use serde::{Deserialize, Serialize};

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
    }
);

/// What is wrong with a simulated peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    pub mode: FaultMode,
    /// The driver's words. Empty for words of the mode's own.
    #[serde(default)]
    pub message: String,
}

impl Fault {
    pub const NONE: Fault = Fault { mode: FaultMode::None, message: String::new() };

    pub fn words(&self) -> String {
        let own = match self.mode {
            FaultMode::None | FaultMode::Silent => "",
            FaultMode::NotReady => "ready check 503",
            FaultMode::Refuse => "refused by a simulated fault",
            FaultMode::Busy => "sessions left",
        };
        if self.message.is_empty() { own.to_owned() } else { self.message.clone() }
    }
}

struct Simulated {
    service: String,
    ready: bool,
}

struct Inside {
    workloads: BTreeMap<WorkloadId, Simulated>,
    fault: Fault,
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
        Self { inside: Mutex::new(Inside { workloads, fault: Fault::NONE }), latency, seed }
    }

    pub fn set_fault(&self, fault: Fault) {
        self.lock().fault = fault;
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

    /// The same for the same verb, workload and epoch: a run can be repeated.
    fn delay(&self, verb: Verb, target: &Target) -> Duration {
        if self.latency.end <= self.latency.start {
            return self.latency.start;
        }
        let mut hasher = DefaultHasher::new();
        (self.seed, verb.as_str(), target.id.as_str(), target.epoch).hash(&mut hasher);
        SmallRng::seed_from_u64(hasher.finish()).random_range(self.latency.clone())
    }
}

impl Driver for SimulatedDriver {
    fn call(&self, call: Call) -> BoxFuture<'_, Answer> {
        async move {
            let Some(target) = &call.target else {
                return match call.verb {
                    Verb::List => Answer::done(self.lock().lines(None)),
                    Verb::Cordon | Verb::Uncordon => Answer::done(Vec::new()),
                    Verb::Status | Verb::Acquire | Verb::Release => Answer::failed("which workload?"),
                };
            };
            if matches!(call.verb, Verb::Acquire | Verb::Release) {
                let delay = self.delay(call.verb, target);
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
            }
            self.lock().answer(call.verb, target)
        }
        .boxed()
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
            Verb::List | Verb::Cordon | Verb::Uncordon => Answer::done(self.lines(None)),
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
