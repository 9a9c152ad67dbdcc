//! Configuration of `omnirelay serve`: a TOML file, overridden by the environment. `deploy/omnirelay.example.toml` is the
//! documented example, and a test reads it.
//!
//! Unknown keys are errors: a misspelt limit that is silently ignored is found at the worst moment.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use omnirelay_contract::rest::Humantime;
use omnirelay_workflow::drain::OnDeadline;
use serde::Deserialize;

use crate::auth::AuthConfig;
use crate::telemetry::LogFormat;

/// What is wrong with the configuration, and where.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}: {source}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path}: {message}")]
    File { path: PathBuf, message: String },
    #[error("the environment variable {name} is not usable: {message}")]
    Environment { name: &'static str, message: String },
    #[error("{0}")]
    Values(String),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServeConfig {
    /// Where the ingress listens.
    #[serde(default = "default_http")]
    pub http: SocketAddr,
    /// Holds a password: never log it.
    pub database_url: String,
    pub nats_url: String,
    /// A `.creds` file.
    #[serde(default)]
    pub nats_credentials: Option<PathBuf>,
    pub auth: AuthConfig,
    #[serde(default)]
    pub audit: AuditConfig,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub drain: DrainDefaults,
    #[serde(default)]
    pub heartbeat: Heartbeat,
    #[serde(default)]
    pub streams: Streams,
    #[serde(default)]
    pub log: Log,
    #[serde(default)]
    pub telemetry: Telemetry,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// Where the JSONL log files go. Without it there are none, and checkpoints are on the bus only.
    pub log_dir: Option<PathBuf>,
    /// An Ed25519 private key (PKCS#8 PEM) that signs the checkpoints.
    pub signing_key_file: Option<PathBuf>,
    /// A log file is rotated beyond this size, MiB.
    pub rotate_mib: Option<u64>,
}

/// What one ingress takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests a second of one actor. One burst may be as large.
    pub rate_per_actor: u32,
    /// Operations that wait for the worker before new ones are refused with `backlog-full`.
    pub max_backlog: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { rate_per_actor: 20_000, max_backlog: 100_000 }
    }
}

/// What a drain is given where its request says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrainDefaults {
    pub deadline: Option<Humantime>,
    pub on_deadline: OnDeadline,
    /// Moves in flight at once.
    pub max_concurrent: u32,
}

impl Default for DrainDefaults {
    fn default() -> Self {
        Self { deadline: None, on_deadline: OnDeadline::Hold, max_concurrent: 4 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Heartbeat {
    /// Silence after which a peer is unreachable.
    pub timeout: Humantime,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { timeout: Humantime(Duration::from_secs(10)) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Streams {
    /// Copies of each JetStream stream: 1 for one server, 3 for a cluster.
    pub replicas: u8,
}

impl Default for Streams {
    fn default() -> Self {
        Self { replicas: 1 }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    pub format: LogFormat,
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Json, filter: "info".to_owned() }
    }
}

/// Where traces go, and where metrics are read. Logs go to stderr.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// A collector that speaks OTLP over HTTP (protobuf), `http://127.0.0.1:4318`. Without it no span is made.
    pub otlp_endpoint: Option<String>,
    /// Of the traces that begin here, the part that is exported, 0 to 1. A caller's trace is exported when its caller samples it.
    pub trace_ratio: f64,
    /// Where a process without an ingress serves `/metrics` and `/livez`; the ingress has them itself.
    pub metrics: Option<SocketAddr>,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { otlp_endpoint: None, trace_ratio: 1.0, metrics: None }
    }
}

impl Telemetry {
    /// What the environment says, for programs without a file.
    pub fn from_environment() -> Self {
        Self { otlp_endpoint: std::env::var(OTLP_ENDPOINT).ok(), ..Self::default() }
    }
}

/// The variable of OpenTelemetry's specification.
const OTLP_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Variables that override a key of the file. The CLI has variables of its own (`OMNIRELAY_URL`, `OMNIRELAY_TOKEN`), so
/// only these are read.
const OVERRIDES: &[(&str, &[&str])] = &[
    ("OMNIRELAY_HTTP", &["http"]),
    ("OMNIRELAY_DATABASE_URL", &["database_url"]),
    ("OMNIRELAY_NATS_URL", &["nats_url"]),
    ("OMNIRELAY_NATS_CREDENTIALS", &["nats_credentials"]),
    ("OMNIRELAY_AUTH_ISSUER", &["auth", "issuer"]),
    ("OMNIRELAY_AUTH_AUDIENCE", &["auth", "audience"]),
    ("OMNIRELAY_AUDIT_LOG_DIR", &["audit", "log_dir"]),
    ("OMNIRELAY_AUDIT_SIGNING_KEY_FILE", &["audit", "signing_key_file"]),
    ("OMNIRELAY_LIMITS_RATE_PER_ACTOR", &["limits", "rate_per_actor"]),
    ("OMNIRELAY_LIMITS_MAX_BACKLOG", &["limits", "max_backlog"]),
    ("OMNIRELAY_DRAIN_DEADLINE", &["drain", "deadline"]),
    ("OMNIRELAY_DRAIN_ON_DEADLINE", &["drain", "on_deadline"]),
    ("OMNIRELAY_DRAIN_MAX_CONCURRENT", &["drain", "max_concurrent"]),
    ("OMNIRELAY_HEARTBEAT_TIMEOUT", &["heartbeat", "timeout"]),
    ("OMNIRELAY_STREAMS_REPLICAS", &["streams", "replicas"]),
    ("OMNIRELAY_LOG_FORMAT", &["log", "format"]),
    ("OMNIRELAY_LOG_FILTER", &["log", "filter"]),
    (OTLP_ENDPOINT, &["telemetry", "otlp_endpoint"]),
    ("OMNIRELAY_TELEMETRY_TRACE_RATIO", &["telemetry", "trace_ratio"]),
    ("OMNIRELAY_TELEMETRY_METRICS", &["telemetry", "metrics"]),
];

/// Keys whose value is a number.
const NUMBERS: &[&str] = &["rate_per_actor", "max_backlog", "max_concurrent", "replicas"];

impl ServeConfig {
    /// What `[drain]` and `[heartbeat]` say, as the settings that a new mesh begins with. Afterwards `PATCH /control/config` is
    /// where they are changed: every replica has to go by the same.
    pub fn first_settings(&self) -> serde_json::Value {
        let mut drain = serde_json::json!({
            "onDeadline": self.drain.on_deadline,
            "maxConcurrent": self.drain.max_concurrent,
        });
        if let Some(deadline) = self.drain.deadline {
            drain["deadline"] = serde_json::json!(deadline);
        }
        serde_json::json!({ "drain": drain, "heartbeat": { "timeout": self.heartbeat.timeout } })
    }

    /// Reads the file, if there is one, and the process's environment.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let text = match file {
            Some(path) => {
                std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?
            }
            None => String::new(),
        };
        Self::parse(&text, file.unwrap_or(Path::new("the configuration")), |name| std::env::var(name).ok())
    }

    /// `environment` looks a variable up.
    pub fn parse(text: &str, origin: &Path, environment: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let in_file = |message: String| ConfigError::File { path: origin.to_owned(), message };
        let mut root: toml::Table = toml::from_str(text).map_err(|error| in_file(error.to_string()))?;
        let mut overridden = false;
        for (name, path) in OVERRIDES {
            if let Some(value) = environment(name) {
                set(&mut root, path, value).map_err(|message| ConfigError::Environment { name, message })?;
                overridden = true;
            }
        }
        // Parsed from the text where possible: its errors show the line.
        let parsed = if overridden { root.try_into() } else { toml::from_str(text) };
        let config: Self = parsed.map_err(|error| in_file(error.to_string()))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |message: &str| Err(ConfigError::Values(message.to_owned()));
        if self.limits.rate_per_actor == 0 {
            return wrong("limits.rate_per_actor must be at least 1");
        }
        if self.drain.max_concurrent == 0 {
            return wrong("drain.max_concurrent must be at least 1");
        }
        if !matches!(self.streams.replicas, 1 | 3 | 5) {
            return wrong("streams.replicas must be 1, 3 or 5");
        }
        if !(0.0..=1.0).contains(&self.telemetry.trace_ratio) {
            return wrong("telemetry.trace_ratio must be from 0 to 1");
        }
        if self.heartbeat.timeout.0 < Duration::from_secs(1) {
            return wrong("heartbeat.timeout must be at least 1s");
        }
        Ok(())
    }
}

fn set(root: &mut toml::Table, path: &[&str], value: String) -> Result<(), String> {
    let Some((key, parents)) = path.split_last() else { return Ok(()) };
    let mut table = root;
    for parent in parents {
        let entry = table.entry(*parent).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        table = entry.as_table_mut().ok_or_else(|| format!("{parent} is not a table"))?;
    }
    let value = if *key == "trace_ratio" {
        toml::Value::Float(value.parse::<f64>().map_err(|_| "it must be a number".to_owned())?)
    } else if NUMBERS.contains(key) {
        toml::Value::Integer(value.parse::<i64>().map_err(|_| "it must be a whole number".to_owned())?)
    } else {
        toml::Value::String(value)
    };
    table.insert((*key).to_owned(), value);
    Ok(())
}

fn default_http() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8600))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../../deploy/omnirelay.example.toml");

    fn parse(text: &str, environment: &[(&str, &str)]) -> Result<ServeConfig, ConfigError> {
        ServeConfig::parse(text, Path::new("test.toml"), |name| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_example_is_what_it_documents() {
        let config = parse(EXAMPLE, &[]).expect("the example");
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.drain, DrainDefaults::default());
        assert_eq!(config.heartbeat, Heartbeat::default());
        assert_eq!(config.telemetry, Telemetry::default());
        assert_eq!(config.auth.keys.len(), 1);
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let environment = [
            ("OMNIRELAY_LIMITS_MAX_BACKLOG", "7"),
            ("OMNIRELAY_DRAIN_DEADLINE", "30m"),
            (OTLP_ENDPOINT, "http://otel:4318"),
        ];
        let config = parse(EXAMPLE, &environment).expect("usable");
        assert_eq!(config.limits.max_backlog, 7);
        assert_eq!(config.drain.deadline, Some(Humantime(Duration::from_secs(1800))));
        assert_eq!(config.telemetry.otlp_endpoint.as_deref(), Some("http://otel:4318"));
    }

    #[test]
    fn errors_name_the_key() {
        let check = |text: &str, environment: &[(&str, &str)], expect: &str| {
            let error = parse(text, environment).expect_err(expect).to_string();
            assert!(error.contains(expect), "{error:?} should name {expect}");
        };
        check("", &[], "database_url");
        check(&format!("{EXAMPLE}\n[limit]\n"), &[], "limit");
        check(&EXAMPLE.replace("max_backlog", "max_backlogs"), &[], "max_backlogs");
        check(EXAMPLE, &[("OMNIRELAY_STREAMS_REPLICAS", "many")], "OMNIRELAY_STREAMS_REPLICAS");
        check(EXAMPLE, &[("OMNIRELAY_STREAMS_REPLICAS", "2")], "streams.replicas");
        check(EXAMPLE, &[("OMNIRELAY_HEARTBEAT_TIMEOUT", "soon")], "timeout");
        check(EXAMPLE, &[("OMNIRELAY_TELEMETRY_TRACE_RATIO", "half")], "OMNIRELAY_TELEMETRY_TRACE_RATIO");
        check(EXAMPLE, &[("OMNIRELAY_TELEMETRY_TRACE_RATIO", "1.5")], "telemetry.trace_ratio");
    }
}
