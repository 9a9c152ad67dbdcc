//! What goes over REST: resources and answers here, [bodies] of requests, [plans].

mod bodies;
mod plans;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use omnirelay_workflow::gate::Gate;
use omnirelay_workflow::operation::{Blocker, Cancel, Paused, Progress, State, Verb};
use omnirelay_workflow::resource::{ClusterState, Handover, Health, Hold, Labels, PeerState, WorkloadState};
use omnirelay_workflow::settings::Amount;
use omnirelay_workflow::{ClusterId, OperationId, PeerId, Timestamp, WorkloadId};

pub use bodies::*;
pub use plans::*;

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
    pub max_unavailable: Option<Amount>,
    pub labels: Labels,
    pub operation: Option<OperationId>,
    pub revision: u64,
}

/// The settings of the mesh.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    pub settings: Value,
    pub revision: u64,
}

/// One revision of the settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigRevision {
    pub revision: u64,
    pub settings: Value,
    pub at: Timestamp,
    pub actor: String,
    pub operation: Option<OperationId>,
    pub reason: Option<String>,
    pub change_ticket: Option<String>,
}

/// Where a queued operation stands, and who has the slots that it waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Queue {
    /// From 1.
    pub position: u32,
    pub holders: Vec<OperationId>,
}

/// An operation. Members that its verb has no use for are null.
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
    pub paused: Option<Paused>,
    pub actor: String,
    pub reason: Option<String>,
    pub change_ticket: Option<String>,
    pub params: Value,
    pub digest: String,
    /// The gate that is open, or the last one that was.
    pub approval: Option<Gate>,
    pub cancel: Option<Cancel>,
    pub queue: Option<Queue>,
    pub parent: Option<OperationId>,
    /// Of a bulk drain: how many children are in each state.
    pub children: Option<BTreeMap<String, u32>>,
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
