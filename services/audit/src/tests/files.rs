use std::fs;
use std::io::Write as _;
use std::path::Path;

use super::*;
use crate::appender::Appender;
use crate::{log_files, verify_files};

fn assert_files(dir: &Path, last: u64) {
    let found = verify_files(&log_files(dir).expect("reads"), Some(key().verifying_key())).expect("reads");
    assert!(found.ok, "{found:?}");
    assert_eq!(found.records, last);
    assert!(found.checkpoints > 0);
}

#[tokio::test]
async fn files_are_rotated_and_filled_after_a_crash() {
    let (pool, bus) = (database().await, bus().await);
    let dir = tempfile::tempdir().expect("a directory");
    let path = Some(dir.path().to_owned());
    let service = Running::start(&pool, &bus, path.clone());
    log_events(&pool, 1..=150).await;
    audited(&pool, 150).await;
    service.stop().await;
    assert_files(dir.path(), 150);

    // Committed, and not in the file; and a line that was torn when the power went.
    log_events(&pool, 151..=1_500).await;
    let mut appender = Appender::new(pool.clone());
    while appender.append(&mut Vec::new()).await.expect("appends").moved {}
    let mut file = fs::OpenOptions::new().append(true).open(dir.path().join("audit.jsonl")).expect("opens");
    file.write_all(b"{\"hash\":\"0123").expect("writes");
    assert_files(dir.path(), 150);

    let service = Running::start(&pool, &bus, path.clone());
    eventually("a checkpoint of the last record", async || {
        store::checkpoints(&pool, 1_499, 1).await.is_ok_and(|found| !found.is_empty())
    })
    .await;
    service.stop().await;
    assert_files(dir.path(), 1_500);
    let files = log_files(dir.path()).expect("reads");
    assert!(files.len() > 2, "{files:?}");
    let first = files[0].file_name().and_then(|name| name.to_str()).expect("a name");
    assert!(first.starts_with("audit-1-"), "{first}");

    // And once more, with nothing to do.
    Running::start(&pool, &bus, path).stop().await;
    assert_files(dir.path(), 1_500);
}

#[tokio::test]
async fn an_edited_file_is_found_and_a_directory_that_is_anothers_is_waited_for() {
    let (pool, bus) = (database().await, bus().await);
    let dir = tempfile::tempdir().expect("a directory");
    let other =
        fs::OpenOptions::new().create(true).truncate(false).write(true).open(dir.path().join(".lock")).expect("opens");
    other.try_lock().expect("locks");
    let service = Running::start(&pool, &bus, Some(dir.path().to_owned()));
    log_events(&pool, 1..=20).await;
    audited(&pool, 20).await; // The chain does not wait for the files.
    assert_eq!(log_files(dir.path()).expect("reads"), [] as [PathBuf; 0]);
    drop(other);
    let current = dir.path().join("audit.jsonl");
    eventually("the file is filled", async || {
        fs::read_to_string(&current).is_ok_and(|text| text.contains("\"seq\":20,") && text.contains("\"checkpoint\""))
    })
    .await;
    service.stop().await;
    assert_files(dir.path(), 20);

    let text = fs::read_to_string(&current).expect("reads");
    fs::write(&current, text.replace("because of 9", "because of 8")).expect("writes");
    let found = verify_files(std::slice::from_ref(&current), None).expect("reads");
    assert_eq!(found.first_bad.map(|bad| bad.seq), Some(9));
}

#[tokio::test]
async fn files_that_a_database_set_back_does_not_continue_are_set_aside() {
    let bus = bus().await;
    let dir = tempfile::tempdir().expect("a directory");
    for (round, last) in [(1, 30), (2, 10)] {
        let pool = database().await;
        log_events(&pool, 1..=last).await;
        let service = Running::start(&pool, &bus, Some(dir.path().to_owned()));
        audited(&pool, last).await;
        service.stop().await;
        assert_eq!(dir.path().join("diverged-1-30.jsonl").exists(), round == 2);
    }
}

#[tokio::test]
async fn a_record_made_unreadable_keeps_the_files_waiting_but_not_the_chain() {
    let (pool, bus) = (database().await, bus().await);
    log_events(&pool, 1..=5).await;
    Appender::new(pool.clone()).append(&mut Vec::new()).await.expect("appends");
    sqlx::raw_sql(
        "alter table audit_log disable trigger audit_log_append_only; update audit_log set detail = '' where seq = 2",
    )
    .execute(&pool)
    .await
    .expect("is the owner");
    let dir = tempfile::tempdir().expect("a directory");
    let service = Running::start(&pool, &bus, Some(dir.path().to_owned()));
    log_events(&pool, 6..=10).await;
    audited(&pool, 10).await;
    service.stop().await;
    let found = crate::verify_database(&pool, None).await.expect("reads");
    assert_eq!(found.first_bad.map(|bad| bad.seq), Some(2));
}
