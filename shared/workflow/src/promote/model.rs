//! A small mesh for promotions to be tried in: a registry, a dispatcher, a network, agents and the observer, all of which may
//! misbehave.
//!
//! [`Sim`] is a plain value. What can happen next is a list of [`Action`]s; [`Sim::act`] carries one out and holds the
//! invariants of [`check`] against the outcome. [`search`] tries every order of a small mesh, and random ones of a larger.
//!
//! The agents here keep the contract: a lower version, an expired command and, within a version, the way back to `fenced` are
//! refused; an accepted command that was overtaken is not begun any more. Operations that name one cluster come one after the
//! other, as the locks have it.

mod check;
mod registry;
mod search;

use std::collections::{BTreeMap, BTreeSet};

use super::tests::{cluster, limits, params, peer};
use super::*;
use crate::resource::ClusterState;

/// What happens next. Operations are counted in the order of their start.
#[derive(Debug, Clone, PartialEq)]
enum Action {
    /// The first of the operations that wait starts.
    Start,
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
    Gate(usize),
    Cancel(usize),
    Pause(usize),
    Resume(usize),
    Silence(PeerId),
    Return(PeerId),
    /// The observer sees that an agent has another role than its cluster, and tells it.
    Heartbeat(PeerId),
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
    op: usize,
    command: Command,
    sent: bool,
    /// It may have reached the agent.
    accepted: bool,
    /// A copy of the message is still on the wire.
    on_wire: bool,
    done: bool,
}

/// A role under a version, as an agent has it.
type Told = (u64, Role);

#[derive(Debug, Clone)]
struct Agent {
    cluster: ClusterId,
    /// The highest that it has accepted.
    seen: Told,
    /// What its driver has carried out.
    role: Told,
    known: BTreeSet<CommandId>,
    accepted: Vec<(usize, Command)>,
    silent: bool,
}

impl Agent {
    fn refuses(&self, told: Told) -> bool {
        let back = told.1 == Role::Fenced && self.seen.1 != Role::Fenced;
        told.0 < self.seen.0 || told.0 == self.seen.0 && back
    }
}

#[derive(Debug, Clone)]
struct Op {
    run: Promote,
    wake_at: Option<Timestamp>,
    paused: bool,
}

/// How much may still go wrong.
#[derive(Debug, Clone, Copy)]
struct Budget {
    faults: u32,
    ticks: u32,
    cancels: u32,
}

#[derive(Clone)]
struct Sim {
    now: Timestamp,
    waiting: Vec<Request>,
    ops: Vec<Op>,
    clusters: BTreeMap<ClusterId, Cluster>,
    mesh_version: u64,
    agents: BTreeMap<PeerId, Agent>,
    rows: Vec<Row>,
    reports: Vec<(usize, PeerId, CommandId, Outcome)>,
    /// What the worker has heard already; it may hear it again.
    heard: Vec<(usize, CommandId, Outcome)>,
    /// What each cluster is, going by the cutovers that were made.
    meant: BTreeMap<ClusterId, ClusterState>,
    budget: Budget,
    /// What has happened, for the reader of a failure.
    story: Vec<Action>,
}

/// Short, because a failure of a search prints it.
impl std::fmt::Debug for Sim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let params: Vec<&Params> = self.waiting.iter().map(|request| &request.params).collect();
        f.debug_struct("Sim").field("clusters", &self.clusters).field("waiting", &params).finish()
    }
}

impl Sim {
    /// `mesh`: a letter for each cluster, in capitals the active ones. `wishes` as in [`params`], `?` for a gate.
    fn new(mesh: &str, peers: usize, wishes: &[&str], budget: Budget) -> Self {
        let mut clusters = BTreeMap::new();
        let mut agents = BTreeMap::new();
        for letter in mesh.chars() {
            let name = letter.to_lowercase().to_string();
            let state = if letter.is_uppercase() { ClusterState::Active } else { ClusterState::Passive };
            let mut cluster = cluster(&name, state);
            cluster.peers.truncate(peers);
            let id = ClusterId::parse(&name).expect("an id");
            for (peer, _) in &cluster.peers {
                let role = (1, role_of(state));
                let (known, accepted) = (BTreeSet::new(), Vec::new());
                let agent = Agent { cluster: id.clone(), seen: role, role, known, accepted, silent: false };
                agents.insert(peer.clone(), agent);
            }
            clusters.insert(id, cluster);
        }
        let request = |(n, words): (usize, &&str)| Request {
            id: OperationId::from_u128(n as u128 + 1),
            params: params(&words.replace('?', "")),
            limits: limits(),
            gated: words.contains('?'),
        };
        let meant = clusters.iter().map(|(id, cluster)| (id.clone(), cluster.state)).collect();
        Self {
            now: Timestamp::UNIX_EPOCH,
            waiting: wishes.iter().enumerate().map(request).collect(),
            ops: Vec::new(),
            clusters,
            mesh_version: 1,
            agents,
            rows: Vec::new(),
            reports: Vec::new(),
            heard: Vec::new(),
            meant,
            budget,
            story: Vec::new(),
        }
    }

    /// Everything that can happen now.
    fn actions(&self) -> Vec<Action> {
        let mut all = Vec::new();
        let faulty = self.budget.faults > 0;
        let silent = |p: &PeerId| self.agents[p].silent;
        all.extend(self.startable().then_some(Action::Start));
        all.extend((0..self.reports.len()).filter(|n| !silent(&self.reports[*n].1)).map(Action::Report));
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
            if faulty && !agent.silent && self.is_behind(agent) {
                all.push(Action::Heartbeat(p.clone()));
            }
        }
        for (n, op) in self.ops.iter().enumerate() {
            let open = !op.run.is_ended();
            all.extend((op.run.phase == Phase::AwaitingGate).then_some(Action::Gate(n)));
            all.extend(op.paused.then_some(Action::Resume(n)));
            all.extend((open && faulty && !op.paused).then_some(Action::Pause(n)));
            all.extend((open && self.budget.cancels > 0).then_some(Action::Cancel(n)));
        }
        if self.budget.ticks > 0 && self.next_time().is_some() {
            all.push(Action::Tick);
        }
        all
    }

    fn act(&mut self, action: &Action) {
        self.story.push(action.clone());
        if matches!(
            action,
            Action::Delay(_)
                | Action::Execute(_, _, How::Failed | How::FailedAfter)
                | Action::Mumble(..)
                | Action::Pause(_)
                | Action::Silence(_)
                | Action::Heartbeat(_)
        ) {
            self.budget.faults = self.budget.faults.saturating_sub(1);
        }
        match action {
            Action::Start => self.start(),
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
                let (op, command) = self.agents[p].accepted[*n].clone();
                let outcome = Outcome::Busy { remaining: Some(3), message: "3 writers left".to_owned() };
                self.reports.push((op, p.clone(), command.id, outcome));
            }
            Action::Report(n) => {
                let (op, _, command, outcome) = self.reports.remove(*n);
                if !matches!(outcome, Outcome::Busy { .. } | Outcome::NotReady { .. }) {
                    self.rows.iter_mut().filter(|row| row.command.id == command).for_each(|row| row.done = true);
                }
                self.heard.push((op, command.clone(), outcome.clone()));
                self.input(op, &Input::Report { command, outcome });
            }
            Action::Expire(n) => {
                let row = &mut self.rows[*n];
                row.done = true;
                let outcome = Outcome::Expired { accepted: row.accepted };
                let (op, command) = (row.op, row.command.id.clone());
                self.input(op, &Input::Report { command, outcome });
            }
            Action::Tick => {
                self.budget.ticks = self.budget.ticks.saturating_sub(1);
                self.now = self.next_time().unwrap_or(self.now);
                for (p, health) in self.clusters.values_mut().flat_map(|cluster| &mut cluster.peers) {
                    *health = if self.agents[p].silent { Health::Unreachable } else { Health::Healthy };
                }
                (0..self.ops.len()).for_each(|op| self.input(op, &Input::Timer));
            }
            Action::Gate(op) => self.input(*op, &Input::GatePassed),
            Action::Cancel(op) => {
                self.budget.cancels = self.budget.cancels.saturating_sub(1);
                self.cancel(*op);
            }
            Action::Pause(op) => {
                self.ops[*op].paused = true;
                self.input(*op, &Input::Timer);
            }
            Action::Resume(op) => {
                self.ops[*op].paused = false;
                self.input(*op, &Input::Timer);
            }
            Action::Silence(p) => self.agent(p).silent = true,
            Action::Return(p) => {
                self.agent(p).silent = false;
                let mut peers = self.clusters.values_mut().flat_map(|cluster| &mut cluster.peers);
                peers.find(|(id, _)| id == p).expect("a peer").1 = Health::Healthy;
            }
            Action::Heartbeat(p) => {
                let told = self.role_of(&self.agents[p].cluster);
                let agent = self.agent(p);
                if !agent.refuses(told) {
                    (agent.seen, agent.role) = (told, told);
                }
            }
        }
        self.rows.retain(|row| !row.done || row.on_wire);
        check::always(self);
    }

    fn cancel(&mut self, op: usize) {
        self.input(op, &Input::Cancel(Cancel { by: "ana".to_owned(), at: self.now, reason: None, keep_moved: false }));
    }

    fn agent(&mut self, p: &PeerId) -> &mut Agent {
        self.agents.get_mut(p).expect("an agent")
    }

    fn is_behind(&self, agent: &Agent) -> bool {
        agent.role != self.role_of(&agent.cluster)
    }

    fn next_time(&self) -> Option<Timestamp> {
        let expiries = self.rows.iter().filter(|row| !row.done).map(|row| row.command.expires_at);
        self.ops.iter().filter_map(|op| op.wake_at).chain(expiries).min().map(|at| at.max(self.now))
    }

    /// An agent hears a command. Without `answered` its reply is lost.
    fn arrive(&mut self, n: usize, answered: bool) {
        let Row { op, command, .. } = self.rows[n].clone();
        self.rows[n].on_wire = false;
        let now = self.now;
        let agent = self.agent(&command.peer);
        if agent.known.contains(&command.id) {
            return;
        }
        if agent.refuses((command.version, command.role)) || command.expires_at <= now {
            if answered {
                let outcome = Outcome::Refused { message: "stale or expired".to_owned() };
                self.reports.push((op, command.peer, command.id, outcome));
            }
            return;
        }
        agent.seen = (command.version, command.role);
        agent.known.insert(command.id.clone());
        agent.accepted.push((op, command));
        self.rows[n].accepted = true;
    }

    fn execute(&mut self, p: &PeerId, n: usize, how: How) {
        let agent = self.agent(p);
        let (op, command) = agent.accepted.remove(n);
        let told = (command.version, command.role);
        let overtaken = agent.refuses(told);
        if !overtaken && how != How::Failed {
            agent.role = told;
        }
        let outcome = if overtaken || how != How::Well {
            Outcome::Failed { message: "overtaken, or exit code 1".to_owned() }
        } else {
            Outcome::Done
        };
        self.reports.push((op, p.clone(), command.id, outcome));
    }

    /// From here on everybody does what they should, until all has ended and the last message has arrived.
    fn behave(&mut self) {
        self.agents.values_mut().for_each(|agent| agent.silent = false);
        self.clusters.values_mut().flat_map(|cluster| &mut cluster.peers).for_each(|(_, h)| *h = Health::Healthy);
        self.budget = Budget { faults: 0, ticks: u32::MAX, cancels: 0 };
        for _ in 0..2000 {
            let ended = self.waiting.is_empty() && self.ops.iter().all(|op| op.run.is_ended());
            let early = |action: &Action| matches!(action, Action::Deliver(_) | Action::Expire(_) | Action::Tick);
            match self.actions().into_iter().find(|action| !(ended && early(action))) {
                Some(action) => self.act(&action),
                None if ended => return check::ended(self),
                None => break,
            }
        }
        panic!("it does not end: {}\n{}\nrows {:?}", self.now, check::told(self), self.rows);
    }
}
