//! `GET /control/approvals`: operations with an open gate, oldest first unless it is asked otherwise.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use omnirelay_contract::rest::Page;
use omnirelay_store::reads;
use omnirelay_workflow::OperationId;

use super::Reader;
use crate::App;
use crate::answer::{Refusal, to_bytes};
use crate::page::{ListQuery, answer, content_tag};

pub async fn list(State(app): State<Arc<App>>, reader: Reader) -> Response {
    read(&app, &reader).await.unwrap_or_else(|refusal| refusal.at(reader.uri.path()).into_response())
}

async fn read(app: &App, reader: &Reader) -> Result<Response, Refusal> {
    let query = ListQuery::parse(&reader.uri, &[])?;
    let (_, newest_first) = query.order(&["createdAt"], ("createdAt", false))?;
    let position = reads::position(&app.pool).await?;
    let rows =
        reads::operations::at_gates(&app.pool, !newest_first, query.after::<OperationId>()?, query.limit).await?;
    let items = rows.iter().map(reads::operation_dto).collect::<Result<Vec<_>, _>>()?;
    let next_page_token = query.next(items.len(), items.last().map(|operation| operation.id.to_string()));
    let etag = content_tag(&[&to_bytes(&items)?, next_page_token.as_deref().unwrap_or("").as_bytes()]);
    Ok(answer(&reader.headers, &etag, to_bytes(&Page { items, next_page_token, position })?))
}
