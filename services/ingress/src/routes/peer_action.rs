//! `POST /control/peers/{id}:cordon`, `:uncordon`, `:drain`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use omnirelay_workflow::PeerId;
use omnirelay_workflow::operation::Verb;

use super::mutation::serve;
use super::{Segment, cordon, drain, id, uncordon};
use crate::App;

pub async fn act(State(app): State<Arc<App>>, Segment(segment): Segment, request: Request) -> Response {
    let Some((peer, action)) = segment.rsplit_once(':') else {
        return super::method_not_allowed(request.method().clone(), request.uri().clone()).await;
    };
    let verb = match action {
        "cordon" => Verb::PeersCordon,
        "uncordon" => Verb::PeersUncordon,
        "drain" => Verb::PeersDrain,
        _ => return super::not_found(request.uri().clone()).await,
    };
    serve(&app, verb, format!("peers/{peer}"), request, async |app, parts, body| {
        let peer: PeerId = id(peer)?;
        match verb {
            Verb::PeersDrain => drain::parse(app, peer, parts, body).await,
            Verb::PeersUncordon => uncordon::parse(peer, parts, body).await,
            _ => cordon::parse(peer, parts, body).await,
        }
    })
    .await
}
