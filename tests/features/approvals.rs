//! Approvals: an operation stands at its gate until enough others have said yes to exactly what it is about to do.

use omnirelay_tests::{
    Answer, Api, Listener, Mesh, PATIENCE, Process, Role, Scope, Services, Sse, Stack, StackOptions, eventually,
    eventually_ok, gap_free, owners, records, records_of,
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::{Mutex, OnceCell};

const CONFIG: &str = "/control/config";

/// A stack whose worker is a process of its own, to be killed. Rules are about labels, so tests do not meet each other's.
struct Site {
    stack: Stack,
    worker: Mutex<Option<Process>>,
    settings: Mutex<()>,
    _others: [Process; 2],
}

async fn site() -> &'static Site {
    static SITE: OnceCell<Site> = OnceCell::const_new();
    SITE.get_or_init(|| async {
        let options =
            StackOptions { clusters: 16, peers: 3, workloads: 2, services: Services::None, ..StackOptions::default() };
        let stack = Stack::start(options).await;
        let others = ["ingress", "audit"].map(|role| stack.serve(role, role));
        let worker = stack.serve("worker", "worker");
        stack.answers().await;
        stack.healthy().await;
        let site = Site { stack, worker: Mutex::new(Some(worker)), settings: Mutex::new(()), _others: others };
        site.rules().await;
        site
    })
    .await
}

impl Site {
    /// One rule of each kind; a test labels its peers with what it wants to meet.
    async fn rules(&self) {
        let admin = self.stack.api(Role::Admin);
        let drain = json!(["peers.drain"]);
        let rules = json!([
            {"name": "one", "verbs": ["peers.drain", "peers.cordon"], "selector": "gated=one", "expiresIn": "10m"},
            {"name": "two", "verbs": drain, "selector": "gated=two", "required": 2, "expiresIn": "10m"},
            {"name": "admins", "verbs": drain, "selector": "gated=admins", "approverScope": "mesh.admin"},
            {"name": "ticketed", "verbs": drain, "selector": "gated=ticketed", "requireTicket": true},
            {"name": "brief", "verbs": drain, "selector": "gated=brief", "expiresIn": "1s"},
        ]);
        let (_, tag) = admin.tagged(CONFIG).await;
        let body = json!({"settings": {"approvals": {"rules": rules}}});
        admin.confirmed(Method::PATCH, CONFIG, Some(&tag), &body).await.expect(200);
    }

    /// An approver of this name.
    fn approver(&self, name: &str) -> Api {
        self.stack.api_of(name, Scope::Approve)
    }

    /// A cluster whose first peer meets the rule.
    async fn mesh(&self, gated: &str) -> Mesh {
        let mesh = self.stack.mesh();
        label(&mesh, &mesh.peers[0], gated).await;
        mesh
    }
}

async fn label(mesh: &Mesh, peer: &str, gated: &str) {
    let path = format!("/control/peers/{peer}");
    let (_, tag) = mesh.reader.tagged(&path).await;
    mesh.admin.patch(&path, &json!({"labels": {"gated": gated}})).header("if-match", &tag).send().await.expect(200);
}

/// The operation once it stands at its open gate.
async fn at_gate(api: &Api, id: &str) -> Value {
    api.operation_that("waits for approval", id, |it| it["state"] == "awaitingApproval").await
}

fn digest(operation: &Value) -> Value {
    let digest = &operation["digest"];
    assert_eq!(*digest, operation["approval"]["digest"], "one digest, wherever it is shown");
    json!({"digest": digest, "comment": "looks right"})
}

/// What a peer's hold tells, so that a change while a gate is open is seen.
async fn untouched(mesh: &Mesh) {
    let peer = mesh.reader.read(&format!("/control/peers/{}", mesh.peers[0])).await;
    assert_eq!((&peer["state"], owners(&peer)), (&json!("active"), Vec::new()), "nothing happens before the gate");
}

async fn locked_by(mesh: &Mesh) -> Value {
    mesh.reader.read(&format!("/control/peers/{}", mesh.peers[0])).await["operation"].clone()
}

#[tokio::test]
async fn a_drain_waits_for_two_who_are_not_its_requester() {
    let site = site().await;
    let mesh = site.mesh("two").await;
    let peer = mesh.peers[0].as_str();
    let [ana, bo] = ["ana", "bo"].map(|name| site.approver(name));
    let listener = Listener::start(site.stack.nats_url()).await;
    let body = json!({"reason": "kernel CVE", "changeTicket": "CHG-1"});
    let plan = mesh.admin.post(&format!("/control/peers/{peer}:drain?validateOnly=true"), &body).send().await;
    let gates = &plan.expect(200).body["approval"]["gates"];
    assert_eq!(
        (&gates[0]["rule"], &gates[0]["required"], &gates[0]["gate"]),
        (&json!("two"), &json!(2), &json!("start"))
    );

    let drain = mesh.admin.drain(peer, &body).await;
    let open = at_gate(&mesh.reader, &drain).await;
    let approval = &open["approval"];
    assert_eq!(
        (&approval["required"], &approval["rule"], &approval["approvals"]),
        (&json!(2), &json!("two"), &json!([]))
    );
    let waiting = mesh.reader.list("/control/approvals").await;
    assert!(waiting.iter().any(|one| one["id"] == drain.as_str() && one["digest"] == open["digest"]), "{waiting:?}");
    untouched(&mesh).await;
    assert_eq!(locked_by(&mesh).await, drain.as_str());

    let yes = digest(&open);
    mesh.admin.act(&drain, "approve", &yes).await.refused(403, "self-approval");
    mesh.operator.act(&drain, "approve", &yes).await.refused(403, "insufficient-scope");
    let wrong = ana.act(&drain, "approve", &json!({"digest": "0".repeat(64)})).await;
    wrong.refused(409, "digest-mismatch");
    assert_eq!(wrong.body["digest"], open["digest"], "it says what is asked for now");
    ana.act(&drain, "approve", &json!({})).await.refused(400, "invalid-argument");
    let first = ana.act(&drain, "approve", &yes).await;
    assert_eq!((first.expect(200).body["changed"].clone(), first.operation()), (json!(true), drain.clone()));
    let again = ana.act(&drain, "approve", &yes).await;
    assert_eq!(again.expect(200).body["changed"], false);
    let given = &again.body["operation"]["approval"]["approvals"];
    assert_eq!(
        (&given[0]["actor"], &given[0]["comment"], given.as_array().map(Vec::len)),
        (&json!("ana"), &json!("looks right"), Some(1))
    );
    untouched(&mesh).await;
    bo.act(&drain, "approve", &yes).await.expect(200);
    let ended = mesh.reader.ended(&drain).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(mesh.workloads(peer).await, Vec::<String>::new());
    let late = site.approver("cy").act(&drain, "approve", &yes).await;
    late.refused(409, "already-decided");
    assert_eq!(bo.act(&drain, "approve", &yes).await.expect(200).body["changed"], false);

    let events = listener.whole(&drain).await;
    gap_free(&events);
    let told: Vec<&str> = events.iter().map(omnirelay_tests::Event::what).take(5).collect();
    assert_eq!(
        told,
        [
            "operations.submitted",
            "operations.awaitingApproval",
            "approvals.requested",
            "approvals.approved",
            "approvals.approved"
        ]
    );
    let requested = events[2].data();
    for member in ["digest", "plan", "required", "expiresAt"] {
        assert!(!requested[member].is_null(), "{member} of {requested}");
    }
    assert_eq!((&requested["digest"], &requested["required"]), (&open["digest"], &json!(2)));
    assert_eq!(
        (&requested["plan"]["target"], &requested["requester"]),
        (&json!(format!("peers/{peer}")), &json!("admin"))
    );
    assert_eq!(events[2].body["subject"], format!("approvals/{drain}"));

    let audited = records_of(&mesh.reader, &drain, "succeeded").await;
    let approvers: Vec<&Value> = audited
        .iter()
        .filter(|record| record["verb"] == "operations.approve")
        .map(|record| &record["actor"]["subject"])
        .collect();
    assert_eq!(approvers, ["ana", "bo"]);
    let target = format!("target=operations/{drain}&outcome=denied");
    let denied = records(&mesh.reader, &target, |all| all.len() == 2).await;
    let mut who: Vec<(&str, &str)> = denied
        .iter()
        .map(|one| (one["actor"]["subject"].as_str().unwrap_or(""), one["detail"]["code"].as_str().unwrap_or("")))
        .collect();
    who.sort_unstable();
    assert_eq!(who, [("admin", "self-approval"), ("operator", "insufficient-scope")], "{denied:?}");
}

#[tokio::test]
async fn one_no_is_final_and_nothing_was_changed() {
    let site = site().await;
    let mesh = site.mesh("two").await;
    let peer = mesh.peers[0].as_str();
    let before = mesh.registry().await;
    let drain = mesh.operator.drain(peer, &json!({})).await;
    let open = at_gate(&mesh.reader, &drain).await;
    let ana = site.approver("ana");
    ana.act(&drain, "approve", &digest(&open)).await.expect(200);
    let no = json!({"digest": open["digest"], "comment": "change freeze"});
    let bo = site.approver("bo");
    let rejected = bo.act(&drain, "reject", &no).await;
    let operation = &rejected.expect(200).body["operation"];
    assert_eq!((&rejected.body["changed"], &operation["state"]), (&json!(true), &json!("rejected")));
    assert_eq!(
        (&operation["result"]["rejectedBy"], &operation["result"]["comment"]),
        (&json!("bo"), &json!("change freeze"))
    );
    assert_eq!(bo.act(&drain, "reject", &no).await.expect(200).body["changed"], false);
    ana.act(&drain, "reject", &no).await.refused(409, "already-decided");
    site.approver("cy").act(&drain, "approve", &digest(&open)).await.refused(409, "already-decided");
    assert_eq!(mesh.registry().await.differences(&before), Vec::<String>::new());
    assert_eq!(locked_by(&mesh).await, Value::Null, "the lock is free");
    let audited = records_of(&mesh.reader, &drain, "rejected").await;
    assert!(
        audited.iter().any(|one| one["verb"] == "operations.reject" && one["actor"]["subject"] == "bo"),
        "{audited:?}"
    );
    mesh.operator.drain(peer, &json!({})).await;
}

#[tokio::test]
async fn time_never_approves() {
    let site = site().await;
    let mesh = site.mesh("brief").await;
    let before = mesh.registry().await;
    let drain = mesh.operator.drain(&mesh.peers[0], &json!({})).await;
    let ended = mesh.reader.ended(&drain).await;
    assert_eq!(ended["state"], "expired", "{ended}");
    assert_eq!(mesh.registry().await.differences(&before), Vec::<String>::new());
    let late = site.approver("ana").act(&drain, "approve", &json!({"digest": ended["digest"]})).await;
    late.refused(409, "already-decided");
    let mut sse = Sse::open(&mesh.reader, &format!("operation={drain}"), None).await;
    let events = sse.to_the_end().await.to_vec();
    gap_free(&events);
    let told: Vec<&str> = events.iter().map(omnirelay_tests::Event::what).collect();
    assert_eq!(
        told,
        [
            "operations.submitted",
            "operations.awaitingApproval",
            "approvals.requested",
            "approvals.expired",
            "operations.expired"
        ]
    );
    assert!(mesh.reader.list("/control/approvals").await.iter().all(|one| one["id"] != drain.as_str()));
}

#[tokio::test]
async fn what_somebody_else_changes_meanwhile_has_to_be_approved_again() {
    let site = site().await;
    let mesh = site.mesh("two").await;
    let peer = mesh.peers[0].as_str();
    let drain = mesh.operator.drain(peer, &json!({})).await;
    let open = at_gate(&mesh.reader, &drain).await;
    let [ana, bo] = ["ana", "bo"].map(|name| site.approver(name));
    ana.act(&drain, "approve", &digest(&open)).await.expect(200);
    let path = format!("/control/peers/{peer}");
    for step in ["cordon", "patch"] {
        let old = mesh.reader.operation(&drain).await;
        if step == "cordon" {
            mesh.cordon(&mesh.admin, peer).await;
        } else {
            let (_, tag) = mesh.reader.tagged(&path).await;
            let body = json!({"metadata": {"note": "careful"}});
            mesh.admin.patch(&path, &body).header("if-match", &tag).send().await.expect(200);
        }
        let renewed =
            mesh.reader.operation_that("is asked for again", &drain, |it| it["digest"] != old["digest"]).await;
        let approval = &renewed["approval"];
        assert_eq!((&approval["approvals"], &renewed["state"]), (&json!([]), &json!("awaitingApproval")), "{step}");
        assert_eq!(approval["expiresAt"], open["approval"]["expiresAt"], "the time goes on");
        let note = approval["note"].as_str().expect("what has changed");
        assert!(note.contains(&format!("peers/{peer} was changed")), "{note}");
        let stale = bo.act(&drain, "approve", &digest(&old)).await;
        stale.refused(409, "digest-mismatch");
        assert_eq!(stale.body["digest"], renewed["digest"]);
    }
    let renewed = mesh.reader.operation(&drain).await;
    for approver in [&ana, &bo] {
        approver.act(&drain, "approve", &digest(&renewed)).await.expect(200);
    }
    assert_eq!(mesh.reader.ended(&drain).await["state"], "succeeded");
    let mut sse = Sse::open(&mesh.reader, &format!("operation={drain}"), None).await;
    let events = sse.to_the_end().await.to_vec();
    gap_free(&events);
    let requests: Vec<&omnirelay_tests::Event> =
        events.iter().filter(|event| event.what() == "approvals.requested").collect();
    assert_eq!(requests.len(), 3);
    assert_eq!((&requests[0].data()["note"], requests[1].data()["note"].is_string()), (&Value::Null, true));
}

#[tokio::test]
async fn a_rule_may_want_a_ticket_and_an_admin() {
    let site = site().await;
    let mesh = site.mesh("ticketed").await;
    let peer = mesh.peers[0].as_str();
    let refused = mesh.operator.peer(peer, "drain", &json!({})).send().await;
    refused.refused(422, "ticket-required");
    assert_eq!(refused.body["rule"], "ticketed");
    let drain = mesh.operator.drain(peer, &json!({"changeTicket": "CHG-2"})).await;
    at_gate(&mesh.reader, &drain).await;
    mesh.operator.cancel(&drain).await.expect(202);
    assert_eq!(mesh.reader.ended(&drain).await["state"], "cancelled");

    label(&mesh, &mesh.peers[1], "admins").await;
    let drain = mesh.operator.drain(&mesh.peers[1], &json!({})).await;
    let open = at_gate(&mesh.reader, &drain).await;
    let refused = site.approver("ana").act(&drain, "approve", &digest(&open)).await;
    refused.refused(403, "insufficient-scope");
    assert!(refused.body["detail"].as_str().is_some_and(|detail| detail.contains("mesh.admin")), "{}", refused.body);
    site.approver("ana").act(&drain, "reject", &digest(&open)).await.refused(403, "insufficient-scope");
    mesh.admin.act(&drain, "approve", &digest(&open)).await.expect(200);
    assert_eq!(mesh.reader.ended(&drain).await["state"], "succeeded");
}

#[tokio::test]
async fn a_request_may_ask_for_a_gate_of_its_own() {
    let site = site().await;
    let mesh = site.stack.mesh();
    let [first, second] = [0, 1].map(|n| mesh.peers[n].as_str());
    let drain = mesh.operator.drain(first, &json!({"gate": "start"})).await;
    let open = at_gate(&mesh.reader, &drain).await;
    assert_eq!((&open["approval"]["rule"], &open["approval"]["required"]), (&json!("request"), &json!(1)));
    site.approver("ana").act(&drain, "approve", &digest(&open)).await.expect(200);
    assert_eq!(mesh.reader.ended(&drain).await["state"], "succeeded");
    let gate = json!({"gate": "start", "required": 2, "approverScope": "mesh.admin", "expiresIn": "1h"});
    let drain = mesh.operator.drain(second, &json!({"gate": gate})).await;
    let open = at_gate(&mesh.reader, &drain).await;
    assert_eq!((&open["approval"]["approverScope"], &open["approval"]["required"]), (&json!("mesh.admin"), &json!(2)));
    site.approver("ana").act(&drain, "approve", &digest(&open)).await.refused(403, "insufficient-scope");
    for (bad, named) in [
        (json!("soon"), "gate"),
        (json!("cutover"), "cutover"),
        (json!("rest"), "rest"),
        (json!({"gate": "start", "required": 0}), "gate.required"),
    ] {
        let refused = mesh.operator.peer(first, "drain", &json!({"gate": bad})).send().await;
        refused.refused(400, "invalid-argument");
        assert!(refused.body["detail"].as_str().is_some_and(|detail| detail.contains(named)), "{}", refused.body);
    }
    mesh.operator.cancel(&drain).await.expect(202);
    assert_eq!(mesh.reader.ended(&drain).await["state"], "cancelled");
}

#[tokio::test]
async fn quick_verbs_and_edits_of_the_settings_have_gates_too() {
    let site = site().await;
    let mesh = site.mesh("one").await;
    let peer = mesh.peers[0].as_str();
    let ana = site.approver("ana");
    let ask = mesh.operator.peer(peer, "cordon", &json!({"reason": "noisy"})).header("prefer", "wait=1");
    let cordon = ask.send().await.expect(202).operation();
    let open = at_gate(&mesh.reader, &cordon).await;
    untouched(&mesh).await;
    ana.act(&cordon, "approve", &digest(&open)).await.expect(200);
    assert_eq!(mesh.reader.ended(&cordon).await["state"], "succeeded");
    assert_eq!(mesh.reader.read(&format!("/control/peers/{peer}")).await["state"], "cordoned");

    // A patch under an ETag that no longer holds is refused there and then: nobody is asked to approve it any more.
    let path = format!("/control/peers/{peer}");
    let (_, tag) = mesh.reader.tagged(&path).await;
    let body = json!({"metadata": {"note": "x"}, "gate": "start"});
    let ask = mesh.operator.patch(&path, &body).header("if-match", &tag).header("prefer", "respond-async");
    let patch = ask.send().await.expect(202).operation();
    at_gate(&mesh.reader, &patch).await;
    mesh.operator.peer(peer, "uncordon", &json!({})).send().await.expect(200);
    let ended = mesh.reader.ended(&patch).await;
    assert_eq!((&ended["state"], &ended["error"]["code"]), (&json!("refused"), &json!("revision-mismatch")));

    let _settings = site.settings.lock().await;
    let (before, tag) = mesh.reader.tagged(CONFIG).await;
    let body = json!({"settings": {"drain": {"maxConcurrent": 5}}, "gate": "start"});
    let asked = mesh.admin.patch(CONFIG, &body).header("if-match", &tag).send().await;
    let mut confirmed = body.clone();
    confirmed["confirmation"] = asked.body["plan"]["confirmation"]["token"].clone();
    let ask = mesh.admin.patch(CONFIG, &confirmed).header("if-match", &tag).header("prefer", "respond-async");
    let edit = ask.send().await.expect(202).operation();
    let open = at_gate(&mesh.reader, &edit).await;
    assert_eq!(mesh.reader.tagged(CONFIG).await, (before, tag));
    ana.act(&edit, "approve", &digest(&open)).await.expect(200);
    assert_eq!(mesh.reader.ended(&edit).await["state"], "succeeded");
    assert_eq!(mesh.reader.read(CONFIG).await["settings"]["drain"]["maxConcurrent"], 5);
}

#[tokio::test]
async fn preconditions_are_looked_at_again_after_the_approval() {
    let site = site().await;
    let mesh = site.stack.mesh();
    let path = format!("/control/clusters/{}-standby", mesh.cluster);
    mesh.admin.put(&path, &json!({"state": "active"})).send().await.expect(201);
    let passive = format!("/control/clusters/{}-third", mesh.cluster);
    mesh.admin.put(&passive, &json!({"state": "passive"})).send().await.expect(201);
    // Demoted by itself it would leave others active; the gate waits while its target is made what it is to become.
    let body = json!({"gate": "start", "reason": "maintenance"});
    let demote = mesh.admin.confirmed(Method::POST, &format!("{path}:demote"), None, &body).await;
    let demote = demote.expect(202).operation();
    let open = at_gate(&mesh.reader, &demote).await;
    mesh.admin.put(&path, &json!({"region": "eu"})).send().await.expect(200);
    let renewed = mesh.reader.operation_that("is asked for again", &demote, |it| it["digest"] != open["digest"]).await;
    site.approver("ana").act(&demote, "approve", &digest(&open)).await.refused(409, "digest-mismatch");
    site.approver("ana").act(&demote, "approve", &digest(&renewed)).await.expect(200);
    let ended = mesh.reader.ended(&demote).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");

    // An uncordon that was possible when it was asked for, and is not when it is approved.
    let peer = mesh.peers[0].as_str();
    mesh.cordon(&mesh.operator, peer).await;
    let ask = mesh.operator.peer(peer, "uncordon", &json!({"gate": "start"})).header("prefer", "respond-async");
    let uncordon = ask.send().await.expect(202).operation();
    at_gate(&mesh.reader, &uncordon).await;
    mesh.cordon(&mesh.admin, peer).await;
    mesh.operator.peer(peer, "uncordon", &json!({})).send().await.expect(200);
    // Both changes may be one batch of the worker's, or two.
    let last = eventually_ok("the last digest", PATIENCE, async || {
        let operation = mesh.reader.operation(&uncordon).await;
        let approved = site.approver("ana").act(&uncordon, "approve", &digest(&operation)).await;
        if approved.status == 200 { Ok(operation) } else { Err(approved.body) }
    })
    .await;
    assert_ne!(last["approval"]["note"], Value::Null);
    let ended = mesh.reader.ended(&uncordon).await;
    assert_eq!((&ended["state"], &ended["error"]["code"]), (&json!("refused"), &json!("peer-held")), "{ended}");
    assert_eq!(ended["error"]["owners"], json!(["admin"]));
}

#[tokio::test]
async fn at_its_gate_it_is_cancelled_and_paused_like_anywhere() {
    let site = site().await;
    let mesh = site.mesh("one").await;
    let peer = mesh.peers[0].as_str();
    let before = mesh.registry().await;
    let drain = mesh.operator.drain(peer, &json!({})).await;
    let open = at_gate(&mesh.reader, &drain).await;
    let ana = site.approver("ana");
    let cancelled = mesh.operator.cancel(&drain).await;
    cancelled.expect(202);
    let late: Answer = ana.act(&drain, "approve", &digest(&open)).await;
    late.refused(409, "already-decided");
    assert_eq!(mesh.reader.ended(&drain).await["state"], "cancelled");
    ana.act(&drain, "reject", &digest(&open)).await.refused(409, "already-decided");
    assert_eq!(mesh.registry().await.differences(&before), Vec::<String>::new());
    assert_eq!(locked_by(&mesh).await, Value::Null);

    let drain = mesh.operator.drain(peer, &json!({})).await;
    let open = at_gate(&mesh.reader, &drain).await;
    mesh.operator.act(&drain, "pause", &json!({"reason": "wait for me"})).await.expect(200);
    ana.act(&drain, "approve", &digest(&open)).await.expect(200);
    let passed = |it: &Value| it["approval"]["status"] == "passed";
    let paused = mesh.reader.operation_that("has passed its gate", &drain, passed).await;
    assert_eq!((&paused["paused"]["by"], &paused["startedAt"]), (&json!("operator"), &Value::Null));
    untouched(&mesh).await;
    mesh.operator.act(&drain, "resume", &json!({})).await.expect(200);
    assert_eq!(mesh.reader.ended(&drain).await["state"], "succeeded");
}

#[tokio::test]
async fn a_worker_killed_while_the_gate_is_open_loses_nothing() {
    let site = site().await;
    let mesh = site.mesh("two").await;
    let mut worker = site.worker.lock().await;
    let drain = mesh.operator.drain(&mesh.peers[0], &json!({})).await;
    let open = at_gate(&mesh.reader, &drain).await;
    let [ana, bo] = ["ana", "bo"].map(|name| site.approver(name));
    ana.act(&drain, "approve", &digest(&open)).await.expect(200);
    worker.take().expect("it runs").kill_9();
    // The second yes comes while nobody is there to hear it.
    let second = bo.act(&drain, "approve", &digest(&open)).await;
    assert_eq!(second.expect(200).body["operation"]["approval"]["status"], "granted");
    assert_eq!(mesh.reader.operation(&drain).await["state"], "awaitingApproval");
    *worker = Some(site.stack.serve("worker", "worker"));
    let ended = mesh.reader.ended(&drain).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let events = eventually("the whole story", PATIENCE, async || {
        let mut sse = Sse::open(&mesh.reader, &format!("operation={drain}"), None).await;
        Some(sse.to_the_end().await.to_vec())
    })
    .await;
    gap_free(&events);
    let approved = events.iter().filter(|event| event.what() == "approvals.approved").count();
    let requested = events.iter().filter(|event| event.what() == "approvals.requested").count();
    assert_eq!((approved, requested), (2, 1));
}
