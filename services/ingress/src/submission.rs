//! A mutation as it waits for the group commit: parsed, digested, with its event already written.

use std::sync::Arc;

use omnirelay_contract::event::{AuditFacts, Event, EventData};
use omnirelay_contract::rest::{Mutated, Operation};
use omnirelay_runtime::auth::Principal;
use omnirelay_workflow::gate::{GateAt, GatePolicy};
use omnirelay_workflow::operation::{Progress, State, Target, Verb};
use omnirelay_workflow::promote;
use omnirelay_workflow::resource::{ClusterState, Labels, PeerState};
use omnirelay_workflow::rules::GateRequest;
use omnirelay_workflow::{ClusterId, OperationId, PeerId, Timestamp};
use serde_json::Value;
use uuid::Uuid;

use crate::confirmation::Subject;
use crate::digest;
use crate::request::IfMatch;

/// Everything that admitting and writing a mutation needs.
#[derive(Debug, Clone)]
pub struct Submission {
    pub id: OperationId,
    pub verb: Verb,
    pub about: Target,
    /// `about` as text: `peers/<id>`.
    pub target: String,
    pub asked: Asked,
    /// A gate that the request wants for itself.
    pub gate: Option<GateRequest>,
    /// What the rules demand, found when it was admitted.
    pub gates: Vec<GatePolicy>,
    /// JSON of `gates`, where there are any.
    pub gates_json: Option<String>,
    pub locks: Vec<String>,
    pub principal: Arc<Principal>,
    /// The actor with scopes, token id and address.
    pub actor_json: String,
    pub reason: Option<String>,
    pub change_ticket: Option<String>,
    /// JSON of the verb's own parameters.
    pub params: String,
    /// Of verb, target and parameters.
    pub digest: String,
    pub key: String,
    /// Whether the caller chose the key; one that we generated cannot have been used before.
    pub key_given: bool,
    pub request_digest: String,
    pub if_match: Option<IfMatch>,
    /// JSON of the revisions that it may be applied to, for the worker; 0 is what is not there.
    pub if_match_json: Option<String>,
    pub confirmation: Option<String>,
    /// Say what would happen, change nothing.
    pub validate_only: bool,
    /// Whether somebody waits here for the end.
    pub waits: bool,
    pub traceparent: String,
    pub event: PreparedEvent,
}

/// What has to be known beyond the verb before a mutation is admitted.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    /// A peer that must be there.
    Peer,
    /// The peers of a bulk drain, as they were when the request came.
    Many { peers: Vec<Frozen>, canary: u32 },
    /// A peer that may be there.
    PutPeer { create: bool, cluster: Option<ClusterId>, state: Option<PeerState> },
    /// Clusters that must be there.
    Clusters(promote::Params),
    /// A cluster that may be there.
    PutCluster { create: bool, state: Option<ClusterState> },
    /// Something that the request names was not there when it was read: told when it is its turn, behind a replay of its key.
    Missing(String),
    /// A merge patch of the settings, or all of them (a rollback).
    Config { patch: Value, whole: bool },
}

impl Asked {
    /// `If-None-Match: *`.
    pub fn creates_only(&self) -> bool {
        matches!(self, Asked::PutPeer { create: true, .. } | Asked::PutCluster { create: true, .. })
    }

    /// The clusters whose facts are needed.
    pub fn clusters<'a>(&'a self, about: &'a Target) -> Vec<&'a str> {
        match self {
            Asked::Peer | Asked::Many { .. } | Asked::Config { .. } | Asked::Missing(_) => Vec::new(),
            Asked::PutPeer { cluster, .. } => cluster.iter().map(ClusterId::as_str).collect(),
            Asked::Clusters(params) => params.named().map(ClusterId::as_str).collect(),
            Asked::PutCluster { .. } => about.cluster().into_iter().map(ClusterId::as_str).collect(),
        }
    }
}

/// A peer of a bulk drain with what rules may select by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frozen {
    pub id: PeerId,
    pub name: String,
    pub cluster: ClusterId,
    pub role: String,
    pub state: String,
    pub health: String,
    pub labels: Labels,
}

/// An event that is ready for the outbox.
#[derive(Debug, Clone)]
pub struct PreparedEvent {
    pub id: Uuid,
    pub nats_subject: String,
    pub payload: String,
}

/// What a handler knows of a mutation.
#[derive(Debug)]
pub struct Draft<'a> {
    /// Nothing: a new one. A bulk drain is named after its operation, so its target is known only with it.
    pub id: Option<OperationId>,
    pub verb: Verb,
    pub about: Target,
    pub asked: Asked,
    pub principal: &'a Arc<Principal>,
    pub address: String,
    pub reason: Option<String>,
    pub change_ticket: Option<String>,
    pub params: String,
    pub request_digest: String,
    pub traceparent: String,
}

impl Draft<'_> {
    /// With the rest at its defaults: a generated key, nobody waiting.
    pub fn prepare(self) -> Result<Submission, serde_json::Error> {
        let id = self.id.unwrap_or_else(Uuid::now_v7);
        let target = self.about.to_string();
        let digest = digest::operation(self.verb, &target, &self.params);
        let actor = self.principal.actor(Some(self.address));
        let actor_json = serde_json::to_string(&actor)?;
        let mut detail = serde_json::Map::new();
        detail.insert("verb".to_owned(), self.verb.as_str().into());
        detail.insert("target".to_owned(), target.as_str().into());
        let data = EventData {
            operation: Some(id),
            operation_seq: Some(1),
            actor: Some(actor.subject.clone()),
            state: Some(State::Submitted),
            progress: Some(Progress::default()),
            audit: AuditFacts {
                verb: self.verb.as_str().to_owned(),
                outcome: "accepted".to_owned(),
                actor: Some(actor),
                reason: self.reason.clone(),
                change_ticket: self.change_ticket.clone(),
                ..AuditFacts::default()
            },
            detail,
            ..EventData::default()
        };
        let event = prepare_event("operations", &id.to_string(), "submitted", &self.traceparent, data)?;
        Ok(Submission {
            id,
            verb: self.verb,
            locks: locks(self.verb, &self.about, &self.asked),
            about: self.about,
            target,
            asked: self.asked,
            gate: None,
            gates: Vec::new(),
            gates_json: None,
            principal: Arc::clone(self.principal),
            actor_json,
            reason: self.reason,
            change_ticket: self.change_ticket,
            params: self.params,
            digest,
            key: id.to_string(),
            key_given: false,
            request_digest: self.request_digest,
            if_match: None,
            if_match_json: None,
            confirmation: None,
            validate_only: false,
            waits: false,
            traceparent: self.traceparent,
            event,
        })
    }
}

/// The resources that the operation has for itself while it lives.
fn locks(verb: Verb, about: &Target, asked: &Asked) -> Vec<String> {
    match (verb, asked) {
        (_, Asked::Clusters(params)) => {
            let mut locks: Vec<String> = params.named().map(|cluster| format!("clusters/{cluster}")).collect();
            locks.sort_unstable();
            locks.dedup();
            locks
        }
        (Verb::PeersDrain, Asked::Peer) => vec![about.to_string()],
        _ => Vec::new(),
    }
}

impl Submission {
    /// What a confirmation of it is about. A bulk drain is named anew with every request: what is bound of it is its list.
    pub fn confirms(&self, revision: u64) -> Subject<'_> {
        Subject {
            actor: &self.principal.subject,
            request_digest: &self.request_digest,
            target: if matches!(self.asked, Asked::Many { .. }) { "peers" } else { &self.target },
            revision,
        }
    }

    /// Whether this workflow ever comes to such a gate.
    pub fn has_gate(&self, gate: GateAt) -> bool {
        match gate {
            GateAt::Start => true,
            GateAt::Rest => matches!(self.asked, Asked::Many { .. }),
            GateAt::Cutover => matches!(self.asked, Asked::Clusters(_)),
        }
    }

    /// Writes down what the worker has to look at again, because others may come first: `If-Match`, or `If-None-Match: *`.
    pub fn keep_preconditions(&mut self) {
        let revisions = match &self.if_match {
            _ if self.asked.creates_only() => Some(&[0_u64][..]),
            Some(if_match) => if_match.revisions(),
            None => None,
        };
        self.if_match_json = revisions.map(|revisions| serde_json::json!(revisions).to_string());
    }

    /// Takes the gates that it was admitted with.
    pub fn with_gates(&mut self, gates: Vec<GatePolicy>) {
        self.gates_json = if gates.is_empty() { None } else { serde_json::to_string(&gates).ok() };
        self.gates = gates;
    }

    /// The answer before anything was done: the operation as it was written.
    pub fn accepted(&self, created_at: Timestamp) -> Result<Mutated, serde_json::Error> {
        let operation = Operation {
            id: self.id,
            verb: self.verb,
            target: self.target.clone(),
            state: State::Submitted,
            phase: None,
            progress: Progress::default(),
            blockers: Vec::new(),
            paused: None,
            actor: self.principal.subject.clone(),
            reason: self.reason.clone(),
            change_ticket: self.change_ticket.clone(),
            params: serde_json::from_str(&self.params)?,
            digest: self.digest.clone(),
            approval: None,
            cancel: None,
            queue: None,
            parent: None,
            children: None,
            created_at,
            started_at: None,
            finished_at: None,
            deadline_at: None,
            result: None,
            error: None,
            revision: 1,
        };
        Ok(Mutated { operation, resource: None, changed: true })
    }
}

/// An event about `<resource>/<id>`, serialised.
pub fn prepare_event(
    resource: &str,
    id: &str,
    what: &str,
    traceparent: &str,
    data: EventData,
) -> Result<PreparedEvent, serde_json::Error> {
    let mut event = Event::new(Uuid::now_v7(), resource, id, what, Timestamp::now(), data);
    event.traceparent = Some(traceparent.to_owned());
    let nats_subject = omnirelay_contract::subject::event(resource, id, what);
    Ok(PreparedEvent { id: event.id, nats_subject, payload: serde_json::to_string(&event)? })
}

#[cfg(test)]
mod tests;
