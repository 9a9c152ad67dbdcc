//! The routes, a file for each endpoint.

mod approvals;
mod audit;
mod bulk_drain;
mod cluster;
mod cluster_write;
mod clusters;
mod config;
mod config_write;
mod cordon;
mod drain;
mod events;
mod health;
mod list_cache;
mod mutation;
mod operation;
mod operation_action;
mod operations;
mod peer;
mod peer_action;
mod peer_write;
mod peers;
mod plans;
mod status;
mod uncordon;
mod versions;
mod workloads;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, FromRequestParts, Path};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::request::Parts;
use http::{HeaderMap, Method, Uri};
use omnirelay_contract::problem::Code;
use omnirelay_runtime::auth::Scope;

pub use list_cache::ListCache;

use crate::App;
use crate::answer::Refusal;

pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/control/peers", get(peers::list))
        // axum cannot route `{id}:drain`: the segment is taken whole and split at its last colon.
        .route("/control/peers:drain", post(bulk_drain::act))
        .route(
            "/control/peers/{segment}",
            get(peer::get).post(peer_action::act).patch(peer_write::patch).put(peer_write::put),
        )
        .route("/control/peers/{id}/workloads", get(workloads::list))
        .route("/control/clusters", get(clusters::list))
        .route("/control/clusters/{segment}", get(cluster::get).post(cluster_write::act).put(cluster_write::put))
        .route("/control/operations", get(operations::list))
        .route("/control/operations/{segment}", get(operation::get).post(operation_action::act))
        .route("/control/approvals", get(approvals::list))
        .route("/control/config", get(config::get).patch(config_write::patch))
        .route("/control/config:rollback", post(config_write::rollback))
        .route("/control/config/schema", get(config::schema))
        .route("/control/config/history", get(config::history))
        .route("/control/audit", get(audit::list))
        .route("/control/audit/{seq}", get(audit::get))
        .route("/control/status", get(status::get))
        .route("/control/versions", get(versions::list))
        .route("/control/events", get(events::stream))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .route("/openapi.json", get(crate::openapi::serve))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .with_state(app)
}

/// A request for a read, let in or not: what every read begins with.
pub(crate) struct Reader {
    pub uri: Uri,
    pub headers: HeaderMap,
}

impl FromRequestParts<Arc<App>> for Reader {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        let address = address(parts);
        app.reader(&parts.headers, address, &parts.uri, Scope::Read)
            .await
            .map_err(|refusal| refusal.at(parts.uri.path()))?;
        Ok(Self { uri: parts.uri.clone(), headers: std::mem::take(&mut parts.headers) })
    }
}

/// As [`Reader`], for streams.
pub(crate) struct Observer {
    pub uri: Uri,
    pub headers: HeaderMap,
}

impl FromRequestParts<Arc<App>> for Observer {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        let address = address(parts);
        app.reader(&parts.headers, address, &parts.uri, Scope::Observe)
            .await
            .map_err(|refusal| refusal.at(parts.uri.path()))?;
        Ok(Self { uri: parts.uri.clone(), headers: std::mem::take(&mut parts.headers) })
    }
}

/// The segment behind the collection, decoded.
pub(crate) struct Segment(pub String);

impl FromRequestParts<Arc<App>> for Segment {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        Path::<String>::from_request_parts(parts, app)
            .await
            .map(|Path(segment)| Self(segment))
            .map_err(|_| Refusal::invalid("the path is not UTF-8").at(parts.uri.path()))
    }
}

/// Where the request comes from.
fn address(parts: &Parts) -> SocketAddr {
    parts
        .extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map_or(SocketAddr::from(([0, 0, 0, 0], 0)), |ConnectInfo(address)| *address)
}

/// An id from the path, or a 400 that names it.
fn id<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Refusal> {
    text.parse().map_err(|error: T::Err| Refusal::invalid(error.to_string()))
}

/// An operation's id from the path.
fn operation_id(text: &str) -> Result<omnirelay_workflow::OperationId, Refusal> {
    text.parse().map_err(|_| {
        let text: String = text.chars().take(80).collect();
        Refusal::invalid(format!("operation {text:?} is not an id: it is a UUID"))
    })
}

fn absent(what: &str, id: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::NotFound, format!("there is no {what} {id}"))
}

async fn not_found(uri: Uri) -> Response {
    Refusal::new(Code::NotFound, "there is no such route: `/control/peers` is one").at(uri.path()).into_response()
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let detail = format!("{method} is not a method of this route");
    Refusal::new(Code::MethodNotAllowed, detail).at(uri.path()).into_response()
}
