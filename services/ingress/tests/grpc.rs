//! gRPC against an ingress with a real database and bus, beside REST on the same port.

mod common;

use std::time::Duration;

use common::{Site, site};
use omnirelay_contract::grpc::status::{ErrorInfo, Status as Details};
use omnirelay_contract::grpc::v1::control_client::ControlClient;
use omnirelay_contract::grpc::v1::watch_events_response::Frame;
use omnirelay_contract::grpc::v1::{self, WatchEventsResponse};
use omnirelay_runtime::auth::Scope;
use serde_json::json;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

async fn channel(site: &Site) -> Channel {
    Endpoint::from_shared(site.base.clone()).expect("an address").connect().await.expect("a connection")
}

async fn client(site: &Site) -> ControlClient<Channel> {
    ControlClient::new(channel(site).await)
}

/// `message` from ana, with this scope and further metadata.
fn by_ana<T>(site: &Site, scope: Scope, metadata: &[(&'static str, &str)], message: T) -> Request<T> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {}", site.token("ana", scope));
    request.metadata_mut().insert("authorization", bearer.parse().expect("a header"));
    for (name, value) in metadata {
        request.metadata_mut().insert(*name, value.parse().expect("metadata"));
    }
    request
}

const ASYNC: (&str, &str) = ("prefer", "respond-async");

fn cordon(id: &str) -> v1::CordonPeerRequest {
    v1::CordonPeerRequest { id: id.to_owned(), ..Default::default() }
}

fn drain(id: &str) -> v1::DrainPeerRequest {
    v1::DrainPeerRequest { id: id.to_owned(), deadline: Some("30m".to_owned()), ..Default::default() }
}

/// The gRPC code, and ours.
fn codes(status: &Status) -> (Code, String) {
    (status.code(), info(status).reason)
}

fn info(status: &Status) -> ErrorInfo {
    let info: ErrorInfo = Details::of(status).and_then(|details| details.detail()).expect("an ErrorInfo");
    assert_eq!(info.domain, "omnirelay");
    info
}

fn problem(status: &Status) -> v1::Problem {
    Details::of(status).and_then(|details| details.detail()).expect("a problem")
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, reason: &str) -> Status {
    let status = answer.expect_err("a refusal");
    assert_eq!(codes(&status), (code, reason.to_owned()), "{status}");
    status
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why_and_recorded_with_their_address() {
    let site = site().await;
    let mut client = client(&site).await;
    let nobody = client.get_peer(v1::GetPeerRequest { id: "a".to_owned() }).await;
    refused(nobody, Code::Unauthenticated, "unauthenticated");
    let reader = client.cordon_peer(by_ana(&site, Scope::Read, &[], cordon("a"))).await;
    let status = refused(reader, Code::PermissionDenied, "insufficient-scope");
    assert_eq!(problem(&status).instance.as_deref(), Some("/control/peers/a:cordon"));
    let watcher = client.watch_events(by_ana(&site, Scope::Read, &[], v1::WatchEventsRequest::default())).await;
    refused(watcher, Code::PermissionDenied, "insufficient-scope");
    let recorded: Vec<String> = sqlx::query_scalar(
        "select payload::jsonb #>> '{data,audit,actor,address}' from events
         where nats_subject = 'omni.v1.event.access.ana.denied'",
    )
    .fetch_all(&site.pool)
    .await
    .expect("records");
    assert_eq!(recorded, ["127.0.0.1", "127.0.0.1"]);
}

#[tokio::test]
async fn what_is_not_understood_is_refused_as_over_rest() {
    let site = site().await;
    let mut client = client(&site).await;
    for (id, code, reason) in [
        ("nobody", Code::NotFound, "not-found"),
        ("", Code::InvalidArgument, "invalid-argument"),
        ("a:b", Code::InvalidArgument, "invalid-argument"),
        ("a/workloads", Code::InvalidArgument, "invalid-argument"),
        ("a?x=1", Code::InvalidArgument, "invalid-argument"),
    ] {
        let request = by_ana(&site, Scope::Read, &[], v1::GetPeerRequest { id: id.to_owned() });
        refused(client.get_peer(request).await, code, reason);
        refused(client.cordon_peer(by_ana(&site, Scope::Operate, &[], cordon(id))).await, code, reason);
    }
    let odd = v1::ListPeersRequest { state: vec!["odd".to_owned()], ..Default::default() };
    let odd = client.list_peers(by_ana(&site, Scope::Read, &[], odd)).await;
    refused(odd, Code::InvalidArgument, "invalid-argument");
    let late = v1::DrainPeerRequest { deadline: Some("soon".to_owned()), ..drain("a") };
    let late = client.drain_peer(by_ana(&site, Scope::Operate, &[], late)).await;
    let status = refused(late, Code::InvalidArgument, "invalid-argument");
    assert!(status.message().contains("soon"), "{status}");
    let large = v1::CordonPeerRequest { reason: Some("x".repeat(70_000)), ..cordon("a") };
    let large = client.cordon_peer(by_ana(&site, Scope::Operate, &[], large)).await;
    refused(large, Code::InvalidArgument, "payload-too-large");
    let count: i64 =
        sqlx::query_scalar("select count(*) from operations").fetch_one(&site.pool).await.expect("a count");
    assert_eq!(count, 0);
}

/// What each mutation answers to somebody who may, when nothing it names is there, and to somebody who may not.
#[tokio::test]
async fn every_mutation_is_a_route_with_its_scope() {
    let site = site().await;
    let mut client = client(&site).await;
    let operation = "01970c2e-7d10-7000-8000-000000000007";
    let mut wrong: Vec<String> = Vec::new();
    macro_rules! check {
        ($rpc:ident, $message:ident { $($field:ident: $value:expr),* }, $scope:ident, $metadata:expr) => {{
            let message = v1::$message { validate_only: true, $($field: $value.into(),)* ..Default::default() };
            let may_not = client.$rpc(by_ana(&site, Scope::Observe, &[], message.clone())).await;
            if may_not.as_ref().err().map(codes) != Some((Code::PermissionDenied, "insufficient-scope".to_owned())) {
                wrong.push(format!("{}: an observer: {may_not:?}", stringify!($rpc)));
            }
            let may = client.$rpc(by_ana(&site, Scope::$scope, $metadata, message)).await;
            // What it says of nothing depends on the verb; that it was understood, and by which route, does not.
            let bad = may.as_ref().err().is_some_and(|status| {
                let (code, reason) = codes(status);
                matches!(code, Code::Unimplemented | Code::PermissionDenied | Code::Internal)
                    || reason == "invalid-argument"
                    || status.message().contains("no such route")
            });
            if bad {
                wrong.push(format!("{}: {may:?}", stringify!($rpc)));
            }
        }};
    }
    let any: &[(&'static str, &str)] = &[("if-match", "*")];
    check!(cordon_peer, CordonPeerRequest { id: "nobody" }, Operate, any);
    check!(uncordon_peer, UncordonPeerRequest { id: "nobody" }, Operate, any);
    check!(drain_peer, DrainPeerRequest { id: "nobody" }, Operate, any);
    check!(drain_peers, DrainPeersRequest { selector: "zone=nowhere".to_owned() }, Operate, &[]);
    let labels = serde_json::json!({"rack": "7", "spot": null});
    check!(
        patch_peer,
        PatchPeerRequest { id: "nobody", labels: omnirelay_contract::grpc::json::Value::from(labels) },
        Operate,
        any
    );
    check!(put_peer, PutPeerRequest { id: "new", cluster: "c".to_owned(), capacity: 4_u32 }, Admin, &[]);
    check!(put_cluster, PutClusterRequest { id: "new", priority: -1 }, Admin, &[("if-none-match", "*")]);
    check!(promote_cluster, PromoteClusterRequest { id: "nowhere" }, Admin, any);
    check!(demote_cluster, DemoteClusterRequest { id: "nowhere" }, Admin, any);
    let settings = serde_json::json!({"drain": {"maxConcurrent": 8}});
    check!(
        patch_config,
        PatchConfigRequest { settings: omnirelay_contract::grpc::json::Value::from(settings) },
        Admin,
        any
    );
    check!(rollback_config, RollbackConfigRequest { revision: 1_u64 }, Admin, any);
    check!(cancel_operation, CancelOperationRequest { id: operation }, Operate, any);
    check!(pause_operation, PauseOperationRequest { id: operation }, Operate, any);
    check!(resume_operation, ResumeOperationRequest { id: operation }, Operate, any);
    let digest = || "d".to_owned();
    check!(approve_operation, ApproveOperationRequest { id: operation, digest: digest() }, Approve, any);
    check!(reject_operation, RejectOperationRequest { id: operation, digest: digest() }, Approve, any);
    check!(resolve_operation, ResolveOperationRequest { id: operation }, Admin, any);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn a_patch_wants_the_tag_of_what_it_patches() {
    let site = site().await;
    let mut client = client(&site).await;
    let labels = serde_json::json!({"rack": "7"});
    let patch = v1::PatchPeerRequest { id: "a".to_owned(), labels: Some(labels.into()), ..Default::default() };
    let untagged = client.patch_peer(by_ana(&site, Scope::Operate, &[ASYNC], patch.clone())).await;
    refused(untagged, Code::FailedPrecondition, "precondition-required");
    let stale = client.patch_peer(by_ana(&site, Scope::Operate, &[ASYNC, ("if-match", "\"9\"")], patch.clone())).await;
    refused(stale, Code::Aborted, "revision-mismatch");
    let tagged = client.patch_peer(by_ana(&site, Scope::Operate, &[ASYNC, ("if-match", "\"1\"")], patch)).await;
    let operation = tagged.expect("accepted").into_inner().operation.expect("an operation");
    assert_eq!((operation.verb.as_str(), operation.target.as_str()), ("peers.patch", "peers/a"));
}

#[tokio::test]
async fn settings_are_read_and_planned() {
    let site = site().await;
    let mut client = client(&site).await;
    let config = client.get_config(by_ana(&site, Scope::Read, &[], v1::GetConfigRequest {})).await.expect("settings");
    let tag = config.metadata().get("etag").expect("a tag").to_str().expect("text").to_owned();
    assert_eq!(tag, format!("\"{}\"", config.get_ref().revision));
    let schema = client.get_config_schema(by_ana(&site, Scope::Read, &[], v1::GetConfigSchemaRequest {})).await;
    let schema = serde_json::to_value(schema.expect("a schema").into_inner().schema).expect("JSON");
    assert!(schema["properties"]["drain"].is_object(), "{schema}");
    let history = client.list_config_history(by_ana(&site, Scope::Read, &[], v1::ListConfigHistoryRequest::default()));
    assert!(history.await.is_ok());
    let open = client.list_approvals(by_ana(&site, Scope::Read, &[], v1::ListApprovalsRequest::default())).await;
    assert!(open.expect("a page").into_inner().items.is_empty());
    let edit =
        |settings: serde_json::Value| v1::PatchConfigRequest { settings: Some(settings.into()), ..Default::default() };
    let wrong = edit(serde_json::json!({"drain": {"maxConcurrent": 0}}));
    let wrong = client.patch_config(by_ana(&site, Scope::Admin, &[("if-match", &tag)], wrong)).await;
    let status = refused(wrong, Code::InvalidArgument, "invalid-setting");
    assert!(status.message().contains("maxConcurrent"), "{status}");
    // A whole number of JSON is one again behind the wire, where it was a double.
    let good = edit(serde_json::json!({"drain": {"maxConcurrent": 7}}));
    let good = client.patch_config(by_ana(&site, Scope::Admin, &[("if-match", &tag)], good)).await;
    let status = refused(good, Code::FailedPrecondition, "confirmation-required");
    let impact = serde_json::to_value(problem(&status).plan.expect("a plan").impact).expect("JSON");
    assert_eq!(impact["changes"][0]["after"], 7);
}

#[tokio::test]
async fn reads_have_pages_and_filters() {
    let site = site().await;
    let mut client = client(&site).await;
    let ids = |page: &v1::ListPeersResponse| page.items.iter().map(|peer| peer.id.clone()).collect::<Vec<_>>();
    let two = v1::ListPeersRequest { page_size: 2, ..Default::default() };
    let first = client.list_peers(by_ana(&site, Scope::Read, &[], two.clone())).await.expect("a page").into_inner();
    assert_eq!(ids(&first), ["a", "b"]);
    assert_eq!((first.items[0].labels["zone"].as_str(), first.items[0].workloads), ("x", 2));
    let more = v1::ListPeersRequest { page_token: first.next_page_token.clone(), ..two };
    let second = client.list_peers(by_ana(&site, Scope::Read, &[], more.clone())).await.expect("a page").into_inner();
    assert_eq!((ids(&second), second.next_page_token.as_str()), (vec!["d".to_owned()], ""));
    let changed = v1::ListPeersRequest { cluster: "c".to_owned(), ..more };
    let changed = client.list_peers(by_ana(&site, Scope::Read, &[], changed)).await;
    refused(changed, Code::InvalidArgument, "invalid-argument");
    let filtered = v1::ListPeersRequest {
        state: vec!["active".to_owned(), "drained".to_owned()],
        selector: "zone!=x".to_owned(),
        order_by: "name desc".to_owned(),
        ..Default::default()
    };
    let filtered = client.list_peers(by_ana(&site, Scope::Read, &[], filtered)).await.expect("a page").into_inner();
    assert_eq!(ids(&filtered), ["d", "b"]);

    let peer = client.get_peer(by_ana(&site, Scope::Read, &[], v1::GetPeerRequest { id: "a".to_owned() })).await;
    let peer = peer.expect("a peer");
    let etag = peer.metadata().get("etag").expect("its tag").to_str().expect("text").to_owned();
    assert_eq!(etag, format!("\"{}\"", peer.get_ref().revision));
    let of_a = v1::ListWorkloadsRequest { peer: "a".to_owned(), ..Default::default() };
    let workloads = client.list_workloads(by_ana(&site, Scope::Read, &[], of_a)).await.expect("workloads").into_inner();
    assert_eq!(workloads.items.iter().map(|workload| workload.id.as_str()).collect::<Vec<_>>(), ["w1", "w2"]);
    let cluster = v1::GetClusterRequest { id: "c".to_owned() };
    let cluster = client.get_cluster(by_ana(&site, Scope::Read, &[], cluster)).await.expect("a cluster").into_inner();
    assert_eq!((cluster.state.as_str(), cluster.peers), ("active", 3));
    let versions = client.list_versions(by_ana(&site, Scope::Read, &[], v1::ListVersionsRequest {})).await;
    let versions = versions.expect("versions").into_inner().items;
    assert_eq!(versions, [v1::Version { version: "1.0".to_owned(), peers: 3 }]);
    let status = client.get_status(by_ana(&site, Scope::Read, &[], v1::GetStatusRequest {})).await.expect("a status");
    let status = serde_json::to_value(status.into_inner().status).expect("JSON");
    assert_eq!(status["clusters"][0]["id"], "c");
}

#[tokio::test]
async fn a_drain_shows_its_plan_and_wants_it_confirmed() {
    let site = site().await;
    let mut client = client(&site).await;
    let asked = client.drain_peer(by_ana(&site, Scope::Operate, &[ASYNC], drain("a"))).await;
    let status = refused(asked, Code::FailedPrecondition, "confirmation-required");
    let plan = problem(&status).plan.expect("a plan");
    let impact = serde_json::to_value(&plan.impact).expect("JSON");
    assert_eq!((&impact["peer"], &impact["moves"][0]["target"]), (&json!("a"), &json!("b")));
    let validate = v1::DrainPeerRequest { validate_only: true, ..drain("a") };
    for request in [
        by_ana(&site, Scope::Operate, &[], validate),
        by_ana(&site, Scope::Operate, &[("x-validate-only", "true")], drain("a")),
    ] {
        let validated = client.drain_peer(request).await.expect("a plan").into_inner();
        assert_eq!((validated.operation, validated.plan.map(|plan| plan.digest)), (None, Some(plan.digest.clone())));
    }
    let token = plan.confirmation.expect("a token").token;
    let confirmed = v1::DrainPeerRequest { confirmation: Some(token), ..drain("a") };
    let accepted = client.drain_peer(by_ana(&site, Scope::Operate, &[ASYNC], confirmed)).await.expect("accepted");
    let location = accepted.metadata().get("location").expect("where it is").to_str().expect("text").to_owned();
    let operation = accepted.into_inner().operation.expect("an operation");
    assert_eq!(location, format!("/control/operations/{}", operation.id));
    assert_eq!((operation.state.as_str(), &operation.digest), ("submitted", &plan.digest));
    let second = client.drain_peer(by_ana(&site, Scope::Operate, &[ASYNC], drain("a"))).await;
    let status = refused(second, Code::FailedPrecondition, "operation-in-progress");
    assert_eq!(info(&status).metadata.get("operation"), Some(&operation.id));
    let read = v1::GetOperationRequest { id: operation.id.clone() };
    let read = client.get_operation(by_ana(&site, Scope::Read, &[], read)).await.expect("it").into_inner();
    assert_eq!((read.verb.as_str(), read.target.as_str()), ("peers.drain", "peers/a"));
    let cancel = v1::CancelOperationRequest { id: operation.id, keep_moved: Some(true), ..Default::default() };
    let cancelled = client.cancel_operation(by_ana(&site, Scope::Operate, &[ASYNC], cancel)).await.expect("cancelled");
    let cancelled = cancelled.into_inner();
    let cancel = cancelled.operation.and_then(|operation| operation.cancel).expect("its cancel");
    assert_eq!((cancelled.changed, cancel.by.as_str(), cancel.keep_moved), (true, "ana", true));
}

#[tokio::test]
async fn a_key_and_a_tag_mean_what_they_mean_over_rest() {
    let site = site().await;
    let mut client = client(&site).await;
    let keyed = [ASYNC, ("idempotency-key", "k-1")];
    let first = client.cordon_peer(by_ana(&site, Scope::Operate, &keyed, cordon("a"))).await.expect("accepted");
    assert!(first.metadata().get("idempotency-replayed").is_none());
    let id = first.into_inner().operation.expect("an operation").id;
    let again = client.cordon_peer(by_ana(&site, Scope::Operate, &keyed, cordon("a"))).await.expect("accepted");
    assert_eq!(again.metadata().get("idempotency-replayed").and_then(|value| value.to_str().ok()), Some("true"));
    assert_eq!(again.into_inner().operation.map(|operation| operation.id).as_ref(), Some(&id));
    // The same request over REST has the same digest, so the key finds the same operation there.
    let rest = reqwest::Client::new()
        .post(format!("{}/control/peers/a:cordon", site.base))
        .bearer_auth(site.token("ana", Scope::Operate))
        .header("idempotency-key", "k-1")
        .header("prefer", "respond-async")
        .send()
        .await
        .expect("an answer");
    assert_eq!(rest.headers()["idempotency-replayed"], "true");
    let rest: serde_json::Value = serde_json::from_str(&rest.text().await.expect("a body")).expect("JSON");
    assert_eq!(rest["operation"]["id"], json!(id));
    let other = client.cordon_peer(by_ana(&site, Scope::Operate, &keyed, cordon("b"))).await;
    refused(other, Code::InvalidArgument, "idempotency-key-reused");
    let stale = client.cordon_peer(by_ana(&site, Scope::Operate, &[("if-match", "\"9\"")], cordon("b"))).await;
    let status = refused(stale, Code::Aborted, "revision-mismatch");
    assert_eq!(info(&status).metadata.get("revision").map(String::as_str), Some("1"));
}

#[tokio::test]
async fn a_watch_resumes_at_a_position_and_hears_what_passes_its_filter() {
    let site = site().await;
    let mut client = client(&site).await;
    for peer in ["a", "b"] {
        client.cordon_peer(by_ana(&site, Scope::Operate, &[ASYNC], cordon(peer))).await.expect("accepted");
    }
    assert_eq!(give_positions(&site).await, 2);
    let from =
        |after: Option<u64>, kind: &str| v1::WatchEventsRequest { after, kind: kind.to_owned(), ..Default::default() };
    let mut open = async |request: v1::WatchEventsRequest| {
        client.watch_events(by_ana(&site, Scope::Observe, &[], request)).await.expect("a stream").into_inner()
    };
    let mut all = open(from(Some(0), "")).await;
    let mut resumed = open(from(Some(1), "operations")).await;
    let mut peers = open(from(Some(0), "peers")).await;
    let heard = events(&mut all, 2).await;
    assert_eq!(heard.iter().map(|(position, _)| *position).collect::<Vec<_>>(), [1, 2]);
    assert!(heard.iter().all(|(_, event)| event.r#type == "omnirelay.operations.submitted"), "{heard:?}");
    let data = heard[0].1.data.as_ref().expect("data");
    assert_eq!((data.operation_seq, data.actor.as_deref()), (Some(1), Some("ana")));
    assert_eq!(events(&mut resumed, 1).await[0].0, 2);
    let operation = data.operation.clone().expect("an operation");
    let mut of_one = open(v1::WatchEventsRequest { operation, ..Default::default() }).await;
    assert_eq!(events(&mut of_one, 1).await[0].0, 1);

    site.stop.cancel();
    let last = async { while let Ok(Some(_)) = peers.message().await {} };
    tokio::time::timeout(Duration::from_secs(20), last).await.expect("it ends with the ingress");
    let status = loop {
        match resumed.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a stream that is ended from here says why"),
            Err(status) => break status,
        }
    };
    assert_eq!(codes(&status), (Code::Unavailable, "unavailable".to_owned()));
}

#[tokio::test]
async fn behind_retention_a_watch_is_told_of_the_gap_and_how_things_stand() {
    let site = site().await;
    let mut client = client(&site).await;
    for _ in 0..3 {
        client.cordon_peer(by_ana(&site, Scope::Operate, &[ASYNC], cordon("a"))).await.expect("accepted");
    }
    give_positions(&site).await;
    sqlx::query("delete from events where position < 3").execute(&site.pool).await.expect("retention");
    let after = v1::WatchEventsRequest { after: Some(1), ..Default::default() };
    let stream = client.watch_events(by_ana(&site, Scope::Observe, &[], after)).await.expect("a stream");
    let mut stream = stream.into_inner();
    let Some(Frame::Gap(gap)) = next(&mut stream).await.frame else { panic!("a gap first") };
    assert_eq!((gap.after, gap.position), (1, 3));
    let (mut peers, mut operations) = (Vec::new(), 0);
    loop {
        let WatchEventsResponse { position, frame: Some(Frame::Snapshot(part)) } = next(&mut stream).await else {
            panic!("a snapshot")
        };
        peers.extend(part.peers.into_iter().map(|peer| peer.id));
        operations += part.operations.len();
        if part.complete {
            assert_eq!(position, Some(3));
            break;
        }
    }
    assert_eq!((peers, operations), (vec!["a".to_owned(), "b".to_owned(), "d".to_owned()], 3));
}

#[tokio::test]
async fn health_and_reflection_are_on() {
    let site = site().await;
    let channel = channel(&site).await;
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "omnirelay.control.v1.Control"] {
        let answer = health.check(HealthCheckRequest { service: service.to_owned() }).await.expect("an answer");
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{service:?}");
    }
    let unknown = health.check(HealthCheckRequest { service: "x".to_owned() }).await.expect_err("no such service");
    assert_eq!(unknown.code(), Code::NotFound);
    let mut watched = health.watch(HealthCheckRequest::default()).await.expect("a stream").into_inner();
    assert_eq!(watched.message().await.expect("readable").map(|now| now.status()), Some(ServingStatus::Serving));

    let mut reflection = ServerReflectionClient::new(channel);
    let ask = |question| ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let questions = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("omnirelay.control.v1.Control.DrainPeer".to_owned())),
    ];
    let answers = reflection.server_reflection_info(tokio_stream::iter(questions)).await.expect("a stream");
    let mut answers = answers.into_inner();
    let Some(ServerReflectionResponse { message_response: Some(MessageResponse::ListServicesResponse(list)), .. }) =
        answers.message().await.expect("readable")
    else {
        panic!("a list of services")
    };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for expected in ["omnirelay.control.v1.Control", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|name| name == expected), "{names:?}");
    }
    let file = answers.message().await.expect("readable").and_then(|answer| answer.message_response);
    assert!(matches!(file, Some(MessageResponse::FileDescriptorResponse(_))), "{file:?}");

    // A client that never ends its questions does not keep the ingress from ending.
    let held = reflection.server_reflection_info(tokio_stream::pending()).await.expect("a stream");
    site.stopped().await;
    drop(held);
    let stopping = watched.message().await.expect("readable").map(|now| now.status());
    assert_eq!(stopping, Some(ServingStatus::NotServing));
}

/// Plays the relay: gives positions to what has none.
async fn give_positions(site: &Site) -> i64 {
    sqlx::query(
        "with head as (select position from watermarks where name = 'positioned'),
              next as (select id, row_number() over (order by id) + (select position from head) as p
                       from events where position is null)
         update events e set position = next.p from next where next.id = e.id",
    )
    .execute(&site.pool)
    .await
    .expect("positions");
    sqlx::query_scalar(
        "update watermarks set position = coalesce((select max(position) from events), position)
         where name = 'positioned' returning position",
    )
    .fetch_one(&site.pool)
    .await
    .expect("a watermark")
}

async fn next(stream: &mut Streaming<WatchEventsResponse>) -> WatchEventsResponse {
    let next = tokio::time::timeout(Duration::from_secs(20), stream.message());
    next.await.expect("in time").expect("readable").expect("not the end")
}

/// The next events, with their positions.
async fn events(stream: &mut Streaming<WatchEventsResponse>, count: usize) -> Vec<(u64, v1::Event)> {
    let mut events = Vec::new();
    while events.len() < count {
        if let WatchEventsResponse { position: Some(position), frame: Some(Frame::Event(event)) } = next(stream).await {
            events.push((position, event));
        }
    }
    events
}
