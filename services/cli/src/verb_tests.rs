//! Whole commands of the verbs with plans, gates and files, against an API that answers what a test has laid out: what is
//! tested is what goes over the wire, in which order, and the exit code. The real server is tested in `tests/`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use axum::Json;
use axum::Router;
use axum::extract::{Request, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use clap::Parser;
use omnirelay_contract::rest::Operation;
use omnirelay_contract::workflow::operation::{State, Verb};
use serde_json::{Value, json};

use crate::testing::{ID, gate, operation};
use crate::{Command, GlobalArgs, dispatch};

#[derive(Debug, Parser)]
struct Root {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

/// What the API will say, and what it has heard.
#[derive(Default)]
struct Api {
    /// Answers of `GET path`, one after the other; the last one stays.
    reads: BTreeMap<String, VecDeque<Value>>,
    /// Answers of mutations, in their order.
    answers: VecDeque<(u16, Value)>,
    heard: Vec<Heard>,
}

/// A mutation: `METHOD path?query`, its precondition, its body.
#[derive(Debug, Clone)]
struct Heard {
    line: String,
    condition: Option<String>,
    key: String,
    body: Value,
}

impl Api {
    fn read(mut self, path: &str, value: Value) -> Self {
        self.reads.entry(path.to_owned()).or_default().push_back(value);
        self
    }

    fn answer(mut self, status: u16, body: Value) -> Self {
        self.answers.push_back((status, body));
        self
    }

    fn peer(self, revision: u64, labels: Value) -> Self {
        self.read("/control/peers/p-7", peer(revision, labels))
    }

    fn operation(self, operation: &Operation) -> Self {
        self.read(&format!("/control/operations/{ID}"), json!(operation))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "tables of tests read better without references")]
fn peer(revision: u64, labels: Value) -> Value {
    json!({"id": "p-7", "name": "web-07", "cluster": "fra1", "role": "web", "address": "", "version": "",
        "labels": labels, "metadata": {}, "health": "healthy", "schedulable": true, "state": "active", "holds": [],
        "workloads": 1, "capacity": 10, "lastSeen": null, "operation": null, "revision": revision})
}

fn cluster(id: &str, region: &str, revision: u64) -> Value {
    json!({"id": id, "region": region, "priority": 0, "state": "passive", "failoverVersion": 3, "peers": 1,
        "healthyPeers": 1, "replicationLagMs": 120, "maxUnavailable": null, "labels": {}, "operation": null,
        "revision": revision})
}

fn problem(status: u16, code: &str) -> Value {
    json!({"type": "urn:x", "title": code, "status": status, "detail": "why", "code": code})
}

/// A 428 with a plan; `gates` are those of its approval.
#[expect(clippy::needless_pass_by_value, reason = "tables of tests read better without references")]
fn plan_first(impact: Value, gates: Value) -> Value {
    let mut body = problem(428, "confirmation-required");
    let approval = gates.as_array().filter(|gates| !gates.is_empty()).map(|gates| json!({"gates": gates}));
    body["plan"] = json!({"impact": impact, "blockers": [], "approval": approval, "digest": "d",
        "confirmation": {"token": "token-1", "expiresAt": "2026-11-23T12:05:00Z"}});
    body
}

fn mutated(operation: &Operation, changed: bool) -> Value {
    json!({"operation": operation, "changed": changed})
}

fn of(verb: Verb, target: &str, state: State) -> Operation {
    let mut operation = operation(state);
    (operation.verb, operation.target) = (verb, target.to_owned());
    operation
}

fn waiting() -> Operation {
    let mut waiting = of(Verb::ClustersPromote, "clusters/ams1", State::AwaitingApproval);
    waiting.params = json!({"promote": "ams1", "demote": ["fra1"], "force": false});
    waiting.approval = Some(gate(2));
    waiting
}

type Server = Arc<Mutex<Api>>;

async fn serve(Shared(server): Shared<Server>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let mut api = server.lock().expect("lock");
    if parts.method == "GET" {
        // A list has its own answer for each query that a test lays out, else what is there for the path.
        let query = parts.uri.query().map(|query| format!("{path}?{query}"));
        let known = |key: &String| api.reads.contains_key(key);
        let key = query.filter(known).unwrap_or_else(|| path.clone());
        let answer = api
            .reads
            .get_mut(&key)
            .and_then(|answers| if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() });
        let empty = ["/control/operations", "/control/audit", "/control/peers"].contains(&path.as_str());
        return match answer {
            Some(answer) => Json(answer).into_response(),
            None if empty => Json(json!({"items": [], "nextPageToken": null, "position": 1})).into_response(),
            None if path == "/control/events" => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            None => (StatusCode::NOT_FOUND, Json(problem(404, "not-found"))).into_response(),
        };
    }
    drop(api);
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("body");
    let mut api = server.lock().expect("lock");
    let header = |name: &str| parts.headers.get(name).map(|value| value.to_str().expect("text").to_owned());
    api.heard.push(Heard {
        line: format!("{} {}", parts.method, parts.uri),
        condition: header("if-match").or_else(|| header("if-none-match")),
        key: header("idempotency-key").unwrap_or_default(),
        body: serde_json::from_slice(&body).expect("json"),
    });
    let (status, body) = api.answers.pop_front().unwrap_or((500, problem(500, "internal")));
    (StatusCode::from_u16(status).expect("status"), Json(body)).into_response()
}

/// Runs a command to its end: its exit code, and the mutations that the API heard.
async fn run(line: &[&str], api: Api) -> (u8, Vec<Heard>) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server: Server = Arc::new(Mutex::new(api));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("port");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    let router = Router::new().fallback(serve).with_state(Arc::clone(&server));
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    let words = ["omnirelay"].iter().chain(line).chain(&["--url", url.as_str()]).copied().collect::<Vec<_>>();
    let root = Root::try_parse_from(words).expect("a command line");
    let exit = match Box::pin(dispatch(root.command, &root.global)).await {
        Ok(exit) => exit,
        Err(failure) => {
            eprint!("{}", failure.text());
            failure.exit
        }
    };
    serving.abort();
    let heard = server.lock().expect("lock").heard.clone();
    (exit.code(), heard)
}

fn lines(heard: &[Heard]) -> Vec<&str> {
    heard.iter().map(|heard| heard.line.as_str()).collect()
}

#[tokio::test]
async fn labels_are_patched_for_the_peer_as_read_and_again_where_others_changed_others() {
    let done = of(Verb::PeersPatch, "peers/p-7", State::Succeeded);
    let api = Api::default()
        .peer(3, json!({"zone": "b"}))
        .peer(4, json!({"zone": "b", "rack": "9"}))
        .answer(412, problem(412, "revision-mismatch"))
        .answer(200, mutated(&done, true));
    let (code, heard) = run(&["mesh", "peers", "label", "p-7", "zone=a", "tier-", "--reason", "move"], api).await;
    assert_eq!((code, lines(&heard)), (0, vec!["PATCH /control/peers/p-7"; 2]));
    assert_eq!(heard[0].body, json!({"reason": "move", "labels": {"zone": "a", "tier": null}}));
    let conditions: Vec<&str> = heard.iter().filter_map(|heard| heard.condition.as_deref()).collect();
    assert_eq!(conditions, ["\"3\"", "\"4\""]);

    let api = Api::default()
        .peer(3, json!({"zone": "b"}))
        .peer(4, json!({"zone": "c"}))
        .answer(412, problem(412, "revision-mismatch"));
    let (code, heard) = run(&["mesh", "peers", "label", "p-7", "zone=a"], api).await;
    assert_eq!((code, heard.len()), (3, 1), "somebody else moved it");
}

#[tokio::test]
async fn a_drain_of_many_is_confirmed_followed_and_tried_again_for_what_failed() {
    let impact = json!({"peers": [{"id": "p-7", "name": "web-07", "cluster": "fra1", "workloads": 1, "skipped": null}],
        "workloads": 1, "canary": 0, "soakSecs": 0, "maxConcurrent": 4, "maxFailures": 1, "budgets": [],
        "warnings": [], "notRestorable": [], "changed": true});
    let mut running = of(Verb::PeersDrain, &format!("peers/{ID}"), State::Running);
    running.children = Some(BTreeMap::from([("running".to_owned(), 1)]));
    let mut failed = of(Verb::PeersDrain, &format!("peers/{ID}"), State::Failed);
    failed.children = Some(BTreeMap::from([("failed".to_owned(), 1)]));
    failed.params = json!({"peers": ["p-6", "p-7"], "maxConcurrent": 4, "maxFailures": 1});
    failed.result = Some(json!({"succeeded": ["p-6"], "failed": [{"peer": "p-7", "state": "failed"}]}));
    let api = Api::default()
        .peer(3, json!({}))
        .operation(&running)
        .operation(&failed)
        .answer(428, plan_first(impact.clone(), json!([])))
        .answer(202, mutated(&running, false));
    let line = "drain -l kernel=5.15 --max-concurrent 4 --canary 2 --soak 10m --max-failures 1 --gate rest --yes";
    let (code, heard) = run(&line.split(' ').collect::<Vec<_>>(), api).await;
    assert_eq!((code, lines(&heard)), (12, vec!["POST /control/peers:drain"; 2]));
    assert_eq!(heard[0].key, heard[1].key);
    let mut body = heard[1].body.clone();
    assert_eq!(body["gate"]["gate"], "rest");
    body["gate"].take();
    assert_eq!(
        body,
        json!({"selector": "kernel=5.15", "maxConcurrent": 4, "canary": 2, "soak": "10m", "maxFailures": 1,
            "gate": null, "confirmation": "token-1"})
    );

    let api = Api::default()
        .peer(3, json!({}))
        .operation(&failed)
        .answer(428, plan_first(impact, json!([])))
        .answer(202, mutated(&running, false));
    let (code, heard) = run(&["ops", "retry", ID, "--failed", "--yes", "--detach"], api).await;
    assert_eq!(code, 10);
    let body = json!({"peers": ["p-7"], "maxConcurrent": 4, "maxFailures": 1});
    assert_eq!((lines(&heard), &heard[0].body), (vec!["POST /control/peers:drain"; 2], &body));
}

#[tokio::test]
async fn flags_for_many_are_no_flags_for_one() {
    for line in ["drain web-07 --canary 1 --yes", "drain web-07 --gate rest --yes", "drain a b --gate cutover --yes"] {
        let (code, heard) = run(&line.split(' ').collect::<Vec<_>>(), Api::default()).await;
        assert_eq!((code, heard.len()), (2, 0), "{line}");
    }
}

#[tokio::test]
async fn a_promotion_that_waits_or_is_rejected_has_its_code() {
    let policy = json!([{"gate": "cutover", "required": 2, "approverScope": "mesh.approve", "expiresInSecs": 1_800,
        "rule": "prod-failover"}]);
    let submitted = of(Verb::ClustersPromote, "clusters/ams1", State::Submitted);
    let first =
        |api: Api| api.answer(428, plan_first(json!({}), policy.clone())).answer(202, mutated(&submitted, false));
    let line = ["promote", "ams1", "--demote", "fra1", "--ticket", "CHG-1", "--yes"];

    let (code, heard) = run(&[&line[..], &["--no-wait"]].concat(), first(Api::default().operation(&waiting()))).await;
    assert_eq!((code, lines(&heard)), (15, vec!["POST /control/clusters/ams1:promote"; 2]));
    assert_eq!(heard[0].body, json!({"changeTicket": "CHG-1", "demote": ["fra1"]}));

    let mut rejected = waiting();
    rejected.state = State::Rejected;
    let (code, _) = run(&line, first(Api::default().operation(&waiting()).operation(&rejected))).await;
    assert_eq!(code, 16);
    for (status, code_word, exit) in
        [(409, "last-active-cluster", 3), (422, "ticket-required", 3), (409, "no-capacity", 3)]
    {
        let (code, _) = run(&line, Api::default().answer(status, problem(status, code_word))).await;
        assert_eq!(code, exit, "{code_word}");
    }
}

#[tokio::test]
async fn an_approval_sends_the_digest_of_what_was_shown() {
    let mut approved = waiting();
    approved.approval = Some(gate(2));
    let (cluster, me) = (cluster("ams1", "eu", 7), format!("/control/operations/{ID}:approve"));
    let api = || Api::default().operation(&waiting()).read("/control/clusters/ams1", cluster.clone());
    let approve = ["ops", "approve", ID, "--comment", "no freeze", "--yes"];

    let (code, heard) = run(&approve, api().answer(200, mutated(&approved, true))).await;
    assert_eq!((code, lines(&heard)), (0, vec![format!("POST {me}").as_str()]));
    assert_eq!(heard[0].body, json!({"digest": gate(2).digest, "comment": "no freeze"}));

    for (status, word, exit) in [(409, "digest-mismatch", 3), (403, "self-approval", 4), (409, "already-decided", 3)] {
        let (code, heard) = run(&approve, api().answer(status, problem(status, word))).await;
        assert_eq!((code, heard.len()), (exit, 1), "{word}");
    }
    let (code, heard) = run(&[&approve[..], &["--digest", "00000000"]].concat(), api()).await;
    assert_eq!((code, heard.len()), (3, 0), "another digest than what was looked at");
    let (code, heard) = run(&approve, Api::default().operation(&operation(State::Running))).await;
    assert_eq!((code, heard.len()), (3, 0), "nobody is asked");

    let (code, heard) =
        run(&["ops", "reject", ID, "--reason", "freeze"], api().answer(200, mutated(&approved, true))).await;
    assert_eq!(code, 0);
    assert_eq!(heard[0].body, json!({"reason": "freeze", "digest": gate(2).digest, "comment": "freeze"}));
}

#[tokio::test]
async fn operations_are_steered() {
    for verb in ["pause", "resume", "resolve"] {
        let api = Api::default().operation(&operation(State::Running));
        let api = api.answer(200, mutated(&operation(State::Running), true));
        let (code, heard) = run(&["ops", verb, ID, "--reason", "night"], api).await;
        assert_eq!((code, lines(&heard)), (0, vec![format!("POST /control/operations/{ID}:{verb}").as_str()]));
        assert_eq!(heard[0].body, json!({"reason": "night"}));
    }
    let refusing = Api::default().operation(&operation(State::Succeeded)).answer(409, problem(409, "invalid-state"));
    assert_eq!(run(&["ops", "pause", ID], refusing).await.0, 3);
}

#[tokio::test]
async fn settings_are_changed_as_they_were_read() {
    let impact = json!({"changed": true, "changes": [{"key": "drain.maxConcurrent", "before": 4, "after": 8}]});
    let done = of(Verb::ConfigPatch, "config/settings", State::Succeeded);
    let config = json!({"settings": {"drain": {"maxConcurrent": 4}}, "revision": 12});
    let api = || {
        let api =
            Api::default().read("/control/config", config.clone()).answer(428, plan_first(impact.clone(), json!([])));
        api.answer(200, mutated(&done, true))
    };
    let (code, heard) = run(&["mesh", "config", "set", "drain.maxConcurrent=8", "--yes"], api()).await;
    assert_eq!((code, lines(&heard)), (0, vec!["PATCH /control/config"; 2]));
    assert_eq!(heard[1].body, json!({"settings": {"drain": {"maxConcurrent": 8}}, "confirmation": "token-1"}));
    assert_eq!(heard[1].condition.as_deref(), Some("\"12\""));

    let (code, heard) = run(&["mesh", "config", "rollback", "7", "--yes", "--ticket", "CHG-1"], api()).await;
    assert_eq!((code, lines(&heard)), (0, vec!["POST /control/config:rollback"; 2]));
    assert_eq!(heard[0].body, json!({"changeTicket": "CHG-1", "revision": 7}));
    assert_eq!(heard[0].condition.as_deref(), Some("\"12\""));

    let refused = Api::default().read("/control/config", config.clone()).answer(422, problem(422, "invalid-setting"));
    assert_eq!(run(&["mesh", "config", "set", "drain.colour=red", "--yes"], refused).await.0, 3);
    assert_eq!(
        run(&["mesh", "config", "get", "drain.colour"], Api::default().read("/control/config", config)).await.0,
        5
    );
}

#[tokio::test]
async fn a_file_is_applied_in_the_order_of_need_and_stops_at_a_refusal() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("mesh.yaml");
    let mesh = "- {kind: Peer, id: p-7, cluster: fra1, role: db}\n- {kind: Peer, id: p-8, cluster: fra1}\n---\n\
                kind: Cluster\nid: ams1\nregion: eu\n---\nkind: Cluster\nid: fra1\nregion: eu\n";
    std::fs::write(&path, mesh).expect("written");
    let file = path.display().to_string();
    let done = |verb, target: &str| mutated(&of(verb, target, State::Succeeded), true);
    let known = || Api::default().peer(3, json!({})).read("/control/clusters/fra1", cluster("fra1", "eu", 5));

    let api = known()
        .answer(201, done(Verb::ClustersPut, "clusters/ams1"))
        .answer(200, done(Verb::PeersPut, "peers/p-7"))
        .answer(201, done(Verb::PeersPut, "peers/p-8"));
    let (code, heard) = run(&["mesh", "apply", "-f", &file, "--yes", "--reason", "setup"], api).await;
    assert_eq!(code, 0);
    let told: Vec<_> = heard.iter().map(|heard| (heard.line.as_str(), heard.condition.as_deref())).collect();
    assert_eq!(
        told,
        [
            ("PUT /control/clusters/ams1", Some("*")),
            ("PUT /control/peers/p-7", Some("\"3\"")),
            ("PUT /control/peers/p-8", Some("*"))
        ],
        "fra1 is like that already"
    );
    assert_eq!(heard[1].body, json!({"reason": "setup", "cluster": "fra1", "role": "db"}));

    let api = known().answer(201, done(Verb::ClustersPut, "clusters/ams1")).answer(409, problem(409, "invalid-state"));
    let (code, heard) = run(&["mesh", "apply", "-f", &file, "--yes"], api).await;
    assert_eq!((code, heard.len()), (3, 2), "it stops at the first refusal");

    let plan = plan_first(json!({}), json!([]))["plan"].clone();
    let api = (0..3).fold(known(), |api, _| api.answer(200, plan.clone()));
    let (code, heard) = run(&["mesh", "apply", "-f", &file, "--dry-run"], api).await;
    assert_eq!(code, 0);
    assert!(heard.len() == 3 && heard.iter().all(|heard| heard.line.ends_with("?validateOnly=true")), "{heard:?}");

    std::fs::write(&path, "kind: Node\nid: a\n").expect("written");
    assert_eq!(run(&["mesh", "apply", "-f", &file, "--yes"], known()).await.0, 2);
}

#[tokio::test]
async fn reads_of_the_new_verbs_succeed() {
    let page = |items: Value| json!({"items": items, "nextPageToken": null, "position": 9});
    let revision = |n: u64| {
        json!({"revision": n, "settings": {"drain": {"maxConcurrent": n}}, "at": "2026-11-23T12:00:00Z", "actor": "ana",
            "operation": null, "reason": null, "changeTicket": null})
    };
    let api = || {
        Api::default()
            .peer(3, json!({}))
            .read("/control/approvals", page(json!([waiting()])))
            .read("/control/config", json!({"settings": {"drain": {}}, "revision": 1}))
            .read("/control/config/schema", json!({"type": "object"}))
            .read("/control/config/history", page(json!([revision(2), revision(1)])))
    };
    for line in [
        "mesh approvals list",
        "mesh approvals list -o json",
        "mesh config get",
        "mesh config get -o yaml",
        "mesh config schema",
        "mesh config history -o wide",
        "mesh peers why p-7",
        "mesh peers why p-7 -o json",
    ] {
        let (code, heard) = run(&line.split(' ').collect::<Vec<_>>(), api()).await;
        assert_eq!((code, heard.len()), (0, 0), "{line}");
    }
}
