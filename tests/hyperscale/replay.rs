//! The whole stream of events from position 1 on, read once more in its order: what must never have been, at no position.

use std::collections::{BTreeMap, BTreeSet};

use omnirelay_tests::{Api, Event, Sse};
use serde_json::Value;

/// What the events say, and what they must not.
#[derive(Debug, Default)]
pub struct Replay {
    pub head: u64,
    /// Operation → events seen of it.
    seqs: BTreeMap<String, u64>,
    pub ended: BTreeMap<String, String>,
    /// Operations that turned back: no step forward after that.
    unwinding: BTreeSet<String>,
    /// Cluster → its budget in peers.
    limits: BTreeMap<String, usize>,
    /// Cluster → peers that are draining or drained.
    pub out: BTreeMap<String, BTreeSet<String>>,
    unreachable: BTreeSet<String>,
    /// The most that were out at once, of each cluster.
    pub most: BTreeMap<String, usize>,
    pub roles: BTreeMap<String, String>,
    version: u64,
    pub least_active: usize,
    /// Peer → its labels as the last edit told them.
    pub labels: BTreeMap<String, Value>,
    /// Operation → edits that it made.
    pub edits: BTreeMap<String, usize>,
    /// `(peer, state)` by the events.
    pub drained: BTreeSet<String>,
    pub kinds: BTreeMap<String, u64>,
    wrong: Vec<String>,
}

impl Replay {
    /// Of a mesh that begins with these clusters and budgets; the first is active.
    pub fn new(clusters: &[Value], limits: BTreeMap<String, usize>) -> Self {
        let role = |id: &str| if id == "cluster-1" { "active" } else { "passive" };
        let ids = clusters.iter().filter_map(|cluster| cluster["id"].as_str());
        let roles = ids.map(|id| (id.to_owned(), role(id).to_owned())).collect();
        Self { limits, roles, least_active: usize::MAX, ..Self::default() }
    }

    /// Reads up to the position.
    pub async fn read(&mut self, api: &Api, head: u64) {
        while self.head < head {
            let mut sse = Sse::open(api, "", Some(self.head)).await;
            loop {
                for event in std::mem::take(&mut sse.events) {
                    self.see(&event);
                }
                // Who reads too slowly is cut off, and goes on from where they were.
                if self.head >= head || !sse.more().await {
                    break;
                }
            }
        }
    }

    /// # Panics
    /// If anything was as it must never be.
    pub fn verdict(&self) {
        assert!(self.wrong.is_empty(), "{} wrongs: {:#?}", self.wrong.len(), &self.wrong[..self.wrong.len().min(8)]);
        let open: Vec<&String> = self.seqs.keys().filter(|id| !self.ended.contains_key(*id)).collect();
        assert!(open.is_empty(), "without an end: {open:?}");
    }

    fn wrong(&mut self, event: &Event, what: &str) {
        let body: String = event.body.to_string().chars().take(400).collect();
        self.wrong.push(format!("at {} {}: {what}: {body}", event.position, event.what()));
    }

    fn see(&mut self, event: &Event) {
        if event.position != self.head + 1 {
            let what = format!("positions are dense: {} after {}", event.position, self.head);
            self.wrong(event, &what);
        }
        self.head = event.position;
        *self.kinds.entry(event.what().to_owned()).or_default() += 1;
        self.of_an_operation(event);
        let subject = event.body["subject"].as_str().unwrap_or_default().to_owned();
        match subject.split_once('/') {
            Some(("peers", id)) => self.of_a_peer(event, id),
            Some(("clusters", id)) => self.of_a_cluster(event, id),
            _ => {}
        }
    }

    fn of_an_operation(&mut self, event: &Event) {
        let Some(id) = event.operation() else { return };
        let before = self.seqs.insert(id.to_owned(), event.seq()).unwrap_or(0);
        if event.seq() != before + 1 {
            self.wrong(event, &format!("its operation's last was {before}"));
        }
        if event.is_end() {
            let state = event.data()["state"].as_str().unwrap_or_default().to_owned();
            if self.ended.insert(id.to_owned(), state).is_some() {
                self.wrong(event, "it had ended");
            }
        }
        let forward = ["workloads.moving", "workloads.moved", "clusters.promoted", "clusters.demoted", "peers.drained"];
        if event.what() == "operations.unwinding" {
            self.unwinding.insert(id.to_owned());
        } else if forward.contains(&event.what()) && self.unwinding.contains(id) {
            self.wrong(event, "a step forward after the cancel");
        }
    }

    fn of_a_peer(&mut self, event: &Event, id: &str) {
        let cluster = id.split("-peer-").next().unwrap_or_default().to_owned();
        let out = self.out.entry(cluster.clone()).or_default();
        match event.what() {
            "peers.draining" => {
                // Who is out already costs nothing.
                let new = out.insert(id.to_owned()) && !self.unreachable.contains(id);
                let gone = self.unreachable.iter().filter(|peer| peer.starts_with(&format!("{cluster}-peer-")));
                let used = out.union(&gone.cloned().collect()).count();
                let most = self.most.entry(cluster.clone()).or_default();
                *most = (*most).max(used);
                let limit = self.limits.get(&cluster).copied().unwrap_or(usize::MAX);
                if new && used > limit {
                    self.wrong(event, &format!("{used} out, {limit} allowed"));
                }
            }
            "peers.drained" => {
                if !out.contains(id) {
                    self.wrong(event, "it was never draining");
                }
                self.drained.insert(id.to_owned());
            }
            "peers.uncordoned" => {
                out.remove(id);
                self.drained.remove(id);
            }
            // A drain that was undone.
            "peers.changed" if event.data()["audit"]["verb"] == "peers.drain" => {
                out.remove(id);
            }
            "peers.changed" if event.data()["audit"]["verb"] == "peers.patch" => self.of_an_edit(event, id),
            "peers.health" if event.data()["health"] == "unreachable" => {
                self.unreachable.insert(id.to_owned());
            }
            "peers.health" => {
                self.unreachable.remove(id);
            }
            _ => {}
        }
    }

    fn of_an_edit(&mut self, event: &Event, id: &str) {
        let (before, after) = (&event.data()["before"]["labels"], &event.data()["after"]["labels"]);
        if let Some(known) = self.labels.get(id)
            && known != before
        {
            self.wrong(event, &format!("an edit was lost: {known}"));
        }
        self.labels.insert(id.to_owned(), after.clone());
        *self.edits.entry(event.operation().unwrap_or_default().to_owned()).or_default() += 1;
    }

    fn of_a_cluster(&mut self, event: &Event, id: &str) {
        let state = match event.what() {
            "clusters.promoted" => "active".to_owned(),
            "clusters.demoted" => "passive".to_owned(),
            // A put tells no state.
            _ => match event.data()["clusterState"].as_str() {
                Some(state) => state.to_owned(),
                None => return,
            },
        };
        if let Some(version) = event.data()["failoverVersion"].as_u64() {
            if version < self.version {
                let known = self.version;
                self.wrong(event, &format!("the failover version went back from {known}"));
            }
            self.version = version;
        }
        self.roles.insert(id.to_owned(), state);
        // What is being demoted serves until its cutover.
        let serves = |role: &&String| ["active", "demoting"].contains(&role.as_str());
        let active = self.roles.values().filter(serves).count();
        self.least_active = self.least_active.min(active);
        if active == 0 {
            self.wrong(event, "no cluster is active");
        }
    }
}
