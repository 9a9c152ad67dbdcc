//! Who is in the crowd, and what they do all at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use omnirelay_tests::Api;
use rand::Rng as _;
use rand::rngs::StdRng;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::person::{AT_MOST, Person, Wish};
use crate::size::Size;

/// Peers that everybody wants to label, so that their ETags collide.
pub const HOT: usize = 8;

pub fn peer_of(cluster: usize, peer: usize) -> String {
    format!("cluster-{cluster}-peer-{peer}")
}

pub fn hot_peer(size: &Size, n: usize) -> String {
    peer_of(1 + n % size.clusters, 1 + n % size.peers)
}

/// Labels, cordons, drains, cancels, pauses; keys and ETags that collide.
pub async fn operator(me: Arc<Person>, size: Size) {
    let mut rng = me.rng();
    let (mut before, mut drains, mut late) = (None::<(Wish, String)>, Vec::<String>::new(), JoinSet::new());
    for n in 0..size.actions {
        let any = peer_of(rng.random_range(1..=size.clusters), rng.random_range(1..=size.peers));
        match rng.random_range(0..100) {
            0..40 => {
                let hot = hot_peer(&size, rng.random_range(0..HOT));
                if let Some(done) = label(&me, &hot, n, &mut rng).await {
                    before = Some(done);
                }
            }
            40..50 => {
                // Repeated, it is the same operation; something else under the same key is refused.
                let Some((wish, operation)) = &before else { continue };
                let again = me.ask(wish).await;
                assert_eq!(again.operation(), *operation, "{} {wish:?}", me.subject);
                assert_eq!(again.header("idempotency-replayed"), "true");
                let mut other = wish.clone();
                other.body["reason"] = json!("another");
                me.ask(&other).await.refused(422, "idempotency-key-reused");
            }
            50..65 => cordon(&me, &any, &mut rng).await,
            65..85 => {
                // Beyond the waves nobody has to approve it.
                let cluster = rng.random_range(size.waves.min(size.clusters - 1) + 1..=size.clusters);
                let peer = peer_of(cluster, rng.random_range(1..=size.peers));
                let body = json!({"maxConcurrent": rng.random_range(1..4), "reason": "maintenance"});
                let answer = me.confirmed(&me.on_peer(&peer, "drain", body)).await;
                if answer.status == 202 {
                    let operation = answer.operation();
                    drains.push(operation.clone());
                    if rng.random_bool(0.35) {
                        let (me, pause) = (Arc::clone(&me), Duration::from_millis(rng.random_range(0..400)));
                        late.spawn_local(async move {
                            sleep(pause).await;
                            me.cancel(&operation).await;
                        });
                    }
                } else {
                    assert!(["-", "operation-in-progress"].contains(&answer.code()), "{answer:?}");
                }
            }
            85..93 => {
                let Some(operation) = pick(&drains, &mut rng) else { continue };
                me.cancel(&operation).await;
            }
            _ => {
                let Some(operation) = pick(&drains, &mut rng) else { continue };
                pause(&me, &operation, rng.random_range(0..200)).await;
            }
        }
    }
    while let Some(ended) = late.join_next().await {
        ended.expect("a cancel");
    }
}

fn pick(all: &[String], rng: &mut StdRng) -> Option<String> {
    if all.is_empty() { None } else { Some(all[rng.random_range(0..all.len())].clone()) }
}

/// A patch with the ETag that was read, while others do the same; twice at once, as an impatient client sends it. Returns the
/// request that was taken, and its operation.
async fn label(me: &Person, peer: &str, n: usize, rng: &mut StdRng) -> Option<(Wish, String)> {
    let (mine, value) = (format!("by-{}", me.subject), n.to_string());
    for _ in 0..10 {
        let read = me.api.read(&format!("/control/peers/{peer}")).await;
        let body = json!({"labels": {&mine: &value, "last": format!("{}-{n}", me.subject)}, "reason": "labels"});
        let mut wish = me.wish("peers.patch", Method::PATCH, format!("/control/peers/{peer}"), body);
        wish.if_match = read["revision"].as_u64();
        let answer = if rng.random_bool(0.3) {
            let (one, two) = tokio::join!(me.ask(&wish), me.ask(&wish));
            match (one.status, two.status) {
                (200 | 202, 200 | 202) => assert_eq!(one.operation(), two.operation(), "one key, one operation"),
                (one, two) => assert!(one == 412 || two == 412, "{one} {two}"),
            }
            if one.status < 300 { one } else { two }
        } else {
            me.ask(&wish).await
        };
        if answer.code() == "revision-mismatch" {
            assert!(answer.body["revision"].as_u64() > wish.if_match, "the current one is told: {}", answer.body);
        } else {
            assert!(answer.status < 300, "{wish:?}: {answer:?}");
        }
        let Some(end) = me.end_of(&answer).await else { continue };
        if end["state"] == "succeeded" {
            me.books.open().labels.insert((peer.to_owned(), mine), value);
            return Some((wish, end["id"].as_str().expect("an id").to_owned()));
        }
        assert_eq!(end["error"]["code"], "revision-mismatch", "{end}");
    }
    None
}

/// A cordon of one's own, or its end.
async fn cordon(me: &Person, peer: &str, rng: &mut StdRng) {
    let held = (peer.to_owned(), me.subject.clone());
    let mine: Vec<String> = {
        let books = me.books.open();
        books.holds.iter().filter(|(_, owner)| *owner == me.subject).map(|(peer, _)| peer.clone()).collect()
    };
    if let Some(peer) = pick(&mine, rng).filter(|_| rng.random_bool(0.7)) {
        let answer = me.ask(&me.on_peer(&peer, "uncordon", json!({}))).await;
        let end = me.end_of(&answer).await.expect("an operation");
        if end["state"] == "succeeded" {
            me.books.open().holds.remove(&(peer, me.subject.clone()));
        } else {
            // Of a drain that runs there.
            assert_eq!(end["error"]["code"], "operation-in-progress", "{end}");
        }
        return;
    }
    let answer = me.ask(&me.on_peer(peer, "cordon", json!({"reason": "mine"}))).await;
    let end = me.end_of(&answer).await.expect("an operation");
    assert_eq!(end["state"], "succeeded", "{end}");
    me.books.open().holds.insert(held);
}

async fn pause(me: &Person, operation: &str, millis: u64) {
    let allowed = |code: &str| ["-", "invalid-state"].contains(&code);
    let paused = me.ask(&me.on_operation(operation, "pause", json!({"reason": "lunch"}))).await;
    assert!(allowed(paused.code()), "{paused:?}");
    sleep(Duration::from_millis(millis)).await;
    let resumed = me.ask(&me.on_operation(operation, "resume", json!({}))).await;
    assert!(allowed(resumed.code()), "{resumed:?}");
}

/// Drains the wave of each of their clusters, with a canary and behind approvals; one in three is called off.
pub async fn bulk_operator(me: Arc<Person>, clusters: Vec<usize>) {
    let mut rng = me.rng();
    let mut ours = Vec::new();
    for cluster in clusters {
        let body = json!({
            "selector": format!("cluster=cluster-{cluster},wave"), "maxConcurrent": rng.random_range(3..8),
            "canary": rng.random_range(0..3), "soak": "300ms", "maxFailures": 1_000, "reason": "new kernel",
        });
        let wish = me.wish("peers.drain", Method::POST, "/control/peers:drain".to_owned(), body);
        let operation = me.confirmed(&wish).await.expect(202).operation();
        ours.push(operation.clone());
        if rng.random_bool(0.34) {
            sleep(Duration::from_millis(rng.random_range(0..6_000))).await;
            me.cancel(&operation).await;
        }
    }
    for operation in ours {
        me.api.ended_within(&operation, AT_MOST).await;
    }
}

/// Edits settings that others edit too, each edit behind an approval.
pub async fn editor(me: Arc<Person>, size: Size) {
    let mut n = 0;
    while n < size.changes {
        let revision = me.api.read("/control/config").await["revision"].as_u64();
        let name = format!("edited-by-{}", me.subject);
        let body = json!({"settings": {"disruption": {"services": {&name: n + 1}}}, "reason": "an edit"});
        let mut wish = me.wish("config.patch", Method::PATCH, "/control/config".to_owned(), body);
        wish.if_match = revision;
        let answer = me.confirmed(&wish).await;
        let Some(end) = me.end_of(&answer).await else {
            assert_eq!(answer.code(), "revision-mismatch", "{answer:?}");
            continue;
        };
        match end["state"].as_str() {
            Some("succeeded") => {
                me.books.open().settings.insert(name, json!(n + 1));
                n += 1;
            }
            Some("rejected") => n += 1,
            Some("refused") => assert_eq!(end["error"]["code"], "revision-mismatch", "{end}"),
            _ => panic!("{end}"),
        }
    }
}

/// Promotes and demotes, planned and not, while others do; some are called off.
pub async fn captain(me: Arc<Person>, size: Size) {
    let mut rng = me.rng();
    for _ in 0..size.changes {
        let all = me.api.list("/control/clusters").await;
        let of = |state: &str| -> Vec<String> {
            let wanted = all.iter().filter(|cluster| cluster["state"] == state);
            wanted.map(|cluster| cluster["id"].as_str().expect("an id").to_owned()).collect()
        };
        let (active, passive) = (of("active"), of("passive"));
        let (Some(one), Some(other)) = (pick(&active, &mut rng), pick(&passive, &mut rng)) else { continue };
        // More down than up, so that somebody wants to demote the last one.
        let (verb, cluster, body) = match rng.random_range(0..6) {
            0 => ("clusters.promote", other, json!({"reason": "more"})),
            1 | 2 => ("clusters.promote", other, json!({"demote": [one], "reason": "planned"})),
            _ => ("clusters.demote", one, json!({"reason": "less"})),
        };
        let action = verb.rsplit('.').next().unwrap_or_default();
        let wish = me.wish(verb, Method::POST, format!("/control/clusters/{cluster}:{action}"), body);
        let answer = me.confirmed(&wish).await;
        if answer.status == 202 && rng.random_bool(0.3) {
            sleep(Duration::from_millis(rng.random_range(0..800))).await;
            me.cancel(&answer.operation()).await;
        }
        let Some(end) = me.end_of(&answer).await else {
            let known = ["operation-in-progress", "last-active-cluster", "invalid-state"];
            assert!(known.contains(&answer.code()), "{answer:?}");
            continue;
        };
        let known = ["succeeded", "cancelled", "rejected", "refused"];
        assert!(end["state"].as_str().is_some_and(|state| known.contains(&state)), "{end}");
    }
}

/// Decides whatever waits, as a bot would: once about each digest. One of them says no now and then.
pub async fn bot(me: Arc<Person>, says_no: bool) {
    let (mut rng, mut said) = (me.rng(), BTreeMap::new());
    while !me.books.is_over() {
        for operation in me.api.list("/control/approvals").await {
            let id = operation["id"].as_str().expect("an id").to_owned();
            let digest = operation["approval"]["digest"].as_str().expect("a digest").to_owned();
            if said.get(&id) == Some(&digest) {
                continue;
            }
            let decision = if says_no && rng.random_bool(0.08) { "reject" } else { "approve" };
            let answer =
                me.ask(&me.on_operation(&id, decision, json!({"digest": digest, "comment": "by the book"}))).await;
            match answer.code() {
                "-" if decision == "reject" && answer.body["changed"] == true => {
                    me.books.open().rejected.insert(id.clone());
                }
                "-" | "digest-mismatch" | "already-decided" => {}
                other => panic!("{decision} {id}: {other} {}", answer.body),
            }
            said.insert(id, digest);
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Takes drained peers back into service, as whoever mended them would.
pub async fn janitor(me: Arc<Person>) {
    while !me.books.is_over() {
        for peer in me.api.list("/control/peers?state=drained").await {
            let id = peer["id"].as_str().expect("an id");
            let answer = me.ask(&me.on_peer(id, "uncordon", json!({"reason": "mended"}))).await;
            // Somebody's own cordon stays, and so does what a new drain holds.
            assert!(["-", "peer-held", "operation-in-progress"].contains(&answer.code()), "{answer:?}");
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Gives the peers of the waves their label.
pub async fn labeller(me: Arc<Person>, peers: Vec<String>) {
    for peer in peers {
        let read = me.api.read(&format!("/control/peers/{peer}")).await;
        let body = json!({"labels": {"wave": "1"}, "reason": "the next wave"});
        let mut wish = me.wish("peers.patch", Method::PATCH, format!("/control/peers/{peer}"), body);
        wish.if_match = read["revision"].as_u64();
        let end = me.end_of(&me.ask(&wish).await).await.expect("an operation");
        assert_eq!(end["state"], "succeeded", "{end}");
        me.books.open().labels.insert((peer, "wave".to_owned()), "1".to_owned());
    }
}

/// Operations that have not ended.
pub async fn live(api: &Api) -> Vec<Value> {
    api.list("/control/operations?state=submitted,awaitingApproval,queued,running,unwinding").await
}
