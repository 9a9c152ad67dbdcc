//! `--record FILE`: every HTTP exchange as one JSON line, for a bug report or a replay. The token is never in it.

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

const REDACTED: &str = "REDACTED";
/// Headers whose values are nobody's business.
const SECRET: &[&str] = &["authorization", "proxy-authorization", "cookie", "set-cookie"];

/// One request and its answer.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Exchange {
    pub at: Timestamp,
    pub method: String,
    /// With the query.
    pub path: String,
    pub request_headers: Map<String, Value>,
    pub request_body: Option<Value>,
    pub status: u16,
    pub response_headers: Map<String, Value>,
    /// JSON, or text where it is not JSON; null for an event stream.
    pub response_body: Value,
    pub latency_ms: u64,
}

impl Exchange {
    pub fn new(
        request: &Request,
        authorized: bool,
        status: u16,
        headers: &HeaderMap,
        body: &Value,
        latency: Duration,
    ) -> Self {
        let mut request_headers: Map<String, Value> =
            request.headers.iter().map(|(name, value)| header(name, value)).collect();
        if authorized {
            request_headers.insert("authorization".to_owned(), REDACTED.into());
        }
        let response_headers = headers
            .iter()
            .map(|(name, value)| header(name.as_str(), &String::from_utf8_lossy(value.as_bytes())))
            .collect();
        Self {
            at: Timestamp::now(),
            method: request.method.to_string(),
            path: with_query(request),
            request_headers,
            request_body: request.body.clone(),
            status,
            response_headers,
            response_body: body.clone(),
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

    /// One line in one write, so that two commands that share a file do not mix theirs.
    pub fn append(&self, exchange: &Exchange) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(exchange)?;
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.write_all(&line)
    }
}

fn header(name: &str, value: &str) -> (String, Value) {
    let name = name.to_ascii_lowercase();
    let value = if SECRET.contains(&name.as_str()) { REDACTED } else { value };
    (name, value.into())
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

    #[test]
    fn an_exchange_is_one_private_line_without_the_token() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("exchanges.jsonl");
        std::fs::write(&path, "").expect("an older file");
        let recorder = Recorder::open(&path).expect("opened");
        let request = Request::post("/control/peers/web-07:drain", "key-1", json!({"reason": "a\nb"}))
            .query("validateOnly", true)
            .header("authorization", "Bearer eyJ.secret");
        let mut headers = HeaderMap::new();
        headers.insert("set-cookie", "session=secret".parse().expect("value"));
        headers.insert("etag", "\"7\"".parse().expect("value"));
        for _ in 0..2 {
            let exchange =
                Exchange::new(&request, true, 428, &headers, &json!({"code": "x"}), Duration::from_millis(12));
            recorder.append(&exchange).expect("appended");
        }
        let text = std::fs::read_to_string(&path).expect("read");
        assert!(!text.contains("secret"), "{text}");
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("json")).collect();
        assert_eq!(lines.len(), 2);
        let line = &lines[0];
        assert_eq!(line["method"], "POST");
        assert_eq!(line["path"], "/control/peers/web-07:drain?validateOnly=true");
        assert_eq!(line["requestHeaders"], json!({"idempotency-key": "key-1", "authorization": "REDACTED"}));
        assert_eq!(line["requestBody"], json!({"reason": "a\nb"}));
        assert_eq!((&line["status"], &line["latencyMs"]), (&json!(428), &json!(12)));
        assert_eq!(line["responseHeaders"], json!({"etag": "\"7\"", "set-cookie": "REDACTED"}));
        assert_eq!(line["responseBody"], json!({"code": "x"}));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(std::fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
        }
    }
}
