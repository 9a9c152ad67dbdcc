//! The bus, as a dashboard uses it: events by subscription. And what the simulated peers take from it: faults.

use std::sync::{Arc, Mutex, PoisonError};

use async_nats::jetstream;
use async_nats::{Client, ConnectOptions, ServerAddr};
use futures_util::StreamExt as _;
use serde_json::json;

use crate::events::Event;
use crate::wait::{PATIENCE, eventually_ok};

const ALL_EVENTS: &str = "omni.v1.event.>";
const EVENTS_STREAM: &str = "OMNI_EVENTS";

pub(crate) async fn connect(url: &str) -> Client {
    let server: ServerAddr = url.parse().expect("a NATS url");
    // async-nats takes no credentials from the URL by itself.
    let mut options = ConnectOptions::new().retry_on_initial_connect();
    if let (Some(user), Some(password)) = (server.username(), server.password()) {
        options = options.user_and_password(user.to_owned(), password.to_owned());
    }
    options.connect(server).await.expect("a connection")
}

/// Everything that was published to the events' subjects since it began to listen.
pub struct Listener {
    heard: Arc<Mutex<Vec<Event>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Listener {
    pub async fn start(url: &str) -> Self {
        let client = connect(url).await;
        let mut messages = client.subscribe(ALL_EVENTS).await.expect("a subscription");
        client.flush().await.expect("the subscription stands");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn({
            let heard = heard.clone();
            async move {
                let _connection = client;
                while let Some(message) = messages.next().await {
                    let event = event(&message);
                    heard.lock().unwrap_or_else(PoisonError::into_inner).push(event);
                }
            }
        });
        Self { heard, task }
    }

    pub fn events(&self) -> Vec<Event> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was told of an operation, once its end was.
    pub async fn whole(&self, operation: &str) -> Vec<Event> {
        eventually_ok(format!("NATS tells the end of {operation}"), PATIENCE, async || {
            let all = self.events();
            let of: Vec<Event> = all.into_iter().filter(|event| event.operation() == Some(operation)).collect();
            if of.iter().any(Event::is_end) { Ok(of) } else { Err(format!("{} events", of.len())) }
        })
        .await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Sets a fault of a simulated peer, and waits until it has it.
pub async fn fault(url: &str, peer: &str, mode: &str, message: &str) {
    let client = connect(url).await;
    let subject = format!("omni.v1.fleet.{peer}.fault");
    let payload = json!({"mode": mode, "message": message}).to_string();
    eventually_ok(format!("{peer} takes the fault {mode}"), PATIENCE, async || {
        let answer =
            client.request(subject.clone(), payload.clone().into()).await.map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&answer.payload).into_owned();
        if text == "ok" { Ok(()) } else { Err(text) }
    })
    .await;
}

/// The events stream as it is kept: `(sequence, position header, CloudEvent id)` of each message, or why it cannot be read.
pub async fn positions_in_stream(url: &str) -> Result<Vec<(u64, u64, String)>, String> {
    let jetstream = jetstream::new(connect(url).await);
    let mut stream = jetstream.get_stream(EVENTS_STREAM).await.map_err(|error| error.to_string())?;
    let state = stream.info().await.map_err(|error| error.to_string())?.state.clone();
    let mut messages = Vec::new();
    for sequence in state.first_sequence..=state.last_sequence {
        let message = stream.get_raw_message(sequence).await.map_err(|error| format!("{sequence}: {error}"))?;
        let position = message.headers.get("Omni-Position").and_then(|value| value.as_str().parse().ok());
        let body: serde_json::Value = serde_json::from_slice(&message.payload).map_err(|error| error.to_string())?;
        let id = body["id"].as_str().unwrap_or_default().to_owned();
        messages.push((message.sequence, position.unwrap_or_default(), id));
    }
    Ok(messages)
}

fn event(message: &async_nats::Message) -> Event {
    let headers = message.headers.as_ref().expect("an event has headers");
    let position = headers.get("Omni-Position").and_then(|value| value.as_str().parse().ok());
    let body: serde_json::Value = serde_json::from_slice(&message.payload).expect("an event is JSON");
    Event {
        position: position.expect("an event has its position in a header"),
        kind: body["type"].as_str().unwrap_or_default().to_owned(),
        body,
    }
}
