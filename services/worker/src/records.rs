//! The part of the registry that a batch works on: loaded under locks, changed in memory, written back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use omnirelay_store::registry::{PeerRecord, WorkloadRecord};
use omnirelay_workflow::drain::{Change, World};
use omnirelay_workflow::placement::Candidate;
use omnirelay_workflow::resource::WorkloadState;
use omnirelay_workflow::{ClusterId, OperationId, PeerId, WorkloadId};

#[derive(Debug, Default)]
pub struct Records {
    pub peers: BTreeMap<PeerId, PeerRecord>,
    workloads: BTreeMap<WorkloadId, WorkloadRecord>,
    by_owner: HashMap<PeerId, BTreeSet<WorkloadId>>,
    /// How many of these workloads are promised to a peer that does not own them yet.
    inbound: HashMap<PeerId, u32>,
    clusters: HashMap<ClusterId, Arc<Vec<Candidate>>>,
    /// Where a peer stands in its cluster's list.
    places: HashMap<PeerId, (ClusterId, usize)>,
    pub changed_peers: BTreeSet<PeerId>,
    changed_workloads: BTreeSet<WorkloadId>,
    deleted_workloads: BTreeSet<WorkloadId>,
}

impl Records {
    pub fn new(peers: Vec<PeerRecord>) -> Self {
        Self { peers: peers.into_iter().map(|peer| (peer.id.clone(), peer)).collect(), ..Self::default() }
    }

    pub fn with_registry(mut self, workloads: Vec<WorkloadRecord>, candidates: Vec<(ClusterId, Candidate)>) -> Self {
        for record in workloads {
            let id = record.workload.id.clone();
            self.by_owner.entry(record.workload.peer.clone()).or_default().insert(id.clone());
            if let Some(target) = promised(&record) {
                *self.inbound.entry(target).or_default() += 1;
            }
            self.workloads.insert(id, record);
        }
        for (cluster, candidate) in candidates {
            let list = self.clusters.entry(cluster.clone()).or_default();
            self.places.insert(candidate.peer.clone(), (cluster, list.len()));
            Arc::make_mut(list).push(candidate);
        }
        self
    }

    /// The world as a drain of `peer` may see it; `touched` are the workloads that it has moved.
    pub fn world<'a>(&'a self, peer: &PeerRecord, touched: impl Iterator<Item = &'a WorkloadId>) -> World {
        let owned = self.by_owner.get(&peer.id).into_iter().flatten();
        let workloads = owned
            .chain(touched)
            .filter_map(|id| self.workloads.get(id))
            .map(|record| (record.workload.id.clone(), record.workload.clone()))
            .collect();
        World {
            source_health: self.candidate(&peer.id).map(|c| c.health),
            mark: Some(peer.mark),
            inbound: self.inbound.get(&peer.id).copied().unwrap_or(0),
            workloads,
            candidates: self.clusters.get(&peer.cluster).cloned().unwrap_or_default(),
        }
    }

    /// Carries out what a step of `operation` on `peer` decided.
    pub fn change(&mut self, operation: OperationId, peer: &PeerId, change: Change) {
        match change {
            Change::AddHold(hold) => self.with_peer(peer, |peer| peer.holds.push(hold)),
            Change::RemoveHold(id) => self.with_peer(peer, |peer| peer.holds.retain(|hold| hold.id != id)),
            Change::Mark(mark) => self.with_peer(peer, |peer| peer.mark = mark),
            Change::Moving { workload, target, epoch } => self.with_workload(&workload, |record| {
                record.workload.state = WorkloadState::Moving;
                record.workload.operation = Some(operation);
                record.workload.epoch = epoch;
                record.target = target;
            }),
            Change::Owner { workload, peer, epoch } => {
                self.with_workload(&workload, |record| {
                    record.workload.peer = peer;
                    record.workload.epoch = epoch;
                    record.workload.ready = true;
                });
            }
            Change::Settled { workload } => self.with_workload(&workload, |record| {
                record.workload.state = WorkloadState::Running;
                record.workload.operation = None;
                record.target = None;
            }),
            Change::Gone { workload } => {
                if let Some(record) = self.workloads.remove(&workload) {
                    self.account(&record, false);
                    self.changed_workloads.remove(&workload);
                    self.deleted_workloads.insert(workload);
                }
            }
            Change::Back { record } => {
                let record = WorkloadRecord { workload: record, target: None };
                self.account(&record, true);
                let id = record.workload.id.clone();
                self.deleted_workloads.remove(&id);
                self.changed_workloads.insert(id.clone());
                self.workloads.insert(id, record);
            }
        }
    }

    /// Every decided change of a peer is a new revision, and whether it is held decides whether it takes workloads.
    fn with_peer(&mut self, id: &PeerId, change: impl FnOnce(&mut PeerRecord)) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        change(peer);
        if self.changed_peers.insert(id.clone()) {
            peer.revision += 1;
        }
        let schedulable = peer.holds.is_empty();
        if let Some(candidate) = self.candidate_mut(id) {
            candidate.schedulable = schedulable;
        }
    }

    fn candidate(&self, peer: &PeerId) -> Option<&Candidate> {
        let (cluster, place) = self.places.get(peer)?;
        self.clusters.get(cluster)?.get(*place)
    }

    fn candidate_mut(&mut self, peer: &PeerId) -> Option<&mut Candidate> {
        let (cluster, place) = self.places.get(peer)?;
        // No world outlives the step that it was made for, so nothing is copied here.
        Arc::make_mut(self.clusters.get_mut(cluster)?).get_mut(*place)
    }

    fn with_workload(&mut self, id: &WorkloadId, change: impl FnOnce(&mut WorkloadRecord)) {
        let Some(mut record) = self.workloads.remove(id) else { return };
        self.account(&record, false);
        change(&mut record);
        self.account(&record, true);
        self.workloads.insert(id.clone(), record);
        self.changed_workloads.insert(id.clone());
    }

    /// Keeps owners and loads right while a batch goes on: the next step places by what this one promised.
    fn account(&mut self, record: &WorkloadRecord, there: bool) {
        let owner = record.workload.peer.clone();
        let owned = self.by_owner.entry(owner.clone()).or_default();
        if there {
            owned.insert(record.workload.id.clone());
        } else {
            owned.remove(&record.workload.id);
        }
        let promised = promised(record);
        if let Some(target) = &promised {
            let inbound = self.inbound.entry(target.clone()).or_default();
            *inbound = if there { *inbound + 1 } else { inbound.saturating_sub(1) };
        }
        for peer in std::iter::once(owner).chain(promised) {
            if let Some(candidate) = self.candidate_mut(&peer) {
                candidate.load = if there {
                    candidate.load.saturating_add(record.workload.load)
                } else {
                    candidate.load.saturating_sub(record.workload.load)
                };
            }
        }
    }

    pub fn changed(&self) -> (Vec<&PeerRecord>, Vec<&WorkloadRecord>, Vec<&WorkloadId>) {
        (
            self.changed_peers.iter().filter_map(|id| self.peers.get(id)).collect(),
            self.changed_workloads.iter().filter_map(|id| self.workloads.get(id)).collect(),
            self.deleted_workloads.iter().collect(),
        )
    }

    pub fn workload(&self, id: &WorkloadId) -> Option<&WorkloadRecord> {
        self.workloads.get(id)
    }
}

/// The peer that a workload is promised to, where that is not its owner.
fn promised(record: &WorkloadRecord) -> Option<PeerId> {
    record.target.clone().filter(|target| *target != record.workload.peer)
}
