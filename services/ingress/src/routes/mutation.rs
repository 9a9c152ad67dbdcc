//! What all mutations have in common: from the request to the answer. What is a verb's own is in its file.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use omnirelay_contract::problem::{Code, Problem};
use omnirelay_runtime::auth::Scope;
use omnirelay_runtime::spans::{self, Kind, Told};
use omnirelay_runtime::trace::TraceParent;
use omnirelay_store::reads;
use omnirelay_workflow::OperationId;
use omnirelay_workflow::operation::{State, Target, Verb};
use omnirelay_workflow::rules::GateRequest;

use super::address;
use crate::answer::{Refusal, json, to_bytes};
use crate::caller::{About, Caller};
use crate::completion::{Done, Wait};
use crate::intake::{Decision, IntakeError};
use crate::submission::{Asked, Draft};
use crate::{App, digest, request};

/// How long a quick verb is waited for where the request does not say.
pub const QUICK_WAIT: Duration = Duration::from_secs(10);

/// How long the worker may take to open a gate before the answer is given without it.
const GATE_WAIT: Duration = Duration::from_millis(500);

/// What a verb's own file has read from its body.
#[derive(Debug)]
pub struct Parsed {
    pub verb: Verb,
    /// Nothing: a new one.
    pub id: Option<OperationId>,
    pub about: Target,
    pub asked: Asked,
    pub common: Common,
    /// JSON of the verb's own parameters, as the operation keeps them.
    pub params: String,
    pub request_digest: String,
}

/// What all bodies have.
#[derive(Debug, Default)]
pub struct Common {
    pub reason: Option<String>,
    pub change_ticket: Option<String>,
    pub gate: Option<GateRequest>,
    pub confirmation: Option<String>,
}

impl Common {
    pub fn checked(self) -> Result<Self, Refusal> {
        texts(self.reason.as_ref(), self.change_ticket.as_ref())?;
        Ok(self)
    }
}

/// Takes what all bodies have out of one. Without its confirmation it is what a digest is made of.
macro_rules! common {
    ($body:ident) => {
        $crate::routes::mutation::Common {
            reason: $body.reason.clone(),
            change_ticket: $body.change_ticket.clone(),
            gate: $body.gate.clone(),
            confirmation: None,
        }
        .checked()
    };
    ($body:ident, confirmed) => {
        $crate::routes::mutation::common!($body)
            .map(|common| $crate::routes::mutation::Common { confirmation: $body.confirmation.take(), ..common })
    };
}
pub(crate) use common;

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

/// JSON of what an operation keeps as its parameters.
pub fn params_of(params: &impl serde::Serialize) -> Result<String, Refusal> {
    serde_json::to_string(params).map_err(|error| Refusal::invalid(error.to_string()))
}

/// A mutation from its request to its answer. `target` is what the path names, for the record of a refusal; `parse` reads
/// what is the verb's own, once the caller is known and may.
pub async fn serve(
    app: &App,
    verb: Verb,
    target: String,
    request: Request,
    parse: impl AsyncFnOnce(&App, &Parts, Body) -> Result<Parsed, Refusal>,
) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let caller = match app.authenticate(&parts.headers, address(&parts)) {
        Ok(caller) => caller,
        Err(refusal) => return unknown_caller(verb.as_str(), refusal, &path),
    };
    let mut trail = Trail::new(verb.as_str(), target, &parts);
    let scope = if verb.is_admin() { Scope::Admin } else { Scope::Operate };
    let result = match app.authorise(&caller, scope) {
        Err(refusal) => Err(refusal),
        Ok(()) => match parse(app, &parts, body).await {
            Err(refusal) => Err(refusal),
            Ok(parsed) => {
                trail.reason.clone_from(&parsed.common.reason);
                trail.change_ticket.clone_from(&parsed.common.change_ticket);
                mutate(app, &caller, parsed, &parts, &trail).await
            }
        },
    };
    finish(app, &caller, &trail, &path, result).await
}

/// The answer to somebody who is not known: counted, and summed for the audit.
pub fn unknown_caller(verb: &'static str, refusal: Refusal, path: &str) -> Response {
    metrics::counter!("omnirelay_mutations_total", "verb" => verb, "outcome" => refusal.code().as_str()).increment(1);
    refusal.at(path).into_response()
}

/// An answer, and what the log says of it.
#[derive(Debug)]
pub struct Answered {
    pub response: Response,
    /// For the log: what came of it as far as the answer says.
    pub outcome: &'static str,
    /// For the count. An operation that was made is `accepted`, also where its end was waited for: the worker counts each end,
    /// once, and a retry that finds its operation is `replayed`.
    pub counted: &'static str,
    pub operation: Option<OperationId>,
}

impl Answered {
    fn counted(self, counted: &'static str) -> Self {
        Self { counted, ..self }
    }
}

/// What is known of a request when it is refused.
#[derive(Debug)]
pub struct Trail {
    pub verb: &'static str,
    pub target: String,
    pub reason: Option<String>,
    pub change_ticket: Option<String>,
    pub traceparent: String,
    /// `traceparent` parsed, and the caller's own.
    span: TraceParent,
    parent: Option<TraceParent>,
}

impl Trail {
    pub fn new(verb: &'static str, target: String, parts: &Parts) -> Self {
        let header = parts.headers.get("traceparent").and_then(|value| value.to_str().ok());
        let parent = header.and_then(|text| text.parse::<TraceParent>().ok());
        let span = parent.map_or_else(TraceParent::random, TraceParent::beneath);
        Self { verb, target, reason: None, change_ticket: None, traceparent: span.to_string(), span, parent }
    }
}

/// Submits, waits as long as the caller wants, answers.
async fn mutate(app: &App, caller: &Caller, parsed: Parsed, parts: &Parts, trail: &Trail) -> Result<Answered, Refusal> {
    // A destructive one is taken without a confirmation only where there is nothing to do: then it is as quick as a cordon.
    let long = parsed.verb.is_long() && parsed.common.confirmation.is_some();
    let default_wait = if long { Duration::ZERO } else { QUICK_WAIT };
    let wait = request::wait(&parts.headers, default_wait)?;
    let key = request::idempotency_key(&parts.headers)?;
    let draft = Draft {
        id: parsed.id,
        verb: parsed.verb,
        about: parsed.about,
        asked: parsed.asked,
        principal: &caller.principal,
        address: caller.address.ip().to_string(),
        reason: parsed.common.reason,
        change_ticket: parsed.common.change_ticket,
        params: parsed.params,
        request_digest: parsed.request_digest,
        traceparent: trail.traceparent.clone(),
    };
    let mut submission = draft.prepare().map_err(|error| Refusal::invalid(error.to_string()))?;
    submission.gate = parsed.common.gate;
    if let Some(asked) = submission.gate.as_ref().filter(|asked| !submission.has_gate(asked.gate)) {
        return Err(Refusal::invalid(format!("gate: this {} never comes to a {} gate", submission.verb, asked.gate)));
    }
    submission.validate_only = request::validate_only(&parts.uri)?;
    submission.if_match = request::if_match(&parts.headers)?;
    submission.keep_preconditions();
    submission.confirmation = parsed.common.confirmation;
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
            Some(waiting) => {
                // Nobody approves within seconds: unless the caller says otherwise, the answer is that it waits at its gate.
                let at_gate = !submission.gates.is_empty() && !parts.headers.contains_key("prefer");
                let wait = if at_gate { wait.min(GATE_WAIT) } else { wait };
                outcome(app, submission.id, waiting, wait).await?.counted("accepted")
            }
        },
        Decision::Replay(operation) => {
            let mut answered = replay(app, operation, wait).await?.counted("replayed");
            answered.response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
            answered
        }
        Decision::Plan { submission, revision, unconfirmed } => {
            let plan = super::plans::of(app, &submission, revision).await?;
            match unconfirmed {
                None => {
                    let response = json(StatusCode::OK, to_bytes(&plan)?);
                    Answered { response, outcome: "planned", counted: "planned", operation: None }
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
    let (response, outcome, counted, operation) = match result {
        Ok(answered) => (answered.response, answered.outcome, answered.counted, answered.operation),
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
            (refusal.into_response(), code, code, None)
        }
    };
    let latency = caller.elapsed();
    metrics::counter!("omnirelay_mutations_total", "verb" => trail.verb, "outcome" => counted).increment(1);
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
    spans::ended(trail.span, trail.parent, latency, || Told {
        name: trail.verb.into(),
        kind: Kind::Server,
        attributes: vec![
            ("omnirelay.target", trail.target.clone()),
            ("omnirelay.actor", caller.principal.subject.clone()),
            ("omnirelay.outcome", outcome.to_owned()),
            ("omnirelay.operation", operation.map(|id| id.to_string()).unwrap_or_default()),
        ],
        failed: response.status().is_server_error().then(|| outcome.into()),
    });
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
    Answered { response, outcome: "accepted", counted: "accepted", operation: Some(id) }
}

/// The answer to an operation that has ended: 201 where it made its resource. One that was refused is answered with its
/// problem; the operation's own event is the record of that.
pub fn ended(done: &Done) -> Answered {
    let response = match done.state {
        State::Refused => {
            let problem = done.error.clone().unwrap_or_else(|| {
                Problem::new(Code::InvalidState, "the operation was refused").with("operation", done.operation)
            });
            Refusal::from(problem).into_response()
        }
        _ => match done.made.as_ref().and_then(|made| HeaderValue::from_str(&format!("/control/{made}")).ok()) {
            Some(location) => {
                let mut response = json(StatusCode::CREATED, done.body.clone());
                response.headers_mut().insert(header::LOCATION, location);
                response
            }
            None => json(StatusCode::OK, done.body.clone()),
        },
    };
    let outcome = done.state.as_str();
    Answered { response, outcome, counted: outcome, operation: Some(done.operation) }
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
