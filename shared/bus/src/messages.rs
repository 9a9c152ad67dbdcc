//! Messages that only the control plane's own parts read.

use serde::{Deserialize, Serialize};

use omnirelay_contract::subject;
use omnirelay_workflow::OperationId;

/// A mutation request: a durable wake-up that names an operation and its target. Never the truth; lost, repeated, late or
/// forged, it changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestMessage {
    pub operation: OperationId,
    /// `peers/edge-7`.
    pub target: String,
    /// `peers.drain`.
    pub verb: String,
}

impl RequestMessage {
    /// `omni.v1.request.peers.edge-7.drain`; nothing where the target is not `<resource>/<id>`.
    pub fn subject(&self) -> Option<String> {
        let (resource, id) = self.target.split_once('/')?;
        let action = self.verb.rsplit('.').next()?;
        Some(subject::request(resource, id, action))
    }
}
