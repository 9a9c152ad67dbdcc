//! `GET /control/status`: headroom, what needs attention and the command for it, what changed lately, lags. The page at 3 a.m.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use omnirelay_contract::rest::Operation;
use omnirelay_store::StoreError;
use omnirelay_store::live::Snapshot;
use omnirelay_store::reads;
use omnirelay_store::reads::status::{self, ClusterStatus, ServiceStatus};
use omnirelay_workflow::gate::Gate;
use omnirelay_workflow::operation::{BlockerCode, State as OperationState};
use omnirelay_workflow::settings::Amount;
use omnirelay_workflow::{OperationId, Timestamp, budget};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Reader;
use crate::App;
use crate::answer::{Refusal, to_bytes};
use crate::page::{answer, content_tag};

/// Of each kind of trouble.
const MOST: u32 = 100;
const MOST_SERVICES: u32 = 1_000;
/// What changed since, and how much of it.
const LATELY_SECS: f64 = 2.0 * 3600.0;
const MOST_CHANGES: u32 = 50;

/// Something that somebody should look at, and the command to copy.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Attention {
    kind: Kind,
    /// A blocker's code, or the kind.
    code: String,
    /// What `command` is about.
    subject: String,
    /// Of an operation: its target.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    message: String,
    since: Timestamp,
    /// Who has what is waited for: the one who asked for the operation, or the operations that have the slots.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    holders: Vec<String>,
    /// Of a queued one, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<Wanted>,
    command: String,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
enum Kind {
    Stuck,
    Blocked,
    AwaitingApproval,
    Queued,
    Unreachable,
    DeadLetter,
}

/// Whose yes is missing.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    gate: String,
    rule: String,
    /// Anybody with this scope but the one who asked.
    scope: String,
    not_by: String,
    have: usize,
    need: u32,
    approved_by: Vec<String>,
    expires_at: Timestamp,
}

pub async fn get(State(app): State<Arc<App>>, reader: Reader) -> Response {
    read(&app, &reader).await.unwrap_or_else(|refusal| refusal.at(reader.uri.path()).into_response())
}

async fn read(app: &App, reader: &Reader) -> Result<Response, Refusal> {
    crate::request::query(&reader.uri, &[])?;
    let settings = app.settings.fresh(&app.pool).await?;
    let clusters: Vec<Value> =
        status::clusters(&app.pool).await?.iter().map(|one| cluster(one, &settings)).collect::<Result<_, _>>()?;
    let services: Vec<Value> =
        status::services(&app.pool, MOST_SERVICES).await?.iter().map(|one| service(one, &settings)).collect();
    let operations: Map<String, Value> =
        status::states(&app.pool).await?.into_iter().map(|(state, count)| (state, count.into())).collect();
    let attention = attention(app).await?;
    let changes: Vec<Value> = status::ended(&app.pool, LATELY_SECS, MOST_CHANGES)
        .await?
        .iter()
        .map(|row| Ok(change(&reads::operation_dto(row)?)))
        .collect::<Result<_, StoreError>>()?;
    let lags = status::lags(&app.pool).await?;
    let lasting = to_bytes(&json!([clusters, services, operations, attention, changes]))?;
    let body = to_bytes(&json!({
        "clusters": clusters,
        "services": services,
        "operations": operations,
        "attention": attention,
        "changes": changes,
        "lags": {
            "outboxPending": lags.outbox_pending,
            "outboxLagSeconds": lags.outbox_lag_seconds,
            "auditLag": lags.position.saturating_sub(lags.audit_position),
            "auditLagSeconds": lags.audit_lag_seconds,
            "auditPosition": lags.audit_position,
            "position": lags.position,
        },
    }))?;
    Ok(answer(&reader.headers, &content_tag(&[&lasting, &lags.position.to_be_bytes()]), body))
}

/// `maxUnavailable` and `slotsFree` are null where there is no budget.
fn cluster(one: &ClusterStatus, settings: &Snapshot) -> Result<Value, StoreError> {
    let own: Option<Amount> = one
        .max_unavailable
        .as_deref()
        .map(|text| text.parse().map_err(|error| StoreError::corrupt("a cluster's maxUnavailable", error)))
        .transpose()?;
    let peers = u32::try_from(one.peers).unwrap_or(u32::MAX);
    let limit = budget::of_cluster(own.as_ref(), settings.settings.disruption.max_unavailable.as_ref(), peers);
    Ok(json!({
        "id": one.id,
        "state": one.state,
        "peers": one.peers,
        "healthy": one.healthy,
        "schedulable": one.schedulable,
        "draining": one.draining,
        "unavailable": one.unavailable,
        "maxUnavailable": limit,
        "slotsFree": limit.map(|limit| u64::from(limit).saturating_sub(one.unavailable)),
        "queued": one.queued,
        "headroom": {"capacity": one.capacity, "load": one.load},
    }))
}

fn service(one: &ServiceStatus, settings: &Snapshot) -> Value {
    let total = u32::try_from(one.total).unwrap_or(u32::MAX);
    let limit = settings.settings.disruption.services.get(&one.service).map(|amount| amount.of(total));
    json!({
        "cluster": one.cluster,
        "service": one.service,
        "total": one.total,
        "ready": one.ready,
        "moving": one.moving,
        "unavailable": one.unavailable,
        "maxUnavailable": limit,
        "free": limit.map(|limit| u64::from(limit).saturating_sub(one.unavailable)),
    })
}

/// Who did what, by which ticket, and what came of it.
fn change(operation: &Operation) -> Value {
    let approved_by: Vec<&str> = match &operation.approval {
        Some(gate) => gate.approvals.iter().map(|given| given.actor.as_str()).collect(),
        None => Vec::new(),
    };
    json!({
        "operation": operation.id,
        "verb": operation.verb,
        "target": operation.target,
        "actor": operation.actor,
        "reason": operation.reason,
        "changeTicket": operation.change_ticket,
        "approvedBy": approved_by,
        "outcome": operation.state,
        "at": operation.finished_at,
    })
}

async fn attention(app: &App) -> Result<Vec<Attention>, StoreError> {
    let mut all = Vec::new();
    for row in status::troubled(&app.pool, MOST).await? {
        of_operation(&reads::operation_dto(&row)?, &mut all);
    }
    for (peer, since) in status::unreachable(&app.pool, MOST).await? {
        all.push(Attention {
            kind: Kind::Unreachable,
            code: BlockerCode::PeerUnreachable.to_string(),
            subject: format!("peers/{peer}"),
            target: None,
            message: "its agent is not heard of".to_owned(),
            since,
            holders: Vec::new(),
            position: None,
            approval: None,
            command: format!("omnirelay mesh peers why {peer}"),
        });
    }
    for letter in status::dead_letters(&app.pool, MOST).await? {
        let (subject, command) = match letter.operation {
            Some(id) => (format!("operations/{id}"), format!("omnirelay ops get {id}")),
            None => ("operations/unknown".to_owned(), "omnirelay ops list --state stuck".to_owned()),
        };
        all.push(Attention {
            kind: Kind::DeadLetter,
            code: "dead-letter".to_owned(),
            subject,
            target: None,
            message: letter.error,
            since: letter.at,
            holders: Vec::new(),
            position: None,
            approval: None,
            command,
        });
    }
    Ok(all)
}

/// An operation tells one thing, or each of its blockers.
fn of_operation(operation: &Operation, all: &mut Vec<Attention>) {
    let id = operation.id;
    let base = |kind: Kind, code: &str, message: String, since: Timestamp, command: String| Attention {
        kind,
        code: code.to_owned(),
        subject: format!("operations/{id}"),
        target: Some(operation.target.clone()),
        message,
        since,
        holders: vec![operation.actor.clone()],
        position: None,
        approval: None,
        command,
    };
    let verb = operation.verb;
    match operation.state {
        OperationState::Stuck => {
            let why = operation
                .error
                .as_ref()
                .map_or("an undo kept failing; what is left is in its result", |problem| problem.detail.as_str());
            let since = operation.finished_at.unwrap_or(operation.created_at);
            let message = format!("{verb} of {}: {why}", operation.target);
            all.push(base(Kind::Stuck, "stuck", message, since, format!("omnirelay ops resolve {id}")));
        }
        OperationState::AwaitingApproval => {
            let command = format!("omnirelay ops approve {id}");
            let message = match &operation.approval {
                Some(gate) => format!("{verb} of {}: {}", operation.target, said(gate, &operation.actor)),
                None => format!("{verb} of {} waits for approval", operation.target),
            };
            let since = operation.started_at.unwrap_or(operation.created_at);
            let entry = base(Kind::AwaitingApproval, "awaiting-approval", message, since, command);
            let approval = operation.approval.as_ref().map(|gate| wanted(gate, &operation.actor));
            all.push(Attention { approval, ..entry });
        }
        OperationState::Queued => {
            let queue = operation.queue.as_ref();
            let holders: Vec<String> = queue.map_or_else(Vec::new, |queue| names(&queue.holders));
            let position = queue.map(|queue| queue.position);
            let place = position.map_or_else(|| "queued".to_owned(), |position| format!("queued at place {position}"));
            // What the worker last told of it says who has the slots, peers that are out among them.
            let why = operation
                .blockers
                .first()
                .map_or_else(|| "the cluster's budget is used up".to_owned(), |blocker| blocker.message.clone());
            let message = format!("{verb} of {}: {place}: {why}", operation.target);
            let command = format!("omnirelay ops attach {id}");
            let entry = base(Kind::Queued, "budget", message, operation.created_at, command);
            all.push(Attention { holders, position, ..entry });
        }
        _ => all.extend(operation.blockers.iter().map(|blocker| {
            let message = format!("{}: {}: {}", operation.target, blocker.subject, blocker.message);
            let command = match (blocker.code, blocker.subject.strip_prefix("peers/")) {
                (BlockerCode::PeerUnreachable, Some(peer)) => format!("omnirelay mesh peers why {peer}"),
                (BlockerCode::Paused, _) => format!("omnirelay ops resume {id}"),
                _ => format!("omnirelay ops attach {id}"),
            };
            base(Kind::Blocked, blocker.code.as_str(), message, blocker.since, command)
        })),
    }
}

fn names(ids: &[OperationId]) -> Vec<String> {
    ids.iter().map(|id| format!("operations/{id}")).collect()
}

fn said(gate: &Gate, asked_by: &str) -> String {
    format!(
        "{} of {} approvals; anybody with {} may give one, but {asked_by}",
        gate.approvals.len(),
        gate.required,
        gate.approver_scope
    )
}

fn wanted(gate: &Gate, asked_by: &str) -> Wanted {
    Wanted {
        gate: gate.gate.to_string(),
        rule: gate.rule.clone(),
        scope: gate.approver_scope.clone(),
        not_by: asked_by.to_owned(),
        have: gate.approvals.len(),
        need: gate.required,
        approved_by: gate.approvals.iter().map(|given| given.actor.clone()).collect(),
        expires_at: gate.expires_at,
    }
}
