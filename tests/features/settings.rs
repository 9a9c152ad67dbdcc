//! The mesh's settings: patched under a revision, confirmed, followed live by every replica, kept for ever, taken back.

use std::net::TcpListener;
use std::process::Command;

use futures_util::future::join_all;
use omnirelay_tests::{
    Answer, Api, Mesh, PATIENCE, Process, Role, Scope, Services, Stack, StackOptions, binary, eventually, records_of,
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

const CONFIG: &str = "/control/config";

/// A worker and two ingresses as processes. The settings are one test's at a time.
struct Site {
    stack: Stack,
    second: String,
    turn: Mutex<()>,
    _processes: Vec<Process>,
}

async fn site() -> &'static Site {
    static SITE: OnceCell<Site> = OnceCell::const_new();
    SITE.get_or_init(|| async {
        let options = StackOptions { clusters: 7, peers: 3, services: Services::None, ..StackOptions::default() };
        let stack = Stack::start(options).await;
        let mut processes: Vec<Process> = ["ingress", "worker", "audit"].map(|role| stack.serve(role, role)).into();
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
        let mut command = Command::new(binary());
        command.args(["serve", "ingress", "--config"]).arg(stack.state_dir().join("serve.toml"));
        command.env("OMNIRELAY_HTTP", free.to_string());
        processes.push(Process::start("second-ingress", command, stack.folder()));
        stack.answers().await;
        stack.healthy().await;
        let second = format!("http://{free}");
        let api = Api::new(&second, None);
        eventually("the second ingress is ready", PATIENCE, async || {
            let answer = api.get("/readyz").try_send().await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
        Site { stack, second, turn: Mutex::new(()), _processes: processes }
    })
    .await
}

/// The settings for the test that has them; it leaves them as it found them.
struct Turn {
    site: &'static Site,
    mesh: Mesh,
    _turn: MutexGuard<'static, ()>,
}

async fn turn() -> Turn {
    let site = site().await;
    Turn { site, mesh: site.stack.mesh(), _turn: site.turn.lock().await }
}

impl Turn {
    /// The operator at the other ingress.
    fn elsewhere(&self, role: Role) -> Api {
        Api::new(&self.site.second, Some(self.site.stack.token(role)))
    }

    async fn config(&self) -> (Value, String) {
        self.mesh.reader.tagged(CONFIG).await
    }

    async fn set(&self, patch: &Value) -> Answer {
        let (_, tag) = self.config().await;
        self.mesh
            .admin
            .confirmed(Method::PATCH, CONFIG, Some(&tag), &json!({"settings": patch, "reason": "tuning"}))
            .await
    }

    /// Takes everything back to its default.
    async fn reset(&self) {
        let patch = json!({"drain": null, "heartbeat": null, "promote": null, "disruption": null, "approvals": null});
        self.set(&patch).await.expect(200);
    }
}

#[tokio::test]
async fn settings_are_patched_under_a_revision_confirmed_and_kept() {
    let turn = turn().await;
    let admin = &turn.mesh.admin;
    let (before, tag) = turn.config().await;
    assert_eq!(tag, format!("\"{}\"", before["revision"]));
    let body = json!({"settings": {"drain": {"maxConcurrent": 7}}, "reason": "faster", "changeTicket": "CHG-9"});
    turn.mesh.operator.patch(CONFIG, &body).header("if-match", &tag).send().await.refused(403, "insufficient-scope");
    admin.patch(CONFIG, &body).send().await.refused(428, "precondition-required");
    admin.patch(CONFIG, &body).header("if-match", "\"0\"").send().await.refused(412, "revision-mismatch");
    let asked = admin.patch(CONFIG, &body).header("if-match", &tag).send().await;
    asked.refused(428, "confirmation-required");
    let impact = &asked.body["plan"]["impact"];
    let old = before["settings"]["drain"]["maxConcurrent"].clone();
    let changes = json!([{"key": "drain.maxConcurrent", "before": old, "after": 7}]);
    assert_eq!((&impact["changed"], &impact["changes"]), (&json!(true), &changes));
    assert_eq!(turn.config().await, (before.clone(), tag.clone()), "nothing has happened yet");

    let mut confirmed = body.clone();
    confirmed["confirmation"] = asked.body["plan"]["confirmation"]["token"].clone();
    // Any replica takes it.
    let done = turn.elsewhere(Role::Admin).patch(CONFIG, &confirmed).header("if-match", &tag).send().await;
    let revision = before["revision"].as_u64().expect("a revision");
    assert_eq!(
        (done.expect(200).body["changed"].clone(), &done.body["operation"]["state"]),
        (json!(true), &json!("succeeded"))
    );
    assert_eq!(done.body["resource"]["revision"], revision + 1, "{}", done.body);
    let (after, new_tag) = turn.config().await;
    assert_eq!((&after["settings"]["drain"]["maxConcurrent"], &after["revision"]), (&json!(7), &json!(revision + 1)));
    let unchanged = turn.mesh.reader.get(CONFIG).header("if-none-match", &new_tag).send().await;
    assert_eq!(unchanged.status, 304);
    // The same again changes nothing, is no revision, and asks for no confirmation.
    let again = admin.patch(CONFIG, &body).header("if-match", &new_tag).send().await;
    assert_eq!(again.expect(200).body["changed"], false);
    assert_eq!(turn.config().await.1, new_tag);

    let history = turn.mesh.reader.read("/control/config/history").await;
    let newest = &history["items"][0];
    assert_eq!(
        (&newest["revision"], &newest["actor"], &newest["reason"]),
        (&json!(revision + 1), &json!("admin"), &json!("faster"))
    );
    assert_eq!((&newest["changeTicket"], &newest["operation"]), (&json!("CHG-9"), &done.body["operation"]["id"]));
    assert_eq!(newest["settings"], after["settings"]);
    assert_eq!(history["items"][1]["settings"], before["settings"], "earlier ones are as they were");
    let records = records_of(&turn.mesh.reader, &done.operation(), "succeeded").await;
    let changed = records.iter().find(|record| record["outcome"] == "changed").expect("the change itself");
    assert_eq!((&changed["target"], &changed["actor"]["subject"]), (&json!("config/settings"), &json!("admin")));
    assert_eq!((&changed["changeTicket"], &changed["reason"]), (&json!("CHG-9"), &json!("faster")));

    // Taken back: a new revision with the old settings.
    let rollback = |revision: u64| json!({"revision": revision, "reason": "too fast"});
    let path = "/control/config:rollback";
    admin.post(path, &rollback(revision)).send().await.refused(428, "precondition-required");
    let stale = admin.post(path, &rollback(revision)).header("if-match", &tag).send().await;
    stale.refused(412, "revision-mismatch");
    let absent = admin.post(path, &rollback(999_999)).header("if-match", &new_tag).send().await;
    absent.refused(404, "not-found");
    let asked = admin.post(path, &rollback(revision)).header("if-match", &new_tag).send().await;
    asked.refused(428, "confirmation-required");
    assert_eq!(asked.body["plan"]["impact"]["changes"][0]["after"], old);
    let back = admin.confirmed(Method::POST, path, Some(&new_tag), &rollback(revision)).await;
    assert_eq!(back.expect(200).body["resource"]["settings"], before["settings"]);
    assert_eq!(back.body["resource"]["revision"], revision + 2);
    // What is too late to cancel names the request that takes it back.
    let late = admin.cancel(&done.operation()).await;
    late.refused(409, "too-late");
    assert_eq!(late.body["inverse"], json!({"method": "POST", "path": path, "body": {"revision": revision}}));
}

#[tokio::test]
async fn a_setting_that_cannot_be_is_named_with_its_rule_and_changes_nothing() {
    let turn = turn().await;
    let before = turn.config().await;
    for (patch, key) in [
        (json!({"drain": {"maxConcurrent": 0}}), "drain.maxConcurrent"),
        (json!({"drain": {"deadline": "soon"}}), "drain.deadline"),
        (json!({"drain": {"colour": "red"}}), "drain.colour"),
        (json!({"colour": null}), "colour"),
        (json!({"heartbeat": {"timeout": "0s"}}), "heartbeat.timeout"),
        (json!({"disruption": {"maxUnavailable": "120%"}}), "disruption.maxUnavailable"),
        (json!({"promote": {"minHealthyPercent": 101}}), "promote.minHealthyPercent"),
        (
            json!({"approvals": {"rules": [{"name": "x", "verbs": ["peers.drain"], "required": 0}]}}),
            "approvals.rules[0].required",
        ),
        (json!({"approvals": {"rules": [{"verbs": ["peers.drain"]}]}}), "approvals.rules[0].name"),
        (
            json!({"approvals": {"rules": [{"name": "x", "verbs": ["peers.cordon"], "gate": "cutover"}]}}),
            "approvals.rules[0].verbs[0]",
        ),
    ] {
        for query in ["", "?validateOnly=true"] {
            let ask = turn.mesh.admin.patch(&format!("{CONFIG}{query}"), &json!({"settings": patch}));
            let refused = ask.header("if-match", &before.1).send().await;
            refused.refused(422, "invalid-setting");
            assert_eq!(refused.body["key"], key, "{}", refused.body);
            let rule = refused.body["rule"].as_str().expect("a rule");
            let detail = refused.body["detail"].as_str().expect("a detail");
            assert!(detail.contains(key) && detail.contains(rule), "{}", refused.body);
        }
    }
    for body in [json!({}), json!({"settings": 1}), json!({"settings": {}, "colour": 1})] {
        let refused = turn.mesh.admin.patch(CONFIG, &body).header("if-match", &before.1).send().await;
        refused.refused(400, "invalid-argument");
    }
    assert_eq!(turn.config().await, before);
}

#[tokio::test]
async fn of_many_edits_at_once_with_one_revision_exactly_one_wins() {
    let turn = turn().await;
    let (before, tag) = turn.config().await;
    let apis = [turn.mesh.admin.clone(), turn.elsewhere(Role::Admin)];
    let bodies: Vec<Value> = (0..20).map(|n| json!({"settings": {"drain": {"maxConcurrent": 20 + n}}})).collect();
    let edits =
        bodies.iter().enumerate().map(|(n, body)| apis[n % 2].confirmed(Method::PATCH, CONFIG, Some(&tag), body));
    let answers = join_all(edits).await;
    let won: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 200).collect();
    assert_eq!(won.len(), 1, "{:?}", answers.iter().map(|a| (a.status, a.code().to_owned())).collect::<Vec<_>>());
    answers.iter().filter(|answer| answer.status != 200).for_each(|lost| {
        lost.refused(412, "revision-mismatch");
    });
    let (after, _) = turn.config().await;
    assert_eq!(after["revision"], before["revision"].as_u64().expect("a revision") + 1);
    assert_eq!(after["settings"], won[0].body["resource"]["settings"]);
    turn.reset().await;
}

#[tokio::test]
async fn the_schema_says_what_can_be_set() {
    let turn = turn().await;
    let answer = turn.mesh.reader.get("/control/config/schema").send().await;
    let schema = &answer.expect(200).body;
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let (config, _) = turn.config().await;
    let known = schema["properties"].as_object().expect("properties");
    let set: Vec<&String> = config["settings"].as_object().expect("settings").keys().collect();
    assert!(set.iter().all(|key| known.contains_key(*key)) && set.len() == known.len(), "{set:?} {schema}");
    let again =
        turn.mesh.reader.get("/control/config/schema").header("if-none-match", answer.header("etag")).send().await;
    assert_eq!(again.status, 304);
}

#[tokio::test]
async fn a_changed_default_holds_for_the_next_drain_on_every_replica_and_not_for_a_running_one() {
    let turn = turn().await;
    let mesh = &turn.mesh;
    let [first, second, third] = [0, 1, 2].map(|n| mesh.peers[n].as_str());
    turn.set(&json!({"drain": {"maxConcurrent": 2, "deadline": "1h"}})).await.expect(200);
    mesh.fault(first, "busy").await;
    let running = mesh.operator.drain(first, &json!({})).await;
    let before = mesh.operator.operation_that("runs", &running, |it| it["state"] == "running").await;
    assert_eq!((&before["params"]["maxConcurrent"], &before["params"]["deadlineSecs"]), (&json!(2), &json!(3600)));
    turn.set(&json!({"drain": {"maxConcurrent": 1, "deadline": null, "onDeadline": "cancel"}})).await.expect(200);
    // At once: the very next request, on whichever replica it comes.
    for (api, peer) in [(turn.elsewhere(Role::Operate), second), (mesh.operator.clone(), third)] {
        let plan = api.post(&format!("/control/peers/{peer}:drain?validateOnly=true"), &json!({})).send().await;
        plan.expect(200);
        let id = api.drain(peer, &json!({})).await;
        let drain = mesh.operator.operation(&id).await;
        assert_eq!((&drain["params"]["maxConcurrent"], &drain["params"]["onDeadline"]), (&json!(1), &json!("cancel")));
        assert_eq!(drain["deadlineAt"], Value::Null);
        mesh.operator.cancel(&id).await;
        mesh.operator.ended(&id).await;
    }
    let after = mesh.operator.operation(&running).await;
    assert_eq!(
        (&after["params"], &after["deadlineAt"]),
        (&before["params"], &before["deadlineAt"]),
        "it keeps its own"
    );
    mesh.fault(first, "none").await;
    mesh.operator.cancel(&running).await;
    mesh.operator.ended(&running).await;
    turn.reset().await;
}

#[tokio::test]
async fn a_changed_heartbeat_time_out_is_judged_by_at_once() {
    let turn = turn().await;
    let mesh = &turn.mesh;
    let peer = mesh.peers[0].as_str();
    turn.set(&json!({"heartbeat": {"timeout": "1h"}})).await.expect(200);
    mesh.fault(peer, "silent").await;
    let (_, tag) = turn.config().await;
    let still = mesh.reader.peer_that("is healthy", peer, |it| it["health"] == "healthy").await;
    turn.set(&json!({"heartbeat": {"timeout": "2s"}})).await.expect(200);
    let gone = mesh.reader.peer_that("is unreachable", peer, |it| it["health"] == "unreachable").await;
    assert_eq!(gone["revision"], still["revision"], "health is nobody's decision");
    mesh.fault(peer, "none").await;
    mesh.reader.peer_that("is heard again", peer, |it| it["health"] == "healthy").await;
    assert_ne!(turn.config().await.1, tag);
    turn.reset().await;
}

#[tokio::test]
async fn the_rules_are_edited_under_the_old_rules() {
    let turn = turn().await;
    let mesh = &turn.mesh;
    let [ana, bo] = ["ana", "bo"].map(|who| turn.site.stack.api_of(who, Scope::Approve));
    // The first rule needs nobody: there is none yet.
    let rules = json!([{"name": "two", "verbs": ["peers.drain"], "selector": "never=here", "required": 2}]);
    turn.set(&json!({"approvals": {"rules": rules}})).await.expect(200);
    let (guarded, tag) = turn.config().await;
    // Another setting is nobody's business.
    turn.set(&json!({"drain": {"maxConcurrent": 3}})).await.expect(200);
    let (_, tag_now) = turn.config().await;
    assert_ne!(tag, tag_now);
    let body = json!({"settings": {"approvals": {"rules": []}}});
    let asked = mesh.admin.patch(CONFIG, &body).header("if-match", &tag_now).send().await;
    asked.refused(428, "confirmation-required");
    let gate = &asked.body["plan"]["approval"]["gates"][0];
    assert_eq!((&gate["rule"], &gate["required"]), (&json!("approvals-guard"), &json!(2)));
    let mut confirmed = body.clone();
    confirmed["confirmation"] = asked.body["plan"]["confirmation"]["token"].clone();
    let ask = mesh.admin.patch(CONFIG, &confirmed).header("if-match", &tag_now).header("prefer", "respond-async");
    let edit = ask.send().await.expect(202).operation();
    let open = mesh.reader.operation_that("waits for approval", &edit, |it| it["state"] == "awaitingApproval").await;
    let digest = json!({"digest": open["digest"]});
    mesh.admin.act(&edit, "approve", &digest).await.refused(403, "self-approval");
    ana.act(&edit, "approve", &digest).await.expect(200);
    assert_eq!(turn.config().await.0["settings"]["approvals"], guarded["settings"]["approvals"], "one is not enough");
    bo.act(&edit, "approve", &digest).await.expect(200);
    assert_eq!(mesh.admin.ended(&edit).await["state"], "succeeded");
    assert_eq!(turn.config().await.0["settings"]["approvals"]["rules"], json!([]));
    turn.reset().await;
}
