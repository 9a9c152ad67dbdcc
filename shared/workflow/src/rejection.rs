//! Why a mutation is refused. Every variant names what stands in the way, so that the answer can say what to do.

use serde::{Deserialize, Serialize};

use crate::operation::State;
use crate::resource::ClusterState;
use crate::{ClusterId, OperationId, PeerId};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Rejected {
    #[error("peer {peer} is held only by others ({}): ask them, or repeat with \"all\": true to remove their manual holds too", owners.join(", "))]
    PeerHeld { peer: PeerId, owners: Vec<String> },
    #[error(
        "{resource} is in operation {operation}: follow it with `omnirelay ops attach {operation}`, or cancel it first"
    )]
    OperationInProgress { resource: String, operation: OperationId },
    #[error("operation {operation} is already {state}: it can no longer be cancelled")]
    TooLate { operation: OperationId, state: State },
    #[error("operation {operation} is {state}, which does not allow this")]
    InvalidState { operation: OperationId, state: State },
    #[error(
        "cluster {cluster} is the last active one: promote another before, or promote one with \"demote\": [\"{cluster}\"]"
    )]
    LastActiveCluster { cluster: ClusterId },
    #[error("cluster {cluster} cannot take over: {detail}; make its peers healthy, or repeat with \"force\": true")]
    NoCapacity { cluster: ClusterId, detail: String },
    #[error(
        "cluster {cluster} is {lag_ms} ms behind, {limit_ms} ms are allowed: wait for its replication, or repeat with \"force\": true"
    )]
    LagTooHigh { cluster: ClusterId, lag_ms: u64, limit_ms: u64 },
    #[error("cluster {cluster} is {state}: wait until it is active or passive")]
    ClusterInTransition { cluster: ClusterId, state: ClusterState },
    #[error("there is no cluster {cluster}: see `omnirelay mesh clusters list`")]
    UnknownCluster { cluster: ClusterId },
    #[error("{resource} is at {}, not at what If-Match names: read it again and decide anew", revision.map_or("no revision".to_owned(), |revision| format!("revision {revision}")))]
    RevisionMismatch { resource: String, revision: Option<u64> },
    #[error("{detail}")]
    InvalidChange { detail: String },
    #[error("{detail}")]
    NotPossible { detail: String },
    #[error("{detail}")]
    InvalidSetting { detail: String, key: String, rule: String },
}
