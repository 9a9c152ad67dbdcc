//! Audit records as clients and log files see them.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use omnirelay_workflow::{OperationId, Timestamp};

/// Who asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Actor {
    pub subject: String,
    #[serde(default)]
    pub scopes: Vec<String>,
    /// The token's `jti`, never the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

impl Actor {
    /// A part of the control plane itself, or an agent: `system:reconciler`, `agent:edge-7`.
    pub fn system(subject: impl Into<String>) -> Self {
        Self { subject: subject.into(), scopes: Vec::new(), token_id: None, address: None }
    }
}

/// One link of the chain. `hash` covers the canonical form of all other members, `prevHash` included.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditRecord {
    pub seq: u64,
    /// SHA-256, lower-case hex.
    pub hash: String,
    pub prev_hash: String,
    pub event_id: Uuid,
    pub position: u64,
    pub at: Timestamp,
    pub actor: Actor,
    pub verb: String,
    pub target: String,
    pub operation: Option<OperationId>,
    pub reason: Option<String>,
    pub change_ticket: Option<String>,
    pub outcome: String,
    pub latency_ms: Option<u64>,
    pub revision_before: Option<u64>,
    pub revision_after: Option<u64>,
    pub trace_id: Option<String>,
    /// The event's type, operation sequence and whatever else it told.
    pub detail: Value,
}

/// What `verify` found: over REST and from the CLI alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    pub ok: bool,
    /// Records read.
    pub records: u64,
    /// Signed checkpoints whose record and signature were checked.
    pub checkpoints: u64,
    /// The first record that is not what was written, if any.
    pub first_bad: Option<BadRecord>,
    /// Operations whose events have a gap.
    pub gaps: Vec<OperationGap>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BadRecord {
    pub seq: u64,
    pub why: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperationGap {
    pub operation: OperationId,
    /// The first operation sequence that is missing.
    pub missing: u64,
}
