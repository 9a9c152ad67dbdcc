//! What a bulk drain looks like from outside: state, phase, progress, children, blockers and an honest result.

use serde_json::{Value, json};

use super::*;
use crate::drain::blockers;
use crate::operation::{Blocker, Progress};

/// A summary names at most so many peers of each kind.
const MAX_NAMED: usize = 5;

#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    pub state: State,
    pub phase: Option<&'static str>,
    pub progress: Progress,
    /// How many children are in each state, `skipped` among them.
    pub children: BTreeMap<String, u32>,
    pub blockers: Vec<Blocker>,
    /// Of an ended one.
    pub result: Option<Value>,
    pub changed: bool,
}

impl Bulk {
    pub fn status(&self) -> Status {
        let (state, phase) = match &self.phase {
            Phase::Canary => (State::Running, Some("canary")),
            Phase::Soaking { .. } => (State::Running, Some("soak")),
            Phase::AwaitingRest => (State::AwaitingApproval, Some("rest")),
            Phase::Rest => (State::Running, Some("rest")),
            Phase::Unwinding => (State::Unwinding, Some("unwinding")),
            Phase::Ended { state, .. } => (*state, None),
        };
        let ended = matches!(self.phase, Phase::Ended { .. });
        Status {
            state,
            phase,
            progress: self.progress(),
            children: self.counts(),
            blockers: blockers(self.paused.iter()),
            result: ended.then(|| self.result()),
            changed: !matches!(self.phase, Phase::Ended { unchanged: true, .. }),
        }
    }

    /// Forward, how many peers are drained; on the way back, how many of the children that were running have been undone.
    fn progress(&self) -> Progress {
        let count = |test: &dyn Fn(&Child) -> bool| self.children.values().filter(|child| test(child)).count() as u32;
        let told = |child: &Child| matches!(child, Child::Seen { cancelled: true, .. });
        let in_flight = count(&Child::is_running);
        let unit = "peers".to_owned();
        if matches!(self.phase, Phase::Unwinding | Phase::Ended { state: State::Cancelled, .. }) {
            let undone = |child: &Child| told(child) && !child.is_running() && !child.has_failed();
            let failed = count(&|child| told(child) && child.has_failed());
            return Progress { done: count(&undone), total: count(&told), in_flight, failed, unit };
        }
        let skipped = count(&|child| matches!(child, Child::Skipped { .. }));
        Progress {
            done: count(&|child| matches!(child, Child::Seen { state: State::Succeeded, .. })),
            total: (self.params.peers.len() as u32).saturating_sub(skipped),
            in_flight,
            failed: count(&Child::has_failed),
            unit,
        }
    }

    fn counts(&self) -> BTreeMap<String, u32> {
        let mut counts = BTreeMap::new();
        for child in self.children.values() {
            let word = match child {
                Child::Launching => State::Submitted.as_str(),
                Child::Seen { state, .. } => state.as_str(),
                Child::Skipped { .. } => "skipped",
            };
            *counts.entry(word.to_owned()).or_default() += 1;
        }
        counts
    }

    fn result(&self) -> Value {
        let mut groups = Groups::default();
        let cancelled = matches!(self.phase, Phase::Ended { state: State::Cancelled, .. });
        for peer in &self.params.peers {
            match self.children.get(peer) {
                None => groups.not_started.push(peer),
                // An ended one has none that is still being launched.
                Some(Child::Launching) => groups.not_started.push(peer),
                Some(Child::Skipped { why }) => {
                    groups.skipped_names.push(peer);
                    groups.skipped.push(json!({"peer": peer, "why": why}));
                }
                Some(child @ Child::Seen { operation, state, not_restored, .. }) => {
                    if *state == State::Succeeded {
                        groups.succeeded.push(peer);
                    } else if child.has_failed() {
                        groups.failed_names.push(peer);
                        groups.failed.push(json!({"peer": peer, "operation": operation, "state": state}));
                    } else {
                        groups.cancelled.push(peer);
                    }
                    if cancelled && let Some((why, undo)) = left(peer, *operation, *state, *not_restored) {
                        groups
                            .not_restored
                            .push(json!({"peer": peer, "operation": operation, "why": why, "undo": undo}));
                    }
                }
            }
        }
        json!({
            "summary": groups.summary(),
            "succeeded": groups.succeeded,
            "failed": groups.failed,
            "skipped": groups.skipped,
            "cancelled": groups.cancelled,
            "notStarted": groups.not_started,
            "notRestored": groups.not_restored,
        })
    }
}

/// Why a cancelled bulk drain has not put this peer back as it was, and how it can be.
fn left(peer: &PeerId, operation: OperationId, state: State, not_restored: u32) -> Option<(String, String)> {
    let uncordon = format!("omnirelay mesh peers uncordon {peer}");
    match state {
        State::Cancelled if not_restored > 0 => {
            let why = format!("its drain was cancelled, but {not_restored} of its workloads could not be put back");
            Some((why, format!("omnirelay mesh ops get {operation}")))
        }
        State::Succeeded => {
            Some(("its drain had succeeded before the cancel; what it moved stays there".to_owned(), uncordon))
        }
        State::Failed => Some(("its drain had failed and has left it cordoned".to_owned(), uncordon)),
        State::Stuck => {
            let why = "its drain is stuck and keeps its hold".to_owned();
            Some((why, format!("omnirelay mesh ops resolve {operation}")))
        }
        // These have changed nothing, or have put everything back.
        State::Cancelled
        | State::Refused
        | State::Rejected
        | State::Expired
        | State::Submitted
        | State::AwaitingApproval
        | State::Queued
        | State::Running
        | State::Unwinding => None,
    }
}

#[derive(Default)]
struct Groups<'a> {
    succeeded: Vec<&'a PeerId>,
    failed: Vec<Value>,
    failed_names: Vec<&'a PeerId>,
    skipped: Vec<Value>,
    skipped_names: Vec<&'a PeerId>,
    cancelled: Vec<&'a PeerId>,
    not_started: Vec<&'a PeerId>,
    not_restored: Vec<Value>,
}

impl Groups<'_> {
    /// `39 succeeded, 1 failed (web-13)`.
    fn summary(&self) -> String {
        let mut parts = vec![format!("{} succeeded", self.succeeded.len())];
        let named = [("failed", &self.failed_names), ("skipped", &self.skipped_names), ("cancelled", &self.cancelled)];
        for (word, peers) in named.into_iter().filter(|(_, peers)| !peers.is_empty()) {
            let mut names: Vec<&str> = peers.iter().take(MAX_NAMED).map(|peer| peer.as_str()).collect();
            names.extend((peers.len() > MAX_NAMED).then_some("…"));
            parts.push(format!("{} {word} ({})", peers.len(), names.join(", ")));
        }
        if !self.not_started.is_empty() {
            parts.push(format!("{} not started", self.not_started.len()));
        }
        parts.join(", ")
    }
}
