//! `POST /control/peers/{id}:cordon`, `:uncordon`, `:drain`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use omnirelay_runtime::auth::Scope;
use omnirelay_workflow::PeerId;
use omnirelay_workflow::operation::Verb;

use super::mutation::{Answered, Trail, finish, mutate};
use super::{Segment, address, cordon, drain, id, uncordon};
use crate::App;
use crate::answer::Refusal;
use crate::caller::Caller;

pub async fn act(State(app): State<Arc<App>>, Segment(segment): Segment, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let Some((peer, action)) = segment.rsplit_once(':') else {
        return super::method_not_allowed(parts.method, parts.uri).await;
    };
    let Some(verb) = Verb::ALL.iter().copied().find(|verb| verb.action() == action) else {
        return super::not_found(parts.uri).await;
    };
    let caller = match app.authenticate(&parts.headers, address(&parts)) {
        Ok(caller) => caller,
        Err(refusal) => {
            metrics::counter!("omnirelay_mutations_total", "verb" => verb.as_str(), "outcome" => refusal.code().as_str())
                .increment(1);
            return refusal.at(&path).into_response();
        }
    };
    let mut trail = Trail::new(verb.as_str(), format!("peers/{peer}"), &parts);
    let result = run(&app, &caller, verb, peer, &parts, body, &mut trail).await;
    finish(&app, &caller, &trail, &path, result).await
}

async fn run(
    app: &App,
    caller: &Caller,
    verb: Verb,
    peer: &str,
    parts: &Parts,
    body: axum::body::Body,
    trail: &mut Trail,
) -> Result<Answered, Refusal> {
    app.authorise(caller, Scope::Operate)?;
    let peer: PeerId = id(peer)?;
    let parsed = match verb {
        Verb::PeersCordon => cordon::parse(parts, body).await?,
        Verb::PeersUncordon => uncordon::parse(parts, body).await?,
        Verb::PeersDrain => drain::parse(parts, body, app.drain_defaults).await?,
    };
    trail.reason.clone_from(&parsed.reason);
    trail.change_ticket.clone_from(&parsed.change_ticket);
    mutate(app, caller, peer, parsed, parts, trail).await
}
