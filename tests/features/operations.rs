//! A day of operations, as the specification tells it: a node is cordoned and drained, a backup cluster takes over, metadata is
//! edited. Every reader, every subscriber and the audit tell the same story. And the drill: a drain is called off halfway.

use std::collections::{BTreeMap, BTreeSet};

use omnirelay_tests::{
    Api, Event, Listener, Output, PATIENCE, Registry, Role, Scope, Sse, Stack, StackOptions, eventually_ok, gap_free,
    owners, records_of,
};
use serde_json::{Value, json};

async fn stack() -> Stack {
    let options =
        StackOptions { clusters: 2, peers: 4, workloads: 3, handover: "40ms..80ms", ..StackOptions::default() };
    Stack::start(options).await
}

/// A step of the story: what was typed, by whom, why, and what came of it.
struct Step {
    operation: String,
    verb: &'static str,
    target: String,
    actor: &'static str,
    reason: String,
    ticket: String,
    /// What has to be told beside the operation's own life, in this order.
    told: Vec<String>,
}

/// Somebody at a terminal.
struct Person<'a> {
    stack: &'a Stack,
    role: Role,
    actor: &'static str,
}

impl Person<'_> {
    async fn types(&self, args: &[&str], reason: &str, ticket: &str) -> Output {
        let mut all = args.to_vec();
        all.extend(["--reason", reason, "--ticket", ticket, "-o", "json"]);
        self.stack.cli(self.role).run(&all).await
    }

    /// Types a command that succeeds.
    async fn does(&self, verb: &'static str, target: &str, args: &[&str], told: &[String]) -> Step {
        let (reason, ticket) = (format!("because of {verb}"), format!("CHG-{}", verb.len()));
        let output = self.types(args, &reason, &ticket).await;
        let answer = output.expect(0).json();
        let operation = &answer["operation"];
        assert_eq!((&operation["verb"], &operation["target"]), (&json!(verb), &json!(target)), "{operation}");
        assert_eq!((&operation["state"], &answer["changed"]), (&json!("succeeded"), &json!(true)), "{answer}");
        Step {
            operation: operation["id"].as_str().expect("an id").to_owned(),
            verb,
            target: target.to_owned(),
            actor: self.actor,
            reason,
            ticket,
            told: told.to_vec(),
        }
    }
}

async fn states(reader: &Api) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let clusters = reader.list("/control/clusters").await;
    clusters.iter().map(|cluster| (text(&cluster["id"]), text(&cluster["state"]))).collect()
}

/// The page that is looked at first.
async fn of_status(reader: &Api, cluster: &str) -> Value {
    let status = reader.read("/control/status").await;
    let clusters = status["clusters"].as_array().expect("clusters");
    clusters.iter().find(|one| one["id"] == cluster).cloned().unwrap_or_else(|| panic!("{cluster} in {status}"))
}

#[tokio::test]
async fn a_node_is_taken_out_a_backup_takes_over_and_everybody_is_told_the_same_story() {
    let stack = stack().await;
    let reader = stack.api(Role::Read);
    let operator = Person { stack: &stack, role: Role::Operate, actor: "operator" };
    let admin = Person { stack: &stack, role: Role::Admin, actor: "admin" };
    let peer = "cluster-1-peer-2";
    let (target, path) = (format!("peers/{peer}"), format!("/control/peers/{peer}"));
    let listener = Listener::start(stack.nats_url()).await;
    let mut sse = Sse::open(&reader, "", None).await;
    let mut story = Vec::new();

    // The node is noisy: nothing new is to go there.
    let told = [format!("peers.cordoned {target}")];
    story.push(operator.does("peers.cordon", &target, &["mesh", "peers", "cordon", peer], &told).await);
    let cordoned = reader.read(&path).await;
    assert_eq!((&cordoned["state"], &cordoned["schedulable"]), (&json!("cordoned"), &json!(false)));
    assert_eq!(owners(&cordoned), ["manual operator"]);
    assert_eq!(cordoned["holds"][0]["changeTicket"], story[0].ticket.as_str());
    assert_eq!(cordoned["holds"][0]["operation"], story[0].operation.as_str());
    assert_eq!(of_status(&reader, "cluster-1").await["schedulable"], 3);

    // What runs there leaves.
    let workloads = reader.list(&format!("{path}/workloads")).await;
    let names: BTreeSet<&str> = workloads.iter().filter_map(|workload| workload["id"].as_str()).collect();
    assert_eq!(names.len(), 3);
    let told = [format!("peers.draining {target}"), format!("peers.drained {target}")];
    story.push(operator.does("peers.drain", &target, &["drain", peer, "--yes"], &told).await);
    let drained = reader.read(&path).await;
    assert_eq!((&drained["state"], &drained["workloads"]), (&json!("drained"), &json!(0)));
    assert_eq!(owners(&drained), ["drain operator", "manual operator"]);
    let placement = Registry::of_cluster(&reader, "cluster-1").await.placement();
    assert!(names.iter().all(|name| placement[*name] != peer), "{placement:?}");
    assert_eq!(placement.len(), 12, "none is lost");

    // The backup takes over, in one step.
    let told = ["clusters.promoted clusters/cluster-2".to_owned(), "clusters.demoted clusters/cluster-1".to_owned()];
    let before = reader.read("/control/clusters/cluster-2").await;
    let command = ["promote", "cluster-2", "--demote", "cluster-1", "--yes"];
    story.push(admin.does("clusters.promote", "clusters/cluster-2", &command, &told).await);
    let now = states(&reader).await;
    assert_eq!((now["cluster-1"].as_str(), now["cluster-2"].as_str()), ("passive", "active"));
    let after = reader.read("/control/clusters/cluster-2").await;
    assert!(after["failoverVersion"].as_u64() > before["failoverVersion"].as_u64(), "{before} {after}");
    assert_eq!(of_status(&reader, "cluster-2").await["state"], "active");

    // And the node's card says why it is empty.
    let told = [format!("peers.changed {target}")];
    let command = ["mesh", "peers", "annotate", peer, "fan=broken"];
    story.push(operator.does("peers.patch", &target, &command, &told).await);
    let edited = reader.read(&path).await;
    assert_eq!(edited["metadata"]["fan"], "broken");
    assert!(edited["revision"].as_u64() > drained["revision"].as_u64());

    // Mended.
    let told = [format!("peers.uncordoned {target}")];
    story.push(operator.does("peers.uncordon", &target, &["mesh", "peers", "uncordon", peer], &told).await);
    let back = reader.read(&path).await;
    assert_eq!((&back["state"], owners(&back), &back["metadata"]["fan"]), (&json!("active"), vec![], &json!("broken")));

    // Every subscriber was told all of it, in the same order.
    let ours: BTreeSet<&str> = story.iter().map(|step| step.operation.as_str()).collect();
    let last = story.last().expect("a step").operation.clone();
    let is_last = |event: &Event| event.is_end() && event.operation() == Some(&last);
    let by_sse = sse.until("the end of the story", |events| events.iter().any(is_last)).await;
    let of_ours = |events: &[Event]| -> Vec<Event> {
        events.iter().filter(|event| event.operation().is_some_and(|id| ours.contains(id))).cloned().collect()
    };
    let by_sse = of_ours(by_sse);
    listener.whole(&last).await;
    assert_eq!(of_ours(&listener.events()), by_sse, "NATS and SSE: the same events in the same order");
    let ends: Vec<&str> = by_sse.iter().filter(|event| event.is_end()).filter_map(Event::operation).collect();
    assert_eq!(ends, story.iter().map(|step| step.operation.as_str()).collect::<Vec<_>>(), "in the order of the day");

    for step in &story {
        let events: Vec<Event> =
            by_sse.iter().filter(|event| event.operation() == Some(&step.operation)).cloned().collect();
        gap_free(&events);
        is_told(step, &events);
        is_on_record(&reader, step, &events).await;
        let read = reader.operation(&step.operation).await;
        assert_eq!(read["reason"], step.reason.as_str());
        assert_eq!(read["changeTicket"], step.ticket.as_str());
    }
    let verified = stack.cli(Role::Read).run(&["audit", "verify", "-o", "json"]).await;
    assert_eq!(verified.expect(0).json()["ok"], true);
}

fn is_told(step: &Step, events: &[Event]) {
    assert_eq!(events[0].what(), "operations.submitted");
    let kinds: Vec<String> = events
        .iter()
        .map(|event| format!("{} {}", event.what(), event.body["subject"].as_str().unwrap_or_default()))
        .collect();
    for wanted in &step.told {
        assert!(kinds.contains(wanted), "{wanted} of {}: {kinds:?}", step.verb);
    }
    let end = events.iter().find(|event| event.is_end()).expect("an end");
    assert_eq!((end.what(), &end.data()["state"]), ("operations.succeeded", &json!("succeeded")));
    for event in events {
        assert_eq!(event.data()["actor"], step.actor, "{}", event.body);
    }
}

async fn is_on_record(reader: &Api, step: &Step, events: &[Event]) {
    let records = records_of(reader, &step.operation, "succeeded").await;
    let ids = |all: Vec<&Value>| all.iter().map(|id| id.as_str().unwrap_or("").to_owned()).collect::<Vec<_>>();
    assert_eq!(
        ids(records.iter().map(|record| &record["eventId"]).collect()),
        ids(events.iter().map(|event| &event.body["id"]).collect()),
        "a record for each event of {}",
        step.verb
    );
    for record in &records {
        assert_eq!(record["actor"]["subject"], step.actor, "{record}");
        assert_eq!(
            (&record["reason"], &record["changeTicket"]),
            (&json!(step.reason), &json!(step.ticket)),
            "{record}"
        );
        assert_eq!(record["verb"], step.verb, "{record}");
    }
    for outcome in ["accepted", "succeeded"] {
        let record = records.iter().find(|record| record["outcome"] == outcome);
        let record = record.unwrap_or_else(|| panic!("{outcome} of {} in {records:?}", step.verb));
        assert_eq!(record["target"], step.target.as_str(), "{record}");
    }
}

#[tokio::test]
async fn a_drain_called_off_halfway_is_undone_and_everybody_is_told() {
    let stack = stack().await;
    let mesh = stack.mesh();
    let (reader, peer) = (mesh.reader.clone(), mesh.peers[1].as_str());
    mesh.cordon(&mesh.admin, peer).await;
    let before = mesh.registry().await;
    let listener = Listener::start(stack.nats_url()).await;

    let body = json!({"maxConcurrent": 1, "reason": "kernel", "changeTicket": "CHG-11"});
    let operation = mesh.operator.drain(peer, &body).await;
    let watcher = tokio::spawn({
        let (cli, operation) = (stack.cli(Role::Read), operation.clone());
        async move { cli.run(&["ops", "attach", &operation, "-o", "json"]).await }
    });
    let on_nats = tokio::spawn({
        let cli = stack.cli(Role::Read).env("OMNIRELAY_NATS_URL", stack.nats_url());
        let operation = operation.clone();
        async move { cli.run(&["ops", "attach", &operation, "-o", "json"]).await }
    });
    let mut sse = Sse::open(&reader, &format!("operation={operation}"), None).await;
    let halfway = |it: &Value| it["progress"]["done"].as_u64().is_some_and(|done| (1..3).contains(&done));
    mesh.operator.operation_that("is halfway", &operation, halfway).await;

    let on_call = stack.api_of("on-call", Scope::Operate);
    let path = format!("/control/operations/{operation}:cancel");
    let called_off = json!({"reason": "the release is on fire", "changeTicket": "INC-3"});
    let answer = on_call.post(&path, &called_off).send().await;
    assert_eq!(answer.expect(202).body["operation"]["state"], "unwinding", "{}", answer.body);

    let ended = reader.ended(&operation).await;
    assert_eq!((&ended["state"], &ended["result"]["notRestored"]), (&json!("cancelled"), &json!([])), "{ended}");
    assert_eq!((&ended["cancel"]["by"], &ended["actor"]), (&json!("on-call"), &json!("operator")), "{ended}");
    assert_eq!(mesh.registry().await.differences(&before), Vec::<String>::new(), "difference: none");
    assert_eq!(owners(&reader.read(&format!("/control/peers/{peer}")).await), ["manual admin"]);

    // Whoever watched was told, and how it ended is their exit code.
    for (name, watcher) in [("SSE", watcher), ("NATS", on_nats)] {
        let output = watcher.await.expect("attached");
        assert_eq!(output.expect(11).json()["operation"]["state"], "cancelled", "by {name}: {}", output.stdout);
        assert!(output.stderr.contains("CANCELLED"), "by {name}: {}", output.stderr);
    }
    let by_sse = sse.to_the_end().await.to_vec();
    gap_free(&by_sse);
    assert_eq!(listener.whole(&operation).await, by_sse);
    let kinds: Vec<&str> = by_sse.iter().map(Event::what).collect();
    let turned = kinds.iter().position(|kind| *kind == "operations.unwinding").expect("it turned round");
    assert!(!kinds[turned..].contains(&"workloads.moved"), "no step forward after that: {kinds:?}");
    let restored = kinds.iter().filter(|kind| **kind == "workloads.restored").count();
    assert!(restored >= 1, "what had moved came back: {kinds:?}");
    let turn = by_sse[turned].data();
    assert_eq!(turn["actor"], "on-call", "{turn}");

    // The record says who began, who called it off and why, and how it ended.
    let records = records_of(&reader, &operation, "cancelled").await;
    assert_eq!(records.len(), by_sse.len(), "a record for each event");
    let find = |verb: &str, outcome: &str| {
        let found = records.iter().find(|it| it["verb"] == verb && it["outcome"] == outcome);
        found.unwrap_or_else(|| panic!("{verb} {outcome} in {records:?}"))
    };
    for (verb, outcome, actor, reason, ticket) in [
        ("peers.drain", "accepted", "operator", "kernel", "CHG-11"),
        ("operations.cancel", "accepted", "on-call", "the release is on fire", "INC-3"),
        ("peers.drain", "cancelled", "operator", "kernel", "CHG-11"),
    ] {
        let record = find(verb, outcome);
        let told = [&record["actor"]["subject"], &record["reason"], &record["changeTicket"]];
        assert_eq!(told, [&json!(actor), &json!(reason), &json!(ticket)], "{record}");
    }
    let verified = stack.cli(Role::Read).run(&["audit", "verify", "-o", "json"]).await;
    assert_eq!(verified.expect(0).json()["ok"], true);

    // The agents agree: nothing runs anywhere else than the registry says.
    eventually_ok("no drift is left", PATIENCE, async || {
        let drifting: Vec<Event> = listener.events().into_iter().filter(|it| it.what() == "workloads.drift").collect();
        if drifting.is_empty() { Ok(()) } else { Err(format!("{drifting:?}")) }
    })
    .await;
}
