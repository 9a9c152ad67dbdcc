//! `GET /control/operations`, newest first.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use omnirelay_contract::rest::Page;
use omnirelay_store::reads::{self, operations::OperationFilter};
use omnirelay_workflow::OperationId;
use omnirelay_workflow::operation::{State as OperationState, Verb};

use super::{Reader, operation_id};
use crate::App;
use crate::answer::{Refusal, to_bytes};
use crate::page::{ListQuery, answer, content_tag};

const FILTERS: &[&str] = &["verb", "state", "target", "actor", "parent"];

pub async fn list(State(app): State<Arc<App>>, reader: Reader) -> Response {
    read(&app, &reader).await.unwrap_or_else(|refusal| refusal.at(reader.uri.path()).into_response())
}

async fn read(app: &App, reader: &Reader) -> Result<Response, Refusal> {
    let query = ListQuery::parse(&reader.uri, FILTERS)?;
    let filter = OperationFilter {
        verb: query.parsed::<Verb>("verb")?.map(|verb| verb.to_string()),
        states: query.any_of::<OperationState>("state")?.map(|states| states.iter().map(ToString::to_string).collect()),
        target: query.filter("target").map(str::to_owned),
        actor: query.filter("actor").map(str::to_owned),
        parent: query.filter("parent").map(operation_id).transpose()?,
    };
    let (_, newest_first) = query.order(&["createdAt"], ("createdAt", true))?;
    let position = reads::position(&app.pool).await?;
    let after = query.after::<OperationId>()?;
    let rows = reads::operations::page(&app.pool, &filter, !newest_first, after, query.limit).await?;
    let items = rows.iter().map(reads::operation_dto).collect::<Result<Vec<_>, _>>()?;
    let next_page_token = query.next(items.len(), items.last().map(|operation| operation.id.to_string()));
    let etag = content_tag(&[&to_bytes(&items)?, next_page_token.as_deref().unwrap_or("").as_bytes()]);
    Ok(answer(&reader.headers, &etag, to_bytes(&Page { items, next_page_token, position })?))
}
