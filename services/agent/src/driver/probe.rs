//! Ready checks and drain counters: an HTTP GET, a TCP connection, or a program.

use std::sync::Once;
use std::time::Duration;

use tokio::net::TcpStream;

use super::exec::{environment, run};
use super::{Call, words};

/// The longest that a check may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// A number's body beyond this is not one.
const MAX_BODY: usize = 64 << 10;

/// How readiness is found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// GET answers 2xx.
    Http(String),
    /// A connection to `host:port` is accepted.
    Tcp(String),
    /// The program ends with 0; the last line of its stderr says why not.
    Program(Vec<String>),
}

impl Check {
    /// `http://…` and `https://…` are fetched, `tcp://host:port` is connected to, anything else is a command.
    pub fn parse(text: &str) -> Result<Self, words::WordsError> {
        if text.starts_with("http://") || text.starts_with("https://") {
            Ok(Check::Http(text.to_owned()))
        } else if let Some(address) = text.strip_prefix("tcp://") {
            Ok(Check::Tcp(address.to_owned()))
        } else {
            words::split(text).map(Check::Program)
        }
    }

    /// Passes, or says why not.
    pub async fn run(&self, http: &Http, call: &Call) -> Result<(), String> {
        match self {
            Check::Http(url) => {
                let status = http.get(url).await?.status();
                if status.is_success() { Ok(()) } else { Err(format!("ready check {}", status.as_u16())) }
            }
            Check::Tcp(address) => match tokio::time::timeout(PROBE_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(format!("ready check {address}: {error}")),
                Err(_) => Err(format!("ready check {address}: no answer")),
            },
            Check::Program(argv) => {
                let ran = run(program(argv, call)?, PROBE_TIMEOUT).await?;
                match (ran.status.success(), ran.message.is_empty()) {
                    (true, _) => Ok(()),
                    (false, true) => Err(format!("ready check ended with {}", ran.status)),
                    (false, false) => Err(ran.message),
                }
            }
        }
    }
}

/// A program of the configuration, told about the call by its environment.
pub fn program(argv: &[String], call: &Call) -> Result<tokio::process::Command, String> {
    let (name, args) = argv.split_first().ok_or("the command is empty")?;
    let mut command = tokio::process::Command::new(name);
    command.args(args).envs(environment(call));
    Ok(command)
}

/// The binary's main does this first; a library user of the drivers may not have. A second time is refused, harmlessly.
pub fn tls_provider() {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// What somebody said to what it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    Done,
    /// 503: not yet.
    Busy(String),
    Failed(String),
}

/// The client of all checks.
#[derive(Debug, Clone)]
pub struct Http(reqwest::Client);

impl Http {
    pub fn new() -> Result<Self, reqwest::Error> {
        tls_provider();
        reqwest::Client::builder()
            .timeout(PROBE_TIMEOUT)
            .no_proxy()
            .pool_max_idle_per_host(1)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map(Self)
    }

    async fn get(&self, url: &str) -> Result<reqwest::Response, String> {
        self.0.get(url).send().await.map_err(|error| {
            let what = if error.is_timeout() {
                "no answer"
            } else if error.is_connect() {
                "connection refused"
            } else {
                "no HTTP answer"
            };
            format!("{what} from {url}")
        })
    }

    /// POSTs nothing but the URL itself.
    pub async fn tell(&self, url: &str) -> Result<Told, String> {
        let answer = self.0.post(url).send().await.map_err(|error| {
            let what = if error.is_connect() { "connection refused" } else { "no HTTP answer" };
            format!("{what} from {url}")
        })?;
        let status = answer.status();
        let said = |text: String| format!("{} {}", status.as_u16(), text.lines().next().unwrap_or_default());
        Ok(match status.as_u16() {
            200..=299 => Told::Done,
            503 => Told::Busy(said(answer.text().await.unwrap_or_default())),
            _ => Told::Failed(said(answer.text().await.unwrap_or_default())),
        })
    }

    /// What remains, by a drain counter.
    pub async fn remaining(&self, url: &str) -> Result<u64, String> {
        self.number(url, "remaining").await
    }

    /// A number, or a JSON object with the number under that name.
    pub async fn number(&self, url: &str, name: &str) -> Result<u64, String> {
        let mut answer = self.get(url).await?;
        if !answer.status().is_success() {
            return Err(format!("{} from {url}", answer.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|_| format!("no HTTP answer from {url}"))? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_BODY {
                return Err(format!("{url} answers more than {MAX_BODY} bytes"));
            }
        }
        parse_number(&body, name).ok_or_else(|| format!("{url} answers neither a number nor {{\"{name}\": number}}"))
    }
}

/// A number, or the number under that name in a JSON object.
pub fn parse_number(body: &[u8], name: &str) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    value.as_u64().or_else(|| value.get(name)?.as_u64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_counter_is_a_number_or_says_remaining() {
        for (body, expected) in [
            ("17", Some(17)),
            (" 0\n", Some(0)),
            (r#"{"remaining": 3, "since": "x"}"#, Some(3)),
            ("-1", None),
            ("none", None),
            (r#"{"left": 3}"#, None),
        ] {
            assert_eq!(parse_number(body.as_bytes(), "remaining"), expected, "{body}");
        }
    }

    #[test]
    fn a_check_is_told_by_its_form() {
        assert_eq!(Check::parse("http://a/ready"), Ok(Check::Http("http://a/ready".to_owned())));
        assert_eq!(Check::parse("tcp://127.0.0.1:80"), Ok(Check::Tcp("127.0.0.1:80".to_owned())));
        assert_eq!(Check::parse("test -e /x"), Ok(Check::Program(vec!["test".into(), "-e".into(), "/x".into()])));
    }
}
