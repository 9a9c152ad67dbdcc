//! What the agent asks of a driver, and what a driver answers. Drivers know how a thing is started, stopped and drained.
//!
//! One protocol for all, documented in `docs/drivers.md`: a verb, what it is about, and an answer of lines, an exit and a
//! message. [`exec`] speaks it with executables; [`process`] (children of the agent), [`haproxy`] (members of a load balancer),
//! [`kubernetes`] (pods of a node), [`simple`] (two commands and a ready check from flags) and [`simulated`] (the fleet) are
//! built in.

pub mod exec;
pub mod haproxy;
pub mod kubernetes;
pub(crate) mod probe;
pub mod process;
pub mod simple;
pub mod simulated;
pub mod words;

use futures_util::future::{BoxFuture, FutureExt};
use omnirelay_contract::agent::{ClusterRole, CommandWorkload};
use omnirelay_workflow::resource::word_enum;
use omnirelay_workflow::{HoldId, PeerId, WorkloadId};
use serde::{Deserialize, Serialize};

word_enum!(
    /// A driver's first argument. A driver answers an unknown verb with a failure.
    Verb {
        List = "list",
        Status = "status",
        Acquire = "acquire",
        Release = "release",
        Cordon = "cordon",
        Uncordon = "uncordon",
        /// The peer's cluster has another role: the second argument, `fenced`, `active` or `passive`.
        Role = "role",
    }
);

/// A question to a driver.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub verb: Verb,
    pub peer: PeerId,
    /// Of status, acquire and release.
    pub target: Option<Target>,
    /// Of cordon: the full set of the peer's holds.
    pub holds: Vec<HoldId>,
    /// Of role.
    pub cluster: Option<ClusterRole>,
}

impl Call {
    pub fn list(peer: &PeerId) -> Self {
        Self { verb: Verb::List, peer: peer.clone(), target: None, holds: Vec::new(), cluster: None }
    }
}

/// The workload that a call is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub id: WorkloadId,
    pub service: String,
    pub unit: Option<String>,
    pub epoch: u64,
}

impl From<&CommandWorkload> for Target {
    fn from(workload: &CommandWorkload) -> Self {
        Self {
            id: workload.id.clone(),
            service: workload.service.clone(),
            unit: workload.unit.clone(),
            epoch: workload.epoch,
        }
    }
}

/// One workload as a driver tells it: a JSON object on a line. Fields that are not known are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub id: WorkloadId,
    #[serde(default)]
    pub service: String,
    /// Whether its check passes. A driver that does not say is taken as not ready.
    #[serde(default)]
    pub ready: bool,
    /// What is left to finish before it can be released, in the driver's own unit (sessions, requests).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining: Option<u64>,
    /// What the driver calls it, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Exit code 0.
    Done,
    /// Exit code 75 (`EX_TEMPFAIL` of sysexits): not yet, ask again.
    Busy,
    /// Anything else, a time-out included.
    Failed,
}

/// What a driver answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub exit: Exit,
    pub lines: Vec<Line>,
    /// The last line of stderr. May be empty.
    pub message: String,
}

impl Answer {
    pub fn done(lines: Vec<Line>) -> Self {
        Self { exit: Exit::Done, lines, message: String::new() }
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, lines: Vec::new(), message: message.into() }
    }

    pub fn busy(lines: Vec<Line>, message: impl Into<String>) -> Self {
        Self { exit: Exit::Busy, lines, message: message.into() }
    }

    /// What is told about one workload.
    pub fn line(&self, id: &WorkloadId) -> Option<&Line> {
        self.lines.iter().find(|line| line.id == *id)
    }
}

/// Something that carries out calls. Calls of one workload never overlap; a call that is dropped must leave nothing running
/// that a repeated call would not find again.
pub trait Driver: Send + Sync + 'static {
    fn call(&self, call: Call) -> BoxFuture<'_, Answer>;

    /// How far the peer's replica is behind, where the driver knows.
    fn lag_ms(&self) -> Option<u64> {
        None
    }

    /// The agent ends. What the driver itself holds (children) ends with it.
    fn stop(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}
