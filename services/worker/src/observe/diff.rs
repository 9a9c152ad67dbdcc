//! What heartbeats say against what the record says. Pure.
//!
//! | the peer                     | record, running                         | record, moving               | no record   |
//! |------------------------------|-----------------------------------------|------------------------------|-------------|
//! | lists it, is its owner       | the record follows                      | what is observed follows     |             |
//! | lists it, is its target      |                                         | expected, looked at again    |             |
//! | lists it, is neither         | drift                                   | drift, unless two may run it | it appears  |
//! | does not list it, is owner   | it goes                                 | the operation decides        |             |
//!
//! A heartbeat tells of a moment before it was taken: a workload that was released, or acquired, in between would be judged
//! wrongly. What contradicts the record is therefore a [`Suspicion`] at first, and believed when a later heartbeat repeats it
//! while the record still says the same.

use std::collections::BTreeMap;
use std::time::Duration;

use omnirelay_contract::agent::{Heartbeat, ObservedWorkload};
use omnirelay_store::registry::WorkloadRecord;
use omnirelay_workflow::resource::{Handover, Workload, WorkloadState};
use omnirelay_workflow::{OperationId, PeerId, WorkloadId};
use tokio::time::Instant;

#[cfg(test)]
mod tests;

/// How much later than the first the heartbeat must have come that confirms it.
const CONFIRM: Duration = Duration::from_secs(1);

pub type Records = BTreeMap<WorkloadId, WorkloadRecord>;
pub type Suspicions = BTreeMap<WorkloadId, Suspicion>;

/// A heartbeat with what was suspected before, in the same incarnation of the agent.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'a> {
    pub heartbeat: &'a Heartbeat,
    pub received: Instant,
    /// The agent has just begun to speak: nothing was released at its peer before.
    pub fresh: bool,
    pub suspicions: &'a Suspicions,
}

/// Something that contradicts the record, or may do so soon; since when, and what the record said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspicion {
    pub what: Suspect,
    /// Nothing where there was no record.
    record: Option<Snapshot>,
    since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspect {
    /// Its owner does not list it any more.
    Gone,
    /// A peer lists it that should not have it.
    Stray(Why),
    /// Released for good a moment ago, or new.
    Appeared,
    /// It is on its way. What its next owner says of it often comes before the record names that owner, and is not said anew
    /// afterwards: such a peer is looked at until the move is over.
    Moving,
}

/// Why it is drift.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    NotOwner,
    EpochAboveRecord,
}

impl Why {
    pub const fn as_str(self) -> &'static str {
        match self {
            Why::NotOwner => "not-owner",
            Why::EpochAboveRecord => "epoch-above-record",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Snapshot {
    owner: PeerId,
    target: Option<PeerId>,
    epoch: u64,
    operation: Option<OperationId>,
}

/// A peer runs what is not its to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    pub workload: WorkloadId,
    pub peer: PeerId,
    pub owner: PeerId,
    pub epoch: u64,
    pub record_epoch: u64,
    pub why: Why,
}

/// What follows from a look.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Diff {
    pub appeared: Records,
    pub changed: Records,
    pub gone: Vec<WorkloadId>,
    /// Confirmed; whether it has been told before is not known here.
    pub drift: Vec<Drift>,
    /// What each of the peers is suspected of now.
    pub suspicions: BTreeMap<PeerId, Suspicions>,
}

impl Diff {
    /// Every workload whose record would change.
    pub fn ids(&self) -> impl Iterator<Item = &WorkloadId> {
        self.appeared.keys().chain(self.changed.keys()).chain(&self.gone)
    }
}

/// Compares. `records` are those that the peers own and those that they list; `now` is the time of this look.
pub fn diff(sights: &[Sight<'_>], records: &Records, now: Instant) -> Diff {
    let mut diff = Diff::default();
    for sight in sights {
        let peer = &sight.heartbeat.peer;
        let mut look = Look { sight, now, suspicions: Suspicions::new() };
        // A driver that says something twice is believed the first time.
        let mut listed = BTreeMap::new();
        for workload in &sight.heartbeat.workloads {
            listed.entry(&workload.id).or_insert(workload);
        }
        for (&id, &observed) in &listed {
            match records.get(id) {
                None => appear(&mut diff, &mut look, observed),
                Some(record) if record.workload.peer == *peer => {
                    let followed = follow(record, observed);
                    if followed != *record {
                        diff.changed.insert(id.clone(), followed);
                    }
                    if record.workload.state == WorkloadState::Moving {
                        look.confirmed(id, Suspect::Moving, Some(record));
                    }
                }
                Some(record) if is_promised(peer, record) => {
                    look.confirmed(id, Suspect::Moving, Some(record));
                }
                Some(record) => {
                    if let Some(why) = stray(peer, record, observed)
                        && look.confirmed(id, Suspect::Stray(why), Some(record))
                    {
                        diff.drift.push(Drift {
                            workload: id.clone(),
                            peer: peer.clone(),
                            owner: record.workload.peer.clone(),
                            epoch: observed.epoch,
                            record_epoch: record.workload.epoch,
                            why,
                        });
                    }
                }
            }
        }
        for (id, record) in records {
            let owned = record.workload.peer == *peer && record.workload.state == WorkloadState::Running;
            if owned && !listed.contains_key(id) && look.confirmed(id, Suspect::Gone, Some(record)) {
                diff.gone.push(id.clone());
            }
        }
        diff.suspicions.insert(peer.clone(), look.suspicions);
    }
    diff
}

/// One peer's part of a look.
struct Look<'a> {
    sight: &'a Sight<'a>,
    now: Instant,
    suspicions: Suspicions,
}

impl Look<'_> {
    /// Whether an earlier heartbeat said the same of the same record; the suspicion is kept either way.
    fn confirmed(&mut self, id: &WorkloadId, what: Suspect, record: Option<&WorkloadRecord>) -> bool {
        let record = record.map(snapshot);
        let since = self
            .sight
            .suspicions
            .get(id)
            .filter(|before| before.what == what && before.record == record)
            .map(|before| before.since);
        self.suspicions.insert(id.clone(), Suspicion { what, record, since: since.unwrap_or(self.now) });
        since.is_some_and(|since| self.sight.received >= since + CONFIRM)
    }
}

/// A workload that nobody owns in the record. One that its own scheduler places is released for good by a drain: an older
/// heartbeat that still lists it must not bring it back.
fn appear(diff: &mut Diff, look: &mut Look<'_>, observed: &ObservedWorkload) {
    let certain = observed.handover != Handover::ReleaseOnly || look.sight.fresh;
    if !certain && !look.confirmed(&observed.id, Suspect::Appeared, None) {
        return;
    }
    let record = adopted(&look.sight.heartbeat.peer, observed);
    match diff.appeared.get(&observed.id) {
        // Two list it at once: the higher epoch is the later word, and the other is looked at again.
        Some(other) if other.workload.epoch >= observed.epoch => {
            look.confirmed(&observed.id, Suspect::Stray(Why::NotOwner), Some(other));
        }
        Some(_) | None => {
            diff.appeared.insert(observed.id.clone(), record);
        }
    }
}

fn adopted(peer: &PeerId, observed: &ObservedWorkload) -> WorkloadRecord {
    let workload = Workload {
        id: observed.id.clone(),
        service: observed.service.clone(),
        peer: peer.clone(),
        load: observed.load,
        labels: observed.labels.clone(),
        handover: observed.handover,
        restorable: observed.restorable,
        ready: observed.ready,
        remaining: observed.remaining,
        unit: observed.unit.clone(),
        epoch: observed.epoch,
        state: WorkloadState::Running,
        operation: None,
    };
    WorkloadRecord { workload, target: None }
}

/// The record as its owner sees it. During a move only what the operation does not decide: where it can be reached (`unit`) is
/// news of its new owner while the old one still ends its own.
fn follow(record: &WorkloadRecord, observed: &ObservedWorkload) -> WorkloadRecord {
    let mut followed = record.clone();
    let workload = &mut followed.workload;
    workload.ready = observed.ready;
    workload.remaining = observed.remaining;
    workload.unit.clone_from(&observed.unit);
    if workload.state == WorkloadState::Running {
        workload.service.clone_from(&observed.service);
        workload.load = observed.load;
        workload.labels.clone_from(&observed.labels);
        workload.handover = observed.handover;
        workload.restorable = observed.restorable;
        workload.epoch = workload.epoch.max(observed.epoch);
    }
    followed
}

/// Why a peer that is not the owner should not list this; nothing where it may.
fn stray(peer: &PeerId, record: &WorkloadRecord, observed: &ObservedWorkload) -> Option<Why> {
    if is_promised(peer, record) {
        return None;
    }
    let moving = record.workload.state == WorkloadState::Moving;
    if observed.epoch > record.workload.epoch {
        return Some(Why::EpochAboveRecord);
    }
    // While it moves, two may run what need not be exclusive.
    (!moving || record.workload.handover == Handover::StopFirst).then_some(Why::NotOwner)
}

fn is_promised(peer: &PeerId, record: &WorkloadRecord) -> bool {
    record.workload.state == WorkloadState::Moving && record.target.as_ref() == Some(peer)
}

fn snapshot(record: &WorkloadRecord) -> Snapshot {
    Snapshot {
        owner: record.workload.peer.clone(),
        target: record.target.clone(),
        epoch: record.workload.epoch,
        operation: record.workload.operation,
    }
}
