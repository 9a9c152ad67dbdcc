//! What the crowd itself knows: every answer it got, what it was promised, and how things have to stand by that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use omnirelay_tests::Answer;
use serde_json::Value;

#[derive(Debug, Default)]
pub struct Books {
    inner: Mutex<Inner>,
    over: AtomicBool,
}

#[derive(Debug, Default)]
pub struct Inner {
    /// Answers by verb and outcome, as the metric calls them.
    pub tally: BTreeMap<(String, String), u64>,
    /// Actor and key → the operations that it was answered with: never more than one.
    pub keys: BTreeMap<(String, String), BTreeSet<String>>,
    /// Actor → operations that they were told of as theirs.
    pub operations: BTreeMap<String, BTreeSet<String>>,
    /// Operations whose cancel was acknowledged.
    pub cancelled: BTreeSet<String>,
    pub rejected: BTreeSet<String>,
    /// `(peer, label)` → what was acknowledged last; each label is written by one actor only, one after the other.
    pub labels: BTreeMap<(String, String), String>,
    /// `(peer, actor)` who holds it.
    pub holds: BTreeSet<(String, String)>,
    /// A setting → what was acknowledged last.
    pub settings: BTreeMap<String, Value>,
    pub plans: Vec<Duration>,
    pub confirms: Vec<Duration>,
    pub replays: usize,
    pub collisions: usize,
}

impl Books {
    pub fn open(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is left to do for bots and janitors.
    pub fn close(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// An answer to a mutation.
    pub fn answered(&self, actor: &str, verb: &str, key: &str, answer: &Answer, took: Duration) {
        let mut inner = self.open();
        *inner.tally.entry((verb.to_owned(), counted(verb, answer))).or_default() += 1;
        match (answer.code(), answer.status) {
            ("confirmation-required", _) => inner.plans.push(took),
            (_, 202) if ["peers.drain", "clusters.promote", "clusters.demote"].contains(&verb) => {
                inner.confirms.push(took);
            }
            ("revision-mismatch" | "operation-in-progress", _) => inner.collisions += 1,
            _ => {}
        }
        if answer.header("idempotency-replayed") == "true" {
            inner.replays += 1;
        }
        if verb.starts_with("operations.") {
            return;
        }
        if let Some(operation) = operation_of(answer) {
            inner.keys.entry((actor.to_owned(), key.to_owned())).or_default().insert(operation.clone());
            inner.operations.entry(actor.to_owned()).or_default().insert(operation);
        }
    }
}

/// The operation that an answer is about: in its body, or, refused by the worker, as the place of the problem.
pub fn operation_of(answer: &Answer) -> Option<String> {
    if answer.status < 300 {
        return answer.body["operation"]["id"].as_str().map(str::to_owned);
    }
    let instance = answer.body["instance"].as_str()?;
    instance.strip_prefix("/control/operations/").filter(|id| !id.contains(':')).map(str::to_owned)
}

/// What `omnirelay_mutations_total` calls this answer. Ends are counted beside it, each operation's once.
fn counted(verb: &str, answer: &Answer) -> String {
    let control = verb.starts_with("operations.");
    if answer.header("idempotency-replayed") == "true" {
        return "replayed".to_owned();
    }
    if control && answer.status < 300 {
        return match (answer.status, answer.body["changed"] == true) {
            (202, _) => "accepted".to_owned(),
            (_, false) => "unchanged".to_owned(),
            (_, true) if ["operations.cancel", "operations.reject"].contains(&verb) => {
                answer.body["operation"]["state"].as_str().unwrap_or("-").to_owned()
            }
            (_, true) => "succeeded".to_owned(),
        };
    }
    if !control && operation_of(answer).is_some() {
        return "accepted".to_owned();
    }
    answer.code().to_owned()
}

/// The slowest but one in a hundred, and the middle.
pub fn percentiles(all: &[Duration]) -> String {
    let mut sorted = all.to_vec();
    sorted.sort_unstable();
    let at = |part: f64| sorted.get(((sorted.len() as f64 * part) as usize).min(sorted.len().saturating_sub(1)));
    let told = |part: f64| at(part).map_or("-".to_owned(), |took| format!("{:.0} ms", took.as_secs_f64() * 1e3));
    format!("p50 {} p99 {} of {}", told(0.5), told(0.99), sorted.len())
}
