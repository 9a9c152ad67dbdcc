//! `GET /control/versions`: which versions of the agent run, and on how many peers.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use omnirelay_store::reads;
use serde_json::json;

use super::Reader;
use crate::App;
use crate::answer::{Refusal, to_bytes};
use crate::page::{answer, content_tag};

pub async fn list(State(app): State<Arc<App>>, reader: Reader) -> Response {
    read(&app, &reader).await.unwrap_or_else(|refusal| refusal.at(reader.uri.path()).into_response())
}

async fn read(app: &App, reader: &Reader) -> Result<Response, Refusal> {
    crate::request::query(&reader.uri, &[])?;
    let versions = reads::peers::versions(&app.pool).await?;
    let items: Vec<_> = versions.iter().map(|(version, peers)| json!({"version": version, "peers": peers})).collect();
    let body = to_bytes(&json!({ "items": items }))?;
    Ok(answer(&reader.headers, &content_tag(&[&body]), body))
}
