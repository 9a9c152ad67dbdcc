//! Whether a mutation is taken: a pure function of the request and what the record says, in the contract's order.
//!
//! Replay of a key, 404, 412, 409, 428 confirmation. What only the worker can know, because it depends on the order in which
//! waiting requests are applied, is refused by the worker.

use omnirelay_contract::problem::{Code, Problem};
use omnirelay_store::intake::Facts;
use omnirelay_workflow::operation::Verb;
use omnirelay_workflow::{OperationId, Rejected, Timestamp};

use crate::confirmation::{Confirmations, Subject, Unconfirmed};
use crate::submission::Submission;

/// What to do with a submission.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Write it.
    Create,
    /// The key is bound to this operation by the same request.
    Replay(OperationId),
    /// The key is bound to this very submission, by an attempt whose end was not known.
    Written,
    /// It would be taken, or would be once it is confirmed; a plan is to be shown.
    Plan {
        revision: u64,
        /// Nothing where a plan was all that was asked for.
        unconfirmed: Option<Unconfirmed>,
    },
    Refuse(Box<Problem>),
}

/// `facts` are of the record as it is now.
pub fn admit(submission: &Submission, facts: &Facts, confirmations: &Confirmations, now: Timestamp) -> Verdict {
    if let Some(bound) = &facts.bound {
        return if bound.operation == submission.id {
            Verdict::Written
        } else if bound.request_digest == submission.request_digest {
            Verdict::Replay(bound.operation)
        } else {
            refuse(
                Problem::new(
                    Code::IdempotencyKeyReused,
                    "this Idempotency-Key was used for another request: choose a new one",
                )
                .with("operation", bound.operation),
            )
        };
    }
    let Some(peer) = &facts.peer else {
        let detail = format!("there is no peer {}: `GET /control/peers` lists them", submission.peer);
        return refuse(Problem::new(Code::NotFound, detail));
    };
    if let Some(if_match) = &submission.if_match
        && !if_match.allows(peer.revision)
    {
        let detail = format!(
            "{} is at revision {}, not at what If-Match names: read it again and decide anew",
            submission.target, peer.revision
        );
        return refuse(Problem::new(Code::RevisionMismatch, detail).with("revision", peer.revision));
    }
    let is_drain = submission.verb == Verb::PeersDrain;
    if is_drain && let Some(operation) = peer.locked_by {
        let rejected = Rejected::OperationInProgress { resource: submission.target.clone(), operation };
        return refuse(Problem::from(&rejected));
    }
    if submission.validate_only {
        return Verdict::Plan { revision: peer.revision, unconfirmed: None };
    }
    // Draining what is drained changes nothing, so there is nothing to confirm.
    if is_drain && peer.drain_mark != "drained" {
        let subject = Subject {
            actor: &submission.principal.subject,
            request_digest: &submission.request_digest,
            target: &submission.target,
            revision: peer.revision,
        };
        if let Err(unconfirmed) = confirmations.check(submission.confirmation.as_deref(), subject, now) {
            return Verdict::Plan { revision: peer.revision, unconfirmed: Some(unconfirmed) };
        }
    }
    Verdict::Create
}

fn refuse(problem: Problem) -> Verdict {
    Verdict::Refuse(Box::new(problem))
}

#[cfg(test)]
mod tests;
