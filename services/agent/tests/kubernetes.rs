//! The driver for Kubernetes, against a small API of the test's own: nodes, pods, evictions and a disruption budget.

mod common;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Json;
use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use common::{Control, PATIENCE, command};
use omnirelay_agent::config::AgentConfig;
use omnirelay_agent::driver::kubernetes::{KubernetesConfig, KubernetesDriver};
use omnirelay_agent::driver::{Answer, Call, Driver, Exit, Target, Verb};
use omnirelay_agent::run_agent;
use omnirelay_contract::agent::{CommandVerb, Outcome};
use omnirelay_workflow::resource::Handover;
use omnirelay_workflow::{PeerId, WorkloadId};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const NODE: &str = "worker-3";
const WEB_1: &str = "web-1-1a2b3c4d";
const OURS: &str = "/metadata/annotations/omnirelay.io~1cordoned-by";

/// What the API knows.
struct Cluster {
    node: Value,
    pods: Vec<Value>,
    token: &'static str,
    /// Refuses evictions.
    budget: bool,
    /// The node changes before that many patches.
    conflicts: u32,
    lists: u32,
}

type Shared = Arc<Mutex<Cluster>>;

fn pod(name: &str, uid: &str, rest: &Value) -> Value {
    let mut pod = json!({
        "metadata": { "name": name, "namespace": "shop", "uid": uid, "labels": { "app": "web" } },
        "spec": { "nodeName": NODE },
        "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] },
    });
    for (key, value) in rest.as_object().unwrap() {
        pod["metadata"][key] = value.clone();
    }
    pod
}

struct Fake {
    cluster: Shared,
    url: String,
    folder: tempfile::TempDir,
}

impl Fake {
    async fn start() -> Self {
        let owner = json!({ "ownerReferences": [{ "kind": "DaemonSet", "name": "logs", "controller": true }] });
        let cluster = Arc::new(Mutex::new(Cluster {
            node: json!({ "metadata": { "name": NODE, "resourceVersion": "1", "annotations": {} }, "spec": {} }),
            pods: vec![
                pod("web-1", "1a2b3c4d-0000-4000-8000-000000000001", &json!({})),
                pod("web-2", "2a2b3c4d-0000-4000-8000-000000000002", &json!({})),
                pod("logs-x", "3a2b3c4d-0000-4000-8000-000000000003", &owner),
                pod("proxy", "4a2b3c4d", &json!({ "annotations": { "kubernetes.io/config.mirror": "x" } })),
                pod("web-3", "5a2b3c4d-0000-4000-8000-000000000005", &json!({ "labels": {} })),
            ],
            token: "first",
            budget: false,
            conflicts: 0,
            lists: 0,
        }));
        let pods = "/api/v1/namespaces/{namespace}/pods/{name}";
        let app = Router::new()
            .route("/api/v1/pods", get(list_pods))
            .route(pods, get(read_pod))
            .route(&format!("{pods}/eviction"), post(evict))
            .route("/api/v1/nodes/{name}", get(read_node).patch(patch_node))
            .layer(from_fn_with_state(cluster.clone(), authenticate))
            .with_state(cluster.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "first\n").unwrap();
        Self { cluster, url, folder }
    }

    fn lock(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap()
    }

    fn config(&self) -> String {
        let token = self.folder.path().join("token");
        format!("node = {NODE:?}\nserver = {:?}\ntoken_file = {token:?}\n", self.url)
    }

    fn driver(&self) -> KubernetesDriver {
        let config: KubernetesConfig = toml::from_str(&self.config()).unwrap();
        KubernetesDriver::open(&config, PeerId::parse("p1").unwrap(), "p1").unwrap()
    }

    /// As when a pod's grace has passed.
    fn end(&self, name: &str) {
        self.lock().pods.retain(|pod| pod["metadata"]["name"] != name);
    }
}

fn refuse(code: StatusCode, message: &str, causes: &[&str]) -> Response {
    let causes: Vec<Value> = causes.iter().map(|cause| json!({ "message": cause })).collect();
    let body = json!({ "kind": "Status", "status": "Failure", "message": message, "details": { "causes": causes } });
    (code, Json(body)).into_response()
}

async fn authenticate(State(cluster): State<Shared>, headers: HeaderMap, request: Request, next: Next) -> Response {
    let wanted = format!("Bearer {}", cluster.lock().unwrap().token);
    if headers.get("authorization").is_none_or(|told| told.as_bytes() != wanted.as_bytes()) {
        return refuse(StatusCode::UNAUTHORIZED, "Unauthorized", &[]);
    }
    next.run(request).await
}

/// Two pods a page.
async fn list_pods(State(cluster): State<Shared>, Query(query): Query<HashMap<String, String>>) -> Response {
    assert_eq!(query["fieldSelector"], format!("spec.nodeName={NODE}"));
    let from: usize = query.get("continue").map_or(0, |token| token.parse().unwrap());
    let mut cluster = cluster.lock().unwrap();
    cluster.lists += u32::from(from == 0);
    let items: Vec<&Value> = cluster.pods.iter().skip(from).take(2).collect();
    let next = if from + 2 < cluster.pods.len() { (from + 2).to_string() } else { String::new() };
    Json(json!({ "kind": "PodList", "metadata": { "continue": next }, "items": items })).into_response()
}

async fn read_pod(State(cluster): State<Shared>, Path((namespace, name)): Path<(String, String)>) -> Response {
    let cluster = cluster.lock().unwrap();
    let found = cluster.pods.iter().find(|p| p["metadata"]["namespace"] == namespace && p["metadata"]["name"] == name);
    match found {
        Some(pod) => Json(pod).into_response(),
        None => refuse(StatusCode::NOT_FOUND, &format!("pods {name:?} not found"), &[]),
    }
}

async fn evict(
    State(cluster): State<Shared>,
    Path((_, name)): Path<(String, String)>,
    Json(eviction): Json<Value>,
) -> Response {
    assert_eq!((&eviction["apiVersion"], &eviction["kind"]), (&json!("policy/v1"), &json!("Eviction")));
    assert_eq!((&eviction["metadata"]["name"], &eviction["metadata"]["namespace"]), (&json!(name), &json!("shop")));
    let mut cluster = cluster.lock().unwrap();
    if cluster.budget {
        let message = "Cannot evict pod as it would violate the pod's disruption budget.";
        let cause = "The disruption budget web needs 2 healthy pods and has 2 currently";
        return refuse(StatusCode::TOO_MANY_REQUESTS, message, &[cause]);
    }
    let Some(pod) = cluster.pods.iter_mut().find(|pod| pod["metadata"]["name"] == name) else {
        return refuse(StatusCode::NOT_FOUND, "not found", &[]);
    };
    if eviction["deleteOptions"]["preconditions"]["uid"] != pod["metadata"]["uid"] {
        return refuse(StatusCode::CONFLICT, "the UID in the precondition does not match", &[]);
    }
    pod["metadata"]["deletionTimestamp"] = json!("2026-11-23T12:00:30Z");
    (StatusCode::CREATED, Json(json!({ "kind": "Status", "status": "Success" }))).into_response()
}

async fn read_node(State(cluster): State<Shared>, Path(name): Path<String>) -> Response {
    if name != NODE {
        return refuse(StatusCode::NOT_FOUND, &format!("nodes {name:?} not found"), &[]);
    }
    Json(&cluster.lock().unwrap().node).into_response()
}

async fn patch_node(State(cluster): State<Shared>, headers: HeaderMap, Json(patch): Json<Value>) -> Response {
    assert_eq!(headers["content-type"], "application/merge-patch+json");
    let mut cluster = cluster.lock().unwrap();
    if cluster.conflicts > 0 || patch["metadata"]["resourceVersion"] != cluster.node["metadata"]["resourceVersion"] {
        cluster.conflicts = cluster.conflicts.saturating_sub(1);
        return refuse(StatusCode::CONFLICT, "the object has been modified", &[]);
    }
    merge(&mut cluster.node, &patch);
    let next = cluster.node["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() + 1;
    cluster.node["metadata"]["resourceVersion"] = json!(next.to_string());
    Json(&cluster.node).into_response()
}

/// RFC 7396.
fn merge(into: &mut Value, patch: &Value) {
    let (Some(object), Some(changes)) = (into.as_object_mut(), patch.as_object()) else {
        *into = patch.clone();
        return;
    };
    for (key, value) in changes {
        if value.is_null() {
            object.remove(key);
        } else {
            merge(object.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

async fn ask(driver: &KubernetesDriver, verb: Verb, workload: &str) -> Answer {
    let id = WorkloadId::parse(workload).unwrap();
    let target = Target { id, service: "shop/web".to_owned(), unit: None, epoch: 1 };
    let target = matches!(verb, Verb::Status | Verb::Acquire | Verb::Release).then_some(target);
    driver.call(Call { verb, peer: PeerId::parse("p1").unwrap(), target, holds: Vec::new(), cluster: None }).await
}

#[tokio::test]
async fn pods_of_the_node_are_listed_without_those_that_belong_to_it() {
    let fake = Fake::start().await;
    let list = ask(&fake.driver(), Verb::List, WEB_1).await;
    let told: Vec<_> = list.lines.iter().map(|l| (l.id.as_str(), l.service.as_str(), l.ready)).collect();
    let web_3 = ("web-3-5a2b3c4d", "shop/web-3", true);
    assert_eq!(told, [(WEB_1, "shop/web", true), ("web-2-2a2b3c4d", "shop/web", true), web_3]);
    assert_eq!(list.lines[0].unit.as_deref(), Some("shop/web-1"));
}

#[tokio::test]
async fn a_pod_is_evicted_when_its_budget_allows_and_released_when_it_is_gone() {
    let fake = Fake::start().await;
    let driver = fake.driver();
    fake.lock().budget = true;
    let blocked = ask(&driver, Verb::Release, WEB_1).await;
    let words = "Cannot evict pod as it would violate the pod's disruption budget. \
                 The disruption budget web needs 2 healthy pods and has 2 currently";
    assert_eq!((blocked.exit, blocked.message.as_str()), (Exit::Busy, words));
    assert!(ask(&driver, Verb::Status, WEB_1).await.lines[0].ready, "nothing has happened to it");

    fake.lock().budget = false;
    let evicted = ask(&driver, Verb::Release, WEB_1).await;
    assert_eq!((evicted.exit, evicted.message.as_str()), (Exit::Busy, "shop/web-1 is evicted and ends"));
    let ending = ask(&driver, Verb::Release, WEB_1).await;
    let words = "shop/web-1 ends, at the latest at 2026-11-23T12:00:30Z";
    assert_eq!((ending.exit, ending.message.as_str()), (Exit::Busy, words));
    let status = ask(&driver, Verb::Status, WEB_1).await;
    assert_eq!((status.lines[0].ready, status.message.as_str()), (false, words));
    assert_eq!(fake.lock().lists, 1, "looking at one pod lists them once");

    fake.end("web-1");
    assert_eq!(ask(&driver, Verb::Release, WEB_1).await, Answer::done(vec![]));
    assert_eq!(ask(&driver, Verb::Release, WEB_1).await, Answer::done(vec![]), "again");
    assert_eq!(ask(&driver, Verb::Status, WEB_1).await.lines, []);
    assert_eq!(ask(&driver, Verb::List, WEB_1).await.lines.len(), 2);
    assert_eq!(ask(&driver, Verb::Release, WEB_1).await, Answer::done(vec![]), "and when it is no longer known");

    let acquired = ask(&driver, Verb::Acquire, WEB_1).await;
    assert_eq!(acquired, Answer::failed("pods are placed by Kubernetes' own scheduler: nothing can be acquired here"));
    assert_eq!(ask(&driver, Verb::Role, WEB_1).await, Answer::done(vec![]));
}

#[tokio::test]
async fn a_new_pod_of_the_same_name_is_another_workload() {
    let fake = Fake::start().await;
    let driver = fake.driver();
    ask(&driver, Verb::List, WEB_1).await;
    fake.lock().pods[0]["metadata"]["uid"] = json!("9a2b3c4d-0000-4000-8000-000000000009");
    assert_eq!(ask(&driver, Verb::Release, WEB_1).await, Answer::done(vec![]));
    assert!(fake.lock().pods[0]["metadata"]["deletionTimestamp"].is_null(), "the new one is left alone");
    assert_eq!(ask(&driver, Verb::List, WEB_1).await.lines[0].id.as_str(), "web-1-9a2b3c4d");
}

#[tokio::test]
async fn a_node_is_cordoned_and_only_a_cordon_of_ours_is_taken_back() {
    let fake = Fake::start().await;
    let driver = fake.driver();
    let node = || fake.lock().node.clone();
    fake.lock().conflicts = 2;
    assert_eq!(ask(&driver, Verb::Cordon, WEB_1).await, Answer::done(vec![]));
    assert_eq!((&node()["spec"]["unschedulable"], node().pointer(OURS)), (&json!(true), Some(&json!("p1"))));
    let before = node();
    assert_eq!(ask(&driver, Verb::Cordon, WEB_1).await, Answer::done(vec![]), "again");
    assert_eq!(node(), before);
    assert_eq!(ask(&driver, Verb::Uncordon, WEB_1).await, Answer::done(vec![]));
    assert_eq!((&node()["spec"], node().pointer(OURS)), (&json!({}), None));
    assert_eq!(ask(&driver, Verb::Uncordon, WEB_1).await, Answer::done(vec![]), "again");

    fake.lock().node["spec"]["unschedulable"] = json!(true);
    for verb in [Verb::Cordon, Verb::Uncordon] {
        assert_eq!(ask(&driver, verb, WEB_1).await, Answer::done(vec![]));
        assert_eq!(node()["spec"]["unschedulable"], json!(true), "somebody else cordoned it");
    }
    fake.lock().node["spec"]["unschedulable"] = json!(false);
    fake.lock().conflicts = 100;
    let lost = ask(&driver, Verb::Cordon, WEB_1).await;
    assert_eq!(lost, Answer::failed("the Kubernetes API answers 409: the object has been modified"));
}

#[tokio::test]
async fn tokens_are_read_anew_and_failures_say_whose_they_are() {
    let fake = Fake::start().await;
    let driver = fake.driver();
    fake.lock().token = "second";
    let refused = ask(&driver, Verb::List, WEB_1).await;
    assert_eq!(refused, Answer::failed("the Kubernetes API answers 401: Unauthorized"));
    let token = fake.folder.path().join("token");
    std::fs::write(&token, "second").unwrap();
    assert_eq!(ask(&driver, Verb::List, WEB_1).await.exit, Exit::Done);
    std::fs::remove_file(&token).unwrap();
    let missing = ask(&driver, Verb::Release, WEB_1).await;
    assert_eq!(missing.exit, Exit::Failed);
    assert!(missing.message.starts_with(&format!("token_file {}: ", token.display())), "{}", missing.message);

    let nowhere: KubernetesConfig = toml::from_str("server = \"http://127.0.0.1:1\"").unwrap();
    let nowhere = KubernetesDriver::open(&nowhere, PeerId::parse("p1").unwrap(), NODE).unwrap();
    for (verb, exit) in [(Verb::List, Exit::Failed), (Verb::Release, Exit::Busy)] {
        let answer = ask(&nowhere, verb, WEB_1).await;
        assert_eq!(answer.exit, exit);
        assert!(answer.message.starts_with("the Kubernetes API cannot be reached: "), "{}", answer.message);
    }
}

#[tokio::test]
async fn an_agent_drains_a_node_over_the_bus() {
    let mut control = Control::new().await;
    control.create_stream().await;
    let fake = Fake::start().await;
    let file = fake.folder.path().join("agent.toml");
    let text = format!(
        "nats = {:?}\nstate_dir = {:?}\nheartbeat = \"200ms\"\n\
         [[peer]]\nid = \"p1\"\ncluster = \"c1\"\ndriver = \"kubernetes\"\n[peer.kubernetes]\n{}",
        control.url,
        fake.folder.path().join("state"),
        fake.config()
    );
    std::fs::write(&file, text).unwrap();
    let shutdown = CancellationToken::new();
    let agent = tokio::spawn(run_agent(AgentConfig::load(&file).unwrap(), shutdown.clone()));
    let first = control.heartbeat("p1", |_| true).await;
    let profile = (first.workloads[0].handover, first.workloads[0].restorable);
    assert_eq!(profile, (Handover::ReleaseOnly, false));

    fake.lock().budget = true;
    let go = command("op-1", CommandVerb::Release, "p1", WEB_1, 1);
    control.accepted(&go).await;
    let Outcome::Busy { message, .. } = control.report(&go).await.outcome else { panic!("not busy") };
    assert!(message.contains("The disruption budget web"), "{message}");
    fake.lock().budget = false;
    control.heartbeat("p1", |h| h.workloads.iter().any(|w| w.id.as_str() == WEB_1 && !w.ready)).await;
    fake.end("web-1");
    assert_eq!(control.outcome(&go).await, Outcome::Done);
    control.heartbeat("p1", |h| h.workloads.len() == 2).await;
    shutdown.cancel();
    tokio::time::timeout(PATIENCE, agent).await.unwrap().unwrap().unwrap();
}
