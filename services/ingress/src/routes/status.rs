//! `GET /control/status`: headroom, what needs attention and the command for it, lags. The page at 3 a.m.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use omnirelay_store::StoreError;
use omnirelay_store::reads::status::{self, TroubledOperation};
use omnirelay_workflow::Timestamp;
use omnirelay_workflow::operation::Blocker;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Reader;
use crate::App;
use crate::answer::{Refusal, to_bytes};
use crate::page::{answer, content_tag};

/// Of each kind of trouble.
const MOST: u32 = 100;

/// Something that somebody should look at, and the command to copy.
#[derive(Debug, Serialize)]
struct Attention {
    code: String,
    subject: String,
    message: String,
    since: Timestamp,
    command: String,
}

pub async fn get(State(app): State<Arc<App>>, reader: Reader) -> Response {
    read(&app, &reader).await.unwrap_or_else(|refusal| refusal.at(reader.uri.path()).into_response())
}

async fn read(app: &App, reader: &Reader) -> Result<Response, Refusal> {
    crate::request::query(&reader.uri, &[])?;
    let clusters: Vec<Value> = status::clusters(&app.pool)
        .await?
        .into_iter()
        .map(|cluster| {
            json!({
                "id": cluster.id,
                "state": cluster.state,
                "peers": cluster.peers,
                "healthy": cluster.healthy,
                "schedulable": cluster.schedulable,
                "draining": cluster.draining,
                "headroom": {"capacity": cluster.capacity, "load": cluster.load},
            })
        })
        .collect();
    let operations: Map<String, Value> =
        status::states(&app.pool).await?.into_iter().map(|(state, count)| (state, count.into())).collect();
    let attention = attention(app).await?;
    let lags = status::lags(&app.pool).await?;
    let lasting = to_bytes(&json!([clusters, operations, attention]))?;
    let body = to_bytes(&json!({
        "clusters": clusters,
        "operations": operations,
        "attention": attention,
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

async fn attention(app: &App) -> Result<Vec<Attention>, StoreError> {
    let mut all = Vec::new();
    for operation in status::troubled(&app.pool, MOST).await? {
        all.extend(of_operation(&operation)?);
    }
    for (peer, since) in status::unreachable(&app.pool, MOST).await? {
        all.push(Attention {
            code: "peer-unreachable".to_owned(),
            subject: format!("peers/{peer}"),
            message: "its agent is not heard of".to_owned(),
            since,
            command: format!("omnirelay mesh peers why {peer}"),
        });
    }
    for letter in status::dead_letters(&app.pool, MOST).await? {
        let operation = letter.operation.map_or_else(|| "unknown".to_owned(), |id| id.to_string());
        all.push(Attention {
            code: "dead-letter".to_owned(),
            subject: format!("operations/{operation}"),
            message: letter.error,
            since: letter.at,
            command: format!("omnirelay mesh ops get {operation}"),
        });
    }
    Ok(all)
}

fn of_operation(operation: &TroubledOperation) -> Result<Vec<Attention>, StoreError> {
    let id = operation.id;
    if operation.state == "stuck" {
        return Ok(vec![Attention {
            code: "stuck".to_owned(),
            subject: format!("operations/{id}"),
            message: format!("an undo on {} kept failing; what is left is in its result", operation.target),
            since: operation.since,
            command: format!("omnirelay mesh ops get {id}"),
        }]);
    }
    let blockers: Vec<Blocker> = serde_json::from_str(&operation.blockers)
        .map_err(|error| StoreError::corrupt("an operation's blockers", error))?;
    Ok(blockers
        .into_iter()
        .map(|blocker| Attention {
            code: blocker.code.to_string(),
            subject: format!("operations/{id}"),
            message: format!("{}: {}: {}", operation.target, blocker.subject, blocker.message),
            since: blocker.since,
            command: format!("omnirelay mesh ops attach {id}"),
        })
        .collect())
}
