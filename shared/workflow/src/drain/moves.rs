//! Moves on their way forward.

use std::time::Duration;

use super::unwind::UNDO_TRIES;
use super::*;
use crate::placement::{NoCapacity, place};
use crate::resource::Handover;

impl Stepper<'_> {
    /// Takes what has come to the source since the last look, and forgets what has gone by itself before it was touched.
    pub(super) fn adopt_arrivals(&mut self) -> bool {
        let source = self.run.peer.clone();
        let world = self.world;
        let mut arrived = false;
        for (id, record) in &world.workloads {
            let free = record.peer == source && record.operation.is_none_or(|by| by == self.run.id);
            let again = self.run.moves.get(id).is_some_and(|m| m.at == At::Moved && m.copy.as_ref() != Some(&source));
            if free && (again && record.operation.is_none() || !self.run.moves.contains_key(id)) {
                self.run.moves.insert(id.clone(), Move::new(record));
                self.run.leftovers.remove(id);
                arrived = true;
            }
        }
        self.run.moves.retain(|id, m| {
            let untouched = matches!(m.at, At::Waiting { .. }) && m.on_source && m.copy.is_none();
            !untouched || world.workloads.get(id).is_some_and(|record| record.peer == source)
        });
        arrived
    }

    /// Begins what has a free slot, asks again where it is time.
    pub(super) fn advance_moves(&mut self) {
        let ids: Vec<WorkloadId> = self.run.moves.keys().cloned().collect();
        if self.takes() {
            self.take_releasing();
        }
        for id in &ids {
            let Some(m) = self.run.moves.get(id) else { continue };
            match &m.at {
                At::Waiting { not_before } if !m.on_source && not_before.is_none_or(|at| at <= self.now) => {
                    self.find_target(id);
                }
                other => {
                    if let Some(ask) = other.ask()
                        && ask.is_due(self.now)
                    {
                        self.ask_again_now(id);
                    }
                }
            }
        }
        if matches!(self.run.phase, Phase::Stopping) || self.world.paused.is_some() {
            return;
        }
        let mut free = self.free_slots();
        for id in &ids {
            if free == 0 {
                break;
            }
            let Some(m) = self.run.moves.get(id) else { continue };
            let due = matches!(&m.at, At::Waiting { not_before } if not_before.is_none_or(|at| at <= self.now));
            if due && m.on_source && self.within_budget(id) {
                self.begin(id);
                free -= self.slots(id);
            }
        }
    }

    /// How many more moves may be in flight.
    pub(super) fn free_slots(&self) -> usize {
        let in_flight = self.run.moves.values().filter(|m| m.in_flight()).count();
        (self.run.params.max_concurrent.max(1) as usize).saturating_sub(in_flight)
    }

    /// What a move takes of them, now that it was begun: nothing where it had to wait or ended at once.
    pub(super) fn slots(&self, id: &WorkloadId) -> usize {
        usize::from(self.run.moves.get(id).is_some_and(Move::in_flight))
    }

    /// Begins a move, or says why it waits.
    fn begin(&mut self, id: &WorkloadId) {
        let Some(m) = self.run.moves.get(id) else { return };
        let handover = m.handover;
        let target = match handover {
            Handover::StartFirst | Handover::StopFirst => match self.choose(id) {
                Some(target) => Some(target),
                None => return,
            },
            Handover::ReleaseOnly => None,
        };
        self.events.push(Event::Moving { workload: id.clone(), from: self.run.peer.clone(), to: target.clone() });
        match (handover, target) {
            (Handover::StartFirst, Some(target)) => self.acquire(id, target),
            _ if self.takes() => self.take(id),
            // The target is only a promise until the release is done: who is best may have changed by then.
            _ => self.release_source(id, 0),
        }
    }

    /// The best target, or a blocker and a later look. The longer it could not go anywhere, the rarer the look.
    fn choose(&mut self, id: &WorkloadId) -> Option<PeerId> {
        let m = self.run.moves.get_mut(id)?;
        let delay = match place(&self.world.candidates, &self.run.peer, &self.promised, m.load, &m.labels, &m.tried) {
            Ok(target) if !m.tried.contains(target) => return Some(target.clone()),
            Ok(_) => {
                // Everybody who could has failed. What the last of them said stays the blocker; a new round comes later.
                m.tried.clear();
                m.rounds += 1;
                // What runs meanwhile can wait longer than what does not.
                round_delay(m.rounds).min(Duration::from_secs(if m.on_source { 300 } else { 15 }))
            }
            Err(NoCapacity(why)) => {
                let trouble = Trouble::renew(m.trouble.take(), BlockerCode::NoCapacity, id.to_string(), why, self.now);
                let age = Duration::try_from(self.now.duration_since(trouble.since)).unwrap_or_default();
                m.trouble = Some(trouble);
                (age / 2).clamp(Duration::from_millis(500), Duration::from_secs(10))
            }
        };
        m.at = At::Waiting { not_before: later(self.now, delay) };
        None
    }

    /// A released workload looks for a target; the source is one of the candidates, the last of them. Where it failed too, it
    /// has its turn again in the next round.
    pub(super) fn find_target(&mut self, id: &WorkloadId) {
        let source = self.run.peer.clone();
        let failed = self.run.moves.get(id).is_some_and(|m| m.tried.contains(&source));
        let target = match self.choose(id) {
            Some(target) => target,
            None if failed || self.source_unreachable() => {
                if let Some(m) = self.run.moves.get_mut(id) {
                    m.tried.retain(|peer| *peer != source);
                }
                return;
            }
            None => source,
        };
        self.acquire(id, target);
    }

    fn acquire(&mut self, id: &WorkloadId, target: PeerId) {
        let Some(m) = self.run.moves.get_mut(id) else { return };
        m.epoch += 1;
        let epoch = m.epoch;
        *self.promised.entry(target.clone()).or_default() += m.load;
        self.changes.push(Change::Moving { workload: id.clone(), target: Some(target.clone()), epoch });
        let ask = self.give(target.clone(), CommandKind::Acquire, Some((id.clone(), epoch)), 0, false);
        self.put(id, At::Acquiring { target, ask });
    }

    pub(super) fn release_source(&mut self, id: &WorkloadId, tries: u32) {
        let undo = matches!(self.run.phase, Phase::Unwinding { .. });
        let Some(m) = self.run.moves.get_mut(id) else { return };
        m.epoch += 1;
        let (epoch, target) = (m.epoch, m.copy.clone());
        self.changes.push(Change::Moving { workload: id.clone(), target, epoch });
        let source = self.run.peer.clone();
        let ask = self.give(source, CommandKind::Release, Some((id.clone(), epoch)), tries, undo);
        self.put(id, At::Releasing { ask });
    }

    /// Ends what a failed acquire may have left at `copy`.
    fn settle(&mut self, id: &WorkloadId, tries: u32) {
        let Some(m) = self.run.moves.get_mut(id) else { return };
        let Some(peer) = m.copy.clone() else { return };
        m.epoch += 1;
        let epoch = m.epoch;
        self.changes.push(Change::Moving { workload: id.clone(), target: Some(peer.clone()), epoch });
        let ask = self.give(peer, CommandKind::Release, Some((id.clone(), epoch)), tries, false);
        self.put(id, At::Settling { ask });
    }

    fn ask_again_now(&mut self, id: &WorkloadId) {
        let Some(m) = self.run.moves.get(id) else { return };
        let tries = m.at.ask().map_or(0, |ask| ask.tries);
        match &m.at {
            At::Releasing { .. } => self.release_source(id, tries),
            At::Settling { .. } => self.settle(id, tries),
            At::TakingBack { .. } => self.take_back(id, tries),
            At::Withdrawing { .. } => self.withdraw(id, tries),
            // An acquire that failed is never repeated at the same peer without a release in between.
            At::Acquiring { .. }
            | At::Waiting { .. }
            | At::Moved
            | At::Restored
            | At::Untouched
            | At::Kept
            | At::Left { .. } => {}
        }
    }

    pub(super) fn move_reported(&mut self, id: &WorkloadId, outcome: Outcome) {
        let Some(m) = self.run.moves.get(id) else { return };
        match m.at.clone() {
            At::Acquiring { target, .. } => self.acquire_reported(id, &target, outcome),
            At::Releasing { ask } => self.release_reported(id, &ask, outcome),
            At::Settling { ask } => self.settle_reported(id, &ask, outcome),
            At::TakingBack { ask } => self.take_back_reported(id, &ask, outcome),
            At::Withdrawing { ask } => self.withdraw_reported(id, &ask, outcome),
            At::Waiting { .. } | At::Moved | At::Restored | At::Untouched | At::Kept | At::Left { .. } => {}
        }
    }

    fn acquire_reported(&mut self, id: &WorkloadId, target: &PeerId, outcome: Outcome) {
        match outcome {
            Outcome::Done | Outcome::Listed { .. } => self.acquired(id, target),
            Outcome::NotReady { message } => {
                self.trouble(id, BlockerCode::NotReady, id.to_string(), format!("on {target}: {message}"));
            }
            Outcome::Busy { message, .. } => {
                self.trouble(id, BlockerCode::Busy, id.to_string(), format!("on {target}: {message}"));
            }
            Outcome::Failed { message } => {
                self.trouble(id, BlockerCode::NotReady, id.to_string(), format!("on {target}: {message}"));
                self.avoid(id, target, true);
                self.settle(id, 0);
            }
            Outcome::Expired { accepted: true } => {
                let message = format!("{target} accepted it and was not heard of again");
                self.trouble(id, BlockerCode::PeerUnreachable, target.to_string(), message);
                self.avoid(id, target, true);
                self.settle(id, 0);
            }
            Outcome::Expired { accepted: false } => {
                let message = format!("the agent of {target} does not answer");
                self.trouble(id, BlockerCode::PeerUnreachable, target.to_string(), message);
                self.avoid(id, target, false);
                self.put(id, At::Waiting { not_before: None });
            }
            Outcome::Refused { message } => {
                self.trouble(id, BlockerCode::NotReady, id.to_string(), format!("on {target}: {message}"));
                self.avoid(id, target, false);
                self.put(id, At::Waiting { not_before: later(self.now, Duration::from_millis(500)) });
            }
        }
    }

    fn acquired(&mut self, id: &WorkloadId, target: &PeerId) {
        let source = self.run.peer.clone();
        let Some(m) = self.run.moves.get_mut(id) else { return };
        m.trouble = None;
        let epoch = m.epoch;
        self.changes.push(Change::Owner { workload: id.clone(), peer: target.clone(), epoch });
        if *target == source {
            // Nobody else could take it: it is back, and waits for better times. Each such round is an outage of it.
            m.on_source = true;
            m.copy = None;
            m.rounds += 1;
            let delay = round_delay(m.rounds);
            self.no_stray(id, &source);
            self.changes.push(Change::Settled { workload: id.clone() });
            self.trouble(id, BlockerCode::NoCapacity, id.to_string(), "no peer but its own could take it".to_owned());
            return self.put(id, At::Waiting { not_before: later(self.now, delay) });
        }
        m.copy = Some(target.clone());
        let on_source = m.on_source;
        self.no_stray(id, target);
        if on_source {
            self.release_source(id, 0);
        } else {
            self.moved(id);
        }
    }

    pub(super) fn moved(&mut self, id: &WorkloadId) {
        let Some(m) = self.run.moves.get_mut(id) else { return };
        m.trouble = None;
        let to = m.copy.clone();
        match &to {
            Some(_) => self.changes.push(Change::Settled { workload: id.clone() }),
            None if self.world.workloads.contains_key(id) => self.changes.push(Change::Gone { workload: id.clone() }),
            None => {}
        }
        self.events.push(Event::Moved { workload: id.clone(), from: self.run.peer.clone(), to });
        let kept = matches!(self.run.phase, Phase::Unwinding { .. });
        self.put(id, if kept { At::Kept } else { At::Moved });
    }

    fn release_reported(&mut self, id: &WorkloadId, ask: &Ask, outcome: Outcome) {
        let source = self.run.peer.clone();
        match outcome {
            Outcome::Done | Outcome::Listed { .. } => {
                self.no_stray(id, &source);
                self.released(id);
            }
            Outcome::Busy { remaining, message } => {
                let message = match remaining {
                    Some(n) if message.is_empty() => format!("{n} left"),
                    Some(_) | None => message,
                };
                self.trouble(id, BlockerCode::Busy, id.to_string(), message);
            }
            Outcome::NotReady { message } => self.trouble(id, BlockerCode::Busy, id.to_string(), message),
            Outcome::Failed { message } | Outcome::Refused { message } => {
                self.trouble(id, BlockerCode::Busy, id.to_string(), message.clone());
                self.release_failed(id, ask, &message);
            }
            Outcome::Expired { accepted } => {
                let message = if accepted {
                    format!("{source} accepted it and was not heard of again")
                } else {
                    format!("the agent of {source} does not answer")
                };
                // A release may well take longer than one command: then what the driver said last is why it waits.
                let busy = self.run.moves[id].trouble.as_ref().is_some_and(|t| t.code == BlockerCode::Busy);
                if !(accepted && busy) {
                    self.trouble(id, BlockerCode::PeerUnreachable, source.to_string(), message.clone());
                }
                self.release_failed(id, ask, &message);
            }
        }
    }

    pub(super) fn released(&mut self, id: &WorkloadId) {
        let Some(m) = self.run.moves.get_mut(id) else { return };
        m.on_source = false;
        m.trouble = None;
        match (m.handover, &m.copy) {
            (Handover::StopFirst, None) => self.put(id, At::Waiting { not_before: None }),
            (Handover::StartFirst | Handover::ReleaseOnly, _) | (Handover::StopFirst, Some(_)) => self.moved(id),
        }
    }

    /// A release that did not happen is asked for again. Where the drain is to end, not for ever: then it ends as it stands.
    fn release_failed(&mut self, id: &WorkloadId, ask: &Ask, why: &str) {
        if self.takes() {
            return self.take(id);
        }
        let tries = ask.tries + 1;
        let ending = matches!(self.run.phase, Phase::Stopping | Phase::Unwinding { .. });
        // What its target runs already need not wait for the old copy once the deadline has passed.
        let runs_elsewhere = matches!(self.run.phase, Phase::Stopping)
            && self.run.moves.get(id).is_some_and(|m| m.handover == Handover::StartFirst && m.copy.is_some());
        if ending && (tries >= UNDO_TRIES || runs_elsewhere) {
            return self.abandon_release(id, why);
        }
        self.put(
            id,
            At::Releasing { ask: Ask { command: None, tries, retry_at: later(self.now, retry_delay(tries)) } },
        );
    }

    fn settle_reported(&mut self, id: &WorkloadId, ask: &Ask, outcome: Outcome) {
        let Some(m) = self.run.moves.get_mut(id) else { return };
        let tries = ask.tries + 1;
        let exclusive = m.handover == Handover::StopFirst;
        match outcome {
            Outcome::Done | Outcome::Listed { .. } => {
                let copy = m.copy.take();
                if m.on_source {
                    // The source never let go of it: the record says so while it waits for another target.
                    self.changes.push(Change::Settled { workload: id.clone() });
                }
                if let Some(copy) = copy {
                    self.no_stray(id, &copy);
                }
                self.put(id, At::Waiting { not_before: None });
            }
            Outcome::Busy { message, .. } | Outcome::NotReady { message } => {
                self.trouble(id, BlockerCode::Busy, id.to_string(), message);
            }
            // Whatever must never run twice waits until that peer has let go of it for certain.
            Outcome::Failed { .. } | Outcome::Refused { .. } | Outcome::Expired { .. }
                if exclusive && !(matches!(self.run.phase, Phase::Stopping) && tries >= UNDO_TRIES) =>
            {
                let retry_at = later(self.now, retry_delay(tries));
                self.put(id, At::Settling { ask: Ask { command: None, tries, retry_at } });
            }
            Outcome::Failed { message } | Outcome::Refused { message } => self.leave_stray(id, &message, exclusive),
            Outcome::Expired { .. } => self.leave_stray(id, "its agent does not answer", exclusive),
        }
    }

    fn avoid(&mut self, id: &WorkloadId, target: &PeerId, copy: bool) {
        let Some(m) = self.run.moves.get_mut(id) else { return };
        if !m.tried.contains(target) {
            m.tried.push(target.clone());
        }
        m.copy = copy.then(|| target.clone());
        if !copy && m.on_source {
            self.changes.push(Change::Settled { workload: id.clone() });
        }
    }

    pub(super) fn trouble(&mut self, id: &WorkloadId, code: BlockerCode, subject: String, message: String) {
        let Some(m) = self.run.moves.get_mut(id) else { return };
        m.trouble = Some(Trouble::renew(m.trouble.take(), code, subject, message, self.now));
    }

    pub(super) fn put(&mut self, id: &WorkloadId, at: At) {
        if let Some(m) = self.run.moves.get_mut(id) {
            m.at = at;
        }
    }
}

/// How long everybody is left alone who could not take it: 10 s, 20 s … 5 minutes.
fn round_delay(rounds: u32) -> Duration {
    Duration::from_secs(5 << rounds.min(6)).min(Duration::from_secs(300))
}
