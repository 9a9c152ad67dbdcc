//! A mutation as it waits for the group commit: parsed, digested, with its event already written.

use std::sync::Arc;

use omnirelay_contract::event::{AuditFacts, Event, EventData};
use omnirelay_contract::rest::{Mutated, Operation};
use omnirelay_runtime::auth::Principal;
use omnirelay_workflow::operation::{Progress, State, Verb};
use omnirelay_workflow::{OperationId, PeerId, Timestamp};
use uuid::Uuid;

use crate::digest;
use crate::request::IfMatch;

/// Everything that admitting and writing a mutation needs.
#[derive(Debug, Clone)]
pub struct Submission {
    pub id: OperationId,
    pub verb: Verb,
    pub peer: PeerId,
    /// `peers/<id>`.
    pub target: String,
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
    pub confirmation: Option<String>,
    /// Say what would happen, change nothing.
    pub validate_only: bool,
    /// Whether somebody waits here for the end.
    pub waits: bool,
    pub traceparent: String,
    pub event: PreparedEvent,
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
    pub verb: Verb,
    pub peer: PeerId,
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
        let id = Uuid::now_v7();
        let target = format!("peers/{}", self.peer);
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
            peer: self.peer,
            target,
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
            confirmation: None,
            validate_only: false,
            waits: false,
            traceparent: self.traceparent,
            event,
        })
    }
}

impl Submission {
    /// The resource that the operation locks while it lives.
    pub fn lock(&self) -> Option<&str> {
        match self.verb {
            Verb::PeersDrain => Some(&self.target),
            Verb::PeersCordon | Verb::PeersUncordon => None,
        }
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
