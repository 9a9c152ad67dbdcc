//! Bulk drains: the pure steps of `omnirelay_workflow::bulk`. Its children are drains like any other; they tell their parent by
//! waking it, and it reads how they stand.

use std::collections::BTreeMap;

use omnirelay_contract::audit::Actor;
use omnirelay_contract::event::{AuditFacts, EventData};
use omnirelay_store::intake::{self, Intent};
use omnirelay_store::operations::{self, ChildRow, WorkRow};
use omnirelay_store::{PgConnection, StoreError};
use omnirelay_workflow::bulk::{self, Bulk, BulkParams, Child, ChildState, Effect, Input, Phase, Step, World};
use omnirelay_workflow::drain::DrainParams;
use omnirelay_workflow::gate::{GateAt, GatePolicy};
use omnirelay_workflow::operation::{Cancel, Progress, State, Verb};
use omnirelay_workflow::{OperationId, PeerId, Timestamp, drain};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::batch::Decided;
use crate::lifecycle::{AtGate, GateSubject, Passage, paused};
use crate::telling::{Shown, Telling, text};

/// How often a parent looks at its children beside being woken by them.
const LOOK: jiff::SignedDuration = jiff::SignedDuration::from_secs(1);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Params {
    #[serde(flatten)]
    bulk: BulkParams,
    drain: DrainParams,
}

/// A bulk drain as its row has it.
#[derive(Debug)]
pub struct LoadedBulk {
    run: Option<Bulk>,
    params: Params,
    cancel: Option<Cancel>,
    paused: Option<String>,
    pub children: Vec<ChildRow>,
}

impl LoadedBulk {
    pub fn parse(work: &WorkRow) -> Result<Self, StoreError> {
        let run = work.run.as_deref().map(serde_json::from_str).transpose();
        let cancel = work.row.cancel.as_deref().map(serde_json::from_str).transpose();
        Ok(Self {
            run: run.map_err(|error| StoreError::corrupt("a bulk drain's state", error))?,
            params: serde_json::from_str(&work.row.params)
                .map_err(|error| StoreError::corrupt("a bulk drain's parameters", error))?,
            cancel: cancel.map_err(|error| StoreError::corrupt("a bulk drain's cancel", error))?,
            paused: paused(work.row.paused.as_deref())?,
            children: Vec::new(),
        })
    }

    /// The children of which there may be something new. Those that have ended stay as they are, however many there are.
    pub fn live(&self) -> impl Iterator<Item = OperationId> {
        self.run.iter().flat_map(|run| run.children.values()).filter_map(|child| match child {
            Child::Seen { operation, state, .. } if !state.is_terminal() || *state == State::Stuck => Some(*operation),
            Child::Seen { .. } | Child::Launching | Child::Skipped { .. } => None,
        })
    }

    /// The account of one that was cancelled before its first step.
    pub fn never_begun(&self, work: &WorkRow, now: Timestamp) -> Option<Value> {
        let run = Bulk {
            id: work.row.id,
            params: self.params.bulk.clone(),
            started_at: now,
            phase: Phase::Ended { state: State::Cancelled, unchanged: true },
            children: BTreeMap::new(),
            paused: None,
        };
        run.status().result
    }

    /// The frozen list.
    pub fn peers(&self) -> &[PeerId] {
        &self.params.bulk.peers
    }
}

/// What a parent has decided of its children; carried out after the steps of its batch.
#[derive(Debug, Default)]
pub struct ChildOrders {
    pub launch: Vec<Launch>,
    /// Children to cancel, with the cancel's JSON.
    pub cancel: Vec<(Vec<OperationId>, String)>,
}

/// A child to create.
#[derive(Debug)]
pub struct Launch {
    pub parent: usize,
    pub peer: PeerId,
    pub params: String,
}

/// The steps of one bulk drain in this batch. `place` is where it stands in the batch.
pub fn apply(
    loaded: &mut LoadedBulk,
    work: &mut WorkRow,
    actor: &Actor,
    policies: &[GatePolicy],
    place: usize,
    decided: &mut Decided,
    now: Timestamp,
) -> Result<(), StoreError> {
    let old = Shown::of(work)?;
    let world = World { paused: loaded.paused.clone() };
    let mut applying = Applying { loaded, work, actor, place, decided, now, world };
    let run = match applying.loaded.run.take() {
        Some(run) => run,
        None => applying.start(policies),
    };
    let run = applying.inputs(run);
    let run = applying.gate(run, policies)?;
    applying.finish(&run, &old)
}

struct Applying<'a> {
    loaded: &'a mut LoadedBulk,
    work: &'a mut WorkRow,
    actor: &'a Actor,
    place: usize,
    decided: &'a mut Decided,
    now: Timestamp,
    world: World,
}

impl Applying<'_> {
    fn start(&mut self, policies: &[GatePolicy]) -> Bulk {
        let mut params = self.loaded.params.bulk.clone();
        params.gated = policies.iter().any(|policy| policy.gate == GateAt::Rest);
        let step = bulk::start(self.work.row.id, params, &self.world, self.now);
        self.take(step)
    }

    fn inputs(&mut self, mut run: Bulk) -> Bulk {
        let unwinding = matches!(run.phase, Phase::Unwinding);
        let cancel = self.loaded.cancel.clone().filter(|_| !unwinding).map(Input::Cancel);
        let seen: BTreeMap<PeerId, ChildState> = self
            .loaded
            .children
            .iter()
            .filter_map(|child| {
                let peer = PeerId::parse(child.target.strip_prefix("peers/")?).ok()?;
                let state = ChildState::Seen {
                    operation: child.id,
                    state: child.state.parse().ok()?,
                    not_restored: child.not_restored,
                };
                Some((peer, state))
            })
            .collect();
        for input in cancel.into_iter().chain([Input::ChildrenSeen(seen), Input::Timer]) {
            run = self.input(run, input);
        }
        run
    }

    fn input(&mut self, run: Bulk, input: Input) -> Bulk {
        match bulk::step(&run, &self.world, input, self.now) {
            Ok(step) => self.take(step),
            Err(rejected) => {
                tracing::debug!(operation = %run.id, %rejected, "an input came too late");
                run
            }
        }
    }

    fn gate(&mut self, run: Bulk, policies: &[GatePolicy]) -> Result<Bulk, StoreError> {
        // Also while it is paused: a no and the expiry hold. Passed, it waits for its resume.
        if !matches!(run.phase, Phase::AwaitingRest) {
            return Ok(run);
        }
        self.work.run = Some(text("a bulk drain's state", &run)?);
        let (peers, status) = (self.loaded.params.bulk.peers.clone(), run.status());
        let subject = GateSubject {
            revisions: BTreeMap::new(),
            peers: &peers,
            plan: json!({ "children": status.children, "rest": run.not_started().count() }),
        };
        let mut gate = AtGate { work: self.work, actor: self.actor, log: &mut self.decided.log, now: self.now };
        match gate.pass(policies, GateAt::Rest, &subject)? {
            Passage::On => Ok(self.input(run, Input::GatePassed)),
            Passage::Waits => Ok(run),
            Passage::Ended => {
                let closed = crate::batch::state(self.work)?;
                Ok(self.input(run, Input::GateClosed(closed)))
            }
        }
    }

    fn take(&mut self, step: Step) -> Bulk {
        for effect in step.effects {
            match effect {
                Effect::Launch(peers) => {
                    let params = serde_json::to_string(&self.loaded.params.drain).unwrap_or_else(|_| "{}".to_owned());
                    let launches =
                        peers.into_iter().map(|peer| Launch { parent: self.place, peer, params: params.clone() });
                    self.decided.children.launch.extend(launches);
                }
                Effect::CancelChildren(ids) => self.cancel(ids),
            }
        }
        self.work.wake_at = step.wake_at;
        step.next
    }

    fn cancel(&mut self, ids: Vec<OperationId>) {
        let Some(cancel) = &self.loaded.cancel else { return };
        if let Ok(text) = serde_json::to_string(cancel)
            && !ids.is_empty()
        {
            self.decided.children.cancel.push((ids, text));
        }
    }

    fn finish(mut self, run: &Bulk, old: &Shown) -> Result<(), StoreError> {
        let status = run.status();
        if matches!(run.phase, Phase::Unwinding) {
            // Who was being stepped when it was told to stop is told again.
            let live = self.loaded.children.iter().filter(|child| {
                matches!(
                    child.state.parse(),
                    Ok(State::Submitted | State::AwaitingApproval | State::Queued | State::Running)
                )
            });
            let live: Vec<OperationId> = live.map(|child| child.id).collect();
            self.cancel(live);
        }
        let row = &mut self.work.row;
        row.started_at = row.started_at.or(Some(run.started_at));
        row.children = Some(text("a bulk drain's children", &status.children)?);
        self.work.run = Some(text("a bulk drain's state", run)?);
        if !status.state.is_terminal() && status.state != State::AwaitingApproval {
            let look = self.now.checked_add(LOOK).unwrap_or(Timestamp::MAX);
            self.work.wake_at = Some(self.work.wake_at.map_or(look, |at| at.min(look)));
        }
        let status = drain::Status {
            state: status.state,
            phase: status.phase,
            progress: status.progress,
            blockers: status.blockers,
            result: status.result,
            changed: status.changed,
        };
        let mut telling = Telling { work: self.work, actor: self.actor, log: &mut self.decided.log, now: self.now };
        if status.state == State::AwaitingApproval {
            telling.work.row.phase = status.phase.map(str::to_owned);
            telling.work.row.progress = text("an operation's progress", &status.progress)?;
            telling.work.row.blockers = text("an operation's blockers", &status.blockers)?;
            return Ok(());
        }
        if telling.stand(old, &status)? {
            return telling.ended(status, None);
        }
        telling.blockers(old, &status)?;
        telling.progress(old, &status)
    }
}

/// A parent as its children's creation needs it.
#[derive(Debug, Clone, Copy)]
pub struct Parent<'a> {
    pub work: &'a WorkRow,
    pub actor: &'a Actor,
}

/// Creates the children that were decided; whose peer is locked is told as skipped. Returns what became of each, by its parent's
/// place, and the operations that were created.
pub async fn launch(
    tx: &mut PgConnection,
    launches: &[Launch],
    parents: &BTreeMap<usize, Parent<'_>>,
    now: Timestamp,
) -> Result<(BTreeMap<usize, BTreeMap<PeerId, ChildState>>, Vec<OperationId>), StoreError> {
    let mut rows = Vec::with_capacity(launches.len());
    for launch in launches {
        if let Some(parent) = parents.get(&launch.parent) {
            rows.push(Row::new(launch, *parent, now)?);
        }
    }
    rows.sort_by(|a, b| (a.actor, &a.key).cmp(&(b.actor, &b.key)));
    let held: Vec<String> = rows.iter().map(|row| row.target.clone()).collect();
    let taken = intake::locked(tx, &held).await?;
    let free = |row: &&Row<'_>| !taken.iter().any(|(resource, _)| *resource == row.target);
    let intents: Vec<Intent<'_>> = rows.iter().filter(free).map(Row::intent).collect();
    let written = if intents.is_empty() { Vec::new() } else { intake::commit(tx, &intents, &[]).await? };
    let mut outcome: BTreeMap<usize, BTreeMap<PeerId, ChildState>> = BTreeMap::new();
    let mut created = Vec::new();
    for row in &rows {
        let exists = written.iter().any(|one| one.id == row.id && one.created_at.is_some());
        let state = if exists {
            created.push(row.id);
            ChildState::Seen { operation: row.id, state: State::Submitted, not_restored: 0 }
        } else {
            let holder = taken.iter().find(|(resource, _)| *resource == row.target).map(|(_, holder)| *holder);
            let why = match holder {
                Some(operation) => format!("it is in operation {operation}"),
                None => "another operation took it at this moment".to_owned(),
            };
            ChildState::Skipped { why }
        };
        outcome.entry(row.parent).or_default().insert(row.peer.clone(), state);
    }
    Ok((outcome, created))
}

/// Tells a parent what became of its launches, in the same transaction. What it launches instead of those that were skipped is
/// in `decided` again.
pub fn launched(
    work: &mut WorkRow,
    actor: &Actor,
    place: usize,
    seen: BTreeMap<PeerId, ChildState>,
    decided: &mut Decided,
    now: Timestamp,
) -> Result<(), StoreError> {
    let old = Shown::of(work)?;
    let mut loaded = LoadedBulk::parse(work)?;
    let Some(run) = loaded.run.take() else { return Ok(()) };
    let world = World { paused: loaded.paused.clone() };
    let mut applying = Applying { loaded: &mut loaded, work, actor, place, decided, now, world };
    let run = applying.input(run, Input::ChildrenSeen(seen));
    applying.finish(&run, &old)
}

struct Row<'a> {
    id: OperationId,
    parent: usize,
    parent_id: OperationId,
    peer: PeerId,
    actor: &'a str,
    actor_json: &'a str,
    reason: Option<&'a str>,
    change_ticket: Option<&'a str>,
    traceparent: &'a str,
    target: String,
    params: &'a str,
    digest: &'a str,
    key: String,
    locks: [String; 1],
    event_id: Uuid,
    nats_subject: String,
    payload: String,
}

impl<'a> Row<'a> {
    fn new(launch: &'a Launch, parent: Parent<'a>, now: Timestamp) -> Result<Self, StoreError> {
        let id = Uuid::now_v7();
        let row = &parent.work.row;
        let target = format!("peers/{}", launch.peer);
        let text_id = id.to_string();
        let mut detail = Map::new();
        detail.insert("verb".to_owned(), Verb::PeersDrain.as_str().into());
        detail.insert("target".to_owned(), target.as_str().into());
        detail.insert("parent".to_owned(), row.id.to_string().into());
        let data = EventData {
            operation: Some(id),
            operation_seq: Some(1),
            actor: Some(row.actor.clone()),
            state: Some(State::Submitted),
            progress: Some(Progress::default()),
            audit: AuditFacts {
                verb: Verb::PeersDrain.as_str().to_owned(),
                outcome: "accepted".to_owned(),
                actor: Some(parent.actor.clone()),
                reason: row.reason.clone(),
                change_ticket: row.change_ticket.clone(),
                ..AuditFacts::default()
            },
            detail,
            ..EventData::default()
        };
        let mut event =
            omnirelay_contract::event::Event::new(Uuid::now_v7(), "operations", &text_id, "submitted", now, data);
        event.traceparent.clone_from(&parent.work.traceparent);
        Ok(Self {
            id,
            parent: launch.parent,
            parent_id: row.id,
            peer: launch.peer.clone(),
            actor: &row.actor,
            actor_json: &parent.work.actor_json,
            reason: row.reason.as_deref(),
            change_ticket: row.change_ticket.as_deref(),
            traceparent: parent.work.traceparent.as_deref().unwrap_or(""),
            params: &launch.params,
            digest: &row.digest,
            key: format!("{}{}/{}", intake::RESERVED_KEY, row.id, launch.peer),
            locks: [target.clone()],
            target,
            event_id: event.id,
            nats_subject: omnirelay_contract::subject::event("operations", &text_id, "submitted"),
            payload: text("an event", &event)?,
        })
    }

    fn intent(&self) -> Intent<'_> {
        Intent {
            id: self.id,
            verb: Verb::PeersDrain.as_str(),
            target: &self.target,
            actor: self.actor,
            actor_json: self.actor_json,
            reason: self.reason,
            change_ticket: self.change_ticket,
            params: self.params,
            digest: self.digest,
            key: &self.key,
            request_digest: "",
            ingress: None,
            traceparent: self.traceparent,
            parent: Some(self.parent_id),
            gates: None,
            if_match: None,
            locks: &self.locks,
            event: intake::NewEvent { id: self.event_id, nats_subject: &self.nats_subject, payload: &self.payload },
        }
    }
}

/// Carries out the cancels of children.
pub async fn cancel(
    tx: &mut PgConnection,
    cancels: &[(Vec<OperationId>, String)],
) -> Result<Vec<OperationId>, StoreError> {
    let mut told = Vec::new();
    for (ids, cancel) in cancels {
        told.extend(operations::cancel_children(tx, ids, cancel).await?);
    }
    Ok(told)
}
