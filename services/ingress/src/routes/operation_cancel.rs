//! `POST /control/operations/{id}:cancel`: written into the operation's row, under its lock, before it is acknowledged.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;
use omnirelay_contract::event::{AuditFacts, EventData};
use omnirelay_contract::problem::{Code, Problem};
use omnirelay_contract::rest::{CancelBody, Inverse, Mutated, Operation};
use omnirelay_runtime::auth::Scope;
use omnirelay_store::intake::{NewEvent, cancel};
use omnirelay_store::reads::{self, OperationRow};
use omnirelay_store::{PgConnection, StoreError};
use omnirelay_workflow::operation::{Cancel, State as OperationState, Verb};
use omnirelay_workflow::{OperationId, Rejected, Timestamp};

use super::mutation::{Answered, Trail, accepted, finish};
use super::{Segment, address, operation_id};
use crate::answer::{Refusal, json, to_bytes};
use crate::caller::Caller;
use crate::request::IfMatch;
use crate::submission::{PreparedEvent, prepare_event};
use crate::{App, request};

const VERB: &str = "operations.cancel";

pub async fn act(State(app): State<Arc<App>>, Segment(segment): Segment, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let Some((operation, action)) = segment.rsplit_once(':') else {
        return super::method_not_allowed(parts.method, parts.uri).await;
    };
    if action != "cancel" {
        return super::not_found(parts.uri).await;
    }
    let caller = match app.authenticate(&parts.headers, address(&parts)) {
        Ok(caller) => caller,
        Err(refusal) => {
            metrics::counter!("omnirelay_mutations_total", "verb" => VERB, "outcome" => refusal.code().as_str())
                .increment(1);
            return refusal.at(&path).into_response();
        }
    };
    let mut trail = Trail::new(VERB, format!("operations/{operation}"), &parts);
    let result = run(&app, &caller, operation, &parts, body, &mut trail).await;
    finish(&app, &caller, &trail, &path, result).await
}

async fn run(
    app: &App,
    caller: &Caller,
    operation: &str,
    parts: &Parts,
    body: axum::body::Body,
    trail: &mut Trail,
) -> Result<Answered, Refusal> {
    app.authorise(caller, Scope::Operate)?;
    let id = operation_id(operation)?;
    let body: CancelBody = request::body(&parts.headers, body).await?;
    super::cordon::texts(body.reason.as_ref(), body.change_ticket.as_ref())?;
    trail.reason.clone_from(&body.reason);
    trail.change_ticket.clone_from(&body.change_ticket);
    let wait = request::wait(&parts.headers, Duration::ZERO)?;
    // A repeated cancel changes nothing by itself, so the key is only checked for its form.
    request::idempotency_key(&parts.headers)?;
    let wanted = Wanted {
        body: &body,
        caller,
        if_match: request::if_match(&parts.headers)?,
        validate_only: request::validate_only(&parts.uri)?,
        waits: !wait.is_zero(),
        trail,
    };
    let waiting = wanted.waits.then(|| app.completions.wait(id));
    let decision = commit(app, id, &wanted).await?;
    let (operation, changed) = match decision {
        Decision::Unchanged(operation) => (operation, false),
        Decision::Cancelled(operation) => (operation, true),
    };
    let outcome = if changed { "cancelling" } else { "unchanged" };
    let state = operation.state;
    let target = operation.target.clone();
    let standing = Mutated { operation, resource: None, changed };
    if !changed {
        let response = json(StatusCode::OK, to_bytes(&standing)?);
        return Ok(Answered { response, outcome, operation: Some(id) });
    }
    debug_assert_eq!(state, OperationState::Unwinding);
    app.wakeups.cancel(id, &target, &trail.traceparent);
    let ended = match waiting {
        Some(waiting) => waiting.done(wait).await,
        None => None,
    };
    match ended {
        Some(done) => {
            // What this request changed is that the operation was cancelled, whatever the operation itself says of it.
            let mut mutated: Mutated =
                serde_json::from_slice(&done.body).map_err(|error| StoreError::corrupt("an operation", error))?;
            mutated.changed = true;
            let response = json(StatusCode::OK, to_bytes(&mutated)?);
            Ok(Answered { response, outcome: done.state.as_str(), operation: Some(id) })
        }
        None => {
            let mut answered = accepted(id, to_bytes(&standing)?);
            answered.outcome = outcome;
            Ok(answered)
        }
    }
}

struct Wanted<'a> {
    body: &'a CancelBody,
    caller: &'a Caller,
    if_match: Option<IfMatch>,
    validate_only: bool,
    waits: bool,
    trail: &'a Trail,
}

#[derive(Debug)]
enum Decision {
    /// It is being cancelled, or was.
    Unchanged(Operation),
    Cancelled(Operation),
}

/// Decides and writes under the operation's lock.
async fn commit(app: &App, id: OperationId, wanted: &Wanted<'_>) -> Result<Decision, Refusal> {
    let mut transaction = app.pool.begin().await.map_err(StoreError::from)?;
    let connection: &mut PgConnection = &mut transaction;
    let row = cancel::lock(connection, id).await?.ok_or_else(|| super::absent("operation", id))?;
    let operation = reads::operation_dto(&row)?;
    if let Some(if_match) = &wanted.if_match
        && !if_match.allows(operation.revision)
    {
        let detail = format!("the operation is at revision {}: read it again and decide anew", operation.revision);
        return Err(Problem::new(Code::RevisionMismatch, detail).with("revision", operation.revision).into());
    }
    if matches!(operation.state, OperationState::Unwinding | OperationState::Cancelled) {
        return Ok(Decision::Unchanged(operation));
    }
    if operation.state.is_terminal() {
        return Err(too_late(&operation).into());
    }
    if wanted.validate_only {
        return Ok(Decision::Unchanged(operation));
    }
    let cancel = Cancel {
        by: wanted.caller.principal.subject.clone(),
        at: Timestamp::now(),
        reason: wanted.body.reason.clone(),
        keep_moved: wanted.body.keep_moved.unwrap_or_else(|| keeps_moved(&operation)),
    };
    let failed = |error| StoreError::corrupt("a cancel", error);
    let text = serde_json::to_string(&cancel).map_err(failed)?;
    let event = event(&row, &operation, wanted).map_err(failed)?;
    let new = NewEvent { id: event.id, nats_subject: &event.nats_subject, payload: &event.payload };
    let ingress = wanted.waits.then_some(app.instance.as_str());
    let row = cancel::cancel(connection, id, &text, ingress, new).await?;
    transaction.commit().await.map_err(|error| {
        tracing::warn!(%error, operation = %id, "it is not known whether a cancel was committed");
        Refusal::unavailable()
    })?;
    Ok(Decision::Cancelled(reads::operation_dto(&row)?))
}

/// What the drain itself was asked for, where the cancel says nothing.
fn keeps_moved(operation: &Operation) -> bool {
    operation.params.get("keepMoved").and_then(serde_json::Value::as_bool).unwrap_or(false)
}

fn event(row: &OperationRow, operation: &Operation, wanted: &Wanted<'_>) -> Result<PreparedEvent, serde_json::Error> {
    let actor = wanted.caller.principal.actor(Some(wanted.caller.address.ip().to_string()));
    let mut detail = serde_json::Map::new();
    detail.insert("verb".to_owned(), operation.verb.as_str().into());
    detail.insert("target".to_owned(), operation.target.as_str().into());
    let data = EventData {
        operation: Some(operation.id),
        operation_seq: Some(row.event_seq.unsigned_abs() + 1),
        actor: Some(actor.subject.clone()),
        state: Some(OperationState::Unwinding),
        phase: operation.phase.clone(),
        progress: Some(operation.progress.clone()),
        audit: AuditFacts {
            verb: VERB.to_owned(),
            outcome: "accepted".to_owned(),
            actor: Some(actor),
            reason: wanted.body.reason.clone(),
            change_ticket: wanted.body.change_ticket.clone(),
            latency_ms: Some(u64::try_from(wanted.caller.elapsed().as_millis()).unwrap_or(u64::MAX)),
            revision_before: Some(operation.revision),
            revision_after: Some(operation.revision + 1),
        },
        detail,
    };
    prepare_event("operations", &operation.id.to_string(), "unwinding", &wanted.trail.traceparent, data)
}

/// 409, with the request that undoes what was done, where there is one.
fn too_late(operation: &Operation) -> Problem {
    let problem = Problem::from(&Rejected::TooLate { operation: operation.id, state: operation.state });
    let undo = match (operation.verb, operation.state) {
        // A drain that failed at its deadline leaves its hold, too.
        (Verb::PeersDrain, OperationState::Succeeded | OperationState::Failed)
        | (Verb::PeersCordon, OperationState::Succeeded) => "uncordon",
        (Verb::PeersUncordon, OperationState::Succeeded) => "cordon",
        (Verb::PeersDrain | Verb::PeersCordon | Verb::PeersUncordon, _) => return problem,
    };
    let path = format!("/control/{}:{undo}", operation.target);
    problem.with("inverse", Inverse { method: "POST".to_owned(), path, body: serde_json::json!({}) })
}
