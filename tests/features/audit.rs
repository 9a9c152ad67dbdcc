//! Who did what, why, with which outcome: a record for everything within two seconds, in a chain that shows an edit.

use std::collections::BTreeMap;

use omnirelay_tests::{Api, Mesh, Role, Stack, StackOptions, records, records_of};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// One stack for this file; each test has a cluster of its own.
async fn stack() -> &'static Stack {
    static STACK: OnceCell<Stack> = OnceCell::const_new();
    STACK.get_or_init(|| Stack::start(StackOptions { clusters: 8, ..StackOptions::default() })).await
}

fn has(records: &[Value], outcome: &str) -> bool {
    records.iter().any(|record| record["outcome"] == outcome)
}

fn with_outcome<'a>(records: &'a [Value], outcome: &str) -> &'a Value {
    records.iter().find(|record| record["outcome"] == outcome).unwrap_or_else(|| panic!("{outcome} in {records:?}"))
}

#[tokio::test]
async fn an_accepted_and_done_change_has_its_records_within_two_seconds() {
    let mesh = stack().await.mesh();
    let id = mesh.peers[0].as_str();
    let body = json!({"reason": "disk is failing", "changeTicket": "CHG-42"});
    let operation = mesh.operator.peer(id, "cordon", &body).send().await.expect(200).operation();
    let records = records_of(&mesh.reader, &operation, "succeeded").await;
    for outcome in ["accepted", "succeeded"] {
        let record = with_outcome(&records, outcome);
        let actor = &record["actor"];
        assert_eq!((&actor["subject"], &actor["scopes"]), (&json!("operator"), &json!(["mesh.operate"])), "{record}");
        assert!(actor["tokenId"].as_str().is_some_and(|id| !id.is_empty()), "{record}");
        assert_eq!(actor["address"], "127.0.0.1", "{record}");
        assert_eq!((&record["reason"], &record["changeTicket"]), (&json!("disk is failing"), &json!("CHG-42")));
        assert_eq!(record["verb"], "peers.cordon", "{record}");
        assert!(record["traceId"].as_str().is_some_and(|id| id.len() == 32), "{record}");
        assert!(record["hash"].as_str().is_some_and(|hash| hash.len() == 64), "{record}");
    }
    let done = with_outcome(&records, "succeeded");
    assert!(done["latencyMs"].as_u64().is_some(), "{done}");
    let (before, after) = (done["revisionBefore"].as_u64(), done["revisionAfter"].as_u64());
    assert!(before.is_some() && before < after, "{done}");
}

#[tokio::test]
async fn a_refusal_by_the_worker_is_recorded_with_its_operation() {
    let mesh = stack().await.mesh();
    let id = mesh.peers[0].as_str();
    mesh.cordon(&mesh.admin, id).await;
    let refused = mesh.operator.peer(id, "uncordon", &json!({"reason": "mine?"})).send().await;
    refused.refused(409, "peer-held");
    let operations = mesh.reader.list(&format!("/control/operations?target=peers/{id}&state=refused")).await;
    let operation = operations[0]["id"].as_str().expect("an id");
    let records = records_of(&mesh.reader, operation, "refused").await;
    let record = with_outcome(&records, "refused");
    assert_eq!((&record["actor"]["subject"], &record["reason"]), (&json!("operator"), &json!("mine?")));
    assert!(has(&records, "accepted"), "{records:?}");
}

#[tokio::test]
async fn denials_and_refusals_at_the_door_are_recorded() {
    let stack = stack().await;
    let mesh = stack.mesh();
    let id = mesh.peers[0].as_str();
    let approver: Api = stack.api(Role::Approve);
    approver.peer(id, "drain", &json!({"reason": "may I?"})).send().await.refused(403, "insufficient-scope");
    let denied = records(&mesh.reader, "actor=approver&outcome=denied", |all| !all.is_empty()).await;
    let record = &denied[0];
    assert_eq!(
        (&record["verb"], &record["target"]),
        (&json!("peers.drain"), &json!(format!("peers/{id}"))),
        "{record}"
    );
    assert_eq!(record["detail"]["code"], "insufficient-scope", "{record}");

    let ask = mesh.admin.peer(id, "cordon", &json!({"changeTicket": "CHG-9"})).header("if-match", "\"0\"");
    ask.send().await.refused(412, "revision-mismatch");
    mesh.admin.peer("nobody", "cordon", &json!({})).send().await.refused(404, "not-found");
    let refused = records(&mesh.reader, "actor=admin&outcome=refused", |all| all.len() >= 2).await;
    let of = |code: &str| refused.iter().find(|record| record["detail"]["code"] == code).expect("a record");
    assert_eq!(of("revision-mismatch")["changeTicket"], "CHG-9");
    assert_eq!(of("not-found")["target"], "peers/nobody");
}

#[tokio::test]
async fn no_event_of_an_operation_is_missing_from_the_log() {
    let mesh = stack().await.mesh();
    let operation = mesh.operator.drain(&mesh.peers[0], &json!({"maxConcurrent": 2})).await;
    mesh.operator.ended(&operation).await;
    let records = records_of(&mesh.reader, &operation, "succeeded").await;
    let mut seqs: Vec<u64> = records.iter().filter_map(|record| record["detail"]["operationSeq"].as_u64()).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "{records:?}");
    assert_eq!(seqs.len(), records.len());
}

#[tokio::test]
async fn the_log_is_filtered_and_read_by_number() {
    let mesh: Mesh = stack().await.mesh();
    let id = mesh.peers[0].as_str();
    let operation = mesh.operator.peer(id, "cordon", &json!({})).send().await.expect(200).operation();
    records_of(&mesh.reader, &operation, "succeeded").await;
    let mut counts = BTreeMap::new();
    for filter in [
        format!("operation={operation}&outcome=accepted"),
        format!("operation={operation}&verb=peers.cordon&actor=operator"),
        format!("operation={operation}&actor=nobody"),
        format!("target=peers/{id}&verb=peers.cordon"),
        "since=2999-01-01T00:00:00Z".to_owned(),
        "until=2000-01-01T00:00:00Z".to_owned(),
    ] {
        counts.insert(filter.clone(), mesh.reader.list(&format!("/control/audit?{filter}")).await.len());
    }
    let zero = |filter: &str| counts[filter] == 0;
    assert!(zero(&format!("operation={operation}&actor=nobody")) && zero("since=2999-01-01T00:00:00Z"), "{counts:?}");
    assert!(zero("until=2000-01-01T00:00:00Z"), "{counts:?}");
    assert_eq!(counts[&format!("operation={operation}&outcome=accepted")], 1, "{counts:?}");
    assert!(!zero(&format!("operation={operation}&verb=peers.cordon&actor=operator")), "{counts:?}");
    assert!(!zero(&format!("target=peers/{id}&verb=peers.cordon")), "{counts:?}");
    let all = mesh.reader.list(&format!("/control/audit?operation={operation}")).await;
    let seq = all[0]["seq"].as_u64().expect("a number");
    assert_eq!(mesh.reader.read(&format!("/control/audit/{seq}")).await, all[0]);
    mesh.reader.get("/control/audit/999999999").send().await.refused(404, "not-found");
}

#[tokio::test]
async fn the_log_file_says_the_same_and_verifies() {
    let stack = stack().await;
    let mesh = stack.mesh();
    let operation = mesh.operator.peer(&mesh.peers[0], "cordon", &json!({})).send().await.expect(200).operation();
    let records = records_of(&mesh.reader, &operation, "succeeded").await;
    let folder = stack.state_dir().join("audit");
    let files: Vec<String> = std::fs::read_dir(&folder)
        .expect("log files")
        .flatten()
        .map(|entry| entry.path().display().to_string())
        .filter(|path| path.ends_with(".jsonl"))
        .collect();
    let text: String = files.iter().map(|file| std::fs::read_to_string(file).expect("a log file")).collect();
    for record in &records {
        assert!(text.contains(record["hash"].as_str().expect("a hash")), "{record} is in the file");
    }
    let mut args = vec!["audit", "verify", "--file"];
    args.extend(files.iter().map(String::as_str));
    stack.cli(Role::Read).run(&args).await.expect(0);
}

/// On a stack of its own: what it does to the log is not undone.
#[tokio::test]
async fn an_edited_row_is_found_and_named() {
    let stack = Stack::start(StackOptions { peers: 2, workloads: 1, ..StackOptions::default() }).await;
    let mesh = stack.mesh();
    let cli = stack.cli(Role::Read);
    let operation = mesh.drained(&mesh.peers[0], &json!({"reason": "kernel"})).await;
    let operation = operation["id"].as_str().expect("an id");
    let records = records_of(&mesh.reader, operation, "succeeded").await;
    let fine = cli.run(&["audit", "verify", "-o", "json"]).await;
    assert_eq!(fine.expect(0).json()["ok"], true, "{}", fine.stdout);

    let seq = with_outcome(&records, "accepted")["seq"].as_i64().expect("a number");
    let mut database = stack.database().await;
    let edit = "update audit_log set actor = 'somebody-else' where seq = $1";
    let refused = sqlx::query(edit).bind(seq).execute(&mut database).await.expect_err("the log is append-only");
    assert!(refused.to_string().contains("append"), "{refused}");
    let delete = sqlx::query("delete from audit_log where seq = $1").bind(seq).execute(&mut database).await;
    assert!(delete.is_err(), "nothing is deleted either");
    let disable = "alter table audit_log disable trigger audit_log_append_only";
    sqlx::query(disable).execute(&mut database).await.expect("the owner can");
    sqlx::query(edit).bind(seq).execute(&mut database).await.expect("an intruder's edit");

    let found = cli.run(&["audit", "verify", "-o", "json"]).await;
    let verification = found.expect(1).json();
    assert_eq!((&verification["ok"], &verification["firstBad"]["seq"]), (&json!(false), &json!(seq)), "{verification}");
    let told = cli.run(&["audit", "verify"]).await;
    assert!(format!("{}{}", told.expect(1).stdout, told.stderr).contains(&seq.to_string()), "{told:?}");
}
