//! `:uncordon`: the caller's holds go, and those of finished drains; with `all`, other people's manual ones too.

use axum::body::Body;
use http::request::Parts;
use omnirelay_contract::rest::UncordonBody;
use omnirelay_workflow::PeerId;
use omnirelay_workflow::operation::{Target, Verb};
use serde_json::json;

use super::mutation::{Parsed, common, digest_of};
use crate::answer::Refusal;
use crate::request;
use crate::submission::Asked;

pub async fn parse(peer: PeerId, parts: &Parts, body: Body) -> Result<Parsed, Refusal> {
    let body: UncordonBody = request::body(&parts.headers, body).await?;
    Ok(Parsed {
        verb: Verb::PeersUncordon,
        id: None,
        about: Target::Peer(peer),
        asked: Asked::Peer,
        common: common!(body)?,
        request_digest: digest_of(parts, &body)?,
        params: json!({"all": body.all}).to_string(),
    })
}
