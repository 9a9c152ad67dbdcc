//! A small world for drains to be tried in: a registry, a dispatcher, a network and agents, all of which may misbehave.
//!
//! [`Sim`] is a plain value. What can happen next is a list of [`Action`]s; [`Sim::act`] carries one out and holds the
//! invariants of [`check`] against the outcome. [`search`] tries every order of a small world, and random ones of a larger.
//!
//! The agents here keep the contract: a lower epoch or an expired command is refused, an accepted command that a higher epoch
//! has overtaken is not begun any more. The dispatcher says `accepted: false` only of what surely never reached the agent.

mod check;
mod registry;
mod search;

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::resource::{Handover, Labels, WorkloadState};

pub(super) fn peer(text: &str) -> PeerId {
    PeerId::parse(text).expect("an id")
}

pub(super) fn workload(text: &str) -> WorkloadId {
    WorkloadId::parse(text).expect("an id")
}

pub(super) fn record_of(id: &str, on: &str, handover: Handover, restorable: bool) -> Workload {
    Workload {
        id: workload(id),
        service: "checkout".to_owned(),
        peer: peer(on),
        load: 1,
        labels: Labels::new(),
        handover,
        restorable,
        ready: true,
        remaining: None,
        unit: None,
        epoch: 1,
        state: WorkloadState::Running,
        operation: None,
    }
}

pub(super) const OWN_HOLD: HoldId = HoldId::from_u128(1);
pub(super) const OTHERS_HOLD: HoldId = HoldId::from_u128(2);
const OTHERS_OPERATION: OperationId = OperationId::from_u128(99);

/// What happens next.
#[derive(Debug, Clone, PartialEq)]
enum Action {
    /// The dispatcher reaches the agent, which accepts or refuses.
    Deliver(usize),
    /// The message is under way; nobody knows whether it came through.
    Delay(usize),
    Arrive(usize),
    /// An agent finishes the nth of the commands that it has accepted.
    Execute(PeerId, usize, How),
    /// It says that it is still at it.
    Mumble(PeerId, usize),
    /// The nth waiting report reaches the worker.
    Report(usize),
    Expire(usize),
    Tick,
    Cancel {
        keep_moved: bool,
    },
    /// Paused, or resumed.
    Pause(bool),
    Silence(PeerId),
    Return(PeerId),
    CordonTarget(PeerId),
    /// Another operation moves it on from where the drain has put it.
    MoveOn(WorkloadId),
    /// A workload that was on its way to the source before the drain began.
    Arrival,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    Well,
    /// It says that it failed, and has not done it.
    Failed,
    /// It says that it failed, and has done it all the same.
    FailedAfter,
}

/// A command in the dispatcher's table, until its outcome is known.
#[derive(Debug, Clone)]
struct Row {
    command: Command,
    sent: bool,
    /// It may have reached the agent.
    accepted: bool,
    /// A copy of the message is still on the wire.
    on_wire: bool,
    done: bool,
}

#[derive(Debug, Clone, Default)]
struct Agent {
    running: BTreeSet<WorkloadId>,
    epochs: BTreeMap<WorkloadId, u64>,
    known: BTreeSet<CommandId>,
    accepted: Vec<Command>,
    silent: bool,
}

/// How much may still go wrong.
#[derive(Debug, Clone, Copy)]
struct Budget {
    faults: u32,
    ticks: u32,
    cancels: u32,
    pauses: u32,
}

#[derive(Clone)]
struct Sim {
    now: Timestamp,
    run: Drain,
    wake_at: Option<Timestamp>,
    mark: DrainMark,
    holds: BTreeSet<HoldId>,
    records: BTreeMap<WorkloadId, Workload>,
    targets: BTreeMap<WorkloadId, PeerId>,
    agents: BTreeMap<PeerId, Agent>,
    health: BTreeMap<PeerId, Health>,
    cordoned: BTreeSet<PeerId>,
    paused: bool,
    /// How many workloads may be moving at once.
    service_budget: Option<u32>,
    rows: Vec<Row>,
    reports: Vec<(PeerId, CommandId, Outcome)>,
    /// What the worker has heard already; it may hear it again.
    heard: Vec<(CommandId, Outcome)>,
    /// Where everything belongs if the drain had never been.
    home: BTreeMap<WorkloadId, PeerId>,
    arrivals: u32,
    budget: Budget,
    /// What has happened, for the reader of a failure.
    story: Vec<Action>,
}

/// Short, because a failure of a search prints it.
impl std::fmt::Debug for Sim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sim").field("workloads", &self.records).field("params", &self.run.params).finish()
    }
}

impl Sim {
    fn new(params: DrainParams, workloads: &[Workload], budget: Budget) -> Self {
        let source = peer("s");
        let records: BTreeMap<_, _> = workloads.iter().map(|w| (w.id.clone(), w.clone())).collect();
        let mut agents: BTreeMap<PeerId, Agent> =
            ["s", "t1", "t2"].into_iter().map(|p| (peer(p), Agent::default())).collect();
        for record in workloads {
            let agent = agents.get_mut(&record.peer).expect("an agent");
            agent.running.insert(record.id.clone());
            agent.epochs.insert(record.id.clone(), record.epoch);
        }
        let request = Request {
            id: OperationId::from_u128(7),
            peer: source,
            params,
            hold: OWN_HOLD,
            actor: "ana".to_owned(),
            reason: None,
            change_ticket: None,
        };
        let now = Timestamp::UNIX_EPOCH;
        let home = records.iter().map(|(id, w)| (id.clone(), w.peer.clone())).collect();
        let health = agents.keys().map(|p| (p.clone(), Health::Healthy)).collect();
        let mut sim = Self {
            now,
            run: start(request.clone(), &World::default(), now).next,
            wake_at: None,
            mark: DrainMark::None,
            holds: BTreeSet::from([OTHERS_HOLD]),
            records,
            targets: BTreeMap::new(),
            agents,
            health,
            cordoned: BTreeSet::new(),
            paused: false,
            service_budget: None,
            rows: Vec::new(),
            reports: Vec::new(),
            heard: Vec::new(),
            home,
            arrivals: 0,
            budget,
            story: Vec::new(),
        };
        let world = sim.world();
        let first = start(request.clone(), &world, now);
        assert_eq!(first, start(request, &world, now), "start is a function");
        sim.commit(first);
        sim
    }

    /// Everything that can happen now.
    fn actions(&self) -> Vec<Action> {
        let mut all = Vec::new();
        let faulty = self.budget.faults > 0;
        let silent = |p: &PeerId| self.agents[p].silent;
        all.extend((0..self.reports.len()).filter(|n| !silent(&self.reports[*n].0)).map(Action::Report));
        for (n, row) in self.rows.iter().enumerate() {
            if row.on_wire && !silent(&row.command.peer) {
                all.push(Action::Arrive(n));
            }
            if !row.done && !row.sent {
                if !silent(&row.command.peer) {
                    all.push(Action::Deliver(n));
                }
                all.extend(faulty.then_some(Action::Delay(n)));
            }
            if !row.done && row.command.expires_at <= self.now {
                all.push(Action::Expire(n));
            }
        }
        for (p, agent) in &self.agents {
            for n in 0..agent.accepted.len() {
                all.push(Action::Execute(p.clone(), n, How::Well));
                if faulty {
                    all.push(Action::Execute(p.clone(), n, How::Failed));
                    all.push(Action::Execute(p.clone(), n, How::FailedAfter));
                    all.push(Action::Mumble(p.clone(), n));
                }
            }
            if agent.silent {
                all.push(Action::Return(p.clone()));
            } else if faulty {
                all.push(Action::Silence(p.clone()));
            }
            if faulty && *p != self.run.peer && !self.cordoned.contains(p) {
                all.push(Action::CordonTarget(p.clone()));
            }
        }
        if self.budget.ticks > 0 && self.next_time().is_some() {
            all.push(Action::Tick);
        }
        if self.budget.cancels > 0 {
            all.push(Action::Cancel { keep_moved: false });
            all.push(Action::Cancel { keep_moved: true });
        }
        if self.paused || self.budget.pauses > 0 {
            all.push(Action::Pause(!self.paused));
        }
        if faulty {
            let elsewhere = |w: &&Workload| w.operation.is_none() && w.peer != self.run.peer;
            all.extend(self.records.values().filter(elsewhere).map(|w| Action::MoveOn(w.id.clone())));
            let open = !matches!(self.run.phase, Phase::Ended(_));
            all.extend((open && self.arrivals == 0).then_some(Action::Arrival));
        }
        all
    }

    fn act(&mut self, action: &Action) {
        self.story.push(action.clone());
        if !matches!(
            action,
            Action::Deliver(_)
                | Action::Arrive(_)
                | Action::Execute(_, _, How::Well)
                | Action::Report(_)
                | Action::Expire(_)
                | Action::Tick
                | Action::Cancel { .. }
                | Action::Pause(_)
                | Action::Return(_)
        ) {
            self.budget.faults = self.budget.faults.saturating_sub(1);
        }
        match action {
            Action::Deliver(n) => {
                self.rows[*n].sent = true;
                self.arrive(*n, true);
            }
            Action::Delay(n) => {
                let row = &mut self.rows[*n];
                (row.sent, row.on_wire, row.accepted) = (true, true, true);
            }
            Action::Arrive(n) => self.arrive(*n, false),
            Action::Execute(p, n, how) => self.execute(p, *n, *how),
            Action::Mumble(p, n) => {
                let command = self.agents[p].accepted[*n].clone();
                let outcome = match command.kind {
                    CommandKind::Acquire => Outcome::NotReady { message: "503".to_owned() },
                    _ => Outcome::Busy { remaining: Some(3), message: "3 sessions left".to_owned() },
                };
                self.reports.push((p.clone(), command.id, outcome));
            }
            Action::Report(n) => {
                let (_, command, outcome) = self.reports.remove(*n);
                if !matches!(outcome, Outcome::Busy { .. } | Outcome::NotReady { .. }) {
                    self.rows.iter_mut().filter(|row| row.command.id == command).for_each(|row| row.done = true);
                }
                self.heard.push((command.clone(), outcome.clone()));
                self.input(&Input::Report { command, outcome });
            }
            Action::Expire(n) => {
                let row = &mut self.rows[*n];
                row.done = true;
                let outcome = Outcome::Expired { accepted: row.accepted };
                let command = row.command.id.clone();
                self.input(&Input::Report { command, outcome });
            }
            Action::Tick => {
                self.budget.ticks = self.budget.ticks.saturating_sub(1);
                self.now = self.next_time().unwrap_or(self.now);
                for (p, agent) in &self.agents {
                    let health = if agent.silent { Health::Unreachable } else { Health::Healthy };
                    self.health.insert(p.clone(), health);
                }
                self.input(&Input::Timer);
            }
            Action::Cancel { keep_moved } => {
                self.budget.cancels = self.budget.cancels.saturating_sub(1);
                let cancel = Cancel { by: "ana".to_owned(), at: self.now, reason: None, keep_moved: *keep_moved };
                self.input(&Input::Cancel(cancel));
            }
            Action::Pause(paused) => {
                self.paused = *paused;
                self.budget.pauses = self.budget.pauses.saturating_sub(u32::from(*paused));
                self.input(&Input::Timer);
            }
            Action::Silence(p) => self.agent(p).silent = true,
            Action::Return(p) => {
                self.agent(p).silent = false;
                self.health.insert(p.clone(), Health::Healthy);
            }
            Action::CordonTarget(p) => {
                self.cordoned.insert(p.clone());
            }
            Action::MoveOn(id) => self.move_on(id),
            Action::Arrival => {
                self.arrivals += 1;
                let record = record_of("late", self.run.peer.as_str(), Handover::StopFirst, true);
                let source = self.run.peer.clone();
                self.home.insert(record.id.clone(), source.clone());
                self.agent(&source).running.insert(record.id.clone());
                self.records.insert(record.id.clone(), record);
            }
        }
        self.rows.retain(|row| !row.done || row.on_wire);
        check::always(self);
    }

    fn agent(&mut self, p: &PeerId) -> &mut Agent {
        self.agents.get_mut(p).expect("an agent")
    }

    fn next_time(&self) -> Option<Timestamp> {
        let expiries = self.rows.iter().filter(|row| !row.done).map(|row| row.command.expires_at);
        self.wake_at.into_iter().chain(expiries).min().map(|at| at.max(self.now))
    }

    /// An agent hears a command. Without `answered` its reply is lost.
    fn arrive(&mut self, n: usize, answered: bool) {
        let row = self.rows[n].clone();
        let command = row.command;
        self.rows[n].on_wire = false;
        let now = self.now;
        let agent = self.agent(&command.peer);
        if agent.known.contains(&command.id) {
            return;
        }
        let stale = command.workload.as_ref().is_some_and(|(id, epoch)| agent.epochs.get(id) > Some(epoch));
        if stale || command.expires_at <= now {
            if answered {
                let message = "stale or expired".to_owned();
                self.reports.push((command.peer, command.id, Outcome::Refused { message }));
            }
            return;
        }
        agent.epochs.extend(command.workload.clone());
        agent.known.insert(command.id.clone());
        agent.accepted.push(command);
        self.rows[n].accepted = true;
    }

    fn execute(&mut self, p: &PeerId, n: usize, how: How) {
        let agent = self.agent(p);
        let command = agent.accepted.remove(n);
        let failed = |message: &str| Outcome::Failed { message: message.to_owned() };
        let outcome = match (&command.workload, how) {
            (Some((id, epoch)), _) if agent.epochs.get(id) > Some(epoch) => failed("overtaken"),
            (_, How::Failed) | (None, How::FailedAfter) => failed("exit code 1"),
            (Some((id, _)), How::Well | How::FailedAfter) => {
                match command.kind {
                    CommandKind::Acquire => agent.running.insert(id.clone()),
                    _ => agent.running.remove(id),
                };
                if how == How::Well { Outcome::Done } else { failed("exit code 1") }
            }
            (None, How::Well) => match command.kind {
                CommandKind::List => Outcome::Listed { workloads: agent.running.iter().cloned().collect() },
                _ => Outcome::Done,
            },
        };
        self.reports.push((p.clone(), command.id, outcome));
    }

    fn move_on(&mut self, id: &WorkloadId) {
        let to = peer("t2");
        let record = self.records.get_mut(id).expect("a record");
        let from = std::mem::replace(&mut record.peer, to.clone());
        record.epoch += 1;
        let epoch = record.epoch;
        self.agent(&from).running.remove(id);
        self.agent(&to).running.insert(id.clone());
        for p in [from, to] {
            self.agent(&p).epochs.insert(id.clone(), epoch);
        }
    }

    /// One step. The worker may die before the commit: then the same step is made again, from the old state.
    fn input(&mut self, input: &Input) {
        let world = self.world();
        let step = super::step(&self.run, &world, input.clone(), self.now);
        assert_eq!(step, super::step(&self.run, &world, input.clone(), self.now), "a step is a function");
        match step {
            Ok(step) => {
                check::step(self, &step);
                self.commit(step);
            }
            Err(rejected) => {
                assert!(matches!(input, Input::Cancel(_)), "only a cancel is ever rejected");
                assert!(matches!(rejected, Rejected::TooLate { .. }), "{rejected}");
            }
        }
        check::quiet(self);
    }

    /// From here on everybody does what they should, until the drain has ended and the last message has arrived.
    fn behave(&mut self) {
        self.agents.values_mut().for_each(|agent| agent.silent = false);
        self.health.values_mut().for_each(|health| *health = Health::Healthy);
        self.cordoned.clear();
        self.budget = Budget { faults: 0, ticks: u32::MAX, cancels: 0, pauses: 0 };
        if self.paused {
            self.act(&Action::Pause(false));
        }
        for _ in 0..2000 {
            let ended = matches!(self.run.phase, Phase::Ended(_));
            let action = self.actions().into_iter().find(|action| {
                let early = matches!(action, Action::Deliver(_) | Action::Expire(_) | Action::Tick);
                !(ended && early)
            });
            match action {
                Some(action) => self.act(&action),
                None if ended => return check::ended(self),
                None => break,
            }
        }
        panic!("it does not end: {}\n{}\nrows {:?}", self.now, check::told(self), self.rows);
    }
}
