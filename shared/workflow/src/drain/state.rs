//! What a drain remembers between inputs. It is the operation's `run` in the database, as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::operation::{BlockerCode, State};
use crate::resource::{Handover, Labels, Workload, word_enum};
use crate::{CommandId, HoldId, OperationId, PeerId, Timestamp, WorkloadId};

word_enum!(
    /// What happens when the deadline passes with work left.
    OnDeadline {
        /// Stop, stay cordoned, list the rest, end `failed`.
        Hold = "hold",
        /// Unwind.
        Cancel = "cancel",
        /// Take the rest away from an unreachable source under a higher epoch.
        Force = "force",
    }
);

/// The parameters of a drain, as the operation keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainParams {
    /// Seconds from the start; none: it waits for ever.
    #[serde(default)]
    pub deadline_secs: Option<u64>,
    pub on_deadline: OnDeadline,
    /// Moves in flight at once, at least 1.
    pub max_concurrent: u32,
    #[serde(default)]
    pub keep_moved: bool,
    /// How long an agent may take over one command before it is given up, in seconds.
    #[serde(default = "default_command_ttl")]
    pub command_ttl_secs: u64,
}

const fn default_command_ttl() -> u64 {
    30
}

impl Default for DrainParams {
    fn default() -> Self {
        Self {
            deadline_secs: None,
            on_deadline: OnDeadline::Hold,
            max_concurrent: 4,
            keep_moved: false,
            command_ttl_secs: default_command_ttl(),
        }
    }
}

impl DrainParams {
    pub fn command_ttl(&self) -> Duration {
        Duration::from_secs(self.command_ttl_secs.max(1))
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    pub id: OperationId,
    pub peer: PeerId,
    pub params: DrainParams,
    /// The drain's own hold, the only one that it ever removes.
    pub hold: HoldId,
    pub started_at: Timestamp,
    pub deadline_at: Option<Timestamp>,
    pub phase: Phase,
    /// The deadline has passed and what is left is taken.
    pub forced: bool,
    /// Commands given so far; numbers the next one.
    pub given: u64,
    pub moves: BTreeMap<WorkloadId, Move>,
    /// What the phase itself waits for, where it is not a move.
    pub trouble: Option<Trouble>,
    /// Somebody has paused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Trouble>,
    /// Copies that may still run where nobody could be reached to end them: `(workload, peer, why)`.
    pub strays: Vec<(WorkloadId, PeerId, String)>,
    /// What the source's agent lists although the record has it elsewhere and this drain did not move it there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub leftovers: BTreeMap<WorkloadId, Leftover>,
}

impl Drain {
    /// The workloads whose records a step may need, wherever they are now.
    pub fn touched(&self) -> impl Iterator<Item = &WorkloadId> {
        self.moves.keys().chain(self.leftovers.keys())
    }
}

/// A copy that an earlier, abandoned operation has left on the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Leftover {
    /// Its release.
    pub ask: Ask,
    /// Why it is still there.
    pub why: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    Cordoning {
        ask: Ask,
    },
    Evicting,
    Verifying {
        ask: Ask,
    },
    /// The deadline passed with `hold`: what is in flight comes to an end, nothing new begins.
    Stopping,
    #[serde(rename_all = "camelCase")]
    Unwinding {
        cause: Cause,
        keep_moved: bool,
    },
    Ended(End),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Cause {
    Cancel,
    Deadline,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    pub state: State,
    /// There was nothing to do: the peer was drained already.
    pub unchanged: bool,
}

/// A command that was given, or that will be given again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ask {
    /// The command that is out; none while waiting for `retry_at`.
    pub command: Option<CommandId>,
    /// How often it failed before.
    pub tries: u32,
    pub retry_at: Option<Timestamp>,
}

impl Ask {
    pub fn waits_for(&self, command: &CommandId) -> bool {
        self.command.as_ref() == Some(command)
    }

    pub fn is_due(&self, now: Timestamp) -> bool {
        self.command.is_none() && self.retry_at.is_none_or(|at| at <= now)
    }
}

/// One workload on its way. Two facts tell where it may run: `on_source` and `copy`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Move {
    pub service: String,
    pub unit: Option<String>,
    pub handover: Handover,
    pub restorable: bool,
    pub load: u32,
    pub labels: Labels,
    /// The highest epoch that was used for it. Every command takes the next.
    pub epoch: u64,
    /// The source still runs it, as far as anybody knows.
    pub on_source: bool,
    /// A peer that runs it under our epoch, or may.
    pub copy: Option<PeerId>,
    /// Peers that could not acquire it, avoided while there are others.
    pub tried: Vec<PeerId>,
    /// How often everybody who could take it had failed.
    #[serde(default)]
    pub rounds: u32,
    pub trouble: Option<Trouble>,
    pub at: At,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum At {
    /// Nothing is out. With `on_source` false (stop-first, released) it looks for a target.
    #[serde(rename_all = "camelCase")]
    Waiting {
        not_before: Option<Timestamp>,
    },
    /// An acquire is out at `target`.
    Acquiring {
        target: PeerId,
        ask: Ask,
    },
    /// A release is out at the source.
    Releasing {
        ask: Ask,
    },
    /// A release is out at `copy`, which could not acquire it.
    Settling {
        ask: Ask,
    },
    /// It runs at `copy`, or nowhere if that is none (release-only).
    Moved,
    /// Undo: an acquire is out at the source.
    TakingBack {
        ask: Ask,
    },
    /// Undo: a release is out at `copy`.
    Withdrawing {
        ask: Ask,
    },
    Restored,
    /// The drain had not touched it when it was unwound.
    Untouched,
    /// It stays where it was moved, as the cancel wished.
    Kept,
    /// It is not back, or not only on the source. `broken`: because an undo kept failing.
    Left {
        why: String,
        broken: bool,
    },
}

impl At {
    pub fn ask(&self) -> Option<&Ask> {
        match self {
            At::Acquiring { ask, .. }
            | At::Releasing { ask }
            | At::Settling { ask }
            | At::TakingBack { ask }
            | At::Withdrawing { ask } => Some(ask),
            At::Waiting { .. } | At::Moved | At::Restored | At::Untouched | At::Kept | At::Left { .. } => None,
        }
    }

    /// Nothing more happens to it while the drain goes forward.
    pub fn is_final(&self) -> bool {
        matches!(self, At::Moved | At::Restored | At::Untouched | At::Kept | At::Left { .. })
    }
}

impl Move {
    pub fn new(record: &Workload) -> Self {
        Self {
            service: record.service.clone(),
            unit: record.unit.clone(),
            handover: record.handover,
            restorable: record.restorable,
            load: record.load,
            labels: record.labels.clone(),
            epoch: record.epoch,
            on_source: true,
            copy: None,
            tried: Vec::new(),
            rounds: 0,
            trouble: None,
            at: At::Waiting { not_before: None },
        }
    }

    /// Takes one of the `maxConcurrent` slots.
    pub fn in_flight(&self) -> bool {
        self.at.ask().is_some() || (matches!(self.at, At::Waiting { .. }) && !self.on_source)
    }
}

/// Why something waits; becomes a blocker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trouble {
    pub code: BlockerCode,
    pub subject: String,
    pub message: String,
    pub since: Timestamp,
}

impl Trouble {
    /// The same trouble goes on since it began; its message may change.
    pub fn renew(before: Option<Trouble>, code: BlockerCode, subject: String, message: String, now: Timestamp) -> Self {
        let since = match before {
            Some(before) if before.code == code && before.subject == subject => before.since,
            Some(_) | None => now,
        };
        Self { code, subject, message, since }
    }
}
