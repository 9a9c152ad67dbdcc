//! `POST /control/operations/{id}:cancel`, `:pause`, `:resume`, `:approve`, `:reject`, `:resolve`: written into the operation's
//! row, under its lock, before it is acknowledged. No other operation is created.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use http::request::Parts;
use omnirelay_contract::event::{AuditFacts, EventData};
use omnirelay_contract::problem::{Code, Problem};
use omnirelay_contract::rest::{CancelBody, ControlBody, DecideBody, Mutated, Operation};
use omnirelay_runtime::auth::Scope;
use omnirelay_store::intake::NewEvent;
use omnirelay_store::intake::control::{self as store, Locked, Write};
use omnirelay_store::{PgConnection, StoreError, operations, reads};
use omnirelay_workflow::OperationId;
use omnirelay_workflow::operation::Control;
use serde::Serialize;

use super::mutation::{Answered, QUICK_WAIT, Trail, accepted, finish, texts, unknown_caller};
use super::{Segment, address, operation_id};
use crate::answer::{Refusal, json, to_bytes};
use crate::caller::Caller;
use crate::control::{Asker, Asking, Change, Written, decide, scope};
use crate::request::IfMatch;
use crate::submission::{PreparedEvent, prepare_event};
use crate::{App, request};

pub async fn act(State(app): State<Arc<App>>, Segment(segment): Segment, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let Some((operation, action)) = segment.rsplit_once(':') else {
        return super::method_not_allowed(parts.method, parts.uri).await;
    };
    let Some(control) = Control::ALL.iter().copied().find(|control| control.action() == action) else {
        return super::not_found(parts.uri).await;
    };
    let caller = match app.authenticate(&parts.headers, address(&parts)) {
        Ok(caller) => caller,
        Err(refusal) => return unknown_caller(control.as_str(), refusal, &path),
    };
    let mut trail = Trail::new(control.as_str(), format!("operations/{operation}"), &parts);
    let result = run(&app, &caller, control, operation, &parts, body, &mut trail).await;
    finish(&app, &caller, &trail, &path, result).await
}

async fn run(
    app: &App,
    caller: &Caller,
    control: Control,
    operation: &str,
    parts: &Parts,
    body: Body,
    trail: &mut Trail,
) -> Result<Answered, Refusal> {
    app.authorise(caller, scope(control))?;
    let id = operation_id(operation)?;
    let asking = read(control, parts, body, trail).await?;
    // A decision stands at once; what the worker has to follow is waited for as a quick verb is. A cancel takes its time.
    let default_wait = match control {
        Control::Cancel => Duration::ZERO,
        Control::Pause | Control::Resume | Control::Approve | Control::Reject | Control::Resolve => QUICK_WAIT,
    };
    let wait = request::wait(&parts.headers, default_wait)?;
    // Repeated, it changes nothing by itself, so the key is only checked for its form.
    request::idempotency_key(&parts.headers)?;
    let ends = matches!(control, Control::Cancel | Control::Reject | Control::Resolve);
    let wanted = Wanted {
        asking: &asking,
        caller,
        if_match: request::if_match(&parts.headers)?,
        validate_only: request::validate_only(&parts.uri)?,
        waits: ends && !wait.is_zero(),
        trail,
    };
    let waiting = wanted.waits.then(|| app.completions.wait(id));
    let (operation, changed) = match commit(app, id, &wanted).await? {
        Committed::Unchanged(operation) => (operation, false),
        Committed::Changed(operation) => (operation, true),
    };
    if changed {
        app.wakeups.control(control, id, &operation.target, &trail.traceparent);
    }
    let standing = Mutated { operation, resource: None, changed };
    if !changed || !ends {
        let outcome = if changed { "succeeded" } else { "unchanged" };
        let response = json(StatusCode::OK, to_bytes(&standing)?);
        return Ok(Answered { response, outcome, counted: outcome, operation: Some(id) });
    }
    let ended = match waiting {
        Some(waiting) => waiting.done(wait).await,
        None => None,
    };
    match ended {
        Some(done) => {
            // What this request changed is that the operation was ended, whatever the operation itself says of it.
            let mut mutated: Mutated =
                serde_json::from_slice(&done.body).map_err(|error| StoreError::corrupt("an operation", error))?;
            mutated.changed = true;
            let response = json(StatusCode::OK, to_bytes(&mutated)?);
            let outcome = done.state.as_str();
            Ok(Answered { response, outcome, counted: outcome, operation: Some(id) })
        }
        None => {
            let mut answered = accepted(id, to_bytes(&standing)?);
            answered.outcome = "accepted";
            Ok(answered)
        }
    }
}

async fn read(control: Control, parts: &Parts, body: Body, trail: &mut Trail) -> Result<Asking, Refusal> {
    let mut take = |reason: Option<String>, change_ticket: Option<String>| {
        texts(reason.as_ref(), change_ticket.as_ref())?;
        trail.reason = reason;
        trail.change_ticket = change_ticket;
        Ok::<_, Refusal>(())
    };
    Ok(match control {
        Control::Cancel => {
            let body: CancelBody = request::body(&parts.headers, body).await?;
            take(body.reason, body.change_ticket)?;
            Asking::Cancel { keep_moved: body.keep_moved }
        }
        Control::Pause | Control::Resume | Control::Resolve => {
            let body: ControlBody = request::body(&parts.headers, body).await?;
            take(body.reason, body.change_ticket)?;
            match control {
                Control::Pause => Asking::Pause,
                Control::Resume => Asking::Resume,
                _ => Asking::Resolve,
            }
        }
        Control::Approve | Control::Reject => {
            let body: DecideBody = request::body(&parts.headers, body).await?;
            take(body.reason, body.change_ticket)?;
            request::free_text("comment", body.comment.as_ref(), 1_000)?;
            let Some(digest) = body.digest.filter(|digest| !digest.is_empty()) else {
                let detail = "digest: the operation's `approval.digest`, so that what is decided is what was looked at";
                return Err(Refusal::invalid(detail));
            };
            match control {
                Control::Approve => Asking::Approve { digest, comment: body.comment },
                _ => Asking::Reject { digest, comment: body.comment },
            }
        }
    })
}

struct Wanted<'a> {
    asking: &'a Asking,
    caller: &'a Caller,
    if_match: Option<IfMatch>,
    validate_only: bool,
    waits: bool,
    trail: &'a Trail,
}

#[derive(Debug)]
enum Committed {
    Unchanged(Operation),
    Changed(Operation),
}

/// Decides and writes under the operation's lock.
async fn commit(app: &App, id: OperationId, wanted: &Wanted<'_>) -> Result<Committed, Refusal> {
    let mut transaction = app.pool.begin().await.map_err(StoreError::from)?;
    let connection: &mut PgConnection = &mut transaction;
    let locked = store::lock(connection, id).await?.ok_or_else(|| super::absent("operation", id))?;
    let operation = reads::operation_dto(&locked.row)?;
    if let Some(if_match) = &wanted.if_match
        && !if_match.allows(operation.revision)
    {
        let detail = format!("the operation is at revision {}: read it again and decide anew", operation.revision);
        return Err(Problem::new(Code::RevisionMismatch, detail).with("revision", operation.revision).into());
    }
    let revisions = match (&wanted.asking, &operation.approval) {
        (Asking::Approve { .. }, Some(gate)) => {
            let resources: Vec<&str> = gate.revisions.keys().map(String::as_str).collect();
            store::revisions(connection, &resources).await?
        }
        _ => BTreeMap::new(),
    };
    let asker = Asker {
        subject: &wanted.caller.principal.subject,
        is_admin: wanted.caller.principal.scopes.allow(Scope::Admin),
        reason: wanted.trail.reason.as_deref(),
    };
    let decided = decide(&operation, wanted.asking, asker, &revisions, locked.now);
    let change = match decided {
        Ok(Some(change)) if !wanted.validate_only => change,
        Ok(_) => return Ok(Committed::Unchanged(operation)),
        Err(problem) => {
            if problem.code == Code::DigestMismatch {
                store::wake(connection, id).await?;
                transaction.commit().await.map_err(StoreError::from)?;
                // The worker looks at the gate, and asks again with the digest of what is there now.
                app.wakeups.control(wanted.asking.control(), id, &operation.target, &wanted.trail.traceparent);
            }
            return Err((*problem).into());
        }
    };
    let row = write(connection, app, &locked, &operation, &change, wanted).await?;
    transaction.commit().await.map_err(|error| {
        tracing::warn!(%error, operation = %id, "it is not known whether a change of an operation was committed");
        Refusal::unavailable()
    })?;
    if matches!(change.write, Written::Paused(_)) && operation.children.is_some() {
        // Their pause is their parent's; missed, they find out by themselves within seconds.
        if let Err(error) = operations::wake_children(&app.pool, id).await {
            tracing::debug!(%error, "children were not woken");
        }
    }
    Ok(Committed::Changed(reads::operation_dto(&row)?))
}

async fn write(
    connection: &mut PgConnection,
    app: &App,
    locked: &Locked,
    operation: &Operation,
    change: &Change,
    wanted: &Wanted<'_>,
) -> Result<reads::OperationRow, Refusal> {
    let failed = |error| StoreError::corrupt("a change of an operation", error);
    let text = match &change.write {
        Written::Cancel(cancel) => json_text(cancel),
        Written::Paused(paused) => json_text(paused),
        Written::Approval(gate) => json_text(gate),
        Written::Resolve(resolve) => json_text(resolve),
    }
    .map_err(failed)?;
    let mut row = Write { ingress: wanted.waits.then_some(app.instance.as_str()), ..Write::default() };
    match &change.write {
        Written::Cancel(_) => {
            row.cancel = Some(&text);
            row.state = Some(change.state.as_str());
        }
        Written::Paused(paused) => row.paused = Some(paused.as_ref().map(|_| text.as_str())),
        Written::Approval(_) => row.approval = Some(&text),
        Written::Resolve(_) => row.resolve = Some(&text),
    }
    let seq = locked.row.event_seq.unsigned_abs() + 1;
    let event = event(seq, operation, change, wanted).map_err(failed)?;
    let new = NewEvent { id: event.id, nats_subject: &event.nats_subject, payload: &event.payload };
    Ok(store::write(connection, operation.id, row, change.resource, new).await?)
}

fn json_text(value: &impl Serialize) -> Result<String, serde_json::Error> {
    serde_json::to_string(value)
}

/// The event of a change, which is the operation's `seq`th.
fn event(
    seq: u64,
    operation: &Operation,
    change: &Change,
    wanted: &Wanted<'_>,
) -> Result<PreparedEvent, serde_json::Error> {
    let actor = wanted.caller.principal.actor(Some(wanted.caller.address.ip().to_string()));
    let mut detail = change.detail.clone();
    detail.insert("verb".to_owned(), operation.verb.as_str().into());
    detail.insert("target".to_owned(), operation.target.as_str().into());
    let data = EventData {
        operation: Some(operation.id),
        operation_seq: Some(seq),
        actor: Some(actor.subject.clone()),
        state: Some(change.state),
        phase: operation.phase.clone(),
        progress: Some(operation.progress.clone()),
        audit: AuditFacts {
            verb: wanted.asking.control().as_str().to_owned(),
            outcome: "accepted".to_owned(),
            actor: Some(actor),
            reason: wanted.trail.reason.clone(),
            change_ticket: wanted.trail.change_ticket.clone(),
            latency_ms: Some(u64::try_from(wanted.caller.elapsed().as_millis()).unwrap_or(u64::MAX)),
            revision_before: Some(operation.revision),
            revision_after: Some(operation.revision + 1),
        },
        detail,
    };
    prepare_event(change.resource, &operation.id.to_string(), change.what, &wanted.trail.traceparent, data)
}

#[cfg(test)]
mod tests;
