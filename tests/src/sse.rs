//! The API's event stream, as a client reads it.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use serde_json::Value;

use crate::api::{Answer, Api};
use crate::events::Event;
use crate::wait::PATIENCE;

/// An open stream. Dropping it hangs up.
pub struct Sse {
    bytes: BoxStream<'static, reqwest::Result<Vec<u8>>>,
    text: String,
    /// Everything heard so far.
    pub events: Vec<Event>,
}

impl Sse {
    /// Listens; `query` such as `operation=…`. The stream stands when this returns.
    pub async fn open(api: &Api, query: &str, last_event_id: Option<u64>) -> Self {
        Self::try_open(api, query, last_event_id).await.unwrap_or_else(|answer| panic!("refused: {answer:?}"))
    }

    pub async fn try_open(api: &Api, query: &str, last_event_id: Option<u64>) -> Result<Self, Box<Answer>> {
        let mut ask = api.get(&format!("/control/events?{query}")).header("accept", "text/event-stream");
        if let Some(last) = last_event_id {
            ask = ask.header("last-event-id", &last.to_string());
        }
        let response = ask.into_inner().timeout(Duration::from_secs(600)).send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        if status != 200 {
            let body = response.json().await.unwrap_or(Value::Null);
            return Err(Box::new(Answer { status, headers, body }));
        }
        let kind = headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
        assert!(kind.starts_with("text/event-stream"), "{kind}");
        let bytes = response.bytes_stream().map(|chunk| chunk.map(|bytes| bytes.to_vec())).boxed();
        let mut sse = Self { bytes, text: String::new(), events: Vec::new() };
        // The first comment: from here on nothing is missed.
        sse.read_more(PATIENCE).await;
        Ok(sse)
    }

    /// Reads until the condition holds of all that was heard.
    ///
    /// # Panics
    /// If it does not within [`PATIENCE`].
    pub async fn until(&mut self, what: &str, condition: impl Fn(&[Event]) -> bool) -> &[Event] {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !condition(&self.events) {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let heard = self.read_more(left).await;
            let kinds: Vec<_> = self.events.iter().map(|event| (event.position, event.what())).collect();
            assert!(heard, "the stream ended or was silent before {what}: {kinds:?}");
        }
        &self.events
    }

    /// Reads to the end of an operation. Events about its peer that share the last transaction may follow that end.
    pub async fn to_the_end(&mut self) -> &[Event] {
        self.until("the operation's end", |events| events.iter().any(Event::is_end)).await
    }

    /// Reads a piece more. False: the stream is over, or was silent for too long.
    pub async fn more(&mut self) -> bool {
        self.read_more(PATIENCE).await
    }

    /// False: over, or silent for too long.
    async fn read_more(&mut self, within: Duration) -> bool {
        match tokio::time::timeout(within, self.bytes.next()).await {
            Ok(Some(Ok(chunk))) => {
                self.text.push_str(std::str::from_utf8(&chunk).expect("events in whole characters"));
                self.take_frames();
                true
            }
            Ok(Some(Err(_)) | None) | Err(_) => false,
        }
    }

    fn take_frames(&mut self) {
        let mut taken = 0;
        while let Some((frame, rest)) = self.text[taken..].split_once("\n\n") {
            let field = |name: &str| {
                frame
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(|v| v.trim_start().to_owned()))
            };
            if let Some(data) = field("data") {
                self.events.push(Event {
                    position: field("id").and_then(|id| id.parse().ok()).unwrap_or_default(),
                    kind: field("event").unwrap_or_default(),
                    body: serde_json::from_str(&data).expect("data is JSON"),
                });
            }
            taken = self.text.len() - rest.len();
        }
        self.text.drain(..taken);
    }
}
