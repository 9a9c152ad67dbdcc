//! The description of the API against a real ingress: every route that it names is there, what it does not name is not,
//! and what is answered fits its schema.

mod common;

use common::{Site, site};
use omnirelay_runtime::auth::Scope;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

const METHODS: &[&str] = &["get", "put", "post", "patch", "delete"];

fn committed() -> Value {
    serde_json::from_str(include_str!("../../../docs/openapi.json")).expect("JSON")
}

async fn ask(site: &Site, method: &str, path: &str, query: &str) -> (StatusCode, Value) {
    let method: Method = method.to_ascii_uppercase().parse().expect("a method");
    let mut request = Client::new()
        .request(method.clone(), format!("{}{path}{query}", site.base))
        .bearer_auth(site.token("ana", Scope::Admin))
        .header("prefer", "respond-async");
    if method != Method::GET {
        request = request.header("content-type", "application/json").body("{}");
    }
    let response = request.send().await.expect("an answer");
    let status = response.status();
    if response.headers().get("content-type").is_some_and(|media_type| media_type == "text/event-stream") {
        return (status, Value::Null);
    }
    let text = response.text().await.expect("a body");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// The path of something that is not there.
fn filled(path: &str) -> String {
    let id = if path.contains("/operations/") { "01970c2e-7d10-7000-8000-000000000007" } else { "nobody" };
    path.replace("{id}", id).replace("{seq}", "7")
}

#[tokio::test]
async fn it_is_served_to_everybody_with_a_tag() {
    let site = site().await;
    let address = format!("{}/openapi.json", site.base);
    let served = Client::new().get(&address).send().await.expect("an answer");
    assert_eq!(served.status(), StatusCode::OK);
    let etag = served.headers()["etag"].clone();
    let document: Value = serde_json::from_str(&served.text().await.expect("a body")).expect("JSON");
    assert_eq!(document, committed());
    let again = Client::new().get(&address).header("if-none-match", etag).send().await.expect("an answer");
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    site.stopped().await;
}

#[tokio::test]
async fn the_router_has_these_routes_and_no_other_methods() {
    let site = site().await;
    let document = committed();
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.len() > 25, "{}", paths.len());
    for (path, operations) in paths {
        for method in METHODS {
            let listed = operations.get(*method).is_some();
            // The segment of an action is one of a resource too: a GET of it reads an id that is none.
            if !listed && path.contains("}:") && *method != "delete" {
                continue;
            }
            let query = if *method == "get" || !listed { "" } else { "?validateOnly=true" };
            let (status, body) = ask(&site, method, &filled(path), query).await;
            let at = format!("{method} {path}: {status} {body}");
            if listed {
                assert_ne!(status, StatusCode::METHOD_NOT_ALLOWED, "{at}");
                assert!(!body["detail"].as_str().is_some_and(|detail| detail.contains("no such route")), "{at}");
                let known = operations[*method]["responses"].get(status.as_str()).is_some();
                assert!(known, "an answer that is not described: {at}");
            } else {
                assert_eq!((status.as_u16(), body["code"].as_str()), (405, Some("method-not-allowed")), "{at}");
            }
        }
    }
    let made: i64 = sqlx::query_scalar("select count(*) from operations").fetch_one(&site.pool).await.expect("a count");
    assert_eq!(made, 0, "nothing was changed by asking");
}

#[tokio::test]
async fn what_is_answered_fits_its_schema() {
    let site = site().await;
    let document = committed();
    let check = |operation: &Value, status: StatusCode, answer: &Value, at: &str| {
        let mut response = &operation["responses"][status.as_str()];
        if let Some(reference) = response["$ref"].as_str() {
            response = document.pointer(reference.trim_start_matches('#')).expect("a response");
        }
        let (_, media) = response["content"].as_object().and_then(|all| all.iter().next()).expect("a content");
        let mut schema = media["schema"].clone();
        schema["components"] = document["components"].clone();
        let validator = jsonschema::validator_for(&schema).expect("a schema");
        let wrong: Vec<String> = validator.iter_errors(answer).map(|error| error.to_string()).collect();
        assert!(wrong.is_empty(), "{at}: {status} {answer}: {wrong:?}");
    };
    let made = async |path: &str, body: Value| {
        let request = Client::new().post(format!("{}{path}", site.base)).bearer_auth(site.token("ana", Scope::Admin));
        let response = request
            .header("prefer", "respond-async")
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
            .await
            .expect("an answer");
        let status = response.status();
        let body: Value = serde_json::from_str(&response.text().await.expect("a body")).expect("JSON");
        (status, body)
    };
    // Something to read: an operation, its hold-to-be, a refusal with a plan, a plan.
    let cordon = &document["paths"]["/control/peers/{id}:cordon"]["post"];
    let drain = &document["paths"]["/control/peers/{id}:drain"]["post"];
    let (status, accepted) = made("/control/peers/b:cordon", json!({"reason": "disk"})).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{accepted}");
    check(cordon, status, &accepted, "a cordon");
    let (status, refused) = made("/control/peers/a:drain", json!({})).await;
    assert_eq!(status, StatusCode::PRECONDITION_REQUIRED, "{refused}");
    check(drain, status, &refused, "a drain");
    let (status, plan) = made("/control/peers/a:drain?validateOnly=true", json!({})).await;
    assert_eq!(status, StatusCode::OK, "{plan}");
    check(drain, status, &plan, "a plan");

    let operation = accepted["operation"]["id"].as_str().expect("an id");
    let mut read = 0;
    for (path, operations) in document["paths"].as_object().expect("paths") {
        if !path.starts_with("/control/") || operations.get("get").is_none() || path.ends_with("/events") {
            continue;
        }
        let id = match path.split('/').nth(2) {
            Some("peers") => "a",
            Some("clusters") => "c",
            _ => operation,
        };
        let (status, answer) = ask(&site, "get", &path.replace("{id}", id).replace("{seq}", "1"), "").await;
        check(&operations["get"], status, &answer, path);
        read += usize::from(status == StatusCode::OK);
    }
    assert!(read >= 14, "{read}");
}
