//! The registry follows what agents say.

use super::*;

use std::collections::BTreeSet;

use futures_util::StreamExt;
use omnirelay_contract::agent::{ClusterRole, Command, CommandVerb};
use omnirelay_workflow::resource::Role;
use serde_json::json;

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn unknown_peers_are_adopted_with_what_they_run() {
    let mut world = World::start(LONG).await;
    let mut a = heartbeat("a", "east");
    a.workloads = vec![observed("w1", 3)];
    let b = Heartbeat { describe: a.describe.clone(), ..heartbeat("b", "east") };
    let c = heartbeat("c", "west");
    // `b` has the name of `a`; the three may come in one batch or in several.
    world
        .beat_until(&[a, b, c], "three peers", async |pool| {
            let n: i64 = sqlx::query_scalar("select count(*) from peer_observed").fetch_one(pool).await.expect("reads");
            n == 3
        })
        .await;
    let pool = &world.pool;
    let mut names: Vec<String> = sqlx::query_scalar("select name from peers").fetch_all(pool).await.expect("reads");
    names.sort();
    assert!(names == ["a", "a.example", "c.example"] || names == ["a.example", "b", "c.example"], "{names:?}");
    let active: i64 = sqlx::query_scalar("select count(*) from clusters where state = 'active'")
        .fetch_one(pool)
        .await
        .expect("reads");
    assert_eq!(active, 1, "of two clusters");
    assert_eq!(record(pool, "w1").await, Some(("a".to_owned(), 3, true)));
    let peers = events(pool, "omnirelay.peers.changed").await;
    assert_eq!(peers.len(), 3);
    let event = peers.iter().find(|event| event.subject == "peers/a").expect("of a");
    assert_eq!(event.data.actor.as_deref(), Some("agent:a"));
    assert_eq!((event.data.audit.verb.as_str(), event.data.audit.outcome.as_str()), ("peers.adopt", "succeeded"));
    assert_eq!(event.data.detail["adopted"], true);
    assert_eq!(events(pool, "omnirelay.clusters.changed").await.len(), 2);
    world.end().await;
}

#[tokio::test]
async fn workloads_change_and_go() {
    let mut world = World::start(LONG).await;
    let mut a = heartbeat("a", "east");
    a.workloads = vec![observed("w1", 3), observed("w2", 1)];
    world.beat_until(std::slice::from_ref(&a), "both", async |pool| record(pool, "w2").await.is_some()).await;
    a.workloads[0].ready = false;
    a.workloads[0].epoch = 4;
    a.workloads.truncate(1);
    world.beat_until(std::slice::from_ref(&a), "w2 gone", async |pool| record(pool, "w2").await.is_none()).await;
    assert_eq!(record(&world.pool, "w1").await, Some(("a".to_owned(), 4, false)));
    world.end().await;
}

#[tokio::test]
async fn a_move_belongs_to_its_operation_which_is_told_of_news() {
    let mut world = World::start(LONG).await;
    let (a, b) = (heartbeat("a", "east"), heartbeat("b", "east"));
    world.beat_until(&[a.clone(), b.clone()], "both", async |pool| health(pool, "b").await.is_some()).await;
    execute(
        &world.pool,
        "insert into workloads (id, service, peer, handover, epoch, state, operation, target)
         values ('w1', 's', 'a', 'stop-first', 7, 'moving', '00000000-0000-0000-0000-000000000005', 'b')",
    )
    .await;
    // The source does not list it, the target does, a second incarnation of it even: nothing is concluded.
    let mut b = b;
    b.workloads = vec![ObservedWorkload { handover: Handover::StopFirst, ..observed("w1", 7) }];
    b.incarnation = Uuid::from_u128(2);
    world.beat(&b).await;
    let woken = tokio::time::timeout(Duration::from_secs(10), world.woken.recv()).await.expect("is woken");
    assert_eq!(woken, Some(Uuid::from_u128(5)));
    assert_eq!(record(&world.pool, "w1").await, Some(("a".to_owned(), 7, true)));
    world.end().await;
}

#[tokio::test]
async fn two_owners_are_told_of_once_and_left_alone() {
    let mut world = World::start(LONG).await;
    let mut a = heartbeat("a", "east");
    a.workloads = vec![observed("w1", 3)];
    world.beat_until(std::slice::from_ref(&a), "w1", async |pool| record(pool, "w1").await.is_some()).await;
    let mut b = heartbeat("b", "east");
    b.workloads = vec![observed("w1", 5)];
    let told = async |pool: &PgPool| !events(pool, "omnirelay.workloads.drift").await.is_empty();
    world.beat_until(&[a.clone(), b.clone()], "drift", told).await;
    // Another round, known to be taken by what it changes.
    b.version = "2".to_owned();
    let taken = async |pool: &PgPool| {
        let version: String = sqlx::query_scalar("select version from peer_observed where peer = 'b'")
            .fetch_one(pool)
            .await
            .expect("reads");
        version == "2"
    };
    world.beat_until(&[a, b], "another look", taken).await;
    let drift = events(&world.pool, "omnirelay.workloads.drift").await;
    assert_eq!(drift.len(), 1);
    let detail = serde_json::Value::Object(drift[0].data.detail.clone());
    let expect = serde_json::json!({
        "peer": "b", "owner": "a", "epoch": 5, "recordEpoch": 3, "why": "epoch-above-record",
    });
    assert_eq!(detail, expect);
    assert_eq!(record(&world.pool, "w1").await, Some(("a".to_owned(), 3, true)));
    world.end().await;
}

#[tokio::test]
async fn agents_are_told_of_holds_until_they_agree() {
    let mut world = World::start(LONG).await;
    let mut agent = world.bus.subscribe("omni.v1.agent.a.*").await.expect("subscribes");
    let mut a = heartbeat("a", "east");
    world.beat_until(std::slice::from_ref(&a), "a", async |pool| health(pool, "a").await.is_some()).await;
    execute(
        &world.pool,
        r#"update peers set holds = '[{"id": "00000000-0000-0000-0000-000000000007", "kind": "manual", "owner": "me",
           "operation": null, "reason": null, "changeTicket": null, "since": "2026-01-01T00:00:00Z"}]'"#,
    )
    .await;
    world.beat(&a).await;
    let message =
        tokio::time::timeout(Duration::from_secs(10), agent.next()).await.expect("in time").expect("a command");
    assert_eq!(message.subject.as_str(), "omni.v1.agent.a.cordon");
    let command: Command = serde_json::from_slice(&message.payload).expect("a command");
    assert_eq!(command.holds, [Uuid::from_u128(7)]);
    assert_eq!(command.operation, None);

    a.holds = command.holds;
    execute(&world.pool, "update peers set holds = '[]'").await;
    world.beat(&a).await;
    let message =
        tokio::time::timeout(Duration::from_secs(10), agent.next()).await.expect("in time").expect("a command");
    assert_eq!(message.subject.as_str(), "omni.v1.agent.a.uncordon");
    world.end().await;
}

#[tokio::test]
async fn an_agent_is_told_its_role_before_its_holds_where_there_was_a_promotion() {
    let mut world = World::start(LONG).await;
    let mut agent = world.bus.subscribe("omni.v1.agent.a.*").await.expect("subscribes");
    let mut a = heartbeat("a", "east");
    world.beat_until(std::slice::from_ref(&a), "a", async |pool| health(pool, "a").await.is_some()).await;
    // The role first: a heartbeat that is still on its way must not find the hold alone.
    execute(&world.pool, "update clusters set state = 'passive', failover_version = 4").await;
    execute(
        &world.pool,
        r#"update peers set holds = '[{"id": "00000000-0000-0000-0000-000000000007", "kind": "manual", "owner": "me",
           "operation": null, "reason": null, "changeTicket": null, "since": "2026-01-01T00:00:00Z"}]'"#,
    )
    .await;
    world.beat(&a).await;
    let role = next(&mut agent).await;
    let cluster = role.cluster.expect("a role");
    assert_eq!((cluster.role, cluster.failover_version, role.operation), (Role::Passive, 4, None));
    let hold = next(&mut agent).await;
    assert_eq!(hold.verb, CommandVerb::Cordon);

    // It says so: the next that it hears is about its holds again.
    (a.cluster, a.holds) = (Some(cluster), hold.holds);
    execute(&world.pool, "update peers set holds = '[]'").await;
    world.beat(&a).await;
    assert_eq!(next(&mut agent).await.verb, CommandVerb::Uncordon);
    world.end().await;
}

#[tokio::test]
async fn a_heartbeat_that_shows_a_role_is_the_report_of_it() {
    let mut world = World::start(LONG).await;
    let mut a = heartbeat("a", "east");
    let b = heartbeat("b", "east");
    world.beat_until(&[a.clone(), b], "both", async |pool| health(pool, "b").await.is_some()).await;
    execute(&world.pool, "update clusters set state = 'promoting', failover_version = 4").await;
    execute(
        &world.pool,
        "insert into operation_locks values ('clusters/east', '00000000-0000-0000-0000-000000000005')",
    )
    .await;
    for (id, peer, version) in [("c-1", "a", 3), ("c-2", "a", 4), ("c-3", "b", 4)] {
        let payload = json!({ "cluster": { "cluster": "east", "failoverVersion": version, "role": "fenced" } });
        sqlx::query(
            "insert into effects (id, operation, peer, verb, payload, undo, state, next_at, expires_at)
             values ($1, '00000000-0000-0000-0000-000000000005', $2, 'role', $3, false, 'accepted', now(),
                     now() + interval '1 minute')",
        )
        .bind(id)
        .bind(peer)
        .bind(payload.to_string())
        .execute(&world.pool)
        .await
        .expect("a command");
    }
    let cluster = ClusterId::parse("east").expect("an id");
    a.cluster = Some(ClusterRole { cluster, failover_version: 4, role: Role::Fenced });
    world.beat(&a).await;
    let woken = tokio::time::timeout(Duration::from_secs(10), world.woken.recv()).await.expect("is woken");
    assert_eq!(woken, Some(Uuid::from_u128(5)));
    let answered: Vec<(String, String)> = sqlx::query_as("select id, outcome from effects where state = 'answered'")
        .fetch_all(&world.pool)
        .await
        .expect("reads");
    assert_eq!(
        answered,
        [("c-2".to_owned(), "\"done\"".to_owned())],
        "neither of an older version nor of another peer"
    );
    world.end().await;
}

#[tokio::test]
async fn a_peer_that_is_back_lets_those_go_on_who_waited_for_it() {
    let mut world = World::start(LONG).await;
    let (a, b) = (heartbeat("a", "east"), heartbeat("b", "west"));
    world.beat_until(&[a.clone(), b], "both", async |pool| health(pool, "b").await.is_some()).await;
    let promotion = Uuid::from_u128(1);
    sqlx::query("insert into operation_locks values ('clusters/east', $1)")
        .bind(promotion)
        .execute(&world.pool)
        .await
        .expect("a lock");
    let full = r#"[{"code":"no-capacity"}]"#;
    for (n, state, slot, cluster, blockers) in [
        (2, "queued", false, "east", "[]"),
        (3, "running", true, "east", full),
        (4, "running", true, "east", "[]"),
        (5, "queued", false, "west", "[]"),
        (6, "running", true, "west", full),
    ] {
        sqlx::query(
            "insert into operations (id, verb, target, state, actor, actor_json, digest, idempotency_key, request_digest,
                                     created_at, holds_slot, waits_for, blockers)
             values ($1, 'peers.drain', 'peers/a', $2, 'ana', '{}', '', $1::text, '', now(), $3, $4, $5)",
        )
        .bind(Uuid::from_u128(n))
        .bind(state)
        .bind(slot)
        .bind(cluster)
        .bind(blockers)
        .execute(&world.pool)
        .await
        .expect("an operation");
    }
    execute(&world.pool, "update peer_observed set health = 'unreachable' where peer = 'a'").await;
    world.beat(&a).await;
    let mut woken = BTreeSet::new();
    while woken.len() < 3 {
        let next = tokio::time::timeout(Duration::from_secs(10), world.woken.recv()).await.expect("are woken");
        woken.insert(next.expect("an operation").as_u128());
    }
    assert_eq!(woken, BTreeSet::from([1, 2, 3]), "the promotion, the head of the queue, the drain without room");
    assert!(world.woken.try_recv().is_err(), "nobody else");
    world.end().await;
}

/// The next command, in time.
async fn next(agent: &mut omnirelay_bus::Subscriber) -> Command {
    let message =
        tokio::time::timeout(Duration::from_secs(10), agent.next()).await.expect("in time").expect("a command");
    serde_json::from_slice(&message.payload).expect("a command")
}

#[tokio::test]
async fn a_bad_heartbeat_harms_nobody() {
    let mut world = World::start(LONG).await;
    let client = world.bus.client().clone();
    client.publish("omni.v1.heartbeat.a", "nonsense".into()).await.expect("publishes");
    let forged = serde_json::to_vec(&heartbeat("b", "east")).expect("serialises");
    client.publish("omni.v1.heartbeat.a", forged.into()).await.expect("publishes");
    world.beat_until(&[heartbeat("c", "east")], "c", async |pool| health(pool, "c").await.is_some()).await;
    let peers: Vec<String> = sqlx::query_scalar("select id from peers").fetch_all(&world.pool).await.expect("reads");
    assert_eq!(peers, ["c"]);
    world.end().await;
}
