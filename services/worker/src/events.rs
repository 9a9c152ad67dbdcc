//! Events as rows of the outbox.

use omnirelay_contract::audit::Actor;
use omnirelay_contract::event::{AuditFacts, Event, EventData};
use omnirelay_contract::subject;
use omnirelay_store::StoreError;
use omnirelay_store::events::NewEvent;
use omnirelay_store::operations::{Poisoned, WorkRow};
use omnirelay_workflow::operation::State;
use omnirelay_workflow::{OperationId, Timestamp};
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// Members that every event has: no detail may be called so.
const RESERVED: [&str; 7] = ["operation", "operationSeq", "actor", "state", "phase", "progress", "audit"];

/// What an event may tell beside its facts, bytes. The bus takes a message of 1 MiB at most, and one that it does not take would
/// hold up all that come after it.
const MAX_DETAIL: usize = 256 * 1024;
/// Of a list in an event that would be larger.
const SHOWN: usize = 50;

/// Shortens what is too long to be told: lists to their first members, with how many are left out. The whole is in the record.
fn bound(detail: &mut Map<String, Value>) {
    let size = |detail: &Map<String, Value>| serde_json::to_string(detail).map_or(usize::MAX, |text| text.len());
    if size(detail) <= MAX_DETAIL {
        return;
    }
    detail.values_mut().for_each(shorten);
    detail.insert("truncated".to_owned(), Value::Bool(true));
    if size(detail) > MAX_DETAIL {
        detail.retain(|name, _| ["target", "parent", "changed", "truncated"].contains(&name.as_str()));
    }
}

fn shorten(value: &mut Value) {
    match value {
        Value::Array(members) => {
            let omitted = members.len().saturating_sub(SHOWN);
            members.truncate(SHOWN);
            members.iter_mut().for_each(shorten);
            if omitted > 0 {
                members.push(json!({ "omitted": omitted }));
            }
        }
        Value::Object(members) => members.values_mut().for_each(shorten),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The events of one batch, in order.
#[derive(Debug, Default)]
pub struct Log {
    pub events: Vec<NewEvent>,
}

/// What an event is about, and how the audit calls its outcome.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    pub resource: &'a str,
    pub id: &'a str,
    pub what: &'a str,
    pub outcome: &'a str,
}

impl Log {
    /// An event of an operation: it takes the next operation sequence.
    pub fn add(
        &mut self,
        work: &mut WorkRow,
        actor: &Actor,
        about: About<'_>,
        revisions: Option<(i64, i64)>,
        mut detail: Map<String, Value>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        // A member twice would make the event unreadable for ever.
        debug_assert!(RESERVED.iter().all(|name| !detail.contains_key(*name)), "{detail:?}");
        work.row.event_seq += 1;
        let row = &work.row;
        if let Some(parent) = row.parent {
            // Who follows a bulk drain has all of its children by this.
            detail.insert("parent".to_owned(), Value::String(parent.to_string()));
        }
        let state: State = row.state.parse().map_err(|error| StoreError::corrupt("an operation's state", error))?;
        let progress = serde_json::from_str(&row.progress)
            .map_err(|error| StoreError::corrupt("an operation's progress", error))?;
        bound(&mut detail);
        let latency = now.duration_since(row.created_at).as_millis();
        let data = EventData {
            operation: Some(row.id),
            operation_seq: Some(row.event_seq.unsigned_abs()),
            actor: Some(actor.subject.clone()),
            state: Some(state),
            phase: row.phase.clone(),
            progress: Some(progress),
            audit: AuditFacts {
                verb: row.verb.clone(),
                outcome: about.outcome.to_owned(),
                actor: Some(actor.clone()),
                reason: row.reason.clone(),
                change_ticket: row.change_ticket.clone(),
                latency_ms: u64::try_from(latency).ok(),
                revision_before: revisions.map(|(before, _)| before.unsigned_abs()),
                revision_after: revisions.map(|(_, after)| after.unsigned_abs()),
            },
            detail,
        };
        let mut event = Event::new(Uuid::now_v7(), about.resource, about.id, about.what, now, data);
        event.traceparent.clone_from(&work.traceparent);
        self.events.push(NewEvent {
            id: event.id,
            resource: about.resource.to_owned(),
            nats_subject: subject::event(about.resource, about.id, about.what),
            operation: Some(row.id),
            payload: serde_json::to_string(&event).map_err(|error| StoreError::corrupt("an event", error))?,
        });
        Ok(())
    }
}

/// The event of an operation that a poisoned input left stuck.
pub fn stuck(id: OperationId, poisoned: &Poisoned, actor: Option<Actor>, why: &str) -> Result<NewEvent, StoreError> {
    let text = id.to_string();
    let detail = match json!({ "why": why, "target": poisoned.target }) {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    let data = EventData {
        operation: Some(id),
        operation_seq: Some(poisoned.event_seq.unsigned_abs()),
        actor: actor.as_ref().map(|actor| actor.subject.clone()),
        state: Some(State::Stuck),
        audit: AuditFacts {
            verb: poisoned.verb.clone(),
            outcome: State::Stuck.as_str().to_owned(),
            actor,
            reason: poisoned.reason.clone(),
            change_ticket: poisoned.change_ticket.clone(),
            ..AuditFacts::default()
        },
        detail,
        ..EventData::default()
    };
    let event = Event::new(Uuid::now_v7(), "operations", &text, "stuck", Timestamp::now(), data);
    Ok(NewEvent {
        id: event.id,
        resource: "operations".to_owned(),
        nats_subject: subject::event("operations", &text, "stuck"),
        operation: Some(id),
        payload: serde_json::to_string(&event).map_err(|error| StoreError::corrupt("an event", error))?,
    })
}

/// A JSON object as the detail of an event.
pub fn detail(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_for_the_bus_is_shortened() {
        let long: Vec<Value> = (0..20_000).map(|n| json!({ "peer": format!("peer-{n}"), "why": "drained" })).collect();
        let check = |value: Value, truncated: bool, kept: &str| {
            let mut told = detail(value);
            bound(&mut told);
            assert_eq!(told.contains_key("truncated"), truncated);
            let text = Value::Object(told).to_string();
            assert!(text.len() <= MAX_DETAIL + 100 && text.contains(kept), "{} bytes", text.len());
        };
        check(json!({ "result": { "failed": [1, 2] } }), false, "failed");
        check(json!({ "result": { "notRestored": long } }), true, "{\"omitted\":19950}");
        check(json!({ "target": "config/settings", "text": "x".repeat(MAX_DETAIL) }), true, "config/settings");
    }
}
