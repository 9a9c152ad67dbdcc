//! Records of what was not let in: one event for each refusal of somebody known, sums of the rest.
//!
//! A 401 names nobody, and a flood of them must not fill the audit, so they are counted for each address and written once
//! a minute. So are requests over their actor's rate.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use omnirelay_contract::audit::Actor;
use omnirelay_contract::event::{AuditFacts, EventData};
use omnirelay_contract::problem::{Code, Problem};
use omnirelay_runtime::trace::TraceParent;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use crate::intake::Intake;
use crate::submission::{PreparedEvent, prepare_event};

/// How often sums are written.
const EVERY: Duration = Duration::from_secs(60);
/// Addresses and actors that are counted apart; the others are one sum.
const MAX_SUMS: usize = 1_024;

/// A refusal of somebody who is known.
#[derive(Debug)]
pub struct AccessRefusal<'a> {
    pub actor: Actor,
    /// `peers.drain`, or `GET /control/peers` where it was no mutation.
    pub verb: &'a str,
    /// `peers/edge-7`, where it is known.
    pub target: &'a str,
    pub reason: Option<&'a str>,
    pub change_ticket: Option<&'a str>,
    pub traceparent: &'a str,
    pub latency: Duration,
    pub problem: &'a Problem,
}

/// The outbox event of a refusal: `access.denied` where a scope is missing, else `access.refused`.
pub fn event(refusal: AccessRefusal<'_>) -> Result<PreparedEvent, serde_json::Error> {
    let denied = refusal.problem.status == 403;
    let outcome = if denied { "denied" } else { "refused" };
    let subject = refusal.actor.subject.clone();
    let detail = details([
        ("code", refusal.problem.code.as_str().into()),
        ("status", refusal.problem.status.into()),
        ("target", refusal.target.into()),
        ("detail", refusal.problem.detail.as_str().into()),
    ]);
    let data = EventData {
        actor: Some(subject.clone()),
        audit: AuditFacts {
            verb: refusal.verb.to_owned(),
            outcome: outcome.to_owned(),
            actor: Some(refusal.actor),
            reason: refusal.reason.map(str::to_owned),
            change_ticket: refusal.change_ticket.map(str::to_owned),
            latency_ms: Some(u64::try_from(refusal.latency.as_millis()).unwrap_or(u64::MAX)),
            ..AuditFacts::default()
        },
        detail,
        ..EventData::default()
    };
    prepare_event("access", &actor_id(&subject), outcome, refusal.traceparent, data)
}

/// An actor as a token of a NATS subject.
pub fn actor_id(subject: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' };
    let id: String = subject.chars().map(safe).take(63).collect();
    if id.starts_with(|c: char| c.is_ascii_alphanumeric()) { id } else { "unknown".to_owned() }
}

/// Who is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Counted {
    Unauthenticated(IpAddr),
    RateLimited(String),
    /// Whoever came after too many others.
    Others,
}

/// Counts of what is only summed.
#[derive(Debug, Default)]
pub struct Sums {
    counts: Mutex<HashMap<Counted, u64>>,
}

impl Sums {
    pub fn count(&self, who: Counted) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let who = if counts.len() < MAX_SUMS || counts.contains_key(&who) { who } else { Counted::Others };
        *counts.entry(who).or_default() += 1;
    }

    /// Writes the sums every minute, and once more at the end.
    pub async fn run(&self, intake: Intake, stop: CancellationToken) {
        let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + EVERY, EVERY);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            self.flush(&intake).await;
        }
    }

    pub async fn flush(&self, intake: &Intake) {
        let counts = std::mem::take(&mut *self.counts.lock().unwrap_or_else(PoisonError::into_inner));
        for (who, count) in counts {
            let written = match sum_event(&who, count) {
                Ok(event) => intake.record(event).await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = written {
                tracing::warn!(%error, ?who, count, "a sum of refusals was not recorded");
                // Kept for the next minute: a sum may come late, it must not be lost.
                let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
                *counts.entry(who).or_default() += count;
            }
        }
    }
}

fn sum_event(who: &Counted, count: u64) -> Result<PreparedEvent, serde_json::Error> {
    let (subject, address, code, outcome) = match who {
        Counted::Unauthenticated(address) => ("unknown", Some(address.to_string()), Code::Unauthenticated, "denied"),
        Counted::RateLimited(actor) => (actor.as_str(), None, Code::RateLimited, "refused"),
        Counted::Others => ("unknown", None, Code::Unauthenticated, "denied"),
    };
    let actor = Actor { subject: subject.to_owned(), scopes: Vec::new(), token_id: None, address };
    let data = EventData {
        actor: Some(subject.to_owned()),
        audit: AuditFacts {
            verb: "access".to_owned(),
            outcome: outcome.to_owned(),
            actor: Some(actor),
            ..AuditFacts::default()
        },
        detail: details([
            ("code", code.as_str().into()),
            ("status", code.http_status().into()),
            ("count", count.into()),
            ("periodSeconds", EVERY.as_secs().into()),
        ]),
        ..EventData::default()
    };
    prepare_event("access", &actor_id(subject), outcome, &TraceParent::random().to_string(), data)
}

fn details<const N: usize>(members: [(&str, Value); N]) -> Map<String, Value> {
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn an_actor_becomes_a_safe_token() {
        let check = |subject: &str, expect: &str| assert_eq!(actor_id(subject), expect);
        check("ana", "ana");
        check("ana@example.com", "ana-example-com");
        check("a.>.*", "a----");
        check("", "unknown");
        check("*", "unknown");
        check(&"x".repeat(100), &"x".repeat(63));
    }

    #[test]
    fn denials_and_refusals_are_told_apart() {
        let problem = |code| Problem::new(code, "no");
        let prepare = |problem: &Problem| {
            event(AccessRefusal {
                actor: Actor::system("ana"),
                verb: "peers.drain",
                target: "peers/edge-7",
                reason: None,
                change_ticket: Some("CHG-1"),
                traceparent: "",
                latency: Duration::from_millis(3),
                problem,
            })
            .expect("an event")
        };
        assert_eq!(prepare(&problem(Code::InsufficientScope)).nats_subject, "omni.v1.event.access.ana.denied");
        let refused = prepare(&problem(Code::NotFound));
        assert_eq!(refused.nats_subject, "omni.v1.event.access.ana.refused");
        assert!(refused.payload.contains("\"code\":\"not-found\"") && refused.payload.contains("CHG-1"));
    }

    #[test]
    fn a_flood_of_addresses_is_bounded() {
        let sums = Sums::default();
        for n in 0..3_000_u32 {
            sums.count(Counted::Unauthenticated(IpAddr::V4(Ipv4Addr::from(n))));
        }
        let counts = sums.counts.lock().expect("not poisoned");
        assert!(counts.len() <= MAX_SUMS + 1);
        assert_eq!(counts.values().sum::<u64>(), 3_000);
    }
}
