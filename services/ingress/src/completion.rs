//! Who waits for which operation, and how they hear that it is done.
//!
//! The worker says so on the bus, to the ingress that is named in the operation. The message may be lost, or NATS may be
//! away: a poll of the record, for those who wait longer than usual, is behind it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use omnirelay_bus::Bus;
use omnirelay_contract::problem::Problem;
use omnirelay_contract::subject;
use omnirelay_store::reads::operations;
use omnirelay_store::{PgPool, StoreError, reads};
use omnirelay_workflow::OperationId;
use omnirelay_workflow::operation::{State, Verb};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;

/// How often the record is asked about those who wait, and how long a message has before that.
const POLL: Duration = Duration::from_millis(250);

/// An operation that has ended.
#[derive(Debug, Clone)]
pub struct Done {
    pub operation: OperationId,
    pub state: State,
    /// Why it was refused or failed.
    pub error: Option<Problem>,
    /// What a put has made: `peers/edge-9`.
    pub made: Option<String>,
    /// The whole answer: JSON of `Mutated`.
    pub body: Bytes,
}

/// The waiters of one ingress. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Completions {
    waiting: Arc<Mutex<HashMap<OperationId, Waiting>>>,
    finished: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    waiters: Vec<oneshot::Sender<Done>>,
}

/// A wait. Dropped, it is forgotten.
#[derive(Debug)]
pub struct Wait {
    operation: OperationId,
    completions: Completions,
    done: oneshot::Receiver<Done>,
}

#[derive(Deserialize)]
struct Probe<'a> {
    #[serde(borrow)]
    operation: ProbeOperation<'a>,
}

#[derive(Deserialize)]
struct ProbeOperation<'a> {
    id: OperationId,
    state: State,
    #[serde(default)]
    error: Option<Problem>,
    verb: Option<Verb>,
    target: Option<String>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
}

/// The result of a put.
#[derive(Deserialize)]
struct Put {
    created: bool,
}

impl Completions {
    /// Begins to wait. Done before the operation is committed, so that its end cannot be missed.
    pub fn wait(&self, operation: OperationId) -> Wait {
        let (sender, done) = oneshot::channel();
        let mut waiting = self.waiting();
        let entry = waiting
            .entry(operation)
            .or_insert_with(|| Waiting { since: Instant::now(), waiters: Vec::with_capacity(1) });
        entry.waiters.push(sender);
        Wait { operation, completions: self.clone(), done }
    }

    /// Tells everybody who waits for it.
    pub fn finish(&self, done: &Done) {
        self.finished.fetch_add(1, Ordering::Relaxed);
        let Some(waiting) = self.waiting().remove(&done.operation) else { return };
        for waiter in waiting.waiters {
            // Somebody who no longer waits is not an error.
            let _gone = waiter.send(done.clone());
        }
    }

    /// How many ends were heard of.
    pub fn finished(&self) -> u64 {
        self.finished.load(Ordering::Relaxed)
    }

    /// Listens on the bus and polls the record until `stop`.
    pub async fn run(self, bus: Bus, instance: String, pool: PgPool, stop: CancellationToken) {
        let polling = self.poll(&pool, &stop);
        let listening = self.listen(&bus, &instance, &stop);
        tokio::join!(polling, listening);
    }

    async fn listen(&self, bus: &Bus, instance: &str, stop: &CancellationToken) {
        let mut messages = match bus.subscribe(&subject::done(instance)).await {
            Ok(messages) => messages,
            Err(error) => {
                tracing::warn!(%error, "the ends of operations are only polled");
                return;
            }
        };
        while let Some(Some(message)) = stop.run_until_cancelled(messages.next()).await {
            match parse(&message.payload) {
                Ok(all) => all.iter().for_each(|done| self.finish(done)),
                Err(error) => tracing::warn!(%error, "a message about ended operations cannot be read"),
            }
        }
    }

    async fn poll(&self, pool: &PgPool, stop: &CancellationToken) {
        let mut tick = tokio::time::interval(POLL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let late: Vec<OperationId> = {
                let now = Instant::now();
                let waiting = self.waiting();
                let late = waiting.iter().filter(|(_, one)| now.saturating_duration_since(one.since) >= POLL);
                late.map(|(id, _)| *id).collect()
            };
            if late.is_empty() {
                continue;
            }
            match ended(pool, &late).await {
                Ok(all) => all.iter().for_each(|done| self.finish(done)),
                Err(error) => tracing::warn!(%error, "cannot ask which operations have ended"),
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<OperationId, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wait {
    /// The end, or nothing when `at_most` has passed before it.
    pub async fn done(mut self, at_most: Duration) -> Option<Done> {
        tokio::time::timeout(at_most, &mut self.done).await.ok()?.ok()
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.done.close();
        let mut waiting = self.completions.waiting();
        if let Some(entry) = waiting.get_mut(&self.operation) {
            entry.waiters.retain(|waiter| !waiter.is_closed());
            if entry.waiters.is_empty() {
                waiting.remove(&self.operation);
            }
        }
    }
}

impl Done {
    /// From a row that has ended.
    pub fn from_row(row: &reads::OperationRow) -> Result<Self, StoreError> {
        let mutated = reads::mutated_dto(row)?;
        let body = serde_json::to_vec(&mutated).map_err(|error| StoreError::corrupt("an operation", error))?;
        let created = || mutated.operation.result.as_ref()?.get("created")?.as_bool();
        let made = is_put(mutated.operation.verb) && created() == Some(true);
        Ok(Self {
            operation: row.id,
            state: mutated.operation.state,
            error: mutated.operation.error,
            made: made.then_some(mutated.operation.target),
            body: body.into(),
        })
    }
}

fn is_put(verb: Verb) -> bool {
    matches!(verb, Verb::PeersPut | Verb::ClustersPut)
}

/// The array of `Mutated` that a worker sends. Each is passed on as it is; only what decides the answer is parsed.
fn parse(payload: &[u8]) -> Result<Vec<Done>, serde_json::Error> {
    let all: Vec<&RawValue> = serde_json::from_slice(payload)?;
    all.into_iter()
        .map(|raw| {
            let Probe { operation } = serde_json::from_str(raw.get())?;
            let body = Bytes::copy_from_slice(raw.get().as_bytes());
            let put = operation.result.filter(|_| operation.verb.is_some_and(is_put));
            let made =
                put.and_then(|result| serde_json::from_str::<Put>(result.get()).ok()).is_some_and(|put| put.created);
            let made = operation.target.filter(|_| made);
            Ok(Done { operation: operation.id, state: operation.state, error: operation.error, made, body })
        })
        .collect()
}

async fn ended(pool: &PgPool, ids: &[OperationId]) -> Result<Vec<Done>, StoreError> {
    operations::terminal(pool, ids).await?.iter().map(Done::from_row).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn message(id: OperationId, state: &str) -> String {
        json!([{"operation": {"id": id, "state": state, "more": [1]}, "changed": true}]).to_string()
    }

    #[tokio::test]
    async fn everybody_who_waits_hears_of_the_end() {
        let completions = Completions::default();
        let id = Uuid::from_u128(1);
        let (first, second) = (completions.wait(id), completions.wait(id));
        let all = parse(message(id, "succeeded").as_bytes()).expect("a message");
        assert_eq!(all[0].state, State::Succeeded);
        all.iter().for_each(|done| completions.finish(done));
        for wait in [first, second] {
            let done = wait.done(Duration::from_secs(5)).await.expect("told");
            assert!(done.body.ends_with(b"\"changed\":true}") || done.body.starts_with(b"{\"changed\":true"));
        }
        assert!(completions.waiting().is_empty());
    }

    #[test]
    fn only_a_put_that_made_something_says_so() {
        let check = |verb: &str, result: serde_json::Value, expect: Option<&str>| {
            let message = json!([{"operation": {"id": Uuid::from_u128(1), "state": "succeeded", "verb": verb,
                                                "target": "peers/a", "result": result}, "changed": true}]);
            let all = parse(message.to_string().as_bytes()).expect("a message");
            assert_eq!(all[0].made.as_deref(), expect, "{message}");
        };
        check("peers.put", json!({"created": true}), Some("peers/a"));
        check("clusters.put", json!({"created": true}), Some("peers/a"));
        check("peers.put", json!({"created": false}), None);
        check("peers.put", json!(null), None);
        check("config.patch", json!({"created": true}), None);
    }

    #[tokio::test]
    async fn who_gives_up_is_forgotten() {
        let completions = Completions::default();
        let id = Uuid::from_u128(1);
        let (first, second) = (completions.wait(id), completions.wait(id));
        assert!(first.done(Duration::from_millis(1)).await.is_none());
        assert_eq!(completions.waiting().len(), 1);
        drop(second);
        assert!(completions.waiting().is_empty());
    }

    #[test]
    fn a_foreign_message_is_an_error_not_a_panic() {
        for bad in ["", "{}", "[1]", "[{\"operation\":{\"id\":\"x\"}}]"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
