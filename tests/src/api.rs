//! The public API, as a client sees it.

use std::sync::Once;
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::wait::{PATIENCE, eventually, eventually_ok};

/// A client with one token.
#[derive(Clone)]
pub struct Api {
    pub(crate) http: Client,
    base: String,
    token: Option<String>,
}

/// A request in the making.
pub struct Ask(reqwest::RequestBuilder);

/// What came back. A body that is not JSON is a JSON string.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Api {
    pub fn new(base: &str, token: Option<&str>) -> Self {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            // Somebody else's is as good: nothing here speaks TLS.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let http = Client::builder().connect_timeout(Duration::from_secs(5)).no_proxy().build().expect("a client");
        Self { http, base: base.to_owned(), token: token.map(str::to_owned) }
    }

    /// The same address without a token, or with another.
    pub fn with_token(&self, token: Option<&str>) -> Self {
        Self { token: token.map(str::to_owned), ..self.clone() }
    }

    /// Where it asks.
    pub fn base(&self) -> &str {
        &self.base
    }

    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    pub fn ask(&self, method: Method, path: &str) -> Ask {
        let request = self.http.request(method, format!("{}{path}", self.base)).timeout(Duration::from_secs(75));
        Ask(match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        })
    }

    pub fn get(&self, path: &str) -> Ask {
        self.ask(Method::GET, path)
    }

    pub fn post(&self, path: &str, body: &Value) -> Ask {
        Ask(self.ask(Method::POST, path).0.json(body))
    }

    pub fn put(&self, path: &str, body: &Value) -> Ask {
        Ask(self.ask(Method::PUT, path).0.json(body))
    }

    pub fn patch(&self, path: &str, body: &Value) -> Ask {
        Ask(self.ask(Method::PATCH, path).0.json(body))
    }

    /// A mutation with the confirmation of its plan, where it wants one: the answer to the confirmed request.
    pub async fn confirmed(&self, method: Method, path: &str, if_match: Option<&str>, body: &Value) -> Answer {
        let send = async |body: &Value| {
            let ask = Ask(self.ask(method.clone(), path).0.json(body));
            match if_match {
                Some(tag) => ask.header("if-match", tag).send().await,
                None => ask.send().await,
            }
        };
        let asked = send(body).await;
        if asked.code() != "confirmation-required" {
            return asked;
        }
        let mut confirmed = body.clone();
        confirmed["confirmation"] = asked.body["plan"]["confirmation"]["token"].clone();
        send(&confirmed).await
    }

    /// What is done to an operation: `POST /control/operations/{id}:{action}`.
    pub async fn act(&self, operation: &str, action: &str, body: &Value) -> Answer {
        self.post(&format!("/control/operations/{operation}:{action}"), body).send().await
    }

    /// A resource with its ETag.
    pub async fn tagged(&self, path: &str) -> (Value, String) {
        let answer = self.get(path).send().await;
        let tag = answer.expect(200).header("etag").to_owned();
        (answer.body, tag)
    }

    /// The body of a read that must succeed.
    pub async fn read(&self, path: &str) -> Value {
        self.get(path).send().await.expect(200).body.clone()
    }

    /// The whole list.
    pub async fn list(&self, path: &str) -> Vec<Value> {
        let (mut items, mut token) = (Vec::new(), None::<String>);
        let joint = if path.contains('?') { '&' } else { '?' };
        loop {
            let next = token.map(|token| format!("&pageToken={token}")).unwrap_or_default();
            let page = self.read(&format!("{path}{joint}pageSize=1000{next}")).await;
            items.extend(page["items"].as_array().cloned().expect("items"));
            match page["nextPageToken"].as_str() {
                Some(next) => token = Some(next.to_owned()),
                None => return items,
            }
        }
    }

    /// `POST /control/peers/{peer}:{verb}`.
    pub fn peer(&self, peer: &str, verb: &str, body: &Value) -> Ask {
        self.post(&format!("/control/peers/{peer}:{verb}"), body)
    }

    /// A drain with its confirmation: the answer to the confirmed request.
    pub async fn confirmed_drain(&self, peer: &str, body: &Value) -> Answer {
        let asked = self.peer(peer, "drain", body).send().await;
        if asked.code() != "confirmation-required" {
            return asked;
        }
        let mut confirmed = body.clone();
        confirmed["confirmation"] = asked.body["plan"]["confirmation"]["token"].clone();
        self.peer(peer, "drain", &confirmed).send().await
    }

    /// A drain that must be taken: its operation's id.
    pub async fn drain(&self, peer: &str, body: &Value) -> String {
        let answer = self.confirmed_drain(peer, body).await;
        answer.expect(202).operation()
    }

    pub async fn cancel(&self, operation: &str) -> Answer {
        self.post(&format!("/control/operations/{operation}:cancel"), &json!({"reason": "changed my mind"}))
            .send()
            .await
    }

    pub async fn operation(&self, id: &str) -> Value {
        self.read(&format!("/control/operations/{id}")).await
    }

    /// The operation once it has ended.
    pub async fn ended(&self, id: &str) -> Value {
        self.ended_within(id, PATIENCE).await
    }

    pub async fn ended_within(&self, id: &str, within: Duration) -> Value {
        eventually_ok(format!("operation {id} ends"), within, async || {
            let answer = self.get(&format!("/control/operations/{id}")).try_send().await.map_err(|e| e.to_string())?;
            let state = answer.body["state"].as_str().unwrap_or("");
            let over = ["succeeded", "refused", "cancelled", "failed", "stuck", "rejected", "expired"].contains(&state);
            if over { Ok(answer.body) } else { Err(format!("{} {}", answer.status, answer.body)) }
        })
        .await
    }

    /// The operation once it is as wanted.
    pub async fn operation_that(&self, what: &str, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually_ok(format!("operation {id} {what}"), PATIENCE, async || {
            let operation = self.operation(id).await;
            if wanted(&operation) { Ok(operation) } else { Err(operation) }
        })
        .await
    }

    /// The peer once it is as wanted.
    pub async fn peer_that(&self, what: &str, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually_ok(format!("peer {id} {what}"), PATIENCE, async || {
            let answer = self.get(&format!("/control/peers/{id}")).send().await;
            if answer.status == 200 && wanted(&answer.body) { Ok(answer.body) } else { Err(answer.body) }
        })
        .await
    }

    pub async fn blocked(&self, id: &str, code: &str) -> Value {
        eventually(format!("operation {id} is blocked by {code}"), PATIENCE, async || {
            let operation = self.operation(id).await;
            operation["blockers"].as_array()?.iter().find(|blocker| blocker["code"] == code).cloned()
        })
        .await
    }
}

impl Ask {
    pub fn header(self, name: &str, value: &str) -> Self {
        Self(self.0.header(name, value))
    }

    pub fn key(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    /// Replaces the body and its type.
    pub fn raw(self, media_type: &str, body: impl Into<reqwest::Body>) -> Self {
        Self(self.0.header("content-type", media_type).body(body))
    }

    /// # Panics
    /// If there is no answer.
    pub async fn send(self) -> Answer {
        self.try_send().await.expect("an answer")
    }

    pub async fn try_send(self) -> reqwest::Result<Answer> {
        let response = self.0.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(Answer { status, headers, body })
    }

    pub(crate) fn into_inner(self) -> reqwest::RequestBuilder {
        self.0
    }
}

impl Answer {
    /// # Panics
    /// If it has another status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }

    /// # Panics
    /// If it is not this problem, complete.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> &Self {
        assert_eq!((self.status, self.code()), (status, code), "{}", self.body);
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.body["status"], status);
        for member in ["type", "title", "detail", "instance"] {
            assert!(self.body[member].as_str().is_some_and(|text| !text.is_empty()), "{member} of {}", self.body);
        }
        self
    }

    /// The code of a problem, or `-`.
    pub fn code(&self) -> &str {
        if self.status < 400 { "-" } else { self.body["code"].as_str().unwrap_or("-") }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// The id of the operation in it.
    #[track_caller]
    pub fn operation(&self) -> String {
        self.body["operation"]["id"].as_str().unwrap_or_else(|| panic!("an operation in {}", self.body)).to_owned()
    }
}
