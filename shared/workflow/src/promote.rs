//! Promote and demote: which clusters are active changes in one transaction, after every agent concerned has let go.
//!
//! ```text
//!   start                    all pass            every peer is fenced,            every peer knows
//!     │                                          or named as unfenced             its new role
//!     ▼                         │                        │                            │
//!  Prechecking ────────────────▶ Fencing ───── cutover ──▶ Verifying ─────────────────▶ Ended(Succeeded)
//!     │  │  ▲                     │              │          a cancel is too late
//!     │  │  └─ gate passed ─┐     │              │
//!     │  └─▶ AwaitingGate ──┘     └── cancel ──┐ └── it would leave no active cluster
//!     │         │                              ▼ ▼
//!     │         └── cancel ──▶ Ended(Cancelled) Unwinding ── everybody told, or named ──▶ Ended(Cancelled | Refused)
//!     └── a precheck fails ──▶ Ended(Refused)
//!     └── nothing to do ─────▶ Ended(Succeeded), unchanged
//!
//!              before      fencing, under version v+1           after the cutover      fenced back, under v+2
//!   promoted   passive     promoting: its agents fenced         active                 passive
//!   demoted    active      demoting: its agents fenced          passive                active
//! ```
//!
//! Who may move an arrow: an agent's report (or the end of a command nobody answered), a timer, the gate, a cancel. The cutover
//! has no phase of its own: it is the changes of one step, under the mesh's lock. Nothing changes before the gate has passed, and
//! the prechecks are made again when it has.
//!
//! Every command carries the failover version, which only grows across the mesh. Agents refuse a lower one, and within one version
//! the way back from `active` or `passive` to `fenced`; so whatever arrives late changes nothing. Who cannot be reached holds nobody
//! up: the peer is named, and the observer tells it the role of its cluster at its next heartbeat, before anything else.
//!
//! While it is paused no command is given and no phase entered; answers are taken, time-outs pass, and a cancel unwinds all the same.

mod precheck;
mod state;
mod status;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

pub use precheck::{Checked, precheck};
pub use state::*;

use crate::drain::{Ask, Outcome, Trouble, command_id, later, retry_delay};
use crate::operation::{BlockerCode, Cancel, State};
use crate::resource::{ClusterState, Health, Role};
use crate::{ClusterId, CommandId, OperationId, PeerId, Rejected, Timestamp};

/// How long an agent may take over one command before it is given up.
const COMMAND_TTL: Duration = Duration::from_secs(30);

/// How often a peer is asked to take its old role before it is left to the observer.
const UNDO_TRIES: u32 = 4;

/// What a promotion is asked to do.
#[derive(Debug, Clone)]
pub struct Request {
    pub id: OperationId,
    pub params: Params,
    /// As they are now: the operation keeps them.
    pub limits: Limits,
    /// Somebody has to approve before anything changes.
    pub gated: bool,
}

/// What the step may know of the mesh, as it stands under the locks of this transaction.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// The clusters that the parameters name.
    pub clusters: BTreeMap<ClusterId, Cluster>,
    /// The highest failover version of the mesh.
    pub mesh_version: u64,
    /// Active clusters that are not named. One that is being demoted is not active.
    pub other_active: u32,
    /// Somebody has paused the operation: who and why, as the blocker tells it.
    pub paused: Option<String>,
}

/// A cluster as the registry has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    pub state: ClusterState,
    pub failover_version: u64,
    /// The highest replication lag among its reachable peers, if any tells one.
    pub lag_ms: Option<u64>,
    /// A peer that no agent has ever spoken for is unreachable.
    pub peers: Vec<(PeerId, Health)>,
}

/// Everything that can happen to a promotion.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// What came of a command.
    Report {
        command: CommandId,
        outcome: Outcome,
    },
    /// It is time: a retry, a time-out, the end of a pause.
    Timer,
    /// Those who had to have approved.
    GatePassed,
    Cancel(Cancel),
}

/// What a step decided. Carried out by the worker in one transaction, commands after its commit.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub next: Promote,
    pub changes: Vec<Change>,
    /// Commands given before and not yet done are void, except those of an unwinding.
    pub void: bool,
    pub commands: Vec<Command>,
    pub events: Vec<Event>,
    /// When to look again, if nothing happens before.
    pub wake_at: Option<Timestamp>,
}

/// A change of the registry.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The mesh's highest failover version, and that of these clusters.
    Version {
        version: u64,
        clusters: Vec<ClusterId>,
    },
    State {
        cluster: ClusterId,
        state: ClusterState,
    },
}

/// A command to the agent of a peer: its cluster's role from now on.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    pub id: CommandId,
    pub peer: PeerId,
    pub cluster: ClusterId,
    pub role: Role,
    pub version: u64,
    pub expires_at: Timestamp,
    /// Goes out although the promotion is being cancelled.
    pub undo: bool,
}

/// Something to tell about a cluster. What is told about the operation itself follows from its status.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// It is on its way to another state, or back in its old one.
    Changed {
        cluster: ClusterId,
        state: ClusterState,
    },
    Promoted {
        cluster: ClusterId,
        version: u64,
    },
    Demoted {
        cluster: ClusterId,
        version: u64,
    },
}

/// Begins a promotion or demotion. Where everything is as wished the step ends at once, unchanged.
pub fn start(request: Request, world: &World, now: Timestamp) -> Step {
    let run = Promote {
        id: request.id,
        params: request.params.in_order(),
        limits: request.limits,
        gated: request.gated,
        started_at: now,
        phase: Phase::Prechecking,
        given: 0,
        clusters: BTreeMap::new(),
        members: BTreeMap::new(),
        overridden: Vec::new(),
        paused: None,
    };
    let mut step = Stepper::new(run, world, now);
    step.advance();
    step.finish()
}

/// One step of a running promotion. Inputs that are late, repeated or about nothing known change nothing.
pub fn step(run: &Promote, world: &World, input: Input, now: Timestamp) -> Result<Step, Rejected> {
    let mut step = Stepper::new(run.clone(), world, now);
    match (&run.phase, input) {
        (Phase::Ended(End { state: State::Cancelled, .. }), Input::Cancel(_)) => {}
        (Phase::Ended(End { state, .. }), Input::Cancel(_)) => {
            return Err(Rejected::TooLate { operation: run.id, state: *state });
        }
        (Phase::Verifying { .. }, Input::Cancel(_)) => {
            return Err(Rejected::TooLate { operation: run.id, state: State::Running });
        }
        (Phase::Prechecking | Phase::AwaitingGate, Input::Cancel(_)) => {
            step.end(End { state: State::Cancelled, unchanged: true, version: None, rejected: None });
        }
        (Phase::Fencing { .. }, Input::Cancel(_)) => step.unwind(Cause::Cancel),
        (Phase::Unwinding { .. }, Input::Cancel(_)) => {}
        (Phase::AwaitingGate, Input::GatePassed) => {
            step.run.gated = false;
            step.run.phase = Phase::Prechecking;
        }
        (_, Input::GatePassed | Input::Timer) | (Phase::Ended(_), Input::Report { .. }) => {}
        (_, Input::Report { command, outcome }) => step.report(&command, outcome),
    }
    step.advance();
    Ok(step.finish())
}

/// What undoes it once the cutover has been made, where one operation can: promote what was active again, demote what was not.
pub fn inverse(params: &Params) -> Option<Params> {
    let (promote, demote) = match (&params.promote, params.demote.as_slice()) {
        (promoted, [demoted]) => (Some(demoted.clone()), promoted.iter().cloned().collect()),
        (Some(promoted), []) => (None, vec![promoted.clone()]),
        (Some(_) | None, _) => return None,
    };
    Some(Params { promote, demote, force: false })
}

/// The step in the making: a copy of the state that the functions of this module change.
struct Stepper<'a> {
    run: Promote,
    world: &'a World,
    now: Timestamp,
    changes: Vec<Change>,
    void: bool,
    commands: Vec<Command>,
    events: Vec<Event>,
}

impl<'a> Stepper<'a> {
    fn new(run: Promote, world: &'a World, now: Timestamp) -> Self {
        Self { run, world, now, changes: Vec::new(), void: false, commands: Vec::new(), events: Vec::new() }
    }

    /// What the phase can do now that the input has been taken.
    fn advance(&mut self) {
        self.give_up();
        match &self.run.phase {
            Phase::Prechecking | Phase::Fencing { .. } | Phase::Verifying { .. } if self.world.paused.is_some() => {}
            Phase::Prechecking => self.check(),
            Phase::Fencing { .. } | Phase::Verifying { .. } | Phase::Unwinding { .. } if !self.run.is_settled() => {
                self.ask_due();
            }
            Phase::Fencing { version, .. } => self.cutover(*version),
            Phase::Verifying { version, .. } => {
                let version = Some(*version);
                self.end(End { state: State::Succeeded, unchanged: false, version, rejected: None });
            }
            Phase::Unwinding { version, cause } => {
                let (state, rejected) = match cause {
                    Cause::Cancel => (State::Cancelled, None),
                    Cause::Refused(rejected) => (State::Refused, Some(rejected.clone())),
                };
                let version = Some(*version);
                self.end(End { state, unchanged: false, version, rejected });
            }
            Phase::AwaitingGate | Phase::Ended(_) => {}
        }
    }

    fn check(&mut self) {
        match precheck(&self.run.params, &self.run.limits, self.world) {
            Err(rejected) => {
                self.end(End { state: State::Refused, unchanged: true, version: None, rejected: Some(rejected) });
            }
            Ok(checked) if checked.clusters.is_empty() => {
                self.end(End { state: State::Succeeded, unchanged: true, version: None, rejected: None });
            }
            Ok(_) if self.run.gated => self.run.phase = Phase::AwaitingGate,
            Ok(checked) => self.fence(checked),
        }
    }

    /// The first change: a new version, and the peers concerned as they are at this moment.
    fn fence(&mut self, checked: Checked) {
        self.run.clusters = checked.clusters;
        self.run.overridden = checked.overridden;
        for (id, aim) in &self.run.clusters {
            for (peer, _) in self.world.clusters.get(id).iter().flat_map(|cluster| &cluster.peers) {
                self.run.members.insert(peer.clone(), Member::new(id.clone(), *aim));
            }
        }
        let version = self.new_version();
        self.turn(Aim::during);
        self.run.phase = Phase::Fencing { version, since: self.now };
        self.advance();
    }

    /// The moment at which roles change. It is refused where it would leave nobody active: the world may have changed since the
    /// prechecks, and two demotions at once may each have counted on the other's cluster.
    fn cutover(&mut self, version: u64) {
        if let Some(cluster) = precheck::last_active(&self.run.params, &self.run.clusters, self.world) {
            self.unwind(Cause::Refused(Rejected::LastActiveCluster { cluster }));
            return self.advance();
        }
        // Told in this order, so that whoever follows the events never sees a mesh in which no cluster is active.
        let (up, down): (Vec<_>, Vec<_>) = self.run.clusters.iter().partition(|(_, aim)| matches!(aim, Aim::Promote));
        for (id, aim) in up.into_iter().chain(down) {
            let (cluster, state) = (id.clone(), aim.after());
            self.changes.push(Change::State { cluster: cluster.clone(), state });
            self.events.push(match aim {
                Aim::Promote => Event::Promoted { cluster, version },
                Aim::Demote => Event::Demoted { cluster, version },
            });
        }
        for (peer, member) in &mut self.run.members {
            if let At::Missed { why, forced, .. } = &member.at {
                member.unfenced = Some(why.clone());
                if *forced {
                    let subject = peer.to_string();
                    self.run.overridden.push(Override { check: Check::Fencing, subject, message: why.clone() });
                }
            }
        }
        self.ask_everybody();
        self.run.phase = Phase::Verifying { version, since: self.now };
        self.advance();
    }

    /// Fences back: a further version overtakes whatever of the fencing is still on its way.
    fn unwind(&mut self, cause: Cause) {
        let version = self.new_version();
        self.turn(Aim::before);
        self.ask_everybody();
        self.run.phase = Phase::Unwinding { version, cause };
    }

    fn new_version(&mut self) -> u64 {
        let own = match self.run.phase {
            Phase::Fencing { version, .. } => version,
            _ => 0,
        };
        let known = self.world.clusters.values().map(|cluster| cluster.failover_version);
        let version = known.fold(self.world.mesh_version.max(own), u64::max).saturating_add(1);
        self.changes.push(Change::Version { version, clusters: self.run.clusters.keys().cloned().collect() });
        version
    }

    fn turn(&mut self, state: fn(Aim) -> ClusterState) {
        for (id, aim) in &self.run.clusters {
            let (cluster, state) = (id.clone(), state(*aim));
            self.changes.push(Change::State { cluster: cluster.clone(), state });
            self.events.push(Event::Changed { cluster, state });
        }
    }

    /// Whatever they were asked before, they are asked anew.
    fn ask_everybody(&mut self) {
        self.void = true;
        for member in self.run.members.values_mut() {
            member.at = At::due();
            member.trouble = None;
        }
    }

    /// Stops waiting for whom it makes no sense to wait: the unreachable, and with `force` whoever has not answered in time.
    fn give_up(&mut self) {
        let clusters = self.world.clusters.values();
        let health: BTreeMap<_, _> = clusters.flat_map(|cluster| cluster.peers.iter().map(|(p, h)| (p, *h))).collect();
        let over = self.run.force_at().is_some_and(|at| at <= self.now);
        for (peer, member) in &mut self.run.members {
            let At::Asked(ask) = &member.at else { continue };
            // A peer that has left its cluster has nobody to speak for it either.
            let unreachable = matches!(health.get(peer), None | Some(Health::Unreachable));
            let why = match &member.trouble {
                _ if unreachable => "it is unreachable".to_owned(),
                _ if !over => continue,
                Some(trouble) => format!("given up by force: {}", trouble.message),
                None => "given up by force: it had not answered in time".to_owned(),
            };
            member.at = At::Missed { ask: ask.clone(), why, forced: !unreachable };
            member.trouble = None;
        }
    }

    /// Gives the commands whose time it is.
    fn ask_due(&mut self) {
        let (version, role, undo): (u64, fn(Aim) -> Role, bool) = match &self.run.phase {
            Phase::Fencing { version, .. } => (*version, |_| Role::Fenced, false),
            Phase::Verifying { version, .. } => (*version, Aim::role_after, false),
            Phase::Unwinding { version, .. } => (*version, Aim::role_before, true),
            Phase::Prechecking | Phase::AwaitingGate | Phase::Ended(_) => return,
        };
        for (peer, member) in &mut self.run.members {
            let At::Asked(ask) = &mut member.at else { continue };
            if !ask.is_due(self.now) {
                continue;
            }
            self.run.given += 1;
            let id = command_id(self.run.id, self.run.given);
            *ask = Ask { command: Some(id.clone()), tries: ask.tries, retry_at: None };
            self.commands.push(Command {
                id,
                peer: peer.clone(),
                cluster: member.cluster.clone(),
                role: role(member.aim),
                version,
                expires_at: later(self.now, COMMAND_TTL).unwrap_or(Timestamp::MAX),
                undo,
            });
        }
    }

    /// An agent's word goes to the peer that waits for it; anything else is late and says nothing new.
    fn report(&mut self, command: &CommandId, outcome: Outcome) {
        let Some((peer, member)) = self.run.members.iter_mut().find(|(_, member)| member.at.waits_for(command)) else {
            return;
        };
        let (code, message, interim) = match outcome {
            Outcome::Done | Outcome::Listed { .. } => {
                member.trouble = None;
                member.at = At::Told;
                return;
            }
            Outcome::Busy { remaining: Some(n), message } if message.is_empty() => {
                (BlockerCode::Busy, format!("{n} left"), true)
            }
            // It is still at it: the same command goes on.
            Outcome::Busy { message, .. } => (BlockerCode::Busy, message, true),
            Outcome::NotReady { message } => (BlockerCode::NotReady, message, true),
            Outcome::Failed { message } | Outcome::Refused { message } => (BlockerCode::NotReady, message, false),
            Outcome::Expired { .. } => {
                (BlockerCode::PeerUnreachable, format!("the agent of {peer} does not answer"), false)
            }
        };
        // Of a peer that was given up, only that it has done it after all is of interest.
        let At::Asked(ask) = &mut member.at else { return };
        let tries = ask.tries + 1;
        if !interim && matches!(self.run.phase, Phase::Unwinding { .. }) && tries >= UNDO_TRIES {
            member.at = At::Missed { ask: ask.clone(), why: message, forced: false };
            member.trouble = None;
            return;
        }
        if !interim {
            *ask = Ask { command: None, tries, retry_at: later(self.now, retry_delay(tries)) };
        }
        member.trouble = Some(Trouble::renew(member.trouble.take(), code, peer.to_string(), message, self.now));
    }

    fn end(&mut self, end: End) {
        self.void = true;
        self.run.phase = Phase::Ended(end);
    }

    /// A pause holds up what goes forward only: a way back goes on.
    fn show_pause(&mut self) {
        let before = self.run.paused.take();
        let forward = matches!(self.run.phase, Phase::Prechecking | Phase::Fencing { .. } | Phase::Verifying { .. });
        if let Some(why) = self.world.paused.clone().filter(|_| forward) {
            let subject = self.run.params.named().next().map(ToString::to_string).unwrap_or_default();
            self.run.paused = Some(Trouble::renew(before, BlockerCode::Paused, subject, why, self.now));
        }
    }

    fn finish(mut self) -> Step {
        self.show_pause();
        let wake_at = self.wake_at();
        let Self { run, changes, void, commands, events, .. } = self;
        Step { next: run, changes, void, commands, events, wake_at }
    }

    /// The earliest moment at which a timer could change something. The end of a pause is told.
    fn wake_at(&self) -> Option<Timestamp> {
        let asks = self.run.members.values().filter_map(|member| match &member.at {
            At::Asked(ask) => ask.retry_at,
            At::Told | At::Missed { .. } => None,
        });
        match &self.run.phase {
            Phase::Prechecking | Phase::AwaitingGate | Phase::Ended(_) => None,
            Phase::Unwinding { .. } => asks.min(),
            Phase::Fencing { .. } | Phase::Verifying { .. } => {
                let waits = self.run.members.values().any(|member| matches!(member.at, At::Asked(_)));
                let force_at = self.run.force_at().filter(|_| waits);
                asks.filter(|_| self.world.paused.is_none()).chain(force_at).min()
            }
        }
    }
}
