//! One batch, one transaction: load under locks, step in memory, write back, commit.
//!
//! Locks are taken in the order operations, clusters, peers, workloads, each by id and all before the first step, so that
//! workers side by side wait for each other but never in a circle.

use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};

use omnirelay_contract::audit::Actor;
use omnirelay_store::effects::NewEffect;
use omnirelay_store::operations::{Saved, WorkRow};
use omnirelay_store::reads::{mutated_dto, peer_dto};
use omnirelay_store::{PgConnection, PgPool, StoreError, effects, operations, registry};
use omnirelay_workflow::operation::{State, Verb};
use omnirelay_workflow::{OperationId, PeerId, Timestamp, WorkloadId};
use serde_json::{Value, json};

use crate::apply::{Batch, BatchError};
use crate::drains::{self, LoadedDrain};
use crate::events::{About, Log, detail};
use crate::quick;
use crate::records::Records;

/// What is left to do after the commit.
#[derive(Debug, Default)]
pub struct Applied {
    /// Commands to send, leased by this process.
    pub effects: Vec<NewEffect>,
    /// By ingress: JSON of the answers that somebody may wait for.
    pub done: HashMap<String, Vec<String>>,
}

/// An operation with all that its step needs.
#[derive(Debug)]
struct Loaded {
    work: WorkRow,
    verb: Verb,
    peer: PeerId,
    actor: Actor,
    drain: Option<LoadedDrain>,
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
}

/// Applies the inputs of a batch, `alone` or with what waits on the same targets. Operations that have ended meanwhile, and inputs that are late or repeated, change nothing.
pub async fn apply(pool: &PgPool, batch: &Batch, alone: bool) -> Result<Applied, BatchError> {
    let mut tx = pool.begin().await?;
    let asked: Vec<OperationId> = batch.keys().copied().collect();
    let (rows, now) = operations::lock(&mut tx, &asked, alone).await?;
    let Some(now) = now else {
        tx.rollback().await?;
        return Ok(Applied::default());
    };
    let mut loaded = rows.into_iter().map(load).collect::<Result<Vec<Loaded>, StoreError>>()?;
    let mut records = load_records(&mut tx, &mut loaded, batch).await?;
    let decided = catch_unwind(AssertUnwindSafe(|| step_all(&mut loaded, &mut records, now)))
        .map_err(|panic| BatchError::Panic(panic_message(&*panic)))??;
    let applied = write(&mut tx, &mut loaded, &records, decided).await?;
    tx.commit().await?;
    log_ended(&loaded);
    Ok(applied)
}

fn load(work: WorkRow) -> Result<Loaded, StoreError> {
    let verb: Verb = work.row.verb.parse().map_err(|error| StoreError::corrupt("an operation's verb", error))?;
    let target = work.row.target.strip_prefix("peers/").unwrap_or(&work.row.target);
    let peer = PeerId::parse(target).map_err(|error| StoreError::corrupt("an operation's target", error))?;
    let actor =
        serde_json::from_str(&work.actor_json).map_err(|error| StoreError::corrupt("an operation's actor", error))?;
    let drain = match verb {
        Verb::PeersDrain => Some(LoadedDrain::parse(&work)?),
        Verb::PeersCordon | Verb::PeersUncordon => None,
    };
    Ok(Loaded { work, verb, peer, actor, drain })
}

async fn load_records(tx: &mut PgConnection, loaded: &mut [Loaded], batch: &Batch) -> Result<Records, StoreError> {
    let all: BTreeSet<String> = loaded.iter().map(|op| op.peer.to_string()).collect();
    let all: Vec<String> = all.into_iter().collect();
    let draining: Vec<String> = loaded.iter().filter(|op| op.drain.is_some()).map(|op| op.peer.to_string()).collect();
    if draining.is_empty() {
        return Ok(Records::new(registry::lock_peers(tx, &all).await?));
    }
    registry::lock_clusters(tx, &draining).await?;
    let peers = registry::lock_peers(tx, &all).await?;
    let clusters: BTreeSet<String> = peers
        .iter()
        .filter(|peer| draining.iter().any(|id| id == peer.id.as_str()))
        .map(|peer| peer.cluster.to_string())
        .collect();
    let touched: BTreeSet<String> = loaded
        .iter()
        .filter_map(|op| op.drain.as_ref())
        .flat_map(|drain| drain.touched().map(WorkloadId::to_string))
        .collect();
    let touched: Vec<String> = touched.into_iter().collect();
    let workloads = registry::lock_workloads(tx, &draining, &touched).await?;
    let clusters: Vec<String> = clusters.into_iter().collect();
    let candidates = registry::candidates(tx, &clusters).await?;
    let ids: Vec<OperationId> = loaded.iter().filter(|op| op.drain.is_some()).map(|op| op.work.row.id).collect();
    let mut answers: HashMap<OperationId, Vec<effects::Answer>> = HashMap::new();
    for answer in effects::answers(tx, &ids).await? {
        answers.entry(answer.operation).or_default().push(answer);
    }
    for op in loaded.iter_mut() {
        let id = op.work.row.id;
        if let Some(drain) = &mut op.drain {
            if let Some(inputs) = batch.get(&id) {
                drain.reports.clone_from(&inputs.reports);
            }
            drain.answers(answers.remove(&id).unwrap_or_default())?;
        }
    }
    Ok(Records::new(peers).with_registry(workloads, candidates))
}

/// Steps the operations in id order, which is the order of intake.
fn step_all(loaded: &mut [Loaded], records: &mut Records, now: Timestamp) -> Result<Decided, StoreError> {
    let mut decided = Decided::default();
    for op in loaded {
        op.work.wake_at = None;
        op.work.row.revision += 1;
        match &mut op.drain {
            Some(drain) => drains::apply(drain, &mut op.work, &op.actor, &op.peer, records, &mut decided, now)?,
            None => quick::apply(op.verb, &mut op.work, &op.actor, &op.peer, records, &mut decided.log, now)?,
        }
    }
    Ok(decided)
}

async fn write(
    tx: &mut PgConnection,
    loaded: &mut [Loaded],
    records: &Records,
    decided: Decided,
) -> Result<Applied, StoreError> {
    let mut applied = Applied::default();
    let mut unlock = Vec::new();
    let mut ended_drains = Vec::new();
    for op in loaded.iter_mut() {
        let state = state(&op.work)?;
        if !state.is_terminal() {
            continue;
        }
        if op.drain.is_some() {
            ended_drains.push(op.work.row.id);
            // A stuck operation keeps its lock until somebody has looked: `resolve` frees it.
            if state != State::Stuck {
                unlock.push(op.work.row.id);
            }
        }
        op.work.row.resource = match records.peers.get(&op.peer) {
            Some(peer) => {
                let mut row = peer.current()?;
                if row.operation == Some(op.work.row.id) && state != State::Stuck {
                    row.operation = None;
                }
                let text = serde_json::to_string(&peer_dto(&row)?);
                Some(text.map_err(|error| StoreError::corrupt("a peer", error))?)
            }
            None => None,
        };
        if let Some(ingress) = &op.work.ingress {
            let body = serde_json::to_string(&mutated_dto(&op.work.row)?)
                .map_err(|error| StoreError::corrupt("an answer", error))?;
            applied.done.entry(ingress.clone()).or_default().push(body);
        }
    }
    let (peers, workloads, deleted) = records.changed();
    let rows: Vec<&WorkRow> = loaded.iter().map(|op| &op.work).collect();
    let events = &decided.log.events;
    operations::save(tx, &Saved { operations: &rows, peers: &peers, unlock: &unlock, events }).await?;
    if !workloads.is_empty() {
        registry::save_workloads(tx, &workloads).await?;
    }
    if !deleted.is_empty() {
        registry::delete_workloads(tx, &deleted).await?;
    }
    if !decided.void.is_empty() {
        effects::void(tx, &decided.void).await?;
    }
    if !decided.taken.is_empty() {
        effects::delete(tx, &decided.taken).await?;
    }
    if !ended_drains.is_empty() {
        effects::delete_of(tx, &ended_drains).await?;
    }
    if !decided.effects.is_empty() {
        effects::insert(tx, &decided.effects).await?;
    }
    applied.effects = decided.effects;
    Ok(applied)
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

/// Tells of what has ended and is on record. The ingress has logged and counted a mutation when it answered it, which for a
/// quick verb was its end; the end of a long one comes later and is told here.
fn log_ended(loaded: &[Loaded]) {
    for op in loaded {
        let row = &op.work.row;
        let Some(finished) = row.finished_at else { continue };
        let latency = finished.duration_since(row.created_at);
        metrics::histogram!("omnirelay_mutation_seconds", "verb" => op.verb.as_str(), "stage" => "done")
            .record(latency.as_secs_f64());
        if op.verb.is_long() {
            metrics::counter!("omnirelay_mutations_total", "verb" => op.verb.as_str(), "outcome" => row.state.clone())
                .increment(1);
            tracing::info!(
                actor = %row.actor, action = %row.verb, target = %row.target, outcome = %row.state,
                latency_ms = latency.as_millis() as i64, operation = %row.id, "operation ended"
            );
        }
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
