//! `PATCH /control/config` and `POST /control/config:rollback`: one revision follows another, none is ever changed.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use omnirelay_contract::rest::{PatchConfigBody, RollbackConfigBody};
use omnirelay_store::{StoreError, config};
use omnirelay_workflow::operation::{Target, Verb};
use serde_json::json;

use super::mutation::{Parsed, common, digest_of, serve};
use crate::answer::Refusal;
use crate::submission::Asked;
use crate::{App, request};

const TARGET: &str = "config/settings";

pub async fn patch(State(app): State<Arc<App>>, request: Request) -> Response {
    serve(&app, Verb::ConfigPatch, TARGET.to_owned(), request, async |_, parts, body| {
        let mut body: PatchConfigBody = request::patch(&parts.headers, body).await?;
        let common = common!(body, confirmed)?;
        let Some(patch) = body.settings.clone().filter(serde_json::Value::is_object) else {
            return Err(Refusal::invalid("settings: an object, the merge patch of what GET /control/config shows"));
        };
        Ok(Parsed {
            verb: Verb::ConfigPatch,
            id: None,
            about: Target::Settings,
            params: json!({"settings": patch}).to_string(),
            asked: Asked::Config { patch, whole: false },
            common,
            request_digest: digest_of(parts, &body)?,
        })
    })
    .await
}

pub async fn rollback(State(app): State<Arc<App>>, request: Request) -> Response {
    serve(&app, Verb::ConfigRollback, TARGET.to_owned(), request, async |app, parts, body| {
        let mut body: RollbackConfigBody = request::body(&parts.headers, body).await?;
        let common = common!(body, confirmed)?;
        let Some(revision) = body.revision else {
            return Err(Refusal::invalid(
                "revision: the one whose settings are to hold again, as in GET /control/config/history",
            ));
        };
        let mut connection = app.pool.acquire().await.map_err(StoreError::from)?;
        let asked = match config::get(&mut connection, revision).await? {
            None => Asked::Missing(format!("there is no revision {revision} of the settings")),
            Some(row) => {
                let patch = serde_json::from_str(&row.settings).map_err(|e| StoreError::corrupt("the settings", e))?;
                Asked::Config { patch, whole: true }
            }
        };
        Ok(Parsed {
            verb: Verb::ConfigRollback,
            id: None,
            about: Target::Settings,
            asked,
            params: json!({"revision": revision}).to_string(),
            common,
            request_digest: digest_of(parts, &body)?,
        })
    })
    .await
}
