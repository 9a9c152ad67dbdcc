//! A cluster takes over as planned: agents let go first, the roles change at once, and it can be called off until then. There is
//! never a moment without an active cluster.

use std::collections::BTreeSet;

use omnirelay_tests::failover::{
    Pair, all_show, ask, cluster, confirming, pair_of, promoted, state, succeeded, version,
};
use omnirelay_tests::{PATIENCE, Sse, Stack, StackOptions, eventually_ok, fault, gap_free, records_of, shows_role};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// One stack for this file: its first cluster stays active for ever, each test has two others of its own.
async fn stack() -> &'static Stack {
    static STACK: OnceCell<Stack> = OnceCell::const_new();
    let options = StackOptions { clusters: 25, workloads: 1, ..StackOptions::default() };
    let started = async || {
        let stack = Stack::start(options).await;
        stack.mesh();
        stack
    };
    STACK.get_or_init(started).await
}

#[tokio::test]
async fn a_planned_failover_swaps_two_clusters_in_one_operation_that_everybody_can_follow() {
    let pair = Pair::with_one_active(stack().await).await;
    let (one, other) = (pair.one.cluster.as_str(), pair.other.cluster.as_str());
    let before = pair.versions().await;
    let body = json!({"demote": [one], "reason": "maintenance in the east", "changeTicket": "CHG-4813"});
    let ended = succeeded(&pair.api, other, "promote", &body).await;

    assert_eq!(pair.states().await, pair_of("passive", "active"));
    let (version_of_one, version) = pair.versions().await;
    assert_eq!(version_of_one, version);
    assert!(version > before.0.max(before.1), "{version} after {before:?}");
    let result = &ended["result"];
    assert_eq!((&result["promoted"], &result["demoted"]), (&json!(other), &json!([one])));
    assert_eq!((&result["failoverVersion"], &result["unfenced"]), (&json!(version), &json!([])));
    assert_eq!((&result["forced"], &ended["changed"]), (&Value::Null, &Value::Null));
    assert_eq!(ended["progress"], json!({"done": 6, "total": 6, "inFlight": 0, "failed": 0, "unit": "peers"}));
    for (mesh, role) in [(&pair.one, "passive"), (&pair.other, "active")] {
        assert_eq!(all_show(pair.url(), &mesh.peers, role).await, BTreeSet::from([version]), "{role}");
    }
    for id in [one, other] {
        assert_eq!(cluster(&pair.api, id).await["operation"], Value::Null, "{id} is free again");
    }

    let operation = ended["id"].as_str().expect("an id");
    let mut sse = Sse::open(&pair.one.reader, &format!("operation={operation}"), None).await;
    let told = sse.to_the_end().await.to_vec();
    gap_free(&told);
    let at = |what: &str, subject: &str| {
        let of = |event: &omnirelay_tests::Event| event.what() == what && event.body["subject"] == subject;
        told.iter().position(of).unwrap_or_else(|| panic!("{what} of {subject} in {told:?}"))
    };
    let [one, other] = [one, other].map(|id| format!("clusters/{id}"));
    assert!(at("clusters.changed", &one) < at("clusters.demoted", &one));
    assert!(at("clusters.changed", &other) < at("clusters.promoted", &other));
    let promoted = &told[at("clusters.promoted", &other)];
    assert_eq!(promoted.data()["failoverVersion"], version);

    let audited = records_of(&pair.one.reader, operation, "succeeded").await;
    assert_eq!(audited.len(), told.len());
    let outcomes: BTreeSet<&str> = audited.iter().filter_map(|record| record["outcome"].as_str()).collect();
    for outcome in ["accepted", "changed", "promoted", "demoted", "succeeded"] {
        assert!(outcomes.contains(outcome), "{outcome} in {outcomes:?}");
    }
    for record in &audited {
        assert_eq!((&record["verb"], &record["actor"]["subject"]), (&json!("clusters.promote"), &json!("admin")));
        let (reason, ticket) = (&record["reason"], &record["changeTicket"]);
        assert_eq!((reason, ticket), (&body["reason"], &body["changeTicket"]), "{record}");
        if ["changed", "promoted", "demoted"].iter().any(|outcome| record["outcome"] == *outcome) {
            assert!(record["revisionAfter"].as_u64() > record["revisionBefore"].as_u64(), "{record}");
        }
    }
}

#[tokio::test]
async fn nothing_becomes_active_before_every_agent_has_let_go() {
    let pair = Pair::with_one_active(stack().await).await;
    let before = pair.versions().await;
    let (operation, late) = pair.held_in_fencing().await;
    assert_eq!(pair.states().await, pair_of("demoting", "promoting"));
    let (fenced, same) = pair.versions().await;
    assert!(fenced == same && fenced > before.0.max(before.1), "{fenced} {same} after {before:?}");
    let others = pair.one.peers.iter().chain(&pair.other.peers[1..]);
    assert_eq!(all_show(pair.url(), others, "fenced").await, BTreeSet::from([fenced]));
    let waiting = pair.api.operation_that("waits for one", &operation, |it| it["progress"]["done"] == 5).await;
    assert_eq!((&waiting["state"], &waiting["phase"]), (&json!("running"), &json!("fencing")), "{waiting}");
    assert_eq!(pair.states().await, pair_of("demoting", "promoting"));

    pair.other.fault(late, "none").await;
    let ended = pair.api.ended(&operation).await;
    assert_eq!((&ended["state"], &ended["result"]["unfenced"]), (&json!("succeeded"), &json!([])), "{ended}");
    assert_eq!(pair.versions().await, (fenced, fenced), "the cutover is made under the version of its fencing");
    assert_eq!(pair.states().await, pair_of("passive", "active"));
}

#[tokio::test]
async fn what_stands_in_the_way_of_the_fencing_is_told_in_the_drivers_words() {
    let pair = Pair::new(stack().await);
    let peer = pair.one.peers[1].as_str();
    fault(pair.url(), peer, "role-fails", "the replica is not writable").await;
    let operation = promoted(&pair.api, &pair.one.cluster, &json!({})).await;
    let blocker = pair.api.blocked(&operation, "not-ready").await;
    assert_eq!((&blocker["subject"], &blocker["message"]), (&json!(peer), &json!("the replica is not writable")));
    pair.one.fault(peer, "none").await;
    let ended = pair.api.ended(&operation).await;
    assert_eq!((&ended["state"], &ended["blockers"]), (&json!("succeeded"), &json!([])));
}

#[tokio::test]
async fn the_version_grows_across_the_mesh_and_only_where_something_changes() {
    let pair = Pair::new(stack().await);
    let (one, other) = (pair.one.cluster.as_str(), pair.other.cluster.as_str());
    let bystander = version(&pair.api, "cluster-1").await;
    let mut last = 1;
    for (cluster, verb) in [(one, "promote"), (other, "promote"), (one, "demote"), (other, "demote")] {
        let ended = succeeded(&pair.api, cluster, verb, &json!({})).await;
        let used = ended["result"]["failoverVersion"].as_u64().expect("a version");
        assert!(used > last, "{used} after {last}");
        assert_eq!(version(&pair.api, cluster).await, used);
        last = used;
    }
    assert!(version(&pair.api, one).await < last, "it was not part of the last");
    assert_eq!(version(&pair.api, "cluster-1").await, bystander);
}

#[tokio::test]
async fn a_cancel_before_the_cutover_gives_everybody_back_the_role_that_they_had() {
    let pair = Pair::with_one_active(stack().await).await;
    let (operation, late) = pair.held_in_fencing().await;
    let (fenced, _) = pair.versions().await;
    assert_eq!(pair.api.cancel(&operation).await.expect(202).body["changed"], true);
    assert_eq!(pair.api.cancel(&operation).await.expect(200).body["changed"], false);
    pair.other.fault(late, "none").await;
    let ended = pair.api.ended(&operation).await;
    assert_eq!((&ended["state"], &ended["cancel"]["by"]), (&json!("cancelled"), &json!("admin")), "{ended}");
    assert_eq!(ended["result"]["notRestored"], json!([]), "{ended}");
    assert_eq!((&ended["result"]["promoted"], &ended["result"]["demoted"]), (&Value::Null, &json!([])));
    assert_eq!(pair.states().await, pair_of("active", "passive"));
    let (version, same) = pair.versions().await;
    assert!(version == same && version > fenced, "{version} {same} after {fenced}");
    for (mesh, role) in [(&pair.one, "active"), (&pair.other, "passive")] {
        assert_eq!(all_show(pair.url(), &mesh.peers, role).await, BTreeSet::from([version]), "{role}");
    }
    // Nothing of it is in the way of the next.
    succeeded(&pair.api, &pair.other.cluster, "promote", &json!({"demote": [pair.one.cluster]})).await;
    assert_eq!(pair.states().await, pair_of("passive", "active"));
}

#[tokio::test]
async fn a_cancel_after_the_cutover_is_too_late_and_names_what_undoes_it() {
    let pair = Pair::with_one_active(stack().await).await;
    let (operation, late) = pair.held_in_fencing().await;
    let (fenced, _) = pair.versions().await;
    // Somebody who has let go already does not take the role that comes next: that is the moment after the cutover.
    let [_, second, _] = pair.other.peers.as_slice() else { panic!("three peers") };
    assert_eq!(shows_role(pair.url(), second, "fenced").await, fenced);
    pair.other.fault(second, "no-role").await;
    pair.other.fault(late, "none").await;
    pair.api.operation_that("is past the cutover", &operation, |it| it["phase"] == "verifying").await;
    assert_eq!(pair.states().await, pair_of("passive", "active"));

    let refused = pair.api.cancel(&operation).await;
    let during = refused.refused(409, "too-late").body["inverse"].clone();
    assert_eq!(during["method"], "POST");
    assert_eq!(during["path"], format!("/control/clusters/{}:promote", pair.one.cluster));
    assert_eq!(during["body"], json!({"demote": [pair.other.cluster]}));
    assert_eq!(pair.api.operation(&operation).await["phase"], "verifying", "it goes on");

    pair.other.fault(second, "none").await;
    assert_eq!(pair.api.ended(&operation).await["state"], "succeeded");
    let refused = pair.api.cancel(&operation).await;
    assert_eq!(refused.refused(409, "too-late").body["inverse"], during, "and after its end");

    let path = during["path"].as_str().expect("a path");
    let asked = pair.api.post(path, &during["body"]).send().await;
    asked.refused(428, "confirmation-required");
    let undo = pair.api.post(path, &confirming(&during["body"], &asked)).send().await.expect(202).operation();
    assert_eq!(pair.api.ended(&undo).await["state"], "succeeded");
    assert_eq!(pair.states().await, pair_of("active", "passive"));
}

#[tokio::test]
async fn what_undoes_a_promotion_leaves_alone_what_it_left_alone() {
    let pair = Pair::new(stack().await);
    let (one, other) = (pair.one.cluster.as_str(), pair.other.cluster.as_str());
    // The cluster that it names is passive already: it takes over from nobody.
    let body = json!({"demote": [one]});
    let asked = ask(&pair.api, other, "promote", &body).await;
    let inverse = json!({"method": "POST", "path": format!("/control/clusters/{other}:demote"), "body": {}});
    assert_eq!(asked.refused(428, "confirmation-required").body["plan"]["impact"]["inverse"], inverse);
    let ended = succeeded(&pair.api, other, "promote", &body).await;
    assert_eq!(ended["result"]["demoted"], json!([]), "{ended}");
    let late = pair.api.cancel(ended["id"].as_str().expect("an id")).await;
    assert_eq!(late.refused(409, "too-late").body["inverse"], inverse);
    succeeded(&pair.api, other, "demote", &json!({})).await;
    assert_eq!(pair.states().await, pair_of("passive", "passive"));
}

#[tokio::test]
async fn the_last_active_cluster_is_never_taken_away_not_even_by_two_at_once() {
    let stack = Stack::start(StackOptions { clusters: 2, peers: 2, workloads: 1, ..StackOptions::default() }).await;
    let (one, other) = (stack.mesh(), stack.mesh());
    let api = one.admin.clone();
    let (a, b) = (one.cluster.as_str(), other.cluster.as_str());
    for body in [json!({}), json!({"force": true})] {
        assert_eq!(ask(&api, a, "demote", &body).await.refused(409, "last-active-cluster").body["cluster"], a);
        let path = format!("/control/clusters/{a}:demote?validateOnly=true");
        api.post(&path, &body).send().await.refused(409, "last-active-cluster");
    }
    assert_eq!(state(&api, a).await, "active");

    let watch = tokio::spawn({
        let api = api.clone();
        async move {
            let mut fewest = usize::MAX;
            loop {
                let answer = api.get("/control/clusters").send().await;
                let Some(items) = answer.body["items"].as_array() else { return Err(answer.body) };
                fewest = fewest.min(items.iter().filter(|it| it["state"] == "active").count());
                if fewest == 0 {
                    return Err(answer.body);
                }
                if items.iter().any(|it| it["labels"]["watched"] == "enough") {
                    return Ok(fewest);
                }
            }
        }
    });
    for round in 0..4 {
        for id in [a, b] {
            if state(&api, id).await == "passive" {
                succeeded(&api, id, "promote", &json!({})).await;
            }
        }
        let nothing = json!({});
        let (to_a, to_b) = tokio::join!(ask(&api, a, "demote", &nothing), ask(&api, b, "demote", &nothing));
        let (to_a, to_b) = (confirming(&nothing, &to_a), confirming(&nothing, &to_b));
        let (of_a, of_b) = tokio::join!(ask(&api, a, "demote", &to_a), ask(&api, b, "demote", &to_b));
        let mut won = 0;
        for answer in [&of_a, &of_b] {
            if answer.status == 409 {
                answer.refused(409, "last-active-cluster");
                continue;
            }
            let ended = api.ended(&answer.expect(202).operation()).await;
            match ended["state"].as_str() {
                Some("succeeded") => won += 1,
                Some("refused") => {
                    assert_eq!(ended["error"]["code"], "last-active-cluster", "{ended}");
                    assert_eq!(ended["error"]["status"], 409, "{ended}");
                }
                _ => panic!("neither taken nor refused: {ended}"),
            }
        }
        let states = [state(&api, a).await, state(&api, b).await];
        assert_eq!(won, 1, "one of two wins: {states:?} in round {round}");
        assert_eq!(states.iter().filter(|state| *state == "active").count(), 1, "{states:?} in round {round}");
        assert_eq!(states.iter().filter(|state| *state == "passive").count(), 1, "{states:?} in round {round}");
    }
    let labelled = json!({"labels": {"watched": "enough"}});
    api.ask(Method::PUT, &format!("/control/clusters/{a}"))
        .raw("application/json", labelled.to_string())
        .send()
        .await
        .expect(200);
    assert_eq!(watch.await.expect("watches"), Ok(1), "there was an active cluster at every moment");
}

#[tokio::test]
async fn of_two_promotions_at_once_one_wins() {
    let pair = Pair::new(stack().await);
    let id = pair.one.cluster.as_str();
    let body = confirming(&json!({}), &ask(&pair.api, id, "promote", &json!({})).await);
    let (first, second) = tokio::join!(ask(&pair.api, id, "promote", &body), ask(&pair.api, id, "promote", &body));
    let (taken, refused) = if first.status == 202 { (first, second) } else { (second, first) };
    let operation = taken.expect(202).operation();
    // Where the winner had begun, what the other has confirmed is not there any more.
    assert!(["operation-in-progress", "confirmation-required"].contains(&refused.code()), "{}", refused.body);
    assert_eq!(pair.api.ended(&operation).await["state"], "succeeded");
    assert_eq!(version(&pair.api, id).await, pair.api.operation(&operation).await["result"]["failoverVersion"]);
}

#[tokio::test]
async fn what_is_so_already_changes_nothing_and_asks_for_no_confirmation() {
    let pair = Pair::with_one_active(stack().await).await;
    let before = pair.versions().await;
    for (cluster, verb) in [(&pair.one.cluster, "promote"), (&pair.other.cluster, "demote")] {
        let answer = ask(&pair.api, cluster, verb, &json!({})).await;
        assert_eq!(answer.expect(200).body["changed"], false, "{verb}");
        assert_eq!(answer.body["operation"]["state"], "succeeded");
        assert_eq!(answer.body["resource"]["id"], **cluster, "{}", answer.body);
    }
    let both = json!({"demote": [pair.other.cluster]});
    assert_eq!(ask(&pair.api, &pair.one.cluster, "promote", &both).await.expect(200).body["changed"], false);
    assert_eq!(pair.versions().await, before);
    assert_eq!(pair.states().await, pair_of("active", "passive"));
}

#[tokio::test]
async fn a_cluster_in_an_operation_is_in_no_other() {
    let pair = Pair::with_one_active(stack().await).await;
    let (operation, late) = pair.held_in_fencing().await;
    let (one, other) = (pair.one.cluster.as_str(), pair.other.cluster.as_str());
    for (cluster, verb, body) in [
        (other, "promote", json!({})),
        (other, "demote", json!({"force": true})),
        (one, "demote", json!({})),
        ("cluster-1", "promote", json!({"demote": [one]})),
    ] {
        let refused = ask(&pair.api, cluster, verb, &body).await;
        assert_eq!(refused.refused(409, "operation-in-progress").body["operation"], operation, "{verb} {cluster}");
    }
    for id in [one, other] {
        assert_eq!(cluster(&pair.api, id).await["operation"], operation, "{id} says who has it");
    }
    pair.other.fault(late, "none").await;
    assert_eq!(pair.api.ended(&operation).await["state"], "succeeded");
}

#[tokio::test]
async fn a_plan_changes_nothing_and_its_confirmation_holds_for_what_it_showed_only() {
    let pair = Pair::with_one_active(stack().await).await;
    let (one, other) = (pair.one.cluster.as_str(), pair.other.cluster.as_str());
    let before = pair.versions().await;
    let body = json!({"demote": [one]});
    let path = format!("/control/clusters/{other}:promote?validateOnly=true");
    let plan = pair.api.post(&path, &body).send().await.expect(200).body.clone();
    let impact = &plan["impact"];
    assert_eq!((&impact["promote"]["cluster"], &impact["promote"]["state"]), (&json!(other), &json!("passive")));
    assert_eq!((&impact["promote"]["healthyPeers"], &impact["fence"]), (&json!(3), &json!(6)), "{plan}");
    assert_eq!((&impact["demote"][0]["cluster"], &impact["unreachable"]), (&json!(one), &json!([])), "{plan}");
    assert_eq!(impact["inverse"]["path"], format!("/control/clusters/{one}:promote"), "{plan}");
    assert_eq!(impact["inverse"]["body"], json!({"demote": [other]}), "{plan}");

    // Somebody changes one of the two: neither what was planned nor what was asked for holds any more.
    let confirmed = {
        let mut confirmed = body.clone();
        confirmed["confirmation"] = plan["confirmation"]["token"].clone();
        confirmed
    };
    pair.api
        .ask(Method::PUT, &format!("/control/clusters/{one}"))
        .raw("application/json", json!({"priority": 7}).to_string())
        .send()
        .await
        .expect(200);
    let stale = ask(&pair.api, other, "promote", &confirmed).await;
    stale.refused(428, "confirmation-required");
    let wrong = ask(&pair.api, other, "promote", &confirming(&json!({"demote": [one], "force": true}), &stale)).await;
    wrong.refused(428, "confirmation-required");
    assert_eq!((pair.states().await, pair.versions().await), (pair_of("active", "passive"), before));
    let taken = ask(&pair.api, other, "promote", &confirming(&body, &stale)).await;
    assert_eq!(pair.api.ended(&taken.expect(202).operation()).await["state"], "succeeded");
    assert_eq!(pair.states().await, pair_of("passive", "active"));
}

#[tokio::test]
async fn what_cannot_be_asked_for_is_refused_and_changes_nothing() {
    let pair = Pair::new(stack().await);
    let (one, other) = (pair.one.cluster.as_str(), pair.other.cluster.as_str());
    let before = pair.versions().await;
    ask(&pair.one.operator, one, "promote", &json!({})).await.refused(403, "insufficient-scope");
    ask(&pair.one.operator, one, "demote", &json!({})).await.refused(403, "insufficient-scope");
    ask(&pair.api, one, "promote", &json!({"demote": [one]})).await.refused(400, "invalid-argument");
    ask(&pair.api, one, "promote", &json!({"fast": true})).await.refused(400, "invalid-argument");
    ask(&pair.api, one, "demote", &json!({"demote": [other]})).await.refused(400, "invalid-argument");
    ask(&pair.api, "no-such", "promote", &json!({})).await.refused(404, "not-found");
    ask(&pair.api, one, "promote", &json!({"demote": ["no-such"]})).await.refused(404, "not-found");
    assert_eq!((pair.states().await, pair.versions().await), (pair_of("passive", "passive"), before));
    let told = eventually_ok("a refusal is audited", PATIENCE, async || {
        let records = pair.one.reader.list(&format!("/control/audit?target=clusters/{one}&outcome=denied")).await;
        if records.len() == 2 { Ok(records) } else { Err(Value::from(records)) }
    })
    .await;
    let verbs: BTreeSet<&str> = told.iter().filter_map(|record| record["verb"].as_str()).collect();
    assert_eq!(verbs, BTreeSet::from(["clusters.promote", "clusters.demote"]));
}
