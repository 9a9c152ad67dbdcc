//! The audit's hash chain, pure: the canonical form of a record, its hash, signed checkpoints, and the verifier.
//!
//! A record's hash is the SHA-256, in lower-case hex, of [`PREFIX`] followed by the record's canonical form. The canonical form
//! is one line of JSON in UTF-8:
//!
//! - all members of the record but `hash`, those without a value as `null` (within `actor`, members without a value are left
//!   out); `prevHash` is among them, which makes the chain;
//! - the members of every object sorted by the bytes of their names, no white space;
//! - strings escaped as in RFC 8785: `\"`, `\\`, `\b`, `\t`, `\n`, `\f`, `\r`, other control characters as `\u00xx`, all else as it is;
//! - integers in decimal; other numbers in the shortest form that reads back as the same double (unlike RFC 8785, `1.0` stays `1.0`);
//! - `at` in UTC with as many digits of the second as it needs, at most six: `2026-11-23T12:02:40.5Z`.
//!
//! A change of any of this is a new [`PREFIX`]. What a chain alone cannot show, that its end was cut off, is shown by
//! [`Checkpoint`]s: signed, and kept where the database's owner cannot rewrite them.

mod checkpoint;
mod record;
#[cfg(test)]
mod tests;
mod verifier;

use std::fmt::Write as _;
use std::ops::Range;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::audit::{Actor, AuditRecord};

pub use checkpoint::{Checkpoint, CheckpointError, key_id};
pub use ed25519_dalek::{SigningKey, VerifyingKey};
pub use record::{record_from_event, record_of_lost, record_of_unreadable};
pub use verifier::Verifier;

/// Before the canonical form in what is hashed: the version of the form.
pub const PREFIX: &str = "omnirelay-audit-v1\n";

/// The `prevHash` of the first record.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The hash that the record should have: SHA-256 in lower-case hex. Its own `hash` is not looked at.
pub fn record_hash(record: &AuditRecord) -> String {
    let mut text = String::with_capacity(1024);
    canonical_into(record, &mut text);
    canonical_hash(&text)
}

/// The hash of a canonical form.
pub fn canonical_hash(canonical: &str) -> String {
    hex(&Sha256::new().chain_update(PREFIX).chain_update(canonical).finalize())
}

/// Appends the canonical form to `out`. The answer is where the canonical form of `detail` is in `out`, so that a writer who
/// keeps it apart need not serialise it again.
pub fn canonical_into(record: &AuditRecord, out: &mut String) -> Range<usize> {
    out.push_str("{\"actor\":");
    actor(out, &record.actor);
    let _ = write!(out, ",\"at\":\"{}\"", record.at);
    out.push_str(",\"changeTicket\":");
    text_or_null(out, record.change_ticket.as_deref());
    out.push_str(",\"detail\":");
    let detail = out.len();
    value(out, &record.detail);
    let detail = detail..out.len();
    let _ = write!(out, ",\"eventId\":\"{}\"", record.event_id.hyphenated());
    out.push_str(",\"latencyMs\":");
    number_or_null(out, record.latency_ms);
    match record.operation {
        Some(operation) => {
            let _ = write!(out, ",\"operation\":\"{}\"", operation.hyphenated());
        }
        None => out.push_str(",\"operation\":null"),
    }
    out.push_str(",\"outcome\":");
    text(out, &record.outcome);
    let _ = write!(out, ",\"position\":{}", record.position);
    out.push_str(",\"prevHash\":");
    text(out, &record.prev_hash);
    out.push_str(",\"reason\":");
    text_or_null(out, record.reason.as_deref());
    out.push_str(",\"revisionAfter\":");
    number_or_null(out, record.revision_after);
    out.push_str(",\"revisionBefore\":");
    number_or_null(out, record.revision_before);
    let _ = write!(out, ",\"seq\":{}", record.seq);
    out.push_str(",\"target\":");
    text(out, &record.target);
    out.push_str(",\"traceId\":");
    text_or_null(out, record.trace_id.as_deref());
    out.push_str(",\"verb\":");
    text(out, &record.verb);
    out.push('}');
    detail
}

/// Appends a record as one line of a log file: its canonical form with the hash in front, and a line feed.
pub fn line_into(hash: &str, canonical: &str, out: &mut String) {
    out.push_str("{\"hash\":\"");
    out.push_str(hash);
    out.push_str("\",");
    out.push_str(canonical.strip_prefix('{').unwrap_or(canonical));
    out.push('\n');
}

/// One line of a log file: a record, or `{"checkpoint": {…}}`.
#[derive(Debug, Clone)]
pub enum Line {
    Record(Box<AuditRecord>),
    Checkpoint(Checkpoint),
}

impl Line {
    /// Reads a line, with or without its line feed.
    pub fn parse(line: &str) -> Result<Self, serde_json::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Wrapped {
            checkpoint: Checkpoint,
        }
        if line.starts_with("{\"checkpoint\"") {
            return serde_json::from_str::<Wrapped>(line).map(|wrapped| Line::Checkpoint(wrapped.checkpoint));
        }
        serde_json::from_str(line).map(Line::Record)
    }
}

fn actor(out: &mut String, actor: &Actor) {
    out.push('{');
    if let Some(address) = &actor.address {
        out.push_str("\"address\":");
        text(out, address);
        out.push(',');
    }
    out.push_str("\"scopes\":[");
    for (index, scope) in actor.scopes.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        text(out, scope);
    }
    out.push_str("],\"subject\":");
    text(out, &actor.subject);
    if let Some(token) = &actor.token_id {
        out.push_str(",\"tokenId\":");
        text(out, token);
    }
    out.push('}');
}

fn value(out: &mut String, json: &Value) {
    match json {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => {
            let _ = write!(out, "{number}");
        }
        Value::String(string) => text(out, string),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                value(out, item);
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push('{');
            // serde_json's map is sorted, unless some crate of the build has asked for the order of insertion.
            if members.keys().is_sorted() {
                object_members(out, members.iter());
            } else {
                let mut sorted: Vec<_> = members.iter().collect();
                sorted.sort_unstable_by_key(|&(name, _)| name);
                object_members(out, sorted.into_iter());
            }
            out.push('}');
        }
    }
}

fn object_members<'a>(out: &mut String, members: impl Iterator<Item = (&'a String, &'a Value)>) {
    for (index, (name, member)) in members.enumerate() {
        if index > 0 {
            out.push(',');
        }
        text(out, name);
        out.push(':');
        value(out, member);
    }
}

fn text_or_null(out: &mut String, string: Option<&str>) {
    match string {
        Some(string) => text(out, string),
        None => out.push_str("null"),
    }
}

fn number_or_null(out: &mut String, number: Option<u64>) {
    match number {
        Some(number) => {
            let _ = write!(out, "{number}");
        }
        None => out.push_str("null"),
    }
}

fn text(out: &mut String, string: &str) {
    out.push('"');
    let mut rest = string;
    // What must be escaped is ASCII, so the cuts are between characters.
    while let Some(at) = rest.bytes().position(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        out.push_str(&rest[..at]);
        match rest.as_bytes()[at] {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            0x08 => out.push_str("\\b"),
            b'\t' => out.push_str("\\t"),
            b'\n' => out.push_str("\\n"),
            0x0c => out.push_str("\\f"),
            b'\r' => out.push_str("\\r"),
            control => {
                let _ = write!(out, "\\u{control:04x}");
            }
        }
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
    out.push('"');
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out
}
