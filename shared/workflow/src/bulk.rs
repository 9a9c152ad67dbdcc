//! A bulk drain: one operation for a frozen list of peers, which drains each of them by a child operation.
//!
//! ```text
//!   start
//!     │ a canary and more than it          all of it ended                     soak over, gated           gate passed
//!     ├──────────────────────────▶ Canary ────────────────▶ Soaking ──────────────────────▶ AwaitingRest ─────────────┐
//!     │                              │                         │ soak over, no gate               │  │                │
//!     │ no canary                    │                         └──────────────────────────────────│──│──────▶ Rest ◀──┘
//!     └─ Rest, or AwaitingRest       │                                                            │  │         │
//!                                    │ more failures than maxFailures, what runs has ended        │  │         │ all ended
//!                                    └────────────▶ Ended(Failed) ◀────────────── any failure ────│──│─────────┤
//!                                                                             gate rejected or ◀──┘  │         └ none ─▶ Ended(Succeeded)
//!                                                                             expired: Ended(that)   │
//!     cancel, anywhere but Ended ──▶ Unwinding ── what runs is cancelled and ends ──▶ Ended(Cancelled)
//! ```
//!
//! Who may move an arrow: what is seen of the children, a timer, the gate, a cancel. A child that does not succeed is a failure,
//! whatever became of it; one whose peer was locked by somebody else is skipped and is none. After more failures than
//! `maxFailures` nothing is launched any more. Children that had succeeded before a cancel stay as they are and are named with
//! the command that undoes them: taking a drained peer back into service is nobody's wish by itself.
//!
//! A launch is answered by [`Input::ChildrenSeen`] with what became of it. Until then the peer counts as running.

mod status;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use status::Status;

use crate::drain::{Trouble, later};
use crate::operation::{BlockerCode, Cancel, State};
use crate::{OperationId, PeerId, Rejected, Timestamp};

/// The parameters of a bulk drain, as the operation keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BulkParams {
    /// Frozen at submission, in the order in which they are drained.
    pub peers: Vec<PeerId>,
    /// Children at once, at least 1.
    pub max_concurrent: u32,
    /// So many first; 0: no canary.
    #[serde(default)]
    pub canary: u32,
    /// Seconds between the end of the canary and the rest.
    #[serde(default)]
    pub soak_secs: u64,
    /// So many failures are put up with.
    #[serde(default)]
    pub max_failures: u32,
    /// The rest waits for its gate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gated: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bulk {
    pub id: OperationId,
    pub params: BulkParams,
    pub started_at: Timestamp,
    pub phase: Phase,
    /// Of the peers whose turn has come.
    pub children: BTreeMap<PeerId, Child>,
    /// Somebody has paused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Trouble>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    Canary,
    #[serde(rename_all = "camelCase")]
    Soaking {
        until: Timestamp,
    },
    /// The gate is open.
    AwaitingRest,
    Rest,
    Unwinding,
    #[serde(rename_all = "camelCase")]
    Ended {
        state: State,
        /// There was nothing to do.
        unchanged: bool,
    },
}

/// What became of a peer's turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Child {
    /// Nobody has said yet what came of its launch.
    Launching,
    #[serde(rename_all = "camelCase")]
    Seen {
        operation: OperationId,
        state: State,
        /// It was told to stop by the parent's cancel.
        #[serde(default)]
        cancelled: bool,
        /// So many workloads its result names as not restored.
        #[serde(default)]
        not_restored: u32,
    },
    Skipped {
        why: String,
    },
}

/// What is known of a child now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChildState {
    Seen {
        operation: OperationId,
        state: State,
        /// So many workloads its result names as not restored; 0 while it runs.
        not_restored: u32,
    },
    /// None was created: the peer was locked by another operation.
    Skipped { why: String },
}

/// Everything that can happen to a bulk drain.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// What is known of children; it need not be all of them.
    ChildrenSeen(BTreeMap<PeerId, ChildState>),
    Timer,
    /// The gate of the rest was approved.
    GatePassed,
    /// The gate of the rest was `rejected`, or has `expired`: with that it ends.
    GateClosed(State),
    Cancel(Cancel),
}

/// What the step may know beside its input.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// Somebody has paused the operation: who and why, as the blocker tells it. Nothing is launched until it is resumed.
    pub paused: Option<String>,
}

/// What the worker carries out, in the step's transaction.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Creates a drain of each, as a child. Answered by [`Input::ChildrenSeen`].
    Launch(Vec<PeerId>),
    CancelChildren(Vec<OperationId>),
}

/// What a step decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub next: Bulk,
    pub effects: Vec<Effect>,
    /// When to look again, if nothing happens before.
    pub wake_at: Option<Timestamp>,
}

/// Begins a bulk drain. An empty list needs nothing: the step ends at once, unchanged.
pub fn start(id: OperationId, params: BulkParams, world: &World, now: Timestamp) -> Step {
    let run = Bulk { id, params, started_at: now, phase: Phase::Canary, children: BTreeMap::new(), paused: None };
    let mut step = Stepper { run, world, now, effects: Vec::new() };
    step.advance();
    step.finish()
}

/// One step. Inputs that are late, repeated or about nothing known change nothing.
pub fn step(run: &Bulk, world: &World, input: Input, now: Timestamp) -> Result<Step, Rejected> {
    let mut step = Stepper { run: run.clone(), world, now, effects: Vec::new() };
    match (&run.phase, input) {
        (Phase::Ended { state, .. }, Input::Cancel(_)) if *state != State::Cancelled => {
            return Err(Rejected::TooLate { operation: run.id, state: *state });
        }
        (Phase::Ended { .. }, _) => return Ok(step.finish()),
        (_, Input::Cancel(_)) => step.run.phase = Phase::Unwinding,
        (_, Input::ChildrenSeen(seen)) => step.see(seen),
        (Phase::AwaitingRest, Input::GatePassed) => step.run.phase = Phase::Rest,
        (Phase::AwaitingRest, Input::GateClosed(state)) => step.end(state),
        (_, Input::Timer | Input::GatePassed | Input::GateClosed(_)) => {}
    }
    step.advance();
    Ok(step.finish())
}

impl Bulk {
    /// The peers whose turn has not come.
    pub fn not_started(&self) -> impl Iterator<Item = &PeerId> {
        self.params.peers.iter().filter(|peer| !self.children.contains_key(*peer))
    }

    fn running(&self) -> usize {
        self.children.values().filter(|child| child.is_running()).count()
    }

    fn too_many_failures(&self) -> bool {
        self.children.values().filter(|child| child.has_failed()).count() > self.params.max_failures as usize
    }

    fn canary(&self) -> &[PeerId] {
        let canary = (self.params.canary as usize).min(self.params.peers.len());
        &self.params.peers[..canary]
    }
}

impl Child {
    pub fn is_running(&self) -> bool {
        match self {
            Child::Launching => true,
            Child::Seen { state, .. } => !state.is_terminal(),
            Child::Skipped { .. } => false,
        }
    }

    /// It ended without success, and not because the parent was cancelled.
    pub fn has_failed(&self) -> bool {
        match self {
            Child::Seen { state, cancelled, .. } => {
                state.is_terminal() && *state != State::Succeeded && !(*cancelled && *state == State::Cancelled)
            }
            Child::Launching | Child::Skipped { .. } => false,
        }
    }
}

/// The step in the making.
struct Stepper<'a> {
    run: Bulk,
    world: &'a World,
    now: Timestamp,
    effects: Vec<Effect>,
}

impl Stepper<'_> {
    /// Follows the children. A terminal state stays, except that a stuck one may be resolved.
    fn see(&mut self, seen: BTreeMap<PeerId, ChildState>) {
        for (peer, seen) in seen {
            let Some(child) = self.run.children.get_mut(&peer) else { continue };
            match (&mut *child, seen) {
                (Child::Launching, ChildState::Skipped { why }) => *child = Child::Skipped { why },
                (Child::Launching, ChildState::Seen { operation, state, not_restored }) => {
                    *child = Child::Seen { operation, state, cancelled: false, not_restored };
                }
                (
                    Child::Seen { operation, state, not_restored, .. },
                    ChildState::Seen { operation: same, state: new, not_restored: left },
                ) if *operation == same && (!state.is_terminal() || *state == State::Stuck && new.is_terminal()) => {
                    (*state, *not_restored) = (new, left);
                }
                (Child::Seen { .. }, ChildState::Seen { .. } | ChildState::Skipped { .. })
                | (Child::Skipped { .. }, _) => {}
            }
        }
    }

    fn advance(&mut self) {
        match self.run.phase {
            Phase::Canary => {
                let canary = self.run.canary().to_vec();
                self.launch(&canary);
                let ended = canary.iter().all(|peer| self.run.children.get(peer).is_some_and(|c| !c.is_running()));
                if self.stopped() {
                    self.end(State::Failed);
                } else if ended {
                    self.canary_ended();
                }
            }
            Phase::Soaking { until } if until <= self.now => self.go_on(),
            Phase::Soaking { .. } | Phase::AwaitingRest => {}
            Phase::Rest => {
                let peers = self.run.params.peers.clone();
                self.launch(&peers);
                let all = self.run.running() == 0 && self.run.not_started().next().is_none();
                if all || self.stopped() {
                    self.end_forward();
                }
            }
            Phase::Unwinding => {
                self.cancel_children();
                if self.run.running() == 0 {
                    self.end(State::Cancelled);
                }
            }
            Phase::Ended { .. } => {}
        }
    }

    fn canary_ended(&mut self) {
        if self.run.not_started().next().is_none() {
            return self.end_forward();
        }
        if !self.run.canary().is_empty() && self.run.params.soak_secs > 0 {
            let soak = Duration::from_secs(self.run.params.soak_secs);
            self.run.phase = Phase::Soaking { until: later(self.now, soak).unwrap_or(Timestamp::MAX) };
            return;
        }
        self.go_on();
    }

    fn go_on(&mut self) {
        if self.run.params.gated {
            self.run.phase = Phase::AwaitingRest;
        } else {
            self.run.phase = Phase::Rest;
            self.advance();
        }
    }

    /// Launches as many of these as there is room for.
    fn launch(&mut self, peers: &[PeerId]) {
        if self.world.paused.is_some() || self.run.too_many_failures() {
            return;
        }
        let room = (self.run.params.max_concurrent.max(1) as usize).saturating_sub(self.run.running());
        let next: Vec<PeerId> =
            peers.iter().filter(|peer| !self.run.children.contains_key(*peer)).take(room).cloned().collect();
        if !next.is_empty() {
            self.run.children.extend(next.iter().map(|peer| (peer.clone(), Child::Launching)));
            self.effects.push(Effect::Launch(next));
        }
    }

    /// There were too many failures, and what was running then has ended.
    fn stopped(&self) -> bool {
        self.run.too_many_failures() && self.run.running() == 0
    }

    /// Each is told once. What was being launched when the cancel came is told as soon as it is seen.
    fn cancel_children(&mut self) {
        let mut told = Vec::new();
        for child in self.run.children.values_mut() {
            if let Child::Seen { operation, state, cancelled, .. } = child
                && !state.is_terminal()
                && !*cancelled
            {
                *cancelled = true;
                told.push(*operation);
            }
        }
        if !told.is_empty() {
            self.effects.push(Effect::CancelChildren(told));
        }
    }

    fn end_forward(&mut self) {
        let failed = self.run.children.values().any(Child::has_failed);
        self.end(if failed { State::Failed } else { State::Succeeded });
    }

    fn end(&mut self, state: State) {
        let unchanged = !self.run.children.values().any(|child| matches!(child, Child::Seen { .. }));
        self.run.phase = Phase::Ended { state, unchanged };
    }

    fn finish(mut self) -> Step {
        let forward = !matches!(self.run.phase, Phase::Unwinding | Phase::Ended { .. });
        let (before, subject) = (self.run.paused.take(), self.run.id.to_string());
        if let Some(why) = self.world.paused.clone().filter(|_| forward) {
            self.run.paused = Some(Trouble::renew(before, BlockerCode::Paused, subject, why, self.now));
        }
        let wake_at = match self.run.phase {
            Phase::Soaking { until } => Some(until),
            Phase::Canary | Phase::AwaitingRest | Phase::Rest | Phase::Unwinding | Phase::Ended { .. } => None,
        };
        Step { next: self.run, effects: self.effects, wake_at }
    }
}
