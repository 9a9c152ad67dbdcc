//! Whether a mutation is taken: a pure function of the request and what the record says, in the contract's order.
//!
//! Replay of a key, 404, 428 precondition, 412, 422, 409, 428 confirmation. What only the worker can know, because it depends
//! on the order in which waiting requests are applied, is refused by the worker.

pub mod subject;

use omnirelay_contract::problem::{Code, Problem};
use omnirelay_store::clusters::ClusterPeer;
use omnirelay_store::intake::{ClusterFacts, Facts};
use omnirelay_store::live::Snapshot;
use omnirelay_workflow::gate::{GateAt, GatePolicy};
use omnirelay_workflow::operation::Verb;
use omnirelay_workflow::rules;
use omnirelay_workflow::{OperationId, Timestamp};

use crate::confirmation::{Confirmations, Unconfirmed};
use crate::request::IfMatch;
use crate::submission::{Asked, Submission};

/// What to do with a submission.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Write it, with these gates. `pin`: it was let through because it changes nothing of this revision, so it must find it there.
    Create {
        gates: Vec<GatePolicy>,
        pin: Option<u64>,
    },
    /// The key is bound to this operation by the same request.
    Replay(OperationId),
    /// The key is bound to this very submission, by an attempt whose end was not known.
    Written,
    /// It would be taken, or would be once it is confirmed; a plan is to be shown.
    Plan {
        /// What the confirmation binds of the target.
        revision: u64,
        gates: Vec<GatePolicy>,
        /// Nothing where a plan was all that was asked for.
        unconfirmed: Option<Unconfirmed>,
    },
    Refuse(Box<Problem>),
}

/// The record as it is now.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    pub facts: &'a Facts,
    /// Clusters that the request names, and all active ones where it promotes or demotes.
    pub clusters: &'a [ClusterFacts],
    /// The peers of clusters that are promoted or demoted.
    pub peers: &'a [ClusterPeer],
    pub settings: &'a Snapshot,
}

pub fn admit(submission: &Submission, record: Record<'_>, confirmations: &Confirmations, now: Timestamp) -> Verdict {
    match decide(submission, record, confirmations, now) {
        Ok(verdict) => verdict,
        Err(problem) => Verdict::Refuse(problem),
    }
}

fn decide(
    submission: &Submission,
    record: Record<'_>,
    confirmations: &Confirmations,
    now: Timestamp,
) -> Result<Verdict, Box<Problem>> {
    if let Some(bound) = &record.facts.bound {
        return if bound.operation == submission.id {
            Ok(Verdict::Written)
        } else if bound.request_digest == submission.request_digest {
            Ok(Verdict::Replay(bound.operation))
        } else {
            Err(Box::new(
                Problem::new(
                    Code::IdempotencyKeyReused,
                    "this Idempotency-Key was used for another request: choose a new one",
                )
                .with("operation", bound.operation),
            ))
        };
    }
    let subject = subject::find(submission, record)?;
    preconditions(submission, subject.revision)?;
    let nothing_to_do = subject::unchanged(submission, record, &subject)?;
    let gates = if nothing_to_do { Vec::new() } else { gates(submission, record, &subject)? };
    if let Some(problem) = subject.in_the_way {
        return Err(problem);
    }
    if submission.validate_only {
        return Ok(Verdict::Plan { revision: subject.bound, gates, unconfirmed: None });
    }
    // What changes nothing needs no confirmation.
    if submission.verb.is_destructive() && !nothing_to_do {
        let confirmed = submission.confirms(subject.bound);
        if let Err(unconfirmed) = confirmations.check(submission.confirmation.as_deref(), confirmed, now) {
            return Ok(Verdict::Plan { revision: subject.bound, gates, unconfirmed: Some(unconfirmed) });
        }
    }
    Ok(Verdict::Create { gates, pin: subject.revision.filter(|_| nothing_to_do) })
}

/// 428 where an `If-Match` is required, 412 where it does not hold.
fn preconditions(submission: &Submission, revision: Option<u64>) -> Result<(), Box<Problem>> {
    let required = match submission.verb {
        Verb::PeersPatch | Verb::ConfigPatch | Verb::ConfigRollback => true,
        Verb::PeersCordon
        | Verb::PeersUncordon
        | Verb::PeersDrain
        | Verb::PeersPut
        | Verb::ClustersPromote
        | Verb::ClustersDemote
        | Verb::ClustersPut => false,
    };
    let mismatch = |detail: String| {
        let problem = Problem::new(Code::RevisionMismatch, detail);
        Err(Box::new(match revision {
            Some(revision) => problem.with("revision", revision),
            None => problem,
        }))
    };
    match (&submission.if_match, revision) {
        (None, _) if required => Err(Box::new(Problem::new(
            Code::PreconditionRequired,
            format!(
                "read {} and send its ETag as If-Match, so that nobody's change is overwritten unseen",
                submission.target
            ),
        ))),
        _ if submission.asked.creates_only() && revision.is_some() => {
            mismatch(format!("{} exists already, and If-None-Match: * creates only", submission.target))
        }
        (None | Some(IfMatch::Any), Some(_)) | (None, None) => Ok(()),
        (Some(if_match), Some(revision)) if if_match.allows(revision) => Ok(()),
        (Some(_), Some(revision)) => mismatch(format!(
            "{} is at revision {revision}, not at what If-Match names: read it again and decide anew",
            submission.target
        )),
        (Some(_), None) => mismatch(format!("{} does not exist, so no If-Match can hold", submission.target)),
    }
}

/// What the rules demand of it, or 422 for want of a ticket.
fn gates(
    submission: &Submission,
    record: Record<'_>,
    subject: &subject::Found,
) -> Result<Vec<GatePolicy>, Box<Problem>> {
    let demanded = &record.settings.settings.approvals.rules;
    if demanded.is_empty() && submission.gate.is_none() {
        return Ok(Vec::new());
    }
    let gates = rules::gates(
        demanded,
        submission.verb.as_str(),
        |selector| subject.matches(selector),
        submission.change_ticket.as_deref(),
        submission.gate.as_ref(),
    )
    .map_err(|missing| Box::new(Problem::new(Code::TicketRequired, missing.to_string()).with("rule", &missing.rule)))?;
    let gates = whole_list_first(gates, &submission.asked);
    let gates: Vec<GatePolicy> = gates.into_iter().filter(|gate| submission.has_gate(gate.gate)).collect();
    Ok(match &submission.asked {
        Asked::Config { .. } => rules::guard(demanded, subject.touches_rules, gates),
        _ => gates,
    })
}

/// A gate behind the canary asks nobody where the canary is most of the list: then it stands at the start.
fn whole_list_first(mut gates: Vec<GatePolicy>, asked: &Asked) -> Vec<GatePolicy> {
    let Asked::Many { peers, canary } = asked else { return gates };
    if (*canary as usize).saturating_mul(2) <= peers.len() {
        return gates;
    }
    let Some(place) = gates.iter().position(|gate| gate.gate == GateAt::Rest) else { return gates };
    let rest = gates.remove(place);
    match gates.iter_mut().find(|gate| gate.gate == GateAt::Start) {
        Some(start) => {
            start.required = start.required.max(rest.required);
            start.expires_in_secs = start.expires_in_secs.min(rest.expires_in_secs);
            if rest.approver_scope == "mesh.admin" {
                start.approver_scope = rest.approver_scope;
            }
            start.rule = format!("{},{}", start.rule, rest.rule);
        }
        None => gates.insert(0, GatePolicy { gate: GateAt::Start, ..rest }),
    }
    gates
}

#[cfg(test)]
mod tests;
