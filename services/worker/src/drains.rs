//! Drains: the pure steps of `omnirelay_workflow::drain`, with the inputs of a batch, on the records.

use omnirelay_contract::agent::{Command as AgentCommand, CommandVerb, CommandWorkload};
use omnirelay_contract::audit::Actor;
use omnirelay_store::StoreError;
use omnirelay_store::effects::NewEffect;
use omnirelay_store::operations::WorkRow;
use omnirelay_workflow::drain::{
    self, Change, Command, CommandKind, Drain, DrainParams, Event, Input, Outcome, Phase, Request, Step,
};
use omnirelay_workflow::operation::Cancel;
use omnirelay_workflow::resource::Handover;
use omnirelay_workflow::{CommandId, PeerId, Timestamp, WorkloadId};
use serde_json::{Value, json};

use crate::batch::Decided;
use crate::events::About;
use crate::lifecycle::PAUSED_LOOK;
use crate::records::Records;
use crate::telling::{Shown, Telling, text};

/// A drain as its row has it, with the inputs that wait for it.
#[derive(Debug)]
pub struct LoadedDrain {
    /// None before its first step.
    run: Option<Drain>,
    params: DrainParams,
    cancel: Option<Cancel>,
    /// Who has paused it, or its parent.
    pub paused: Option<String>,
    pub reports: Vec<(CommandId, Outcome)>,
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
            paused: crate::lifecycle::paused(work.row.paused.as_deref())?,
            reports: Vec::new(),
        })
    }

    /// Its parent was cancelled.
    pub fn cancel_by_parent(&mut self, cancel: &str) -> Result<(), StoreError> {
        let cancel = serde_json::from_str(cancel).map_err(|e| StoreError::corrupt("a bulk drain's cancel", e))?;
        self.cancel = Some(cancel);
        Ok(())
    }

    /// The workloads that it has touched, wherever they are now.
    pub fn touched(&self) -> impl Iterator<Item = &WorkloadId> {
        self.run.iter().flat_map(Drain::touched)
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
    let mut applying = Applying {
        work,
        actor,
        peer,
        records,
        decided,
        now,
        paused: loaded.paused.clone(),
        commands: Vec::new(),
        told: Vec::new(),
    };
    let run = match loaded.run.take() {
        Some(run) => run,
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
    paused: Option<String>,
    commands: Vec<Command>,
    told: Vec<Event>,
}

impl Applying<'_> {
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
            Some(record) => drain::World {
                paused: self.paused.clone(),
                ..self.records.world(record, run.into_iter().flat_map(Drain::touched))
            },
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
        self.work.run = Some(text("a drain's state", run)?);
        if self.paused.is_some() && !status.state.is_terminal() {
            let look = self.now.checked_add(PAUSED_LOOK).unwrap_or(Timestamp::MAX);
            self.work.wake_at = Some(self.work.wake_at.map_or(look, |at| at.min(look)));
        }
        let after = self.records.peers.get(self.peer).map_or(before, |record| record.revision);
        let revisions = Some((before, after));
        let ended = self.telling().stand(&old, &status)?;
        self.tell_registry(revisions)?;
        let mut telling = self.telling();
        if ended {
            return telling.ended(status, revisions);
        }
        telling.blockers(&old, &status)?;
        telling.progress(&old, &status)
    }

    fn telling(&mut self) -> Telling<'_> {
        Telling { work: self.work, actor: self.actor, log: &mut self.decided.log, now: self.now }
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
            let mut facts = crate::events::detail(facts);
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
                    // Of a leftover, the record alone knows.
                    let record = self.records.workload(&id).map(|record| &record.workload);
                    CommandWorkload {
                        service: known.map(|m| &m.service).or(record.map(|w| &w.service)).cloned().unwrap_or_default(),
                        unit: known.map(|m| &m.unit).or(record.map(|w| &w.unit)).cloned().flatten(),
                        handover: known
                            .map(|m| m.handover)
                            .or(record.map(|w| w.handover))
                            .unwrap_or(Handover::StartFirst),
                        id,
                        epoch,
                    }
                }),
                holds: match command.kind {
                    CommandKind::Cordon => holds.unwrap_or_default(),
                    CommandKind::Acquire | CommandKind::Release | CommandKind::List => Vec::new(),
                },
                cluster: None,
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
