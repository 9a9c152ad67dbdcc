//! From an rpc to the request that it is, through the router, and back.

use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use omnirelay_contract::grpc::v1::{Config, Mutation, Operation, Plan, mutation::Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tonic::{Request, Response, Status};
use tower::ServiceExt;

use super::refusal;

/// Metadata that becomes headers.
const TAKEN: &[&str] = &["authorization", "idempotency-key", "if-match", "prefer", "traceparent", "tracestate"];
/// Headers that become metadata.
const GIVEN: &[&str] = &["etag", "location", "idempotency-key", "idempotency-replayed"];

/// The router of the REST routes, asked from inside.
#[derive(Debug, Clone)]
pub struct Gateway {
    rest: Router,
}

/// What of an rpc's request goes on: who asks, from where, with which metadata.
pub struct Origin {
    headers: HeaderMap,
    address: Option<ConnectInfo<SocketAddr>>,
    /// `x-validate-only`; what it may say is known by the route.
    validate_only: Option<String>,
}

impl Origin {
    pub fn of<T>(request: &Request<T>) -> Self {
        let metadata: &HeaderMap = request.metadata().as_ref();
        let mut headers = HeaderMap::new();
        for name in TAKEN {
            for value in metadata.get_all(*name) {
                headers.append(HeaderName::from_static(name), value.clone());
            }
        }
        let address = request.extensions().get::<ConnectInfo<SocketAddr>>().copied();
        let validate_only =
            metadata.get("x-validate-only").map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        Self { headers, address, validate_only }
    }

    pub fn with(mut self, name: &'static str, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}

impl Gateway {
    pub fn new(rest: Router) -> Self {
        Self { rest }
    }

    /// A read: what is left in the message, once its path is made, are the parameters of the query.
    pub async fn read<M: Serialize, A: DeserializeOwned>(
        &self,
        request: Request<M>,
        path: &str,
    ) -> Result<Response<A>, Status> {
        let (headers, body) = self.read_json(request, path).await?;
        answer(&headers, serde_json::from_slice(&body).map_err(|error| unreadable(&error))?)
    }

    /// A read whose answer is not taken apart here.
    pub async fn read_json<M: Serialize>(&self, request: Request<M>, path: &str) -> Result<(HeaderMap, Bytes), Status> {
        let origin = Origin::of(&request);
        let path = with_query(path, &request.into_inner())?;
        self.ask(origin, Method::GET, &path, Body::empty()).await
    }

    /// A mutation: what is left in the message, once its path is made, is the body.
    pub async fn change<M: Serialize>(
        &self,
        request: Request<M>,
        method: Method,
        path: &str,
    ) -> Result<Response<Mutation>, Status> {
        let mut origin = Origin::of(&request).with("content-type", HeaderValue::from_static("application/json"));
        if method == Method::PUT {
            // It creates only. Of a read it would ask for a 304, which no rpc can say.
            for value in request.metadata().as_ref().get_all(header::IF_NONE_MATCH) {
                origin.headers.append(header::IF_NONE_MATCH, value.clone());
            }
        }
        let mut body = members(&request.into_inner())?;
        let validate_only = match body.remove("validateOnly") {
            Some(_) => Some("true".to_owned()),
            None => origin.validate_only.take(),
        };
        let path = match validate_only {
            Some(text) => format!("{path}?validateOnly={}", escaped(&text)),
            None => path.to_owned(),
        };
        let (headers, body) = self.ask(origin, method, &path, Body::from(Value::Object(body).to_string())).await?;
        answer(&headers, mutation(&body)?)
    }

    /// Asks and takes the whole answer; a problem is an error.
    async fn ask(&self, origin: Origin, method: Method, path: &str, body: Body) -> Result<(HeaderMap, Bytes), Status> {
        let (parts, body) = self.send(origin, method, path, body).await?.into_parts();
        let body =
            axum::body::to_bytes(body, usize::MAX).await.map_err(|_| refusal::internal("the answer broke off"))?;
        if parts.status.is_success() {
            Ok((parts.headers, body))
        } else {
            Err(refusal::status(parts.status, &parts.headers, &body))
        }
    }

    /// Asks; the answer comes as it is.
    pub async fn send(
        &self,
        origin: Origin,
        method: Method,
        path: &str,
        body: Body,
    ) -> Result<http::Response<Body>, Status> {
        let mut request = http::Request::builder()
            .method(method)
            .uri(path)
            .body(body)
            .map_err(|error| refusal::invalid(&format!("this is too much for one request: {error}")))?;
        *request.headers_mut() = origin.headers;
        if let Some(address) = origin.address {
            request.extensions_mut().insert(address);
        }
        match self.rest.clone().oneshot(request).await {
            Ok(response) => Ok(response),
            Err(never) => match never {},
        }
    }
}

/// A text as one segment of a path. Whether it is an id is said by the route, in its place in the order of checks; nothing
/// at all would be another route.
pub fn segment(text: &str) -> String {
    if text.is_empty() { "%20".to_owned() } else { escaped(text) }
}

fn escaped(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _written = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn members<M: Serialize>(message: &M) -> Result<Map<String, Value>, Status> {
    match serde_json::to_value(message) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(refusal::internal("a message is always an object")),
        Err(error) => Err(refusal::invalid(&error.to_string())),
    }
}

/// The path with the message's members as its query; what is empty is no member.
pub fn with_query<M: Serialize>(path: &str, message: &M) -> Result<String, Status> {
    let mut text = path.to_owned();
    for (n, (name, value)) in members(message)?.iter().enumerate() {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Array(words) => words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            other => other.to_string(),
        };
        text.push(if n == 0 { '?' } else { '&' });
        text.push_str(&format!("{name}={}", escaped(&value)));
    }
    Ok(text)
}

/// The answer to a mutation, or the plan that `validateOnly` asked for.
fn mutation(body: &[u8]) -> Result<Mutation, Status> {
    let mut json: Value = serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
    let Some(operation) = json.get_mut("operation").map(Value::take) else {
        let plan: Plan = serde_json::from_value(json).map_err(|error| unreadable(&error))?;
        return Ok(Mutation { plan: Some(plan), ..Mutation::default() });
    };
    let operation: Operation = serde_json::from_value(operation).map_err(|error| unreadable(&error))?;
    let resource = json.get_mut("resource").map(Value::take).unwrap_or_default();
    Ok(Mutation {
        resource: resource_of(&operation.target, resource),
        changed: json.get("changed").and_then(Value::as_bool).unwrap_or_default(),
        operation: Some(operation),
        plan: None,
    })
}

/// Its kind is that of the operation's target. The mutation is done, so one that is not understood is left out.
fn resource_of(target: &str, json: Value) -> Option<Resource> {
    if json.is_null() {
        return None;
    }
    let read = match target.split('/').next() {
        Some("peers") => serde_json::from_value(json).map(Resource::Peer),
        Some("clusters") => serde_json::from_value(json).map(Resource::Cluster),
        Some("config") => serde_json::from_value::<Config>(json).map(Resource::Config),
        _ => return None,
    };
    read.inspect_err(|error| tracing::error!(%error, target, "the resource of an answer is not what its route says"))
        .ok()
}

fn answer<A>(headers: &HeaderMap, message: A) -> Result<Response<A>, Status> {
    let mut response = Response::new(message);
    for name in GIVEN {
        if let Some(value) = headers.get(*name).and_then(|value| value.to_str().ok())
            && let Ok(value) = value.parse()
        {
            response.metadata_mut().insert(*name, value);
        }
    }
    Ok(response)
}

pub fn unreadable(error: &serde_json::Error) -> Status {
    tracing::error!(%error, "an answer of the router is not what its rpc says");
    refusal::internal("the answer cannot be written as a message: it is in the log of the ingress")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_an_id_holds_it_stays_one_segment() {
        let check = |text: &str, expect: &str| assert_eq!(segment(text), expect);
        check("edge-7", "edge-7");
        check("", "%20");
        check("a/../b?c#d", "a%2F..%2Fb%3Fc%23d");
        check("a:drain", "a%3Adrain");
        check("ü", "%C3%BC");
    }

    #[test]
    fn a_query_holds_what_the_message_says() {
        let members = serde_json::json!({"state": ["active", "drained"], "selector": "a=b,!c", "pageSize": 2});
        let text = with_query("/control/peers", &members).expect("a path");
        let uri: http::Uri = text.parse().expect("a uri");
        let pairs = crate::request::query(&uri, &["state", "selector", "pageSize"]).expect("a query");
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("pageSize", "2"), ("selector", "a=b,!c"), ("state", "active,drained")]);
    }
}
