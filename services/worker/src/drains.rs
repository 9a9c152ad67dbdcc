//! Drains: the pure steps of `omnirelay_workflow::drain`, with the inputs of a batch, on the records.

use omnirelay_contract::agent::{Command as AgentCommand, CommandVerb, CommandWorkload};
use omnirelay_contract::audit::Actor;
use omnirelay_store::StoreError;
use omnirelay_store::effects::{Answer, NewEffect};
use omnirelay_store::operations::WorkRow;
use omnirelay_workflow::drain::{
    self, Change, Command, CommandKind, Drain, DrainParams, Event, Input, Outcome, Phase, Request, Status, Step,
};
use omnirelay_workflow::operation::{Blocker, Cancel, Progress, State};
use omnirelay_workflow::resource::Handover;
use omnirelay_workflow::{CommandId, PeerId, Timestamp, WorkloadId};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::batch::{Decided, end};
use crate::events::{About, detail};
use crate::records::Records;

/// Progress is told at most ten times a second.
const PROGRESS_EVERY: jiff::SignedDuration = jiff::SignedDuration::from_millis(100);

/// A drain as its row has it, with the inputs that wait for it.
#[derive(Debug)]
pub struct LoadedDrain {
    /// None before its first step.
    run: Option<Drain>,
    params: DrainParams,
    cancel: Option<Cancel>,
    pub reports: Vec<(CommandId, Outcome)>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
enum StoredOutcome {
    Refused(String),
    #[serde(untagged)]
    Expired {
        accepted: bool,
    },
}

impl LoadedDrain {
    pub fn parse(work: &WorkRow) -> Result<Self, StoreError> {
        let run = work.run.as_deref().map(serde_json::from_str).transpose();
        let cancel = work.row.cancel.as_deref().map(serde_json::from_str).transpose();
        Ok(Self {
            run: run.map_err(|error| StoreError::corrupt("a drain's state", error))?,
            params: serde_json::from_str(&work.row.params)
                .map_err(|error| StoreError::corrupt("a drain's parameters", error))?,
            cancel: cancel.map_err(|error| StoreError::corrupt("a drain's cancel", error))?,
            reports: Vec::new(),
        })
    }

    /// The workloads that it has touched, wherever they are now.
    pub fn touched(&self) -> impl Iterator<Item = &WorkloadId> {
        self.run.iter().flat_map(|run| run.moves.keys())
    }

    /// Adds what the dispatcher found out about commands that nobody reported.
    pub fn answers(&mut self, answers: Vec<Answer>) -> Result<(), StoreError> {
        for answer in answers {
            let id = CommandId::parse(&answer.id).map_err(|error| StoreError::corrupt("a command's id", error))?;
            let outcome = serde_json::from_str(&answer.outcome)
                .map_err(|error| StoreError::corrupt("a command's outcome", error))?;
            self.reports.push(match outcome {
                StoredOutcome::Refused(message) => (id, Outcome::Refused { message }),
                StoredOutcome::Expired { accepted } => (id, Outcome::Expired { accepted }),
            });
        }
        Ok(())
    }
}

/// The steps of one drain in this batch: a cancel first, then the reports in their order, then the time.
pub fn apply(
    loaded: &mut LoadedDrain,
    work: &mut WorkRow,
    actor: &Actor,
    peer: &PeerId,
    records: &mut Records,
    decided: &mut Decided,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Some(before) = records.peers.get(peer).map(|record| record.revision) else {
        return Err(StoreError::corrupt("a drain's target", std::io::Error::other("there is no such peer")));
    };
    let mut applying = Applying { work, actor, peer, records, decided, now, commands: Vec::new(), told: Vec::new() };
    let run = match loaded.run.take() {
        Some(run) => run,
        None if loaded.cancel.is_some() => return applying.cancelled_before_start(),
        None => applying.start(&loaded.params),
    };
    let run = applying.inputs(run, loaded.cancel.as_ref(), std::mem::take(&mut loaded.reports));
    applying.finish(&run, before)
}

struct Applying<'a> {
    work: &'a mut WorkRow,
    actor: &'a Actor,
    peer: &'a PeerId,
    records: &'a mut Records,
    decided: &'a mut Decided,
    now: Timestamp,
    commands: Vec<Command>,
    told: Vec<Event>,
}

impl Applying<'_> {
    fn cancelled_before_start(self) -> Result<(), StoreError> {
        self.work.row.changed = false;
        let result = json!({ "moved": [], "restored": [], "notRestored": [] });
        self.work.row.result = Some(result.to_string());
        let log = &mut self.decided.log;
        end(self.work, self.actor, State::Cancelled, Some(json!({ "result": result })), None, log, self.now)
    }

    fn start(&mut self, params: &DrainParams) -> Drain {
        let request = Request {
            id: self.work.row.id,
            peer: self.peer.clone(),
            params: params.clone(),
            hold: self.work.row.id,
            actor: self.actor.subject.clone(),
            reason: self.work.row.reason.clone(),
            change_ticket: self.work.row.change_ticket.clone(),
        };
        let world = self.world(None);
        let step = drain::start(request, &world, self.now);
        self.take(step)
    }

    fn inputs(&mut self, mut run: Drain, cancel: Option<&Cancel>, reports: Vec<(CommandId, Outcome)>) -> Drain {
        let unwinding = matches!(run.phase, Phase::Unwinding { .. });
        let cancel = cancel.filter(|_| !unwinding).cloned().map(Input::Cancel);
        let mut inputs: Vec<Input> = cancel.into_iter().collect();
        for (command, outcome) in reports {
            // An interim word leaves the command out; everything else ends it.
            if !matches!(outcome, Outcome::Busy { .. } | Outcome::NotReady { .. }) {
                self.decided.taken.push(command.to_string());
            }
            inputs.push(Input::Report { command, outcome });
        }
        inputs.push(Input::Timer);
        for input in inputs {
            let world = self.world(Some(&run));
            match drain::step(&run, &world, input, self.now) {
                Ok(step) => run = self.take(step),
                // Only a cancel is ever refused, and only by a drain that has ended in this very batch.
                Err(rejected) => tracing::debug!(operation = %run.id, %rejected, "an input came too late"),
            }
        }
        run
    }

    fn world(&self, run: Option<&Drain>) -> drain::World {
        match self.records.peers.get(self.peer) {
            Some(record) => self.records.world(record, run.into_iter().flat_map(|run| run.moves.keys())),
            None => drain::World::default(),
        }
    }

    /// Carries out a step on the records; commands and events wait for the end of the batch.
    fn take(&mut self, step: Step) -> Drain {
        if step.void {
            self.decided.void.push(self.work.row.id);
            self.commands.retain(|command| command.undo);
        }
        for change in step.changes {
            if let Change::Moving { workload, .. } = &change
                && self.records.workload(workload).is_none()
            {
                continue;
            }
            self.records.change(self.work.row.id, self.peer, change);
        }
        self.commands.extend(step.commands);
        self.told.extend(step.events);
        self.work.wake_at = step.wake_at;
        step.next
    }

    /// Writes the run into its row, and tells what has changed since the row was loaded.
    fn finish(mut self, run: &Drain, before: i64) -> Result<(), StoreError> {
        self.give_commands(run)?;
        let status = run.status();
        let old = Shown::of(self.work)?;
        let row = &mut self.work.row;
        row.started_at = row.started_at.or(Some(run.started_at));
        row.deadline_at = run.deadline_at;
        row.changed = status.changed;
        row.phase = status.phase.map(str::to_owned);
        row.blockers = text("a drain's blockers", &status.blockers)?;
        self.work.run = Some(text("a drain's state", run)?);
        let after = self.records.peers.get(self.peer).map_or(before, |record| record.revision);
        let revisions = Some((before, after));
        if status.state.is_terminal() {
            self.work.row.progress = text("a drain's progress", &status.progress)?;
            self.tell_registry(revisions)?;
            return self.end(status, revisions);
        }
        self.tell_state(&old, &status)?;
        self.tell_registry(revisions)?;
        self.tell_blockers(&old, &status)?;
        self.tell_progress(&old, &status)
    }

    fn tell_state(&mut self, old: &Shown, status: &Status) -> Result<(), StoreError> {
        self.work.row.state = status.state.as_str().to_owned();
        if old.state == status.state {
            return Ok(());
        }
        let what = match status.state {
            State::Unwinding => "unwinding",
            _ => "started",
        };
        self.work.row.progress = text("a drain's progress", &status.progress)?;
        self.tell_operation(what, Map::new())
    }

    fn tell_blockers(&mut self, old: &Shown, status: &Status) -> Result<(), StoreError> {
        let key = |blockers: &[Blocker]| -> Vec<(String, String, String)> {
            blockers.iter().map(|b| (b.code.to_string(), b.subject.clone(), b.message.clone())).collect()
        };
        if key(&old.blockers) == key(&status.blockers) {
            return Ok(());
        }
        if status.blockers.is_empty() {
            return self.tell_operation("unblocked", Map::new());
        }
        self.tell_operation("blocked", detail(json!({ "blockers": status.blockers })))
    }

    /// What was told last is what the row shows. A change within the tenth of a second stays untold until it is over.
    fn tell_progress(&mut self, old: &Shown, status: &Status) -> Result<(), StoreError> {
        if old.progress == status.progress && old.phase.as_deref() == status.phase {
            return Ok(());
        }
        let next = self.work.progress_at.and_then(|at| at.checked_add(PROGRESS_EVERY).ok());
        if old.phase.as_deref() == status.phase
            && let Some(next) = next.filter(|next| *next > self.now)
        {
            self.work.wake_at = Some(self.work.wake_at.map_or(next, |at| at.min(next)));
            return Ok(());
        }
        self.work.progress_at = Some(self.now);
        self.work.row.progress = text("a drain's progress", &status.progress)?;
        self.tell_operation("progressed", Map::new())
    }

    fn tell_operation(&mut self, what: &str, facts: Map<String, Value>) -> Result<(), StoreError> {
        let id = self.work.row.id.to_string();
        let mut facts = facts;
        facts.insert("target".to_owned(), Value::String(self.work.row.target.clone()));
        let about = About { resource: "operations", id: &id, what, outcome: what };
        self.decided.log.add(self.work, self.actor, about, None, facts, self.now)
    }

    fn tell_registry(&mut self, revisions: Option<(i64, i64)>) -> Result<(), StoreError> {
        for event in std::mem::take(&mut self.told) {
            let peer = self.peer.as_str().to_owned();
            let (resource, id, what, facts) = match event {
                Event::PeerDraining => ("peers", peer.clone(), "draining", json!({ "peer": peer })),
                Event::PeerDrained => ("peers", peer.clone(), "drained", json!({ "peer": peer })),
                Event::PeerChanged => ("peers", peer.clone(), "changed", json!({ "peer": peer })),
                Event::Moving { workload, from, to } => {
                    let facts = json!({ "workload": workload, "from": from, "to": to });
                    ("workloads", workload.to_string(), "moving", facts)
                }
                Event::Moved { workload, from, to } => {
                    let facts = json!({ "workload": workload, "from": from, "to": to });
                    ("workloads", workload.to_string(), "moved", facts)
                }
                Event::Restored { workload, from, to } => {
                    let facts = json!({ "workload": workload, "from": from, "to": to });
                    ("workloads", workload.to_string(), "restored", facts)
                }
            };
            let mut facts = detail(facts);
            if let Some(record) = facts
                .get("workload")
                .and_then(Value::as_str)
                .and_then(|id| WorkloadId::parse(id).ok())
                .and_then(|id| self.records.workload(&id))
            {
                facts.insert("service".to_owned(), Value::String(record.workload.service.clone()));
                facts.insert("unit".to_owned(), json!(record.workload.unit));
            }
            let about = About { resource, id: &id, what, outcome: what };
            let revisions = revisions.filter(|_| resource == "peers");
            self.decided.log.add(self.work, self.actor, about, revisions, facts, self.now)?;
        }
        Ok(())
    }

    fn end(self, status: Status, revisions: Option<(i64, i64)>) -> Result<(), StoreError> {
        let result = status.result.unwrap_or(Value::Null);
        self.work.row.result = Some(result.to_string());
        let told = json!({ "result": result });
        end(self.work, self.actor, status.state, Some(told), revisions, &mut self.decided.log, self.now)
    }

    fn give_commands(&mut self, run: &Drain) -> Result<(), StoreError> {
        for command in std::mem::take(&mut self.commands) {
            let holds = self.records.peers.get(self.peer).map(|p| p.holds.iter().map(|hold| hold.id).collect());
            let undo = command.undo;
            let command = AgentCommand {
                verb: match command.kind {
                    CommandKind::Acquire => CommandVerb::Acquire,
                    CommandKind::Release => CommandVerb::Release,
                    CommandKind::List => CommandVerb::List,
                    CommandKind::Cordon => CommandVerb::Cordon,
                },
                workload: command.workload.map(|(id, epoch)| {
                    let known = run.moves.get(&id);
                    CommandWorkload {
                        service: known.map(|m| m.service.clone()).unwrap_or_default(),
                        unit: known.and_then(|m| m.unit.clone()),
                        handover: known.map_or(Handover::StartFirst, |m| m.handover),
                        id,
                        epoch,
                    }
                }),
                holds: match command.kind {
                    CommandKind::Cordon => holds.unwrap_or_default(),
                    CommandKind::Acquire | CommandKind::Release | CommandKind::List => Vec::new(),
                },
                operation: Some(run.id),
                id: command.id,
                peer: command.peer,
                expires_at: command.expires_at,
            };
            self.decided.effects.push(NewEffect {
                id: command.id.to_string(),
                operation: run.id,
                peer: command.peer.to_string(),
                verb: command.verb.as_str().to_owned(),
                payload: text("a command", &command)?,
                undo,
                expires_at: command.expires_at,
            });
        }
        Ok(())
    }
}

/// What the row showed before.
struct Shown {
    state: State,
    phase: Option<String>,
    progress: Progress,
    blockers: Vec<Blocker>,
}

impl Shown {
    fn of(work: &WorkRow) -> Result<Self, StoreError> {
        Ok(Self {
            state: crate::batch::state(work)?,
            phase: work.row.phase.clone(),
            progress: serde_json::from_str(&work.row.progress)
                .map_err(|error| StoreError::corrupt("an operation's progress", error))?,
            blockers: serde_json::from_str(&work.row.blockers)
                .map_err(|error| StoreError::corrupt("an operation's blockers", error))?,
        })
    }
}

fn text(what: &'static str, value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::corrupt(what, error))
}
