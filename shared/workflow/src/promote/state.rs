//! What a promotion remembers between inputs. It is the operation's `run` in the database, as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::drain::{Ask, Trouble, later};
use crate::operation::State;
use crate::resource::{ClusterState, Role, word_enum};
use crate::settings::PromoteSettings;
use crate::{ClusterId, CommandId, OperationId, PeerId, Rejected, Timestamp};

/// The parameters of a promotion (`promote`, and whom it replaces) or of a demotion (`demote` alone), as the operation keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Params {
    #[serde(default)]
    pub promote: Option<ClusterId>,
    #[serde(default)]
    pub demote: Vec<ClusterId>,
    /// Passes what stands in the way, but for the last active cluster; what was passed is in the result.
    #[serde(default)]
    pub force: bool,
}

impl Params {
    /// The clusters that it names, and locks, each once.
    pub fn named(&self) -> impl Iterator<Item = &ClusterId> {
        let demote = self.demote.iter().enumerate();
        let demote = demote.filter(|(n, id)| !self.demote[..*n].contains(id) && self.promote.as_ref() != Some(*id));
        self.promote.iter().chain(demote.map(|(_, id)| id))
    }

    /// Each cluster once; what is promoted is not demoted.
    pub(super) fn in_order(mut self) -> Self {
        self.demote.retain(|id| self.promote.as_ref() != Some(id));
        self.demote.sort();
        self.demote.dedup();
        self
    }
}

/// What the mesh asks of a promotion; a part of its settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Of the peers of what is promoted.
    pub min_healthy_percent: u32,
    pub max_lag_ms: Option<u64>,
    /// With `force`: how long a reachable peer may take to answer.
    pub fence_timeout: Duration,
}

impl From<&PromoteSettings> for Limits {
    fn from(settings: &PromoteSettings) -> Self {
        Self {
            min_healthy_percent: settings.min_healthy_percent,
            max_lag_ms: settings.max_replication_lag_ms,
            fence_timeout: settings.fence_timeout,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Promote {
    pub id: OperationId,
    pub params: Params,
    pub limits: Limits,
    /// A gate is still to be passed.
    pub gated: bool,
    pub started_at: Timestamp,
    pub phase: Phase,
    /// Commands given so far; numbers the next one.
    pub given: u64,
    /// The clusters that change; those that are as wished already are not among them. Empty before the fencing.
    pub clusters: BTreeMap<ClusterId, Aim>,
    /// Their peers as they were when the fencing began.
    pub members: BTreeMap<PeerId, Member>,
    pub overridden: Vec<Override>,
    /// Somebody has paused it.
    pub paused: Option<Trouble>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Stays for longer than a step only while it is paused.
    Prechecking,
    AwaitingGate,
    Fencing {
        version: u64,
        since: Timestamp,
    },
    /// The cutover has been made.
    Verifying {
        version: u64,
        since: Timestamp,
    },
    Unwinding {
        version: u64,
        cause: Cause,
    },
    Ended(End),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Cause {
    Cancel,
    /// The cutover was refused.
    Refused(Rejected),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    pub state: State,
    /// Nothing has been changed.
    pub unchanged: bool,
    /// The last version that was used, if any was.
    pub version: Option<u64>,
    /// Why it was refused.
    pub rejected: Option<Rejected>,
}

/// What is to become of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Aim {
    Promote,
    Demote,
}

impl Aim {
    pub fn before(self) -> ClusterState {
        match self {
            Aim::Promote => ClusterState::Passive,
            Aim::Demote => ClusterState::Active,
        }
    }

    pub fn during(self) -> ClusterState {
        match self {
            Aim::Promote => ClusterState::Promoting,
            Aim::Demote => ClusterState::Demoting,
        }
    }

    pub fn after(self) -> ClusterState {
        match self {
            Aim::Promote => ClusterState::Active,
            Aim::Demote => ClusterState::Passive,
        }
    }

    pub fn role_before(self) -> Role {
        role_of(self.before())
    }

    pub fn role_after(self) -> Role {
        role_of(self.after())
    }
}

/// What the agents of a cluster have to know of its state, under its failover version.
pub fn role_of(state: ClusterState) -> Role {
    match state {
        ClusterState::Active => Role::Active,
        ClusterState::Passive => Role::Passive,
        ClusterState::Promoting | ClusterState::Demoting => Role::Fenced,
    }
}

/// A peer of a cluster that changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    pub cluster: ClusterId,
    pub aim: Aim,
    /// How far it is in this phase.
    pub at: At,
    /// Why the cutover was made without its word.
    pub unfenced: Option<String>,
    pub trouble: Option<Trouble>,
}

impl Member {
    pub(super) fn new(cluster: ClusterId, aim: Aim) -> Self {
        Self { cluster, aim, at: At::due(), unfenced: None, trouble: None }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum At {
    /// It is told its role, or will be again.
    Asked(Ask),
    /// It has acknowledged its role.
    Told,
    /// Nobody waits for it any more. `ask`: what it was asked last, in case that it answers after all; `forced`: it is reachable.
    Missed { ask: Ask, why: String, forced: bool },
}

impl At {
    /// To be asked at once.
    pub(super) fn due() -> Self {
        At::Asked(Ask { command: None, tries: 0, retry_at: None })
    }

    pub(super) fn waits_for(&self, command: &CommandId) -> bool {
        match self {
            At::Asked(ask) | At::Missed { ask, .. } => ask.waits_for(command),
            At::Told => false,
        }
    }
}

word_enum!(
    /// What `force` can pass.
    Check { Health = "health", Lag = "lag", Fencing = "fencing" }
);

/// Something that would have stood in the way, and was passed by `force`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Override {
    pub check: Check,
    /// The cluster or peer that it is about.
    pub subject: String,
    pub message: String,
}

impl Promote {
    /// Nobody is waited for.
    pub(super) fn is_settled(&self) -> bool {
        !self.members.values().any(|member| matches!(member.at, At::Asked(_)))
    }

    /// When whoever has not answered in this phase is given up.
    pub(super) fn force_at(&self) -> Option<Timestamp> {
        match &self.phase {
            Phase::Fencing { since, .. } | Phase::Verifying { since, .. } if self.params.force => {
                later(*since, self.limits.fence_timeout)
            }
            Phase::Prechecking
            | Phase::AwaitingGate
            | Phase::Fencing { .. }
            | Phase::Verifying { .. }
            | Phase::Unwinding { .. }
            | Phase::Ended(_) => None,
        }
    }

    pub fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
    }

    /// Why it ended `refused`.
    pub fn rejected(&self) -> Option<&Rejected> {
        match &self.phase {
            Phase::Ended(end) => end.rejected.as_ref(),
            _ => None,
        }
    }
}
