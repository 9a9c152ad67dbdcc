//! What may be done to an operation itself, decided under its lock: a pure function of its row and who asks.

use std::collections::BTreeMap;

use omnirelay_contract::problem::{Code, Problem};
use omnirelay_contract::rest::{Inverse, Operation};
use omnirelay_runtime::auth::Scope;
use omnirelay_workflow::gate::{Decision as GateDecision, Gate, GateRefusal, Voice};
use omnirelay_workflow::operation::{Cancel, Control, Paused, State, Verb};
use omnirelay_workflow::promote;
use omnirelay_workflow::{Rejected, Timestamp};
use serde_json::{Map, Value, json};

use crate::plan;

/// What is asked, with what is its own of the body.
#[derive(Debug, Clone, PartialEq)]
pub enum Asking {
    Cancel { keep_moved: Option<bool> },
    Pause,
    Resume,
    Approve { digest: String, comment: Option<String> },
    Reject { digest: String, comment: Option<String> },
    Resolve,
}

impl Asking {
    pub fn control(&self) -> Control {
        match self {
            Asking::Cancel { .. } => Control::Cancel,
            Asking::Pause => Control::Pause,
            Asking::Resume => Control::Resume,
            Asking::Approve { .. } => Control::Approve,
            Asking::Reject { .. } => Control::Reject,
            Asking::Resolve => Control::Resolve,
        }
    }
}

/// The scope that a control needs; an approval may need a higher one, which its gate says.
pub fn scope(control: Control) -> Scope {
    match control {
        Control::Cancel | Control::Pause | Control::Resume => Scope::Operate,
        Control::Approve | Control::Reject => Scope::Approve,
        Control::Resolve => Scope::Admin,
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    pub subject: &'a str,
    pub is_admin: bool,
    pub reason: Option<&'a str>,
}

/// What to write into the operation's row, as JSON values, and what to tell.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub write: Written,
    /// `operations` or `approvals`, and what has happened to it.
    pub resource: &'static str,
    pub what: &'static str,
    /// As the event says it, which may be before the worker has followed.
    pub state: State,
    pub detail: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Written {
    Cancel(Cancel),
    Paused(Option<Paused>),
    Approval(Box<Gate>),
    Resolve(Paused),
}

/// `revisions` are of what the operation's gate is about, as they are now. Nothing: it is so already.
pub fn decide(
    operation: &Operation,
    asking: &Asking,
    asker: Asker<'_>,
    revisions: &BTreeMap<String, u64>,
    now: Timestamp,
) -> Result<Option<Change>, Box<Problem>> {
    match asking {
        Asking::Cancel { keep_moved } => cancel(operation, *keep_moved, asker, now),
        Asking::Pause => pause(operation, asker, now),
        Asking::Resume => resume(operation),
        Asking::Approve { digest, comment } => {
            let voice = voice(operation, asker, digest, comment.as_deref());
            approve(operation, voice, revisions, now)
        }
        Asking::Reject { digest, comment } => {
            let comment = comment.as_deref().or(asker.reason);
            reject(operation, voice(operation, asker, digest, comment), now)
        }
        Asking::Resolve => resolve(operation, asker, now),
    }
}

fn cancel(
    operation: &Operation,
    keep_moved: Option<bool>,
    asker: Asker<'_>,
    now: Timestamp,
) -> Result<Option<Change>, Box<Problem>> {
    if matches!(operation.state, State::Unwinding | State::Cancelled) {
        return Ok(None);
    }
    if operation.state.is_terminal() || is_past_cutover(operation) {
        return Err(Box::new(too_late(operation)));
    }
    // What the drain itself was asked for, where the cancel says nothing.
    // A bulk drain keeps what its children are asked for apart.
    let drain = operation.params.get("drain").unwrap_or(&operation.params);
    let kept = || drain.get("keepMoved").and_then(Value::as_bool).unwrap_or(false);
    let cancel = Cancel {
        by: asker.subject.to_owned(),
        at: now,
        reason: asker.reason.map(str::to_owned),
        keep_moved: keep_moved.unwrap_or_else(kept),
    };
    Ok(Some(change(Written::Cancel(cancel), "unwinding", State::Unwinding)))
}

fn pause(operation: &Operation, asker: Asker<'_>, now: Timestamp) -> Result<Option<Change>, Box<Problem>> {
    if operation.state.is_terminal() || operation.state == State::Unwinding {
        return Err(not_now(operation));
    }
    if operation.paused.is_some() {
        return Ok(None);
    }
    Ok(Some(change(Written::Paused(Some(stamp(asker, now))), "paused", operation.state)))
}

fn resume(operation: &Operation) -> Result<Option<Change>, Box<Problem>> {
    if operation.state.is_terminal() {
        return Err(not_now(operation));
    }
    Ok(operation.paused.as_ref().map(|_| change(Written::Paused(None), "resumed", operation.state)))
}

fn resolve(operation: &Operation, asker: Asker<'_>, now: Timestamp) -> Result<Option<Change>, Box<Problem>> {
    if operation.state != State::Stuck {
        return Err(not_now(operation));
    }
    Ok(Some(change(Written::Resolve(stamp(asker, now)), "resolving", State::Stuck)))
}

fn approve(
    operation: &Operation,
    voice: Voice<'_>,
    revisions: &BTreeMap<String, u64>,
    now: Timestamp,
) -> Result<Option<Change>, Box<Problem>> {
    let mut gate = gate_of(operation)?;
    let stale = gate.status == GateDecision::Open && gate.revisions != *revisions;
    if !gate.approve(&operation.actor, voice, now).map_err(|refusal| refused(&refusal, &gate))? {
        return Ok(None);
    }
    listens(operation)?;
    if stale {
        let detail = "what is to be approved was changed by somebody else at this moment: it is asked for again with a new digest";
        return Err(Box::new(Problem::new(Code::DigestMismatch, detail).with("digest", &gate.digest)));
    }
    Ok(Some(spoken(operation, gate, voice, "approved")))
}

fn reject(operation: &Operation, voice: Voice<'_>, now: Timestamp) -> Result<Option<Change>, Box<Problem>> {
    let mut gate = gate_of(operation)?;
    if !gate.reject(voice, now).map_err(|refusal| refused(&refusal, &gate))? {
        return Ok(None);
    }
    listens(operation)?;
    Ok(Some(spoken(operation, gate, voice, "rejected")))
}

/// A cancel leaves the gate as it stood, and nobody behind it.
fn listens(operation: &Operation) -> Result<(), Box<Problem>> {
    if operation.state == State::AwaitingApproval { Ok(()) } else { Err(closed(operation)) }
}

fn gate_of(operation: &Operation) -> Result<Gate, Box<Problem>> {
    operation.approval.clone().ok_or_else(|| closed(operation))
}

fn closed(operation: &Operation) -> Box<Problem> {
    let detail = format!("no gate of operation {} is open: it is {}", operation.id, operation.state);
    Box::new(Problem::new(Code::AlreadyDecided, detail).with("operation", operation.id))
}

fn voice<'a>(operation: &Operation, asker: Asker<'a>, digest: &'a str, comment: Option<&'a str>) -> Voice<'a> {
    let wants_admin = operation.approval.as_ref().is_some_and(|gate| gate.approver_scope == Scope::Admin.to_string());
    Voice { actor: asker.subject, has_scope: asker.is_admin || !wants_admin, digest, comment }
}

fn spoken(operation: &Operation, gate: Gate, voice: Voice<'_>, what: &'static str) -> Change {
    let detail = json!({
        "digest": gate.digest, "gate": gate.gate, "rule": gate.rule, "required": gate.required,
        "given": gate.approvals.len(), "approver": voice.actor, "comment": voice.comment,
        "verb": operation.verb, "target": operation.target, "requester": operation.actor,
    });
    let mut change = change(Written::Approval(Box::new(gate)), what, operation.state);
    change.resource = "approvals";
    change.detail = object(detail);
    change
}

fn change(write: Written, what: &'static str, state: State) -> Change {
    Change { write, resource: "operations", what, state, detail: Map::new() }
}

fn stamp(asker: Asker<'_>, now: Timestamp) -> Paused {
    Paused { by: asker.subject.to_owned(), at: now, reason: asker.reason.map(str::to_owned) }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

fn refused(refusal: &GateRefusal, gate: &Gate) -> Box<Problem> {
    let detail = refusal.to_string();
    Box::new(match refusal {
        GateRefusal::SelfApproval { .. } => Problem::new(Code::SelfApproval, detail),
        GateRefusal::Scope { .. } => Problem::new(Code::InsufficientScope, detail),
        GateRefusal::NotOpen(_) => Problem::new(Code::AlreadyDecided, detail),
        GateRefusal::Digest { .. } => Problem::new(Code::DigestMismatch, detail).with("digest", &gate.digest),
    })
}

fn not_now(operation: &Operation) -> Box<Problem> {
    Box::new(Problem::from(&Rejected::InvalidState { operation: operation.id, state: operation.state }))
}

/// The roles have changed already; what is left is to tell the agents.
fn is_past_cutover(operation: &Operation) -> bool {
    matches!(operation.verb, Verb::ClustersPromote | Verb::ClustersDemote)
        && operation.phase.as_deref() == Some("verifying")
}

/// 409, with the request that undoes what was done, where there is one.
fn too_late(operation: &Operation) -> Problem {
    let problem = Problem::from(&Rejected::TooLate { operation: operation.id, state: operation.state });
    match inverse(operation) {
        Some(inverse) => problem.with("inverse", inverse),
        None => problem,
    }
}

/// What undoes an operation that can no longer be cancelled.
pub fn inverse(operation: &Operation) -> Option<Inverse> {
    let bulk = operation.children.is_some();
    let action = match (operation.verb, operation.state) {
        (Verb::PeersDrain, State::Succeeded | State::Failed) if !bulk => "uncordon",
        (Verb::PeersCordon, State::Succeeded) => "uncordon",
        (Verb::PeersUncordon, State::Succeeded) => "cordon",
        (Verb::ClustersPromote | Verb::ClustersDemote, State::Succeeded | State::Running) => {
            return plan::cluster::inverse(&promote::inverse(&failed_over(operation)?)?);
        }
        (Verb::ConfigPatch | Verb::ConfigRollback, State::Succeeded) => {
            let before = operation.result.as_ref()?.get("revisionBefore")?.as_u64()?;
            let body = json!({ "revision": before });
            return Some(Inverse { method: "POST".to_owned(), path: "/control/config:rollback".to_owned(), body });
        }
        _ => return None,
    };
    let path = format!("/control/{}:{action}", operation.target);
    Some(Inverse { method: "POST".to_owned(), path, body: json!({}) })
}

/// What a promotion has changed, which may be less than what it was asked for: a cluster that was as wished before is to stay so.
/// Until it has ended only the request is known.
fn failed_over(operation: &Operation) -> Option<promote::Params> {
    let Some((promoted, demoted)) = operation.result.as_ref().and_then(|r| r.get("promoted").zip(r.get("demoted")))
    else {
        return serde_json::from_value(operation.params.clone()).ok();
    };
    serde_json::from_value(json!({ "promote": promoted, "demote": demoted })).ok()
}

#[cfg(test)]
mod tests;
