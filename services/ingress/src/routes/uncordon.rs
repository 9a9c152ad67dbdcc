//! `:uncordon`: the caller's holds go, and those of finished drains; with `all`, other people's manual ones too.

use axum::body::Body;
use http::request::Parts;
use omnirelay_contract::problem::Problem;
use omnirelay_contract::rest::{Plan, UncordonBody};
use omnirelay_workflow::cordon::uncordon;
use omnirelay_workflow::operation::Verb;
use serde_json::json;

use super::cordon::{digest_of, peer_of, quick_plan, texts};
use super::mutation::Parsed;
use crate::answer::Refusal;
use crate::submission::Submission;
use crate::{App, request};

pub async fn parse(parts: &Parts, body: Body) -> Result<Parsed, Refusal> {
    let body: UncordonBody = request::body(&parts.headers, body).await?;
    texts(body.reason.as_ref(), body.change_ticket.as_ref())?;
    Ok(Parsed {
        verb: Verb::PeersUncordon,
        request_digest: digest_of(parts, &body)?,
        reason: body.reason,
        change_ticket: body.change_ticket,
        params: json!({"all": body.all}).to_string(),
        confirmation: None,
    })
}

/// Which holds would go, refused as the request would be.
pub async fn plan(app: &App, submission: &Submission, revision: u64) -> Result<Plan, Refusal> {
    let peer = peer_of(app, submission).await?;
    let all = submission.params.contains("true");
    let removed = uncordon(&peer.id, &peer.holds, &submission.principal.subject, all, peer.operation)
        .map_err(|rejected| Problem::from(&rejected))?;
    let changed = !removed.is_empty();
    let impact =
        json!({"peer": peer.id, "name": peer.name, "removed": removed, "holds": peer.holds, "changed": changed});
    Ok(quick_plan(app, submission, revision, impact))
}
