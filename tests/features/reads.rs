//! Reads: 304 for what has not changed, lists in pages and orders, and the status page for whoever is woken at night.

use std::collections::BTreeSet;

use omnirelay_tests::{Api, Mesh, PATIENCE, Role, Stack, StackOptions, eventually_ok};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::{Mutex, OnceCell};

const CONFIG: &str = "/control/config";

/// One stack for this file; each test has a cluster of its own.
async fn stack() -> &'static Stack {
    static STACK: OnceCell<Stack> = OnceCell::const_new();
    let options = StackOptions { clusters: 6, peers: 5, workloads: 2, ..StackOptions::default() };
    STACK.get_or_init(|| Stack::start(options)).await
}

/// The settings are one for all: tests that change them take turns.
async fn patch_settings(admin: &Api, settings: &Value) {
    static TURN: Mutex<()> = Mutex::const_new(());
    let _turn = TURN.lock().await;
    let (_, tag) = admin.tagged(CONFIG).await;
    admin.confirmed(Method::PATCH, CONFIG, Some(&tag), &json!({"settings": settings})).await.expect(200);
}

fn ids(items: &[Value]) -> Vec<&str> {
    items.iter().map(|item| item["id"].as_str().expect("an id")).collect()
}

/// Every page of a list, one after the other; what is on each.
async fn pages(api: &Api, path: &str, size: usize) -> Vec<Vec<Value>> {
    let (mut pages, mut token) = (Vec::new(), String::new());
    loop {
        let page = api.read(&format!("{path}pageSize={size}{token}")).await;
        let items = page["items"].as_array().expect("items").clone();
        assert!(items.len() <= size, "{} on a page of {size}", items.len());
        pages.push(items);
        match page["nextPageToken"].as_str() {
            Some(next) => token = format!("&pageToken={next}"),
            None => return pages,
        }
    }
}

/// Asks twice, until nothing happened in between: the tag, and that the second answer was 304 and empty.
async fn unchanged(api: &Api, path: &str) -> String {
    eventually_ok(format!("{path} is as it was"), PATIENCE, async || {
        let first = api.get(path).send().await;
        let tag = first.expect(200).header("etag").to_owned();
        assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() > 2, "{path}: {tag:?}");
        let again = api.get(path).header("if-none-match", &tag).send().await;
        if again.status == 200 {
            return Err(format!("it is {} now", again.header("etag")));
        }
        assert_eq!((again.expect(304).header("etag"), &again.body), (tag.as_str(), &json!("")), "{path}");
        Ok(tag)
    })
    .await
}

#[tokio::test]
async fn whatever_is_read_again_unchanged_is_not_sent_again() {
    let mesh = stack().await.mesh();
    let peer = mesh.peers[0].as_str();
    let operation = mesh.operator.peer(peer, "cordon", &json!({})).send().await.operation();
    let of_peer = format!("/control/peers/{peer}");
    let mut tags = Vec::new();
    for path in [
        "/control/peers".to_owned(),
        of_peer.clone(),
        format!("/control/peers/{peer}/workloads"),
        "/control/clusters".to_owned(),
        format!("/control/clusters/{}", mesh.cluster),
        "/control/operations".to_owned(),
        format!("/control/operations/{operation}"),
        "/control/approvals".to_owned(),
        CONFIG.to_owned(),
        "/control/config/schema".to_owned(),
        "/control/config/history".to_owned(),
        "/control/versions".to_owned(),
        "/control/status".to_owned(),
    ] {
        let tag = unchanged(&mesh.reader, &path).await;
        mesh.reader.get(&path).header("if-none-match", "\"another\"").send().await.expect(200);
        let listed = format!("\"another\", {tag}");
        tags.push((path, tag, listed));
    }
    for path in ["/control/audit", "/control/audit/1"] {
        eventually_ok(format!("{path} is there"), PATIENCE, async || {
            let answer = mesh.reader.get(path).header("if-none-match", "*").send().await;
            if answer.status != 200 {
                return Err(answer.body);
            }
            assert_eq!(answer.header("etag"), "", "{path}");
            Ok(())
        })
        .await;
    }

    // A change tells on every page that shows it.
    let (_, tag) = mesh.operator.tagged(&of_peer).await;
    let labels = json!({"labels": {"seen": "yes"}});
    mesh.operator.patch(&of_peer, &labels).header("if-match", &tag).send().await.expect(200);
    patch_settings(&mesh.admin, &json!({"drain": {"maxConcurrent": 7}})).await;
    let gated = mesh.operator.drain(&mesh.peers[1], &json!({"gate": "start"})).await;
    mesh.operator.operation_that("waits", &gated, |it| it["state"] == "awaitingApproval").await;
    for (path, tag, listed) in tags {
        let parts = ["/peers", "/operations", "/approvals", "/config", "/history", "/status", "/clusters"];
        let shows = path == of_peer || parts.iter().any(|end| path.ends_with(end));
        // Another test of this file may change what is one for all, but nobody changes it back.
        let answer = mesh.reader.get(&path).header("if-none-match", &tag).send().await;
        if shows && path != "/control/clusters" {
            answer.expect(200);
            assert_ne!(answer.header("etag"), tag, "{path}");
        }
        if path.ends_with(&format!("/{operation}")) || path.ends_with("/schema") {
            answer.expect(304);
            mesh.reader.get(&path).header("if-none-match", &listed).send().await.expect(304);
            mesh.reader.get(&path).header("if-none-match", "*").send().await.expect(304);
        }
    }
    mesh.operator.cancel(&gated).await.expect(202);
}

#[tokio::test]
async fn children_are_listed_by_their_parent_in_pages_and_both_orders() {
    let mesh = stack().await.mesh();
    let body = json!({"peers": &mesh.peers[..3], "maxConcurrent": 1, "reason": "kernel"});
    let parent = mesh.operator.bulk(&body).await;
    assert_eq!(mesh.operator.ended(&parent).await["state"], "succeeded");
    let of = format!("/control/operations?parent={parent}&");

    let newest = mesh.reader.list(of.trim_end_matches('&')).await;
    assert_eq!(newest.len(), 3);
    assert!(newest.iter().all(|child| child["parent"] == parent.as_str() && child["verb"] == "peers.drain"));
    let targets: BTreeSet<&str> = newest.iter().filter_map(|child| child["target"].as_str()).collect();
    let wanted: BTreeSet<String> = mesh.peers[..3].iter().map(|peer| format!("peers/{peer}")).collect();
    assert_eq!(targets, wanted.iter().map(String::as_str).collect());
    let mut sorted = ids(&newest);
    sorted.sort_unstable();
    sorted.reverse();
    assert_eq!(ids(&newest), sorted, "newest first, where nothing is asked");

    for (order, oldest_first) in [("createdAt", true), ("createdAt desc", false), ("createdAt asc", true)] {
        let escaped = order.replace(' ', "%20");
        let paged = pages(&mesh.reader, &format!("{of}orderBy={escaped}&"), 2).await;
        let mut wanted = newest.clone();
        if oldest_first {
            wanted.reverse();
        }
        assert_eq!(paged.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1], "{order}");
        assert_eq!(ids(&paged.concat()), ids(&wanted), "{order}");
    }
    let one = format!("{of}target=peers/{}&state=succeeded,failed", mesh.peers[1]);
    assert_eq!(mesh.reader.list(&one).await.len(), 1);
    assert_eq!(mesh.reader.list(&format!("{of}state=failed")).await, [] as [Value; 0]);
    assert_eq!(mesh.reader.list(&format!("{of}verb=peers.cordon")).await, [] as [Value; 0]);
    assert_eq!(mesh.reader.list(&format!("{of}actor=somebody")).await, [] as [Value; 0]);
    assert_eq!(
        mesh.reader.list("/control/operations?parent=0193d1f0-0000-7000-8000-000000000009").await,
        [] as [Value; 0]
    );

    let first = mesh.reader.read(&format!("{of}pageSize=2")).await;
    let token = first["nextPageToken"].as_str().expect("another page");
    for bad in [
        "/control/operations?parent=nobody".to_owned(),
        format!("/control/operations?pageSize=2&pageToken={token}"),
        format!("{of}orderBy=createdAt&pageToken={token}"),
        format!("{of}orderBy=target"),
    ] {
        mesh.reader.get(&bad).send().await.refused(400, "invalid-argument");
    }
}

#[tokio::test]
async fn open_gates_are_listed_in_pages_and_both_orders() {
    let mesh = stack().await.mesh();
    let mut asked = Vec::new();
    for peer in &mesh.peers[..3] {
        let id = mesh.operator.drain(peer, &json!({"gate": "start"})).await;
        mesh.operator.operation_that("waits", &id, |it| it["state"] == "awaitingApproval").await;
        asked.push(id);
    }
    let mine = |all: &[Value]| -> Vec<String> {
        ids(all).into_iter().filter(|id| asked.iter().any(|one| one == id)).map(str::to_owned).collect()
    };
    let reversed: Vec<String> = asked.iter().rev().cloned().collect();
    for (order, wanted) in [("", &asked), ("orderBy=createdAt&", &asked), ("orderBy=createdAt%20desc&", &reversed)] {
        let all = pages(&mesh.reader, &format!("/control/approvals?{order}"), 2).await.concat();
        assert_eq!(mine(&all), *wanted, "{order:?}");
        assert!(all.iter().all(|one| one["state"] == "awaitingApproval" && one["approval"]["status"] == "open"));
    }
    mesh.reader.get("/control/approvals?orderBy=target").send().await.refused(400, "invalid-argument");
    mesh.reader.get("/control/approvals?state=running").send().await.refused(400, "invalid-argument");

    let approver = stack().await.api(Role::Approve);
    let gate = mesh.reader.operation(&asked[0]).await["approval"]["digest"].clone();
    approver.act(&asked[0], "reject", &json!({"digest": gate, "comment": "not today"})).await.expect(200);
    let left = mesh.reader.list("/control/approvals").await;
    assert_eq!(mine(&left), asked[1..], "what is decided is not asked for any more");
    for id in &asked[1..] {
        mesh.operator.cancel(id).await.expect(202);
    }
}

#[tokio::test]
async fn the_history_of_the_settings_is_listed_in_pages_and_both_orders() {
    let mesh = stack().await.mesh();
    for percent in [41, 42, 43] {
        patch_settings(&mesh.admin, &json!({"promote": {"minHealthyPercent": percent}})).await;
    }
    let revisions = |items: &[Value]| -> Vec<u64> {
        items.iter().map(|item| item["revision"].as_u64().expect("a revision")).collect()
    };
    for (order, newest_first) in [("", true), ("orderBy=revision%20desc&", true), ("orderBy=revision&", false)] {
        let all = pages(&mesh.reader, &format!("/control/config/history?{order}"), 2).await.concat();
        let told = revisions(&all);
        // Others may patch meanwhile: behind the end of an ascending list that is seen, before the first of the other it is not.
        let mut wanted: Vec<u64> = (1..=told.iter().copied().max().expect("revisions")).collect();
        if newest_first {
            wanted.reverse();
        }
        assert_eq!(told, wanted, "{order:?}");
        for value in [41, 42, 43] {
            let of =
                |item: &&Value| item["settings"]["promote"]["minHealthyPercent"] == value && item["actor"] == "admin";
            assert!(all.iter().any(|item| of(&item)), "{value} was set once");
        }
    }
    mesh.reader.get("/control/config/history?orderBy=at").send().await.refused(400, "invalid-argument");
    mesh.reader.get("/control/config/history?actor=admin").send().await.refused(400, "invalid-argument");
}

/// What of the status is about this test's cluster.
fn attention<'a>(status: &'a Value, kind: &str, target: &str) -> Option<&'a Value> {
    let all = status["attention"].as_array().expect("a list");
    all.iter().find(|one| one["kind"] == kind && (one["target"] == target || one["subject"] == target))
}

async fn status_that(mesh: &Mesh, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually_ok(what.to_owned(), PATIENCE, async || {
        let status = mesh.reader.read("/control/status").await;
        if wanted(&status) { Ok(status) } else { Err(status) }
    })
    .await
}

#[tokio::test]
async fn the_status_says_who_waits_for_whom_and_what_to_type() {
    let stack = stack().await;
    let mesh = stack.mesh();
    let [slow, queued, gated, silent, free] = [0, 1, 2, 3, 4].map(|n| mesh.peers[n].as_str());
    let target = |peer: &str| format!("peers/{peer}");
    mesh.operator.peer(free, "cordon", &json!({"reason": "disk", "changeTicket": "CHG-7"})).send().await.expect(200);
    mesh.operator.peer(free, "uncordon", &json!({})).send().await.expect(200);
    // Twice the same changes nothing, and is not told as a change.
    mesh.operator.peer(free, "uncordon", &json!({"reason": "again"})).send().await.expect(200);
    mesh.budget(2).await;
    patch_settings(&mesh.admin, &json!({"disruption": {"services": {"status-test": 1}}})).await;
    mesh.fault(silent, "silent").await;
    let unreachable = target(silent);
    let status =
        status_that(&mesh, "a peer is not heard of", |status| attention(status, "unreachable", &unreachable).is_some())
            .await;
    let lost = attention(&status, "unreachable", &unreachable).expect("it is told");
    assert_eq!(lost["command"], format!("omnirelay mesh peers why {silent}"));
    assert!(lost["since"].as_str().is_some(), "{lost}");

    mesh.fault(slow, "busy").await;
    let first = mesh.operator.drain(slow, &json!({"reason": "kernel"})).await;
    mesh.operator.blocked(&first, "busy").await;
    let second = mesh.admin.drain(queued, &json!({})).await;
    mesh.operator.operation_that("is queued", &second, |it| it["state"] == "queued").await;
    let gate = json!({"gate": {"gate": "start", "required": 2, "expiresIn": "1h"}});
    let third = mesh.operator.drain(gated, &gate).await;
    let waits = mesh.operator.operation_that("waits", &third, |it| it["state"] == "awaitingApproval").await;
    let digest = json!({"digest": waits["approval"]["digest"]});
    stack.api(Role::Approve).act(&third, "approve", &digest).await.expect(200);

    let status = status_that(&mesh, "all of it is told", |status| {
        attention(status, "awaitingApproval", &target(gated)).is_some_and(|it| it["approval"]["have"] == 1)
            && attention(status, "queued", &target(queued)).is_some()
            && attention(status, "blocked", &target(slow)).is_some()
    })
    .await;
    let cluster = status["clusters"].as_array().expect("clusters").iter().find(|it| it["id"] == mesh.cluster.as_str());
    let cluster = cluster.expect("the cluster");
    let numbers = ["peers", "healthy", "unavailable", "maxUnavailable", "slotsFree", "queued"];
    assert_eq!(numbers.map(|name| cluster[name].as_u64()), [5, 4, 2, 2, 0, 1].map(Some), "{cluster}");
    assert!(cluster["headroom"]["load"].as_u64().is_some_and(|load| load > 0), "{cluster}");

    let blocked = attention(&status, "blocked", &target(slow)).expect("blocked");
    assert_eq!((&blocked["code"], &blocked["holders"]), (&json!("busy"), &json!(["operator"])));
    let place = attention(&status, "queued", &target(queued)).expect("queued");
    assert_eq!(
        (&place["position"], &place["holders"]),
        (&json!(1), &json!([format!("operations/{first}")])),
        "{place}"
    );
    let approval = &attention(&status, "awaitingApproval", &target(gated)).expect("a gate")["approval"];
    assert_eq!(
        (&approval["have"], &approval["need"], &approval["scope"]),
        (&json!(1), &json!(2), &json!("mesh.approve"))
    );
    assert_eq!((&approval["notBy"], &approval["approvedBy"]), (&json!("operator"), &json!(["approver"])));
    assert_eq!(approval["expiresAt"], waits["approval"]["expiresAt"]);

    let services: Vec<&Value> = status["services"]
        .as_array()
        .expect("services")
        .iter()
        .filter(|it| it["cluster"] == mesh.cluster.as_str())
        .collect();
    let total: u64 = services.iter().filter_map(|it| it["total"].as_u64()).sum();
    assert_eq!(total, 10, "five peers with two workloads: {services:?}");
    let out: u64 = services.iter().filter_map(|it| it["unavailable"].as_u64()).sum();
    assert!(out >= 2, "those of the silent peer, and what moves: {services:?}");

    let changed = status_that(&mesh, "the cordon is told as a change", |status| {
        status["changes"].as_array().is_some_and(|all| all.iter().any(|it| it["changeTicket"] == "CHG-7"))
    })
    .await;
    let changes = changed["changes"].as_array().expect("a list");
    let cordon = changes.iter().find(|it| it["changeTicket"] == "CHG-7").expect("the cordon");
    let told = ["verb", "target", "actor", "reason", "outcome"].map(|member| cordon[member].as_str().unwrap_or(""));
    assert_eq!(told, ["peers.cordon", target(free).as_str(), "operator", "disk", "succeeded"]);
    assert!(changes.iter().all(|it| it["reason"] != "again"), "what found nothing to do is no change");
    assert!(changes.is_sorted_by(|a, b| a["at"].as_str() >= b["at"].as_str()), "newest first");
    assert!(changes.len() <= 50);

    let cli = stack.cli(Role::Admin);
    for one in status["attention"].as_array().expect("a list") {
        let command = one["command"].as_str().expect("a command");
        let mut words: Vec<&str> = command.split(' ').collect();
        assert_eq!(words.remove(0), "omnirelay");
        words.push("--help");
        assert_eq!(cli.run(&words).await.code, 0, "{command} is no command");
    }
    let why = cli.run(&["mesh", "peers", "why", queued]).await;
    assert_eq!(why.code, 0, "{}", why.stderr);

    for id in [&third, &second, &first] {
        mesh.admin.cancel(id).await;
    }
    mesh.fault(slow, "none").await;
    mesh.fault(silent, "none").await;
    status_that(&mesh, "nothing of it is left", |status| {
        [slow, queued, gated, silent].iter().all(|peer| {
            let target = target(peer);
            ["blocked", "queued", "awaitingApproval", "unreachable"]
                .iter()
                .all(|kind| attention(status, kind, &target).is_none())
        })
    })
    .await;
}
