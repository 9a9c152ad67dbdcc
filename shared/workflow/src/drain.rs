//! A drain: everything that runs on a peer leaves it, or everything comes back.
//!
//! ```text
//!   start                 agent acknowledges            all moved               agent lists nothing,
//!     │                   the cordon                                            nothing is inbound
//!     ▼                        │                           │                          │
//!  Cordoning ─────────────────▶ Evicting ─────────────────▶ Verifying ───────────────▶ Ended(Succeeded)
//!     │  │                       │    ▲                        │  │                     hold stays until uncordon
//!     │  │                       │    └── late arrivals ───────┘  │
//!     │  └── deadline: hold ─────┴──▶ Stopping ── in flight ─────┼──▶ Ended(Failed)      hold stays, the rest is listed
//!     │      deadline: force ──▶ (same phase, `forced`)           │
//!     └── cancel, or deadline: cancel ──▶ Unwinding ◀────────────┘
//!                                            │ every move back, untouched, kept, or named as left
//!                                            ├──▶ Ended(Cancelled)    own hold removed
//!                                            └──▶ Ended(Stuck)        an undo kept failing; hold and lock stay until `resolve`
//!
//! One move, forward                                        and back (source runs it: S, a copy elsewhere: C)
//!   start-first:  Waiting ▶ Acquiring ▶ Releasing ▶ Moved     C only: TakingBack ▶ Withdrawing ▶ Restored
//!   stop-first:   Waiting ▶ Releasing ▶ Acquiring ▶ Moved     C only: Withdrawing ▶ TakingBack ▶ Restored
//!   release-only: Waiting ▶ Releasing ▶ Moved (nowhere)       TakingBack ▶ Restored, where it is restorable
//!   an acquire that failed: ▶ Settling (release there) ▶ Waiting ▶ another target; after a release, at last the source
//!   a release that does not end while Stopping: start-first ▶ Moved, its old copy named; else TakingBack ▶ Restored
//! ```
//!
//! Who may move an arrow: an agent's report (or the end of a command nobody answered), a timer, a cancel. A cancel is accepted in
//! every state but `Ended`. Every command carries a new, higher epoch, so whatever arrives late at an agent is refused there: that is
//! what makes it safe to give up on a command and go on. Only a forced drain goes on without its source's word, and only while the
//! source is unreachable: what may then run twice is named in `strays`, until a list or a report shows that it does not.
//!
//! Two things hold up moves that have not begun, and nothing else: a pause, and the budget of the workload's service. What is in
//! flight comes to its end, the deadline runs on, a cancel works as ever.

mod budget;
mod moves;
mod state;
mod status;
mod strays;
mod unwind;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use state::*;
pub use status::Status;
pub(crate) use status::blockers;

use crate::budget::ServiceLoad;
use crate::operation::{BlockerCode, Cancel, State};
use crate::placement::Candidate;
use crate::resource::{DrainMark, Health, Hold, HoldKind, Workload};
use crate::settings::Amount;
use crate::{CommandId, HoldId, OperationId, PeerId, Rejected, Timestamp, WorkloadId};

/// What a drain is asked to do.
#[derive(Debug, Clone)]
pub struct Request {
    pub id: OperationId,
    pub peer: PeerId,
    pub params: DrainParams,
    pub hold: HoldId,
    pub actor: String,
    pub reason: Option<String>,
    pub change_ticket: Option<String>,
}

/// What the step may know of the registry, as it stands under the locks of this transaction.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// How the source looks; `None` while no agent has ever spoken for it.
    pub source_health: Option<Health>,
    pub mark: Option<DrainMark>,
    /// Workloads that other operations have promised to the source.
    pub inbound: u32,
    /// The records of what the source owns and of every workload that the drain has touched.
    pub workloads: BTreeMap<WorkloadId, Workload>,
    /// The peers of the cluster, shared by all drains of a batch; the source may be among them and is never chosen. Their
    /// `load` includes what is promised to them.
    pub candidates: Arc<Vec<Candidate>>,
    /// How each service that has a budget stands, moves of this batch included.
    pub services: Arc<BTreeMap<String, ServiceLoad>>,
    pub service_budgets: Arc<BTreeMap<String, Amount>>,
    /// Somebody has paused the operation: who and why, as the blocker tells it. Nothing new is begun until it is resumed.
    pub paused: Option<String>,
}

/// Everything that can happen to a drain.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// What came of a command.
    Report {
        command: CommandId,
        outcome: Outcome,
    },
    /// It is time: a deadline, a retry, a look at the registry.
    Timer,
    Cancel(Cancel),
}

/// What came of a command: the agent's word, or the end of the attempts to reach it.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Done,
    Busy {
        remaining: Option<u64>,
        message: String,
    },
    NotReady {
        message: String,
    },
    Failed {
        message: String,
    },
    /// The agent did not begin it and never will.
    Refused {
        message: String,
    },
    /// Its time is over. `accepted`: the agent may have begun it. False only where every attempt surely never reached it (no
    /// responders): an attempt that got no answer in time counts as accepted, because the answer may be what was lost.
    Expired {
        accepted: bool,
    },
    /// Answer to `list`.
    Listed {
        workloads: Vec<WorkloadId>,
    },
}

/// What a step decided. Carried out by the worker in one transaction, commands after its commit.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub next: Drain,
    pub changes: Vec<Change>,
    /// Commands given before and not yet done are void, except those of an unwinding.
    pub void: bool,
    pub commands: Vec<Command>,
    pub events: Vec<Event>,
    /// When to look again, if nothing happens before.
    pub wake_at: Option<Timestamp>,
}

/// A change of the registry. The peer is always the drain's source.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    AddHold(Hold),
    RemoveHold(HoldId),
    Mark(DrainMark),
    /// The workload is being moved: `target` is whom it is promised to.
    Moving {
        workload: WorkloadId,
        target: Option<PeerId>,
        epoch: u64,
    },
    /// It has a new owner, under this epoch. Still moving.
    Owner {
        workload: WorkloadId,
        peer: PeerId,
        epoch: u64,
    },
    /// Its move has ended where it is now.
    Settled {
        workload: WorkloadId,
    },
    /// It was released with no target: it leaves the record.
    Gone {
        workload: WorkloadId,
    },
    /// What had gone is back on the source.
    Back {
        record: Workload,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandKind {
    Acquire,
    Release,
    List,
    Cordon,
}

/// A command to the agent of a peer.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    pub id: CommandId,
    pub peer: PeerId,
    pub kind: CommandKind,
    /// Of acquire and release: which, and under which epoch.
    pub workload: Option<(WorkloadId, u64)>,
    pub expires_at: Timestamp,
    /// Goes out although the drain is being cancelled.
    pub undo: bool,
}

/// Something to tell about a peer or workload. What is told about the operation itself follows from [`Status`].
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    PeerDraining,
    PeerDrained,
    /// The drain is over without success; its hold is gone or stays.
    PeerChanged,
    Moving {
        workload: WorkloadId,
        from: PeerId,
        to: Option<PeerId>,
    },
    Moved {
        workload: WorkloadId,
        from: PeerId,
        to: Option<PeerId>,
    },
    Restored {
        workload: WorkloadId,
        from: Option<PeerId>,
        to: PeerId,
    },
}

/// Begins a drain. A drained peer needs nothing: the step ends at once, unchanged.
pub fn start(request: Request, world: &World, now: Timestamp) -> Step {
    let already = world.mark == Some(DrainMark::Drained);
    let hold = Hold {
        id: request.hold,
        kind: HoldKind::Drain,
        owner: request.actor,
        operation: Some(request.id),
        reason: request.reason,
        change_ticket: request.change_ticket,
        since: now,
    };
    let run = Drain {
        id: request.id,
        peer: request.peer,
        deadline_at: request.params.deadline_secs.and_then(|secs| later(now, Duration::from_secs(secs))),
        params: request.params,
        hold: hold.id,
        started_at: now,
        phase: Phase::Ended(End { state: State::Succeeded, unchanged: already }),
        forced: false,
        given: 0,
        moves: BTreeMap::new(),
        trouble: None,
        paused: None,
        strays: Vec::new(),
        leftovers: BTreeMap::new(),
    };
    let mut step = Stepper::new(run, world, now);
    if !already {
        step.changes.push(Change::AddHold(hold));
        step.changes.push(Change::Mark(DrainMark::Draining));
        step.events.push(Event::PeerDraining);
        let ask = step.ask_source(CommandKind::Cordon, 0);
        step.run.phase = Phase::Cordoning { ask };
        step.adopt_arrivals();
    }
    step.finish()
}

/// One step of a running drain. Inputs that are late, repeated or about nothing known change nothing.
pub fn step(run: &Drain, world: &World, input: Input, now: Timestamp) -> Result<Step, Rejected> {
    let mut step = Stepper::new(run.clone(), world, now);
    if let Phase::Ended(end) = &run.phase {
        return match input {
            Input::Cancel(_) if !matches!(end.state, State::Cancelled) => {
                Err(Rejected::TooLate { operation: run.id, state: end.state })
            }
            Input::Cancel(_) | Input::Report { .. } | Input::Timer => Ok(step.finish()),
        };
    }
    match input {
        Input::Cancel(cancel) => step.unwind(Cause::Cancel, cancel.keep_moved),
        Input::Report { command, outcome } => step.report(&command, outcome),
        Input::Timer => {}
    }
    step.deadline();
    step.advance();
    Ok(step.finish())
}

/// The step in the making: a copy of the state that the functions of this module change.
struct Stepper<'a> {
    run: Drain,
    world: &'a World,
    now: Timestamp,
    changes: Vec<Change>,
    void: bool,
    commands: Vec<Command>,
    events: Vec<Event>,
    /// Load promised by this very step, beyond what the world knows.
    promised: BTreeMap<PeerId, u32>,
    /// What this very step does to services.
    shifts: budget::Shifts,
}

impl<'a> Stepper<'a> {
    fn new(run: Drain, world: &'a World, now: Timestamp) -> Self {
        Self {
            run,
            world,
            now,
            changes: Vec::new(),
            void: false,
            commands: Vec::new(),
            events: Vec::new(),
            promised: BTreeMap::new(),
            shifts: budget::Shifts::default(),
        }
    }

    /// An agent's word goes to the phase or the move that waits for it; anything else is late and says nothing new.
    fn report(&mut self, command: &CommandId, outcome: Outcome) {
        match &self.run.phase {
            Phase::Cordoning { ask } if ask.waits_for(command) => return self.cordon_reported(outcome),
            Phase::Verifying { ask } if ask.waits_for(command) => return self.verify_reported(outcome),
            _ => {}
        }
        let asked = self.run.moves.iter().find(|(_, m)| m.at.ask().is_some_and(|ask| ask.waits_for(command)));
        if let Some((id, _)) = asked {
            let id = id.clone();
            self.move_reported(&id, outcome);
        } else {
            self.leftover_reported(command, outcome);
        }
    }

    fn cordon_reported(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Done => {
                self.run.trouble = None;
                self.run.phase = Phase::Evicting;
            }
            other => {
                let ask = self.ask_source_again(&other);
                self.run.phase = Phase::Cordoning { ask };
            }
        }
    }

    fn verify_reported(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Listed { workloads } if workloads.is_empty() && self.world.inbound == 0 => {
                self.run.trouble = None;
                self.adopt_arrivals();
                if self.run.moves.values().all(|m| m.at.is_final()) {
                    self.succeed();
                } else {
                    self.run.phase = Phase::Evicting;
                }
            }
            Outcome::Listed { workloads } => {
                let arrived = self.adopt_arrivals();
                // The next list shows those for which there was no slot now.
                let slots = if self.world.paused.is_some() { 0 } else { self.free_slots() };
                let again = workloads.iter().filter(|id| self.release_again(id)).take(slots).count();
                if arrived || again > 0 {
                    self.run.phase = Phase::Evicting;
                    return;
                }
                let message = match workloads.first() {
                    Some(_) => self.release_leftovers(&workloads),
                    None => format!("{} workloads are on their way to it", self.world.inbound),
                };
                self.set_trouble(BlockerCode::Busy, message);
                let ask = self.ask_source_later(0, Duration::from_millis(500));
                self.run.phase = Phase::Verifying { ask };
            }
            other => {
                let ask = self.ask_source_again(&other);
                self.run.phase = Phase::Verifying { ask };
            }
        }
    }

    /// What the phase itself can do now that the input has been taken.
    fn advance(&mut self) {
        match &self.run.phase {
            Phase::Cordoning { ask } => {
                if self.takes() {
                    self.run.phase = Phase::Evicting;
                    return self.advance();
                }
                if ask.is_due(self.now) {
                    let ask = self.ask_source(CommandKind::Cordon, ask.tries);
                    self.run.phase = Phase::Cordoning { ask };
                }
            }
            Phase::Evicting => {
                self.adopt_arrivals();
                self.advance_moves();
                if self.run.moves.values().all(|m| m.at.is_final()) {
                    if self.takes() {
                        return self.succeed();
                    }
                    self.run.trouble = None;
                    let ask = self.ask_source(CommandKind::List, 0);
                    self.run.phase = Phase::Verifying { ask };
                }
            }
            Phase::Verifying { ask } => {
                if self.takes() {
                    return self.succeed();
                }
                if ask.is_due(self.now) {
                    let ask = self.ask_source(CommandKind::List, ask.tries);
                    self.run.phase = Phase::Verifying { ask };
                }
            }
            Phase::Stopping => {
                self.advance_moves();
                if !self.run.moves.values().any(Move::in_flight) {
                    self.end(State::Failed);
                    self.changes.push(Change::Mark(DrainMark::None));
                    self.events.push(Event::PeerChanged);
                }
            }
            Phase::Unwinding { .. } => self.advance_unwinding(),
            Phase::Ended(_) => {}
        }
    }

    /// The deadline runs from the start. It never touches an unwinding.
    fn deadline(&mut self) {
        let over = self.run.deadline_at.is_some_and(|at| at <= self.now);
        let forward = matches!(self.run.phase, Phase::Cordoning { .. } | Phase::Evicting | Phase::Verifying { .. });
        if !over || !forward || self.run.forced {
            return;
        }
        match self.run.params.on_deadline {
            OnDeadline::Hold => {
                self.run.trouble = None;
                self.run.phase = Phase::Stopping;
            }
            OnDeadline::Cancel => self.unwind(Cause::Deadline, self.run.params.keep_moved),
            OnDeadline::Force => self.run.forced = true,
        }
    }

    fn succeed(&mut self) {
        self.end(State::Succeeded);
        self.changes.push(Change::Mark(DrainMark::Drained));
        self.events.push(Event::PeerDrained);
    }

    fn end(&mut self, state: State) {
        self.run.trouble = None;
        self.run.leftovers.clear();
        self.void = true;
        self.run.phase = Phase::Ended(End { state, unchanged: false });
    }

    fn source_unreachable(&self) -> bool {
        matches!(self.world.source_health, None | Some(Health::Unreachable))
    }

    /// A new command to the source that is about the peer, not about a workload.
    fn ask_source(&mut self, kind: CommandKind, tries: u32) -> Ask {
        let peer = self.run.peer.clone();
        self.give(peer, kind, None, tries, false)
    }

    fn ask_source_later(&self, tries: u32, delay: Duration) -> Ask {
        Ask { command: None, tries, retry_at: later(self.now, delay) }
    }

    /// Asks again after an answer that was none, with a blocker that says so.
    fn ask_source_again(&mut self, outcome: &Outcome) -> Ask {
        let tries = match &self.run.phase {
            Phase::Cordoning { ask } | Phase::Verifying { ask } => ask.tries + 1,
            _ => 1,
        };
        match outcome {
            Outcome::Busy { message, .. } | Outcome::NotReady { message } => {
                self.set_trouble(BlockerCode::Busy, message.clone());
                // It is still at it: the same command goes on.
                match &self.run.phase {
                    Phase::Cordoning { ask } | Phase::Verifying { ask } => return ask.clone(),
                    _ => {}
                }
            }
            Outcome::Failed { message } | Outcome::Refused { message } => {
                self.set_trouble(BlockerCode::NotReady, message.clone());
            }
            Outcome::Expired { .. } | Outcome::Done | Outcome::Listed { .. } => {
                let message = format!("the agent of {} does not answer", self.run.peer);
                self.set_trouble(BlockerCode::PeerUnreachable, message);
            }
        }
        self.ask_source_later(tries, retry_delay(tries))
    }

    fn set_trouble(&mut self, code: BlockerCode, message: String) {
        let subject = self.run.peer.to_string();
        self.run.trouble = Some(Trouble::renew(self.run.trouble.take(), code, subject, message, self.now));
    }

    /// Gives a command and returns the wait for it.
    fn give(
        &mut self,
        peer: PeerId,
        kind: CommandKind,
        workload: Option<(WorkloadId, u64)>,
        tries: u32,
        undo: bool,
    ) -> Ask {
        self.run.given += 1;
        let id = command_id(self.run.id, self.run.given);
        let expires_at = later(self.now, self.run.params.command_ttl()).unwrap_or(Timestamp::MAX);
        self.commands.push(Command { id: id.clone(), peer, kind, workload, expires_at, undo });
        Ask { command: Some(id), tries, retry_at: None }
    }

    /// A pause holds up what goes forward only: a way back and a stop go on.
    fn show_pause(&mut self) {
        let forward = matches!(self.run.phase, Phase::Cordoning { .. } | Phase::Evicting | Phase::Verifying { .. });
        let (before, subject) = (self.run.paused.take(), self.run.peer.to_string());
        if let Some(why) = self.world.paused.clone().filter(|_| forward) {
            self.run.paused = Some(Trouble::renew(before, BlockerCode::Paused, subject, why, self.now));
        }
    }

    fn finish(mut self) -> Step {
        self.show_pause();
        let wake_at = self.wake_at();
        Step {
            next: self.run,
            changes: self.changes,
            void: self.void,
            commands: self.commands,
            events: self.events,
            wake_at,
        }
    }

    /// The earliest moment at which a timer could change something.
    fn wake_at(&self) -> Option<Timestamp> {
        let run = &self.run;
        let phase = match &run.phase {
            Phase::Ended(_) => return None,
            Phase::Cordoning { ask } | Phase::Verifying { ask } => ask.retry_at,
            Phase::Evicting | Phase::Stopping | Phase::Unwinding { .. } => None,
        };
        let deadline = match &run.phase {
            Phase::Stopping | Phase::Unwinding { .. } => None,
            _ if run.forced => None,
            _ => run.deadline_at,
        };
        // A move that has a free slot waits for its own time; one without a slot is woken by the move that frees it.
        let moves = run.moves.values().filter_map(|m| match &m.at {
            At::Waiting { not_before } => *not_before,
            other => other.ask().and_then(|ask| ask.retry_at),
        });
        let moves = moves.filter(|at| *at > self.now || matches!(run.phase, Phase::Unwinding { .. })).min();
        [phase, deadline, moves, self.budget_look()].into_iter().flatten().min()
    }
}

/// `<operation>-<n>`: unique, and the same in every replay of the same step.
pub(crate) fn command_id(operation: OperationId, n: u64) -> CommandId {
    let text = format!("{}-{n}", operation.simple());
    CommandId::parse(&text).unwrap_or_else(|_| unreachable!("a UUID and a number make an id"))
}

pub(crate) fn later(now: Timestamp, delay: Duration) -> Option<Timestamp> {
    now.checked_add(jiff::SignedDuration::try_from(delay).ok()?).ok()
}

/// 0.5 s, 1 s, 2 s … 15 s.
pub(crate) fn retry_delay(tries: u32) -> Duration {
    Duration::from_millis(250u64.saturating_mul(1 << tries.min(6))).min(Duration::from_secs(15))
}
