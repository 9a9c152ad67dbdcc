use super::*;
use omnirelay_contract::audit::{Actor, BadRecord, OperationGap};
use omnirelay_contract::chain::{Checkpoint, GENESIS, SigningKey, record_hash};
use std::io::Write as _;

fn log(count: u64) -> Vec<AuditRecord> {
    let mut prev = GENESIS.to_owned();
    (1..=count)
        .map(|seq| {
            let mut record = AuditRecord {
                seq,
                hash: String::new(),
                prev_hash: prev.clone(),
                event_id: uuid::Uuid::from_u128(u128::from(seq)),
                position: seq,
                at: "2026-11-23T12:00:00Z".parse().expect("time"),
                actor: Actor::system("system:test"),
                verb: "peers.cordon".to_owned(),
                target: "peers/web-07".to_owned(),
                operation: None,
                reason: None,
                change_ticket: None,
                outcome: "succeeded".to_owned(),
                latency_ms: None,
                revision_before: None,
                revision_after: None,
                trace_id: None,
                detail: serde_json::json!({}),
            };
            record.hash = record_hash(&record);
            prev.clone_from(&record.hash);
            record
        })
        .collect()
}

async fn check(file: &Path, key: Option<&Path>, code: u8) {
    let args = VerifyArgs {
        file: vec![file.to_owned()],
        checkpoints: Vec::new(),
        key: key.map(Path::to_owned).into_iter().collect(),
    };
    let exit = verify(&args, &GlobalArgs::default()).await.expect("verified");
    assert_eq!(exit.code(), code);
}

#[tokio::test]
async fn files_are_verified_with_their_checkpoints() {
    use ed25519_dalek::pkcs8::{EncodePublicKey as _, spki::der::pem::LineEnding};
    let folder = tempfile::tempdir().expect("folder");
    let key = SigningKey::from_bytes(&[7; 32]);
    let pem = key.verifying_key().to_public_key_pem(LineEnding::LF).expect("pem");
    let (path, key_path) = (folder.path().join("audit.jsonl"), folder.path().join("key.pem"));
    std::fs::write(&key_path, pem).expect("key");
    let mut records = log(3);
    let checkpoint = Checkpoint::sign(3, &records[2].hash, records[2].at, &key);
    let write = |records: &[AuditRecord]| {
        let mut file = std::fs::File::create(&path).expect("file");
        for record in records {
            writeln!(file, "{}", serde_json::to_string(record).expect("json")).expect("line");
        }
        writeln!(file, "{}", serde_json::json!({"checkpoint": checkpoint})).expect("line");
    };
    write(&records);
    check(&path, Some(&key_path), 0).await;
    records[1].reason = Some("edited".to_owned());
    write(&records);
    check(&path, Some(&key_path), 1).await;
    check(&path, None, 1).await;
}

#[test]
fn what_was_found_in_lines() {
    let mut found = Verification { ok: true, records: 3, checkpoints: 0, first_bad: None, gaps: Vec::new() };
    assert_eq!(verdict(&found, "prod"), ["VERIFIED prod   3 records"]);
    found.ok = false;
    found.checkpoints = 2;
    found.first_bad = Some(BadRecord { seq: 2, why: "its content was changed".to_owned() });
    found.gaps = vec![OperationGap { operation: crate::testing::ID.parse().expect("id"), missing: 4 }];
    assert_eq!(
        verdict(&found, "prod"),
        [
            "NOT VERIFIED prod   3 records, 2 signed checkpoints",
            "  first bad record #2: its content was changed",
            "  what next: omnirelay audit show 2",
            &format!("  operation {} has no event 4, though it has later ones", crate::testing::ID),
        ]
    );
}

#[test]
fn moments() {
    assert!(moment("2026-11-23T12:00:00Z").is_ok());
    let ago = moment("2h").expect("ago");
    assert!((7_199..=7_201).contains(&(Timestamp::now().as_second() - ago.as_second())));
    assert!(moment("yesterday").is_err());
}
