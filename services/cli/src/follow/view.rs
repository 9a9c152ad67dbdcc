//! What a follower shows of an operation, as a pure model: states and events in, lines out. The terminal draws the lines
//! as they are; without a terminal, [`View::plain`] says in one line what has changed.
//!
//! A snapshot (the operation as the API has it) is the truth. Events come from a stream that may lag behind it or repeat
//! what is known, so an event never takes the view backwards.

use std::collections::BTreeMap;

use jiff::Timestamp;
use omnirelay_contract::event::Event;
use omnirelay_contract::rest::{Operation, Queue};
use omnirelay_contract::workflow::gate::{Decision, Gate};
use omnirelay_contract::workflow::operation::{Blocker, BlockerCode, Paused, Progress, State, Verb};

use super::around::Around;
use super::{bulk, gate};
use crate::output::age;
use crate::resolve::short;

const BAR: usize = 20;
/// Rows of one kind that are shown; the rest is counted.
pub const ROWS: usize = 8;
/// The phases of a drain and of a promotion, in order. The cutover has none of its own.
const DRAIN: &[&str] = &["cordoning", "evicting", "verifying"];
const PROMOTE: &[&str] = &["prechecking", "fencing", "cutover", "verifying"];

/// A workload on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Flight {
    label: String,
    to: Option<String>,
}

/// What a log tells at once when it changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlainKey {
    state: Option<State>,
    phase: Option<String>,
    blockers: Vec<(BlockerCode, String)>,
    /// Digest and number of approvals.
    gate: Option<(String, usize)>,
    paused: bool,
    position: Option<u32>,
}

#[derive(Debug, Clone)]
pub struct View {
    id: String,
    verb: Verb,
    /// It is of many peers.
    many: bool,
    order: Vec<&'static str>,
    requester: String,
    state: State,
    phase: Option<String>,
    progress: Progress,
    blockers: Vec<Blocker>,
    gate: Option<Gate>,
    paused: Option<Paused>,
    queue: Option<Queue>,
    children: BTreeMap<String, u32>,
    around: Around,
    flights: BTreeMap<String, Flight>,
}

impl View {
    pub fn new(operation: &Operation) -> Self {
        Self {
            id: short(operation.id),
            verb: operation.verb,
            many: bulk::is_bulk(operation),
            order: order(operation),
            requester: operation.actor.clone(),
            state: operation.state,
            phase: operation.phase.clone(),
            progress: operation.progress.clone(),
            blockers: operation.blockers.clone(),
            gate: operation.approval.clone(),
            paused: operation.paused.clone(),
            queue: operation.queue.clone(),
            children: operation.children.clone().unwrap_or_default(),
            around: Around::default(),
            flights: BTreeMap::new(),
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Whether it changes without events of its own: then it is asked for every now and then.
    pub fn is_of_many(&self) -> bool {
        self.many
    }

    /// Takes over what belongs to the operation beside itself.
    pub fn surround(&mut self, around: Around) {
        self.around = around;
    }

    /// Takes over the truth.
    pub fn sync(&mut self, operation: &Operation) {
        self.turn(operation.state);
        self.phase.clone_from(&operation.phase);
        self.progress = operation.progress.clone();
        self.blockers.clone_from(&operation.blockers);
        self.gate.clone_from(&operation.approval);
        self.paused.clone_from(&operation.paused);
        self.queue.clone_from(&operation.queue);
        self.children = operation.children.clone().unwrap_or_default();
        if self.progress.in_flight == 0 || self.state.is_terminal() {
            self.flights.clear();
        }
    }

    /// Applies an event of this operation. Says whether the truth is to be asked for: it may have ended, or what has changed
    /// (a gate, a pause, a place in the queue) is told by the operation only.
    pub fn apply(&mut self, event: &Event) -> bool {
        let Some((resource, _, what)) = event.parts() else { return false };
        let asks = resource == "approvals"
            || (resource == "operations"
                && matches!(what, "awaitingApproval" | "queued" | "started" | "paused" | "resumed"));
        self.follow(event, resource, what) || asks
    }

    fn follow(&mut self, event: &Event, resource: &str, what: &str) -> bool {
        if resource == "workloads" {
            self.workload(event, what);
        }
        let data = &event.data;
        let (state, phase) = (data.state.unwrap_or(self.state), data.phase.as_ref().or(self.phase.as_ref()));
        let (mine, theirs) =
            (self.rank(self.state, self.phase.as_deref()), self.rank(state, phase.map(String::as_str)));
        if theirs < mine || self.state.is_terminal() {
            return state.is_terminal();
        }
        let phase = phase.cloned();
        self.turn(state);
        self.phase = phase;
        if let Some(progress) = &data.progress
            && (theirs > mine || progress.done >= self.progress.done)
        {
            self.progress = progress.clone();
        }
        match (resource, what) {
            ("operations", "blocked") => {
                if let Some(blockers) = data.detail.get("blockers")
                    && let Ok(blockers) = serde_json::from_value(blockers.clone())
                {
                    self.blockers = blockers;
                }
            }
            ("operations", "unblocked") => self.blockers.clear(),
            _ => {}
        }
        state.is_terminal()
    }

    /// The lines to draw, without the terminal's colours.
    pub fn lines(&self, now: Timestamp) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.state.is_terminal() {
            lines.extend(self.gate.iter().flat_map(gate::heard));
            lines.extend(self.paused.as_ref().map(|paused| format!("  {}", pause(paused, now))));
        }
        match self.state {
            State::Submitted => lines.push("  submitted".to_owned()),
            State::AwaitingApproval => match self.open_gate() {
                Some(open) => lines.extend(gate::lines(open, &self.requester, &self.id, now)),
                None => lines.push("  APPROVAL awaited".to_owned()),
            },
            State::Queued => lines.push(self.queued()),
            State::Unwinding => lines.push(self.bar("unwinding", "restored")),
            State::Running => self.phases(&mut lines),
            _ => {}
        }
        if self.many && !self.state.is_terminal() {
            lines.extend(bulk::rows(&self.around, now));
        }
        let (waiting, blocking): (Vec<&Blocker>, Vec<&Blocker>) =
            self.blockers.iter().partition(|blocker| self.is_of_flight(blocker));
        for (workload, flight) in self.flights.iter().take(ROWS) {
            let why = waiting.iter().find(|blocker| blocker.subject == *workload);
            lines.push(flight.line(why.map(|blocker| blocker.message.as_str())));
        }
        lines.extend(more(self.flights.len(), "    "));
        for blocker in blocking.iter().take(ROWS) {
            let subject = if blocker.subject.is_empty() { String::new() } else { format!(" {}", blocker.subject) };
            let since = age(blocker.since, now);
            lines.push(format!("  BLOCKED {since} {}:{subject} {}", blocker.code, blocker.message));
        }
        lines.extend(more(blocking.len(), "  "));
        lines
    }

    /// What stays on the screen of an operation that has ended: who agreed to it, and how far it came. Who did not is in the
    /// last lines.
    pub fn ended(operation: &Operation) -> Vec<String> {
        let gate = operation.approval.as_ref().filter(|_| operation.state != State::Rejected);
        gate.into_iter().flat_map(gate::heard).chain(Self::came(operation)).collect()
    }

    fn came(operation: &Operation) -> Vec<String> {
        let mut view = View::new(operation);
        view.blockers.clear();
        match operation.state {
            _ if view.many && view.progress.total > 0 => vec![view.bar("peers", "")],
            State::Succeeded if operation.verb == Verb::ClustersPromote || operation.verb == Verb::ClustersDemote => {
                let done = ["cutover", "verifying"].map(|phase| format!("  {phase:<10} done"));
                std::iter::once(view.bar("fencing", "")).chain(done).collect()
            }
            State::Succeeded if operation.verb == Verb::PeersDrain => {
                let label = |phase: &str| format!("  {phase:<10} done");
                vec![label("cordoning"), view.bar("evicting", ""), label("verifying")]
            }
            State::Cancelled if view.progress.total > 0 => {
                view.state = State::Unwinding;
                vec![view.bar("unwinding", "restored")]
            }
            State::Failed | State::Stuck if view.progress.total > 0 => {
                let phase = view.phase.clone().unwrap_or_else(|| operation.verb.action().to_owned());
                vec![view.bar(&phase, "")]
            }
            _ => Vec::new(),
        }
    }

    /// Where the operation stands, in a line for a log.
    pub fn plain(&self) -> String {
        let phase = match self.state {
            State::Running => self.phase.as_deref().unwrap_or("running"),
            state => state.as_str(),
        };
        let mut line = phase.to_owned();
        if self.progress.total > 0 {
            line.push_str(&format!("  {}/{}", self.progress.done, self.progress.total));
        }
        line.push_str(&self.more_counts());
        line
    }

    /// The part of [`View::plain`] whose change is told at once, whatever the throttle says.
    pub fn plain_key(&self) -> PlainKey {
        PlainKey {
            state: Some(self.state),
            phase: self.phase.clone(),
            blockers: self.all_blockers().into_iter().map(|blocker| (blocker.code, blocker.subject)).collect(),
            gate: self.gate.as_ref().map(|gate| (gate.digest.clone(), gate.approvals.len())),
            paused: self.paused.is_some(),
            position: self.queue.as_ref().map(|queue| queue.position),
        }
    }

    /// What has changed since `before`, beside state and progress, as lines for a log.
    pub fn plain_news(&self, before: &PlainKey, now: Timestamp) -> Vec<String> {
        let key = self.plain_key();
        let mut lines: Vec<String> = Vec::new();
        if key.gate != before.gate
            && let Some(gate) = &self.gate
        {
            let known =
                before.gate.as_ref().filter(|(digest, _)| *digest == gate.digest).map_or(0, |(_, count)| *count);
            lines.extend(gate::heard(gate).iter().skip(known).map(|line| line.trim_start().to_owned()));
            let open = self.open_gate().filter(|_| self.state == State::AwaitingApproval);
            let waiting = open.map(|open| gate::lines(open, &self.requester, &self.id, now)).unwrap_or_default();
            lines.extend(waiting.iter().map(|line| line.trim_start().to_owned()));
        }
        if key.paused != before.paused {
            lines.push(self.paused.as_ref().map_or("RESUMED".to_owned(), |paused| pause(paused, now)));
        }
        if key.position != before.position && self.state == State::Queued {
            lines.push(self.queued().trim_start().to_owned());
        }
        if key.blockers != before.blockers {
            let tell = |blocker: &Blocker| {
                format!("BLOCKED {} {}: {} {}", age(blocker.since, now), blocker.code, blocker.subject, blocker.message)
            };
            lines.extend(self.all_blockers().iter().take(ROWS).map(tell));
        }
        lines
    }

    fn phases(&self, lines: &mut Vec<String>) {
        let phase = self.phase.as_deref().unwrap_or("running");
        let order = &self.order;
        if let Some(current) = order.iter().position(|known| *known == phase) {
            lines.extend(order[..current].iter().map(|done| format!("  {done:<10} done")));
        }
        if self.progress.total > 0 && phase != "cordoning" {
            lines.push(self.bar(phase, "done"));
        } else {
            lines.push(format!("  {phase}"));
        }
    }

    /// `  evicting   [########------------] 4/10  2 moving`
    fn bar(&self, label: &str, done: &str) -> String {
        let Progress { done: count, total, .. } = self.progress;
        let mut line = format!("  {label:<10} {} {count}/{total}", bar(&self.progress));
        if self.state == State::Unwinding {
            line.push_str(&format!(" {done}"));
        }
        line.push_str(&self.more_counts());
        line
    }

    /// `  2 moving  1 failed`, of many `   4 running, 1 failed, 24 waiting`.
    fn more_counts(&self) -> String {
        let counts = bulk::counts(&self.children, self.waits_for());
        if self.many && !counts.is_empty() {
            return format!("   {counts}");
        }
        let Progress { in_flight, failed, .. } = self.progress;
        let moving = match self.verb {
            Verb::ClustersPromote | Verb::ClustersDemote => "asked",
            _ if self.many => "running",
            _ => "moving",
        };
        let mut text = if in_flight > 0 { format!("  {in_flight} {moving}") } else { String::new() };
        if failed > 0 {
            text.push_str(&format!("  {failed} failed"));
        }
        text
    }

    /// On the way back nothing more is waited for.
    fn waits_for(&self) -> u32 {
        if self.state == State::Unwinding || self.state.is_terminal() { 0 } else { self.progress.total }
    }

    /// `QUEUED position 3, slots held by 9c41e07b (drain web-02)`.
    fn queued(&self) -> String {
        let Some(queue) = &self.queue else { return "  queued     waits for its turn".to_owned() };
        let holder = |id: &omnirelay_contract::workflow::OperationId| {
            let name = self.around.names.get(&id.to_string());
            short(*id) + &name.map(|name| format!(" ({name})")).unwrap_or_default()
        };
        let mut holders: Vec<String> = queue.holders.iter().take(ROWS).map(holder).collect();
        holders.extend((queue.holders.len() > ROWS).then(|| format!("{} more", queue.holders.len() - ROWS)));
        let held = if holders.is_empty() { String::new() } else { format!(", slots held by {}", holders.join(", ")) };
        format!("  QUEUED position {}{held}", queue.position)
    }

    fn open_gate(&self) -> Option<&Gate> {
        self.gate.as_ref().filter(|gate| gate.status == Decision::Open)
    }

    fn all_blockers(&self) -> Vec<Blocker> {
        let children = if self.many { bulk::blockers(&self.around) } else { Vec::new() };
        self.blockers.iter().cloned().chain(children).collect()
    }

    /// The order that an operation goes through. Whatever is lower has been passed; a gate or a queue in the middle of the
    /// way is a step back that only the operation itself tells.
    fn rank(&self, state: State, phase: Option<&str>) -> (State, usize) {
        let phase = phase.filter(|_| state == State::Running);
        (state, phase.and_then(|phase| self.order.iter().position(|known| *known == phase)).map_or(0, |n| n + 1))
    }

    fn workload(&mut self, event: &Event, what: &str) {
        let Some((_, id, _)) = event.parts() else { return };
        let text = |name: &str| event.data.detail.get(name).and_then(|value| value.as_str()).map(str::to_owned);
        let workload = text("workload").unwrap_or_else(|| id.to_owned());
        match what {
            "moving" if !self.state.is_terminal() => {
                let label = text("unit").unwrap_or_else(|| workload.clone());
                self.flights.insert(workload, Flight { label, to: text("to") });
            }
            "moved" | "restored" => {
                self.flights.remove(&workload);
            }
            _ => {}
        }
    }

    /// A change of direction ends what was known of the moves.
    fn turn(&mut self, state: State) {
        if state != self.state && (state == State::Unwinding || state.is_terminal()) {
            self.flights.clear();
            self.blockers.clear();
        }
        self.state = state;
    }

    fn is_of_flight(&self, blocker: &Blocker) -> bool {
        matches!(blocker.code, BlockerCode::NotReady | BlockerCode::Busy) && self.flights.contains_key(&blocker.subject)
    }
}

impl Flight {
    fn line(&self, why: Option<&str>) -> String {
        let mut line = format!("    {}", self.label);
        if let Some(to) = &self.to {
            line.push_str(&format!(" -> {to}"));
        }
        if let Some(why) = why {
            line.push_str(&format!("   {why}"));
        }
        line
    }
}

fn order(operation: &Operation) -> Vec<&'static str> {
    match operation.verb {
        Verb::PeersDrain if bulk::is_bulk(operation) => bulk::phases(operation),
        Verb::PeersDrain => DRAIN.to_vec(),
        Verb::ClustersPromote | Verb::ClustersDemote => PROMOTE.to_vec(),
        _ => Vec::new(),
    }
}

/// `[########------------]`.
pub fn bar(progress: &Progress) -> String {
    let Progress { done, total, .. } = *progress;
    let filled = if total == 0 { 0 } else { BAR * done.min(total) as usize / total as usize };
    format!("[{}{}]", "#".repeat(filled), "-".repeat(BAR - filled))
}

/// `PAUSED 2m14s by ana: night shift`.
fn pause(paused: &Paused, now: Timestamp) -> String {
    let why = paused.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    format!("PAUSED {} by {}{why}", age(paused.at, now), paused.by)
}

fn more(count: usize, indent: &str) -> Option<String> {
    (count > ROWS).then(|| format!("{indent}and {} more", count - ROWS))
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
