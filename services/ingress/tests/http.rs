//! The ingress over HTTP, with a real database and bus. There is no worker: the tests play it where they need one.

mod common;

use std::time::Duration;

use common::{Site, site, site_on};
use omnirelay_devstack::testing;
use omnirelay_runtime::auth::Scope;
use omnirelay_workflow::operation::{Control, Verb};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

/// What the tests of this file do to a site.
trait Ask {
    fn ask(&self, method: Method, path: &str, scope: Scope) -> RequestBuilder;
    async fn get(&self, path: &str) -> (StatusCode, Value);
    async fn post(&self, path: &str, body: Value) -> (StatusCode, Value);
    async fn count(&self, statement: &'static str) -> i64;
    async fn end(&self, id: &str, state: &str);
    async fn position(&self) -> i64;
}

impl Ask for Site {
    fn ask(&self, method: Method, path: &str, scope: Scope) -> RequestBuilder {
        reqwest::Client::new().request(method, format!("{}{path}", self.base)).bearer_auth(self.token("ana", scope))
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        taken(self.ask(Method::GET, path, Scope::Read)).await
    }

    async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        taken(self.ask(Method::POST, path, Scope::Operate).header("prefer", "respond-async").json(&body)).await
    }

    async fn count(&self, statement: &'static str) -> i64 {
        sqlx::query_scalar(statement).fetch_one(&self.pool).await.expect("a count")
    }

    /// Plays the worker: ends an operation in the record.
    async fn end(&self, id: &str, state: &str) {
        sqlx::query("update operations set state = $2, changed = true, finished_at = now(), event_seq = event_seq + 1 where id = $1")
            .bind(id.parse::<Uuid>().expect("an id"))
            .bind(state)
            .execute(&self.pool)
            .await
            .expect("an end");
    }

    /// Plays the relay: gives positions to what has none.
    async fn position(&self) -> i64 {
        sqlx::query(
            "with head as (select position from watermarks where name = 'positioned'),
                  next as (select id, row_number() over (order by id) + (select position from head) as p
                           from events where position is null)
             update events e set position = next.p from next where next.id = e.id",
        )
        .execute(&self.pool)
        .await
        .expect("positions");
        sqlx::query_scalar(
            "update watermarks set position = coalesce((select max(position) from events), position)
             where name = 'positioned' returning position",
        )
        .fetch_one(&self.pool)
        .await
        .expect("a watermark")
    }
}

async fn taken(request: RequestBuilder) -> (StatusCode, Value) {
    read(request.send().await.expect("an answer")).await
}

async fn read(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let text = response.text().await.expect("a body");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn code(answer: &(StatusCode, Value)) -> (u16, &str) {
    (answer.0.as_u16(), answer.1["code"].as_str().unwrap_or("-"))
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why_and_recorded() {
    let site = site().await;
    let nobody = taken(reqwest::Client::new().get(format!("{}/control/peers", site.base))).await;
    assert_eq!(code(&nobody), (401, "unauthenticated"));
    let reader = taken(site.ask(Method::POST, "/control/peers/a:cordon", Scope::Read)).await;
    assert_eq!(code(&reader), (403, "insufficient-scope"));
    assert_eq!(
        site.count("select count(*) from events where nats_subject = 'omni.v1.event.access.ana.denied'").await,
        1
    );
    let absent = site.post("/control/peers/nobody:cordon", json!({})).await;
    assert_eq!(code(&absent), (404, "not-found"));
    assert_eq!(absent.1["instance"], "/control/peers/nobody:cordon");
    assert_eq!(
        site.count("select count(*) from events where nats_subject = 'omni.v1.event.access.ana.refused'").await,
        1
    );
}

#[tokio::test]
async fn requests_that_are_not_understood() {
    let site = site().await;
    let check = async |method: Method, path: &str, expect: (u16, &str)| {
        let answer = taken(site.ask(method.clone(), path, Scope::Operate)).await;
        assert_eq!(code(&answer), expect, "{method} {path}: {}", answer.1);
    };
    check(Method::GET, "/control/nothing", (404, "not-found")).await;
    check(Method::POST, "/control/peers/a:explode", (404, "not-found")).await;
    check(Method::DELETE, "/control/peers/a", (405, "method-not-allowed")).await;
    check(Method::POST, "/control/peers", (405, "method-not-allowed")).await;
    check(Method::POST, "/control/peers/a.b:cordon", (400, "invalid-argument")).await;
    check(Method::POST, "/control/operations/x:cancel", (400, "invalid-argument")).await;
    check(Method::GET, "/control/peers?colour=red", (400, "invalid-argument")).await;
    check(Method::GET, "/control/peers?pageToken=x", (400, "invalid-argument")).await;
    check(Method::GET, "/control/operations?state=odd", (400, "invalid-argument")).await;
    let unknown = site.post("/control/peers/a:cordon", json!({"colour": 1})).await;
    assert_eq!(code(&unknown), (400, "invalid-argument"));
    assert!(unknown.1["detail"].as_str().is_some_and(|detail| detail.contains("colour")), "{}", unknown.1);
    let large = site.post("/control/peers/a:cordon", json!({"reason": "x".repeat(70_000)})).await;
    assert_eq!(code(&large), (413, "payload-too-large"));
    let form = site.ask(Method::POST, "/control/peers/a:cordon", Scope::Operate).body("a=b");
    assert_eq!(code(&taken(form).await), (415, "unsupported-media-type"));
    assert_eq!(site.count("select count(*) from operations").await, 0);
}

/// A request of each verb that would be understood. A new verb does not compile without.
fn request_of(verb: Verb) -> (Method, &'static str, Value) {
    match verb {
        Verb::PeersCordon => (Method::POST, "/control/peers/a:cordon", json!({})),
        Verb::PeersUncordon => (Method::POST, "/control/peers/a:uncordon", json!({})),
        Verb::PeersDrain => (Method::POST, "/control/peers/a:drain", json!({})),
        Verb::PeersPatch => (Method::PATCH, "/control/peers/a", json!({"labels": {"zone": "x"}})),
        Verb::PeersPut => (Method::PUT, "/control/peers/a", json!({"cluster": "c"})),
        Verb::ClustersPromote => (Method::POST, "/control/clusters/c:promote", json!({})),
        Verb::ClustersDemote => (Method::POST, "/control/clusters/c:demote", json!({})),
        Verb::ClustersPut => (Method::PUT, "/control/clusters/c", json!({})),
        Verb::ConfigPatch => (Method::PATCH, "/control/config", json!({"settings": {}})),
        Verb::ConfigRollback => (Method::POST, "/control/config:rollback", json!({"revision": 1})),
    }
}

/// Of each verb, of a bulk drain, and of what is done to operations: method, path, body, whether it may ask for a gate.
fn requests() -> Vec<(Method, String, Value, bool)> {
    let verbs = Verb::ALL.iter().map(|verb| {
        let (method, path, body) = request_of(*verb);
        (method, path.to_owned(), body, true)
    });
    let bulk = (Method::POST, "/control/peers:drain".to_owned(), json!({"selector": "zone=x"}), true);
    let controls = Control::ALL.iter().map(|control| {
        let path = format!("/control/operations/{}:{}", Uuid::from_u128(9), control.action());
        let body =
            if matches!(control, Control::Approve | Control::Reject) { json!({"digest": "d"}) } else { json!({}) };
        (Method::POST, path, body, false)
    });
    verbs.chain([bulk]).chain(controls).collect()
}

#[tokio::test]
async fn every_verb_refuses_alike_what_it_does_not_understand() {
    let site = site().await;
    let mut refused = 0;
    for (method, path, body, gated) in requests() {
        let ask = |path: &str| site.ask(method.clone(), path, Scope::Admin);
        let with = |member: &str, value: Value| {
            let mut body = body.clone();
            body[member] = value;
            ask(&path).json(&body)
        };
        let mut cases = vec![
            (with("colour", json!(1)), 400, "invalid-argument", "colour"),
            (with("reason", json!(7)), 400, "invalid-argument", "string"),
            (with("reason", json!("x".repeat(1_001))), 400, "invalid-argument", "reason"),
            (with("reason", json!("a\u{0}b")), 400, "invalid-argument", "reason"),
            (with("changeTicket", json!("x".repeat(201))), 400, "invalid-argument", "changeTicket"),
            (ask(&path).json(&json!([])), 400, "invalid-argument", "object"),
            (ask(&path).header("content-type", "application/json").body("{"), 400, "invalid-argument", "body"),
            (
                ask(&path).header("content-type", "text/plain").body("{}"),
                415,
                "unsupported-media-type",
                "application/json",
            ),
            (with("reason", json!("x".repeat(70_000))), 413, "payload-too-large", "65536"),
            (ask(&format!("{path}?colour=red")).json(&body), 400, "invalid-argument", "colour"),
            (ask(&format!("{path}?validateOnly=maybe")).json(&body), 400, "invalid-argument", "validateOnly"),
            (ask(&path).json(&body).header("if-match", "seven"), 400, "invalid-argument", "If-Match"),
            (ask(&path).json(&body).header("prefer", "wait=soon"), 400, "invalid-argument", "Prefer"),
            (ask(&path).json(&body).header("idempotency-key", ""), 400, "invalid-argument", "Idempotency-Key"),
            (site.ask(method.clone(), &path, Scope::Read).json(&body), 403, "insufficient-scope", "mesh."),
        ];
        if gated {
            cases.push((with("gate", json!("soon")), 400, "invalid-argument", "gate"));
            cases.push((
                with("gate", json!({"gate": "start", "required": 0})),
                400,
                "invalid-argument",
                "gate.required",
            ));
        }
        if let Some((head, action)) = path.strip_prefix("/control/").and_then(|path| path.split_once('/')) {
            let action = action.split_once(':').map(|(_, action)| format!(":{action}")).unwrap_or_default();
            cases.push((ask(&format!("/control/{head}/a.b{action}")).json(&body), 400, "invalid-argument", "a.b"));
        }
        for (request, status, expect, named) in cases {
            let response = request.send().await.expect("an answer");
            assert_eq!(response.headers()["content-type"], "application/problem+json", "{method} {path} {named}");
            let asked = response.url().path().to_owned();
            let answer = read(response).await;
            assert_eq!(code(&answer), (status, expect), "{method} {path} {named}: {}", answer.1);
            let problem = &answer.1;
            assert_eq!((&problem["status"], &problem["instance"]), (&json!(status), &json!(asked)), "{problem}");
            assert_eq!(problem["type"], format!("urn:omnirelay:problem:{expect}"));
            for member in ["title", "detail"] {
                assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member} of {problem}");
            }
            assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(named)), "{named}: {problem}");
            refused += 1;
        }
        let nobody = reqwest::Client::new().request(method.clone(), format!("{}{path}", site.base)).json(&body);
        assert_eq!(code(&taken(nobody).await), (401, "unauthenticated"), "{method} {path}");
    }
    assert_eq!(site.count("select count(*) from operations").await, 0);
    assert_eq!(site.count("select count(*) from events where resource = 'access'").await, refused, "each is on record");
}

#[tokio::test]
async fn a_put_that_made_something_is_answered_201_with_where_it_is() {
    let site = site().await;
    for (path, result, expect) in [
        ("/control/clusters/new", json!({"created": true}), StatusCode::CREATED),
        ("/control/clusters/c", json!({"created": false}), StatusCode::OK),
    ] {
        let put =
            || site.ask(Method::PUT, path, Scope::Admin).header("idempotency-key", path).json(&json!({"region": "eu"}));
        let accepted = taken(put().header("prefer", "respond-async")).await;
        assert_eq!(accepted.0, StatusCode::ACCEPTED, "{}", accepted.1);
        let id = accepted.1["operation"]["id"].as_str().expect("an id").to_owned();
        sqlx::query("update operations set result = $2 where id = $1")
            .bind(id.parse::<Uuid>().expect("an id"))
            .bind(result.to_string())
            .execute(&site.pool)
            .await
            .expect("a result");
        site.end(&id, "succeeded").await;
        let response = put().send().await.expect("an answer");
        let location = response.headers().get("location").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let made = (expect == StatusCode::CREATED).then(|| path.to_owned());
        assert_eq!((response.status(), location), (expect, made), "{path}");
    }
}

#[tokio::test]
async fn reads_have_tags_pages_and_filters() {
    let site = site().await;
    let ids = |page: &Value| -> Vec<String> {
        let items = page["items"].as_array().cloned().unwrap_or_default();
        items.iter().filter_map(|item| item["id"].as_str().map(str::to_owned)).collect()
    };
    let first = site.get("/control/peers?pageSize=2").await;
    assert_eq!(ids(&first.1), ["a", "b"]);
    let token = first.1["nextPageToken"].as_str().expect("another page").to_owned();
    let second = site.get(&format!("/control/peers?pageSize=2&pageToken={token}")).await;
    assert_eq!((ids(&second.1), &second.1["nextPageToken"]), (vec!["d".to_owned()], &Value::Null));
    assert_eq!(code(&site.get(&format!("/control/peers?state=active&pageToken={token}")).await).0, 400);
    for (query, expect) in [
        ("state=drained", vec!["d"]),
        ("state=active,drained", vec!["a", "b", "d"]),
        ("selector=zone%3Dx", vec!["a"]),
        ("selector=zone!%3Dx", vec!["b", "d"]),
        ("selector=zone", vec!["a", "b"]),
        ("selector=!zone", vec!["d"]),
        ("name=web-b", vec!["b"]),
        ("health=unreachable", vec![]),
        ("cluster=c&orderBy=name%20desc", vec!["d", "b", "a"]),
    ] {
        let page = site.get(&format!("/control/peers?{query}")).await;
        assert_eq!(ids(&page.1), expect, "{query}");
    }
    for path in ["/control/peers/a", "/control/peers", "/control/clusters/c", "/control/clusters", "/control/status"] {
        let response = site.ask(Method::GET, path, Scope::Read).send().await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let etag = response.headers()["etag"].clone();
        let again = site.ask(Method::GET, path, Scope::Read).header("if-none-match", &etag).send().await;
        assert_eq!(again.expect("an answer").status(), StatusCode::NOT_MODIFIED, "{path}");
    }
    assert_eq!(ids(&site.get("/control/peers/a/workloads").await.1), ["w1", "w2"]);
    assert_eq!(code(&site.get("/control/peers/x/workloads").await).0, 404);
    assert_eq!(site.get("/control/peers/a").await.1["workloads"], 2);
    for path in ["/control/versions", "/control/operations", "/control/audit", "/livez", "/readyz", "/metrics"] {
        assert_eq!(site.get(path).await.0, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn a_drain_shows_its_plan_and_wants_it_confirmed() {
    let site = site().await;
    let body = json!({"deadline": "30m", "reason": "kernel"});
    let planned = site.post("/control/peers/a:drain?validateOnly=true", body.clone()).await;
    assert_eq!(planned.0, StatusCode::OK, "{}", planned.1);
    let asked = site.post("/control/peers/a:drain", body.clone()).await;
    assert_eq!(code(&asked), (428, "confirmation-required"));
    let impact = &asked.1["plan"]["impact"];
    assert_eq!(impact["moves"][0]["target"], "b");
    assert_eq!(impact["moves"][1]["target"], Value::Null);
    let mut confirmed = body.clone();
    confirmed["confirmation"] = planned.1["confirmation"]["token"].clone();
    let mut other = confirmed.clone();
    other["reason"] = "another".into();
    assert_eq!(code(&site.post("/control/peers/a:drain", other).await), (428, "confirmation-required"));
    let accepted = site.post("/control/peers/a:drain", confirmed).await;
    assert_eq!(accepted.0, StatusCode::ACCEPTED, "{}", accepted.1);
    let operation = &accepted.1["operation"];
    assert_eq!((&operation["state"], &operation["params"]["deadlineSecs"]), (&json!("submitted"), &json!(1800)));
    assert_eq!(operation["digest"], asked.1["plan"]["digest"]);
    let second = site.post("/control/peers/a:drain", body).await;
    assert_eq!(code(&second), (409, "operation-in-progress"));
    assert_eq!(second.1["operation"], operation["id"]);
    assert_eq!(site.get("/control/peers/a").await.1["operation"], operation["id"]);
    assert_eq!(site.post("/control/peers/d:drain", json!({})).await.0, StatusCode::ACCEPTED, "it is drained already");
    let stale = site.ask(Method::POST, "/control/peers/b:cordon", Scope::Operate).header("if-match", "\"9\"");
    let stale = taken(stale).await;
    assert_eq!((code(&stale), &stale.1["revision"]), ((412, "revision-mismatch"), &json!(1)));
}

#[tokio::test]
async fn the_end_is_heard_over_the_bus_and_found_without_it() {
    let site = site().await;
    for over_the_bus in [true, false] {
        let path = "/control/peers/a:cordon";
        let key = format!("key-{over_the_bus}");
        let request = site
            .ask(Method::POST, path, Scope::Operate)
            .header("prefer", "wait=30")
            .header("idempotency-key", &key)
            .timeout(Duration::from_secs(40));
        let waiting = tokio::spawn(request.send());
        let id: Uuid = until(async || {
            sqlx::query_scalar("select id from operations where idempotency_key = $1 and ingress = 'ingress-1'")
                .bind(&key)
                .fetch_optional(&site.pool)
                .await
                .expect("a read")
        })
        .await;
        if over_the_bus {
            let message = json!([{"operation": {"id": id, "state": "succeeded"}, "changed": true}]).to_string();
            let subject = omnirelay_contract::subject::done("ingress-1");
            let headers = async_nats::HeaderMap::new();
            site.bus.publish(subject, headers, message.into()).await.expect("published");
        } else {
            site.end(&id.to_string(), "succeeded").await;
        }
        let response = waiting.await.expect("no panic").expect("an answer");
        assert_eq!(response.headers()["idempotency-key"], key.as_str());
        let (status, body) = read(response).await;
        assert_eq!((status, &body["changed"]), (StatusCode::OK, &json!(true)), "{body}");
        assert_eq!(body["operation"]["id"], json!(id));
    }
    let replayed =
        site.ask(Method::POST, "/control/peers/a:cordon", Scope::Operate).header("idempotency-key", "key-false");
    let replayed = replayed.send().await.expect("an answer");
    assert_eq!(
        (replayed.status(), replayed.headers()["idempotency-replayed"].to_str().ok()),
        (StatusCode::OK, Some("true"))
    );
}

#[tokio::test]
async fn a_cancel_is_in_the_row_before_it_is_acknowledged() {
    let site = site().await;
    let accepted = site.post("/control/peers/d:drain", json!({})).await;
    let id = accepted.1["operation"]["id"].as_str().expect("an id").to_owned();
    sqlx::query("insert into effects (id, operation, peer, verb, payload, undo, next_at, expires_at)
                 values ('e1', $1, 'd', 'release', '{}', false, now(), now()), ('e2', $1, 'd', 'acquire', '{}', true, now(), now())")
        .bind(id.parse::<Uuid>().expect("an id"))
        .execute(&site.pool)
        .await
        .expect("effects");
    let cancel = format!("/control/operations/{id}:cancel");
    let cancelled = site.post(&cancel, json!({"reason": "wrong rack", "keepMoved": true})).await;
    assert_eq!((cancelled.0, &cancelled.1["changed"]), (StatusCode::ACCEPTED, &json!(true)), "{}", cancelled.1);
    let operation = &cancelled.1["operation"];
    assert_eq!((&operation["state"], &operation["cancel"]["by"]), (&json!("unwinding"), &json!("ana")));
    assert_eq!((&operation["cancel"]["keepMoved"], &operation["revision"]), (&json!(true), &json!(2)));
    let left: Vec<String> = sqlx::query_scalar("select id from effects").fetch_all(&site.pool).await.expect("effects");
    assert_eq!(left, ["e2"]);
    let subjects: Vec<String> =
        sqlx::query_scalar("select nats_subject from events where operation is not null order by id")
            .fetch_all(&site.pool)
            .await
            .expect("events");
    let expected = ["submitted", "unwinding"].map(|what| format!("omni.v1.event.operations.{id}.{what}"));
    assert_eq!(subjects, expected);
    let again = site.post(&cancel, json!({})).await;
    assert_eq!((again.0, &again.1["changed"]), (StatusCode::OK, &json!(false)));
    site.end(&id, "succeeded").await;
    let late = site.post(&cancel, json!({})).await;
    assert_eq!(code(&late), (409, "too-late"));
    assert_eq!(late.1["inverse"]["path"], "/control/peers/d:uncordon");
    let absent = site.post(&format!("/control/operations/{}:cancel", Uuid::nil()), json!({})).await;
    assert_eq!(code(&absent), (404, "not-found"));
}

#[tokio::test]
async fn a_stream_resumes_without_a_gap_and_goes_on_without_nats() {
    let site = site().await;
    for peer in ["a", "b"] {
        site.post(&format!("/control/peers/{peer}:cordon"), json!({})).await;
    }
    assert_eq!(site.position().await, 2);
    let stream = async |query: &str, last: Option<&str>| {
        let mut request = site.ask(Method::GET, &format!("/control/events{query}"), Scope::Observe);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.expect("a stream");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        response
    };
    let mut resumed = stream("?kind=operations", Some("0")).await;
    let mut one = stream("", Some("1")).await;
    assert_eq!(positions(&mut resumed, 2).await, [1, 2]);
    assert_eq!(positions(&mut one, 1).await, [2]);
    // No relay publishes here: what comes now is found by the poll of the record.
    site.post("/control/peers/b:uncordon", json!({})).await;
    site.position().await;
    assert_eq!(positions(&mut resumed, 1).await, [3]);
    assert_eq!(positions(&mut one, 1).await, [3]);
    // And what only the bus has is heard there: position 4 is known to be given, its row is never found.
    sqlx::query("update watermarks set position = 4 where name = 'positioned'")
        .execute(&site.pool)
        .await
        .expect("a mark");
    let event = json!({"type": "omnirelay.operations.started", "subject": "operations/x", "data": {}}).to_string();
    let publishing = async {
        loop {
            // Repeated, because the first may come before the subscription; whoever has it drops it.
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Omni-Position", "4");
            let subject = omnirelay_contract::subject::event("operations", "x", "started");
            site.bus.publish(subject, headers, event.clone().into()).await.expect("published");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        heard = positions(&mut resumed, 1) => assert_eq!(heard, [4]),
        () = publishing => {}
    }
    let reader = taken(site.ask(Method::GET, "/control/events", Scope::Read)).await;
    assert_eq!(code(&reader), (403, "insufficient-scope"));
}

#[tokio::test]
async fn behind_retention_a_stream_tells_of_the_gap_and_shows_how_things_stand() {
    let site = site().await;
    for _ in 0..3 {
        site.post("/control/peers/a:cordon", json!({})).await;
    }
    site.position().await;
    sqlx::query("delete from events where position < 3").execute(&site.pool).await.expect("retention");
    let request = site.ask(Method::GET, "/control/events", Scope::Observe).header("last-event-id", "1");
    let mut stream = request.send().await.expect("a stream");
    let text = frames_until(&mut stream, |text| text.contains("\"complete\":true")).await;
    let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what} is missing in {text}"));
    assert!(at("event: gap") < at("event: snapshot"), "{text}");
    assert!(text.contains("\"kind\":\"peers\"") && text.contains("id: 3\nevent: snapshot"), "{text}");
}

#[tokio::test]
async fn with_the_database_away_it_says_so_and_the_same_key_finds_out() {
    let mut stack = testing::own().await;
    let url = stack.create_database("outage").await.expect("a database");
    let site = site_on(url, stack.nats_url().to_owned()).await;
    let cordon = || {
        site.ask(Method::POST, "/control/peers/a:cordon", Scope::Operate)
            .header("idempotency-key", "k")
            .header("prefer", "respond-async")
    };
    stack.kill_postgres().await.expect("killed");
    let away = cordon().send().await.expect("an answer");
    assert!(away.headers().contains_key("retry-after"));
    assert_eq!(code(&read(away).await), (503, "unavailable"));
    assert_eq!(code(&site.get("/control/peers").await), (503, "unavailable"));
    assert_eq!(site.get("/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    stack.start_postgres().await.expect("started");
    let accepted = cordon().send().await.expect("an answer");
    assert_eq!(accepted.status(), StatusCode::ACCEPTED);
    // Without NATS everything is taken as before.
    stack.kill_nats().await.expect("killed");
    let again = taken(cordon()).await;
    assert_eq!((again.0, site.count("select count(*) from operations").await), (StatusCode::ACCEPTED, 1));
    assert_eq!(site.post("/control/peers/b:cordon", json!({})).await.0, StatusCode::ACCEPTED);
    stack.remove().await.expect("stopped");
}

#[tokio::test]
async fn a_shutdown_ends_the_streams_and_then_the_ingress() {
    let site = site().await;
    let mut stream = site.ask(Method::GET, "/control/events", Scope::Observe).send().await.expect("a stream");
    site.stop.cancel();
    let ended = async { while let Ok(Some(_)) = stream.chunk().await {} };
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("the stream ends");
    site.stopped().await;
}

/// The ids of the next `count` events.
async fn positions(stream: &mut Response, count: usize) -> Vec<u64> {
    let ids =
        |text: &str| -> Vec<u64> { text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect() };
    let text = frames_until(stream, |text| ids(text).len() >= count && text.ends_with("\n\n")).await;
    ids(&text)
}

async fn frames_until(stream: &mut Response, enough: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    let reading = async {
        while !enough(&text) {
            let chunk = stream.chunk().await.expect("readable").expect("not the end");
            text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reading).await.unwrap_or_else(|_| panic!("too few frames"));
    text
}

/// Asks until there is an answer.
async fn until<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), asking).await.expect("it comes true")
}
