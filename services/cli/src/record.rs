//! `--record FILE`: what a command said and was told, as JSON lines, for a bug report, a replay, or a test of what goes over
//! the wire. The token is never in it.
//!
//! A line is either an exchange, `{at, request{method, path, headers, body}, response{status, headers, body}, latencyMs}`,
//! or something that was asked of a person, `{at, prompts: [{text, answer}]}`; `answer` is null where nobody answered.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::HeaderMap;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::client::Request;
use crate::context::private;

/// Headers whose values are nobody's business: they are left out.
const SECRET: &[&str] = &["authorization", "proxy-authorization", "cookie", "set-cookie"];
/// Members of bodies that work like a password while they last.
const TOKENS: &[&str] = &["token", "confirmation"];
const REDACTED: &str = "REDACTED";

/// One line of the file.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Line {
    Exchange(Box<Exchange>),
    Prompted { at: Timestamp, prompts: Vec<Prompt> },
}

/// One request and its answer.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Exchange {
    pub at: Timestamp,
    pub request: Sent,
    pub response: Got,
    pub latency_ms: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Sent {
    pub method: String,
    /// With the query.
    pub path: String,
    pub headers: Map<String, Value>,
    pub body: Option<Value>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Got {
    pub status: u16,
    pub headers: Map<String, Value>,
    /// JSON, or text where it is not JSON; null for an event stream.
    pub body: Value,
}

/// A question and what was typed.
#[derive(Debug, Clone, Serialize)]
pub struct Prompt {
    pub text: String,
    pub answer: Option<String>,
}

impl Exchange {
    pub fn new(request: &Request, status: u16, headers: &HeaderMap, body: &Value, latency: Duration) -> Self {
        let sent = request.headers.iter().filter_map(|(name, value)| header(name, value)).collect();
        let got = headers
            .iter()
            .filter_map(|(name, value)| header(name.as_str(), &String::from_utf8_lossy(value.as_bytes())))
            .collect();
        Self {
            at: Timestamp::now(),
            request: Sent {
                method: request.method.to_string(),
                path: with_query(request),
                headers: sent,
                body: request.body.clone().map(redacted),
            },
            response: Got { status, headers: got, body: redacted(body.clone()) },
            latency_ms: u64::try_from(latency.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// The file, open for appending, readable by its owner only.
#[derive(Debug)]
pub struct Recorder {
    name: String,
    file: Mutex<File>,
}

impl Recorder {
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = private(path, OpenOptions::new().create(true).append(true))?;
        // An older file keeps its mode when it is opened again; what is recorded now is private all the same.
        #[cfg(unix)]
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(Self { name: path.display().to_string(), file: Mutex::new(file) })
    }

    pub fn file(&self) -> &str {
        &self.name
    }

    pub fn exchange(&self, exchange: Exchange) -> std::io::Result<()> {
        self.append(&Line::Exchange(Box::new(exchange)))
    }

    pub fn prompt(&self, text: &str, answer: Option<&str>) -> std::io::Result<()> {
        let prompt = Prompt { text: text.trim().to_owned(), answer: answer.map(str::to_owned) };
        self.append(&Line::Prompted { at: Timestamp::now(), prompts: vec![prompt] })
    }

    /// One line in one write, so that two commands that share a file do not mix theirs.
    fn append(&self, line: &Line) -> std::io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.write_all(&bytes)
    }
}

fn header(name: &str, value: &str) -> Option<(String, Value)> {
    let name = name.to_ascii_lowercase();
    (!SECRET.contains(&name.as_str())).then(|| (name, value.into()))
}

/// A confirmation token is bound to its actor and lasts five minutes; a recording that is shared at once should still not
/// hand it on. That it was there is kept.
fn redacted(mut body: Value) -> Value {
    match &mut body {
        Value::Object(members) => {
            for (name, value) in members.iter_mut() {
                let old = value.take();
                let secret = TOKENS.contains(&name.as_str()) && old.is_string();
                *value = if secret { REDACTED.into() } else { redacted(old) };
            }
        }
        Value::Array(items) => {
            for item in items {
                *item = redacted(item.take());
            }
        }
        _ => {}
    }
    body
}

fn with_query(request: &Request) -> String {
    let Ok(mut url) = reqwest::Url::parse("http://record.invalid") else { return request.path.clone() };
    url.set_path(&request.path);
    if !request.query.is_empty() {
        url.query_pairs_mut().extend_pairs(&request.query);
    }
    match url.query() {
        Some(query) => format!("{}?{query}", request.path),
        None => request.path.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn recorder(folder: &tempfile::TempDir) -> (Recorder, std::path::PathBuf) {
        let path = folder.path().join("exchanges.jsonl");
        std::fs::write(&path, "").expect("an older file");
        (Recorder::open(&path).expect("opened"), path)
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(path).expect("read");
        text.lines().map(|line| serde_json::from_str(line).expect("json")).collect()
    }

    #[test]
    fn an_exchange_is_one_private_line_without_any_token() {
        let folder = tempfile::tempdir().expect("folder");
        let (recorder, path) = recorder(&folder);
        let body = json!({"reason": "a\nb", "confirmation": "secret-1"});
        let request = Request::post("/control/peers/web-07:drain", "key-1", body)
            .query("validateOnly", true)
            .header("authorization", "Bearer eyJ.secret");
        let mut headers = HeaderMap::new();
        headers.insert("set-cookie", "session=secret".parse().expect("value"));
        headers.insert("etag", "\"7\"".parse().expect("value"));
        let answer = json!({"code": "x", "plan": {"confirmation": {"token": "secret-2", "expiresAt": "later"}}});
        for _ in 0..2 {
            let exchange = Exchange::new(&request, 428, &headers, &answer, Duration::from_millis(12));
            recorder.exchange(exchange).expect("appended");
        }
        let text = std::fs::read_to_string(&path).expect("read");
        assert!(!text.contains("secret") && !text.contains("authorization"), "{text}");
        let lines = lines(&path);
        assert_eq!(lines.len(), 2);
        let mut line = lines[0].clone();
        line["at"].take();
        assert_eq!(
            line,
            json!({"at": null, "latencyMs": 12,
                "request": {"method": "POST", "path": "/control/peers/web-07:drain?validateOnly=true",
                    "headers": {"idempotency-key": "key-1"},
                    "body": {"reason": "a\nb", "confirmation": "REDACTED"}},
                "response": {"status": 428, "headers": {"etag": "\"7\""},
                    "body": {"code": "x", "plan": {"confirmation": {"token": "REDACTED", "expiresAt": "later"}}}}})
        );
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(std::fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_prompt_is_a_line_with_what_was_typed() {
        let folder = tempfile::tempdir().expect("folder");
        let (recorder, path) = recorder(&folder);
        recorder.prompt("Type web-07: ", Some("web-07")).expect("appended");
        recorder.prompt("Approve? ", None).expect("appended");
        let prompts: Vec<Value> = lines(&path).into_iter().map(|line| line["prompts"].clone()).collect();
        assert_eq!(
            prompts,
            [json!([{"text": "Type web-07:", "answer": "web-07"}]), json!([{"text": "Approve?", "answer": null}])]
        );
    }
}
