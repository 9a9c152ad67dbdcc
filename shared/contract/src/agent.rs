//! What worker and agents say to each other.
//!
//! The worker sends a [`Command`] as a request to `omni.v1.agent.<peer>.<verb>`. The agent's [`Reply`] means accepted (or
//! refused), never done. What came of it arrives as a [`Report`] on `omni.v1.report.<peer>.command`, through JetStream. A
//! command repeated with the same id repeats its report. [`Heartbeat`]s tell what the agent sees, moved or not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use omnirelay_workflow::resource::{Handover, Role};
use omnirelay_workflow::word_enum;
use omnirelay_workflow::{ClusterId, CommandId, HoldId, OperationId, PeerId, Timestamp, WorkloadId};

word_enum!(
    /// What an agent is told to do; the last token of the subject and the driver's first argument.
    CommandVerb {
        /// Run the workload here, under the command's epoch; done when its ready check says so.
        Acquire = "acquire",
        /// Stop it here; done when nothing is left of it.
        Release = "release",
        /// Say what runs here.
        List = "list",
        /// The peer is held: the full set of its holds is in the command.
        Cordon = "cordon",
        /// Nobody holds the peer any more.
        Uncordon = "uncordon",
        /// The role of the peer's cluster, under a failover version: [`Command::cluster`].
        Role = "role",
    }
);

/// A command to an agent. `id` is its idempotency key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Command {
    pub id: CommandId,
    pub verb: CommandVerb,
    pub peer: PeerId,
    pub operation: Option<OperationId>,
    /// Of acquire and release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<CommandWorkload>,
    /// Of cordon: who holds the peer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<HoldId>,
    /// Of role: what the peer's cluster is from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterRole>,
    /// Agents refuse a command that comes later than this. A move that was begun before is ended by it: an acquire that is not
    /// ready by then is reported as failed.
    pub expires_at: Timestamp,
}

/// What an acquire or a release is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommandWorkload {
    pub id: WorkloadId,
    pub service: String,
    pub unit: Option<String>,
    pub handover: Handover,
    /// Agents refuse an epoch below the highest that they have seen for the workload.
    pub epoch: u64,
}

/// What a cluster is, under the mesh-wide version that only grows. Agents refuse a version below the highest that they have
/// seen; within one version a role may change (`fenced`, then `active` or `passive`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterRole {
    pub cluster: ClusterId,
    pub failover_version: u64,
    pub role: Role,
}

/// The answer to a command, at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "status")]
pub enum Reply {
    Accepted,
    /// It was not begun and never will be under this id.
    Refused {
        message: String,
    },
}

/// What came of a command, or how far it is. Published to JetStream by the agent until acknowledged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub command: CommandId,
    pub peer: PeerId,
    pub at: Timestamp,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Outcome {
    /// Done, and ready where it was an acquire.
    Done,
    /// A release that goes on: the driver is asked again by the agent.
    Busy { remaining: Option<u64>, message: String },
    /// An acquire whose ready check does not pass yet, with the check's last answer.
    NotReady { message: String },
    /// It ended without success; the message is the driver's last line.
    Failed { message: String },
    /// Of `list`: what runs here, as the driver tells it.
    Listed { workloads: Vec<ObservedWorkload> },
}

/// What an agent sees, about every two seconds and whenever it changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Heartbeat {
    pub peer: PeerId,
    /// Chosen anew at every start of the agent.
    pub incarnation: Uuid,
    /// Grows within an incarnation.
    pub seq: u64,
    pub health: AgentHealth,
    /// The holds that the agent was last told of.
    #[serde(default)]
    pub holds: Vec<HoldId>,
    pub workloads: Vec<ObservedWorkload>,
    /// Replication lag, if this peer has any.
    pub lag_ms: Option<u64>,
    /// The role that the agent was last told and has carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterRole>,
    /// The agent's version.
    pub version: String,
    /// Who the peer is, so that the registry can adopt one that it does not know.
    pub describe: PeerDescription,
}

word_enum!(
    AgentHealth { Healthy = "healthy", Suspect = "suspect" }
);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerDescription {
    pub cluster: ClusterId,
    /// Host or unit name, free text.
    pub name: String,
    pub role: String,
    pub address: String,
    /// Load units that the peer can carry; 0 is unlimited.
    pub capacity: u32,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// A workload as an agent sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObservedWorkload {
    pub id: WorkloadId,
    pub service: String,
    pub epoch: u64,
    pub ready: bool,
    pub remaining: Option<u64>,
    pub unit: Option<String>,
    #[serde(default = "one")]
    pub load: u32,
    pub handover: Handover,
    #[serde(default = "yes")]
    pub restorable: bool,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}
