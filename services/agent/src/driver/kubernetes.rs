//! Workloads as pods of a node: cordon the node, evict its pods, and see them go.
//!
//! ```text
//! here ──release: Eviction──▶ refused by a budget (busy, in the API's words) … accepted ──▶ terminating (busy) ──▶ gone
//! ```
//!
//! Pods are placed by Kubernetes, so they are released only and nothing is ever put back. An eviction is what `kubectl drain`
//! does: disruption budgets decide, and nothing is deleted around them. Pods of DaemonSets and mirror pods belong to the node and
//! are left out, as are those that have finished. A cordon that is somebody else's stays theirs: ours has an annotation.

mod api;
mod pod;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::{BoxFuture, FutureExt};
use omnirelay_workflow::{PeerId, WorkloadId};
use serde::Deserialize;
use serde_json::json;

use super::{Answer, Call, Driver, Exit, Target, Verb};
use api::{Api, ApiError};
use pod::{Node, Pod, PodList};

/// On a node that is cordoned by us, with the id of the peer.
const CORDONED_BY: &str = "omnirelay.io/cordoned-by";
/// How often a cordon is tried when the node changes at that moment.
const CONFLICTS: usize = 5;
/// Pods that are asked for at once.
const PAGE: u32 = 500;

/// `[peer.kubernetes]`. Within a cluster nothing needs to be said but the node, where it is not called as the peer is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KubernetesConfig {
    /// The peer's name, or its id, when left out.
    #[serde(default)]
    pub node: Option<String>,
    /// `https://host:port`; the cluster that the agent itself runs in when left out, with its service account.
    #[serde(default)]
    pub server: Option<String>,
    /// A bearer token; read anew for every request, since tokens are rotated.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// The certificate authority of the server; the system's when left out.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

impl KubernetesConfig {
    /// What the types alone do not say: the key and the reason.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        match &self.node {
            Some(node) if !pod::is_name(node) => return Err(("node", format!("{node:?} is no name of a node"))),
            _ => {}
        }
        match &self.server {
            Some(server) => api::base(server).map(drop).map_err(|why| ("server", why)),
            None => Ok(()),
        }
    }
}

pub struct KubernetesDriver {
    api: Api,
    node: String,
    peer: PeerId,
    /// Where the pods of the last list are, so that looking at one does not list them all.
    known: Mutex<HashMap<WorkloadId, Place>>,
}

/// A pod's name may be another pod's later; its uid may not.
#[derive(Debug, Clone)]
struct Place {
    namespace: String,
    name: String,
    uid: String,
}

impl KubernetesDriver {
    /// `node` is what the peer is called when the configuration does not name a node.
    pub fn open(config: &KubernetesConfig, peer: PeerId, node: &str) -> anyhow::Result<Self> {
        let node = config.node.clone().unwrap_or_else(|| node.to_owned());
        anyhow::ensure!(pod::is_name(&node), "{node:?} is no name of a node: set kubernetes.node");
        Ok(Self { api: Api::open(config)?, node, peer, known: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<WorkloadId, Place>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node's pods that can be moved, page by page.
    async fn pods(&self) -> Result<Vec<(WorkloadId, Pod)>, ApiError> {
        let (mut pods, mut next) = (Vec::new(), String::new());
        loop {
            let selector = format!("spec.nodeName={}", self.node);
            let page = PAGE.to_string();
            let query = [("fieldSelector", selector.as_str()), ("limit", &page), ("continue", &next)];
            let list: PodList = self.api.get("/api/v1/pods", &query).await?;
            for pod in list.items.into_iter().filter(Pod::counts) {
                pods.push((pod.id().map_err(ApiError::Odd)?, pod));
            }
            next = list.metadata.next.unwrap_or_default();
            if next.is_empty() {
                break;
            }
        }
        let place = |(id, pod): &(WorkloadId, Pod)| {
            let metadata = &pod.metadata;
            let (namespace, name) = (metadata.namespace.clone(), metadata.name.clone());
            (id.clone(), Place { namespace, name, uid: metadata.uid.clone() })
        };
        *self.lock() = pods.iter().map(place).collect();
        Ok(pods)
    }

    /// The pod of a workload, none when it is gone.
    async fn pod(&self, id: &WorkloadId) -> Result<Option<Pod>, ApiError> {
        let known = self.lock().get(id).cloned();
        let Some(place) = known else {
            return Ok(self.pods().await?.into_iter().find(|(other, _)| other == id).map(|(_, pod)| pod));
        };
        let path = format!("/api/v1/namespaces/{}/pods/{}", place.namespace, place.name);
        match self.api.get::<Pod>(&path, &[]).await {
            Ok(pod) => Ok(Some(pod).filter(|pod| pod.metadata.uid == place.uid && pod.counts())),
            Err(ApiError::Status { code: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn list(&self) -> Result<Answer, ApiError> {
        let pods = self.pods().await?;
        Ok(Answer::done(pods.iter().map(|(id, pod)| pod.line(id)).collect()))
    }

    async fn status(&self, target: &Target) -> Result<Answer, ApiError> {
        let pod = self.pod(&target.id).await?;
        let message = pod.as_ref().and_then(Pod::amiss).unwrap_or_default();
        let lines = pod.iter().map(|pod| pod.line(&target.id)).collect();
        Ok(Answer { exit: Exit::Done, lines, message })
    }

    async fn release(&self, target: &Target) -> Result<Answer, ApiError> {
        let Some(pod) = self.pod(&target.id).await? else { return Ok(Answer::done(Vec::new())) };
        let busy = |message: String| Ok(Answer::busy(vec![pod.line(&target.id)], message));
        if pod.metadata.deletion_timestamp.is_some() {
            return busy(pod.amiss().unwrap_or_default());
        }
        let metadata = &pod.metadata;
        let path = format!("/api/v1/namespaces/{}/pods/{}/eviction", metadata.namespace, metadata.name);
        // The uid: a pod of that name that came meanwhile is not the one that was to go.
        let eviction = json!({
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": { "namespace": metadata.namespace, "name": metadata.name },
            "deleteOptions": { "preconditions": { "uid": metadata.uid } },
        });
        match self.api.post(&path, &eviction).await {
            Ok(()) => busy(format!("{pod} is evicted and ends")),
            Err(ApiError::Status { code: 404, .. }) => Ok(Answer::done(Vec::new())),
            // A disruption budget, another pod of that name, or a server that cannot just now: all of it may pass.
            Err(ApiError::Status { code: 409 | 429 | 500.., words }) => busy(words),
            Err(error) => Err(error),
        }
    }

    /// Sets or takes back a cordon of ours, on the node as it was read: a change in between is a conflict, and is read again.
    async fn hold(&self, held: bool) -> Result<Answer, ApiError> {
        let path = format!("/api/v1/nodes/{}", self.node);
        let mut tries = 0;
        loop {
            let node: Node = self.api.get(&path, &[]).await?;
            let ours = node.metadata.annotations.contains_key(CORDONED_BY);
            let change = if held { !node.spec.unschedulable } else { ours };
            if !change {
                return Ok(Answer::done(Vec::new()));
            }
            let by = held.then_some(self.peer.as_str());
            let patch = json!({
                "metadata": { "resourceVersion": node.metadata.resource_version, "annotations": { CORDONED_BY: by } },
                "spec": { "unschedulable": held.then_some(true) },
            });
            match self.api.patch(&path, &patch).await {
                Ok(()) => return Ok(Answer::done(Vec::new())),
                Err(ApiError::Status { code: 409, .. }) if tries < CONFLICTS => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

impl Driver for KubernetesDriver {
    fn call(&self, call: Call) -> BoxFuture<'_, Answer> {
        async move {
            let answer = match (call.verb, &call.target) {
                (Verb::List, _) => self.list().await,
                (Verb::Status, Some(target)) => self.status(target).await,
                (Verb::Release, Some(target)) => match self.release(target).await {
                    // Nothing is lost by asking again.
                    Err(error) if error.may_pass() => Ok(Answer::busy(Vec::new(), error.to_string())),
                    answer => answer,
                },
                (Verb::Acquire, Some(_)) => {
                    return Answer::failed(
                        "pods are placed by Kubernetes' own scheduler: nothing can be acquired here",
                    );
                }
                (Verb::Cordon, _) => self.hold(true).await,
                (Verb::Uncordon, _) => self.hold(false).await,
                (Verb::Role, _) => Ok(Answer::done(Vec::new())),
                (Verb::Status | Verb::Acquire | Verb::Release, None) => return Answer::failed("which workload?"),
            };
            answer.unwrap_or_else(|error| Answer::failed(error.to_string()))
        }
        .boxed()
    }
}
