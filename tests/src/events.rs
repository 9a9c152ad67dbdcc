//! Events, however they came.

use std::collections::BTreeMap;

use serde_json::Value;

/// A CloudEvent with its position.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub position: u64,
    /// `omnirelay.peers.drained`; of a stream's own events `gap`, `snapshot`, `error`.
    pub kind: String,
    pub body: Value,
}

impl Event {
    pub fn what(&self) -> &str {
        self.kind.strip_prefix("omnirelay.").unwrap_or(&self.kind)
    }

    pub fn data(&self) -> &Value {
        &self.body["data"]
    }

    pub fn operation(&self) -> Option<&str> {
        self.data()["operation"].as_str()
    }

    pub fn seq(&self) -> u64 {
        self.data()["operationSeq"].as_u64().unwrap_or_default()
    }

    /// The end of its operation.
    pub fn is_end(&self) -> bool {
        ["succeeded", "refused", "cancelled", "failed", "stuck", "rejected", "expired"]
            .iter()
            .any(|state| self.what() == format!("operations.{state}"))
    }
}

/// # Panics
/// Unless the events are one operation's, all from the first on, in the order of their positions.
#[track_caller]
pub fn gap_free(events: &[Event]) {
    let seqs: Vec<u64> = events.iter().map(Event::seq).collect();
    let wanted: Vec<u64> = (1..=events.len() as u64).collect();
    let told: Vec<_> = events.iter().map(|event| (event.position, event.seq(), event.what())).collect();
    assert_eq!(seqs, wanted, "a gap or a repetition: {told:?}");
    assert!(events.windows(2).all(|pair| pair[0].position < pair[1].position), "not in order: {told:?}");
}

/// How often each workload was moved, and restored, by the events.
pub fn settled_moves(events: &[Event]) -> BTreeMap<String, (usize, usize)> {
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for event in events {
        let workload = event.body["subject"].as_str().and_then(|subject| subject.strip_prefix("workloads/"));
        let Some(workload) = workload else { continue };
        let count = counts.entry(workload.to_owned()).or_default();
        match event.what() {
            "workloads.moved" => count.0 += 1,
            "workloads.restored" => count.1 += 1,
            _ => {}
        }
    }
    counts
}

/// Who holds a peer, sorted.
pub fn owners(peer: &Value) -> Vec<String> {
    let holds = peer["holds"].as_array().expect("holds");
    let mut owners: Vec<String> = holds
        .iter()
        .map(|hold| format!("{} {}", hold["kind"].as_str().unwrap_or(""), hold["owner"].as_str().unwrap_or("")))
        .collect();
    owners.sort();
    owners
}
