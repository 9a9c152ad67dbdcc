//! Bodies of the REST routes.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use omnirelay_workflow::operation::{Blocker, Cancel, Progress, State, Verb};
use omnirelay_workflow::resource::{ClusterState, Health, Hold, Labels, PeerState, WorkloadState};
use omnirelay_workflow::{
    ClusterId, OperationId, PeerId, Timestamp, WorkloadId, drain::OnDeadline, resource::Handover,
};

use crate::problem::Problem;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    pub id: PeerId,
    pub name: String,
    pub cluster: ClusterId,
    pub role: String,
    pub address: String,
    pub version: String,
    pub labels: Labels,
    pub metadata: Value,
    pub health: Health,
    pub schedulable: bool,
    pub state: PeerState,
    pub holds: Vec<Hold>,
    pub workloads: u32,
    pub capacity: u32,
    pub last_seen: Option<Timestamp>,
    /// The operation that has the peer's lock.
    pub operation: Option<OperationId>,
    pub revision: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    pub id: WorkloadId,
    pub service: String,
    pub peer: PeerId,
    pub load: u32,
    pub labels: Labels,
    pub handover: Handover,
    pub restorable: bool,
    pub ready: bool,
    pub remaining: Option<u64>,
    pub unit: Option<String>,
    pub epoch: u64,
    pub state: WorkloadState,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    pub id: ClusterId,
    pub region: String,
    pub priority: i32,
    pub state: ClusterState,
    pub failover_version: u64,
    pub peers: u32,
    pub healthy_peers: u32,
    pub replication_lag_ms: Option<u64>,
    pub max_unavailable: Option<String>,
    pub labels: Labels,
    pub operation: Option<OperationId>,
    pub revision: u64,
}

/// An operation. Members that only later verbs fill (approval, queue, children) are there and null.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    pub id: OperationId,
    pub verb: Verb,
    /// `peers/edge-7`.
    pub target: String,
    pub state: State,
    pub phase: Option<String>,
    pub progress: Progress,
    pub blockers: Vec<Blocker>,
    pub paused: Option<Value>,
    pub actor: String,
    pub reason: Option<String>,
    pub change_ticket: Option<String>,
    pub params: Value,
    pub digest: String,
    pub approval: Option<Value>,
    pub cancel: Option<Cancel>,
    pub queue: Option<Value>,
    pub parent: Option<OperationId>,
    pub children: Option<Value>,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub deadline_at: Option<Timestamp>,
    pub result: Option<Value>,
    pub error: Option<Problem>,
    pub revision: u64,
}

/// The answer to every mutation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mutated {
    pub operation: Operation,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<Value>,
    pub changed: bool,
}

/// A page of a list. `position` is where a subscription goes on without a gap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next_page_token: Option<String>,
    pub position: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CordonBody {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_ticket: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UncordonBody {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_ticket: Option<String>,
    /// Other people's manual holds too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DrainBody {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_ticket: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Humantime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_deadline: Option<OnDeadline>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<u32>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_moved: bool,
    /// The token of a plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmation: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CancelBody {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_ticket: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_moved: Option<bool>,
}

/// What a destructive mutation would do, and the token that confirms exactly that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    pub impact: Value,
    pub blockers: Vec<Blocker>,
    pub approval: Option<Value>,
    pub digest: String,
    pub confirmation: Confirmation,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Confirmation {
    pub token: String,
    pub expires_at: Timestamp,
}

/// The `impact` of a drain's plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainImpact {
    pub peer: PeerId,
    pub name: String,
    pub cluster: ClusterId,
    /// Workloads in all.
    pub workloads: u32,
    pub moves: Vec<PlannedMove>,
    /// Schedulable, healthy peers of the cluster before and after.
    pub peers_available: u32,
    pub peers_available_after: u32,
    /// Workloads whose release cannot be taken back by a cancel.
    pub not_restorable: Vec<WorkloadId>,
    /// Holds of others, which stay.
    pub holds: Vec<Hold>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedMove {
    pub workload: WorkloadId,
    pub service: String,
    pub unit: Option<String>,
    pub handover: Handover,
    /// Nobody for `release-only`, and where nobody has room.
    pub target: Option<PeerId>,
    pub remaining: Option<u64>,
}

/// The request to make, ready to send, that undoes what can no longer be cancelled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inverse {
    pub method: String,
    pub path: String,
    pub body: Value,
}

/// A duration in JSON: humantime text (`30m`, `1h 15m`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Humantime(pub Duration);

impl Serialize for Humantime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

impl<'de> Deserialize<'de> for Humantime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map(Humantime).map_err(|error| {
            serde::de::Error::custom(format!("{text:?} is not a duration like 30m or 1h 15m: {error}"))
        })
    }
}
