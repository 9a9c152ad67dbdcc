//! Events: CloudEvents 1.0 in structured JSON, the same in NATS, SSE and the audit.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use omnirelay_workflow::operation::{Progress, State};
use omnirelay_workflow::{OperationId, Timestamp};

use crate::audit::Actor;

pub const SOURCE: &str = "omnirelay";

/// A CloudEvent. `type` is `omnirelay.<resource>.<what>`, `subject` is `<resource>/<id>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub specversion: String,
    pub id: Uuid,
    pub source: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub subject: String,
    pub time: Timestamp,
    pub datacontenttype: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    pub data: EventData,
}

/// What an event says. Members beyond these, particular to a type, are in `detail`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub struct EventData {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
    /// Gap-free from 1 within an operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation_seq: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// What the audit records beside the event itself.
    pub audit: AuditFacts,
    #[serde(flatten)]
    pub detail: Map<String, Value>,
}

/// The part of an event that only its audit record needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub struct AuditFacts {
    pub verb: String,
    /// `accepted`, `succeeded`, `refused`, `denied`, … or the event's own word (`progressed`).
    pub outcome: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<Actor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_ticket: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision_before: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision_after: Option<u64>,
}

impl Event {
    /// An event about `<resource>/<id>`; the caller fills in what it knows.
    pub fn new(id: Uuid, resource: &str, resource_id: &str, what: &str, time: Timestamp, data: EventData) -> Self {
        Self {
            specversion: "1.0".to_owned(),
            id,
            source: SOURCE.to_owned(),
            kind: format!("omnirelay.{resource}.{what}"),
            subject: format!("{resource}/{resource_id}"),
            time,
            datacontenttype: "application/json".to_owned(),
            traceparent: None,
            data,
        }
    }

    /// `(resource, id, what)`, as in the NATS subject.
    pub fn parts(&self) -> Option<(&str, &str, &str)> {
        let (resource, id) = self.subject.split_once('/')?;
        let what = self.kind.rsplit('.').next()?;
        Some((resource, id, what))
    }

    /// The NATS subject that the event is published to.
    pub fn nats_subject(&self) -> Option<String> {
        self.parts().map(|(resource, id, what)| crate::subject::event(resource, id, what))
    }
}
