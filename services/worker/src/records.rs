//! The part of the registry that a batch works on: loaded under locks, changed in memory, written back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use omnirelay_store::clusters::{ClusterPeer, ClusterRecord, ServiceCount};
use omnirelay_store::config::NewConfig;
use omnirelay_store::registry::{PeerRecord, WorkloadRecord};
use omnirelay_workflow::budget::{ServiceLoad, Standing};
use omnirelay_workflow::drain::{Change, World};
use omnirelay_workflow::operation::Target;
use omnirelay_workflow::placement::Candidate;
use omnirelay_workflow::resource::{ClusterState, DrainMark, WorkloadState};
use omnirelay_workflow::settings::{Amount, Settings};
use omnirelay_workflow::{ClusterId, OperationId, PeerId, WorkloadId};
use serde_json::Value;

/// The settings under the mesh's lock.
#[derive(Debug, Clone)]
pub struct ConfigState {
    pub revision: u64,
    pub value: Value,
}

/// A cluster's budget under its lock.
#[derive(Debug, Clone, Default)]
pub struct Budget {
    pub limit: Option<u32>,
    pub peers: Vec<Standing>,
    /// Operations that wait for it.
    pub queued: BTreeSet<OperationId>,
}

#[derive(Debug, Default)]
pub struct Records {
    /// More than quick verbs on peers: everything that a batch may need was loaded.
    pub whole: bool,
    pub peers: BTreeMap<PeerId, PeerRecord>,
    /// Those that operations name.
    pub clusters: BTreeMap<ClusterId, ClusterRecord>,
    pub changed_clusters: BTreeSet<ClusterId>,
    /// Peers of which more than holds and mark was decided.
    pub edited_peers: BTreeSet<PeerId>,
    /// Who has which name, of those that are asked for.
    pub names: HashMap<String, String>,
    pub config: Option<ConfigState>,
    /// Earlier revisions that rollbacks want.
    pub revisions: HashMap<u64, Value>,
    pub new_configs: Vec<NewConfig>,
    /// What this batch goes by.
    pub settings: Option<Arc<Settings>>,
    pub mesh_version: u64,
    pub mesh_changed: bool,
    /// All active clusters of the mesh, as they were.
    pub active: Vec<ClusterId>,
    pub cluster_peers: Vec<ClusterPeer>,
    pub budgets: HashMap<ClusterId, Budget>,
    services: HashMap<ClusterId, Arc<BTreeMap<String, ServiceLoad>>>,
    service_budgets: Arc<BTreeMap<String, Amount>>,
    workloads: BTreeMap<WorkloadId, WorkloadRecord>,
    by_owner: HashMap<PeerId, BTreeSet<WorkloadId>>,
    /// How many of these workloads are promised to a peer that does not own them yet.
    inbound: HashMap<PeerId, u32>,
    candidates: HashMap<ClusterId, Arc<Vec<Candidate>>>,
    /// Where a peer stands in its cluster's list.
    places: HashMap<PeerId, (ClusterId, usize)>,
    pub changed_peers: BTreeSet<PeerId>,
    /// Peers that count no longer against their cluster's budget.
    undrained: BTreeSet<PeerId>,
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
            let list = self.candidates.entry(cluster.clone()).or_default();
            self.places.insert(candidate.peer.clone(), (cluster, list.len()));
            Arc::make_mut(list).push(candidate);
        }
        self
    }

    /// How the services with budgets stand, in each cluster.
    pub fn with_services(mut self, budgets: BTreeMap<String, Amount>, counts: Vec<ServiceCount>) -> Self {
        self.service_budgets = Arc::new(budgets);
        for count in counts {
            let services = self.services.entry(count.cluster).or_default();
            let load = ServiceLoad { total: count.total, unavailable: count.unavailable };
            Arc::make_mut(services).insert(count.service, load);
        }
        self
    }

    /// Changes of a cluster are new revisions, one a batch and operation.
    pub fn edit_cluster(&mut self, id: &ClusterId, change: impl FnOnce(&mut ClusterRecord)) {
        let Some(cluster) = self.clusters.get_mut(id) else { return };
        change(cluster);
        cluster.row.revision += 1;
        self.changed_clusters.insert(id.clone());
    }

    pub fn new_cluster(&mut self, record: ClusterRecord) {
        self.changed_clusters.insert(record.id.clone());
        self.clusters.insert(record.id.clone(), record);
    }

    /// Something of a peer that only patches and puts change.
    pub fn edit_peer(&mut self, id: &PeerId, change: impl FnOnce(&mut PeerRecord)) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        change(peer);
        peer.revision += 1;
        self.edited_peers.insert(id.clone());
    }

    pub fn new_peer(&mut self, record: PeerRecord) {
        self.edited_peers.insert(record.id.clone());
        self.peers.insert(record.id.clone(), record);
    }

    pub fn new_settings(&mut self, new: NewConfig, value: Value, settings: Settings) {
        self.config = Some(ConfigState { revision: new.revision, value });
        self.settings = Some(Arc::new(settings));
        self.new_configs.push(new);
    }

    /// Active clusters now, with what this batch has changed.
    pub fn is_active(&self, id: &ClusterId) -> bool {
        match self.clusters.get(id) {
            Some(cluster) => cluster.state == ClusterState::Active,
            None => self.active.contains(id),
        }
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
            candidates: self.candidates.get(&peer.cluster).cloned().unwrap_or_default(),
            services: self.services.get(&peer.cluster).cloned().unwrap_or_default(),
            service_budgets: self.service_budgets.clone(),
            paused: None,
        }
    }

    /// Carries out what a step of `operation` on `peer` decided.
    pub fn change(&mut self, operation: OperationId, peer: &PeerId, change: Change) {
        match change {
            Change::AddHold(hold) => self.with_peer(peer, |peer| peer.holds.push(hold)),
            Change::RemoveHold(id) => self.with_peer(peer, |peer| peer.holds.retain(|hold| hold.id != id)),
            Change::Mark(mark) => {
                if mark == DrainMark::None {
                    self.undrained.insert(peer.clone());
                }
                self.with_peer(peer, |peer| peer.mark = mark);
            }
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
        self.candidates.get(cluster)?.get(*place)
    }

    fn candidate_mut(&mut self, peer: &PeerId) -> Option<&mut Candidate> {
        let (cluster, place) = self.places.get(peer)?;
        // No world outlives the step that it was made for, so nothing is copied here.
        Arc::make_mut(self.candidates.get_mut(cluster)?).get_mut(*place)
    }

    fn with_workload(&mut self, id: &WorkloadId, change: impl FnOnce(&mut WorkloadRecord)) {
        let Some(mut record) = self.workloads.remove(id) else { return };
        self.account(&record, false);
        let out = is_out(&record);
        change(&mut record);
        self.account(&record, true);
        self.shift(&record, out);
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

    /// Keeps the services' counts right while a batch goes on.
    fn shift(&mut self, record: &WorkloadRecord, was_out: bool) {
        let out = is_out(record);
        if was_out == out {
            return;
        }
        let Some((cluster, _)) = self.places.get(&record.workload.peer) else { return };
        let Some(services) = self.services.get_mut(cluster) else { return };
        if let Some(load) = Arc::make_mut(services).get_mut(&record.workload.service) {
            load.unavailable = if out { load.unavailable + 1 } else { load.unavailable.saturating_sub(1) };
        }
    }

    /// Clusters in which a peer is no longer drained, or whose budget may be another now.
    pub fn freed_clusters(&self) -> Vec<String> {
        let peers = self.undrained.iter().filter_map(|id| self.peers.get(id)).map(|peer| peer.cluster.to_string());
        peers.chain(self.changed_clusters.iter().map(ToString::to_string)).collect()
    }

    /// Resources with a new revision.
    pub fn changed_resources(&self) -> Vec<String> {
        let peers = self.changed_peers.union(&self.edited_peers).map(|id| format!("peers/{id}"));
        let clusters = self.changed_clusters.iter().map(|id| format!("clusters/{id}"));
        let config = self.new_configs.first().map(|_| Target::Settings.to_string());
        peers.chain(clusters).chain(config).collect()
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

/// It counts against its service's budget.
fn is_out(record: &WorkloadRecord) -> bool {
    record.workload.state == WorkloadState::Moving || !record.workload.ready
}

/// The peer that a workload is promised to, where that is not its owner.
fn promised(record: &WorkloadRecord) -> Option<PeerId> {
    record.target.clone().filter(|target| *target != record.workload.peer)
}
