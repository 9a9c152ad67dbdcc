//! `:cordon`: a hold of the caller's on the peer.

use axum::body::Body;
use http::request::Parts;
use omnirelay_contract::rest::{CordonBody, Plan};
use omnirelay_store::reads;
use omnirelay_workflow::Timestamp;
use omnirelay_workflow::operation::Verb;
use omnirelay_workflow::resource::HoldKind;
use serde_json::json;

use super::mutation::Parsed;
use crate::answer::Refusal;
use crate::confirmation::Subject;
use crate::submission::Submission;
use crate::{App, digest, request};

pub async fn parse(parts: &Parts, body: Body) -> Result<Parsed, Refusal> {
    let body: CordonBody = request::body(&parts.headers, body).await?;
    texts(body.reason.as_ref(), body.change_ticket.as_ref())?;
    Ok(Parsed {
        verb: Verb::PeersCordon,
        request_digest: digest_of(parts, &body)?,
        reason: body.reason,
        change_ticket: body.change_ticket,
        params: "{}".to_owned(),
        confirmation: None,
    })
}

/// What a cordon would change; never refused.
pub async fn plan(app: &App, submission: &Submission, revision: u64) -> Result<Plan, Refusal> {
    let peer = peer_of(app, submission).await?;
    let owner = &submission.principal.subject;
    let mine = peer.holds.iter().any(|hold| hold.kind == HoldKind::Manual && hold.owner == *owner);
    let impact = json!({"peer": peer.id, "name": peer.name, "holds": peer.holds, "changed": !mine});
    Ok(quick_plan(app, submission, revision, impact))
}

/// The peer that a submission is about.
pub async fn peer_of(app: &App, submission: &Submission) -> Result<omnirelay_contract::rest::Peer, Refusal> {
    let row = reads::peers::get(&app.pool, submission.peer.as_str()).await?;
    let row = row.ok_or_else(|| super::absent("peer", &submission.peer))?;
    Ok(reads::peer_dto(&row)?)
}

/// A plan of a quick verb: an impact and nothing to wait for.
pub fn quick_plan(app: &App, submission: &Submission, revision: u64, impact: serde_json::Value) -> Plan {
    Plan {
        impact,
        blockers: Vec::new(),
        approval: None,
        digest: submission.digest.clone(),
        confirmation: app.confirmations.give(subject(submission, revision), Timestamp::now()),
    }
}

/// What a confirmation of the submission is about.
pub fn subject(submission: &Submission, revision: u64) -> Subject<'_> {
    Subject {
        actor: &submission.principal.subject,
        request_digest: &submission.request_digest,
        target: &submission.target,
        revision,
    }
}

/// Checks the free texts that every body has.
pub fn texts(reason: Option<&String>, change_ticket: Option<&String>) -> Result<(), Refusal> {
    request::free_text("reason", reason, 1_000)?;
    request::free_text("changeTicket", change_ticket, 200)
}

/// The request's digest.
pub fn digest_of(parts: &Parts, body: &impl serde::Serialize) -> Result<String, Refusal> {
    let if_match = request::text(&parts.headers, "if-match")?;
    Ok(digest::request(parts.method.as_str(), parts.uri.path(), body, if_match))
}
