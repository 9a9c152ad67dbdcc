//! Who calls, and whether they may: 401, then 429, then 403.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, Uri, header};
use omnirelay_contract::problem::Code;
use omnirelay_runtime::auth::{AuthError, Principal, Scope};
use omnirelay_runtime::trace::TraceParent;

use crate::App;
use crate::access::{AccessRefusal, Counted, event};
use crate::answer::Refusal;
use crate::intake::IntakeError;

/// Somebody who was let in.
#[derive(Debug, Clone)]
pub struct Caller {
    pub principal: Arc<Principal>,
    pub address: SocketAddr,
    pub since: Instant,
}

impl App {
    /// Authenticates and counts the request; the scope is looked at next, by [`App::authorise`].
    pub fn authenticate(&self, headers: &HeaderMap, address: SocketAddr) -> Result<Caller, Refusal> {
        let since = Instant::now();
        let principal = bearer(headers).and_then(|token| self.auth.authenticate(token)).map_err(|error| {
            self.sums.count(Counted::Unauthenticated(address.ip()));
            Refusal::new(Code::Unauthenticated, error.to_string())
        })?;
        if !self.rate.allow(&principal.subject, since) {
            self.sums.count(Counted::RateLimited(principal.subject.clone()));
            let detail = "you are over the rate of requests that one actor may make: slow down";
            return Err(Refusal::new(Code::RateLimited, detail).retry_after(1));
        }
        Ok(Caller { principal, address, since })
    }

    /// Whether the caller has the scope.
    pub fn authorise(&self, caller: &Caller, scope: Scope) -> Result<(), Refusal> {
        if caller.principal.scopes.allow(scope) {
            return Ok(());
        }
        let detail = format!("this needs the scope {scope}: ask for a token that has it");
        Err(Refusal::new(Code::InsufficientScope, detail))
    }

    /// Lets a read in, and records it where somebody known is not.
    pub async fn reader(
        &self,
        headers: &HeaderMap,
        address: SocketAddr,
        uri: &Uri,
        scope: Scope,
    ) -> Result<Caller, Refusal> {
        let caller = self.authenticate(headers, address)?;
        match self.authorise(&caller, scope) {
            Ok(()) => Ok(caller),
            Err(refusal) => {
                let verb = format!("{} {}", Method::GET, uri.path());
                let about =
                    About { verb: &verb, target: uri.path().trim_start_matches("/control/"), ..About::default() };
                Err(self.recorded(&caller, about, refusal).await)
            }
        }
    }

    /// The refusal, once its record is committed. Without a record there is no answer but "unavailable".
    pub async fn recorded(&self, caller: &Caller, about: About<'_>, refusal: Refusal) -> Refusal {
        let traceparent = match about.traceparent {
            Some(traceparent) => traceparent.to_owned(),
            None => TraceParent::random().to_string(),
        };
        let access = AccessRefusal {
            actor: caller.principal.actor(Some(caller.address.ip().to_string())),
            verb: about.verb,
            target: about.target,
            reason: about.reason,
            change_ticket: about.change_ticket,
            traceparent: &traceparent,
            latency: caller.elapsed(),
            problem: &refusal.problem,
        };
        let written = match event(access) {
            Ok(event) => self.intake.record(event).await,
            Err(_) => Err(IntakeError::Data),
        };
        match written {
            Ok(()) => refusal,
            Err(IntakeError::Data) => {
                Refusal::new(Code::Internal, "the refusal cannot be recorded: it is in the log of the ingress")
            }
            Err(IntakeError::Unavailable | IntakeError::BacklogFull) => Refusal::unavailable(),
        }
    }
}

impl Caller {
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }
}

/// What a refused request was about, as far as it was read.
#[derive(Debug, Clone, Copy, Default)]
pub struct About<'a> {
    pub verb: &'a str,
    pub target: &'a str,
    pub reason: Option<&'a str>,
    pub change_ticket: Option<&'a str>,
    pub traceparent: Option<&'a str>,
}

fn bearer(headers: &HeaderMap) -> Result<&str, AuthError> {
    let value = headers.get(header::AUTHORIZATION).ok_or(AuthError::Missing)?;
    let value = value.to_str().map_err(|_| AuthError::Malformed)?;
    let (scheme, token) = value.split_once(' ').ok_or(AuthError::Missing)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(AuthError::Missing) }
}
