//! `GET /control/config`, `/schema`, `/history`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use omnirelay_contract::rest::{Config, ConfigRevision, Page};
use omnirelay_store::{StoreError, config, reads};
use omnirelay_workflow::settings;

use super::Reader;
use crate::App;
use crate::answer::{Refusal, to_bytes};
use crate::page::{ListQuery, answer, content_tag, revision_tag};

pub async fn get(State(app): State<Arc<App>>, reader: Reader) -> Response {
    read(&app, &reader).await.unwrap_or_else(|refusal| refusal.at(reader.uri.path()).into_response())
}

async fn read(app: &App, reader: &Reader) -> Result<Response, Refusal> {
    crate::request::query(&reader.uri, &[])?;
    let snapshot = app.settings.fresh(&app.pool).await?;
    let body = Config { settings: snapshot.value.clone(), revision: snapshot.revision };
    Ok(answer(&reader.headers, &revision_tag(snapshot.revision), to_bytes(&body)?))
}

pub async fn schema(reader: Reader) -> Response {
    let answered = || -> Result<Response, Refusal> {
        crate::request::query(&reader.uri, &[])?;
        let body = to_bytes(&settings::schema())?;
        Ok(answer(&reader.headers, &content_tag(&[&body]), body))
    };
    answered().unwrap_or_else(|refusal| refusal.at(reader.uri.path()).into_response())
}

pub async fn history(State(app): State<Arc<App>>, reader: Reader) -> Response {
    revisions(&app, &reader).await.unwrap_or_else(|refusal| refusal.at(reader.uri.path()).into_response())
}

async fn revisions(app: &App, reader: &Reader) -> Result<Response, Refusal> {
    let query = ListQuery::parse(&reader.uri, &[])?;
    let (_, newest_first) = query.order(&["revision"], ("revision", true))?;
    let position = reads::position(&app.pool).await?;
    let rows = config::history(&app.pool, newest_first, query.after::<u64>()?, query.limit).await?;
    let items = rows
        .into_iter()
        .map(|row| {
            Ok(ConfigRevision {
                revision: row.revision,
                settings: serde_json::from_str(&row.settings).map_err(|e| StoreError::corrupt("the settings", e))?,
                at: row.at,
                actor: row.actor,
                operation: row.operation,
                reason: row.reason,
                change_ticket: row.change_ticket,
            })
        })
        .collect::<Result<Vec<_>, StoreError>>()?;
    let next_page_token = query.next(items.len(), items.last().map(|item| item.revision.to_string()));
    let etag = content_tag(&[&to_bytes(&items)?, next_page_token.as_deref().unwrap_or("").as_bytes()]);
    Ok(answer(&reader.headers, &etag, to_bytes(&Page { items, next_page_token, position })?))
}
