//! Copies that nobody could be reached to end: how they come about, how they are named, and how they are found again.

use super::*;
use crate::resource::{Handover, WorkloadState};

impl Stepper<'_> {
    /// The deadline has passed with `force` and the source does not answer. One that answers is asked, however late it is:
    /// what it still runs would only run twice.
    pub(super) fn takes(&self) -> bool {
        self.run.forced && self.source_unreachable()
    }

    /// Takes what was being released when the source went silent.
    pub(super) fn take_releasing(&mut self) {
        let releasing = self.run.moves.iter().filter(|(_, m)| matches!(m.at, At::Releasing { .. }));
        let ids: Vec<WorkloadId> = releasing.map(|(id, _)| id.clone()).collect();
        for id in &ids {
            self.take(id);
        }
    }

    /// Goes on under a higher epoch as if the source had released it. It may run twice, and is named.
    pub(super) fn take(&mut self, id: &WorkloadId) {
        let source = self.run.peer.clone();
        self.stray(id, source, "its peer is unreachable");
        if let Some(m) = self.run.moves.get_mut(id) {
            m.epoch += 1;
            let (epoch, target) = (m.epoch, m.copy.clone());
            self.changes.push(Change::Moving { workload: id.clone(), target, epoch });
        }
        self.released(id);
        if let Some(m) = self.run.moves.get(id)
            && matches!(m.at, At::Waiting { .. })
        {
            self.find_target(id);
        }
    }

    /// Leaves a release that does not come to an end. What runs at its target stays there, and perhaps still runs here; anything
    /// else is brought back up here, because the release may have happened.
    pub(super) fn abandon_release(&mut self, id: &WorkloadId, why: &str) {
        let source = self.run.peer.clone();
        let Some(m) = self.run.moves.get_mut(id) else { return };
        if m.copy.is_some() {
            self.stray(id, source, why);
            self.moved(id);
        } else if m.handover == Handover::ReleaseOnly && !m.restorable {
            self.leave(id, format!("its release had begun: {why}"), false);
        } else {
            m.on_source = false;
            self.take_back(id, 0);
        }
    }

    /// Leaves a copy that could not be ended at a target which had not acquired it.
    pub(super) fn leave_stray(&mut self, id: &WorkloadId, why: &str, exclusive: bool) {
        let Some(m) = self.run.moves.get_mut(id) else { return };
        let Some(peer) = m.copy.clone() else { return };
        if exclusive || m.on_source {
            self.changes.push(Change::Settled { workload: id.clone() });
        }
        if exclusive {
            let why = format!("{peer} may or may not run it: {why}");
            return self.put(id, At::Left { why, broken: true });
        }
        m.copy = None;
        self.stray(id, peer, why);
        self.put(id, At::Waiting { not_before: None });
    }

    /// The source's agent lists what its record has elsewhere already: it is released again. False for what is not ours to release.
    pub(super) fn release_again(&mut self, id: &WorkloadId) -> bool {
        let Some(m) = self.run.moves.get_mut(id) else { return false };
        let ours = match self.world.workloads.get(id) {
            Some(record) => {
                record.state == WorkloadState::Running
                    && Some(&record.peer) == m.copy.as_ref()
                    && record.epoch == m.epoch
            }
            None => m.copy.is_none(),
        };
        if m.at != At::Moved || !ours {
            return false;
        }
        m.on_source = true;
        let retry_at = later(self.now, Duration::from_millis(500));
        m.at = At::Releasing { ask: Ask { command: None, tries: 0, retry_at } };
        true
    }

    /// Releases what the source's agent lists although it is at home elsewhere: an earlier drain was stopped, or an operation was
    /// resolved by hand, before the old copy here had ended. Answers what the verification waits for.
    ///
    /// The command carries the record's own epoch. No agent has been given a higher one, so the source takes it; and the record
    /// does not change, so that its owner, and whoever moves it next, are not disturbed.
    pub(super) fn release_leftovers(&mut self, listed: &[WorkloadId]) -> String {
        let source = self.run.peer.clone();
        self.run.leftovers.retain(|id, _| listed.contains(id));
        for id in listed {
            let record = self.world.workloads.get(id);
            if record.is_some_and(|record| record.peer == source) {
                self.run.leftovers.remove(id);
                continue;
            }
            let known = self.run.leftovers.entry(id.clone());
            let none = Ask { command: None, tries: 0, retry_at: None };
            // Its record is loaded for the next step.
            let left = known.or_insert_with(|| Leftover { ask: none, why: "its record is looked for".to_owned() });
            let (ask, said) = (left.ask.clone(), left.why.clone());
            let Some(record) = record.filter(|_| ask.is_due(self.now)) else { continue };
            match self.at_home(record) {
                Err(why) => self.keep_leftover(id, ask, why),
                Ok(()) if self.world.paused.is_some() => self.keep_leftover(id, ask, "not while paused".to_owned()),
                Ok(()) if !self.leftover_slot() => {}
                Ok(()) => {
                    let target = (id.clone(), record.epoch);
                    // Where it has failed before, what was said then stays the reason.
                    let first = ask.tries == 0;
                    let why = format!("a copy of what runs on {} is being released", record.peer);
                    let why = if first { why } else { said };
                    let ask = self.give(source.clone(), CommandKind::Release, Some(target), ask.tries, false);
                    self.keep_leftover(id, ask, why);
                }
            }
        }
        let told = listed.iter().find_map(|id| self.run.leftovers.get(id).map(|left| (id, left.why.as_str())));
        match (told, listed.first()) {
            (Some((id, why)), _) => format!("its agent still lists {} workloads, {id} among them: {why}", listed.len()),
            (None, Some(id)) => format!("its agent still lists {} workloads, {id} among them", listed.len()),
            (None, None) => "its agent lists nothing".to_owned(),
        }
    }

    /// Whether its owner does without the copy here.
    fn at_home(&self, record: &Workload) -> Result<(), String> {
        if record.state == WorkloadState::Moving || record.operation.is_some() {
            let by = record.operation.map_or_else(|| "another operation".to_owned(), |id| format!("operation {id}"));
            return Err(format!("{by} is moving it"));
        }
        let owner = self.world.candidates.iter().find(|candidate| candidate.peer == record.peer);
        if !record.ready || owner.is_some_and(|owner| owner.health != Health::Healthy) {
            return Err(format!("its record is on {}, where it is not well", record.peer));
        }
        Ok(())
    }

    fn leftover_slot(&self) -> bool {
        let out = self.run.leftovers.values().filter(|left| left.ask.command.is_some()).count();
        out < self.run.params.max_concurrent.max(1) as usize
    }

    fn keep_leftover(&mut self, id: &WorkloadId, ask: Ask, why: String) {
        self.run.leftovers.insert(id.clone(), Leftover { ask, why });
    }

    /// What came of such a release. The next list shows whether it is gone, or it is asked for again.
    pub(super) fn leftover_reported(&mut self, command: &CommandId, outcome: Outcome) {
        let known = self.run.leftovers.iter().find(|(_, left)| left.ask.waits_for(command));
        let Some((id, ask)) = known.map(|(id, left)| (id.clone(), left.ask.clone())) else { return };
        let tries = ask.tries + 1;
        let again = Ask { command: None, tries, retry_at: later(self.now, retry_delay(tries)) };
        match outcome {
            Outcome::Done | Outcome::Listed { .. } => drop(self.run.leftovers.remove(&id)),
            Outcome::Busy { message, .. } | Outcome::NotReady { message } => self.keep_leftover(&id, ask, message),
            Outcome::Failed { message } | Outcome::Refused { message } => self.keep_leftover(&id, again, message),
            Outcome::Expired { .. } => self.keep_leftover(&id, again, "its release was not answered".to_owned()),
        }
    }

    fn stray(&mut self, id: &WorkloadId, peer: PeerId, why: &str) {
        if !self.run.strays.iter().any(|(known, at, _)| known == id && *at == peer) {
            self.run.strays.push((id.clone(), peer, why.to_owned()));
        }
    }

    /// That peer has let go of it, or runs it by right.
    pub(super) fn no_stray(&mut self, id: &WorkloadId, peer: &PeerId) {
        self.run.strays.retain(|(known, at, _)| known != id || at != peer);
    }
}
