//! The public API over HTTP: requests with the token, answers or problems, pages followed, exchanges recorded.
//!
//! Reads are repeated once or twice when nobody answers; so are mutations, because each carries an idempotency key that is
//! chosen once for the whole command: "unknown commit" is found out by asking again with the same key.

use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, RETRY_AFTER};
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use omnirelay_contract::problem::Problem;
use omnirelay_contract::rest::Page;

use crate::context::Token;
use crate::record::{Exchange, Recorder};

/// How long to ask again for, per wait; the last one is the last attempt's.
const ATTEMPTS: u32 = 4;
/// A server's `Retry-After` is followed as far as this.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Longer than the longest `Prefer: wait` (60 s).
const TIMEOUT: Duration = Duration::from_secs(75);
/// An event stream has a comment every 15 s; one that is silent for this long is dead.
const STREAM_SILENCE: Duration = Duration::from_secs(40);
/// The most a server gives in one page.
const PAGE: usize = 1_000;

/// Names of query parameters that lists share.
pub const PAGE_SIZE: &str = "pageSize";
pub const PAGE_TOKEN: &str = "pageToken";
pub const ORDER_BY: &str = "orderBy";

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the HTTP client cannot be set up: {0}")]
    Setup(#[source] reqwest::Error),
    /// Nobody answered.
    #[error("{url} does not answer: {why}")]
    Unreachable { url: String, why: String },
    /// The API said no, and why.
    #[error("{}: {}", .0.title, .0.detail)]
    Problem(Box<Problem>),
    /// An error that is not the API's.
    #[error("{path} answered {status}{text}")]
    Answer { path: String, status: u16, text: String },
    #[error("the answer of {path} is not understood: {source}")]
    Unreadable { path: String, source: serde_json::Error },
    #[error("the exchange cannot be recorded in {file}: {source}")]
    Record { file: String, source: std::io::Error },
}

impl ClientError {
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }

    /// The HTTP status of the answer, if there was one.
    pub fn status(&self) -> Option<u16> {
        match self {
            ClientError::Problem(problem) => Some(problem.status),
            ClientError::Answer { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the same request may well succeed in a moment.
    pub fn is_passing(&self) -> bool {
        matches!(self, ClientError::Unreachable { .. }) || matches!(self.status(), Some(429 | 502..=504))
    }
}

/// One request. `path` begins with a slash; queries are encoded here.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: Method,
    pub path: String,
    pub query: Vec<(String, String)>,
    pub headers: Vec<(&'static str, String)>,
    pub body: Option<Value>,
}

impl Request {
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), query: Vec::new(), headers: Vec::new(), body: None }
    }

    /// A mutation with its idempotency key.
    pub fn post(path: impl Into<String>, key: &str, body: Value) -> Self {
        Self::mutation(Method::POST, path, key, body)
    }

    /// A mutation by this method.
    pub fn mutation(method: Method, path: impl Into<String>, key: &str, body: Value) -> Self {
        Self {
            method,
            path: path.into(),
            query: Vec::new(),
            headers: vec![("idempotency-key", key.to_owned())],
            body: Some(body),
        }
    }

    #[expect(clippy::needless_pass_by_value, reason = "numbers, words and ids are given as they come")]
    #[must_use]
    pub fn query(mut self, name: &str, value: impl ToString) -> Self {
        self.query.push((name.to_owned(), value.to_string()));
        self
    }

    #[expect(clippy::needless_pass_by_value, reason = "numbers, words and ids are given as they come")]
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    /// Only where the resource is still as it was read.
    #[must_use]
    pub fn if_match(self, revision: u64) -> Self {
        self.header("if-match", format!("\"{revision}\""))
    }
}

/// A good answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// 200, 201 where something was created, 202 where it goes on.
    pub status: u16,
    pub body: Value,
}

#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<Token>,
    recorder: Option<Recorder>,
}

impl Client {
    /// `base` is an http address without a trailing slash.
    pub fn new(base: &str, token: Option<Token>, recorder: Option<Recorder>) -> Result<Self, ClientError> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("omnirelay-cli/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(5))
            // An API does not redirect; a proxy that does would get the token.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(ClientError::Setup)?;
        Ok(Self { http, base: base.to_owned(), token, recorder })
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// Where exchanges and prompts are written to, if anywhere.
    pub fn recorder(&self) -> Option<&Recorder> {
        self.recorder.as_ref()
    }

    /// Sends, and asks again while the trouble looks like passing.
    pub async fn send(&self, request: &Request) -> Result<Answer, ClientError> {
        let mut attempt = 1;
        loop {
            let (result, retry_after) = self.once(request).await;
            match result {
                Err(error) if error.is_passing() && attempt < ATTEMPTS => {
                    let wait = retry_after.unwrap_or_default().max(backoff(attempt)).min(LONGEST_WAIT);
                    tokio::time::sleep(wait).await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    /// Sends once, for those who repeat it themselves.
    pub async fn send_once(&self, request: &Request) -> Result<Answer, ClientError> {
        self.once(request).await.0
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.read(&Request::get(path)).await
    }

    pub async fn read<T: DeserializeOwned>(&self, request: &Request) -> Result<T, ClientError> {
        let answer = self.send(request).await?;
        understand(&request.path, answer.body)
    }

    /// Follows a list to its end, or to `limit` items. The position is the first page's: a subscription from there
    /// misses nothing, at worst it sees something twice.
    pub async fn list<T: DeserializeOwned>(&self, request: &Request, limit: usize) -> Result<Page<T>, ClientError> {
        let mut all: Option<Page<T>> = None;
        loop {
            let have = all.as_ref().map_or(0, |page| page.items.len());
            let mut request = request.clone().query(PAGE_SIZE, limit.saturating_sub(have).clamp(1, PAGE));
            if let Some(token) = all.as_ref().and_then(|page| page.next_page_token.as_ref()) {
                request = request.query(PAGE_TOKEN, token);
            }
            let mut page: Page<T> = self.read(&request).await?;
            let all = match all.as_mut() {
                None => all.insert(page),
                Some(all) => {
                    all.items.append(&mut page.items);
                    all.next_page_token = page.next_page_token;
                    all
                }
            };
            if all.next_page_token.is_none() || all.items.len() >= limit {
                all.items.truncate(limit);
                break;
            }
        }
        Ok(all.unwrap_or(Page { items: Vec::new(), next_page_token: None, position: 0 }))
    }

    /// Opens an event stream. Errors before its first byte are answers like any other.
    pub async fn stream(&self, request: &Request) -> Result<reqwest::Response, ClientError> {
        let started = Instant::now();
        let built = self.build(request).header(ACCEPT, "text/event-stream");
        // Headers within the silence; the body is timed by its reader.
        let response = tokio::time::timeout(STREAM_SILENCE, built.send())
            .await
            .map_err(|_| self.unreachable("no answer in time"))?
            .map_err(|error| self.unreachable(root(&error)))?;
        if response.status().is_success() {
            let (status, headers) = (response.status(), response.headers().clone());
            self.record(request, status, &headers, &Value::Null, started)?;
            return Ok(response);
        }
        Err(self.answer(request, response, started).await.err().unwrap_or_else(|| self.unreachable("no stream")))
    }

    pub const fn stream_silence() -> Duration {
        STREAM_SILENCE
    }

    async fn once(&self, request: &Request) -> (Result<Answer, ClientError>, Option<Duration>) {
        let started = Instant::now();
        match self.build(request).timeout(TIMEOUT).send().await {
            Ok(response) => {
                let retry_after = retry_after(response.headers());
                (self.answer(request, response, started).await, retry_after)
            }
            Err(error) => (Err(self.unreachable(root(&error))), None),
        }
    }

    fn build(&self, request: &Request) -> reqwest::RequestBuilder {
        let mut builder = self.http.request(request.method.clone(), format!("{}{}", self.base, request.path));
        if !request.query.is_empty() {
            builder = builder.query(&request.query);
        }
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        if let Some(token) = &self.token {
            builder = builder.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        match &request.body {
            Some(body) => builder.json(body),
            None => builder,
        }
    }

    async fn answer(
        &self,
        request: &Request,
        response: reqwest::Response,
        started: Instant,
    ) -> Result<Answer, ClientError> {
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await.map_err(|error| self.unreachable(root(&error)))?;
        let parsed: Result<Value, serde_json::Error> =
            if bytes.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(&bytes) };
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        match &parsed {
            Ok(body) => self.record(request, status, &headers, body, started)?,
            Err(_) => self.record(request, status, &headers, &text(), started)?,
        }
        let path = || request.path.clone();
        if status.is_success() {
            let body = parsed.map_err(|source| ClientError::Unreadable { path: path(), source })?;
            return Ok(Answer { status: status.as_u16(), body });
        }
        if let Ok(problem) = serde_json::from_slice::<Problem>(&bytes) {
            return Err(ClientError::Problem(Box::new(problem)));
        }
        Err(ClientError::Answer { path: path(), status: status.as_u16(), text: excerpt(&bytes) })
    }

    fn unreachable(&self, why: impl Into<String>) -> ClientError {
        ClientError::Unreachable { url: self.base.clone(), why: why.into() }
    }

    fn record(
        &self,
        request: &Request,
        status: StatusCode,
        headers: &HeaderMap,
        body: &Value,
        started: Instant,
    ) -> Result<(), ClientError> {
        let Some(recorder) = &self.recorder else { return Ok(()) };
        let exchange = Exchange::new(request, status.as_u16(), headers, body, started.elapsed());
        recorder.exchange(exchange).map_err(|source| ClientError::Record { file: recorder.file().to_owned(), source })
    }
}

/// Reads an answer's body as what it should be.
pub fn understand<T: DeserializeOwned>(path: &str, body: Value) -> Result<T, ClientError> {
    serde_json::from_value(body).map_err(|source| ClientError::Unreadable { path: path.to_owned(), source })
}

/// The wait after the nth attempt: 100 ms doubled each time up to 5 s, and of that between a half and all.
pub fn backoff(attempt: u32) -> Duration {
    let whole = Duration::from_millis(100).saturating_mul(1 << attempt.min(6)).min(LONGEST_WAIT);
    whole.mul_f64(0.5 + 0.5 * rand::random::<f64>())
}

/// The innermost reason: "connection refused" says more than "error sending request".
fn root(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

fn excerpt(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(120).collect();
    if line.is_empty() { line } else { format!(": {line}") }
}
