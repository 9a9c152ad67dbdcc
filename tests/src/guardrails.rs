//! Budgets and bulk drains, as operators set and start them, and the watch over what must never be exceeded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::api::{Answer, Api};
use crate::events::Event;
use crate::mesh::Mesh;
use crate::wait::eventually;

impl Mesh {
    /// Sets the cluster's own budget: a number or a percent text.
    pub async fn budget(&self, amount: impl Into<Value>) {
        let path = format!("/control/clusters/{}", self.cluster);
        let body = json!({"maxUnavailable": amount.into()});
        self.admin.ask(Method::PUT, &path).raw("application/json", body.to_string()).send().await.expect(200);
    }

    /// Takes a drained peer back into service.
    pub async fn uncordon(&self, peer: &str) {
        self.admin.peer(peer, "uncordon", &json!({"all": true})).send().await.expect(200);
    }

    /// The peers that are out of service now, by the registry.
    pub async fn out(&self) -> BTreeSet<String> {
        let peers = self.reader.list(&format!("/control/peers?cluster={}", self.cluster)).await;
        let is_out = |peer: &&Value| {
            ["draining", "drained"].iter().any(|state| peer["state"] == *state) || peer["health"] == "unreachable"
        };
        peers.iter().filter(is_out).filter_map(|peer| peer["id"].as_str().map(str::to_owned)).collect()
    }

    /// Uncordons whatever is drained until the future ends, as somebody does who works on one peer after the other.
    pub async fn taking_back<T>(&self, until: impl Future<Output = T>) -> T {
        let all = async {
            loop {
                for peer in self.reader.list(&format!("/control/peers?cluster={}", self.cluster)).await {
                    if peer["state"] == "drained" && peer["operation"].is_null() {
                        let id = peer["id"].as_str().expect("an id");
                        let answer = self.admin.peer(id, "uncordon", &json!({"all": true})).try_send().await;
                        // Somebody else may have been quicker, or the worker be down at this moment.
                        drop(answer);
                    }
                }
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        };
        tokio::select! {
            () = all => unreachable!("it never ends"),
            value = until => value,
        }
    }
}

impl Api {
    /// A bulk drain with its confirmation: the answer to the confirmed request.
    pub async fn confirmed_bulk(&self, body: &Value) -> Answer {
        let asked = self.post("/control/peers:drain", body).send().await;
        if asked.code() != "confirmation-required" {
            return asked;
        }
        let mut confirmed = body.clone();
        confirmed["confirmation"] = asked.body["plan"]["confirmation"]["token"].clone();
        self.post("/control/peers:drain", &confirmed).send().await
    }

    /// A bulk drain that must be taken: its operation's id.
    pub async fn bulk(&self, body: &Value) -> String {
        self.confirmed_bulk(body).await.expect(202).operation()
    }

    /// The children of an operation, oldest first.
    pub async fn children(&self, parent: &str) -> Vec<Value> {
        let mut children = self.list(&format!("/control/operations?parent={parent}")).await;
        children.sort_by_key(|child| child["id"].as_str().unwrap_or_default().to_owned());
        children
    }

    /// The child that drains this peer, once there is one.
    pub async fn child_of(&self, parent: &str, peer: &str) -> String {
        let target = format!("peers/{peer}");
        eventually(format!("a child of {parent} drains {peer}"), crate::wait::PATIENCE, async || {
            let children = self.children(parent).await;
            let child = children.iter().find(|child| child["target"] == target.as_str())?;
            child["id"].as_str().map(str::to_owned)
        })
        .await
    }
}

/// Reads the registry over and over, and keeps the most peers that were out at once.
pub struct Sampler {
    most: Arc<AtomicUsize>,
    samples: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Sampler {
    pub fn start(mesh: &Arc<Mesh>) -> Self {
        let (most, samples, stop) =
            (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let task = tokio::spawn({
            let (mesh, most, samples, stop) = (mesh.clone(), most.clone(), samples.clone(), stop.clone());
            async move {
                while !stop.load(Ordering::Relaxed) {
                    most.fetch_max(mesh.out().await.len(), Ordering::Relaxed);
                    samples.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        });
        Self { most, samples, stop, task }
    }

    /// The most that were out at once.
    ///
    /// # Panics
    /// If it saw next to nothing.
    pub async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("it samples to its end");
        assert!(self.samples.load(Ordering::Relaxed) > 10, "it hardly looked");
        self.most.load(Ordering::Relaxed)
    }
}

/// The most peers of the cluster that were out at once at any position of the events, and how often each was drained.
pub fn most_out(events: &[Event], cluster: &str) -> (usize, BTreeMap<String, usize>) {
    let mut events: Vec<&Event> = events.iter().collect();
    events.sort_by_key(|event| event.position);
    let (mut out, mut most, mut drained) = (BTreeSet::new(), 0, BTreeMap::new());
    for event in events {
        let subject = event.body["subject"].as_str().and_then(|subject| subject.strip_prefix("peers/"));
        let Some(peer) = subject.filter(|peer| peer.starts_with(&format!("{cluster}-"))) else { continue };
        match event.what() {
            "peers.draining" => {
                out.insert(peer.to_owned());
            }
            "peers.drained" => {
                assert!(out.contains(peer), "{peer} is drained and was never draining");
                *drained.entry(peer.to_owned()).or_default() += 1;
            }
            // A drain that was undone, and one whose peer is back in service.
            "peers.uncordoned" | "peers.changed" => {
                out.remove(peer);
            }
            _ => {}
        }
        most = most.max(out.len());
    }
    (most, drained)
}

/// The most children of an operation that were live at once at any position of the events.
pub fn most_children(events: &[Event], parent: &str) -> usize {
    let mut events: Vec<&Event> = events.iter().filter(|event| event.data()["parent"] == parent).collect();
    events.sort_by_key(|event| event.position);
    let (mut live, mut most) = (BTreeSet::new(), 0);
    for event in events {
        let id = event.operation().expect("a child's event names it");
        if event.what() == "operations.submitted" {
            live.insert(id);
        } else if event.is_end() {
            assert!(live.remove(id), "{id} ended and was never submitted");
        }
        most = most.max(live.len());
    }
    most
}
