//! The way back. Moves in flight are settled, nothing new starts, moved workloads go back where they are still as this
//! drain left them; everything else is named.

use super::*;
use crate::resource::{Handover, WorkloadState};

/// How often one undo is tried before the operation ends `stuck`.
pub(super) const UNDO_TRIES: u32 = 4;

impl Stepper<'_> {
    /// Turns round. Forward commands are void from here on: a higher epoch overtakes whatever of them is still on its way.
    pub(super) fn unwind(&mut self, cause: Cause, keep_moved: bool) {
        if matches!(self.run.phase, Phase::Unwinding { .. }) {
            return;
        }
        self.void = true;
        self.run.trouble = None;
        self.run.leftovers.clear();
        self.run.phase = Phase::Unwinding { cause, keep_moved };
        let ids: Vec<WorkloadId> = self.run.moves.keys().cloned().collect();
        for id in &ids {
            self.turn_round(id, keep_moved);
        }
    }

    fn turn_round(&mut self, id: &WorkloadId, keep_moved: bool) {
        let Some(m) = self.run.moves.get_mut(id) else { return };
        m.trouble = None;
        match m.at.clone() {
            At::Waiting { .. } if m.on_source => self.put(id, At::Untouched),
            At::Waiting { .. } => self.take_back(id, 0),
            At::Acquiring { target, .. } if target == self.run.peer => self.take_back(id, 0),
            At::Acquiring { target, .. } => {
                m.copy = Some(target);
                self.withdraw(id, 0);
            }
            At::Settling { .. } => self.withdraw(id, 0),
            At::Releasing { .. } => match (m.handover, m.copy.is_some()) {
                (_, true) if keep_moved => {
                    self.put(id, At::Releasing { ask: Ask { command: None, tries: 0, retry_at: None } });
                }
                (Handover::ReleaseOnly, _) if !m.restorable => {
                    self.leave(id, "its release had begun and cannot be taken back".to_owned(), false);
                }
                (Handover::StopFirst, true) => {
                    // It runs at its target; what is being released is a copy that should not be.
                    m.on_source = false;
                    self.withdraw(id, 0);
                }
                _ => {
                    // The release may have happened or not; an acquire under a higher epoch is right in both cases.
                    m.on_source = false;
                    self.take_back(id, 0);
                }
            },
            At::Moved if keep_moved => self.put(id, At::Kept),
            // Goes back when it has a slot; see `advance_unwinding`.
            At::Moved => {}
            At::TakingBack { .. }
            | At::Withdrawing { .. }
            | At::Restored
            | At::Untouched
            | At::Kept
            | At::Left { .. } => {}
        }
    }

    pub(super) fn advance_unwinding(&mut self) {
        self.advance_due_asks();
        let ids: Vec<WorkloadId> = self.run.moves.keys().cloned().collect();
        let mut free = self.free_slots();
        for id in &ids {
            if free > 0 && self.run.moves.get(id).is_some_and(|m| m.at == At::Moved) {
                self.bring_back(id);
                free -= self.slots(id);
            }
        }
        let over =
            self.run.moves.values().all(|m| matches!(m.at, At::Restored | At::Untouched | At::Kept | At::Left { .. }));
        if over {
            self.end_unwinding();
        }
    }

    fn advance_due_asks(&mut self) {
        let due: Vec<(WorkloadId, u32)> = self
            .run
            .moves
            .iter()
            .filter_map(|(id, m)| m.at.ask().filter(|ask| ask.is_due(self.now)).map(|ask| (id.clone(), ask.tries)))
            .collect();
        for (id, tries) in due {
            match self.run.moves.get(&id).map(|m| &m.at) {
                Some(At::TakingBack { .. }) => self.take_back(&id, tries),
                Some(At::Withdrawing { .. }) => self.withdraw(&id, tries),
                Some(At::Releasing { .. }) => self.release_kept(&id, tries),
                _ => {}
            }
        }
    }

    /// What was moved goes back only if it is still where this drain left it: owner and epoch.
    fn bring_back(&mut self, id: &WorkloadId) {
        let Some(m) = self.run.moves.get(id) else { return };
        let Some(copy) = &m.copy else {
            let restorable = m.restorable;
            match self.world.workloads.get(id).filter(|record| record.peer != self.run.peer) {
                Some(record) => self.leave(id, format!("it came up on {} since", record.peer), false),
                None if restorable => self.take_back(id, 0),
                None => self.leave(id, "it was released, which cannot be taken back".to_owned(), false),
            }
            return;
        };
        let why = match self.world.workloads.get(id) {
            None => Some(format!("it is gone from {copy}")),
            Some(record) if record.state == WorkloadState::Moving => {
                let by =
                    record.operation.map_or_else(|| "another operation".to_owned(), |id| format!("operation {id}"));
                Some(format!("{by} is moving it from {}", record.peer))
            }
            Some(record) if record.peer != *copy => Some(format!("it was moved on from {copy} to {}", record.peer)),
            Some(record) if record.epoch != m.epoch => Some(format!("it was moved again since, and is on {copy}")),
            Some(_) => None,
        };
        match (why, m.handover) {
            (Some(why), _) => self.leave(id, why, false),
            (None, Handover::StopFirst) => self.withdraw(id, 0),
            (None, Handover::StartFirst | Handover::ReleaseOnly) => self.take_back(id, 0),
        }
    }

    /// An acquire at the source.
    pub(super) fn take_back(&mut self, id: &WorkloadId, tries: u32) {
        let source = self.run.peer.clone();
        let Some(m) = self.run.moves.get_mut(id) else { return };
        m.epoch += 1;
        let epoch = m.epoch;
        self.changes.push(Change::Moving { workload: id.clone(), target: Some(source.clone()), epoch });
        let ask = self.give(source, CommandKind::Acquire, Some((id.clone(), epoch)), tries, true);
        self.put(id, At::TakingBack { ask });
    }

    /// A release of the copy.
    pub(super) fn withdraw(&mut self, id: &WorkloadId, tries: u32) {
        let Some(m) = self.run.moves.get_mut(id) else { return };
        let Some(copy) = m.copy.clone() else { return };
        m.epoch += 1;
        let epoch = m.epoch;
        self.changes.push(Change::Moving { workload: id.clone(), target: None, epoch });
        let ask = self.give(copy, CommandKind::Release, Some((id.clone(), epoch)), tries, true);
        self.put(id, At::Withdrawing { ask });
    }

    /// `keepMoved`: the source still has to let go of what its target runs already.
    fn release_kept(&mut self, id: &WorkloadId, tries: u32) {
        let source = self.run.peer.clone();
        let Some(m) = self.run.moves.get_mut(id) else { return };
        m.epoch += 1;
        let epoch = m.epoch;
        self.changes.push(Change::Moving { workload: id.clone(), target: None, epoch });
        let ask = self.give(source, CommandKind::Release, Some((id.clone(), epoch)), tries, true);
        self.put(id, At::Releasing { ask });
    }

    pub(super) fn take_back_reported(&mut self, id: &WorkloadId, ask: &Ask, outcome: Outcome) {
        let source = self.run.peer.clone();
        match outcome {
            Outcome::Done | Outcome::Listed { .. } => self.taken_back(id),
            Outcome::NotReady { message } | Outcome::Busy { message, .. } => {
                self.trouble(id, BlockerCode::NotReady, id.to_string(), format!("on {source}: {message}"));
            }
            Outcome::Failed { message } | Outcome::Refused { message } => {
                self.trouble(id, BlockerCode::NotReady, id.to_string(), format!("on {source}: {message}"));
                self.undo_failed(id, ask, format!("{source} could not take it back: {message}"));
            }
            Outcome::Expired { .. } => {
                let message = format!("the agent of {source} does not answer");
                self.trouble(id, BlockerCode::PeerUnreachable, source.to_string(), message);
                self.undo_failed(id, ask, format!("{source} could not take it back: its agent does not answer"));
            }
        }
    }

    fn taken_back(&mut self, id: &WorkloadId) {
        let source = self.run.peer.clone();
        let known = self.world.workloads.contains_key(id);
        let Some(m) = self.run.moves.get_mut(id) else { return };
        m.on_source = true;
        m.trouble = None;
        if known {
            self.changes.push(Change::Owner { workload: id.clone(), peer: source, epoch: m.epoch });
        } else {
            let record = record(id, m, source);
            self.changes.push(Change::Back { record });
        }
        let copied = m.copy.is_some();
        let here = self.run.peer.clone();
        self.no_stray(id, &here);
        if copied { self.withdraw(id, 0) } else { self.restored(id, None) }
    }

    pub(super) fn withdraw_reported(&mut self, id: &WorkloadId, ask: &Ask, outcome: Outcome) {
        let Some(m) = self.run.moves.get_mut(id) else { return };
        let Some(copy) = m.copy.clone() else { return };
        match outcome {
            Outcome::Done | Outcome::Listed { .. } => {
                m.copy = None;
                m.trouble = None;
                let on_source = m.on_source;
                self.no_stray(id, &copy);
                if on_source { self.restored(id, Some(copy)) } else { self.take_back(id, 0) }
            }
            Outcome::Busy { message, .. } | Outcome::NotReady { message } => {
                self.trouble(id, BlockerCode::Busy, id.to_string(), format!("on {copy}: {message}"));
            }
            Outcome::Failed { message } | Outcome::Refused { message } => {
                self.trouble(id, BlockerCode::Busy, id.to_string(), format!("on {copy}: {message}"));
                self.undo_failed(id, ask, format!("a copy may still run on {copy}: {message}"));
            }
            Outcome::Expired { .. } => {
                let message = format!("the agent of {copy} does not answer");
                self.trouble(id, BlockerCode::PeerUnreachable, copy.to_string(), message);
                self.undo_failed(id, ask, format!("a copy may still run on {copy}, whose agent does not answer"));
            }
        }
    }

    /// Tries again, or names it. A workload that runs on its source and perhaps elsewhere too is left over; one that could
    /// not be brought back makes the operation stuck.
    fn undo_failed(&mut self, id: &WorkloadId, ask: &Ask, why: String) {
        let tries = ask.tries + 1;
        let Some(m) = self.run.moves.get_mut(id) else { return };
        if tries >= UNDO_TRIES {
            let broken = !m.on_source;
            return self.leave(id, why, broken);
        }
        let again = Ask { command: None, tries, retry_at: later(self.now, retry_delay(tries)) };
        let at = match &m.at {
            At::TakingBack { .. } => At::TakingBack { ask: again },
            _ => At::Withdrawing { ask: again },
        };
        self.put(id, at);
    }

    fn restored(&mut self, id: &WorkloadId, from: Option<PeerId>) {
        self.changes.push(Change::Settled { workload: id.clone() });
        self.events.push(Event::Restored { workload: id.clone(), from, to: self.run.peer.clone() });
        self.put(id, At::Restored);
    }

    pub(super) fn leave(&mut self, id: &WorkloadId, why: String, broken: bool) {
        // A record that another operation has taken over since is not ours to touch.
        let ours = self.world.workloads.get(id).is_some_and(|record| record.operation == Some(self.run.id));
        let begun = self.changes.iter().any(|c| matches!(c, Change::Moving { workload, .. } if workload == id));
        if ours || begun {
            self.changes.push(Change::Settled { workload: id.clone() });
        }
        self.put(id, At::Left { why, broken });
    }

    fn end_unwinding(&mut self) {
        let stuck = self.run.moves.values().any(|m| matches!(m.at, At::Left { broken: true, .. }));
        if stuck {
            // The hold and the lock stay: somebody has to look before the peer is used again.
            return self.end(State::Stuck);
        }
        self.end(State::Cancelled);
        self.changes.push(Change::RemoveHold(self.run.hold));
        self.changes.push(Change::Mark(DrainMark::None));
        self.events.push(Event::PeerChanged);
    }
}

/// The record of a workload that had left it, as the drain remembers it.
fn record(id: &WorkloadId, m: &Move, peer: PeerId) -> Workload {
    Workload {
        id: id.clone(),
        service: m.service.clone(),
        peer,
        load: m.load,
        labels: m.labels.clone(),
        handover: m.handover,
        restorable: m.restorable,
        ready: true,
        remaining: None,
        unit: m.unit.clone(),
        epoch: m.epoch,
        state: WorkloadState::Running,
        operation: None,
    }
}
