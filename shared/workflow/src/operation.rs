//! What every operation has, whatever its verb: state, progress, blockers, cancel.

use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::resource::word_enum;

word_enum!(
    /// Where an operation stands. The order of the variants is the order of a life.
    State {
        Submitted = "submitted",
        AwaitingApproval = "awaitingApproval",
        Queued = "queued",
        Running = "running",
        Unwinding = "unwinding",
        Succeeded = "succeeded",
        Refused = "refused",
        Rejected = "rejected",
        Expired = "expired",
        Cancelled = "cancelled",
        Failed = "failed",
        Stuck = "stuck",
    }
);

impl State {
    /// Terminal states never change, except `stuck` by `resolve`.
    pub const fn is_terminal(self) -> bool {
        match self {
            State::Submitted | State::AwaitingApproval | State::Queued | State::Running | State::Unwinding => false,
            State::Succeeded
            | State::Refused
            | State::Rejected
            | State::Expired
            | State::Cancelled
            | State::Failed
            | State::Stuck => true,
        }
    }
}

word_enum!(
    Verb { PeersCordon = "peers.cordon", PeersUncordon = "peers.uncordon", PeersDrain = "peers.drain" }
);

impl Verb {
    /// The action alone: `drain` of `peers.drain`. A route, a subject and a command are named after it.
    pub const fn action(self) -> &'static str {
        match self {
            Verb::PeersCordon => "cordon",
            Verb::PeersUncordon => "uncordon",
            Verb::PeersDrain => "drain",
        }
    }

    /// Quick verbs end in the worker's first step; the others run until the world has followed.
    pub const fn is_long(self) -> bool {
        match self {
            Verb::PeersCordon | Verb::PeersUncordon => false,
            Verb::PeersDrain => true,
        }
    }
}

/// How far an operation is, in `unit`s.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    pub done: u32,
    pub total: u32,
    pub in_flight: u32,
    pub failed: u32,
    pub unit: String,
}

word_enum!(
    BlockerCode {
        NoCapacity = "no-capacity",
        PeerUnreachable = "peer-unreachable",
        NotReady = "not-ready",
        Busy = "busy",
        Budget = "budget",
        Paused = "paused",
    }
);

/// Why an operation waits, and on whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Blocker {
    pub code: BlockerCode,
    /// The peer or workload that it is about.
    pub subject: String,
    /// In the driver's own words where it has some.
    pub message: String,
    pub since: Timestamp,
}

/// A cancel that was asked for. It is in the operation's row before it is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cancel {
    pub by: String,
    pub at: Timestamp,
    pub reason: Option<String>,
    #[serde(default)]
    pub keep_moved: bool,
}
