//! A command's span: from when it came off the bus until what came of it is recorded. Only where traces are exported.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_nats::HeaderMap;
use omnirelay_contract::agent::{Command, Outcome};
use omnirelay_contract::subject::HEADER_TRACEPARENT;
use omnirelay_runtime::spans::{self, Kind, Told};
use omnirelay_runtime::trace::TraceParent;
use omnirelay_workflow::CommandId;

/// The trace that a command came in.
#[derive(Debug, Clone, Copy)]
pub struct Trace {
    own: TraceParent,
    parent: Option<TraceParent>,
    since: Instant,
}

impl Trace {
    pub fn of(headers: Option<&HeaderMap>) -> Option<Self> {
        let text = headers?.get(HEADER_TRACEPARENT)?.as_str();
        Some(Self { own: spans::beneath(text)?, parent: text.parse().ok(), since: Instant::now() })
    }
}

/// The traces of the commands that run. A command that comes again is in the first one's.
#[derive(Debug, Default)]
pub struct Traces {
    running: Mutex<HashMap<CommandId, Trace>>,
}

impl Traces {
    /// A command was begun.
    pub fn begin(&self, command: &CommandId, trace: Option<Trace>) {
        if let Some(trace) = trace {
            self.lock().insert(command.clone(), trace);
        }
    }

    /// It has ended.
    pub fn end(&self, command: &Command, outcome: &Outcome) {
        let Some(trace) = self.lock().remove(&command.id) else { return };
        let (outcome, failed) = match outcome {
            Outcome::Done | Outcome::Listed { .. } => ("done", None),
            Outcome::Failed { message } => ("failed", Some(message.clone().into())),
            Outcome::Busy { .. } | Outcome::NotReady { .. } => ("running", None),
        };
        spans::ended(trace.own, trace.parent, trace.since.elapsed(), || Told {
            name: format!("agent {}", command.verb).into(),
            kind: Kind::Consumer,
            attributes: vec![
                ("omnirelay.command", command.id.to_string()),
                ("omnirelay.peer", command.peer.to_string()),
                ("omnirelay.workload", command.workload.as_ref().map(|of| of.id.to_string()).unwrap_or_default()),
                ("omnirelay.outcome", outcome.to_owned()),
            ],
            failed,
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CommandId, Trace>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
