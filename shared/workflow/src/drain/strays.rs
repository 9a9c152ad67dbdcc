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
