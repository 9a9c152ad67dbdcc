//! From an event to its audit record.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use omnirelay_workflow::{OperationId, Timestamp};

use crate::audit::{Actor, AuditRecord};
use crate::event::Event;

/// The record of an event, complete but for its `hash`.
///
/// `detail` is `{type, operationSeq, state, phase, progress, …}` with the event's own members after them; an own member
/// named `type` becomes `data.type`.
pub fn record_from_event(event: Event, position: u64, seq: u64, prev_hash: &str) -> AuditRecord {
    let data = event.data;
    let facts = data.audit;
    let mut detail = data.detail;
    let target = detail.get("target").and_then(Value::as_str).map(str::to_owned);
    let target = target.filter(|_| event.subject.starts_with("operations/") || event.subject.starts_with("access/"));
    if let Some(own) = detail.insert("type".to_owned(), Value::String(event.kind)) {
        detail.insert("data.type".to_owned(), own);
    }
    let mut add = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            detail.insert(name.to_owned(), value);
        }
    };
    add("operationSeq", data.operation_seq.map(Value::from));
    add("state", data.state.map(|state| Value::from(state.as_str())));
    add("phase", data.phase.map(Value::String));
    add("progress", data.progress.and_then(|progress| serde_json::to_value(progress).ok()));

    let mut actor = match (facts.actor, data.actor) {
        (Some(actor), _) => actor,
        (None, Some(subject)) => Actor::system(subject),
        (None, None) => Actor::system("system"),
    };
    actor.subject = storable(actor.subject);
    actor.token_id = actor.token_id.map(storable);
    actor.address = actor.address.map(storable);
    AuditRecord {
        seq,
        hash: String::new(),
        prev_hash: prev_hash.to_owned(),
        event_id: event.id,
        position,
        at: whole_micros(event.time),
        actor,
        verb: storable(facts.verb),
        // An operation's record is about what the operation is about; which operation it was stands beside it.
        target: storable(target.unwrap_or(event.subject)),
        operation: data.operation,
        reason: facts.reason.map(storable),
        change_ticket: facts.change_ticket.map(storable),
        outcome: storable(facts.outcome),
        latency_ms: facts.latency_ms.map(storable_number),
        revision_before: facts.revision_before.map(storable_number),
        revision_after: facts.revision_after.map(storable_number),
        trace_id: event.traceparent.as_deref().and_then(trace_id),
        detail: Value::Object(detail),
    }
}

/// The record of an event whose payload cannot be read, or cannot be stored: outcome `unreadable`, with what its row in the
/// event log tells beside the payload, and the beginning of the payload.
#[expect(clippy::too_many_arguments, reason = "they are the columns of the event log, one by one")]
pub fn record_of_unreadable(
    event_id: Uuid,
    resource: &str,
    operation: Option<OperationId>,
    at: Timestamp,
    payload: &str,
    why: &str,
    position: u64,
    seq: u64,
    prev_hash: &str,
) -> AuditRecord {
    let detail = json!({
        "why": why,
        "payload": payload.chars().take(2_000).collect::<String>(),
        "payloadSha256": super::hex(&Sha256::digest(payload)),
    });
    let mut record = bare(event_id, at, position, seq, prev_hash);
    record.target = storable(resource.to_owned());
    record.operation = operation;
    record.outcome = "unreadable".to_owned();
    record.detail = detail;
    record
}

/// The record that stands for the positions `first..=last`, which are neither on the bus nor in the event log: outcome
/// `lost`. It is better that the log says so than that it stops or passes over it.
pub fn record_of_lost(first: u64, last: u64, at: Timestamp, seq: u64, prev_hash: &str) -> AuditRecord {
    let digest = Sha256::digest(format!("omnirelay-lost-v1\n{first}\n{last}\n{at}\n"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    let mut record = bare(uuid::Builder::from_custom_bytes(bytes).into_uuid(), at, last, seq, prev_hash);
    record.target = "audit/log".to_owned();
    record.outcome = "lost".to_owned();
    record.detail = json!({ "firstPosition": first, "lastPosition": last });
    record
}

/// A record by the audit itself.
fn bare(event_id: Uuid, at: Timestamp, position: u64, seq: u64, prev_hash: &str) -> AuditRecord {
    AuditRecord {
        seq,
        hash: String::new(),
        prev_hash: prev_hash.to_owned(),
        event_id,
        position,
        at: whole_micros(at),
        actor: Actor::system("system:audit"),
        verb: "audit.record".to_owned(),
        target: String::new(),
        operation: None,
        reason: None,
        change_ticket: None,
        outcome: String::new(),
        latency_ms: None,
        revision_before: None,
        revision_after: None,
        trace_id: None,
        detail: Value::Object(Map::new()),
    }
}

/// PostgreSQL keeps microseconds and no year before 4713 BC: what is hashed must be what is read back.
pub(super) fn whole_micros(at: Timestamp) -> Timestamp {
    let micros = at.as_microsecond().max(-62_135_596_800_000_000); // 0001-01-01
    Timestamp::from_microsecond(micros).unwrap_or(at)
}

/// PostgreSQL's text holds no NUL.
fn storable(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

/// PostgreSQL's bigint is signed.
fn storable_number(number: u64) -> u64 {
    number.min(i64::MAX.unsigned_abs())
}

/// The trace id of a `traceparent` (W3C Trace Context, section 3.2): `00-<32 hex>-<16 hex>-<2 hex>`.
fn trace_id(traceparent: &str) -> Option<String> {
    let id = traceparent.split('-').nth(1)?;
    let valid = id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    valid.then(|| id.to_owned())
}
