//! Simulated peers from the inside of the bus: what they tell, and what they are told.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt as _;
use serde_json::{Value, json};

use crate::bus::connect;
use crate::wait::{PATIENCE, eventually_ok};

/// Sets the replication lag that a simulated peer tells, and waits until it has it.
pub async fn lag(url: &str, peer: &str, lag_ms: u64) {
    let client = connect(url).await;
    let subject = format!("omni.v1.fleet.{peer}.fault");
    let payload = json!({ "lagMs": lag_ms }).to_string();
    eventually_ok(format!("{peer} takes its lag"), PATIENCE, async || {
        let answer =
            client.request(subject.clone(), payload.clone().into()).await.map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&answer.payload).into_owned();
        if text == "ok" { Ok(()) } else { Err(text) }
    })
    .await;
}

/// The first heartbeat of a peer that shows this role of its cluster: its failover version.
///
/// # Panics
/// If none comes in time, with the last that was heard.
pub async fn shows_role(url: &str, peer: &str, role: &str) -> u64 {
    let client = connect(url).await;
    let mut beats = client.subscribe(format!("omni.v1.heartbeat.{peer}")).await.expect("a subscription");
    let mut last = Value::Null;
    let heard = tokio::time::timeout(PATIENCE, async {
        while let Some(message) = beats.next().await {
            let beat: Value = serde_json::from_slice(&message.payload).expect("a heartbeat is JSON");
            last = beat["cluster"].clone();
            if last["role"] == role {
                return last["failoverVersion"].as_u64();
            }
        }
        None
    });
    let version = heard.await.ok().flatten();
    version.unwrap_or_else(|| panic!("{peer} does not show that it is {role}: {last}"))
}

/// The commands that a peer's agent is sent, since it began to listen.
pub struct Commands {
    heard: Arc<Mutex<Vec<Value>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Commands {
    pub async fn listen(url: &str, peer: &str) -> Self {
        let client = connect(url).await;
        let mut messages = client.subscribe(format!("omni.v1.agent.{peer}.*")).await.expect("a subscription");
        client.flush().await.expect("the subscription stands");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn({
            let heard = heard.clone();
            async move {
                let _connection = client;
                while let Some(message) = messages.next().await {
                    let command = serde_json::from_slice(&message.payload).expect("a command is JSON");
                    heard.lock().unwrap_or_else(PoisonError::into_inner).push(command);
                }
            }
        });
        Self { heard, task }
    }

    /// All of them, in order, once there is one of this verb.
    pub async fn until(&self, verb: &str) -> Vec<Value> {
        eventually_ok(format!("{verb} is commanded"), PATIENCE, async || {
            let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if heard.iter().any(|command| command["verb"] == verb) { Ok(heard) } else { Err(Value::from(heard)) }
        })
        .await
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.task.abort();
    }
}
