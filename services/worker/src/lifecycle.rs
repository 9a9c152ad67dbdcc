//! What every operation goes through before its own steps: a cancel that came first, its gate, its turn in the queue.
//!
//! ```text
//!   submitted ──▶ awaitingApproval ──▶ queued ──▶ the workflow's first step
//!       │               │  │              │
//!       └── cancel ─────┴──┼──── cancel ──┴──▶ cancelled, nothing was changed
//!                          └──▶ rejected, expired
//! ```

use std::collections::BTreeMap;

use omnirelay_contract::audit::Actor;
use omnirelay_contract::problem::Problem;
use omnirelay_store::StoreError;
use omnirelay_store::operations::WorkRow;
use omnirelay_workflow::budget::{self, Admission};
use omnirelay_workflow::gate::{self, Decision, Gate, GateAt, GatePolicy, Look, Subject};
use omnirelay_workflow::operation::{Blocker, BlockerCode, Paused, State, Target};
use omnirelay_workflow::resource::DrainMark;
use omnirelay_workflow::{ClusterId, PeerId, Rejected, Timestamp};
use serde_json::{Map, Value, json};

use crate::batch::{end, state};
use crate::events::{About, Log, detail};
use crate::records::Records;
use crate::telling::text;

/// How often a paused operation looks whether it still is: the end of its parent's pause may have reached nobody.
pub const PAUSED_LOOK: jiff::SignedDuration = jiff::SignedDuration::from_secs(3);

/// Whether an operation goes on in this batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    On,
    Waits,
    Ended,
}

/// What a gate of an operation is about.
pub struct GateSubject<'a> {
    pub revisions: BTreeMap<String, u64>,
    /// Of a bulk drain.
    pub peers: &'a [PeerId],
    /// What the request for approval tells beside the parameters.
    pub plan: Value,
}

/// An operation at a gate.
pub struct AtGate<'a> {
    pub work: &'a mut WorkRow,
    pub actor: &'a Actor,
    pub log: &'a mut Log,
    pub now: Timestamp,
}

/// The gates that the operation's rules demanded.
pub fn policies(work: &WorkRow) -> Result<Vec<GatePolicy>, StoreError> {
    match &work.gates {
        None => Ok(Vec::new()),
        Some(text) => serde_json::from_str(text).map_err(|error| StoreError::corrupt("an operation's gates", error)),
    }
}

/// Who has paused it and why, as a blocker says it.
pub fn paused(text: Option<&str>) -> Result<Option<String>, StoreError> {
    let Some(text) = text else { return Ok(None) };
    let paused: Paused = serde_json::from_str(text).map_err(|error| StoreError::corrupt("a pause", error))?;
    Ok(Some(match paused.reason {
        Some(reason) => format!("paused by {}: {reason}", paused.by),
        None => format!("paused by {}", paused.by),
    }))
}

/// Somebody said no at its gate.
pub fn was_rejected(work: &WorkRow) -> bool {
    let gate = work.row.approval.as_deref().and_then(|text| serde_json::from_str::<Gate>(text).ok());
    gate.is_some_and(|gate| gate.status == Decision::Rejected)
}

/// The revisions of what an operation changes; what is not there yet is left out.
pub fn revisions(target: &Target, named: &[ClusterId], records: &Records) -> BTreeMap<String, u64> {
    let mut revisions = BTreeMap::new();
    match target {
        Target::Peer(id) => {
            if let Some(peer) = records.peers.get(id) {
                revisions.insert(target.to_string(), peer.revision.unsigned_abs());
            }
        }
        Target::Cluster(id) => {
            for id in std::iter::once(id).chain(named) {
                if let Some(cluster) = records.clusters.get(id) {
                    revisions.insert(format!("clusters/{id}"), cluster.row.revision.unsigned_abs());
                }
            }
        }
        Target::Settings => {
            revisions.insert(target.to_string(), records.config.as_ref().map_or(0, |config| config.revision));
        }
        Target::Many(_) => {}
    }
    revisions
}

/// A cancel that was acknowledged before the first step: then there is none. `result` where the workflow has its own words for that.
pub fn cancelled_first(
    work: &mut WorkRow,
    actor: &Actor,
    result: Option<Value>,
    log: &mut Log,
    now: Timestamp,
) -> Result<(), StoreError> {
    work.row.changed = false;
    let result = result.unwrap_or_else(|| json!({ "moved": [], "restored": [], "notRestored": [] }));
    work.row.result = work.run.is_none().then(|| result.to_string());
    end(work, actor, State::Cancelled, Some(json!({ "result": result })), None, log, now)
}

/// 412, 409 and the like, found at the first step.
pub fn refuse(
    work: &mut WorkRow,
    actor: &Actor,
    rejected: &Rejected,
    log: &mut Log,
    now: Timestamp,
) -> Result<(), StoreError> {
    let problem = Problem::from(rejected).at(format!("/control/operations/{}", work.row.id));
    work.row.error = Some(text("a problem", &problem)?);
    work.row.changed = false;
    end(work, actor, State::Refused, Some(json!({ "error": problem })), None, log, now)
}

/// Whether the target is still as the request wanted it: at one of these revisions, of which 0 is not there at all.
pub fn still_matches(work: &WorkRow, revision: Option<u64>) -> Result<Result<(), Rejected>, StoreError> {
    let Some(text) = &work.if_match else { return Ok(Ok(())) };
    let wanted: Vec<u64> =
        serde_json::from_str(text).map_err(|error| StoreError::corrupt("an operation's If-Match", error))?;
    Ok(match revision {
        _ if wanted.contains(&revision.unwrap_or(0)) => Ok(()),
        _ => Err(Rejected::RevisionMismatch { resource: work.row.target.clone(), revision }),
    })
}

impl AtGate<'_> {
    /// Comes to the gate `at`, looks at it again, or goes through. An operation without such a gate just goes on.
    pub fn pass(
        &mut self,
        policies: &[GatePolicy],
        at: GateAt,
        about: &GateSubject<'_>,
    ) -> Result<Passage, StoreError> {
        let Some(policy) = policies.iter().find(|policy| policy.gate == at) else { return Ok(Passage::On) };
        let params = self.work.row.params.clone();
        let (verb, target) = (self.work.row.verb.clone(), self.work.row.target.clone());
        let subject =
            Subject { verb: &verb, target: &target, params: &params, revisions: &about.revisions, peers: about.peers };
        let known = match &self.work.row.approval {
            None => None,
            Some(text) => {
                let gate: Gate = serde_json::from_str(text).map_err(|error| StoreError::corrupt("a gate", error))?;
                Some(gate).filter(|gate| gate.gate == at)
            }
        };
        let Some(mut gate) = known else {
            let gate = gate::open(policy, subject, self.now);
            self.work.row.state = State::AwaitingApproval.as_str().to_owned();
            self.keep(&gate)?;
            self.tell_operation("awaitingApproval", json!({ "gate": gate.gate, "expiresAt": gate.expires_at }))?;
            self.tell_requested(&gate, about)?;
            return Ok(Passage::Waits);
        };
        if gate.status == Decision::Passed {
            return Ok(Passage::On);
        }
        match gate.look(subject, self.now) {
            Look::Waiting => {
                self.keep(&gate)?;
                Ok(Passage::Waits)
            }
            Look::Renewed(renewed) => {
                self.keep(&renewed)?;
                self.tell_requested(&renewed, about)?;
                Ok(Passage::Waits)
            }
            Look::Granted => {
                gate.status = Decision::Passed;
                self.keep(&gate)?;
                self.work.wake_at = None;
                Ok(Passage::On)
            }
            Look::Rejected => {
                let told = json!({ "rejectedBy": gate.rejected_by, "comment": gate.note, "gate": gate.gate });
                self.conclude(State::Rejected, &told)?;
                Ok(Passage::Ended)
            }
            Look::Expired => {
                gate.status = Decision::Expired;
                self.keep(&gate)?;
                let told = json!({ "gate": gate.gate, "expiredAt": gate.expires_at,
                                   "given": gate.approvals.len(), "required": gate.required });
                self.tell_approval("expired", told.clone())?;
                self.conclude(State::Expired, &told)?;
                Ok(Passage::Ended)
            }
        }
    }

    fn keep(&mut self, gate: &Gate) -> Result<(), StoreError> {
        self.work.row.approval = Some(text("a gate", gate)?);
        self.work.row.digest.clone_from(&gate.digest);
        self.work.wake_at = Some(gate.expires_at);
        Ok(())
    }

    /// Ends it here. A workflow that had begun before says itself what has come of it, beside `told`.
    fn conclude(&mut self, state: State, told: &Value) -> Result<(), StoreError> {
        if self.work.run.is_some() {
            self.work.row.state = state.as_str().to_owned();
            return Ok(());
        }
        self.work.row.changed = false;
        self.work.row.result = Some(told.to_string());
        end(self.work, self.actor, state, Some(json!({ "result": told })), None, self.log, self.now)
    }

    fn tell_requested(&mut self, gate: &Gate, about: &GateSubject<'_>) -> Result<(), StoreError> {
        let row = &self.work.row;
        let params: Value = serde_json::from_str(&row.params).unwrap_or(Value::Null);
        let mut plan = Map::new();
        plan.insert("verb".to_owned(), json!(row.verb));
        plan.insert("target".to_owned(), json!(row.target));
        plan.insert("params".to_owned(), params);
        plan.insert("revisions".to_owned(), json!(about.revisions));
        if let Value::Object(more) = &about.plan {
            plan.extend(more.clone());
        }
        let told = json!({
            "digest": gate.digest, "plan": plan, "required": gate.required, "expiresAt": gate.expires_at,
            "gate": gate.gate, "rule": gate.rule, "approverScope": gate.approver_scope, "note": gate.note,
            "verb": row.verb, "requester": row.actor, "reason": row.reason, "changeTicket": row.change_ticket,
        });
        self.tell_approval("requested", told)
    }

    fn tell_approval(&mut self, what: &str, told: Value) -> Result<(), StoreError> {
        let id = self.work.row.id.to_string();
        let mut facts = detail(told);
        facts.insert("target".to_owned(), Value::String(self.work.row.target.clone()));
        let about = About { resource: "approvals", id: &id, what, outcome: what };
        self.log.add(self.work, self.actor, about, None, facts, self.now)
    }

    fn tell_operation(&mut self, what: &str, told: Value) -> Result<(), StoreError> {
        let id = self.work.row.id.to_string();
        let mut facts = detail(told);
        facts.insert("target".to_owned(), Value::String(self.work.row.target.clone()));
        let about = About { resource: "operations", id: &id, what, outcome: what };
        self.log.add(self.work, self.actor, about, None, facts, self.now)
    }

    /// Takes a slot of the cluster's budget, or a place in its queue.
    pub fn queue(&mut self, peer: &PeerId, records: &mut Records) -> Result<Passage, StoreError> {
        let Some(record) = records.peers.get(peer) else { return Ok(Passage::On) };
        let cluster = record.cluster.clone();
        self.work.row.waits_for = Some(cluster.to_string());
        let id = self.work.row.id;
        let Some(state_of) = records.budgets.get_mut(&cluster) else {
            self.work.holds_slot = true;
            return Ok(Passage::On);
        };
        let ahead = state_of.queued.iter().filter(|other| **other < id).count() as u32;
        // A peer that is out already costs nothing; one that only flaps while it waits is not to slip past the others.
        let mut standing = state_of.peers.clone();
        if state(self.work)? == State::Queued && record.mark == DrainMark::None {
            standing.iter_mut().filter(|one| one.peer == *peer).for_each(|one| one.unavailable = false);
        }
        match budget::admit(state_of.limit, &standing, peer, ahead) {
            Admission::Start => {
                state_of.queued.remove(&id);
                if let Some(standing) = state_of.peers.iter_mut().find(|standing| standing.peer == *peer) {
                    standing.holder = Some(id);
                }
                self.work.holds_slot = true;
                self.work.row.blockers = "[]".to_owned();
                Ok(Passage::On)
            }
            Admission::Queue { position, holders } => {
                state_of.queued.insert(id);
                let was = state(self.work)?;
                let limit = state_of.limit.unwrap_or(0);
                let taken = budget::taken_by(&state_of.peers);
                let blocker = Blocker {
                    code: BlockerCode::Budget,
                    subject: cluster.to_string(),
                    // Without its place, which changes with those before it: `queue` has that.
                    message: format!("cluster {cluster} allows {limit} unavailable: {taken}"),
                    since: self.since(BlockerCode::Budget).unwrap_or(self.now),
                };
                self.work.row.blockers = text("an operation's blockers", &[blocker])?;
                self.work.row.state = State::Queued.as_str().to_owned();
                if was != State::Queued {
                    let told = json!({ "cluster": cluster, "position": position, "holders": holders });
                    self.tell_operation("queued", told)?;
                }
                Ok(Passage::Waits)
            }
        }
    }

    /// Somebody has paused it, or its parent, before its first step. Out of the queue it holds nobody up; resumed, it has its place
    /// again. Returns the cluster whose queue it has left.
    pub fn waits_paused(&mut self, why: String) -> Result<Option<String>, StoreError> {
        let blocker = Blocker {
            code: BlockerCode::Paused,
            subject: self.work.row.id.to_string(),
            message: why,
            since: self.since(BlockerCode::Paused).unwrap_or(self.now),
        };
        self.work.row.blockers = text("an operation's blockers", &[blocker])?;
        self.work.wake_at = self.now.checked_add(PAUSED_LOOK).ok();
        Ok(self.work.row.waits_for.take())
    }

    /// Since when it has been blocked so.
    fn since(&self, code: BlockerCode) -> Option<Timestamp> {
        let blockers: Vec<Blocker> = serde_json::from_str(&self.work.row.blockers).ok()?;
        blockers.into_iter().find(|blocker| blocker.code == code).map(|blocker| blocker.since)
    }
}

#[cfg(test)]
mod tests;
