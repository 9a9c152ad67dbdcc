//! The public API, as much of it as the bot needs.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(20);

pub struct Api {
    http: reqwest::Client,
    url: String,
    token: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Worth another attempt: nobody answered, or whoever did cannot at the moment.
    #[error("{what}: {why}")]
    Away { what: String, why: String },
    /// A decision of the API: the same request would be answered the same.
    #[error("{code}: {detail}")]
    Refused { code: String, detail: String, body: Value },
}

impl Api {
    pub fn new(url: &str, token: String) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(TIMEOUT).build()?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), token })
    }

    /// Who the token says that we are. The API decides whether it believes it.
    pub fn subject(&self) -> Option<String> {
        let claims = URL_SAFE_NO_PAD.decode(self.token.split('.').nth(1)?).ok()?;
        let claims: Value = serde_json::from_slice(&claims).ok()?;
        claims["sub"].as_str().map(str::to_owned)
    }

    pub async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.send(format!("GET {path}"), self.request(Method::GET, path)).await
    }

    /// All items of a list.
    pub async fn list(&self, path: &str) -> Result<Vec<Value>, ApiError> {
        let mut items = Vec::new();
        let mut next = path.to_owned();
        loop {
            let mut page = self.get(&next).await?;
            if let Value::Array(more) = page["items"].take() {
                items.extend(more);
            }
            match page["nextPageToken"].as_str() {
                Some(token) => next = format!("{path}?pageToken={token}"),
                None => return Ok(items),
            }
        }
    }

    /// `key`: however often it is sent, it is done once.
    pub async fn post(&self, path: &str, key: Option<&str>, body: &Value) -> Result<Value, ApiError> {
        // What comes of it is told on the bus: nobody needs to wait here.
        let mut request = self.request(Method::POST, path).header("prefer", "respond-async").json(body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        self.send(format!("POST {path}"), request).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token)
    }

    async fn send(&self, what: String, request: RequestBuilder) -> Result<Value, ApiError> {
        let away = |why: String| ApiError::Away { what: what.clone(), why };
        let answer = request.send().await.map_err(|error| away(error.without_url().to_string()))?;
        let status = answer.status();
        if status.is_server_error() || status.as_u16() == 429 {
            return Err(away(status.to_string()));
        }
        let body: Value = answer.json().await.map_err(|error| away(error.without_url().to_string()))?;
        if status.is_success() {
            return Ok(body);
        }
        let word = |member: &str| body[member].as_str().unwrap_or_default().to_owned();
        Err(ApiError::Refused { code: word("code"), detail: word("detail"), body })
    }
}
