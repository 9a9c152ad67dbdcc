//! What an agent must not forget: the highest epoch per workload, the highest failover version of the peer's cluster, and
//! what became of each command.
//!
//! The file is append-only, one JSON entry a line. An accepted command is on the disk *before* it is acted upon, so that an
//! agent that was killed neither acts on a stale epoch nor runs a finished command again. Entries that wait together share one
//! fsync (group commit, no artificial delay). Outcomes are written without waiting: losing one runs an idempotent driver again.
//!
//! The rules are in [`Journal::admit`]; what the entries amount to is in [`state`](crate::journal::state). A file that grew
//! large is rewritten beside itself and renamed. A torn last line (power loss while writing) was never acknowledged and is cut
//! off; a broken line in the middle is refused, because what follows it cannot be trusted.

mod file;
mod state;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

use omnirelay_contract::agent::{ClusterRole, Command, CommandVerb, Outcome};
use omnirelay_workflow::resource::Role;
use omnirelay_workflow::{CommandId, HoldId, PeerId, Timestamp, WorkloadId};

use file::JournalFile;
use state::{Entry, Known, State};
pub use state::{Finished, Placement, Roles};

/// A journal could not be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("journal {path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error("journal {path}: line {line} is broken and others follow it: {reason}")]
    Corrupt { path: String, line: usize, reason: String },
    #[error("journal {path} is in use by another agent")]
    Locked { path: String },
}

/// What is to be done with a command, by the journal's rules.
#[derive(Debug, Clone, PartialEq)]
pub enum Admission {
    /// New: act once it is durable.
    Begin,
    /// It runs already.
    InFlight,
    /// It ended, and this is what came of it.
    Finished(Finished),
    /// It must not be begun.
    Refused(String),
}

/// Called on the writer's thread, in the order of the entries, once the entry is on the disk or could not be put there.
type Durable = Box<dyn FnOnce(Result<(), String>) + Send>;

struct Line {
    bytes: Vec<u8>,
    durable: Option<Durable>,
}

/// An open journal. Entries are applied to memory and queued under one lock, so the file has the order of memory.
pub struct Journal {
    shared: Arc<Mutex<State>>,
    lines: Option<mpsc::Sender<Line>>,
    writer: Option<JoinHandle<()>>,
}

impl Journal {
    /// Opens or creates the journal at `path`, replays it and starts its writer.
    ///
    /// `compact_above` is the size in bytes from which the file is rewritten (never below twice its size after the last time).
    pub fn open(path: &Path, compact_above: u64) -> Result<Self, JournalError> {
        let mut state = State::default();
        let file = JournalFile::open(path, &mut state)?;
        let shared = Arc::new(Mutex::new(state));
        let (lines, queue) = mpsc::channel();
        let writer = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn({
                let shared = shared.clone();
                move || write_lines(file, &shared, &queue, compact_above)
            })
            .map_err(|source| JournalError::Io { path: path.display().to_string(), source })?;
        Ok(Self { shared, lines: Some(lines), writer: Some(writer) })
    }

    /// Decides about a command and, where it is new, records it. `durable` is called once the answer may be given.
    ///
    /// A command that is known repeats its answer, expired or not. Otherwise an expired one is refused, and one whose epoch is
    /// below the highest seen for its workload. An equal epoch is fine: the release that belongs to an acquire carries it.
    /// A role is refused below the highest failover version seen, and a fenced peer acquires nothing.
    pub fn admit(
        &self,
        command: &Command,
        now: Timestamp,
        durable: impl FnOnce(Admission, Result<(), String>) + Send + 'static,
    ) {
        let entry = Entry::Accept(command.clone()).to_line();
        let mut state = self.lock();
        let admission = decide(&state, command, now);
        let bytes = match &admission {
            Admission::Begin => {
                state.accept(command.clone());
                entry
            }
            // What is known may still be on its way to the disk: an empty line waits for it.
            Admission::InFlight | Admission::Finished(_) => Vec::new(),
            Admission::Refused(_) => {
                drop(state);
                durable(admission, Ok(()));
                return;
            }
        };
        let (peer, id, begun) = (command.peer.clone(), command.id.clone(), admission == Admission::Begin);
        let shared = self.shared.clone();
        let after: Durable = Box::new(move |result| {
            if result.is_err() && begun {
                lock(&shared).forget(&peer, &id);
            }
            durable(admission, result);
        });
        self.append(Line { bytes, durable: Some(after) });
    }

    /// Records what came of an accepted command. Told once only: a second outcome of the same command is dropped.
    pub fn finish(&self, peer: &PeerId, id: &CommandId, finished: &Finished) {
        let entry = Entry::Final { peer: peer.clone(), id: id.clone(), finished: finished.clone() };
        let bytes = entry.to_line();
        let mut state = self.lock();
        if state.apply(entry) {
            self.append(Line { bytes, durable: None });
        }
    }

    /// Records that the outcome of a command was acknowledged by the stream, so that no restart tells it again.
    pub fn told(&self, peer: &PeerId, id: &CommandId) {
        let entry = Entry::Told { peer: peer.clone(), id: id.clone() };
        let bytes = entry.to_line();
        let mut state = self.lock();
        if state.apply(entry) {
            self.append(Line { bytes, durable: None });
        }
    }

    /// The highest epoch seen of a workload, 0 when there is none.
    pub fn epoch(&self, peer: &PeerId, workload: &WorkloadId) -> u64 {
        self.lock().workload(peer, workload).map_or(0, |w| w.epoch)
    }

    /// Calls `see` with the epoch of each of the workloads, under one lock.
    pub fn epochs<'a>(&self, peer: &PeerId, workloads: impl Iterator<Item = &'a WorkloadId>) -> Vec<u64> {
        let state = self.lock();
        workloads.map(|id| state.workload(peer, id).map_or(0, |w| w.epoch)).collect()
    }

    /// The holds that the peer was last told of.
    pub fn holds(&self, peer: &PeerId) -> Vec<HoldId> {
        self.lock().holds(peer)
    }

    /// What the peer was told about its cluster, and what of it was done.
    pub fn roles(&self, peer: &PeerId) -> Roles {
        self.lock().roles(peer)
    }

    /// Why the peer acquires nothing now, if it is fenced.
    pub fn fenced(&self, peer: &PeerId) -> Option<String> {
        fenced(self.lock().told_role(peer))
    }

    /// Commands accepted and not finished, in the order of their acceptance.
    pub fn unfinished(&self, peer: &PeerId) -> Vec<Command> {
        self.lock().unfinished(peer)
    }

    /// Outcomes that the stream never acknowledged.
    pub fn untold(&self, peer: &PeerId) -> Vec<(CommandId, Finished)> {
        self.lock().untold(peer)
    }

    /// Where finished acquires and releases left the workloads of a peer.
    pub fn placements(&self, peer: &PeerId) -> Vec<(WorkloadId, Placement)> {
        self.lock().placements(peer)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.shared)
    }

    /// Queues a line. The writer lives as long as the journal; should it have died, the answer is an error.
    fn append(&self, line: Line) {
        let Some(lines) = &self.lines else { return };
        if let Err(mpsc::SendError(line)) = lines.send(line)
            && let Some(durable) = line.durable
        {
            // Off this thread: the caller holds the lock that the callback wants.
            std::thread::spawn(move || durable(Err("the journal's writer has ended".to_owned())));
        }
    }
}

impl Drop for Journal {
    /// Writes what is queued and lets go of the file, so that a successor in the same process can open it.
    fn drop(&mut self) {
        self.lines = None;
        if let Some(writer) = self.writer.take()
            && writer.thread().id() != std::thread::current().id()
            && writer.join().is_err()
        {
            tracing::error!("the journal's writer panicked");
        }
    }
}

fn lock(shared: &Mutex<State>) -> MutexGuard<'_, State> {
    // Entries are applied whole: a panic elsewhere leaves no half-applied one behind.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn decide(state: &State, command: &Command, now: Timestamp) -> Admission {
    match state.command(&command.peer, &command.id) {
        Some(Known::InFlight { .. }) => return Admission::InFlight,
        Some(Known::Finished { finished, .. }) => return Admission::Finished(finished.clone()),
        None => {}
    }
    if command.expires_at <= now {
        return Admission::Refused(format!("expired at {}, it is {now} here", command.expires_at));
    }
    if let Some(workload) = &command.workload {
        let seen = state.workload(&command.peer, &workload.id).map_or(0, |w| w.epoch);
        if workload.epoch < seen {
            return Admission::Refused(format!("stale epoch {}, seen {seen}", workload.epoch));
        }
    }
    let told = state.told_role(&command.peer);
    let refusal = match command.verb {
        CommandVerb::Role => command.cluster.as_ref().and_then(|role| stale_role(role, told?)),
        CommandVerb::Acquire => fenced(told),
        CommandVerb::Release | CommandVerb::List | CommandVerb::Cordon | CommandVerb::Uncordon => None,
    };
    refusal.map_or(Admission::Begin, Admission::Refused)
}

/// Within one version the way is forward only: a fence that arrives after the cutover's role is a late one.
fn stale_role(role: &ClusterRole, told: &ClusterRole) -> Option<String> {
    let (asked, seen) = (role.failover_version, told.failover_version);
    if asked < seen {
        Some(format!("stale failover version {asked}, seen {seen}"))
    } else if asked == seen && role.role == Role::Fenced && told.role != Role::Fenced {
        Some(format!("stale: {} already under failover version {seen}, a fence needs a higher one", told.role))
    } else {
        None
    }
}

fn fenced(told: Option<&ClusterRole>) -> Option<String> {
    let told = told.filter(|told| told.role == Role::Fenced)?;
    let ClusterRole { cluster, failover_version, .. } = told;
    Some(format!(
        "fenced: {cluster} changes its role (failover version {failover_version}), nothing is acquired meanwhile"
    ))
}

/// At most this many lines share one write and one fsync.
const GROUP: usize = 4096;

fn write_lines(mut file: JournalFile, state: &Mutex<State>, queue: &mpsc::Receiver<Line>, compact_above: u64) {
    let mut bytes = Vec::new();
    let mut waiting: Vec<Durable> = Vec::new();
    let mut rewritten = file.len();
    while let Ok(first) = queue.recv() {
        for line in std::iter::once(first).chain(queue.try_iter().take(GROUP - 1)) {
            bytes.extend_from_slice(&line.bytes);
            waiting.extend(line.durable);
        }
        let result = file.append(&bytes, !waiting.is_empty()).map_err(|error| {
            tracing::error!(%error, path = file.path(), "the journal cannot be written");
            format!("the agent's journal cannot be written: {error}")
        });
        bytes.clear();
        for durable in waiting.drain(..) {
            durable(result.clone());
        }
        if file.len() > compact_above.max(2 * rewritten) {
            // Lines that are queued now are in the snapshot already; replaying them again changes nothing.
            let snapshot = lock(state).snapshot();
            if let Err(error) = file.rewrite(&snapshot) {
                tracing::warn!(%error, path = file.path(), "the journal cannot be compacted, it goes on growing");
            }
            rewritten = file.len();
        }
    }
    if let Err(error) = file.sync() {
        tracing::warn!(%error, path = file.path(), "the journal cannot be synced at the end");
    }
}

/// Whether an outcome ends its command.
pub fn is_final(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Done | Outcome::Failed { .. } | Outcome::Listed { .. } => true,
        Outcome::Busy { .. } | Outcome::NotReady { .. } => false,
    }
}

#[cfg(test)]
mod tests;
