//! What a drain looks like from outside: the operation's state, phase, progress, blockers and result.

use serde_json::{Value, json};

use super::*;
use crate::operation::{Blocker, Progress};

/// At most so many blockers are told; the first ones explain the rest.
const MAX_BLOCKERS: usize = 50;

#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    pub state: State,
    pub phase: Option<&'static str>,
    pub progress: Progress,
    pub blockers: Vec<Blocker>,
    /// Of an ended drain.
    pub result: Option<Value>,
    pub changed: bool,
}

impl Drain {
    pub fn status(&self) -> Status {
        let (state, phase) = match &self.phase {
            Phase::Cordoning { .. } => (State::Running, Some("cordoning")),
            Phase::Evicting => (State::Running, Some("evicting")),
            Phase::Verifying { .. } => (State::Running, Some("verifying")),
            Phase::Stopping => (State::Running, Some("stopping")),
            Phase::Unwinding { .. } => (State::Unwinding, Some("unwinding")),
            Phase::Ended(end) => (end.state, None),
        };
        let ended = matches!(self.phase, Phase::Ended(_));
        Status {
            state,
            phase,
            progress: self.progress(),
            blockers: if ended { Vec::new() } else { self.blockers() },
            result: ended.then(|| self.result()),
            changed: !matches!(self.phase, Phase::Ended(End { unchanged: true, .. })),
        }
    }

    fn unwinding(&self) -> bool {
        match &self.phase {
            Phase::Unwinding { .. } => true,
            Phase::Ended(end) => matches!(end.state, State::Cancelled | State::Stuck),
            Phase::Cordoning { .. } | Phase::Evicting | Phase::Verifying { .. } | Phase::Stopping => false,
        }
    }

    fn progress(&self) -> Progress {
        let count = |test: &dyn Fn(&Move) -> bool| self.moves.values().filter(|m| test(m)).count() as u32;
        let left = count(&|m| matches!(m.at, At::Left { .. }));
        let in_flight = count(&|m| m.in_flight());
        if self.unwinding() {
            let untouched = count(&|m| matches!(m.at, At::Untouched | At::Kept));
            Progress {
                done: count(&|m| m.at == At::Restored),
                total: self.moves.len() as u32 - untouched,
                in_flight,
                failed: left,
                unit: "workloads".to_owned(),
            }
        } else {
            Progress {
                done: count(&|m| m.at == At::Moved),
                total: self.moves.len() as u32,
                in_flight,
                failed: left,
                unit: "workloads".to_owned(),
            }
        }
    }

    fn blockers(&self) -> Vec<Blocker> {
        let moves = self.moves.values().filter(|m| !m.at.is_final()).filter_map(|m| m.trouble.as_ref());
        blockers(self.paused.iter().chain(&self.trouble).chain(moves))
    }

    fn result(&self) -> Value {
        let select = |test: &dyn Fn(&Move) -> bool, make: &dyn Fn(&WorkloadId, &Move) -> Value| -> Vec<Value> {
            self.moves.iter().filter(|(_, m)| test(m)).map(|(id, m)| make(id, m)).collect()
        };
        let moved =
            |id: &WorkloadId, m: &Move| json!({"workload": id, "service": m.service, "from": self.peer, "to": m.copy});
        let gone = |m: &Move| matches!(m.at, At::Moved | At::Kept);
        let mut not_restored = Vec::new();
        for (id, m) in &self.moves {
            if let At::Left { why, .. } = &m.at {
                not_restored.push(json!({"workload": id, "at": m.copy, "why": why}));
            }
        }
        let strays: Vec<Value> =
            self.strays.iter().map(|(id, peer, why)| json!({"workload": id, "at": peer, "why": why})).collect();
        // Stopped by the deadline, some have come back to the source.
        let waiting = |m: &Move| matches!(m.at, At::Waiting { .. } | At::Restored);
        json!({
            "moved": select(&|m| gone(m) && m.copy.is_some(), &moved),
            "released": select(&|m| gone(m) && m.copy.is_none(), &moved),
            "restored": select(&|m| m.at == At::Restored, &|id, _| json!({"workload": id})),
            "notRestored": if self.unwinding() { not_restored.clone() } else { Vec::new() },
            "rest": if self.unwinding() {
                Vec::new()
            } else {
                let mut rest = select(&waiting, &|id, m| {
                    let why = m.trouble.as_ref().map_or("not begun before the deadline", |t| t.message.as_str());
                    json!({"workload": id, "why": why})
                });
                rest.extend(not_restored);
                rest
            },
            "mayRunTwice": strays,
            "forced": self.forced && !self.strays.is_empty(),
        })
    }
}

/// Each trouble once, the oldest first, and not too many of them.
pub(crate) fn blockers<'a>(troubles: impl Iterator<Item = &'a Trouble>) -> Vec<Blocker> {
    let mut blockers: Vec<Blocker> = Vec::new();
    for trouble in troubles {
        if blockers.iter().any(|b| b.code == trouble.code && b.subject == trouble.subject) {
            continue;
        }
        blockers.push(Blocker {
            code: trouble.code,
            subject: trouble.subject.clone(),
            message: trouble.message.clone(),
            since: trouble.since,
        });
    }
    blockers.sort_by(|a, b| a.since.cmp(&b.since).then_with(|| a.subject.cmp(&b.subject)));
    blockers.truncate(MAX_BLOCKERS);
    blockers
}
