//! An approval bot, as a team would write its own: by its policy it approves, rejects and stages, misses nothing, and never has a
//! say in what it has asked for itself.

use std::process::Command;

use omnirelay_tests::{
    Mesh, PATIENCE, Process, Role, Server, Stack, StackOptions, bot_binary, eventually, eventually_ok, records_of,
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

async fn stack() -> &'static Stack {
    static STACK: OnceCell<Stack> = OnceCell::const_new();
    STACK.get_or_init(|| Stack::start(StackOptions { clusters: 5, ..StackOptions::default() })).await
}

/// A bot with the token of a role, and a policy of its own: it concerns one cluster, so tests do not meet. No poll helps it.
fn bot(stack: &Stack, name: &str, role: Role, policy: &str) -> Process {
    let file = stack.folder().join(format!("{name}.toml"));
    std::fs::write(&file, format!("poll = \"1h\"\n{policy}")).expect("a policy");
    let token = stack.folder().join(format!("{name}.token"));
    std::fs::write(&token, stack.token(role)).expect("a token");
    let mut command = Command::new(bot_binary());
    command.arg("--policy").arg(file).arg("--token-file").arg(token).env_clear();
    command.env("OMNIRELAY_URL", stack.url()).env("OMNIRELAY_NATS_URL", stack.nats_url());
    Process::start(name, command, stack.folder())
}

fn approving(mesh: &Mesh) -> String {
    let cluster = &mesh.cluster;
    format!(
        "[[approve]]\nverbs = [\"peers.drain\"]\nclusters = [\"{cluster}\"]\nrequire_ticket = \"^CHG-[0-9]+$\"\ncomment = \"no freeze, ticket open\"\n\
         [[reject]]\nverbs = [\"peers.drain\"]\nclusters = [\"{cluster}\"]\nwithout_ticket = \".\"\ncomment = \"name a ticket\"\n"
    )
}

/// A drain that waits for so many approvals.
async fn gated(mesh: &Mesh, peer: usize, ticket: Option<&str>, required: u32) -> String {
    let mut body = json!({"gate": {"gate": "start", "required": required}, "reason": "kernel CVE"});
    if let Some(ticket) = ticket {
        body["changeTicket"] = ticket.into();
    }
    mesh.operator.drain(&mesh.peers[peer], &body).await
}

fn approvers(operation: &Value) -> Vec<&str> {
    let given = operation["approval"]["approvals"].as_array().expect("approvals");
    given.iter().filter_map(|given| given["actor"].as_str()).collect()
}

/// Waits for a line of the bot's log with all of these words. It sees every gate of the mesh, those of other tests, too.
async fn says(bot: &Process, words: &[&str]) {
    eventually_ok(format!("the bot says {words:?}"), PATIENCE, async || {
        let log = bot.log();
        let said = |line: &str| words.iter().all(|word| line.contains(word));
        if log.lines().any(said) { Ok(()) } else { Err(log) }
    })
    .await;
}

#[tokio::test]
async fn it_approves_and_rejects_by_its_policy_and_says_so_once() {
    let stack = stack().await;
    let mesh = stack.mesh();
    let bot = bot(stack, "decides", Role::Approve, &approving(&mesh));
    says(&bot, &["the bot listens"]).await;

    let approved = gated(&mesh, 0, Some("CHG-4812"), 1).await;
    let ended = mesh.operator.ended(&approved).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(approvers(&ended), ["approver"]);
    assert_eq!(ended["approval"]["approvals"][0]["comment"], "no freeze, ticket open");
    let records = records_of(&mesh.reader, &approved, "succeeded").await;
    let yes = records.iter().find(|record| record["verb"] == "operations.approve").expect("the yes is on record");
    assert_eq!(yes["actor"]["subject"], "approver");

    let rejected = gated(&mesh, 1, None, 1).await;
    let ended = mesh.operator.operation_that("is rejected", &rejected, |it| it["state"] == "rejected").await;
    assert_eq!(
        (&ended["approval"]["rejectedBy"], &ended["approval"]["note"]),
        (&json!("approver"), &json!("name a ticket"))
    );
    assert_eq!(mesh.reader.read(&format!("/control/peers/{}", mesh.peers[1])).await["state"], "active");

    // A ticket, but not one of theirs: people may decide.
    let left = gated(&mesh, 1, Some("later"), 1).await;
    says(&bot, &["left to others", &left]).await;
    let waits = mesh.operator.operation(&left).await;
    assert_eq!((&waits["state"], approvers(&waits).len()), (&json!("awaitingApproval"), 0));

    let log = bot.log();
    for (operation, decision) in [(&approved, "approved"), (&rejected, "rejected"), (&left, "left to others")] {
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(operation.as_str())).collect();
        assert!(lines.len() == 1 && lines[0].contains(decision), "{operation} {decision}: {log}");
    }
    assert!(!log.contains(stack.token(Role::Approve)));
    assert!(bot.stop().await.success(), "SIGTERM is an orderly end");
}

#[tokio::test]
async fn what_was_asked_before_it_came_it_finds() {
    let stack = stack().await;
    let mesh = stack.mesh();
    let operation = gated(&mesh, 0, Some("CHG-1"), 1).await;
    mesh.operator.operation_that("waits", &operation, |it| it["state"] == "awaitingApproval").await;
    let _bot = bot(stack, "late", Role::Approve, &approving(&mesh));
    assert_eq!(mesh.operator.ended(&operation).await["state"], "succeeded");
}

#[tokio::test]
async fn two_bots_are_two_approvers() {
    let stack = stack().await;
    let mesh = stack.mesh();
    let one = bot(stack, "one", Role::Approve, &approving(&mesh));
    let operation = gated(&mesh, 0, Some("CHG-2"), 2).await;
    says(&one, &["approved", &operation]).await;
    let waits = mesh.operator.operation(&operation).await;
    assert_eq!(
        (&waits["state"], approvers(&waits)),
        (&json!("awaitingApproval"), vec!["approver"]),
        "one is not enough"
    );
    let _two = bot(stack, "two", Role::Admin, &approving(&mesh));
    let ended = mesh.operator.ended(&operation).await;
    assert_eq!((&ended["state"], approvers(&ended)), (&json!("succeeded"), vec!["approver", "admin"]));
}

#[tokio::test]
async fn what_it_stages_somebody_else_approves() {
    let stack = stack().await;
    let mesh = stack.mesh();
    let (cluster, [planned, held]) = (&mesh.cluster, [&mesh.peers[0], &mesh.peers[1]]);
    // It would approve every drain of this cluster with such a ticket.
    let policy = format!(
        "{}\n[[stage]]\nname = \"planned-{cluster}\"\nat = \"{}\"\npath = \"/control/peers/{planned}:drain\"\nbody = {{ gate = \"start\", changeTicket = \"CHG-3\", reason = \"planned\" }}\n\
         [[stage]]\nname = \"held-{cluster}\"\non = \"peers.cordoned\"\nwhen = {{ actor = \"operator\" }}\npath = \"/control/peers/{{id}}:drain\"\nbody = {{ gate = \"start\", changeTicket = \"CHG-4\" }}\n",
        approving(&mesh),
        now(&mesh).await,
    );
    let bot = bot(stack, "stages", Role::Admin, &policy);
    says(&bot, &["staged"]).await;
    mesh.cordon(&mesh.operator, held).await;
    for (peer, ticket) in [(planned, "CHG-3"), (held, "CHG-4")] {
        let staged = eventually(format!("a drain of {peer} is staged"), PATIENCE, async || {
            let all = mesh.reader.list("/control/approvals").await;
            all.into_iter().find(|operation| operation["target"] == format!("peers/{peer}"))
        })
        .await;
        let operation = staged["id"].as_str().expect("an id");
        assert_eq!((&staged["actor"], &staged["changeTicket"]), (&json!("admin"), &json!(ticket)));
        says(&bot, &[operation, "this bot has asked for it"]).await;
        assert_eq!(mesh.operator.operation(operation).await["state"], "awaitingApproval");
        let digest = &staged["approval"]["digest"];
        let person = stack.api(Role::Approve);
        let path = format!("/control/operations/{operation}:approve");
        person.post(&path, &json!({"digest": digest})).send().await.expect(200);
        let ended = mesh.operator.ended(operation).await;
        assert_eq!((&ended["state"], approvers(&ended)), (&json!("succeeded"), vec!["approver"]));
    }
}

/// As the registry has it: the time of an operation that was just made.
async fn now(mesh: &Mesh) -> String {
    let made = mesh.admin.peer(&mesh.peers[2], "uncordon", &json!({})).send().await;
    made.expect(200).body["operation"]["createdAt"].as_str().expect("a time").to_owned()
}

#[tokio::test]
async fn with_nats_gone_it_misses_nothing() {
    let stack = Stack::start(StackOptions::default()).await;
    let mesh = stack.mesh();
    let mut nats = Server::nats(&stack);
    let bot = bot(&stack, "outage", Role::Approve, &approving(&mesh));
    says(&bot, &["the bot listens"]).await;
    let first = gated(&mesh, 0, Some("CHG-5"), 1).await;
    assert_eq!(mesh.operator.ended(&first).await["state"], "succeeded");

    nats.kill_9().await;
    let second = gated(&mesh, 1, Some("CHG-6"), 1).await;
    mesh.operator.operation_that("waits", &second, |it| it["state"] == "awaitingApproval").await;
    nats.start();
    let ended = mesh.operator.ended(&second).await;
    assert_eq!((&ended["state"], approvers(&ended)), (&json!("succeeded"), vec!["approver"]), "{}", bot.log());
}
