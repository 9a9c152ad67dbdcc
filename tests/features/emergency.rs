//! A cluster takes over while something is broken: who cannot be reached holds nobody up, is named, and is told before anything
//! else once it is back. What force passes is recorded.

use std::collections::BTreeSet;

use omnirelay_tests::failover::{Pair, all_show, ask, cluster, confirming, looks, pair_of, state, succeeded};
use omnirelay_tests::{Api, Commands, PATIENCE, Stack, StackOptions, eventually, fault, lag, records_of, shows_role};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// One stack for this file: its first cluster stays active for ever, each test has two others of its own.
async fn stack() -> &'static Stack {
    static STACK: OnceCell<Stack> = OnceCell::const_new();
    let options = StackOptions { clusters: 11, workloads: 1, ..StackOptions::default() };
    let started = async || {
        let stack = Stack::start(options).await;
        stack.mesh();
        stack
    };
    STACK.get_or_init(started).await
}

#[tokio::test]
async fn a_cancel_names_who_does_not_know_of_it_yet_and_tells_them_when_they_are_back() {
    let pair = Pair::with_one_active(stack().await).await;
    let lost = pair.one.peers[2].as_str();
    let (operation, held) = pair.held_in_fencing().await;
    pair.one.fault(lost, "silent").await;
    looks(&pair.one, lost, "unreachable").await;
    pair.api.cancel(&operation).await.expect(202);
    pair.other.fault(held, "none").await;
    let ended = pair.api.ended(&operation).await;
    assert_eq!(ended["state"], "cancelled", "{ended}");
    let left = &ended["result"]["notRestored"];
    assert_eq!(
        (&left[0]["peer"], &left[0]["cluster"], &left[1]),
        (&json!(lost), &json!(pair.one.cluster), &Value::Null)
    );
    assert_eq!(pair.states().await, pair_of("active", "passive"));
    pair.one.fault(lost, "none").await;
    let (version, _) = pair.versions().await;
    assert_eq!(shows_role(pair.url(), lost, "active").await, version);
}

#[tokio::test]
async fn a_cluster_without_enough_healthy_peers_takes_over_by_force_only_and_that_is_recorded() {
    let pair = Pair::new(stack().await);
    let cluster_id = pair.one.cluster.as_str();
    let [first, second, _] = pair.one.peers.as_slice() else { panic!("three peers") };
    for peer in [first, second] {
        pair.one.fault(peer, "silent").await;
    }
    for peer in [first, second] {
        looks(&pair.one, peer, "unreachable").await;
    }
    let refused = ask(&pair.api, cluster_id, "promote", &json!({})).await;
    assert_eq!(refused.refused(409, "no-capacity").body["cluster"], cluster_id);
    assert!(refused.body["detail"].as_str().is_some_and(|text| text.contains("force")), "it says what to do");
    let path = format!("/control/clusters/{cluster_id}:promote?validateOnly=true");
    pair.api.post(&path, &json!({})).send().await.refused(409, "no-capacity");

    let asked = ask(&pair.api, cluster_id, "promote", &json!({"force": true})).await;
    let plan = &asked.refused(428, "confirmation-required").body["plan"];
    assert_eq!(plan["impact"]["unreachable"], json!([first, second]), "{plan}");
    assert!(plan["impact"]["overridden"].to_string().contains("1 of its 3 peers"), "{plan}");
    let ended =
        succeeded(&pair.api, cluster_id, "promote", &json!({"force": true, "reason": "the east is lost"})).await;
    let overridden = ended["result"]["forced"]["overridden"].as_array().expect("what was passed");
    assert_eq!((&overridden[0]["check"], &overridden[0]["subject"]), (&json!("health"), &json!(cluster_id)));
    let unfenced = ended["result"]["unfenced"].as_array().expect("unfenced");
    let named: Vec<&str> = unfenced.iter().filter_map(|one| one["peer"].as_str()).collect();
    assert_eq!(named, [first, second]);
    let version = ended["result"]["failoverVersion"].as_u64().expect("a version");
    let audited = records_of(&pair.one.reader, ended["id"].as_str().expect("an id"), "succeeded").await;
    assert!(audited.iter().any(|record| record["detail"].to_string().contains("overridden")), "{audited:?}");

    for peer in [first, second] {
        pair.one.fault(peer, "none").await;
    }
    let told = all_show(pair.url(), [first, second], "active").await;
    assert_eq!(told, BTreeSet::from([version]), "they are told once they are back");
}

#[tokio::test]
async fn a_peer_out_of_reach_is_named_and_told_its_role_before_anything_else_once_it_is_back() {
    let pair = Pair::with_one_active(stack().await).await;
    let lost = pair.one.peers[2].as_str();
    pair.one.fault(lost, "silent").await;
    looks(&pair.one, lost, "unreachable").await;
    let body = json!({"demote": [pair.one.cluster]});
    let ended = succeeded(&pair.api, &pair.other.cluster, "promote", &body).await;
    let unfenced = ended["result"]["unfenced"].as_array().expect("unfenced");
    assert_eq!(unfenced.len(), 1, "{ended}");
    assert_eq!((&unfenced[0]["peer"], &unfenced[0]["cluster"]), (&json!(lost), &json!(pair.one.cluster)));
    assert!(unfenced[0]["why"].as_str().is_some_and(|why| !why.is_empty()), "{ended}");
    let version = ended["result"]["failoverVersion"].as_u64().expect("a version");
    assert_eq!(pair.states().await, pair_of("passive", "active"));

    // It has something else to be told as well.
    pair.one.cordon(&pair.api, lost).await;
    let commands = Commands::listen(pair.url(), lost).await;
    pair.one.fault(lost, "none").await;
    let heard = commands.until("cordon").await;
    assert_eq!(heard[0]["verb"], "role", "{heard:?}");
    assert_eq!(
        heard[0]["cluster"],
        json!({"cluster": pair.one.cluster, "failoverVersion": version, "role": "passive"})
    );
    assert_eq!(shows_role(pair.url(), lost, "passive").await, version);
}

#[tokio::test]
async fn a_peer_that_is_lost_during_the_fencing_does_not_hold_it_up() {
    let pair = Pair::with_one_active(stack().await).await;
    let (operation, held) = pair.held_in_fencing().await;
    pair.other.fault(held, "silent").await;
    let ended = pair.api.ended(&operation).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(ended["result"]["unfenced"][0]["peer"], held, "{ended}");
    assert_eq!(pair.states().await, pair_of("passive", "active"));
    pair.other.fault(held, "none").await;
    let (_, version) = pair.versions().await;
    assert_eq!(shows_role(pair.url(), held, "active").await, version);
}

#[tokio::test]
async fn an_emergency_does_not_wait_for_an_agent_that_cannot_let_go_and_says_so() {
    let stack = Stack::start(StackOptions { clusters: 2, peers: 2, workloads: 1, ..StackOptions::default() }).await;
    let (one, other) = (stack.mesh(), stack.mesh());
    let api = one.admin.clone();
    set(&api, json!({"settings": {"promote": {"fenceTimeout": "1s"}}})).await;
    let stubborn = one.peers[0].as_str();
    fault(stack.nats_url(), stubborn, "role-fails", "its database hangs").await;
    let body = json!({"demote": [one.cluster], "force": true});
    let ended = succeeded(&api, &other.cluster, "promote", &body).await;
    let result = &ended["result"];
    assert_eq!(result["unfenced"][0]["peer"], stubborn, "{ended}");
    let overridden = &result["forced"]["overridden"][0];
    assert_eq!((&overridden["check"], &overridden["subject"]), (&json!("fencing"), &json!(stubborn)), "{ended}");
    assert!(overridden["message"].as_str().is_some_and(|text| text.contains("its database hangs")), "{ended}");
    assert_eq!((state(&api, &one.cluster).await, state(&api, &other.cluster).await), pair_of("passive", "active"));

    one.fault(stubborn, "none").await;
    assert_eq!(shows_role(stack.nats_url(), stubborn, "passive").await, result["failoverVersion"], "it is told on");
}

/// Changes settings of the mesh.
async fn set(api: &Api, mut patch: Value) {
    let now = api.get("/control/config").send().await;
    let etag = now.expect(200).header("etag").to_owned();
    let send = async |patch: &Value| {
        api.ask(Method::PATCH, "/control/config")
            .header("if-match", &etag)
            .raw("application/merge-patch+json", patch.to_string())
            .send()
            .await
    };
    let asked = send(&patch).await;
    patch = confirming(&patch, asked.refused(428, "confirmation-required"));
    send(&patch).await.expect(200);
}

#[tokio::test]
async fn a_cluster_that_lags_behind_is_refused_and_by_force_the_lag_is_recorded() {
    let pair = Pair::new(stack().await);
    let cluster_id = pair.one.cluster.as_str();
    lag(pair.url(), &pair.one.peers[1], 900).await;
    eventually("its lag is known", PATIENCE, async || {
        (cluster(&pair.api, cluster_id).await["replicationLagMs"] == 900).then_some(())
    })
    .await;
    let refused = ask(&pair.api, cluster_id, "promote", &json!({})).await;
    refused.refused(409, "invalid-state");
    assert_eq!((&refused.body["lagMs"], &refused.body["limitMs"]), (&json!(900), &json!(500)));
    let ended = succeeded(&pair.api, cluster_id, "promote", &json!({"force": true})).await;
    let overridden = &ended["result"]["forced"]["overridden"][0];
    assert_eq!((&overridden["check"], &overridden["subject"]), (&json!("lag"), &json!(cluster_id)));
    assert!(overridden["message"].as_str().is_some_and(|text| text.contains("900 ms")), "{ended}");
}
