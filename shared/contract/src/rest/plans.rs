//! Plans: what a mutation would do, shown before it is confirmed.

use omnirelay_workflow::gate::GatePolicy;
use omnirelay_workflow::operation::Blocker;
use omnirelay_workflow::resource::{ClusterState, Handover, Hold};
use omnirelay_workflow::{ClusterId, PeerId, Timestamp, WorkloadId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Inverse;

/// What a destructive mutation would do, and the token that confirms exactly that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    pub impact: Value,
    pub blockers: Vec<Blocker>,
    /// The gates that it will have to pass, in their order; none: nobody has to approve it.
    pub approval: Option<PlannedApproval>,
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
    /// Of its cluster, and of services that have one.
    #[serde(default)]
    pub budgets: Vec<BudgetImpact>,
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

/// What a plan says of approvals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedApproval {
    pub gates: Vec<GatePolicy>,
}

/// How a budget stands, and would stand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BudgetImpact {
    /// `clusters/fra1`, `services/checkout`.
    pub subject: String,
    /// Peers of the cluster, workloads of the service.
    pub total: u32,
    /// Nothing where there is no limit.
    pub max_unavailable: Option<u32>,
    pub unavailable: u32,
    pub unavailable_after: u32,
}

/// The `impact` of a promotion's or demotion's plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailoverImpact {
    pub promote: Option<ClusterImpact>,
    pub demote: Vec<ClusterImpact>,
    pub max_replication_lag_ms: Option<u64>,
    pub min_healthy_percent: u32,
    /// Peers whose agents have to let go before the cutover.
    pub fence: u32,
    /// Those who cannot be told now.
    pub unreachable: Vec<PeerId>,
    /// Active clusters of the mesh afterwards.
    pub active_after: u32,
    /// What `force` passes.
    pub overridden: Vec<String>,
    pub changed: bool,
    /// What undoes it after the cutover; before it, a cancel does.
    pub inverse: Option<Inverse>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterImpact {
    pub cluster: ClusterId,
    pub state: Option<ClusterState>,
    pub peers: u32,
    pub healthy_peers: u32,
    pub replication_lag_ms: Option<u64>,
}

/// The `impact` of an edit of the settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigImpact {
    pub changed: bool,
    pub changes: Vec<SettingChange>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SettingChange {
    /// `drain.maxConcurrent`.
    pub key: String,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

/// The `impact` of a bulk drain's plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BulkImpact {
    /// The frozen list, in the order in which they begin.
    pub peers: Vec<BulkPeer>,
    pub workloads: u32,
    /// So many first.
    pub canary: u32,
    pub soak_secs: u64,
    /// Peers at once.
    pub max_concurrent: u32,
    pub max_failures: u32,
    pub budgets: Vec<BudgetImpact>,
    /// What somebody should know before they say yes.
    pub warnings: Vec<String>,
    pub not_restorable: Vec<WorkloadId>,
    pub changed: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BulkPeer {
    pub id: PeerId,
    pub name: String,
    pub cluster: ClusterId,
    pub workloads: u32,
    /// Why it will be skipped, if it will.
    pub skipped: Option<String>,
}
