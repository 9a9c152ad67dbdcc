//! Somebody who types amid the crowd: the command line has to cope with everybody else, and its exit codes have to tell. What it
//! said and was told is read from its recording, and written into the same books.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use omnirelay_tests::{Answer, Cli, Output};
use rand::Rng as _;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use crate::crowd::{HOT, hot_peer, peer_of};
use crate::person::Person;
use crate::size::Size;

pub async fn typist(me: Arc<Person>, folder: PathBuf, size: Size) {
    let mut rng = me.rng();
    let cli = Cli::new(&folder, me.api.base(), me.api.token());
    let recording = folder.join(format!("{}.jsonl", me.subject)).display().to_string();
    let types = async |args: &[&str]| -> Output {
        let mut all = args.to_vec();
        all.extend(["--record", &recording, "-o", "json"]);
        cli.run(&all).await
    };
    let label = format!("typed-by-{}", me.subject);
    for n in 0..size.changes.min(6) {
        let peer = hot_peer(&size, rng.random_range(0..HOT));
        let told = types(&["mesh", "peers", "label", &peer, &format!("{label}={n}"), "--reason", "labels"]).await;
        // Others change other labels meanwhile. The command copes with that by itself, up to a point.
        match told.code {
            0 => me.books.open().labels.insert((peer, label.clone()), n.to_string()),
            3 if told.stderr.contains("revision") => None,
            other => panic!("{other}: {} {}", told.stdout, told.stderr),
        };

        let cluster = rng.random_range(size.waves.min(size.clusters - 1) + 1..=size.clusters);
        let peer = peer_of(cluster, rng.random_range(1..=size.peers));
        let started = types(&["drain", &peer, "--yes", "--detach", "--reason", "maintenance"]).await;
        match started.code {
            10 => {
                let operation = started.json()["operation"]["id"].as_str().expect("an id").to_owned();
                let followed = cli.run(&["ops", "attach", &operation]).await;
                followed.expect(0);
                assert!(followed.stderr.contains("SUCCEEDED"), "{}", followed.stderr);
            }
            // It was drained already, or somebody else drains it.
            0 | 3 => {}
            other => panic!("{other}: {} {}", started.stdout, started.stderr),
        }
    }
    let text = std::fs::read_to_string(&recording).expect("a recording");
    for line in text.lines() {
        let exchange: Value = serde_json::from_str(line).expect("JSON lines");
        written_down(&me, &exchange);
    }
}

fn written_down(me: &Person, exchange: &Value) {
    let (request, response) = (&exchange["request"], &exchange["response"]);
    let path = request["path"].as_str().unwrap_or_default();
    let verb = match request["method"].as_str() {
        Some("PATCH") => "peers.patch",
        Some("POST") if path.ends_with(":drain") => "peers.drain",
        Some("GET") | None => return,
        Some(other) => panic!("nobody typed a {other}: {exchange}"),
    };
    let mut headers = HeaderMap::new();
    for (name, value) in response["headers"].as_object().into_iter().flatten() {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        headers.insert(name, HeaderValue::from_str(value.as_str().unwrap_or_default()).expect("a value"));
    }
    let status = response["status"].as_u64().expect("a status") as u16;
    let key = request["headers"]["idempotency-key"].as_str().expect("a key").to_owned();
    let answer = Answer { status, headers, body: response["body"].clone() };
    let took = Duration::from_millis(exchange["latencyMs"].as_u64().unwrap_or_default());
    me.books.answered(&me.subject, verb, &key, &answer, took);
}
