use super::*;
use crate::appender::Appender;

/// A log of twenty records with a checkpoint of the last.
async fn log() -> PgPool {
    let pool = database().await;
    log_events(&pool, 1..=20).await;
    let mut appender = Appender::new(pool.clone());
    let appended = appender.append(&mut Vec::new()).await.expect("appends");
    let checkpoint =
        omnirelay_contract::chain::Checkpoint::sign(appended.last_seq, &appended.hash, Timestamp::now(), &key());
    assert!(store::insert_checkpoint(&pool, &checkpoint).await.expect("inserts"));
    pool
}

async fn execute(pool: &PgPool, sql: &'static str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(sql).execute(pool).await.map(drop)
}

#[tokio::test]
async fn the_database_refuses_every_change() {
    let pool = log().await;
    for change in [
        "update audit_log set reason = 'none' where seq = 3",
        "delete from audit_log where seq = 3",
        "truncate audit_log",
        "update audit_checkpoints set hash = ''",
        "delete from audit_checkpoints",
        "truncate audit_checkpoints",
        "set session_replication_role = replica; delete from audit_log",
    ] {
        let error = execute(&pool, change).await.expect_err(change);
        let code = error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
        assert_eq!(code.as_deref(), Some("42501"), "{change}: {error}");
    }
    assert_whole(&pool, 20).await;
}

#[tokio::test]
async fn a_change_by_somebody_who_may_is_found_where_it_was_made() {
    for (change, seq) in [
        ("update audit_log set reason = 'none' where seq = 3", 3),
        ("update audit_log set actor = 'user-9' where seq = 4", 4),
        ("update audit_log set at = at + interval '1 microsecond' where seq = 5", 5),
        ("update audit_log set detail = '{' where seq = 6", 6),
        ("update audit_log set latency_ms = -1 where seq = 7", 7),
        ("delete from audit_log where seq = 8", 8),
        ("delete from audit_log where seq > 15", 16),
        (
            "delete from audit_log where seq > 15; update audit_head set seq = 15, hash = (select hash from audit_log where seq = 15)",
            16,
        ),
        ("delete from audit_log", 1),
    ] {
        let pool = log().await;
        execute(&pool, "alter table audit_log disable trigger audit_log_append_only").await.expect("is the owner");
        execute(&pool, change).await.expect("changes");
        let found = crate::verify_database(&pool, Some(key().verifying_key())).await.expect("reads");
        assert_eq!(found.first_bad.map(|bad| bad.seq), Some(seq), "{change}");
    }
}
