//! `GET /control/peers/{id}/workloads`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use omnirelay_contract::rest::Page;
use omnirelay_store::reads;
use omnirelay_workflow::PeerId;

use super::{Reader, Segment, absent, id};
use crate::App;
use crate::answer::{Refusal, to_bytes};
use crate::page::{ListQuery, answer, content_tag};

pub async fn list(State(app): State<Arc<App>>, reader: Reader, Segment(segment): Segment) -> Response {
    read(&app, &reader, &segment).await.unwrap_or_else(|refusal| refusal.at(reader.uri.path()).into_response())
}

async fn read(app: &App, reader: &Reader, segment: &str) -> Result<Response, Refusal> {
    let peer: PeerId = id(segment)?;
    let query = ListQuery::parse(&reader.uri, &[])?;
    query.order(&["id"], ("id", false)).and_then(|(_, descending)| {
        if descending { Err(Refusal::invalid("orderBy: workloads are ordered by id")) } else { Ok(()) }
    })?;
    let position = reads::position(&app.pool).await?;
    let items = reads::peers::workloads(&app.pool, peer.as_str(), query.after.as_deref(), query.limit).await?;
    if items.is_empty() && reads::peers::get(&app.pool, peer.as_str()).await?.is_none() {
        return Err(absent("peer", &peer));
    }
    let next_page_token = query.next(items.len(), items.last().map(|workload| workload.id.to_string()));
    let etag = content_tag(&[&to_bytes(&items)?, next_page_token.as_deref().unwrap_or("").as_bytes()]);
    Ok(answer(&reader.headers, &etag, to_bytes(&Page { items, next_page_token, position })?))
}
