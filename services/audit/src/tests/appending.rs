use omnirelay_store::audit::{self as store, AuditFilter};

use super::*;
use crate::appender::{Appender, Incoming, incoming_from_event};

fn deliver(positions: impl IntoIterator<Item = u64>) -> Vec<Incoming> {
    positions.into_iter().map(|position| incoming_from_event(event(position), position)).collect()
}

async fn append_all(appender: &mut Appender, mut incoming: Vec<Incoming>) {
    while !incoming.is_empty() {
        appender.append(&mut incoming).await.expect("appends");
    }
}

/// Reads the event log until nothing is left to be done.
async fn catch_up(appender: &mut Appender) {
    while appender.append(&mut Vec::new()).await.expect("appends").moved {}
}

#[tokio::test]
async fn a_position_is_recorded_once_however_it_is_delivered() {
    let pool = database().await;
    log_events(&pool, 1..=60).await;
    let mut appender = Appender::new(pool.clone());
    append_all(&mut appender, deliver(1..=20)).await;
    append_all(&mut appender, deliver(1..=20)).await;
    append_all(&mut appender, deliver((11..=40).rev())).await;
    append_all(&mut appender, deliver([41, 42, 42, 41, 7])).await;
    // A gap: 43 to 49 never came.
    append_all(&mut appender, deliver(50..=52)).await;
    assert_whole(&pool, 60).await;
    // Positions that nobody has given out, from a former life of the stream.
    append_all(&mut appender, deliver(61..=70)).await;
    assert_whole(&pool, 60).await;
    assert_eq!(appender.append(&mut Vec::new()).await.expect("appends").records, 0);
}

#[tokio::test]
async fn two_writers_at_once_make_one_chain() {
    let pool = database().await;
    log_events(&pool, 1..=500).await;
    let writers = (0..2).map(|_| {
        let mut appender = Appender::new(pool.clone());
        tokio::spawn(async move {
            for start in (1..=500).step_by(25) {
                append_all(&mut appender, deliver(start..start + 25)).await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("no panic");
    }
    assert_whole(&pool, 500).await;
}

#[tokio::test]
async fn an_event_that_cannot_be_read_does_not_stop_the_chain() {
    let pool = database().await;
    let mut connection = pool.acquire().await.expect("a connection");
    insert(&mut connection, 1, Uuid::from_u128(1), &payload(&event(1))).await;
    insert(&mut connection, 2, Uuid::from_u128(2), "{\"no\": \"event\"}").await;
    // The same event again under another position.
    insert(&mut connection, 3, event(1).id, &payload(&event(1))).await;
    insert(&mut connection, 4, event(4).id, &payload(&event(4))).await;
    move_positioned(&mut connection, 4).await;
    catch_up(&mut Appender::new(pool.clone())).await;

    let records = all(&pool).await;
    let outcomes: Vec<_> = records.iter().map(|record| (record.position, record.outcome.as_str())).collect();
    assert_eq!(outcomes, [(1, "succeeded"), (2, "unreadable"), (4, "accepted")]);
    assert_eq!(records[1].event_id, Uuid::from_u128(2));
    assert_eq!(records[1].target, "peers/edge-1");
    assert_eq!(records[1].detail["payload"], "{\"no\": \"event\"}");
    assert_eq!(store::head(&pool).await.expect("reads").position, 4);
    let found = crate::verify_database(&pool, None).await.expect("reads");
    assert_eq!(found.first_bad, None);
}

#[tokio::test]
async fn positions_that_are_nowhere_are_recorded_as_lost_but_not_at_once() {
    let pool = database().await;
    log_events(&pool, [1, 2, 6, 7]).await;
    let mut appender = Appender::new(pool.clone());
    catch_up(&mut appender).await;
    assert_eq!(store::head(&pool).await.expect("reads").position, 2);
    appender.lost_after = Duration::ZERO;
    catch_up(&mut appender).await;
    let records = all(&pool).await;
    let outcomes: Vec<_> = records.iter().map(|record| (record.position, record.outcome.as_str())).collect();
    assert_eq!(outcomes, [(1, "succeeded"), (2, "accepted"), (5, "lost"), (6, "accepted"), (7, "succeeded")]);
    assert_eq!(records[2].detail["firstPosition"], 3);
}

#[tokio::test]
async fn what_was_hashed_is_what_is_read() {
    let pool = database().await;
    let mut connection = pool.acquire().await.expect("a connection");
    let mut odd = event(1);
    odd.time = "2026-11-23T12:02:40.123456789Z".parse().expect("a time");
    odd.data.audit.reason = Some("NUL \0, quote \", tab \t, \u{1f600}".to_owned());
    odd.data.audit.latency_ms = Some(u64::MAX);
    odd.data.detail.insert("n\0".to_owned(), serde_json::json!([0.1, 1e300, -0.0, 18_446_744_073_709_551_615_u64]));
    insert(&mut connection, 1, odd.id, &payload(&odd)).await;
    move_positioned(&mut connection, 1).await;
    catch_up(&mut Appender::new(pool.clone())).await;
    assert_eq!(crate::verify_database(&pool, None).await.expect("reads").first_bad, None);
    assert_eq!(all(&pool).await[0].outcome, "succeeded");
}

#[tokio::test]
async fn lists_filter_and_page_by_seq() {
    let pool = database().await;
    log_events(&pool, 1..=40).await;
    catch_up(&mut Appender::new(pool.clone())).await;
    let seqs = async |filter: AuditFilter, after: Option<u64>, ascending: bool, limit: u32| -> Vec<u64> {
        let records = store::list(&pool, &filter, after, ascending, limit).await.expect("reads");
        records.iter().map(|record| record.seq).collect()
    };
    let any = AuditFilter::default;
    let at = |n: i64| Some(Timestamp::from_second(1_800_000_000 + n).expect("in range"));
    assert_eq!(seqs(any(), None, true, 3).await, [1, 2, 3]);
    assert_eq!(seqs(any(), Some(3), true, 2).await, [4, 5]);
    assert_eq!(seqs(any(), None, false, 2).await, [40, 39]);
    assert_eq!(seqs(any(), Some(39), false, 2).await, [38, 37]);
    let operation = AuditFilter { operation: Some(Uuid::from_u128(3)), ..any() };
    assert_eq!(seqs(operation.clone(), None, true, 9).await, [2, 12, 22, 32]);
    assert_eq!(seqs(operation, Some(22), false, 9).await, [12, 2]);
    let target = AuditFilter { target: Some("peers/edge-1".to_owned()), actor: Some("user-2".to_owned()), ..any() };
    assert_eq!(seqs(target, None, true, 9).await, [5, 17, 29]);
    let actor = AuditFilter { actor: Some("user-1".to_owned()), outcome: Some("accepted".to_owned()), ..any() };
    assert_eq!(seqs(actor, None, false, 2).await, [40, 34]);
    assert_eq!(seqs(AuditFilter { verb: Some("peers.drain".to_owned()), ..any() }, None, true, 9).await, [0; 0]);
    assert_eq!(seqs(AuditFilter { since: at(10), until: at(13), ..any() }, None, true, 9).await, [10, 11, 12]);
    assert_eq!(store::get(&pool, 7).await.expect("reads").map(|record| record.position), Some(7));
    assert_eq!(store::get(&pool, 41).await.expect("reads"), None);
}
