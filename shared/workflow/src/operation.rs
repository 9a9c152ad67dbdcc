//! What every operation has, whatever its verb: state, progress, blockers, cancel.

use serde::{Deserialize, Serialize};

use crate::resource::word_enum;
use crate::{ClusterId, InvalidId, OperationId, PeerId, Timestamp};

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
    /// What an operation does. Named after the route: resource and action.
    Verb {
        PeersCordon = "peers.cordon",
        PeersUncordon = "peers.uncordon",
        /// Of one peer, or of many: then its target is named after the operation itself ([`Target::Many`]).
        PeersDrain = "peers.drain",
        PeersPatch = "peers.patch",
        PeersPut = "peers.put",
        ClustersPromote = "clusters.promote",
        ClustersDemote = "clusters.demote",
        ClustersPut = "clusters.put",
        ConfigPatch = "config.patch",
        ConfigRollback = "config.rollback",
    }
);

impl Verb {
    /// The action alone: `drain` of `peers.drain`. A route, a subject and a command are named after it.
    pub const fn action(self) -> &'static str {
        match self {
            Verb::PeersCordon => "cordon",
            Verb::PeersUncordon => "uncordon",
            Verb::PeersDrain => "drain",
            Verb::PeersPatch | Verb::ConfigPatch => "patch",
            Verb::PeersPut | Verb::ClustersPut => "put",
            Verb::ClustersPromote => "promote",
            Verb::ClustersDemote => "demote",
            Verb::ConfigRollback => "rollback",
        }
    }

    /// Quick verbs end in the worker's first step after their gate; the others run until the world has followed.
    pub const fn is_long(self) -> bool {
        match self {
            Verb::PeersDrain | Verb::ClustersPromote | Verb::ClustersDemote => true,
            Verb::PeersCordon
            | Verb::PeersUncordon
            | Verb::PeersPatch
            | Verb::PeersPut
            | Verb::ClustersPut
            | Verb::ConfigPatch
            | Verb::ConfigRollback => false,
        }
    }

    /// Whether it wants the confirmation of its plan.
    pub const fn is_destructive(self) -> bool {
        match self {
            Verb::PeersDrain
            | Verb::ClustersPromote
            | Verb::ClustersDemote
            | Verb::ConfigPatch
            | Verb::ConfigRollback => true,
            Verb::PeersCordon | Verb::PeersUncordon | Verb::PeersPatch | Verb::PeersPut | Verb::ClustersPut => false,
        }
    }

    /// Whether only an admin may.
    pub const fn is_admin(self) -> bool {
        match self {
            Verb::PeersPut
            | Verb::ClustersPromote
            | Verb::ClustersDemote
            | Verb::ClustersPut
            | Verb::ConfigPatch
            | Verb::ConfigRollback => true,
            Verb::PeersCordon | Verb::PeersUncordon | Verb::PeersDrain | Verb::PeersPatch => false,
        }
    }
}

word_enum!(
    /// What is done to an operation itself. It is written into its row and creates no other.
    Control {
        Cancel = "operations.cancel",
        Pause = "operations.pause",
        Resume = "operations.resume",
        Approve = "operations.approve",
        Reject = "operations.reject",
        Resolve = "operations.resolve",
    }
);

impl Control {
    pub const fn action(self) -> &'static str {
        match self {
            Control::Cancel => "cancel",
            Control::Pause => "pause",
            Control::Resume => "resume",
            Control::Approve => "approve",
            Control::Reject => "reject",
            Control::Resolve => "resolve",
        }
    }
}

/// What an operation is about: `<resource>/<id>`, which is also its token in subjects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    Peer(PeerId),
    /// The peers of a bulk drain, named after its operation.
    Many(OperationId),
    Cluster(ClusterId),
    Settings,
}

impl Target {
    /// Reads what [`Display`](std::fmt::Display) wrote, of the operation `id`.
    pub fn of_operation(id: OperationId, text: &str) -> Result<Self, InvalidId> {
        let unknown = || InvalidId { what: "target", text: text.chars().take(80).collect() };
        match text.split_once('/').ok_or_else(unknown)? {
            ("peers", peer) if peer == id.to_string() => Ok(Target::Many(id)),
            ("peers", peer) => PeerId::parse(peer).map(Target::Peer),
            ("clusters", cluster) => ClusterId::parse(cluster).map(Target::Cluster),
            ("config", "settings") => Ok(Target::Settings),
            _ => Err(unknown()),
        }
    }

    /// `peers`, `clusters`, `config`.
    pub const fn resource(&self) -> &'static str {
        match self {
            Target::Peer(_) | Target::Many(_) => "peers",
            Target::Cluster(_) => "clusters",
            Target::Settings => "config",
        }
    }

    pub fn id(&self) -> String {
        match self {
            Target::Peer(peer) => peer.to_string(),
            Target::Many(operation) => operation.to_string(),
            Target::Cluster(cluster) => cluster.to_string(),
            Target::Settings => "settings".to_owned(),
        }
    }

    pub fn peer(&self) -> Option<&PeerId> {
        match self {
            Target::Peer(peer) => Some(peer),
            Target::Many(_) | Target::Cluster(_) | Target::Settings => None,
        }
    }

    pub fn cluster(&self) -> Option<&ClusterId> {
        match self {
            Target::Cluster(cluster) => Some(cluster),
            Target::Peer(_) | Target::Many(_) | Target::Settings => None,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Peer(peer) => write!(f, "peers/{peer}"),
            Target::Many(operation) => write!(f, "peers/{operation}"),
            Target::Cluster(cluster) => write!(f, "clusters/{cluster}"),
            Target::Settings => f.write_str("config/settings"),
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

/// A pause that somebody asked for: nothing new is begun until it is resumed. A cancel and the deadline are not held up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Paused {
    pub by: String,
    pub at: Timestamp,
    pub reason: Option<String>,
}
