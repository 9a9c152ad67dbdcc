//! What a follower shows of an operation, as a pure model: states and events in, lines out. The terminal draws the lines
//! as they are; without a terminal, [`View::plain`] says in one line what has changed.
//!
//! A snapshot (the operation as the API has it) is the truth. Events come from a stream that may lag behind it or repeat
//! what is known, so an event never takes the view backwards.

use std::collections::BTreeMap;

use jiff::Timestamp;
use omnirelay_contract::event::Event;
use omnirelay_contract::rest::Operation;
use omnirelay_contract::workflow::operation::{Blocker, BlockerCode, Progress, State, Verb};

use crate::output::age;

const BAR: usize = 20;
/// Rows of one kind that are shown; the rest is counted.
const ROWS: usize = 8;
/// The phases of a drain, in order.
const DRAIN: &[&str] = &["cordoning", "evicting", "verifying"];

/// A workload on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Flight {
    label: String,
    to: Option<String>,
}

/// State, phase, and code and subject of each blocker.
pub type PlainKey = (State, Option<String>, Vec<(BlockerCode, String)>);

#[derive(Debug, Clone)]
pub struct View {
    verb: Verb,
    state: State,
    phase: Option<String>,
    progress: Progress,
    blockers: Vec<Blocker>,
    flights: BTreeMap<String, Flight>,
}

impl View {
    pub fn new(operation: &Operation) -> Self {
        Self {
            verb: operation.verb,
            state: operation.state,
            phase: operation.phase.clone(),
            progress: operation.progress.clone(),
            blockers: operation.blockers.clone(),
            flights: BTreeMap::new(),
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Takes over the truth.
    pub fn sync(&mut self, operation: &Operation) {
        self.turn(operation.state);
        self.phase.clone_from(&operation.phase);
        self.progress = operation.progress.clone();
        self.blockers.clone_from(&operation.blockers);
        if self.progress.in_flight == 0 || self.state.is_terminal() {
            self.flights.clear();
        }
    }

    /// Applies an event of this operation. Says whether the operation may have ended, so that the truth is asked for.
    pub fn apply(&mut self, event: &Event) -> bool {
        let Some((resource, _, what)) = event.parts() else { return false };
        if resource == "workloads" {
            self.workload(event, what);
        }
        let data = &event.data;
        let (state, phase) = (data.state.unwrap_or(self.state), data.phase.as_ref().or(self.phase.as_ref()));
        let (mine, theirs) = (rank(self.state, self.phase.as_deref()), rank(state, phase.map(String::as_str)));
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
        match self.state {
            State::Submitted => lines.push("  submitted".to_owned()),
            State::AwaitingApproval => lines.push("  APPROVAL awaited".to_owned()),
            State::Queued => lines.push("  queued     waits for its turn".to_owned()),
            State::Unwinding => lines.push(self.bar("unwinding", "restored")),
            State::Running => self.phases(&mut lines),
            _ => {}
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

    /// What stays on the screen of an operation that has ended: how far it came.
    pub fn ended(operation: &Operation) -> Vec<String> {
        let mut view = View::new(operation);
        view.blockers.clear();
        match operation.state {
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
        if self.progress.in_flight > 0 {
            line.push_str(&format!("  {} moving", self.progress.in_flight));
        }
        if self.progress.failed > 0 {
            line.push_str(&format!("  {} failed", self.progress.failed));
        }
        line
    }

    /// The part of [`View::plain`] whose change is told at once, whatever the throttle says.
    pub fn plain_key(&self) -> PlainKey {
        let blockers = self.blockers.iter().map(|blocker| (blocker.code, blocker.subject.clone())).collect();
        (self.state, self.phase.clone(), blockers)
    }

    /// Blockers as lines for a log.
    pub fn plain_blockers(&self, now: Timestamp) -> Vec<String> {
        let tell = |blocker: &Blocker| {
            format!("BLOCKED {} {}: {} {}", age(blocker.since, now), blocker.code, blocker.subject, blocker.message)
        };
        self.blockers.iter().take(ROWS).map(tell).collect()
    }

    fn phases(&self, lines: &mut Vec<String>) {
        let phase = self.phase.as_deref().unwrap_or("running");
        if self.verb == Verb::PeersDrain
            && let Some(current) = DRAIN.iter().position(|known| *known == phase)
        {
            lines.extend(DRAIN[..current].iter().map(|done| format!("  {done:<10} done")));
        }
        if self.progress.total > 0 && phase != "cordoning" {
            lines.push(self.bar(phase, "done"));
        } else {
            lines.push(format!("  {phase}"));
        }
    }

    /// `  evicting   [########------------] 4/10  2 moving`
    fn bar(&self, label: &str, done: &str) -> String {
        let Progress { done: count, total, in_flight, failed, .. } = self.progress;
        let filled = if total == 0 { 0 } else { BAR * count.min(total) as usize / total as usize };
        let mut line = format!("  {label:<10} [{}{}] {count}/{total}", "#".repeat(filled), "-".repeat(BAR - filled));
        if self.state == State::Unwinding {
            line.push_str(&format!(" {done}"));
        }
        if in_flight > 0 {
            line.push_str(&format!("  {in_flight} moving"));
        }
        if failed > 0 {
            line.push_str(&format!("  {failed} failed"));
        }
        line
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

/// The order that an operation goes through. Whatever is lower has been passed.
fn rank(state: State, phase: Option<&str>) -> (State, usize) {
    let phase = phase.filter(|_| state == State::Running);
    (state, phase.and_then(|phase| DRAIN.iter().position(|known| *known == phase)).map_or(0, |n| n + 1))
}

fn more(count: usize, indent: &str) -> Option<String> {
    (count > ROWS).then(|| format!("{indent}and {} more", count - ROWS))
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
