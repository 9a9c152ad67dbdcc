use std::collections::HashSet;

use omnirelay_bus::Bus;
use omnirelay_devstack::testing;
use omnirelay_runtime::auth::{Principal, Scope};
use omnirelay_store::reads::operations::{self, OperationFilter};
use omnirelay_store::{PoolOptions, connect, migrate, reads};
use omnirelay_workflow::PeerId;
use omnirelay_workflow::operation::{Target, Verb};

use super::*;
use crate::submission::{Draft, prepare_event};

/// An intake on a database of its own, with peers `a` and `b`, the second of them drained.
struct Harness {
    pool: PgPool,
    intake: Intake,
    confirmations: Confirmations,
    backlog_full: Arc<AtomicBool>,
    _stop: tokio_util::sync::DropGuard,
}

async fn harness() -> Harness {
    let stack = testing::shared().await;
    let options = PoolOptions { max_connections: 4, index_scans_only: true, application: "intake-test" };
    let pool = connect(&stack.database().await, options).await.expect("a database");
    migrate(&pool).await.expect("the schema");
    for statement in [
        "insert into clusters (id, state) values ('c', 'active')",
        "insert into peers (id, name, cluster) values ('a', 'a', 'c')",
        "insert into peers (id, name, cluster, drain_mark) values ('b', 'b', 'c', 'drained')",
    ] {
        sqlx::query(statement).execute(&pool).await.expect("a registry");
    }
    let stop = CancellationToken::new();
    let bus = Bus::connect(&stack.nats_account().await, "intake-test").await.expect("a bus");
    let (wakeups, _) = Wakeups::start(bus, stop.clone());
    let confirmations = Confirmations::new(b"key".to_vec());
    let backlog_full = Arc::new(AtomicBool::new(false));
    let task = IntakeTask {
        pool: pool.clone(),
        confirmations: confirmations.clone(),
        settings: LiveSettings::load(&pool).await.expect("settings"),
        wakeups,
        instance: "test".to_owned(),
        backlog_full: Arc::clone(&backlog_full),
    };
    let (intake, _) = Intake::start(task, stop.clone());
    Harness { pool, intake, confirmations, backlog_full, _stop: stop.drop_guard() }
}

fn submission(verb: Verb, peer: &str, actor: &str, key: Option<&str>) -> Box<Submission> {
    let principal = Arc::new(Principal {
        subject: actor.to_owned(),
        scopes: [Scope::Operate].into_iter().collect(),
        granted: vec![Scope::Operate.to_string()],
        token_id: None,
    });
    let draft = Draft {
        id: None,
        verb,
        about: Target::Peer(PeerId::parse(peer).expect("an id")),
        asked: Asked::Peer,
        principal: &principal,
        address: "127.0.0.1".to_owned(),
        reason: None,
        change_ticket: None,
        params: "{}".to_owned(),
        request_digest: format!("{verb} {peer}"),
        traceparent: String::new(),
    };
    let mut submission = draft.prepare().expect("a submission");
    if let Some(key) = key {
        submission.key = key.to_owned();
        submission.key_given = true;
    }
    Box::new(submission)
}

impl Harness {
    fn drain(&self, peer: &str, actor: &str, key: Option<&str>) -> Box<Submission> {
        let mut submission = submission(Verb::PeersDrain, peer, actor, key);
        let subject = crate::confirmation::Subject {
            actor,
            request_digest: &submission.request_digest,
            target: &submission.target,
            revision: 1,
        };
        submission.confirmation = Some(self.confirmations.give(subject, Timestamp::now()).token);
        submission
    }

    #[expect(clippy::vec_box, reason = "submissions are boxed wherever they go")]
    /// All at once; the kinds of the decisions, in order, and the operations that they name.
    async fn at_once(&self, all: Vec<Box<Submission>>) -> (Vec<&'static str>, HashSet<OperationId>) {
        let waiting: Vec<_> = all
            .into_iter()
            .map(|submission| {
                let intake = self.intake.clone();
                tokio::spawn(async move { intake.submit(submission).await })
            })
            .collect();
        let (mut kinds, mut operations) = (Vec::new(), HashSet::new());
        for one in waiting {
            kinds.push(match one.await.expect("no panic") {
                Ok(Decision::Created { submission, .. }) => {
                    operations.insert(submission.id);
                    "created"
                }
                Ok(Decision::Replay(id)) => {
                    operations.insert(id);
                    "replay"
                }
                Ok(Decision::Plan { .. }) => "plan",
                Ok(Decision::Refused(problem)) => problem.code.as_str(),
                Err(IntakeError::Data) => "data",
                Err(IntakeError::Unavailable) => "unavailable",
                Err(IntakeError::BacklogFull) => "backlog-full",
            });
        }
        (kinds, operations)
    }

    async fn one(&self, submission: Box<Submission>) -> &'static str {
        self.at_once(vec![submission]).await.0[0]
    }

    async fn count(&self, statement: &'static str) -> i64 {
        sqlx::query_scalar(statement).fetch_one(&self.pool).await.expect("a count")
    }
}

fn times(kinds: &[&str], kind: &str) -> usize {
    kinds.iter().filter(|one| **one == kind).count()
}

#[tokio::test]
async fn fifty_requests_with_one_key_are_one_operation() {
    let harness = harness().await;
    let all = (0..50).map(|_| submission(Verb::PeersCordon, "a", "ana", Some("k"))).collect();
    let (kinds, operations) = harness.at_once(all).await;
    assert_eq!((times(&kinds, "created"), times(&kinds, "replay")), (1, 49), "{kinds:?}");
    assert_eq!(operations.len(), 1);
    assert_eq!(harness.count("select count(*) from operations").await, 1);
    assert_eq!(harness.count("select count(*) from events").await, 1);
    // The same key of somebody else is another key; of the same actor for another request it is an error.
    assert_eq!(harness.one(submission(Verb::PeersCordon, "a", "bo", Some("k"))).await, "created");
    assert_eq!(harness.one(submission(Verb::PeersUncordon, "a", "ana", Some("k"))).await, "idempotency-key-reused");
}

#[tokio::test]
async fn of_two_drains_one_has_the_lock_and_the_other_is_told_who() {
    let harness = harness().await;
    let (kinds, operations) =
        harness.at_once(vec![harness.drain("a", "ana", None), harness.drain("a", "bo", None)]).await;
    assert_eq!((times(&kinds, "created"), times(&kinds, "operation-in-progress")), (1, 1), "{kinds:?}");
    let holder: OperationId = sqlx::query_scalar("select operation from operation_locks where resource = 'peers/a'")
        .fetch_one(&harness.pool)
        .await
        .expect("a lock");
    assert!(operations.contains(&holder));
    assert_eq!(harness.count("select count(*) from operations").await, 1);
}

#[tokio::test]
async fn one_key_for_two_drains_leaves_no_lock_without_an_operation() {
    let harness = harness().await;
    for round in 0..5 {
        let key = format!("k{round}");
        let peers = [format!("p{round}a"), format!("p{round}b")];
        for peer in &peers {
            sqlx::query("insert into peers (id, name, cluster) values ($1, $1, 'c')")
                .bind(peer)
                .execute(&harness.pool)
                .await
                .expect("a peer");
        }
        let drains = peers.iter().map(|peer| harness.drain(peer, "ana", Some(&key))).collect();
        let (kinds, _) = harness.at_once(drains).await;
        assert_eq!((times(&kinds, "created"), times(&kinds, "idempotency-key-reused")), (1, 1), "{kinds:?}");
    }
    let orphans =
        "select count(*) from operation_locks l where not exists (select 1 from operations where id = l.operation)";
    assert_eq!(harness.count(orphans).await, 0);
    assert_eq!(harness.count("select count(*) from operation_locks").await, 5);
}

#[tokio::test]
async fn a_bad_row_fails_alone() {
    let harness = harness().await;
    let mut all: Vec<_> = (0..20).map(|_| submission(Verb::PeersCordon, "a", "ana", None)).collect();
    all[7].reason = Some("PostgreSQL cannot store \0".to_owned());
    let (kinds, operations) = harness.at_once(all).await;
    assert_eq!(kinds[7], "data");
    assert_eq!(times(&kinds, "created"), 19, "{kinds:?}");
    assert_eq!(operations.len(), 19);
}

#[tokio::test]
async fn what_is_committed_can_be_read_back_as_it_was_answered() {
    let harness = harness().await;
    let drain = harness.drain("a", "ana", None);
    let Ok(Decision::Created { submission, created_at }) = harness.intake.submit(drain).await else {
        panic!("not created");
    };
    let row = operations::get(&harness.pool, submission.id).await.expect("a read").expect("the operation");
    let read = reads::mutated_dto(&row).expect("an operation");
    assert_eq!(read, submission.accepted(created_at).expect("an answer"));
    let events: Vec<(String, String, i64)> = sqlx::query_as(
        "select nats_subject, payload, (select event_seq from operations where id = operation) from events",
    )
    .fetch_all(&harness.pool)
    .await
    .expect("events");
    let [(subject, payload, 1)] = events.as_slice() else { panic!("{events:?}") };
    let event: omnirelay_contract::event::Event = serde_json::from_str(payload).expect("a CloudEvent");
    assert_eq!(event.nats_subject().as_ref(), Some(subject));
    assert_eq!(event.data.operation_seq, Some(1));
    let live = OperationFilter { states: Some(vec!["submitted".to_owned()]), ..OperationFilter::default() };
    let page = operations::page(&harness.pool, &live, false, None, 10).await.expect("a page");
    assert_eq!(page.len(), 1);
}

#[tokio::test]
async fn confirmations_peers_and_the_backlog_are_looked_at() {
    let harness = harness().await;
    assert_eq!(harness.one(submission(Verb::PeersDrain, "a", "ana", None)).await, "plan");
    assert_eq!(harness.one(submission(Verb::PeersDrain, "b", "ana", None)).await, "created");
    assert_eq!(harness.one(submission(Verb::PeersDrain, "nobody", "ana", None)).await, "not-found");
    assert_eq!(harness.one(submission(Verb::PeersCordon, "a", "ana", Some("k"))).await, "created");
    harness.backlog_full.store(true, Ordering::Relaxed);
    assert_eq!(harness.one(submission(Verb::PeersCordon, "a", "ana", None)).await, "backlog-full");
    assert_eq!(harness.one(submission(Verb::PeersCordon, "a", "ana", Some("k"))).await, "replay");
}

#[tokio::test]
async fn refusals_are_rows_of_the_outbox() {
    let harness = harness().await;
    let data = omnirelay_contract::event::EventData::default();
    let event = prepare_event("access", "ana", "denied", "", data).expect("an event");
    harness.intake.record(event).await.expect("recorded");
    let count = "select count(*) from events where resource = 'access' and operation is null";
    assert_eq!(harness.count(count).await, 1);
    assert_eq!(harness.count("select count(*) from operations").await, 0);
}
