//! `GET /control/peers/{id}`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use omnirelay_store::reads;
use omnirelay_workflow::PeerId;

use super::{Reader, Segment, absent, id};
use crate::App;
use crate::answer::{Refusal, to_bytes};
use crate::page::{answer, revision_tag};

pub async fn get(State(app): State<Arc<App>>, reader: Reader, Segment(segment): Segment) -> Response {
    read(&app, &reader, &segment).await.unwrap_or_else(|refusal| refusal.at(reader.uri.path()).into_response())
}

async fn read(app: &App, reader: &Reader, segment: &str) -> Result<Response, Refusal> {
    crate::request::query(&reader.uri, &[])?;
    let id: PeerId = id(segment)?;
    let row = reads::peers::get(&app.pool, id.as_str()).await?.ok_or_else(|| absent("peer", &id))?;
    let peer = reads::peer_dto(&row)?;
    Ok(answer(&reader.headers, &revision_tag(peer.revision), to_bytes(&peer)?))
}
