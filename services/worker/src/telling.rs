//! What a step of a long operation tells of the operation itself: only what has changed since its row was loaded.

use omnirelay_contract::audit::Actor;
use omnirelay_store::StoreError;
use omnirelay_store::operations::WorkRow;
use omnirelay_workflow::Timestamp;
use omnirelay_workflow::drain::Status;
use omnirelay_workflow::operation::{Blocker, Progress, State};
use serde_json::{Map, Value, json};

use crate::batch::end;
use crate::events::{About, Log, detail};

/// Progress is told at most ten times a second.
const PROGRESS_EVERY: jiff::SignedDuration = jiff::SignedDuration::from_millis(100);

/// What the row showed before.
pub struct Shown {
    pub state: State,
    phase: Option<String>,
    progress: Progress,
    blockers: Vec<Blocker>,
}

impl Shown {
    pub fn of(work: &WorkRow) -> Result<Self, StoreError> {
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

/// An operation that tells.
pub struct Telling<'a> {
    pub work: &'a mut WorkRow,
    pub actor: &'a Actor,
    pub log: &'a mut Log,
    pub now: Timestamp,
}

impl Telling<'_> {
    /// Writes how it stands into its row; true where it has ended, which [`Telling::ended`] tells when all else is told.
    pub fn stand(&mut self, old: &Shown, status: &Status) -> Result<bool, StoreError> {
        let row = &mut self.work.row;
        row.changed = status.changed;
        row.phase = status.phase.map(str::to_owned);
        row.blockers = text("an operation's blockers", &status.blockers)?;
        if status.state.is_terminal() {
            row.progress = text("an operation's progress", &status.progress)?;
            return Ok(true);
        }
        status.state.as_str().clone_into(&mut row.state);
        if old.state != status.state {
            let what = match status.state {
                State::Unwinding => "unwinding",
                // Behind a gate in its midst it goes on; it has started long ago.
                _ if old.phase.is_some() => "progressed",
                _ => "started",
            };
            row.progress = text("an operation's progress", &status.progress)?;
            self.operation(what, Map::new())?;
        }
        Ok(false)
    }

    pub fn blockers(&mut self, old: &Shown, status: &Status) -> Result<(), StoreError> {
        let key = |blockers: &[Blocker]| -> Vec<(String, String, String)> {
            blockers.iter().map(|b| (b.code.to_string(), b.subject.clone(), b.message.clone())).collect()
        };
        if key(&old.blockers) == key(&status.blockers) {
            return Ok(());
        }
        if status.blockers.is_empty() {
            return self.operation("unblocked", Map::new());
        }
        self.operation("blocked", detail(json!({ "blockers": status.blockers })))
    }

    /// What was told last is what the row shows. A change within the tenth of a second stays untold until it is over.
    pub fn progress(&mut self, old: &Shown, status: &Status) -> Result<(), StoreError> {
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
        self.work.row.progress = text("an operation's progress", &status.progress)?;
        self.operation("progressed", Map::new())
    }

    pub fn operation(&mut self, what: &str, facts: Map<String, Value>) -> Result<(), StoreError> {
        let id = self.work.row.id.to_string();
        let mut facts = facts;
        facts.insert("target".to_owned(), Value::String(self.work.row.target.clone()));
        let about = About { resource: "operations", id: &id, what, outcome: what };
        self.log.add(self.work, self.actor, about, None, facts, self.now)
    }

    pub fn resource(
        &mut self,
        about: About<'_>,
        revisions: Option<(i64, i64)>,
        facts: Value,
    ) -> Result<(), StoreError> {
        self.log.add(self.work, self.actor, about, revisions, detail(facts), self.now)
    }

    pub fn ended(self, status: Status, revisions: Option<(i64, i64)>) -> Result<(), StoreError> {
        let result = status.result.unwrap_or(Value::Null);
        self.work.row.result = Some(result.to_string());
        let told = json!({ "result": result });
        end(self.work, self.actor, status.state, Some(told), revisions, self.log, self.now)
    }
}

pub fn text(what: &'static str, value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::corrupt(what, error))
}
