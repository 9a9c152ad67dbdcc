//! `GET /control/audit` and `/control/audit/{seq}`: newest first, without ETags.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use omnirelay_contract::rest::Page;
use omnirelay_store::audit::{self, AuditFilter};
use omnirelay_workflow::Timestamp;

use super::{Reader, Segment, absent, operation_id};
use crate::App;
use crate::answer::{Refusal, json, to_bytes};
use crate::page::ListQuery;

const FILTERS: &[&str] = &["operation", "actor", "target", "verb", "outcome", "since", "until"];

pub async fn list(State(app): State<Arc<App>>, reader: Reader) -> Response {
    read(&app, &reader).await.unwrap_or_else(|refusal| refusal.at(reader.uri.path()).into_response())
}

pub async fn get(State(app): State<Arc<App>>, reader: Reader, Segment(segment): Segment) -> Response {
    read_one(&app, &reader, &segment).await.unwrap_or_else(|refusal| refusal.at(reader.uri.path()).into_response())
}

async fn read(app: &App, reader: &Reader) -> Result<Response, Refusal> {
    let query = ListQuery::parse(&reader.uri, FILTERS)?;
    let text = |name: &str| query.filter(name).map(str::to_owned);
    let filter = AuditFilter {
        operation: query.filter("operation").map(operation_id).transpose()?,
        actor: text("actor"),
        target: text("target"),
        verb: text("verb"),
        outcome: text("outcome"),
        since: query.parsed::<Timestamp>("since")?,
        until: query.parsed::<Timestamp>("until")?,
    };
    let (_, newest_first) = query.order(&["seq"], ("seq", true))?;
    let after = query.after::<u64>()?;
    // Where a subscription goes on: behind what the log holds, not behind what has happened.
    let position = audit::head(&app.pool).await?.position;
    let items = audit::list(&app.pool, &filter, after, !newest_first, query.limit).await?;
    let next_page_token = query.next(items.len(), items.last().map(|record| record.seq.to_string()));
    Ok(json(StatusCode::OK, to_bytes(&Page { items, next_page_token, position })?))
}

async fn read_one(app: &App, reader: &Reader, segment: &str) -> Result<Response, Refusal> {
    crate::request::query(&reader.uri, &[])?;
    let seq: u64 = segment
        .parse()
        .ok()
        .filter(|seq| i64::try_from(*seq).is_ok())
        .ok_or_else(|| Refusal::invalid("an audit record is named by its number in the chain"))?;
    let record = audit::get(&app.pool, seq).await?.ok_or_else(|| absent("audit record", seq))?;
    Ok(json(StatusCode::OK, to_bytes(&record)?))
}
