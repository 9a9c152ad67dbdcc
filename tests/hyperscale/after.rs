//! Afterwards: the registry, the operations, the audit and the metrics, beside what the crowd and the events say.

use std::collections::{BTreeMap, BTreeSet};

use omnirelay_tests::{Api, Role, Stack, eventually_ok};
use serde_json::{Value, json};

use crate::books::Inner;
use crate::person::AT_MOST;
use crate::replay::Replay;

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Each operation is terminal, was told of to whoever asked for it, and nobody else; each key made one.
pub fn operations(all: &[Value], books: &Inner, replay: &Replay) {
    let mut by_actor: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for operation in all {
        let (id, state) = (text(&operation["id"]), text(&operation["state"]));
        assert_eq!(replay.ended.get(&id), Some(&state), "its events tell the same end: {operation}");
        assert_ne!(state, "stuck", "nothing failed here: {operation}");
        assert!(operation["finishedAt"].is_string(), "{operation}");
        if operation["parent"].is_null() {
            by_actor.entry(text(&operation["actor"])).or_default().insert(id.clone());
        }
        let approval = &operation["approval"];
        if !approval.is_null() && ["succeeded", "running"].contains(&state.as_str()) {
            let given = approval["approvals"].as_array().expect("approvals");
            let who: BTreeSet<&str> = given.iter().filter_map(|one| one["actor"].as_str()).collect();
            assert!(who.len() as u64 >= approval["required"].as_u64().unwrap_or(u64::MAX), "{operation}");
            assert!(!who.contains(operation["actor"].as_str().unwrap_or_default()), "nobody approves their own");
        }
        if books.rejected.contains(&id) {
            // What somebody else called off, or made impossible, at that moment may be called so.
            let undone = ["rejected", "cancelled", "refused"].contains(&state.as_str());
            assert!(undone, "a no is final: {operation}");
        }
        // A cancel acknowledged is a cancel kept.
        if books.cancelled.contains(&id) {
            assert_eq!(state, "cancelled", "{operation}");
        }
    }
    assert_eq!(by_actor, books.operations, "what was acknowledged is there, once, and nothing else");
    for (key, operations) in &books.keys {
        assert_eq!(operations.len(), 1, "{key:?}");
    }
    assert_eq!(replay.ended.len(), all.len(), "no operation but these");
}

/// Peers, workloads, clusters and settings are as they must be by what was acknowledged, and by the events.
pub async fn registry(api: &Api, books: &Inner, replay: &Replay, workloads: usize) {
    let peers = api.list("/control/peers").await;
    let (mut holds, mut drained) = (BTreeSet::new(), BTreeSet::new());
    for peer in &peers {
        let id = text(&peer["id"]);
        if let Some(labels) = replay.labels.get(&id) {
            assert_eq!(&peer["labels"], labels, "the last edit of {id} stands");
        }
        for hold in peer["holds"].as_array().expect("holds").iter().filter(|hold| hold["kind"] == "manual") {
            holds.insert((id.clone(), text(&hold["owner"])));
        }
        let state = text(&peer["state"]);
        assert_ne!(state, "draining", "{peer}");
        if state == "drained" {
            drained.insert(id.clone());
            assert_eq!(peer["workloads"], 0, "{peer}");
        }
        assert_eq!(peer["operation"], Value::Null, "nothing is locked any more: {peer}");
    }
    assert_eq!(holds, books.holds, "cordons");
    assert_eq!(drained, replay.drained, "drained peers");
    let labels: BTreeMap<&str, &Value> =
        peers.iter().map(|peer| (peer["id"].as_str().unwrap_or(""), &peer["labels"])).collect();
    for ((peer, label), value) in &books.labels {
        assert_eq!(&labels[peer.as_str()][label], value, "{label} of {peer}");
    }
    let count: u64 = peers.iter().filter_map(|peer| peer["workloads"].as_u64()).sum();
    assert_eq!(count as usize, workloads, "each workload is somewhere, once");

    for cluster in api.list("/control/clusters").await {
        assert_eq!(replay.roles.get(&text(&cluster["id"])), Some(&text(&cluster["state"])), "{cluster}");
        assert_eq!(cluster["operation"], Value::Null, "{cluster}");
    }
    let config = api.read("/control/config").await;
    for (name, value) in &books.settings {
        assert_eq!(&config["settings"]["disruption"]["services"][name], value, "{config}");
    }
    let history = api.list("/control/config/history").await;
    let revisions: BTreeSet<u64> = history.iter().filter_map(|one| one["revision"].as_u64()).collect();
    assert_eq!(revisions.len(), history.len(), "each revision once");
    assert_eq!(revisions.last(), config["revision"].as_u64().as_ref());
    assert_eq!(
        revisions.last().zip(revisions.first()).map(|(last, first)| last - first + 1),
        Some(history.len() as u64)
    );
    let by: Vec<String> =
        history.iter().filter(|one| one["operation"].is_string()).map(|it| text(&it["operation"])).collect();
    assert_eq!(by.iter().collect::<BTreeSet<_>>().len(), by.len(), "each edit made one revision");
}

/// A record for each event, all in the chain, none of any operation missing. Returns how many.
pub async fn audit(stack: &Stack, api: &Api, head: u64) -> usize {
    eventually_ok("the audit has every event", AT_MOST, async || {
        let status = api.read("/control/status").await;
        let position = status["lags"]["auditPosition"].as_u64().unwrap_or(0);
        if position >= head { Ok(()) } else { Err(format!("{position} of {head}")) }
    })
    .await;
    let records = api.list("/control/audit").await;
    let mut positions: Vec<u64> = records.iter().filter_map(|record| record["position"].as_u64()).collect();
    positions.sort_unstable();
    positions.dedup();
    assert_eq!(positions.len(), records.len(), "one record for each event");
    assert_eq!((positions.first(), positions.last()), (Some(&1), Some(&(records.len() as u64))), "all of them");
    assert!(records.len() as u64 >= head, "{} records of {head} events", records.len());
    let mut seqs: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for record in &records {
        if let (Some(operation), Some(seq)) = (record["operation"].as_str(), record["detail"]["operationSeq"].as_u64())
        {
            seqs.entry(operation.to_owned()).or_default().push(seq);
        }
    }
    for (operation, mut seqs) in seqs {
        seqs.sort_unstable();
        assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "the events of {operation}");
    }
    let verified = stack.cli(Role::Read).run(&["audit", "verify", "-o", "json"]).await;
    let verified = verified.expect(0).json();
    assert_eq!(verified["ok"], json!(true), "{verified}");
    records.len()
}

/// What the product counted is what the crowd counted: each answer, and each operation's end.
pub async fn metrics(api: &Api, books: &Inner, operations: &[Value]) -> u64 {
    let mut expected = books.tally.clone();
    for operation in operations {
        *expected.entry((text(&operation["verb"]), text(&operation["state"]))).or_default() += 1;
    }
    let page = api.get("/metrics").send().await;
    let body = page.expect(200).body.as_str().expect("text").to_owned();
    let mut counted: BTreeMap<(String, String), u64> = BTreeMap::new();
    for line in body.lines().filter(|line| line.starts_with("omnirelay_mutations_total{")) {
        let (labels, value) = line.split_once("} ").expect("labels and a value");
        let label = |name: &str| {
            let from = labels.split_once(&format!("{name}=\"")).expect("the label").1;
            from.split_once('"').expect("its end").0.to_owned()
        };
        *counted.entry((label("verb"), label("outcome"))).or_default() += value.parse::<u64>().expect("a count");
    }
    assert_eq!(counted, expected, "omnirelay_mutations_total");
    books.tally.values().sum()
}
