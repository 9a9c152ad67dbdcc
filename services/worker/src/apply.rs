//! The loop: all inputs that wait, one batch, one transaction; then the commands go out and the answers go home.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use bytes::Bytes;
use omnirelay_bus::Bus;
use omnirelay_contract::agent::{Outcome as AgentOutcome, Report};
use omnirelay_contract::audit::Actor;
use omnirelay_contract::problem::{Code, Problem};
use omnirelay_contract::subject;
use omnirelay_runtime::retry::Backoff;
use omnirelay_store::effects::NewEffect;
use omnirelay_store::live::LiveSettings;
use omnirelay_store::{PgPool, StoreError, operations};
use omnirelay_workflow::drain::Outcome;
use omnirelay_workflow::{CommandId, OperationId};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::batch::{self, Applied};
use crate::events;
use crate::inputs::Work;

/// More than this in one transaction makes it slower, not faster.
const MAX_BATCH: usize = 400;

pub struct Applier {
    pub pool: PgPool,
    pub bus: Bus,
    pub settings: LiveSettings,
    pub dispatch: mpsc::Sender<NewEffect>,
    pub work: mpsc::Sender<Work>,
    pub published: Arc<Notify>,
}

/// The inputs of one operation, in the order they came.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    pub reports: Vec<(CommandId, Outcome)>,
}

/// What one batch is about.
pub type Batch = BTreeMap<OperationId, Inputs>;

impl Applier {
    pub async fn run(self, mut work: mpsc::Receiver<Work>, shutdown: CancellationToken) {
        let mut taken = Vec::with_capacity(MAX_BATCH);
        loop {
            let count = tokio::select! {
                () = shutdown.cancelled() => return,
                count = work.recv_many(&mut taken, MAX_BATCH) => count,
            };
            if count == 0 {
                return;
            }
            let mut batch = Batch::new();
            let mut messages = Vec::new();
            for work in taken.drain(..) {
                match work {
                    Work::Wake(id) => {
                        batch.entry(id).or_default();
                    }
                    Work::Report(told) => {
                        let (report, message) = *told;
                        messages.push(message);
                        if let Some((id, outcome)) = input(report) {
                            batch.entry(id).or_default().reports.push(outcome);
                        }
                    }
                }
            }
            if !self.apply(batch, &shutdown).await {
                return;
            }
            for message in &messages {
                // Not acknowledged, it is delivered again and says nothing new.
                let _ = message.ack().await;
            }
        }
    }

    /// Applies a batch, whole where it can be, in halves where its data is at fault. False: shutdown came before it was done.
    async fn apply(&self, batch: Batch, shutdown: &CancellationToken) -> bool {
        let mut parts = vec![batch];
        while let Some(part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
            loop {
                match self.apply_once(&part, false).await {
                    Ok(()) => break,
                    Err(error) if error.is_poison() && part.len() > 1 => {
                        let mut left = part.clone();
                        let middle = left.keys().nth(left.len() / 2).copied().unwrap_or_default();
                        let right = left.split_off(&middle);
                        // The first half first: inputs of one target keep their order.
                        parts.push(right);
                        parts.push(left);
                        break;
                    }
                    // What waits on the same target came with it, and may be what is poisoned: that one has its own turn.
                    Err(error) if error.is_poison() => match self.apply_once(&part, true).await {
                        Ok(()) => break,
                        Err(error) if error.is_poison() => {
                            if self.set_aside(&part, &error).await {
                                break;
                            }
                        }
                        Err(error) => tracing::warn!(%error, "an input will be tried again"),
                    },
                    Err(error) => tracing::warn!(%error, operations = part.len(), "a batch will be tried again"),
                }
                tokio::select! {
                    () = shutdown.cancelled() => return false,
                    () = tokio::time::sleep(backoff.pause()) => {}
                }
            }
        }
        true
    }

    async fn apply_once(&self, batch: &Batch, alone: bool) -> Result<(), BatchError> {
        let started = Instant::now();
        let applied = batch::apply(&self.pool, &self.settings, batch, alone).await?;
        metrics::histogram!("omnirelay_workflow_step_seconds").record(started.elapsed().as_secs_f64());
        metrics::histogram!("omnirelay_batch_size", "stage" => "apply").record(batch.len() as f64);
        self.published.notify_one();
        self.follow_up(applied).await;
        Ok(())
    }

    /// What is done after the commit: commands to the dispatcher, completions to whoever waits. Both are only faster this
    /// way: the dispatcher finds the commands by itself, and the ingress polls.
    async fn follow_up(&self, applied: Applied) {
        for effect in applied.effects {
            if self.dispatch.try_send(effect).is_err() {
                break;
            }
        }
        for operation in applied.wake {
            // A full queue is no loss: they are due in the record as well.
            let _ = self.work.try_send(Work::Wake(operation));
        }
        for (ingress, bodies) in applied.done {
            let payload = Bytes::from(format!("[{}]", bodies.join(",")));
            if let Err(error) = self.bus.publish(subject::done(&ingress), HeaderMap::new(), payload).await {
                tracing::debug!(%error, "a completion was not told");
            }
        }
    }

    /// A poisoned input ends as a dead letter, its operation `stuck`, never silently. False: not written yet.
    async fn set_aside(&self, batch: &Batch, cause: &BatchError) -> bool {
        let Some((id, inputs)) = batch.first_key_value() else { return true };
        tracing::error!(operation = %id, error = %cause, "an input is set aside, its operation is stuck");
        match self.write_dead_letter(*id, inputs, cause).await {
            Ok(()) => {
                self.published.notify_one();
                true
            }
            Err(error) => {
                tracing::warn!(operation = %id, %error, "the dead letter cannot be written yet");
                false
            }
        }
    }

    async fn write_dead_letter(&self, id: OperationId, inputs: &Inputs, cause: &BatchError) -> Result<(), StoreError> {
        let problem = Problem::new(
            Code::Internal,
            "one of its inputs could not be applied and was set aside; the worker's log and the table dead_letters say why",
        );
        let problem = serde_json::to_string(&problem).map_err(|error| StoreError::corrupt("a problem", error))?;
        let mut tx = self.pool.begin().await?;
        let poisoned =
            operations::set_aside(&mut tx, id, &format!("{:?}", inputs.reports), &cause.to_string(), &problem).await?;
        if let Some(poisoned) = poisoned {
            let actor: Option<Actor> = serde_json::from_str(&poisoned.actor_json).ok();
            let event = events::stuck(id, &poisoned, actor, &cause.to_string())?;
            omnirelay_store::events::insert(&mut tx, &[event]).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

/// Why a batch was not applied.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a step panicked: {0}")]
    Panic(String),
}

impl From<omnirelay_store::SqlError> for BatchError {
    fn from(error: omnirelay_store::SqlError) -> Self {
        BatchError::Store(StoreError::from(error))
    }
}

impl BatchError {
    /// Trying the same again gives the same.
    fn is_poison(&self) -> bool {
        match self {
            BatchError::Store(error) => error.is_data(),
            BatchError::Panic(_) => true,
        }
    }
}

/// The operation that a report is for is in its command's id; a report of something else is nobody's.
fn input(report: Report) -> Option<(OperationId, (CommandId, Outcome))> {
    let (operation, _) = report.command.as_str().split_once('-')?;
    let operation = OperationId::try_parse(operation).ok()?;
    let outcome = match report.outcome {
        AgentOutcome::Done => Outcome::Done,
        AgentOutcome::Busy { remaining, message } => Outcome::Busy { remaining, message },
        AgentOutcome::NotReady { message } => Outcome::NotReady { message },
        AgentOutcome::Failed { message } => Outcome::Failed { message },
        AgentOutcome::Listed { workloads } => {
            Outcome::Listed { workloads: workloads.into_iter().map(|workload| workload.id).collect() }
        }
    };
    Some((operation, (report.command, outcome)))
}

#[cfg(test)]
mod tests;
