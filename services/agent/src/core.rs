//! What happens to a command: admitted by the journal, run by the driver, reported. Shared by the agent and the fleet.
//!
//! ```text
//! submit → journal (refused | repeated | new) → lane of the workload → driver … → journal (final) → report
//! ```
//!
//! Commands of one workload run one after the other, in the order of their admission; different ones run side by side. A newer
//! epoch supersedes what waits: it ends as failed, so that nothing acts on behalf of a move that was given up. Between driver calls
//! a move also yields to a later opposite command of the same epoch (the release of an acquire that does not get ready).

mod roles;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use omnirelay_contract::agent::{Command, CommandVerb, Outcome, Reply, Report};
use omnirelay_workflow::{PeerId, Timestamp, WorkloadId};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::driver::{Answer, Call, Driver, Exit, Target, Verb};
use crate::journal::{Admission, Finished, Journal, is_final};
use crate::lag::Lag;
use crate::observe::Observer;
use crate::reports::Reports;
use crate::traces::{Trace, Traces};

/// A ready check is repeated after this, doubling up to the maximum.
const READY_POLL: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(1));
/// What is not ready after this is told.
const NOT_READY_GRACE: Duration = Duration::from_secs(1);
/// A busy release is asked again after this, doubling up to the maximum.
const BUSY_POLL: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));
/// How often a change of an interim message is reported at most.
const INTERIM_GAP: Duration = Duration::from_secs(1);

/// One peer's commands.
pub struct Core {
    pub peer: PeerId,
    pub driver: Arc<dyn Driver>,
    pub journal: Arc<Journal>,
    reports: Reports,
    observer: Arc<Observer>,
    lag: Option<Lag>,
    /// How many driver calls run at once.
    permits: Arc<Semaphore>,
    /// Told after every change, so that a heartbeat follows at once.
    pub changed: Arc<Notify>,
    lanes: Mutex<HashMap<LaneKey, Lane>>,
    traces: Traces,
    runtime: Handle,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What a [`Core`] is made of, besides what it makes itself.
pub struct CoreParts {
    pub driver: Arc<dyn Driver>,
    pub journal: Arc<Journal>,
    pub reports: Reports,
    pub observer: Arc<Observer>,
    /// Where the driver does not know it.
    pub lag: Option<Lag>,
    pub permits: Arc<Semaphore>,
    pub stop: CancellationToken,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum LaneKey {
    /// Cordon, uncordon and role.
    Peer,
    Workload(WorkloadId),
}

struct Lane {
    waiting: VecDeque<Command>,
    /// The verb and epoch of the last command that was admitted to the lane.
    newest: watch::Sender<(CommandVerb, u64)>,
}

/// Why a command that waits is ended before its time.
enum Wake {
    Poll,
    Superseded(String),
    Expired,
    Stopped,
}

impl Core {
    /// To be called within a tokio runtime, on which the commands will run.
    pub fn new(parts: CoreParts) -> Arc<Self> {
        Arc::new(Self {
            peer: parts.observer.peer().clone(),
            driver: parts.driver,
            journal: parts.journal,
            reports: parts.reports,
            observer: parts.observer,
            lag: parts.lag,
            permits: parts.permits,
            changed: Arc::new(Notify::new()),
            lanes: Mutex::new(HashMap::new()),
            traces: Traces::default(),
            runtime: Handle::current(),
            tasks: TaskTracker::new(),
            stop: parts.stop,
        })
    }

    /// Admits a command: at once, in the order of the calls. What is returned resolves when the answer is durable.
    pub fn submit(self: &Arc<Self>, command: Command, trace: Option<Trace>) -> oneshot::Receiver<Reply> {
        let (answer, reply) = oneshot::channel();
        let now = Timestamp::now();
        if let Some(message) = self.misplaced(&command) {
            let _ = answer.send(Reply::Refused { message });
        } else if command.verb == CommandVerb::List {
            // A question changes nothing, so it is not journalled: repeated, it is answered afresh.
            let expired = command.expires_at <= now;
            let _ = answer.send(if expired {
                Reply::Refused { message: format!("expired at {}, it is {now} here", command.expires_at) }
            } else {
                self.traces.begin(&command.id, trace);
                self.spawn_list(command);
                Reply::Accepted
            });
        } else {
            let core = self.clone();
            self.journal.admit(&command.clone(), now, move |admission, durable| {
                let _ = answer.send(core.admitted(command, trace, admission, durable));
            });
        }
        reply
    }

    /// After a start: tells outcomes that the stream never acknowledged, and looks again at commands that had not ended.
    pub fn resume(self: &Arc<Self>) {
        for (id, finished) in self.journal.untold(&self.peer) {
            self.reports.send(&self.journal, self.report(id, finished));
        }
        let now = Timestamp::now();
        for command in self.journal.unfinished(&self.peer) {
            if command.expires_at <= now {
                let message = "the command expired while the agent was down".to_owned();
                self.conclude(&command, Outcome::Failed { message });
            } else {
                self.enqueue(command);
            }
        }
    }

    /// Waits until nothing runs any more, after the token of [`CoreParts::stop`] was cancelled.
    pub async fn stopped(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn misplaced(&self, command: &Command) -> Option<String> {
        if command.peer != self.peer {
            return Some(format!("a command for {} came to {}", command.peer, self.peer));
        }
        match (command.verb, &command.workload, &command.cluster) {
            (CommandVerb::Acquire | CommandVerb::Release, None, _) => {
                Some(format!("{} of which workload?", command.verb))
            }
            (CommandVerb::Role, Some(_), _) => Some("a role is not of a workload".to_owned()),
            (CommandVerb::Role, None, None) => Some("role of which cluster?".to_owned()),
            (CommandVerb::Role, None, Some(role)) if role.cluster != *self.observer.cluster() => {
                Some(format!("a role of {} came to a peer of {}", role.cluster, self.observer.cluster()))
            }
            _ => None,
        }
    }

    /// On the journal's thread: the order of these calls is the order of the lanes.
    fn admitted(
        self: &Arc<Self>,
        command: Command,
        trace: Option<Trace>,
        admission: Admission,
        durable: Result<(), String>,
    ) -> Reply {
        if let Err(message) = durable {
            return Reply::Refused { message };
        }
        match admission {
            Admission::Refused(message) => return Reply::Refused { message },
            Admission::InFlight => {}
            Admission::Finished(finished) => {
                self.reports.send(&self.journal, self.report(command.id, finished));
            }
            Admission::Begin => {
                self.traces.begin(&command.id, trace);
                self.enqueue(command);
            }
        }
        Reply::Accepted
    }

    fn enqueue(self: &Arc<Self>, command: Command) {
        let key = command.workload.as_ref().map_or(LaneKey::Peer, |w| LaneKey::Workload(w.id.clone()));
        let newest = (command.verb, epoch(&command));
        let mut lanes = self.lock();
        if let Some(lane) = lanes.get_mut(&key) {
            lane.waiting.push_back(command);
            lane.newest.send_replace(newest);
            return;
        }
        let (newest, watching) = watch::channel(newest);
        lanes.insert(key.clone(), Lane { waiting: VecDeque::from([command]), newest });
        drop(lanes);
        let (core, stop) = (self.clone(), self.stop.clone());
        self.tasks.spawn_on(
            async move {
                stop.run_until_cancelled(core.run_lane(key, watching)).await;
            },
            &self.runtime,
        );
    }

    async fn run_lane(&self, key: LaneKey, mut newest: watch::Receiver<(CommandVerb, u64)>) {
        while let Some(command) = self.next(&key) {
            let (verb, newest_epoch) = *newest.borrow_and_update();
            let outcome = if newest_epoch > epoch(&command) {
                Some(superseded(verb, newest_epoch))
            } else {
                self.run(&command, &mut newest).await
            };
            if let Some(outcome) = outcome {
                self.conclude(&command, outcome);
            }
        }
    }

    fn next(&self, key: &LaneKey) -> Option<Command> {
        let mut lanes = self.lock();
        let command = lanes.get_mut(key)?.waiting.pop_front();
        if command.is_none() {
            lanes.remove(key);
        }
        command
    }

    /// Runs a command to its outcome; none when the agent ends first.
    async fn run(&self, command: &Command, newest: &mut watch::Receiver<(CommandVerb, u64)>) -> Option<Outcome> {
        match command.verb {
            CommandVerb::Acquire => self.acquire(command, newest).await,
            CommandVerb::Release => self.release(command, newest).await,
            CommandVerb::Cordon => Some(self.hold(command, Verb::Cordon).await),
            CommandVerb::Uncordon => Some(self.hold(command, Verb::Uncordon).await),
            CommandVerb::Role => roles::run(self, command, newest).await,
            CommandVerb::List => Some(self.list().await),
        }
    }

    async fn acquire(&self, command: &Command, newest: &mut watch::Receiver<(CommandVerb, u64)>) -> Option<Outcome> {
        let id = &command.workload.as_ref()?.id;
        // A fence may have come while the command waited for its turn.
        if let Some(message) = self.journal.fenced(&self.peer) {
            return Some(Outcome::Failed { message });
        }
        let begun = Instant::now();
        let mut interim = Interim::default();
        let mut pause = READY_POLL.0;
        let mut verb = Verb::Acquire;
        loop {
            let answer = self.call(command, verb).await;
            if verb == Verb::Acquire {
                self.changed.notify_one();
                match answer.exit {
                    Exit::Failed => return Some(Outcome::Failed { message: answer.message }),
                    // Asked again, until it was done once.
                    Exit::Busy => {}
                    Exit::Done => {
                        verb = Verb::Status;
                        // The answer to `acquire` need not tell readiness. Where it does, it saves a question.
                        if answer.line(id).is_none() {
                            continue;
                        }
                    }
                }
            }
            if answer.exit == Exit::Done && answer.line(id).is_some_and(|line| line.ready) {
                return Some(Outcome::Done);
            }
            let message = not_ready(&answer, id);
            // Everything needs a moment to come up; only what takes longer is worth a word.
            if begun.elapsed() >= NOT_READY_GRACE {
                self.tell_interim(command, Outcome::NotReady { message: message.clone() }, &mut interim);
            }
            match self.wait(command, pause, newest).await {
                Wake::Poll => pause = (pause * 2).min(READY_POLL.1),
                Wake::Superseded(message) => return Some(Outcome::Failed { message }),
                Wake::Expired => return Some(Outcome::Failed { message: format!("not ready in time: {message}") }),
                Wake::Stopped => return None,
            }
        }
    }

    async fn release(&self, command: &Command, newest: &mut watch::Receiver<(CommandVerb, u64)>) -> Option<Outcome> {
        let id = &command.workload.as_ref()?.id;
        let mut interim = Interim::default();
        let mut pause = BUSY_POLL.0;
        loop {
            let answer = self.call(command, Verb::Release).await;
            self.changed.notify_one();
            match answer.exit {
                Exit::Done => return Some(Outcome::Done),
                Exit::Failed => return Some(Outcome::Failed { message: answer.message }),
                Exit::Busy => {}
            }
            let remaining = answer.line(id).and_then(|line| line.remaining);
            let message = busy(&answer, remaining);
            self.tell_interim(command, Outcome::Busy { remaining, message: message.clone() }, &mut interim);
            match self.wait(command, pause, newest).await {
                Wake::Poll => pause = (pause * 2).min(BUSY_POLL.1),
                Wake::Superseded(message) => return Some(Outcome::Failed { message }),
                Wake::Expired => return Some(Outcome::Failed { message: format!("still busy: {message}") }),
                Wake::Stopped => return None,
            }
        }
    }

    async fn hold(&self, command: &Command, verb: Verb) -> Outcome {
        let answer = self.call(command, verb).await;
        match answer.exit {
            Exit::Done => Outcome::Done,
            Exit::Busy | Exit::Failed => Outcome::Failed { message: answer.message },
        }
    }

    async fn list(&self) -> Outcome {
        let answer = self.observe().await;
        match answer.exit {
            Exit::Done => Outcome::Listed { workloads: self.observer.observed(&answer.lines, &self.journal) },
            Exit::Busy | Exit::Failed => Outcome::Failed { message: answer.message },
        }
    }

    /// The driver's list.
    pub async fn observe(&self) -> Answer {
        self.permitted(Call::list(&self.peer)).await
    }

    /// How far the peer's replica is behind, none where that is not known.
    pub async fn lag_ms(&self) -> Option<u64> {
        let Some(lag) = &self.lag else { return self.driver.lag_ms() };
        match lag.measure().await {
            Ok(ms) => Some(ms),
            Err(error) => {
                tracing::warn!(peer = %self.peer, error, "the replication lag cannot be measured");
                None
            }
        }
    }

    fn spawn_list(self: &Arc<Self>, command: Command) {
        let (core, stop) = (self.clone(), self.stop.clone());
        self.tasks.spawn_on(
            async move {
                if let Some(outcome) = stop.run_until_cancelled(core.list()).await {
                    core.conclude(&command, outcome);
                }
            },
            &self.runtime,
        );
    }

    async fn call(&self, command: &Command, verb: Verb) -> Answer {
        let target = command.workload.as_ref().map(Target::from);
        let (holds, cluster) = (command.holds.clone(), command.cluster.clone());
        self.permitted(Call { verb, peer: self.peer.clone(), target, holds, cluster }).await
    }

    async fn permitted(&self, call: Call) -> Answer {
        // The semaphore is never closed; were it, going on without it is the better half.
        let _permit = self.permits.acquire().await.ok();
        self.driver.call(call).await
    }

    /// Waits for the next poll, or for what ends the command before.
    async fn wait(&self, command: &Command, pause: Duration, newest: &mut watch::Receiver<(CommandVerb, u64)>) -> Wake {
        let wake = Instant::now() + pause;
        loop {
            let (verb, newest_epoch) = *newest.borrow_and_update();
            let opposite = newest_epoch == epoch(command) && verb != command.verb;
            if newest_epoch > epoch(command) || opposite {
                return Wake::Superseded(superseded_by(verb, newest_epoch));
            }
            let left = left_until(command.expires_at);
            if left.is_zero() {
                return Wake::Expired;
            }
            tokio::select! {
                () = self.stop.cancelled() => return Wake::Stopped,
                () = tokio::time::sleep_until(wake) => return Wake::Poll,
                () = tokio::time::sleep(left) => return Wake::Expired,
                changed = newest.changed() => if changed.is_err() { return Wake::Stopped },
            }
        }
    }

    fn tell_interim(&self, command: &Command, outcome: Outcome, interim: &mut Interim) {
        if interim.is_due(&outcome) {
            interim.told = Some((outcome.clone(), Instant::now()));
            let finished = Finished { at: Timestamp::now(), outcome };
            self.reports.send(&self.journal, self.report(command.id.clone(), finished));
        }
    }

    /// Records the outcome, then tells it.
    fn conclude(&self, command: &Command, outcome: Outcome) {
        debug_assert!(is_final(&outcome), "{outcome:?} ends nothing");
        let finished = Finished { at: Timestamp::now(), outcome };
        self.traces.end(command, &finished.outcome);
        self.journal.finish(&self.peer, &command.id, &finished);
        self.reports.send(&self.journal, self.report(command.id.clone(), finished));
        self.changed.notify_one();
    }

    fn report(&self, command: omnirelay_workflow::CommandId, finished: Finished) -> Report {
        Report { command, peer: self.peer.clone(), at: finished.at, outcome: finished.outcome }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LaneKey, Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last interim report of a command: the first is told at once, later ones when they differ, at most one a second.
#[derive(Default)]
struct Interim {
    told: Option<(Outcome, Instant)>,
}

impl Interim {
    fn is_due(&self, outcome: &Outcome) -> bool {
        self.told.as_ref().is_none_or(|(told, at)| told != outcome && at.elapsed() >= INTERIM_GAP)
    }
}

fn epoch(command: &Command) -> u64 {
    command.workload.as_ref().map_or(0, |w| w.epoch)
}

fn superseded(verb: CommandVerb, epoch: u64) -> Outcome {
    Outcome::Failed { message: superseded_by(verb, epoch) }
}

fn superseded_by(verb: CommandVerb, epoch: u64) -> String {
    if epoch == 0 { format!("superseded by a later {verb}") } else { format!("superseded by epoch {epoch} ({verb})") }
}

fn not_ready(answer: &Answer, id: &WorkloadId) -> String {
    if !answer.message.is_empty() {
        answer.message.clone()
    } else if answer.line(id).is_some() {
        "the driver's check does not pass".to_owned()
    } else {
        "the driver does not list it".to_owned()
    }
}

fn busy(answer: &Answer, remaining: Option<u64>) -> String {
    match remaining {
        _ if !answer.message.is_empty() => answer.message.clone(),
        Some(n) => format!("{n} left"),
        None => "the driver is still busy".to_owned(),
    }
}

fn left_until(at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default()
}
