//! `/livez`, `/readyz`, `/metrics`: for whoever runs the process, without a token.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use omnirelay_store::reads;
use serde_json::json;

use crate::App;
use crate::answer;

/// With events waiting longer than this for their position, streams are not what they should be.
const MAX_OUTBOX_LAG_SECONDS: f64 = 30.0;
const PATIENCE: Duration = Duration::from_secs(2);

/// The process runs.
pub async fn livez() -> &'static str {
    "ok\n"
}

/// Whether requests should come here. NATS is told of and not needed: without it everything goes on, slower.
pub async fn readyz(State(app): State<Arc<App>>) -> Response {
    let lags = tokio::time::timeout(PATIENCE, reads::status::lags(&app.pool)).await;
    let nats = if app.bus.is_connected() { "connected" } else { "away" };
    let (ready, body) = match lags {
        Ok(Ok(lags)) => {
            let behind = lags.outbox_lag_seconds > MAX_OUTBOX_LAG_SECONDS;
            let relay = if behind { "behind" } else { "ok" };
            let body = json!({
                "database": "ok", "nats": nats, "relay": relay, "outboxLagSeconds": lags.outbox_lag_seconds,
            });
            (!app.stop.is_cancelled(), body)
        }
        Ok(Err(_)) | Err(_) => (false, json!({"database": "away", "nats": nats})),
    };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer::json(status, body.to_string())
}

/// In Prometheus' text format.
pub async fn metrics(State(app): State<Arc<App>>) -> Response {
    let mut response = app.metrics.render().into_response();
    let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, format);
    response
}
