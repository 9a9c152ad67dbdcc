//! Several people want the same at the same time: one of them gets it, and the others are told what to make of it.

use futures_util::future::join_all;
use omnirelay_tests::{Call, Door, Protocol, Reply, Scope, Stack};
use serde_json::{Value, json};

use crate::{MESH_WIDE, stack};

/// Two people at each door, all with the confirmation of the same plan.
async fn four(stack: &Stack, name: &str) -> Vec<Door> {
    let mut doors = Vec::new();
    for protocol in Protocol::BOTH {
        for n in 1..=2 {
            let subject = format!("{name}-{}-{n}", protocol.name());
            doors.push(Door::open(protocol, stack.api_of(&subject, Scope::Admin)).await);
        }
    }
    doors
}

/// All at once, each confirmed before.
async fn at_once(doors: &[Door], calls: &[Call]) -> Vec<Reply> {
    let mut confirmed = Vec::new();
    for (door, call) in doors.iter().zip(calls) {
        let asked = door.ask(call).await;
        asked.refused("confirmation-required");
        confirmed.push(asked.confirms(call));
    }
    join_all(doors.iter().zip(&confirmed).map(|(door, call)| door.ask(call))).await
}

#[tokio::test]
async fn of_drains_of_a_peer_at_once_one_is_taken_and_the_others_are_told_which() {
    let stack = stack().await;
    let mesh = stack.mesh();
    let doors = four(stack, "drainer").await;
    for round in 0..6 {
        let peer = &mesh.peers[round % 2];
        let call = Call::new("peers.drain", peer, json!({"reason": format!("round {round}")}));
        let replies = at_once(&doors, &vec![call; doors.len()]).await;
        let (taken, refused): (Vec<&Reply>, Vec<&Reply>) = replies.iter().partition(|reply| reply.code == "-");
        assert_eq!((taken.len(), refused.len()), (1, 3), "{replies:?}");
        let winner = taken[0].operation();
        for reply in refused {
            reply.refused("operation-in-progress");
            assert_eq!(reply.body["operation"], winner, "{}", reply.body);
            let detail = reply.body["detail"].as_str().unwrap_or_default();
            assert!(detail.contains(peer.as_str()) && detail.contains(&winner), "{detail}");
        }
        assert_eq!(mesh.reader.ended(&winner).await["state"], "succeeded");
        let drains = mesh.reader.list(&format!("/control/operations?target=peers/{peer}&verb=peers.drain")).await;
        assert_eq!(drains.len(), round / 2 + 1, "the others left no operation");
        mesh.admin.peer(peer, "uncordon", &json!({"all": true})).send().await.expect(200);
    }
}

#[tokio::test]
async fn of_demotions_at_once_that_would_leave_nobody_one_is_done() {
    let stack = stack().await;
    let mesh = stack.mesh();
    let _alone = MESH_WIDE.lock().await;
    let doors = four(stack, "demoter").await;
    let both = ["cluster-1", mesh.cluster.as_str()];
    for round in 0..4 {
        for cluster in both {
            let promote = Call::new("clusters.promote", cluster, json!({})).waits();
            assert_eq!(doors[round].confirmed(&promote).await.taken().body["operation"]["state"], "succeeded");
        }
        let calls = [0, 1, 0, 1].map(|n| Call::new("clusters.demote", both[n], json!({"reason": "at once"})).waits());
        let order = [doors[0].clone(), doors[2].clone(), doors[1].clone(), doors[3].clone()];
        let replies = at_once(&order, &calls).await;
        let states: Vec<(String, Value)> =
            replies.iter().map(|it| (it.code.clone(), it.body["operation"]["state"].clone())).collect();
        let done = replies.iter().filter(|it| it.body["operation"]["state"] == "succeeded" && it.changed()).count();
        assert_eq!(done, 1, "{states:?}");
        for reply in replies.iter().filter(|reply| reply.code != "-") {
            let expected = ["last-active-cluster", "operation-in-progress", "confirmation-required"];
            assert!(expected.contains(&reply.code.as_str()), "{} {}", reply.code, reply.body);
            assert!(reply.body["detail"].as_str().is_some_and(|detail| detail.len() > 15), "{}", reply.body);
        }
        assert!(replies.iter().any(|reply| reply.code == "last-active-cluster"), "{states:?}");
        let clusters = mesh.reader.list("/control/clusters").await;
        let active: Vec<&Value> = clusters.iter().filter(|it| it["state"] == "active").map(|it| &it["id"]).collect();
        assert_eq!(active.len(), 1, "{clusters:?}");
    }
    let home = Call::new("clusters.promote", "cluster-1", json!({"demote": [mesh.cluster]})).waits();
    let active = mesh.reader.read("/control/clusters/cluster-1").await["state"] == "active";
    if !active {
        doors[0].confirmed(&home).await.taken();
    }
}

#[tokio::test]
async fn of_fifty_patches_with_one_etag_one_wins_and_the_others_are_told_the_new_revision() {
    let stack = stack().await;
    let mesh = stack.mesh();
    let peer = mesh.peers[0].as_str();
    let doors = four(stack, "patcher").await;
    for round in 0..3 {
        let before = mesh.reader.read(&format!("/control/peers/{peer}")).await;
        let revision = before["revision"].as_u64().expect("a revision");
        let calls: Vec<Call> = (0..50)
            .map(|n| {
                let body = json!({"labels": {"winner": format!("{round}-{n}")}});
                Call::new("peers.patch", peer, body).if_match(revision)
            })
            .collect();
        let replies = join_all(calls.iter().enumerate().map(|(n, call)| doors[n % doors.len()].ask(call))).await;
        let winners: Vec<usize> = (0..50).filter(|n| replies[*n].code == "-").collect();
        assert_eq!(winners.len(), 1, "{winners:?}");
        for (n, reply) in replies.iter().enumerate().filter(|(n, _)| *n != winners[0]) {
            reply.refused("revision-mismatch");
            assert_eq!(reply.body["revision"], revision + 1, "{n}: {}", reply.body);
            assert!(reply.body["detail"].as_str().is_some_and(|detail| detail.contains(peer)), "{}", reply.body);
        }
        let after = mesh.reader.read(&format!("/control/peers/{peer}")).await;
        assert_eq!(after["revision"], revision + 1, "once");
        assert_eq!(after["labels"]["winner"], format!("{round}-{}", winners[0]));
    }
}
