//! Silence is judged, and ends with the first word.

use std::collections::BTreeSet;

use super::*;

use super::super::judge::Steady;
use super::super::{batch, inbox};

#[tokio::test]
async fn a_silent_peer_becomes_unreachable_and_its_first_word_heals_it() {
    let mut world = World::start(Duration::from_secs(1)).await;
    let a = heartbeat("a", "east");
    world.beat_until(std::slice::from_ref(&a), "a", async |pool| health(pool, "a").await.is_some()).await;
    execute(
        &world.pool,
        "insert into operation_locks values ('peers/a', '00000000-0000-0000-0000-000000000005'),
                                            ('clusters/east', '00000000-0000-0000-0000-000000000006')",
    )
    .await;
    let pool = world.pool.clone();
    eventually("silence", async || health(&pool, "a").await.as_deref() == Some("unreachable")).await;
    let woken = [world.woken.recv().await, world.woken.recv().await].map(|id| id.expect("is woken").as_u128());
    assert_eq!(BTreeSet::from(woken), BTreeSet::from([5, 6]), "its drain, and the promotion of its cluster");
    world.beat(&a).await;
    eventually("a word", async || health(&pool, "a").await.as_deref() == Some("healthy")).await;
    let told = events(&pool, "omnirelay.peers.health").await;
    let words: Vec<_> = told.iter().map(|event| event.data.audit.outcome.as_str()).collect();
    assert!(
        words.starts_with(&["suspect", "unreachable", "healthy"]) || words.starts_with(&["unreachable", "healthy"])
    );
    let healed = told.iter().find(|event| event.data.audit.outcome == "healthy").expect("is told");
    assert_eq!(healed.data.detail["was"], "unreachable");
    assert_eq!(healed.data.actor.as_deref(), Some("system:observer"));
    world.end().await;
}

#[tokio::test]
async fn what_is_older_than_the_record_is_not_taken() {
    let world = World::start(Duration::from_secs(60)).await;
    let (wake, _woken) = mpsc::channel(8);
    let options = ObserverOptions {
        pool: world.pool.clone(),
        bus: world.bus.clone(),
        settings: LiveSettings::load(&world.pool).await.expect("settings"),
        wake,
        published: Arc::new(Notify::new()),
    };
    // Two workers: neither knows what the other has seen.
    let observer = || batch::Observer::new(options.clone(), Arc::new(Steady::new()));
    let (mut one, mut other) = (observer(), observer());
    let beat = |seq: u64, version: &str| {
        let heartbeat = Heartbeat { seq, version: version.to_owned(), ..heartbeat("a", "east") };
        [inbox::Beat { heartbeat, received: tokio::time::Instant::now() }]
    };
    one.take(&beat(5, "new"), &world.stop).await;
    other.take(&beat(4, "old"), &world.stop).await;
    let version: String =
        sqlx::query_scalar("select version from peer_observed").fetch_one(&world.pool).await.expect("reads");
    assert_eq!(version, "new");
    world.end().await;
}
