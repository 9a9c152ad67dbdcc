//! What a promotion looks like from outside: the operation's state, phase, progress, blockers and result.

use serde_json::{Value, json};

use super::*;
use crate::drain::{Status, blockers};
use crate::operation::Progress;

impl Promote {
    pub fn status(&self) -> Status {
        let (state, phase) = match &self.phase {
            Phase::Prechecking => (State::Running, Some("prechecking")),
            Phase::AwaitingGate => (State::AwaitingApproval, Some("prechecking")),
            Phase::Fencing { .. } => (State::Running, Some("fencing")),
            Phase::Verifying { .. } => (State::Running, Some("verifying")),
            Phase::Unwinding { .. } => (State::Unwinding, Some("unwinding")),
            Phase::Ended(end) => (end.state, None),
        };
        Status {
            state,
            phase,
            progress: self.progress(),
            blockers: match self.phase {
                Phase::Ended(_) => Vec::new(),
                _ => blockers(
                    self.paused.iter().chain(self.members.values().filter_map(|member| member.trouble.as_ref())),
                ),
            },
            result: match &self.phase {
                Phase::Ended(end) => Some(self.result(end)),
                _ => None,
            },
            changed: !matches!(self.phase, Phase::Ended(End { unchanged: true, .. })),
        }
    }

    fn progress(&self) -> Progress {
        let count = |test: fn(&At) -> bool| self.members.values().filter(|member| test(&member.at)).count() as u32;
        Progress {
            done: count(|at| matches!(at, At::Told)),
            total: self.members.len() as u32,
            in_flight: count(|at| matches!(at, At::Asked(Ask { command: Some(_), .. }))),
            failed: count(|at| matches!(at, At::Missed { .. })),
            unit: "peers".to_owned(),
        }
    }

    /// `unfenced` are the peers without whose word the cutover was made, and those that have not acknowledged their new role;
    /// `told` says that such a one has acknowledged it since. `notRestored` are those that do not know yet that it was called off.
    fn result(&self, end: &End) -> Value {
        let made = end.state == State::Succeeded;
        let of = |aim: Aim| self.clusters.iter().filter(move |(_, a)| made && **a == aim).map(|(id, _)| id);
        let mut unfenced = Vec::new();
        let mut not_restored = Vec::new();
        for (peer, member) in &self.members {
            let missed = match &member.at {
                At::Missed { why, .. } => Some(why),
                At::Asked(_) | At::Told => None,
            };
            let why = match (made, &member.unfenced) {
                (true, Some(why)) => Some(why),
                (true, None) | (false, _) => missed,
            };
            let Some(why) = why else { continue };
            let cluster = &member.cluster;
            if made {
                let told = missed.is_none();
                unfenced.push(json!({ "peer": peer, "cluster": cluster, "why": why, "told": told }));
            } else {
                not_restored.push(json!({ "peer": peer, "cluster": cluster, "why": why }));
            }
        }
        let forced = (made && !self.overridden.is_empty()).then(|| json!({ "overridden": self.overridden }));
        json!({
            "promoted": of(Aim::Promote).next(),
            "demoted": of(Aim::Demote).collect::<Vec<_>>(),
            "failoverVersion": end.version,
            "unfenced": unfenced,
            "notRestored": not_restored,
            "forced": forced,
        })
    }
}
