//! `:drain`: everything that runs on the peer leaves it. Destructive, so it wants the confirmation of its plan.

use std::time::Duration;

use axum::body::Body;
use http::request::Parts;
use omnirelay_contract::rest::{DrainBody, Humantime};
use omnirelay_workflow::PeerId;
use omnirelay_workflow::drain::{DrainParams, OnDeadline};
use omnirelay_workflow::operation::{Target, Verb};
use omnirelay_workflow::settings::DrainSettings;

use super::mutation::{Parsed, common, digest_of, params_of};
use crate::answer::Refusal;
use crate::submission::Asked;
use crate::{App, request};

/// The longest deadline, a year: beyond it a number is a mistake.
const MAX_DEADLINE: Duration = Duration::from_secs(366 * 24 * 3600);

pub async fn parse(app: &App, peer: PeerId, parts: &Parts, body: Body) -> Result<Parsed, Refusal> {
    let mut body: DrainBody = request::body(&parts.headers, body).await?;
    let common = common!(body, confirmed)?;
    let settings = app.settings.fresh(&app.pool).await?;
    let params =
        params(&settings.settings.drain, body.deadline, body.on_deadline, body.max_concurrent, body.keep_moved)?;
    Ok(Parsed {
        verb: Verb::PeersDrain,
        id: None,
        about: Target::Peer(peer),
        asked: Asked::Peer,
        common,
        params: params_of(&params)?,
        request_digest: digest_of(parts, &body)?,
    })
}

/// A drain's parameters: what was asked for, and the settings for the rest.
pub fn params(
    defaults: &DrainSettings,
    deadline: Option<Humantime>,
    on_deadline: Option<OnDeadline>,
    max_concurrent: Option<u32>,
    keep_moved: bool,
) -> Result<DrainParams, Refusal> {
    let deadline = deadline.map(|deadline| deadline.0).or(defaults.deadline);
    if deadline.is_some_and(|deadline| deadline < Duration::from_secs(1) || deadline > MAX_DEADLINE) {
        return Err(Refusal::invalid("deadline: from 1s to 366d"));
    }
    let max_concurrent = max_concurrent.unwrap_or(defaults.max_concurrent);
    if !(1..=1_000).contains(&max_concurrent) {
        return Err(Refusal::invalid("maxConcurrent: from 1 to 1000"));
    }
    Ok(DrainParams {
        deadline_secs: deadline.map(|deadline| deadline.as_secs()),
        on_deadline: on_deadline.unwrap_or(defaults.on_deadline),
        max_concurrent,
        keep_moved,
        ..DrainParams::default()
    })
}
