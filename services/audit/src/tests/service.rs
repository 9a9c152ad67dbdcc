use futures_util::StreamExt as _;
use omnirelay_contract::chain::Checkpoint;
use omnirelay_contract::subject;

use super::*;

#[tokio::test]
async fn two_services_on_one_stream_record_each_event_once() {
    let (pool, bus) = (database().await, bus().await);
    let services = [Running::start(&pool, &bus, None), Running::start(&pool, &bus, None)];
    ensure_stream(&bus, 1).await;
    for start in (1..=2_000).step_by(500) {
        log_events(&pool, start..start + 500).await;
        publish(&bus, start..start + 500).await;
    }
    audited(&pool, 2_000).await;
    for service in services {
        service.stop().await;
    }
    assert_whole(&pool, 2_000).await;
}

#[tokio::test]
async fn the_stream_may_come_late_vanish_and_be_refilled() {
    let (pool, bus) = (database().await, bus().await);
    let service = Running::start(&pool, &bus, None);
    log_events(&pool, 1..=10).await;
    audited(&pool, 10).await; // No stream yet.
    ensure_stream(&bus, 11).await;
    log_events(&pool, 11..=20).await;
    publish(&bus, 11..=20).await;
    audited(&pool, 20).await;
    bus.drop_events().await.expect("is deleted");
    log_events(&pool, 21..=30).await;
    audited(&pool, 30).await;
    // Rebuilt from the beginning: what is known is not recorded again.
    ensure_stream(&bus, 1).await;
    log_events(&pool, 31..=40).await;
    publish(&bus, 1..=40).await;
    audited(&pool, 40).await;
    eventually("the consumer was created again and has acknowledged all", async || {
        let Ok(stream) = bus.jetstream().get_stream(subject::STREAM_EVENTS).await else { return false };
        let Ok(info) = stream.consumer_info("audit").await else { return false };
        info.ack_floor.stream_sequence == 40 && info.num_pending == 0
    })
    .await;
    service.stop().await;
    assert_whole(&pool, 40).await;
}

#[tokio::test]
async fn without_a_bus_the_event_log_is_read() {
    let pool = database().await;
    let nobody = Bus::connect("nats://127.0.0.1:1", "audit-test").await.expect("a url");
    let service = Running::start(&pool, &nobody, None);
    log_events(&pool, 1..=2_500).await;
    audited(&pool, 2_500).await;
    service.stop().await;
    assert_whole(&pool, 2_500).await;
}

#[tokio::test]
async fn checkpoints_go_to_the_database_and_the_bus_and_one_is_made_at_the_end() {
    let (pool, bus) = (database().await, bus().await);
    let mut heard = bus.subscribe(subject::AUDIT_CHECKPOINT).await.expect("subscribes");
    bus.client().flush().await.expect("flushes");
    let service = Running::start(&pool, &bus, None);
    log_events(&pool, 1..=7).await;
    audited(&pool, 7).await;
    service.stop().await;
    let kept = store::checkpoints(&pool, 0, 100).await.expect("reads");
    assert_eq!(kept.last().map(|checkpoint| checkpoint.seq), Some(7));
    for checkpoint in &kept {
        assert_eq!(checkpoint.verify(&key().verifying_key()), Ok(()));
        let message =
            tokio::time::timeout(Duration::from_secs(10), heard.next()).await.expect("in time").expect("a message");
        assert_eq!(&serde_json::from_slice::<Checkpoint>(&message.payload).expect("JSON"), checkpoint);
    }
    let found = crate::verify_database(&pool, Some(key().verifying_key())).await.expect("reads");
    assert_eq!((found.ok, found.checkpoints), (true, kept.len() as u64));
}
