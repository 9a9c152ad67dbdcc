//! Whole commands against an API of a few lines that answers as the contract says: the dialogue is what is tested here, the
//! real server is tested in `tests/`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Json;
use axum::Router;
use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use clap::Parser;
use omnirelay_contract::event::Event;
use omnirelay_contract::rest::Operation;
use omnirelay_contract::workflow::operation::State;
use serde_json::{Value, json};

use crate::testing::{ID, operation};
use crate::{Command, Exit, GlobalArgs, dispatch};

#[derive(Debug, Parser)]
struct Root {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

/// What the API has seen and will say.
#[derive(Default)]
struct Api {
    /// `POST path idempotency-key body`.
    posts: Vec<(String, String, Value)>,
    /// `Last-Event-ID` of each stream that was opened.
    resumed: Vec<Option<String>>,
    /// What each stream says before it breaks off.
    streams: VecDeque<String>,
    /// The operation, once the streams have said it all.
    end: Option<Operation>,
    /// What a drain is answered without the need of a confirmation.
    refusal: Option<(StatusCode, Value)>,
    /// Answers 503 this many times before anything else.
    unavailable: usize,
}

type Server = Arc<Mutex<Api>>;

fn peer() -> Value {
    json!({"id": "p-7", "name": "web-07", "cluster": "fra1", "role": "", "address": "", "version": "", "labels": {},
        "metadata": {}, "health": "healthy", "schedulable": true, "state": "active", "holds": [], "workloads": 1,
        "capacity": 10, "lastSeen": null, "operation": null, "revision": 3})
}

fn confirmation_required() -> Value {
    let plan = json!({"impact": {}, "blockers": [], "approval": null, "digest": "d",
        "confirmation": {"token": "token-1", "expiresAt": "2026-11-23T12:05:00Z"}});
    json!({"type": "urn:x", "title": "Confirmation required", "status": 428, "detail": "confirm",
        "code": "confirmation-required", "plan": plan})
}

fn problem(status: u16, code: &str) -> (StatusCode, Value) {
    let body =
        json!({"type": "urn:x", "title": code, "status": status, "detail": "why", "code": code, "operation": ID});
    (StatusCode::from_u16(status).expect("status"), body)
}

fn event(position: u64, what: &str, data: Value) -> String {
    let mut data = data;
    data["operation"] = json!(ID);
    data["audit"] = json!({"verb": "peers.drain", "outcome": what});
    let data = serde_json::from_value(data).expect("data");
    let event = Event::new(uuid::Uuid::nil(), "operations", ID, what, jiff::Timestamp::UNIX_EPOCH, data);
    let json = serde_json::to_string(&event).expect("json");
    format!("id: {position}\nevent: {}\ndata: {json}\n\n", event.kind)
}

async fn answer(Shared(server): Shared<Server>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let (method, path) = (parts.method.as_str(), parts.uri.path().to_owned());
    let header = |headers: &HeaderMap, name: &str| headers.get(name).map(|v| v.to_str().expect("text").to_owned());
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("body");
    let mut api = server.lock().expect("lock");
    if api.unavailable > 0 {
        api.unavailable -= 1;
        return (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "0")]).into_response();
    }
    let ended = api.streams.is_empty();
    let current = || match &api.end {
        Some(end) if ended => end.clone(),
        _ => operation(State::Running),
    };
    let page = |items: Value| json!({"items": items, "nextPageToken": null, "position": 9});
    match (method, path.as_str()) {
        ("GET", "/control/peers/web-07") => {
            let (status, body) = problem(404, "not-found");
            (status, Json(body)).into_response()
        }
        ("GET", "/control/peers") if parts.uri.query().is_some_and(|query| query.contains("name=web-07")) => {
            Json(page(json!([peer()]))).into_response()
        }
        ("GET", "/control/peers") => Json(page(json!([]))).into_response(),
        ("GET", "/control/peers/p-7") => Json(peer()).into_response(),
        ("GET", "/control/operations") => {
            let mut operation = current();
            operation.target = "peers/p-7".to_owned();
            Json(page(json!([operation]))).into_response()
        }
        ("GET", "/control/audit") => Json(page(json!([]))).into_response(),
        ("GET", "/control/events") => {
            let last = header(&parts.headers, "last-event-id");
            api.resumed.push(last);
            match api.streams.pop_front() {
                Some(text) => ([("content-type", "text/event-stream")], text).into_response(),
                None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            }
        }
        ("GET", path) if path == format!("/control/operations/{ID}") => Json(current()).into_response(),
        ("POST", path) => {
            let body: Value = serde_json::from_slice(&body).expect("json");
            let key = header(&parts.headers, "idempotency-key").unwrap_or_default();
            let refusal = api.refusal.clone();
            let confirmed = body["confirmation"] == "token-1" || !path.ends_with(":drain");
            api.posts.push((path.to_owned(), key, body));
            if let Some((status, body)) = refusal {
                return (status, Json(body)).into_response();
            }
            if !confirmed {
                return (StatusCode::PRECONDITION_REQUIRED, Json(confirmation_required())).into_response();
            }
            // As the ingress answers: nothing is changed yet.
            let body = json!({"operation": operation(State::Running), "changed": false});
            (StatusCode::ACCEPTED, Json(body)).into_response()
        }
        _ => {
            let (status, body) = problem(404, "not-found");
            (status, Json(body)).into_response()
        }
    }
}

/// Runs a command line against an API and gives its exit code, with what the API saw.
async fn run(line: &str, api: Api) -> (u8, Server) {
    // The binary's `main` does this; a second time is harmless.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server: Server = Arc::new(Mutex::new(api));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("port");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    let router = Router::new().fallback(answer).with_state(Arc::clone(&server));
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    let line = format!("omnirelay {line} --url {url}");
    let root = Root::try_parse_from(line.split_whitespace()).expect("a command line");
    let exit = match Box::pin(dispatch(root.command, &root.global)).await {
        Ok(exit) => exit,
        Err(failure) => {
            eprint!("{}", failure.text());
            failure.exit
        }
    };
    serving.abort();
    (exit.code(), server)
}

fn ending(state: State, result: Value, streams: &[String]) -> Api {
    let mut end = operation(state);
    end.result = Some(result);
    Api { end: Some(end), streams: streams.iter().cloned().collect(), ..Api::default() }
}

#[tokio::test]
async fn a_drain_is_confirmed_under_one_key_and_followed_over_a_broken_stream() {
    let progress = json!({"state": "running", "phase": "evicting",
        "progress": {"done": 1, "total": 2, "inFlight": 1, "failed": 0, "unit": "workloads"}});
    let streams = [
        event(41, "started", json!({"state": "running", "phase": "cordoning"})) + &event(42, "progressed", progress),
        event(43, "succeeded", json!({"state": "succeeded"})),
    ];
    let api = ending(State::Succeeded, json!({"moved": [{"workload": "w"}]}), &streams);
    let (code, server) = run("drain web-07 --yes --reason cve --deadline 30m", api).await;
    assert_eq!(code, 0);
    let api = server.lock().expect("lock");
    let [(path, first_key, first), (_, second_key, second)] = api.posts.as_slice() else { panic!("{:?}", api.posts) };
    assert_eq!(path, "/control/peers/p-7:drain");
    assert_eq!(first_key, second_key);
    assert_eq!(first, &json!({"reason": "cve", "deadline": "30m"}));
    assert_eq!(second, &json!({"reason": "cve", "deadline": "30m", "confirmation": "token-1"}));
    assert_eq!(api.resumed[..2], [None, Some("42".to_owned())]);
}

#[tokio::test]
async fn a_missed_end_is_found_without_any_event() {
    let (code, _) = run("ops attach web-07", ending(State::Failed, json!(null), &[])).await;
    assert_eq!(code, Exit::Failed.code());
    // The stream has nothing and breaks off: the operation itself is asked.
    let (code, _) =
        run("drain web-07 --yes", ending(State::Succeeded, json!({"forced": true}), &[String::new()])).await;
    assert_eq!(code, Exit::Forced.code());
}

#[tokio::test]
async fn a_cancel_is_followed_to_what_it_restored() {
    let streams =
        [event(50, "unwinding", json!({"state": "unwinding"}))
            + &event(51, "cancelled", json!({"state": "cancelled"}))];
    let (code, server) = run("ops cancel 9c41e07b --keep-moved", ending(State::Cancelled, json!({}), &streams)).await;
    assert_eq!(code, Exit::Cancelled.code());
    let posts = server.lock().expect("lock").posts.clone();
    assert_eq!(posts[0].0, format!("/control/operations/{ID}:cancel"));
    assert_eq!(posts[0].2, json!({"keepMoved": true}));
    let left = json!({"notRestored": [{"workload": "w", "at": "p-3", "why": "moved on"}]});
    let (code, _) = run("ops cancel web-07", ending(State::Cancelled, left, &streams)).await;
    assert_eq!(code, Exit::NotRestored.code());
}

#[tokio::test]
async fn leaving_leaves_it_running() {
    let running = || ending(State::Running, json!(null), &[]);
    assert_eq!(run("drain web-07 --yes --detach", running()).await.0, Exit::Detached.code());
    assert_eq!(run("drain web-07 --yes --no-wait", running()).await.0, Exit::Detached.code());
    assert_eq!(run("drain web-07 --yes --wait-timeout 300ms", running()).await.0, Exit::Detached.code());
    assert_eq!(run("ops attach web-07 --wait-timeout 300ms", running()).await.0, Exit::Detached.code());
}

#[tokio::test]
async fn refusals_have_their_codes() {
    let refusing = |status, code| Api { refusal: Some(problem(status, code)), ..Api::default() };
    for (line, api, code) in [
        ("drain web-07 --yes", refusing(409, "operation-in-progress"), 3),
        ("drain web-07 --yes", refusing(403, "insufficient-scope"), 4),
        ("drain web-07 --yes", refusing(401, "unauthenticated"), 4),
        ("mesh peers uncordon web-07", refusing(409, "peer-held"), 3),
        ("mesh peers get web-99", Api::default(), 5),
        ("mesh ops get beefbeef", Api::default(), 5),
        ("mesh peers get web-07", Api { unavailable: 2, ..Api::default() }, 0),
        ("mesh peers get web-07", Api { unavailable: 99, ..Api::default() }, 6),
    ] {
        assert_eq!(run(line, api).await.0, code, "{line}");
    }
}
