//! What all mutations of a peer have in common: from the parsed request to the answer.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use omnirelay_contract::problem::{Code, Problem};
use omnirelay_contract::rest::Plan;
use omnirelay_runtime::trace::TraceParent;
use omnirelay_store::reads;
use omnirelay_workflow::operation::{State, Verb};
use omnirelay_workflow::{OperationId, PeerId};

use crate::answer::{Refusal, json, to_bytes};
use crate::caller::{About, Caller};
use crate::completion::{Done, Wait};
use crate::intake::{Decision, IntakeError};
use crate::submission::{Draft, Submission};
use crate::{App, request};

/// How long a quick verb is waited for where the request does not say.
const QUICK_WAIT: Duration = Duration::from_secs(10);

/// What a verb's own file has read from its body.
#[derive(Debug)]
pub struct Parsed {
    pub verb: Verb,
    pub reason: Option<String>,
    pub change_ticket: Option<String>,
    /// JSON of the verb's own parameters, as the operation keeps them.
    pub params: String,
    pub request_digest: String,
    pub confirmation: Option<String>,
}

/// An answer, and what the log says of it.
#[derive(Debug)]
pub struct Answered {
    pub response: Response,
    pub outcome: &'static str,
    pub operation: Option<OperationId>,
}

/// What is known of a request when it is refused.
#[derive(Debug, Default)]
pub struct Trail {
    pub verb: &'static str,
    pub target: String,
    pub reason: Option<String>,
    pub change_ticket: Option<String>,
    pub traceparent: String,
}

impl Trail {
    pub fn new(verb: &'static str, target: String, parts: &Parts) -> Self {
        let caller = parts.headers.get("traceparent").and_then(|value| value.to_str().ok());
        let traceparent = TraceParent::continued(caller).to_string();
        Self { verb, target, traceparent, ..Self::default() }
    }
}

/// Submits, waits as long as the caller wants, answers.
pub async fn mutate(
    app: &App,
    caller: &Caller,
    peer: PeerId,
    parsed: Parsed,
    parts: &Parts,
    trail: &Trail,
) -> Result<Answered, Refusal> {
    // A drain is taken without a confirmation only where there is nothing to drain: then it is as quick as a cordon.
    let long = parsed.verb.is_long() && parsed.confirmation.is_some();
    let default_wait = if long { Duration::ZERO } else { QUICK_WAIT };
    let wait = request::wait(&parts.headers, default_wait)?;
    let key = request::idempotency_key(&parts.headers)?;
    let draft = Draft {
        verb: parsed.verb,
        peer,
        principal: &caller.principal,
        address: caller.address.ip().to_string(),
        reason: parsed.reason,
        change_ticket: parsed.change_ticket,
        params: parsed.params,
        request_digest: parsed.request_digest,
        traceparent: trail.traceparent.clone(),
    };
    let mut submission = draft.prepare().map_err(|error| Refusal::invalid(error.to_string()))?;
    submission.validate_only = request::validate_only(&parts.uri)?;
    submission.if_match = request::if_match(&parts.headers)?;
    submission.confirmation = parsed.confirmation;
    submission.waits = !wait.is_zero();
    if let Some(key) = key {
        key.clone_into(&mut submission.key);
        submission.key_given = true;
    }
    let key = submission.key.clone();
    let waiting = submission.waits.then(|| app.completions.wait(submission.id));
    let decision = app.intake.submit(Box::new(submission)).await.map_err(refused)?;
    let mut answered = match decision {
        Decision::Created { submission, created_at } => match waiting {
            None => {
                let mutated = submission.accepted(created_at).map_err(|error| Refusal::invalid(error.to_string()))?;
                accepted(submission.id, to_bytes(&mutated)?)
            }
            Some(waiting) => outcome(app, submission.id, waiting, wait).await?,
        },
        Decision::Replay(operation) => {
            let mut answered = replay(app, operation, wait).await?;
            answered.response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
            answered
        }
        Decision::Plan { submission, revision, unconfirmed } => {
            let plan = plan_of(app, &submission, revision).await?;
            match unconfirmed {
                None => {
                    Answered { response: json(StatusCode::OK, to_bytes(&plan)?), outcome: "planned", operation: None }
                }
                Some(why) => {
                    let problem = Problem::new(Code::ConfirmationRequired, why.detail()).with("plan", plan);
                    return Err(problem.into());
                }
            }
        }
        Decision::Refused(problem) => return Err((*problem).into()),
    };
    if let Ok(value) = HeaderValue::from_str(&key) {
        answered.response.headers_mut().insert("idempotency-key", value);
    }
    Ok(answered)
}

/// The same answer for everybody: metric, log line, and the record of a refusal before it is told.
pub async fn finish(
    app: &App,
    caller: &Caller,
    trail: &Trail,
    path: &str,
    result: Result<Answered, Refusal>,
) -> Response {
    let (response, outcome, operation) = match result {
        Ok(answered) => (answered.response, answered.outcome, answered.operation),
        Err(refusal) => {
            let refusal = refusal.at(path);
            let refusal = if (400..500).contains(&refusal.problem.status) {
                let about = About {
                    verb: trail.verb,
                    target: &trail.target,
                    reason: trail.reason.as_deref(),
                    change_ticket: trail.change_ticket.as_deref(),
                    traceparent: Some(&trail.traceparent),
                };
                app.recorded(caller, about, refusal).await.at(path)
            } else {
                refusal
            };
            let code = refusal.code().as_str();
            (refusal.into_response(), code, None)
        }
    };
    let latency = caller.elapsed();
    metrics::counter!("omnirelay_mutations_total", "verb" => trail.verb, "outcome" => outcome).increment(1);
    metrics::histogram!("omnirelay_mutation_seconds", "verb" => trail.verb, "stage" => "answered")
        .record(latency.as_secs_f64());
    tracing::info!(
        actor = %caller.principal.subject,
        action = trail.verb,
        target = %trail.target,
        outcome,
        latency_ms = latency.as_micros() as f64 / 1e3,
        operation = operation.map(tracing::field::display),
        "mutation"
    );
    response
}

/// The end of an operation that is waited for, or how it stands when the wait is over.
pub async fn outcome(app: &App, id: OperationId, waiting: Wait, at_most: Duration) -> Result<Answered, Refusal> {
    match waiting.done(at_most).await {
        Some(done) => Ok(ended(&done)),
        None => standing(app, id).await,
    }
}

/// 202 with the operation as it is.
pub fn accepted(id: OperationId, body: Vec<u8>) -> Answered {
    let mut response = json(StatusCode::ACCEPTED, body);
    if let Ok(location) = HeaderValue::from_str(&format!("/control/operations/{id}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Answered { response, outcome: "accepted", operation: Some(id) }
}

/// The answer to an operation that has ended. One that was refused is answered with its problem; the operation's own
/// event is the record of that.
pub fn ended(done: &Done) -> Answered {
    let response = match done.state {
        State::Refused => {
            let problem = done.error.clone().unwrap_or_else(|| {
                Problem::new(Code::InvalidState, "the operation was refused").with("operation", done.operation)
            });
            Refusal::from(problem).into_response()
        }
        _ => json(StatusCode::OK, done.body.clone()),
    };
    Answered { response, outcome: done.state.as_str(), operation: Some(done.operation) }
}

async fn replay(app: &App, id: OperationId, wait: Duration) -> Result<Answered, Refusal> {
    let waiting = app.completions.wait(id);
    let row = reads::operations::get(&app.pool, id).await?;
    if let Some(row) = &row
        && row.state.parse::<State>().is_ok_and(State::is_terminal)
    {
        return Ok(ended(&Done::from_row(row)?));
    }
    if wait.is_zero() { standing(app, id).await } else { outcome(app, id, waiting, wait).await }
}

async fn standing(app: &App, id: OperationId) -> Result<Answered, Refusal> {
    let row = reads::operations::get(&app.pool, id).await?;
    let row = row.ok_or_else(Refusal::unavailable)?;
    let mutated = reads::mutated_dto(&row)?;
    if mutated.operation.state.is_terminal() {
        return Ok(ended(&Done::from_row(&row)?));
    }
    Ok(accepted(id, to_bytes(&mutated)?))
}

async fn plan_of(app: &App, submission: &Submission, revision: u64) -> Result<Plan, Refusal> {
    match submission.verb {
        Verb::PeersDrain => super::drain::plan(app, submission, revision).await,
        Verb::PeersCordon => super::cordon::plan(app, submission, revision).await,
        Verb::PeersUncordon => super::uncordon::plan(app, submission, revision).await,
    }
}

fn refused(error: IntakeError) -> Refusal {
    match error {
        IntakeError::Unavailable => Refusal::unavailable(),
        IntakeError::BacklogFull => {
            Refusal::new(Code::BacklogFull, "too many operations wait for the worker: try again later").retry_after(2)
        }
        IntakeError::Data => {
            Refusal::new(Code::Internal, "the request cannot be stored: it is in the log of the ingress")
        }
    }
}
