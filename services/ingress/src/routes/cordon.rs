//! `:cordon`: a hold of the caller's on the peer.

use axum::body::Body;
use http::request::Parts;
use omnirelay_contract::rest::CordonBody;
use omnirelay_workflow::PeerId;
use omnirelay_workflow::operation::{Target, Verb};

use super::mutation::{Parsed, common, digest_of};
use crate::answer::Refusal;
use crate::request;
use crate::submission::Asked;

pub async fn parse(peer: PeerId, parts: &Parts, body: Body) -> Result<Parsed, Refusal> {
    let body: CordonBody = request::body(&parts.headers, body).await?;
    Ok(Parsed {
        verb: Verb::PeersCordon,
        id: None,
        about: Target::Peer(peer),
        asked: Asked::Peer,
        common: common!(body)?,
        request_digest: digest_of(parts, &body)?,
        params: "{}".to_owned(),
    })
}
