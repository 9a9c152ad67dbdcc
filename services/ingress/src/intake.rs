//! The group commit. One task takes all requests that wait at a moment, reads what they need with one statement, decides
//! each in memory ([`admit`]), and writes all of them with one more, which is the transaction.
//!
//! There is no artificial delay: under load requests gather while the batch before them is committed. Refusals are written
//! by the same task, as their own rows of the outbox, before they are answered.
//!
//! A batch that fails on its data is taken apart until the bad row fails alone. One that fails otherwise is tried once more, with
//! every key looked up, so that a commit whose end was not heard is found and not repeated.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use omnirelay_contract::problem::{Code, Problem};
use omnirelay_store::clusters::{self, ClusterPeer};
use omnirelay_store::intake::{self, ClusterFacts, Intent, NewEvent, Question};
use omnirelay_store::live::LiveSettings;
use omnirelay_store::{PgConnection, PgPool, PoolConnection, StoreError};
use omnirelay_workflow::{OperationId, PeerId, Timestamp};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::admit::{Record, Verdict, admit};
use crate::confirmation::{Confirmations, Unconfirmed};
use crate::submission::{Asked, PreparedEvent, Submission};
use crate::wakeups::Wakeups;

/// Requests of one transaction at most.
const BATCH: usize = 256;
/// Requests that may wait for the task; beyond it they are told to come back.
const QUEUE: usize = 8_192;
/// How often a batch is tried when the database does not answer.
const ATTEMPTS: u32 = 2;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(2);

/// What became of a submission.
#[derive(Debug)]
pub enum Decision {
    /// It is in the record.
    Created {
        submission: Box<Submission>,
        created_at: Timestamp,
    },
    /// Its key is bound to this operation, by the same request.
    Replay(OperationId),
    /// A plan is wanted, or a confirmation.
    Plan {
        submission: Box<Submission>,
        revision: u64,
        unconfirmed: Option<Unconfirmed>,
    },
    Refused(Box<Problem>),
}

/// A verdict applies its gates to the submission that it is about.
fn take_gates(verdict: &mut Verdict, submission: &mut Submission) {
    match verdict {
        Verdict::Create { gates, pin } => {
            submission.with_gates(std::mem::take(gates));
            if let Some(revision) = pin {
                submission.if_match_json = Some(format!("[{revision}]"));
            }
        }
        Verdict::Plan { gates, .. } => submission.with_gates(std::mem::take(gates)),
        Verdict::Replay(_) | Verdict::Written | Verdict::Refuse(_) => {}
    }
}

/// It is not known whether anything was written; or nothing can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IntakeError {
    #[error("the database does not answer")]
    Unavailable,
    #[error("too many operations wait for the worker")]
    BacklogFull,
    #[error("the row cannot be stored")]
    Data,
}

/// Where requests are handed in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Intake {
    jobs: mpsc::Sender<Job>,
}

#[derive(Debug)]
enum Job {
    Submit {
        submission: Box<Submission>,
        answer: oneshot::Sender<Result<Decision, IntakeError>>,
    },
    /// A refusal to record.
    Record {
        event: PreparedEvent,
        answer: oneshot::Sender<Result<(), IntakeError>>,
    },
}

/// What the task works with.
#[derive(Debug)]
pub struct IntakeTask {
    pub pool: PgPool,
    pub confirmations: Confirmations,
    pub settings: LiveSettings,
    pub wakeups: Wakeups,
    /// The instance, named in operations that somebody waits for here.
    pub instance: String,
    /// Set while more operations wait than is allowed.
    pub backlog_full: Arc<AtomicBool>,
}

impl Intake {
    /// Starts the task. It ends when `stop` is cancelled and what waits has been answered.
    pub fn start(task: IntakeTask, stop: CancellationToken) -> (Self, tokio::task::JoinHandle<()>) {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let worker = Worker { task, connection: None };
        (Self { jobs }, tokio::spawn(worker.run(queue, stop)))
    }

    pub async fn submit(&self, submission: Box<Submission>) -> Result<Decision, IntakeError> {
        let (answer, decision) = oneshot::channel();
        self.jobs.try_send(Job::Submit { submission, answer }).map_err(|_| IntakeError::Unavailable)?;
        decision.await.map_err(|_| IntakeError::Unavailable)?
    }

    /// Writes a refusal into the outbox; returns when it is committed.
    pub async fn record(&self, event: PreparedEvent) -> Result<(), IntakeError> {
        let (answer, recorded) = oneshot::channel();
        self.jobs.try_send(Job::Record { event, answer }).map_err(|_| IntakeError::Unavailable)?;
        recorded.await.map_err(|_| IntakeError::Unavailable)?
    }
}

/// Jobs that go through one transaction, and how often that was tried.
struct Group {
    jobs: Vec<Job>,
    attempt: u32,
}

struct Worker {
    task: IntakeTask,
    /// Kept from batch to batch: taking one from the pool would cost a round trip to see whether it still lives.
    connection: Option<PoolConnection>,
}

impl Worker {
    async fn run(mut self, mut queue: mpsc::Receiver<Job>, stop: CancellationToken) {
        let mut jobs = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased;
                taken = queue.recv_many(&mut jobs, BATCH) => if taken == 0 { return },
                () = stop.cancelled() => {
                    // What was handed in before is still taken; nothing new can be.
                    queue.close();
                    while queue.recv_many(&mut jobs, BATCH).await > 0 {
                        self.process(std::mem::take(&mut jobs)).await;
                    }
                    return;
                }
            }
            self.process(std::mem::replace(&mut jobs, Vec::with_capacity(BATCH))).await;
        }
    }

    async fn process(&mut self, jobs: Vec<Job>) {
        metrics::histogram!("omnirelay_batch_size", "stage" => "intake").record(jobs.len() as f64);
        let started = Instant::now();
        let mut groups = VecDeque::from([Group { jobs, attempt: 1 }]);
        while let Some(group) = groups.pop_front() {
            let attempt = group.attempt;
            let Some(connection) = self.connect().await else {
                group.jobs.into_iter().for_each(|job| job.fail(IntakeError::Unavailable));
                continue;
            };
            match self.transact(connection, group).await {
                // Keys or locks that somebody else took at the same moment: read again what is there now.
                Ok(lost) if lost.is_empty() => {}
                Ok(lost) => groups.push_back(Group { jobs: lost, attempt }),
                Err((error, jobs)) => self.failed(&error, jobs, attempt, &mut groups),
            }
        }
        metrics::histogram!("omnirelay_mutation_seconds", "verb" => "all", "stage" => "intake")
            .record(started.elapsed().as_secs_f64());
    }

    /// The connection, or a new one. Without one nothing was written, so whoever waits is told soon.
    async fn connect(&mut self) -> Option<PoolConnection> {
        if let Some(connection) = self.connection.take() {
            return Some(connection);
        }
        match tokio::time::timeout(CONNECT, self.task.pool.acquire()).await {
            Ok(Ok(connection)) => Some(connection),
            Ok(Err(error)) => {
                tracing::warn!(%error, "there is no connection to the database");
                None
            }
            Err(_) => {
                tracing::warn!("there is no connection to the database in time");
                None
            }
        }
    }

    fn failed(&mut self, error: &StoreError, mut jobs: Vec<Job>, attempt: u32, groups: &mut VecDeque<Group>) {
        if error.is_data() {
            // A lock or key that was lost in the middle of the statement: read again what is there now.
            if error.is_lost_race() && attempt <= ATTEMPTS {
                groups.push_front(Group { jobs, attempt: attempt + 1 });
                return;
            }
            if jobs.len() > 1 {
                let second = jobs.split_off(jobs.len() / 2);
                groups.push_front(Group { jobs: second, attempt });
                groups.push_front(Group { jobs, attempt });
                return;
            }
            tracing::error!(%error, "a request cannot be stored");
            jobs.into_iter().for_each(|job| job.fail(IntakeError::Data));
            return;
        }
        self.connection = None;
        if attempt < ATTEMPTS {
            groups.push_front(Group { jobs, attempt: attempt + 1 });
            return;
        }
        tracing::warn!(%error, requests = jobs.len(), "requests cannot be committed");
        jobs.into_iter().for_each(|job| job.fail(IntakeError::Unavailable));
    }

    /// Decides and writes a group. Returns those that lost their key or lock to somebody else meanwhile, and all of them
    /// on an error.
    async fn transact(
        &mut self,
        mut connection: PoolConnection,
        group: Group,
    ) -> Result<Vec<Job>, (StoreError, Vec<Job>)> {
        let Group { jobs, attempt } = group;
        let result = self.transact_on(&mut connection, jobs, attempt).await;
        if !matches!(&result, Err((error, _)) if !error.is_data()) {
            self.connection = Some(connection);
        }
        result
    }

    async fn transact_on(
        &self,
        connection: &mut PgConnection,
        jobs: Vec<Job>,
        attempt: u32,
    ) -> Result<Vec<Job>, (StoreError, Vec<Job>)> {
        let decided = match self.decide(connection, &jobs, attempt).await {
            Ok(decided) => decided,
            Err(error) => return Err((error, jobs)),
        };
        let mut creating = Vec::with_capacity(jobs.len());
        let mut recording = Vec::new();
        let mut verdicts = decided.into_iter();
        for job in jobs {
            match job {
                Job::Record { .. } => recording.push(job),
                Job::Submit { mut submission, answer } => match verdicts.next() {
                    Some(mut verdict) => {
                        take_gates(&mut verdict, &mut submission);
                        match verdict {
                            Verdict::Create { .. } => creating.push((submission, answer)),
                            verdict => self.answer(verdict, submission, answer),
                        }
                    }
                    None => reply(answer, Err(IntakeError::Unavailable)),
                },
            }
        }
        if creating.is_empty() && recording.is_empty() {
            return Ok(Vec::new());
        }
        creating.sort_by(|(a, _), (b, _)| (&a.principal.subject, &a.key).cmp(&(&b.principal.subject, &b.key)));
        let intents: Vec<Intent<'_>> =
            creating.iter().map(|(submission, _)| intent(submission, &self.task.instance)).collect();
        let refusals: Vec<NewEvent<'_>> = recording.iter().filter_map(Job::event).collect();
        let written = intake::commit(connection, &intents, &refusals).await;
        drop((intents, refusals));
        let written = match written {
            Ok(written) => written,
            Err(error) => {
                recording.extend(creating.into_iter().map(|(submission, answer)| Job::Submit { submission, answer }));
                return Err((error, recording));
            }
        };
        for job in recording {
            if let Job::Record { answer, .. } = job {
                reply(answer, Ok(()));
            }
        }
        let created: std::collections::HashMap<OperationId, Timestamp> =
            written.into_iter().filter_map(|one| Some((one.id, one.created_at?))).collect();
        let mut lost = Vec::new();
        for (submission, answer) in creating {
            match created.get(&submission.id) {
                Some(created_at) => {
                    self.task.wakeups.request(&submission);
                    reply(answer, Ok(Decision::Created { submission, created_at: *created_at }));
                }
                None => lost.push(Job::Submit { submission, answer }),
            }
        }
        Ok(lost)
    }

    /// A verdict for each submission, in their order. After an attempt whose end is not known every key is looked up,
    /// generated ones too: the operation may be there.
    async fn decide(
        &self,
        connection: &mut PgConnection,
        jobs: &[Job],
        attempt: u32,
    ) -> Result<Vec<Verdict>, StoreError> {
        let submissions: Vec<&Submission> = jobs.iter().filter_map(Job::submission).collect();
        if submissions.is_empty() {
            return Ok(Vec::new());
        }
        let questions: Vec<Question<'_>> = submissions
            .iter()
            .map(|submission| Question {
                actor: &submission.principal.subject,
                key: (submission.key_given || attempt > 1).then_some(submission.key.as_str()),
                peer: submission.about.peer().map(PeerId::as_str),
            })
            .collect();
        // Labels are only for rules; rules that have come since are seen by their revision.
        let with_labels = !self.task.settings.seen().settings.approvals.rules.is_empty();
        let mut facts = intake::facts(connection, &questions, with_labels).await?;
        let revision = facts.iter().map(|facts| facts.config).max().unwrap_or(0);
        let settings = self.task.settings.at_least(connection, revision).await?;
        if !with_labels && !settings.settings.approvals.rules.is_empty() {
            facts = intake::facts(connection, &questions, true).await?;
        }
        let (clusters, peers) = clusters_of(connection, &submissions).await?;
        let now = Timestamp::now();
        let full = self.task.backlog_full.load(Ordering::Relaxed);
        Ok(submissions
            .iter()
            .zip(&facts)
            .map(|(submission, facts)| {
                let record = Record { facts, clusters: &clusters, peers: &peers, settings: &settings };
                match admit(submission, record, &self.task.confirmations, now) {
                    Verdict::Create { .. } if full => Verdict::Refuse(Box::new(backlog_full())),
                    verdict => verdict,
                }
            })
            .collect())
    }

    fn answer(
        &self,
        verdict: Verdict,
        submission: Box<Submission>,
        answer: oneshot::Sender<Result<Decision, IntakeError>>,
    ) {
        let decision = match verdict {
            Verdict::Create { .. } => Err(IntakeError::Unavailable),
            Verdict::Written => {
                self.task.wakeups.request(&submission);
                Ok(Decision::Created { created_at: created_at(submission.id), submission })
            }
            Verdict::Replay(operation) => Ok(Decision::Replay(operation)),
            Verdict::Plan { revision, unconfirmed, gates: _ } => {
                Ok(Decision::Plan { submission, revision, unconfirmed })
            }
            Verdict::Refuse(problem) if problem.code == Code::BacklogFull => Err(IntakeError::BacklogFull),
            Verdict::Refuse(problem) => Ok(Decision::Refused(problem)),
        };
        reply(answer, decision);
    }
}

impl Job {
    fn submission(&self) -> Option<&Submission> {
        match self {
            Job::Submit { submission, .. } => Some(submission),
            Job::Record { .. } => None,
        }
    }

    fn event(&self) -> Option<NewEvent<'_>> {
        match self {
            Job::Submit { .. } => None,
            Job::Record { event, .. } => Some(new_event(event)),
        }
    }

    fn fail(self, error: IntakeError) {
        match self {
            Job::Submit { answer, .. } => reply(answer, Err(error)),
            Job::Record { answer, .. } => reply(answer, Err(error)),
        }
    }
}

/// What is to be known of clusters, where a submission is about any: few are.
async fn clusters_of(
    connection: &mut PgConnection,
    submissions: &[&Submission],
) -> Result<(Vec<ClusterFacts>, Vec<ClusterPeer>), StoreError> {
    let mut names: Vec<&str> = submissions.iter().flat_map(|one| one.asked.clusters(&one.about)).collect();
    if names.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    names.sort_unstable();
    names.dedup();
    let moves = submissions.iter().any(|one| matches!(one.asked, Asked::Clusters(_)));
    let clusters = intake::clusters(connection, &names, moves).await?;
    let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    let peers = if moves { clusters::peers(connection, &names).await? } else { Vec::new() };
    Ok((clusters, peers))
}

fn intent<'a>(submission: &'a Submission, instance: &'a str) -> Intent<'a> {
    Intent {
        id: submission.id,
        verb: submission.verb.as_str(),
        target: &submission.target,
        actor: &submission.principal.subject,
        actor_json: &submission.actor_json,
        reason: submission.reason.as_deref(),
        change_ticket: submission.change_ticket.as_deref(),
        params: &submission.params,
        digest: &submission.digest,
        key: &submission.key,
        request_digest: &submission.request_digest,
        ingress: submission.waits.then_some(instance),
        traceparent: &submission.traceparent,
        parent: None,
        gates: submission.gates_json.as_deref(),
        if_match: submission.if_match_json.as_deref(),
        locks: &submission.locks,
        event: new_event(&submission.event),
    }
}

fn new_event(event: &PreparedEvent) -> NewEvent<'_> {
    NewEvent { id: event.id, nats_subject: &event.nats_subject, payload: &event.payload }
}

fn backlog_full() -> Problem {
    Problem::new(Code::BacklogFull, "too many operations wait for the worker: try again later")
}

/// The time in a UUIDv7, for an operation that was found to be written: near enough for an answer that says "accepted".
fn created_at(id: OperationId) -> Timestamp {
    id.get_timestamp()
        .and_then(|time| {
            let (seconds, nanos) = time.to_unix();
            Timestamp::new(i64::try_from(seconds).ok()?, i32::try_from(nanos).ok()?).ok()
        })
        .unwrap_or_else(Timestamp::now)
}

fn reply<T>(answer: oneshot::Sender<T>, value: T) {
    // Whoever asked may be gone; what was decided stands all the same.
    let _gone = answer.send(value);
}

#[cfg(test)]
mod tests;
