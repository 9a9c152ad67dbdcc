//! Two clusters of a mesh, to be promoted and demoted.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::api::{Answer, Api};
use crate::fleet::shows_role;
use crate::mesh::Mesh;
use crate::stack::Stack;

/// Two clusters of one test. Both are passive at first.
pub struct Pair {
    stack: &'static Stack,
    pub one: Mesh,
    pub other: Mesh,
    /// An administrator's.
    pub api: Api,
}

impl Pair {
    pub fn new(stack: &'static Stack) -> Self {
        let (one, other) = (stack.mesh(), stack.mesh());
        let api = one.admin.clone();
        Self { stack, one, other, api }
    }

    /// The first of them is active.
    pub async fn with_one_active(stack: &'static Stack) -> Self {
        let pair = Self::new(stack);
        succeeded(&pair.api, &pair.one.cluster, "promote", &json!({})).await;
        pair
    }

    pub fn url(&self) -> &str {
        self.stack.nats_url()
    }

    /// A promotion of `other` that takes over from `one`, which cannot end its fencing for a peer that does not answer.
    pub async fn held_in_fencing(&self) -> (String, &str) {
        let peer = self.other.peers[0].as_str();
        self.other.fault(peer, "no-role").await;
        let operation = promoted(&self.api, &self.other.cluster, &json!({"demote": [self.one.cluster]})).await;
        self.api.operation_that("is fencing", &operation, |it| it["phase"] == "fencing").await;
        (operation, peer)
    }

    pub async fn states(&self) -> (String, String) {
        (state(&self.api, &self.one.cluster).await, state(&self.api, &self.other.cluster).await)
    }

    pub async fn versions(&self) -> (u64, u64) {
        (version(&self.api, &self.one.cluster).await, version(&self.api, &self.other.cluster).await)
    }
}

pub async fn cluster(api: &Api, id: &str) -> Value {
    api.read(&format!("/control/clusters/{id}")).await
}

pub async fn state(api: &Api, id: &str) -> String {
    cluster(api, id).await["state"].as_str().expect("a state").to_owned()
}

pub async fn version(api: &Api, id: &str) -> u64 {
    cluster(api, id).await["failoverVersion"].as_u64().expect("a version")
}

pub async fn ask(api: &Api, cluster: &str, verb: &str, body: &Value) -> Answer {
    api.post(&format!("/control/clusters/{cluster}:{verb}"), body).send().await
}

/// The body with the confirmation that the answer to it has brought.
pub fn confirming(body: &Value, asked: &Answer) -> Value {
    let mut confirmed = body.clone();
    confirmed["confirmation"] = asked.body["plan"]["confirmation"]["token"].clone();
    confirmed
}

/// The answer to the confirmed request, or to the first where no confirmation was wanted.
pub async fn confirmed(api: &Api, cluster: &str, verb: &str, body: &Value) -> Answer {
    let asked = ask(api, cluster, verb, body).await;
    if asked.code() != "confirmation-required" {
        return asked;
    }
    ask(api, cluster, verb, &confirming(body, &asked)).await
}

/// A promotion that is taken: its operation.
pub async fn promoted(api: &Api, cluster: &str, body: &Value) -> String {
    confirmed(api, cluster, "promote", body).await.expect(202).operation()
}

/// A promotion or demotion that has succeeded: its operation.
pub async fn succeeded(api: &Api, cluster: &str, verb: &str, body: &Value) -> Value {
    let operation = confirmed(api, cluster, verb, body).await.expect(202).operation();
    let ended = api.ended(&operation).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    ended
}

pub fn pair_of(one: &str, other: &str) -> (String, String) {
    (one.to_owned(), other.to_owned())
}

/// The failover versions under which the agents of a cluster show this role, once all do.
pub async fn all_show<'a>(url: &str, peers: impl IntoIterator<Item = &'a String>, role: &str) -> BTreeSet<u64> {
    join_all(peers.into_iter().map(|peer| shows_role(url, peer, role))).await.into_iter().collect()
}

/// Waits until a peer is judged so.
pub async fn looks(mesh: &Mesh, peer: &str, health: &str) {
    mesh.reader.peer_that(&format!("is {health}"), peer, |it| it["health"] == health).await;
}
