//! `PATCH /control/peers/{id}` (a merge patch of labels and metadata) and `PUT /control/peers/{id}` (the peer as it is to be).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use omnirelay_contract::rest::{PatchPeerBody, PutPeerBody};
use omnirelay_workflow::PeerId;
use omnirelay_workflow::operation::{Target, Verb};
use omnirelay_workflow::patch;
use omnirelay_workflow::resource::{Labels, PeerState};
use serde_json::{Value, json};

use super::mutation::{Parsed, common, digest_of, params_of, serve};
use super::{Segment, id};
use crate::answer::Refusal;
use crate::submission::Asked;
use crate::{App, request};

pub async fn patch(State(app): State<Arc<App>>, Segment(segment): Segment, request: Request) -> Response {
    if segment.contains(':') {
        // An action, which is only ever posted.
        return super::method_not_allowed(request.method().clone(), request.uri().clone()).await;
    }
    serve(&app, Verb::PeersPatch, format!("peers/{segment}"), request, async |_, parts, body| {
        let peer: PeerId = id(&segment)?;
        let body: PatchPeerBody = request::patch(&parts.headers, body).await?;
        let common = common!(body)?;
        if body.labels.is_none() && body.metadata.is_none() {
            return Err(Refusal::invalid("a patch names labels, metadata or both"));
        }
        // What can be seen to be wrong whatever the peer has now.
        let wanted = patch::PeerPatch { labels: body.labels.clone(), metadata: body.metadata.clone() };
        patch::peer(&Labels::new(), &json!({}), &wanted).map_err(|wrong| Refusal::invalid(wrong.to_string()))?;
        let mut params = serde_json::Map::new();
        for (name, value) in [("labels", &body.labels), ("metadata", &body.metadata)] {
            if let Some(value) = value {
                params.insert(name.to_owned(), value.clone());
            }
        }
        Ok(Parsed {
            verb: Verb::PeersPatch,
            id: None,
            about: Target::Peer(peer),
            asked: Asked::Peer,
            common,
            params: Value::Object(params).to_string(),
            request_digest: digest_of(parts, &body)?,
        })
    })
    .await
}

pub async fn put(State(app): State<Arc<App>>, Segment(segment): Segment, request: Request) -> Response {
    if segment.contains(':') {
        // An action, which is only ever posted.
        return super::method_not_allowed(request.method().clone(), request.uri().clone()).await;
    }
    serve(&app, Verb::PeersPut, format!("peers/{segment}"), request, async |_, parts, body| {
        let peer: PeerId = id(&segment)?;
        let body: PutPeerBody = request::body(&parts.headers, body).await?;
        let common = common!(body)?;
        let invalid = |wrong: patch::InvalidPatch| Refusal::invalid(wrong.to_string());
        patch::checked_labels(&json!(body.labels)).map_err(invalid)?;
        patch::checked_metadata(body.metadata.clone().unwrap_or(Value::Null)).map_err(invalid)?;
        for (name, text) in [("name", &body.name), ("role", &body.role), ("address", &body.address)] {
            request::free_text(name, text.as_ref(), 253)?;
        }
        if body.name.as_ref().is_some_and(|name| name.trim().is_empty()) {
            return Err(Refusal::invalid("name: it is not empty"));
        }
        if body.capacity.is_some_and(|capacity| capacity > i32::MAX.unsigned_abs()) {
            return Err(Refusal::invalid("capacity: at most 2147483647"));
        }
        if body.state.is_some_and(|state| !matches!(state, PeerState::Active | PeerState::Cordoned)) {
            return Err(Refusal::invalid("state: active or cordoned, and only for the creation"));
        }
        let create = request::creates_only(&parts.headers)?;
        Ok(Parsed {
            verb: Verb::PeersPut,
            id: None,
            about: Target::Peer(peer),
            asked: Asked::PutPeer { create, cluster: body.cluster.clone(), state: body.state },
            common,
            params: params_of(&PutPeerBody { reason: None, change_ticket: None, gate: None, ..body.clone() })?,
            request_digest: digest_of(parts, &body)?,
        })
    })
    .await
}
