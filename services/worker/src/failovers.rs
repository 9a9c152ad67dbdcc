//! Promotions and demotions: the pure steps of `omnirelay_workflow::promote`, with the inputs of a batch, on the records.

use std::collections::BTreeMap;

use omnirelay_contract::agent::{ClusterRole, Command as AgentCommand, CommandVerb};
use omnirelay_contract::audit::Actor;
use omnirelay_contract::problem::Problem;
use omnirelay_store::StoreError;
use omnirelay_store::effects::NewEffect;
use omnirelay_store::operations::WorkRow;
use omnirelay_workflow::drain::Outcome;
use omnirelay_workflow::gate::{GateAt, GatePolicy};
use omnirelay_workflow::operation::{Cancel, State};
use omnirelay_workflow::promote::{
    self, Change, Cluster, Command, Event, Input, Limits, Params, Phase, Promote, Request, Step, World,
};
use omnirelay_workflow::resource::ClusterState;
use omnirelay_workflow::{ClusterId, CommandId, Timestamp};
use serde_json::json;

use crate::batch::Decided;
use crate::events::About;
use crate::lifecycle::{AtGate, GateSubject, Passage, paused, revisions};
use crate::records::Records;
use crate::telling::{Shown, Telling, text};

/// A promotion as its row has it, with the inputs that wait for it.
#[derive(Debug)]
pub struct LoadedFailover {
    /// None before its first step.
    run: Option<Promote>,
    pub params: Params,
    cancel: Option<Cancel>,
    paused: Option<String>,
    pub reports: Vec<(CommandId, Outcome)>,
}

impl LoadedFailover {
    pub fn parse(work: &WorkRow) -> Result<Self, StoreError> {
        let run = work.run.as_deref().map(serde_json::from_str).transpose();
        let cancel = work.row.cancel.as_deref().map(serde_json::from_str).transpose();
        Ok(Self {
            run: run.map_err(|error| StoreError::corrupt("a promotion's state", error))?,
            params: serde_json::from_str(&work.row.params)
                .map_err(|error| StoreError::corrupt("a promotion's parameters", error))?,
            cancel: cancel.map_err(|error| StoreError::corrupt("a promotion's cancel", error))?,
            paused: paused(work.row.paused.as_deref())?,
            reports: Vec::new(),
        })
    }

    /// The clusters beside the target.
    pub fn named(&self) -> Vec<ClusterId> {
        self.params.named().cloned().collect()
    }
}

/// The steps of one promotion in this batch: a cancel first, then the reports in their order, the gate, the time.
pub fn apply(
    loaded: &mut LoadedFailover,
    work: &mut WorkRow,
    actor: &Actor,
    policies: &[GatePolicy],
    records: &mut Records,
    decided: &mut Decided,
    now: Timestamp,
) -> Result<(), StoreError> {
    let old = Shown::of(work)?;
    let mut applying =
        Applying { loaded, work, actor, records, decided, now, told: Vec::new(), before: BTreeMap::new() };
    let run = match applying.loaded.run.take() {
        Some(run) => run,
        None => applying.start(policies),
    };
    let run = applying.inputs(run)?;
    let run = applying.gate(run, policies)?;
    applying.finish(&run, &old)
}

struct Applying<'a> {
    loaded: &'a mut LoadedFailover,
    work: &'a mut WorkRow,
    actor: &'a Actor,
    records: &'a mut Records,
    decided: &'a mut Decided,
    now: Timestamp,
    told: Vec<Event>,
    /// The revisions of the clusters that this batch changes, as they were.
    before: BTreeMap<ClusterId, i64>,
}

impl Applying<'_> {
    fn start(&mut self, policies: &[GatePolicy]) -> Promote {
        let settings = self.records.settings.as_ref().map(|settings| settings.promote.clone());
        let limits = Limits {
            min_healthy_percent: settings.as_ref().map_or(0, |s| s.min_healthy_percent),
            max_lag_ms: settings.as_ref().and_then(|s| s.max_replication_lag_ms),
            fence_timeout: settings.as_ref().map_or(std::time::Duration::from_secs(30), |s| s.fence_timeout),
        };
        let request = Request {
            id: self.work.row.id,
            params: self.loaded.params.clone(),
            limits,
            gated: policies.iter().any(|policy| policy.gate == GateAt::Cutover),
        };
        let step = promote::start(request, &self.world(), self.now);
        self.take(step)
    }

    fn inputs(&mut self, mut run: Promote) -> Result<Promote, StoreError> {
        let unwinding = matches!(run.phase, Phase::Unwinding { .. });
        let cancel = self.loaded.cancel.clone().filter(|_| !unwinding).map(Input::Cancel);
        let mut inputs: Vec<Input> = cancel.into_iter().collect();
        for (command, outcome) in std::mem::take(&mut self.loaded.reports) {
            // An interim word leaves the command out; everything else ends it.
            if !matches!(outcome, Outcome::Busy { .. } | Outcome::NotReady { .. }) {
                self.decided.taken.push(command.to_string());
            }
            inputs.push(Input::Report { command, outcome });
        }
        inputs.push(Input::Timer);
        for input in inputs {
            run = self.input(run, input);
        }
        Ok(run)
    }

    fn input(&mut self, run: Promote, input: Input) -> Promote {
        match promote::step(&run, &self.world(), input, self.now) {
            Ok(step) => self.take(step),
            // Only a cancel is ever refused, and only by one that came past its cutover in this very batch.
            Err(rejected) => {
                tracing::debug!(operation = %run.id, %rejected, "an input came too late");
                run
            }
        }
    }

    /// The gate before anything changes.
    fn gate(&mut self, run: Promote, policies: &[GatePolicy]) -> Result<Promote, StoreError> {
        // Also while it is paused: a no and the expiry hold. Passed, it waits for its resume.
        if !matches!(run.phase, Phase::AwaitingGate) {
            return Ok(run);
        }
        // The run is kept before the gate decides, so that what it ends is an operation that has begun.
        self.work.run = Some(text("a promotion's state", &run)?);
        let target = crate::batch::target(self.work)?;
        let subject = GateSubject {
            revisions: revisions(&target, &self.loaded.named(), self.records),
            peers: &[],
            plan: json!({ "promote": self.loaded.params.promote, "demote": self.loaded.params.demote }),
        };
        let mut gate = AtGate { work: self.work, actor: self.actor, log: &mut self.decided.log, now: self.now };
        match gate.pass(policies, GateAt::Cutover, &subject)? {
            Passage::On => Ok(self.input(run, Input::GatePassed)),
            Passage::Waits => Ok(run),
            Passage::Ended => {
                let closed = self.input(run, Input::Cancel(self.closing()));
                Ok(closed)
            }
        }
    }

    /// Nothing has changed before the gate, so what closes it is an end like a cancel's.
    fn closing(&self) -> Cancel {
        Cancel { by: self.actor.subject.clone(), at: self.now, reason: None, keep_moved: false }
    }

    fn world(&self) -> World {
        let named: Vec<ClusterId> = self.loaded.named();
        let mut clusters = BTreeMap::new();
        for id in &named {
            let Some(record) = self.records.clusters.get(id) else { continue };
            let peers = self.records.cluster_peers.iter().filter(|peer| peer.cluster == *id);
            let cluster = Cluster {
                state: record.state,
                failover_version: record.row.failover_version.unsigned_abs(),
                lag_ms: record.row.replication_lag_ms.map(i64::unsigned_abs),
                peers: peers.map(|peer| (peer.peer.clone(), peer.health)).collect(),
            };
            clusters.insert(id.clone(), cluster);
        }
        let mut others: Vec<&ClusterId> = self.records.active.iter().collect();
        others.extend(
            self.records.clusters.values().filter(|c| c.state == ClusterState::Active).map(|cluster| &cluster.id),
        );
        others.sort_unstable();
        others.dedup();
        let other_active =
            others.into_iter().filter(|id| self.records.is_active(id) && !named.contains(id)).count() as u32;
        World { clusters, mesh_version: self.records.mesh_version, other_active, paused: self.loaded.paused.clone() }
    }

    /// Carries out a step on the records; events wait for the end of the batch.
    fn take(&mut self, step: Step) -> Promote {
        if step.void {
            self.decided.void.push(self.work.row.id);
            let id = self.work.row.id;
            self.decided.effects.retain(|effect| effect.undo || effect.operation != id);
        }
        for change in step.changes {
            match change {
                Change::Version { version, clusters } => {
                    self.records.mesh_version = self.records.mesh_version.max(version);
                    self.records.mesh_changed = true;
                    for id in clusters {
                        self.remember(&id);
                        self.records.edit_cluster(&id, |cluster| {
                            cluster.row.failover_version = i64::try_from(version).unwrap_or(i64::MAX);
                        });
                    }
                }
                Change::State { cluster, state } => {
                    self.remember(&cluster);
                    self.records.edit_cluster(&cluster, |cluster| cluster.set_state(state));
                }
            }
        }
        for command in step.commands {
            match self.effect(command) {
                Ok(effect) => self.decided.effects.push(effect),
                Err(error) => tracing::error!(%error, "a command cannot be written"),
            }
        }
        self.told.extend(step.events);
        self.work.wake_at = step.wake_at;
        step.next
    }

    fn remember(&mut self, cluster: &ClusterId) {
        if let Some(record) = self.records.clusters.get(cluster) {
            self.before.entry(cluster.clone()).or_insert(record.row.revision);
        }
    }

    fn effect(&self, command: Command) -> Result<NewEffect, StoreError> {
        let undo = command.undo;
        let command = AgentCommand {
            id: command.id,
            verb: CommandVerb::Role,
            peer: command.peer,
            operation: Some(self.work.row.id),
            workload: None,
            holds: Vec::new(),
            cluster: Some(ClusterRole {
                cluster: command.cluster,
                failover_version: command.version,
                role: command.role,
            }),
            expires_at: command.expires_at,
        };
        Ok(NewEffect {
            id: command.id.to_string(),
            operation: self.work.row.id,
            peer: command.peer.to_string(),
            verb: command.verb.as_str().to_owned(),
            payload: text("a command", &command)?,
            undo,
            expires_at: command.expires_at,
        })
    }

    fn finish(mut self, run: &Promote, old: &Shown) -> Result<(), StoreError> {
        let mut status = run.status();
        // What closed the gate names the end.
        let closed = crate::batch::state(self.work)?;
        if matches!(closed, State::Rejected | State::Expired) {
            status.state = closed;
        }
        self.work.row.started_at = self.work.row.started_at.or(Some(run.started_at));
        self.work.run = Some(text("a promotion's state", run)?);
        let awaiting = status.state == State::AwaitingApproval;
        let wake_at = self.work.wake_at;
        let mut told = std::mem::take(&mut self.told);
        let mut telling = Telling { work: self.work, actor: self.actor, log: &mut self.decided.log, now: self.now };
        if awaiting {
            // The gate has told of itself.
            telling.work.row.phase = status.phase.map(str::to_owned);
            telling.work.row.changed = status.changed;
            return Ok(());
        }
        let ended = telling.stand(old, &status)?;
        for event in told.drain(..) {
            tell(&mut telling, self.records, &self.before, event)?;
        }
        if ended {
            if let (State::Refused, Phase::Ended(end)) = (status.state, &run.phase)
                && let Some(rejected) = &end.rejected
            {
                let problem = Problem::from(rejected).at(format!("/control/operations/{}", telling.work.row.id));
                telling.work.row.error = Some(text("a problem", &problem)?);
            }
            return telling.ended(status, None);
        }
        telling.work.wake_at = wake_at;
        telling.blockers(old, &status)?;
        telling.progress(old, &status)
    }
}

fn tell(
    telling: &mut Telling<'_>,
    records: &Records,
    before: &BTreeMap<ClusterId, i64>,
    event: Event,
) -> Result<(), StoreError> {
    let (id, what, facts) = match event {
        Event::Changed { cluster, state } => {
            let facts = json!({ "cluster": cluster, "clusterState": state });
            (cluster, "changed", facts)
        }
        Event::Promoted { cluster, version } => {
            let facts = json!({ "cluster": cluster, "clusterState": ClusterState::Active, "failoverVersion": version });
            (cluster, "promoted", facts)
        }
        Event::Demoted { cluster, version } => {
            let facts =
                json!({ "cluster": cluster, "clusterState": ClusterState::Passive, "failoverVersion": version });
            (cluster, "demoted", facts)
        }
    };
    let after = records.clusters.get(&id).map(|cluster| cluster.row.revision);
    let revisions = after.map(|after| (before.get(&id).copied().unwrap_or(after), after));
    let about = About { resource: "clusters", id: id.as_str(), what, outcome: what };
    telling.resource(about, revisions, facts)
}
