//! A part of a stack that one test has for itself: a cluster, with its peers.

use serde_json::{Value, json};

use crate::api::Api;
use crate::bus::fault;
use crate::registry::Registry;
use crate::stack::{Role, Stack};

/// A cluster and three clients.
pub struct Mesh {
    pub cluster: String,
    /// Ids, in order.
    pub peers: Vec<String>,
    /// Subjects `reader`, `operator` and `admin` of the stack.
    pub reader: Api,
    pub operator: Api,
    pub admin: Api,
    nats_url: String,
}

impl Mesh {
    pub(crate) fn new(stack: &Stack, n: usize) -> Self {
        let cluster = format!("cluster-{n}");
        let peers = (1..=stack.options.peers).map(|p| format!("{cluster}-peer-{p}")).collect();
        Self {
            cluster,
            peers,
            reader: stack.api(Role::Read),
            operator: stack.api(Role::Operate),
            admin: stack.api(Role::Admin),
            nats_url: stack.nats_url().to_owned(),
        }
    }

    /// The same cluster after the stack was started again: its addresses may be others.
    pub fn again(self, stack: &Stack) -> Self {
        let new = Self::new(stack, 1);
        Self { cluster: self.cluster, peers: self.peers, ..new }
    }

    /// The cluster as it stands.
    pub async fn registry(&self) -> Registry {
        Registry::of_cluster(&self.reader, &self.cluster).await
    }

    /// Ids of the workloads on a peer.
    pub async fn workloads(&self, peer: &str) -> Vec<String> {
        let items = self.reader.list(&format!("/control/peers/{peer}/workloads")).await;
        items.iter().map(|workload| workload["id"].as_str().expect("an id").to_owned()).collect()
    }

    /// `silent`, `not-ready`, `refuse`, `busy` or `none`.
    pub async fn fault(&self, peer: &str, mode: &str) {
        fault(&self.nats_url, peer, mode, "").await;
    }

    /// Drains to its end.
    pub async fn drained(&self, peer: &str, body: &Value) -> Value {
        let operation = self.operator.drain(peer, body).await;
        self.operator.ended(&operation).await
    }

    pub async fn cordon(&self, api: &Api, peer: &str) {
        api.peer(peer, "cordon", &json!({"reason": "mine"})).send().await.expect(200);
    }
}
