//! One batch, one transaction: load under locks, step in memory, write back, commit.
//!
//! Locks are taken in the order operations, clusters, peers, workloads, each by id and all before the first step, so that
//! workers side by side wait for each other but never in a circle.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use omnirelay_contract::audit::Actor;
use omnirelay_contract::rest::Config;
use omnirelay_runtime::spans::{self, Kind, Told};
use omnirelay_runtime::trace::TraceParent;
use omnirelay_store::effects::NewEffect;
use omnirelay_store::live::LiveSettings;
use omnirelay_store::operations::{Saved, WorkRow};
use omnirelay_store::reads::{cluster_dto, mutated_dto, peer_dto};
use omnirelay_store::{PgConnection, PgPool, StoreError, clusters, config, effects, operations, registry};
use omnirelay_workflow::gate::GateAt;
use omnirelay_workflow::operation::{State, Target};
use omnirelay_workflow::{OperationId, Timestamp};
use serde_json::{Value, json};

use crate::apply::{Batch, BatchError};
use crate::bulks::{self, ChildOrders};
use crate::events::{About, Log, detail};
use crate::lifecycle::{self, AtGate, GateSubject, Passage};
use crate::load::{self, Loaded, Workflow};
use crate::records::Records;
use crate::telling::text;
use crate::{drains, edits, failovers, quick, resolving};

/// What is left to do after the commit.
#[derive(Debug, Default)]
pub struct Applied {
    /// Commands to send, leased by this process.
    pub effects: Vec<NewEffect>,
    /// By ingress: JSON of the answers that somebody may wait for.
    pub done: HashMap<String, Vec<String>>,
    /// Operations to look at next: children, parents, the heads of queues.
    pub wake: Vec<OperationId>,
}

/// What the steps of a batch decided besides the records.
#[derive(Debug, Default)]
pub struct Decided {
    pub log: Log,
    pub effects: Vec<NewEffect>,
    /// Operations whose forward commands are void.
    pub void: Vec<OperationId>,
    /// Commands whose reports have been taken.
    pub taken: Vec<String>,
    pub children: ChildOrders,
    /// Clusters in whose queue somebody has moved up.
    pub freed: Vec<String>,
}

/// Applies the inputs of a batch, `alone` or with what waits on the same targets. Operations that have ended meanwhile, and inputs that are late or repeated, change nothing.
pub async fn apply(pool: &PgPool, settings: &LiveSettings, batch: &Batch, alone: bool) -> Result<Applied, BatchError> {
    let started = Instant::now();
    let mut tx = pool.begin().await?;
    let asked: Vec<OperationId> = batch.keys().copied().collect();
    let (rows, now) = operations::lock(&mut tx, &asked, alone).await?;
    let Some(now) = now else {
        tx.rollback().await?;
        return Ok(Applied::default());
    };
    let mut loaded = rows.into_iter().map(Loaded::parse).collect::<Result<Vec<Loaded>, StoreError>>()?;
    let mut records = load::records(&mut tx, settings, &mut loaded, batch).await?;
    let mut decided = catch_unwind(AssertUnwindSafe(|| step_all(&mut loaded, &mut records, now)))
        .map_err(|panic| BatchError::Panic(panic_message(&*panic)))??;
    let mut wake = children(&mut tx, &mut loaded, &mut decided, now).await?;
    let mut applied = write(&mut tx, &mut loaded, &records, decided).await?;
    tx.commit().await?;
    tell(&loaded, started.elapsed());
    applied.wake.append(&mut wake);
    Ok(applied)
}

pub fn target(work: &WorkRow) -> Result<Target, StoreError> {
    Target::of_operation(work.row.id, &work.row.target)
        .map_err(|error| StoreError::corrupt("an operation's target", error))
}

/// Steps the operations in id order, which is the order of intake. Then those that wait at a gate are looked at again: one that
/// came later may have changed what they are about.
fn step_all(loaded: &mut [Loaded], records: &mut Records, now: Timestamp) -> Result<Decided, StoreError> {
    let mut decided = Decided::default();
    let before: Vec<Seen> = loaded.iter().map(|op| Seen::of(&op.work)).collect();
    for (place, op) in loaded.iter_mut().enumerate() {
        op.work.wake_at = None;
        step(op, place, records, &mut decided, now)?;
    }
    for op in loaded.iter_mut() {
        if !op.has_begun() && state(&op.work)? == State::AwaitingApproval {
            at_start(op, records, &mut decided.log, now)?;
        }
    }
    // To have been looked at is no change: who reads it gets a 304.
    for (op, before) in loaded.iter_mut().zip(before) {
        op.work.row.revision += i64::from(Seen::of(&op.work) != before);
    }
    Ok(decided)
}

/// What a client can see of an operation that a step may change.
#[derive(PartialEq)]
struct Seen(i64, String, String, String, Option<String>, Option<String>);

impl Seen {
    fn of(work: &WorkRow) -> Self {
        let row = &work.row;
        let (state, progress, blockers) = (row.state.clone(), row.progress.clone(), row.blockers.clone());
        Self(row.event_seq, state, progress, blockers, row.children.clone(), row.approval.clone())
    }
}

fn step(
    op: &mut Loaded,
    place: usize,
    records: &mut Records,
    decided: &mut Decided,
    now: Timestamp,
) -> Result<(), StoreError> {
    if op.work.resolve.is_some() {
        return resolving::apply(op, records, decided, now);
    }
    if !op.has_begun() && begin(op, records, decided, now)? != Passage::On {
        return Ok(());
    }
    let (work, actor) = (&mut op.work, &op.actor);
    let target = &op.target;
    match (&mut op.workflow, target) {
        (Workflow::Drain(drain), Target::Peer(peer)) => drains::apply(drain, work, actor, peer, records, decided, now),
        (Workflow::Bulk(bulk), _) => bulks::apply(bulk, work, actor, &op.policies, place, decided, now),
        (Workflow::Failover(failover), _) => {
            failovers::apply(failover, work, actor, &op.policies, records, decided, now)
        }
        (Workflow::Quick, Target::Peer(peer)) if quick::is_one(op.verb) => {
            quick::apply(op.verb, work, actor, peer, records, &mut decided.log, now)
        }
        (Workflow::Quick | Workflow::Drain(_), target) => {
            edits::apply(op.verb, work, actor, target, records, &mut decided.log, now)
        }
    }
}

/// What comes before a workflow's own first step.
fn begin(op: &mut Loaded, records: &mut Records, decided: &mut Decided, now: Timestamp) -> Result<Passage, StoreError> {
    if op.work.row.cancel.is_some() {
        let result = match &op.workflow {
            Workflow::Bulk(bulk) => bulk.never_begun(&op.work, now),
            Workflow::Quick | Workflow::Drain(_) | Workflow::Failover(_) => None,
        };
        lifecycle::cancelled_first(&mut op.work, &op.actor, result, &mut decided.log, now)?;
        return Ok(Passage::Ended);
    }
    let passage = at_start(op, records, &mut decided.log, now)?;
    if passage != Passage::On {
        return Ok(passage);
    }
    if let Some(why) = op.paused()? {
        // What is paused begins when it is resumed.
        let mut gate = AtGate { work: &mut op.work, actor: &op.actor, log: &mut decided.log, now };
        decided.freed.extend(gate.waits_paused(why)?);
        return Ok(Passage::Waits);
    }
    let (Workflow::Drain(_), Target::Peer(peer)) = (&op.workflow, &op.target) else { return Ok(Passage::On) };
    let waited = state(&op.work)? == State::Queued;
    let mut gate = AtGate { work: &mut op.work, actor: &op.actor, log: &mut decided.log, now };
    let passage = gate.queue(peer, records)?;
    if waited && passage == Passage::On {
        // There may be room for the next one too, and only the first few are looked at.
        decided.freed.extend(op.work.row.waits_for.clone());
    }
    Ok(passage)
}

/// Whether it may still be done at all, then whether enough people have said yes to it. In this order: nobody is asked to
/// approve what would be refused. A no that was acknowledged stands before both.
fn at_start(op: &mut Loaded, records: &Records, log: &mut Log, now: Timestamp) -> Result<Passage, StoreError> {
    // Once it is in the queue its target is its own, whatever agents or cordons do to the revision.
    if state(&op.work)? != State::Queued
        && !lifecycle::was_rejected(&op.work)
        && let Err(rejected) = lifecycle::still_matches(&op.work, revision(&op.target, records))?
    {
        lifecycle::refuse(&mut op.work, &op.actor, &rejected, log, now)?;
        return Ok(Passage::Ended);
    }
    start_gate(op, records, log, now)
}

/// The target's revision, where it is there.
fn revision(target: &Target, records: &Records) -> Option<u64> {
    match target {
        Target::Peer(id) => records.peers.get(id).map(|peer| peer.revision.unsigned_abs()),
        Target::Cluster(id) => records.clusters.get(id).map(|cluster| cluster.row.revision.unsigned_abs()),
        Target::Settings => records.config.as_ref().map(|config| config.revision),
        Target::Many(_) => None,
    }
}

fn start_gate(op: &mut Loaded, records: &Records, log: &mut Log, now: Timestamp) -> Result<Passage, StoreError> {
    let peers = match &op.workflow {
        Workflow::Bulk(bulk) => bulk.peers(),
        Workflow::Quick | Workflow::Drain(_) | Workflow::Failover(_) => &[],
    };
    let subject = GateSubject {
        revisions: lifecycle::revisions(&op.target, &op.named(), records),
        peers,
        plan: json!({ "peers": peers.len() }),
    };
    let mut gate = AtGate { work: &mut op.work, actor: &op.actor, log, now };
    gate.pass(&op.policies, GateAt::Start, &subject)
}

/// Creates and cancels children; returns whom to look at next.
async fn children(
    tx: &mut PgConnection,
    loaded: &mut [Loaded],
    decided: &mut Decided,
    now: Timestamp,
) -> Result<Vec<OperationId>, StoreError> {
    let mut wake = Vec::new();
    loop {
        let launches = std::mem::take(&mut decided.children.launch);
        if launches.is_empty() {
            break;
        }
        let parents: BTreeMap<usize, bulks::Parent<'_>> = loaded
            .iter()
            .enumerate()
            .map(|(place, op)| (place, bulks::Parent { work: &op.work, actor: &op.actor }))
            .collect();
        let (outcome, created) = bulks::launch(tx, &launches, &parents, now).await?;
        wake.extend(created);
        for (place, seen) in outcome {
            if let Some(op) = loaded.get_mut(place) {
                bulks::launched(&mut op.work, &op.actor, place, seen, decided, now)?;
            }
        }
    }
    for told in bulks::cancel(tx, &decided.children.cancel).await? {
        // One of this very batch is written after this, and must not lose its wake-up by that.
        if let Some(op) = loaded.iter_mut().find(|op| op.work.row.id == told && op.work.row.finished_at.is_none()) {
            op.work.wake_at = Some(now);
            // Commands that it gave in this batch are in no row yet.
            decided.effects.retain(|effect| effect.undo || effect.operation != told);
        }
        wake.push(told);
    }
    // A parent whose child has ended has something to see.
    let ended = loaded.iter().filter(|op| op.work.row.finished_at.is_some());
    wake.extend(ended.filter_map(|op| op.work.row.parent));
    Ok(wake)
}

async fn write(
    tx: &mut PgConnection,
    loaded: &mut [Loaded],
    records: &Records,
    decided: Decided,
) -> Result<Applied, StoreError> {
    let mut applied = Applied::default();
    let mut unlock = Vec::new();
    let mut ended = Vec::new();
    let mut freed: Vec<String> = decided.freed;
    for op in loaded.iter_mut() {
        let state = state(&op.work)?;
        if !state.is_terminal() {
            continue;
        }
        if op.verb.is_long() {
            ended.push(op.work.row.id);
            // A stuck operation keeps its lock and its slot until somebody has looked: `resolve` frees them.
            if state != State::Stuck {
                unlock.push(op.work.row.id);
                op.work.holds_slot = false;
                // Also of one that ends in the queue: who waits behind it moves up.
                freed.extend(op.work.row.waits_for.clone());
            }
        }
        op.work.row.resource = resource(op, records, state)?;
        if let Some(ingress) = &op.work.ingress {
            let body = text("an answer", &mutated_dto(&op.work.row)?)?;
            applied.done.entry(ingress.clone()).or_default().push(body);
        }
    }
    freed.extend(records.freed_clusters());
    let (peers, workloads, deleted) = records.changed();
    let rows: Vec<&WorkRow> = loaded.iter().map(|op| &op.work).collect();
    let events = &decided.log.events;
    if !records.edited_peers.is_empty() {
        let edited: Vec<_> = records.edited_peers.iter().filter_map(|id| records.peers.get(id)).collect();
        clusters::save_peers(tx, &edited).await?;
    }
    operations::save(tx, &Saved { operations: &rows, peers: &peers, unlock: &unlock, events }).await?;
    if !workloads.is_empty() {
        registry::save_workloads(tx, &workloads).await?;
    }
    if !deleted.is_empty() {
        registry::delete_workloads(tx, &deleted).await?;
    }
    if !records.changed_clusters.is_empty() {
        let changed: Vec<_> = records.changed_clusters.iter().filter_map(|id| records.clusters.get(id)).collect();
        clusters::save(tx, &changed).await?;
    }
    let changed = records.changed_resources();
    if !changed.is_empty() && (records.whole || loaded.iter().any(|op| op.work.gates_beside)) {
        let mine: Vec<OperationId> = loaded.iter().map(|op| op.work.row.id).collect();
        operations::wake_gates(tx, &changed, &mine).await?;
    }
    if records.mesh_changed {
        clusters::save_mesh(tx, records.mesh_version).await?;
    }
    for new in &records.new_configs {
        config::insert(tx, new).await?;
    }
    if !decided.void.is_empty() {
        effects::void(tx, &decided.void).await?;
    }
    if !decided.taken.is_empty() {
        effects::delete(tx, &decided.taken).await?;
    }
    if !ended.is_empty() {
        effects::delete_of(tx, &ended).await?;
    }
    if !decided.effects.is_empty() {
        effects::insert(tx, &decided.effects).await?;
    }
    if !records.new_configs.is_empty() {
        freed.extend(operations::queues(tx).await?);
    }
    if !freed.is_empty() {
        applied.wake.extend(operations::wake_queued(tx, &freed).await?);
    }
    applied.effects = decided.effects;
    Ok(applied)
}

/// The target as it stands at the end, as JSON.
fn resource(op: &Loaded, records: &Records, state: State) -> Result<Option<String>, StoreError> {
    let free = |holder: Option<OperationId>| holder.filter(|id| *id != op.work.row.id || state == State::Stuck);
    Ok(match &op.target {
        Target::Peer(id) => match records.peers.get(id) {
            Some(peer) => {
                let mut row = peer.current()?;
                row.operation = free(row.operation);
                Some(text("a peer", &peer_dto(&row)?)?)
            }
            None => None,
        },
        Target::Cluster(id) => match records.clusters.get(id) {
            Some(cluster) => {
                let mut row = cluster.row.clone();
                row.operation = free(row.operation);
                Some(text("a cluster", &cluster_dto(&row)?)?)
            }
            None => None,
        },
        Target::Settings => match &records.config {
            Some(config) => {
                let config = Config { settings: config.value.clone(), revision: config.revision };
                Some(text("the settings", &config)?)
            }
            None => None,
        },
        Target::Many(_) => None,
    })
}

/// Ends an operation: its state, its time, its last event.
pub fn end(
    work: &mut WorkRow,
    actor: &Actor,
    state: State,
    told: Option<Value>,
    revisions: Option<(i64, i64)>,
    log: &mut Log,
    now: Timestamp,
) -> Result<(), StoreError> {
    let id = work.row.id.to_string();
    work.row.state = state.as_str().to_owned();
    work.row.phase = None;
    work.row.finished_at = Some(now);
    work.row.blockers = "[]".to_owned();
    work.wake_at = None;
    let mut facts = detail(told.unwrap_or_else(|| json!({})));
    facts.insert("target".to_owned(), Value::String(work.row.target.clone()));
    facts.insert("changed".to_owned(), Value::Bool(work.row.changed));
    let about = About { resource: "operations", id: &id, what: state.as_str(), outcome: state.as_str() };
    log.add(work, actor, about, revisions, facts, now)
}

pub fn state(work: &WorkRow) -> Result<State, StoreError> {
    work.row.state.parse().map_err(|error| StoreError::corrupt("an operation's state", error))
}

/// Tells metrics, log and traces what is on record now.
///
/// Each end is counted here and nowhere else: the ingress counts requests. It has logged the end of a quick verb with its answer,
/// unless nobody waited for it there or a gate kept it; those and the long ones are logged here, so each mutation's outcome is
/// in the log once.
fn tell(loaded: &[Loaded], took: Duration) {
    for op in loaded {
        let row = &op.work.row;
        if let Some(own) = op.work.traceparent.as_deref().and_then(|parent| Some((parent, spans::beneath(parent)?))) {
            tell_step(op, own, took);
        }
        let Some(finished) = row.finished_at else { continue };
        let latency = finished.duration_since(row.created_at);
        metrics::histogram!("omnirelay_mutation_seconds", "verb" => op.verb.as_str(), "stage" => "done")
            .record(latency.as_secs_f64());
        metrics::counter!("omnirelay_mutations_total", "verb" => op.verb.as_str(), "outcome" => row.state.clone())
            .increment(1);
        if op.verb.is_long() || op.work.ingress.is_none() || !op.policies.is_empty() {
            tracing::info!(
                actor = %row.actor, action = %row.verb, target = %row.target, outcome = %row.state,
                latency_ms = latency.as_millis() as i64, operation = %row.id, "operation ended"
            );
        }
    }
}

/// A step's span. Steps of one batch take the time of all of them: they are one transaction.
fn tell_step(op: &Loaded, (parent, own): (&str, TraceParent), took: Duration) {
    let row = &op.work.row;
    spans::ended(own, parent.parse().ok(), took, || Told {
        name: format!("step {}", op.verb).into(),
        kind: Kind::Consumer,
        attributes: vec![
            ("omnirelay.operation", row.id.to_string()),
            ("omnirelay.target", row.target.clone()),
            ("omnirelay.state", row.state.clone()),
            ("omnirelay.phase", row.phase.clone().unwrap_or_default()),
        ],
        failed: (row.state == State::Stuck.as_str()).then_some("stuck".into()),
    });
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
