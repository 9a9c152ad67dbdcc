//! The public API, as a client of it would use it.

use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::StreamExt;
use omnirelay_contract::event::Event;
use serde::de::DeserializeOwned;

const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct Api {
    http: reqwest::Client,
    url: String,
    token: String,
}

impl Api {
    pub fn new(url: &str, token: String) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self { http, url: url.to_owned(), token })
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let request = self.http.get(format!("{}{path}", self.url)).bearer_auth(&self.token).timeout(TIMEOUT);
        let answer = request.send().await.with_context(|| format!("GET {path}"))?;
        if !answer.status().is_success() {
            bail!("GET {path} is answered with {}: {}", answer.status(), answer.text().await.unwrap_or_default());
        }
        answer.json().await.with_context(|| format!("the answer to GET {path}"))
    }

    /// Whether everything that the API needs is there.
    pub async fn is_ready(&self) -> bool {
        let answer = self.http.get(format!("{}/readyz", self.url)).timeout(TIMEOUT).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// All events of an operation that has ended, from its first to the one that tells its end, by server-sent events.
    pub async fn events_of(&self, operation: &str) -> anyhow::Result<Vec<Event>> {
        let path = format!("/control/events?operation={operation}");
        let request = self.http.get(format!("{}{path}", self.url)).bearer_auth(&self.token).timeout(TIMEOUT);
        let mut stream = request.send().await?.error_for_status()?.bytes_stream();
        let (mut events, mut rest) = (Vec::new(), Vec::new());
        while let Some(chunk) = stream.next().await {
            rest.extend_from_slice(&chunk.with_context(|| format!("GET {path} broke off"))?);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let Some(data) = line.strip_prefix(b"data:") else { continue };
                let event: Event = serde_json::from_slice(data).context("an event cannot be read")?;
                let is_end = event.subject == format!("operations/{operation}")
                    && event.data.state.is_some_and(|s| s.is_terminal());
                events.push(event);
                if is_end {
                    return Ok(events);
                }
            }
        }
        bail!("GET {path} ended before the operation did")
    }
}
