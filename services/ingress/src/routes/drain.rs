//! `:drain`: everything that runs on the peer leaves it. Destructive, so it wants the confirmation of its plan.

use std::time::Duration;

use axum::body::Body;
use http::request::Parts;
use omnirelay_contract::rest::{DrainBody, Plan};
use omnirelay_runtime::config::DrainDefaults;
use omnirelay_store::reads;
use omnirelay_workflow::Timestamp;
use omnirelay_workflow::drain::DrainParams;
use omnirelay_workflow::operation::Verb;

use super::cordon::{digest_of, peer_of, subject, texts};
use super::mutation::Parsed;
use crate::answer::Refusal;
use crate::submission::Submission;
use crate::{App, plan, request};

/// The longest deadline, a year: beyond it a number is a mistake.
const MAX_DEADLINE: Duration = Duration::from_secs(366 * 24 * 3600);

pub async fn parse(parts: &Parts, body: Body, defaults: DrainDefaults) -> Result<Parsed, Refusal> {
    let mut body: DrainBody = request::body(&parts.headers, body).await?;
    texts(body.reason.as_ref(), body.change_ticket.as_ref())?;
    let confirmation = body.confirmation.take();
    let deadline = body.deadline.or(defaults.deadline).map(|deadline| deadline.0);
    if deadline.is_some_and(|deadline| deadline < Duration::from_secs(1) || deadline > MAX_DEADLINE) {
        return Err(Refusal::invalid("deadline: from 1s to 366d"));
    }
    let max_concurrent = body.max_concurrent.unwrap_or(defaults.max_concurrent);
    if !(1..=1_000).contains(&max_concurrent) {
        return Err(Refusal::invalid("maxConcurrent: from 1 to 1000"));
    }
    let params = DrainParams {
        deadline_secs: deadline.map(|deadline| deadline.as_secs()),
        on_deadline: body.on_deadline.unwrap_or(defaults.on_deadline),
        max_concurrent,
        keep_moved: body.keep_moved,
        ..DrainParams::default()
    };
    let params = serde_json::to_string(&params).map_err(|error| Refusal::invalid(error.to_string()))?;
    Ok(Parsed {
        verb: Verb::PeersDrain,
        request_digest: digest_of(parts, &body)?,
        reason: body.reason,
        change_ticket: body.change_ticket,
        params,
        confirmation,
    })
}

/// The plan, from the registry as it is now.
pub async fn plan(app: &App, submission: &Submission, revision: u64) -> Result<Plan, Refusal> {
    let peer = peer_of(app, submission).await?;
    let workloads = reads::plan::workloads(&app.pool, peer.id.as_str()).await?;
    let candidates = reads::plan::candidates(&app.pool, peer.cluster.as_str(), peer.id.as_str()).await?;
    let now = Timestamp::now();
    let (impact, blockers) = plan::drain(&peer, &workloads, &candidates, now);
    Ok(Plan {
        impact: serde_json::to_value(impact).map_err(|error| Refusal::invalid(error.to_string()))?,
        blockers,
        approval: None,
        digest: submission.digest.clone(),
        confirmation: app.confirmations.give(subject(submission, revision), now),
    })
}
