//! What a batch needs to know, read under locks: the mesh where clusters or settings change, clusters, peers, workloads, each by
//! id and all before the first step.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use omnirelay_contract::audit::Actor;
use omnirelay_store::effects::Answer;
use omnirelay_store::live::LiveSettings;
use omnirelay_store::operations::WorkRow;
use omnirelay_store::{PgConnection, StoreError, clusters, config, effects, operations, registry};
use omnirelay_workflow::budget::{self, Standing};
use omnirelay_workflow::drain::Outcome;
use omnirelay_workflow::gate::GatePolicy;
use omnirelay_workflow::operation::{Target, Verb};
use omnirelay_workflow::settings::Amount;
use omnirelay_workflow::{ClusterId, CommandId, OperationId, PeerId, WorkloadId};
use serde::Deserialize;
use serde_json::Value;

use crate::apply::Batch;
use crate::bulks::LoadedBulk;
use crate::drains::LoadedDrain;
use crate::failovers::LoadedFailover;
use crate::lifecycle;
use crate::records::{Budget, ConfigState, Records};

/// An operation with all that its step needs.
#[derive(Debug)]
pub struct Loaded {
    pub work: WorkRow,
    pub verb: Verb,
    pub target: Target,
    pub actor: Actor,
    pub policies: Vec<GatePolicy>,
    pub workflow: Workflow,
}

/// What is an operation's own.
#[derive(Debug)]
pub enum Workflow {
    /// Ends with its first step.
    Quick,
    Drain(Box<LoadedDrain>),
    Bulk(Box<LoadedBulk>),
    Failover(Box<LoadedFailover>),
}

impl Loaded {
    pub fn parse(work: WorkRow) -> Result<Self, StoreError> {
        let verb: Verb = work.row.verb.parse().map_err(|error| StoreError::corrupt("an operation's verb", error))?;
        let target = crate::batch::target(&work)?;
        let actor = serde_json::from_str(&work.actor_json)
            .map_err(|error| StoreError::corrupt("an operation's actor", error))?;
        let own = match (verb, &target) {
            (Verb::PeersDrain, Target::Many(_)) => LoadedBulk::parse(&work).map(|bulk| Workflow::Bulk(Box::new(bulk))),
            (Verb::PeersDrain, _) => LoadedDrain::parse(&work).map(|drain| Workflow::Drain(Box::new(drain))),
            (Verb::ClustersPromote | Verb::ClustersDemote, _) => {
                LoadedFailover::parse(&work).map(|failover| Workflow::Failover(Box::new(failover)))
            }
            (
                Verb::PeersCordon
                | Verb::PeersUncordon
                | Verb::PeersPatch
                | Verb::PeersPut
                | Verb::ClustersPut
                | Verb::ConfigPatch
                | Verb::ConfigRollback,
                _,
            ) => Ok(Workflow::Quick),
        };
        let workflow = match own {
            // What cannot be read may be why it is stuck. To resolve it is to end it, with what is left as it is.
            Err(error) if work.resolve.is_some() => {
                tracing::warn!(operation = %work.row.id, %error, "a stuck operation is resolved unread");
                Workflow::Quick
            }
            own => own?,
        };
        Ok(Self { policies: lifecycle::policies(&work)?, work, verb, target, actor, workflow })
    }

    /// Who has paused it, or its parent, and why.
    pub fn paused(&self) -> Result<Option<String>, StoreError> {
        match &self.workflow {
            Workflow::Drain(drain) => Ok(drain.paused.clone()),
            Workflow::Quick | Workflow::Bulk(_) | Workflow::Failover(_) => {
                lifecycle::paused(self.work.row.paused.as_deref())
            }
        }
    }

    pub fn has_begun(&self) -> bool {
        self.work.run.is_some()
    }

    /// Clusters beside the target that it is about.
    pub fn named(&self) -> Vec<ClusterId> {
        match &self.workflow {
            Workflow::Failover(failover) => failover.named(),
            // One that is resolved unread.
            Workflow::Quick if matches!(self.verb, Verb::ClustersPromote | Verb::ClustersDemote) => {
                serde_json::from_str::<omnirelay_workflow::promote::Params>(&self.work.row.params)
                    .map(|params| params.named().cloned().collect())
                    .unwrap_or_default()
            }
            Workflow::Quick | Workflow::Drain(_) | Workflow::Bulk(_) => Vec::new(),
        }
    }

    fn draining(&self) -> Option<&PeerId> {
        match &self.workflow {
            Workflow::Drain(_) => self.target.peer(),
            Workflow::Quick | Workflow::Bulk(_) | Workflow::Failover(_) => None,
        }
    }
}

/// What a command came to without a report, as the dispatcher keeps it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
enum StoredOutcome {
    Refused(String),
    /// A heartbeat has shown it.
    Done,
    #[serde(untagged)]
    Expired {
        accepted: bool,
    },
}

/// Loads and locks what these operations are about.
pub async fn records(
    tx: &mut PgConnection,
    settings: &LiveSettings,
    loaded: &mut [Loaded],
    batch: &Batch,
) -> Result<Records, StoreError> {
    let peers: BTreeSet<String> = loaded.iter().filter_map(|op| op.target.peer()).map(ToString::to_string).collect();
    let peers: Vec<String> = peers.into_iter().collect();
    let quick_on_peers = loaded.iter().all(|op| {
        matches!((&op.workflow, &op.target), (Workflow::Quick, Target::Peer(_))) && op.verb != Verb::PeersPut
    });
    if quick_on_peers {
        return Ok(Records::new(registry::lock_peers(tx, &peers).await?));
    }
    let draining: Vec<String> = loaded.iter().filter_map(Loaded::draining).map(ToString::to_string).collect();
    let named: BTreeSet<String> = loaded
        .iter()
        .flat_map(|op| op.target.cluster().cloned().into_iter().chain(op.named()))
        .map(|cluster| cluster.to_string())
        .collect();
    let named: Vec<String> = named.into_iter().collect();
    let edits_settings = loaded.iter().any(|op| op.target == Target::Settings);
    let mesh_version = if named.is_empty() && !edits_settings { 0 } else { clusters::lock_mesh(tx).await? };
    let revision = config::revision(tx).await?;
    let snapshot = settings.at_least(tx, revision).await?;
    registry::lock_clusters(tx, &draining, &named).await?;
    let mut records = Records::new(registry::lock_peers(tx, &peers).await?);
    records.whole = true;
    records.mesh_version = mesh_version;
    if edits_settings {
        records.config = Some(ConfigState { revision: snapshot.revision, value: snapshot.value.clone() });
        records.revisions = revisions(tx, loaded).await?;
    }
    if !named.is_empty() {
        records.clusters =
            clusters::lock(tx, &named).await?.into_iter().map(|record| (record.id.clone(), record)).collect();
        records.active = clusters::active(tx).await?;
        records.cluster_peers = clusters::peers(tx, &named).await?;
    }
    records.names = names(tx, loaded).await?;
    if !draining.is_empty() {
        records = with_registry(tx, records, loaded, &draining, &snapshot.settings.disruption.services).await?;
        records.budgets = budgets(tx, &records, loaded, snapshot.settings.disruption.max_unavailable.as_ref()).await?;
    }
    records.settings = Some(std::sync::Arc::new(snapshot.settings.clone()));
    inputs(tx, loaded, batch).await?;
    relatives(tx, loaded).await?;
    Ok(records)
}

async fn with_registry(
    tx: &mut PgConnection,
    records: Records,
    loaded: &[Loaded],
    draining: &[String],
    budgets: &BTreeMap<String, Amount>,
) -> Result<Records, StoreError> {
    let clusters: BTreeSet<String> = records
        .peers
        .values()
        .filter(|peer| draining.iter().any(|id| id == peer.id.as_str()))
        .map(|peer| peer.cluster.to_string())
        .collect();
    let clusters: Vec<String> = clusters.into_iter().collect();
    let touched: BTreeSet<String> = loaded
        .iter()
        .filter_map(|op| match &op.workflow {
            Workflow::Drain(drain) => Some(drain),
            Workflow::Quick | Workflow::Bulk(_) | Workflow::Failover(_) => None,
        })
        .flat_map(|drain| drain.touched().map(WorkloadId::to_string))
        .collect();
    let touched: Vec<String> = touched.into_iter().collect();
    let workloads = registry::lock_workloads(tx, draining, &touched).await?;
    let candidates = registry::candidates(tx, &clusters).await?;
    let records = records.with_registry(workloads, candidates);
    if budgets.is_empty() {
        return Ok(records);
    }
    let services: Vec<String> = budgets.keys().cloned().collect();
    let counts = clusters::services(tx, &clusters, &services).await?;
    Ok(records.with_services(budgets.clone(), counts))
}

/// The budgets of the clusters in which a drain is to begin. Where there is none, there is nothing to count.
async fn budgets(
    tx: &mut PgConnection,
    records: &Records,
    loaded: &[Loaded],
    default: Option<&Amount>,
) -> Result<HashMap<ClusterId, Budget>, StoreError> {
    let beginning = loaded.iter().filter(|op| !op.has_begun()).filter_map(Loaded::draining);
    let clusters: BTreeSet<String> =
        beginning.filter_map(|peer| records.peers.get(peer)).map(|peer| peer.cluster.to_string()).collect();
    if clusters.is_empty() {
        return Ok(HashMap::new());
    }
    let clusters: Vec<String> = clusters.into_iter().collect();
    let mut own: HashMap<String, Option<Amount>> = HashMap::new();
    for (cluster, limit) in clusters::limits(tx, &clusters).await? {
        let limit = limit.map(|text| text.parse()).transpose();
        own.insert(cluster, limit.map_err(|error| StoreError::corrupt("a cluster's budget", error))?);
    }
    let limited: Vec<String> =
        clusters.into_iter().filter(|id| default.is_some() || own.get(id).is_some_and(Option::is_some)).collect();
    if limited.is_empty() {
        return Ok(HashMap::new());
    }
    let mut budgets: HashMap<ClusterId, Budget> = HashMap::new();
    for peer in clusters::budget_peers(tx, &limited).await? {
        let standing = Standing { peer: peer.peer, unavailable: peer.unavailable, holder: peer.holder };
        budgets.entry(peer.cluster).or_default().peers.push(standing);
    }
    for (cluster, operation) in operations::queued(tx, &limited).await? {
        if let Some(budget) = budgets.get_mut(cluster.as_str()) {
            budget.queued.insert(operation);
        }
    }
    for (cluster, budget) in &mut budgets {
        let own = own.get(cluster.as_str()).and_then(Option::as_ref);
        budget.limit = budget::of_cluster(own, default, budget.peers.len() as u32);
    }
    Ok(budgets)
}

/// Earlier revisions that rollbacks want back.
async fn revisions(tx: &mut PgConnection, loaded: &[Loaded]) -> Result<HashMap<u64, Value>, StoreError> {
    let mut revisions = HashMap::new();
    for op in loaded.iter().filter(|op| op.verb == Verb::ConfigRollback) {
        let params: Value = serde_json::from_str(&op.work.row.params)
            .map_err(|error| StoreError::corrupt("a rollback's parameters", error))?;
        let Some(revision) = params.get("revision").and_then(Value::as_u64) else { continue };
        if let Some(row) = config::get(tx, revision).await? {
            let value = serde_json::from_str(&row.settings).map_err(|e| StoreError::corrupt("the settings", e))?;
            revisions.insert(revision, value);
        }
    }
    Ok(revisions)
}

/// Who has the names that puts want.
async fn names(tx: &mut PgConnection, loaded: &[Loaded]) -> Result<HashMap<String, String>, StoreError> {
    let wanted: Vec<String> = loaded
        .iter()
        .filter(|op| op.verb == Verb::PeersPut)
        .filter_map(|op| {
            let params: Value = serde_json::from_str(&op.work.row.params).ok()?;
            let name = params.get("name").and_then(Value::as_str).map(str::to_owned);
            name.or_else(|| op.target.peer().map(ToString::to_string))
        })
        .collect();
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    Ok(clusters::named(tx, &wanted).await?.into_iter().map(|(id, name)| (name, id)).collect())
}

/// Reports of this batch, and what the dispatcher found out about commands that nobody reported.
async fn inputs(tx: &mut PgConnection, loaded: &mut [Loaded], batch: &Batch) -> Result<(), StoreError> {
    let ids: Vec<OperationId> = loaded.iter().filter(|op| op.has_begun()).map(|op| op.work.row.id).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let mut answers: HashMap<OperationId, Vec<Answer>> = HashMap::new();
    for answer in effects::answers(tx, &ids).await? {
        answers.entry(answer.operation).or_default().push(answer);
    }
    for op in loaded.iter_mut() {
        let id = op.work.row.id;
        let reports = match &mut op.workflow {
            Workflow::Drain(drain) => &mut drain.reports,
            Workflow::Failover(failover) => &mut failover.reports,
            Workflow::Quick | Workflow::Bulk(_) => continue,
        };
        if let Some(inputs) = batch.get(&id) {
            reports.clone_from(&inputs.reports);
        }
        for answer in answers.remove(&id).unwrap_or_default() {
            reports.push(outcome(&answer)?);
        }
    }
    Ok(())
}

fn outcome(answer: &Answer) -> Result<(CommandId, Outcome), StoreError> {
    let id = CommandId::parse(&answer.id).map_err(|error| StoreError::corrupt("a command's id", error))?;
    let outcome =
        serde_json::from_str(&answer.outcome).map_err(|error| StoreError::corrupt("a command's outcome", error))?;
    Ok(match outcome {
        StoredOutcome::Refused(message) => (id, Outcome::Refused { message }),
        StoredOutcome::Done => (id, Outcome::Done),
        StoredOutcome::Expired { accepted } => (id, Outcome::Expired { accepted }),
    })
}

/// How children stand, for their parents; whether parents are paused, for their children.
async fn relatives(tx: &mut PgConnection, loaded: &mut [Loaded]) -> Result<(), StoreError> {
    let live: Vec<OperationId> = loaded
        .iter()
        .filter_map(|op| match &op.workflow {
            Workflow::Bulk(bulk) => Some(bulk),
            Workflow::Quick | Workflow::Drain(_) | Workflow::Failover(_) => None,
        })
        .flat_map(|bulk| bulk.live())
        .collect();
    if !live.is_empty() {
        for child in operations::children(tx, &live).await? {
            let parent = loaded.iter_mut().find(|op| op.work.row.id == child.parent);
            if let Some(Workflow::Bulk(bulk)) = parent.map(|op| &mut op.workflow) {
                bulk.children.push(child);
            }
        }
    }
    let parents: BTreeSet<OperationId> = loaded.iter().filter_map(|op| op.work.row.parent).collect();
    if parents.is_empty() {
        return Ok(());
    }
    let parents: Vec<OperationId> = parents.into_iter().collect();
    let held_up: HashMap<OperationId, (Option<String>, Option<String>)> =
        operations::held_up(tx, &parents).await?.into_iter().map(|(id, pause, cancel)| (id, (pause, cancel))).collect();
    for op in loaded.iter_mut() {
        let Some((pause, cancel)) = op.work.row.parent.and_then(|parent| held_up.get(&parent)) else { continue };
        let Workflow::Drain(drain) = &mut op.workflow else { continue };
        if drain.paused.is_none() {
            drain.paused = lifecycle::paused(pause.as_deref())?;
        }
        // A cancel of the parent was acknowledged: no forward step after it, whoever is stepped first.
        if let Some(cancel) = cancel.as_ref().filter(|_| op.work.row.cancel.is_none()) {
            op.work.row.cancel = Some(cancel.clone());
            drain.cancel_by_parent(cancel)?;
        }
    }
    Ok(())
}
