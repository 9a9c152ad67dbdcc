//! `agent.toml`: for whom the agent speaks, and what it may run. Errors name the key.
//!
//! ```toml
//! nats = "nats://127.0.0.1:4222"
//! credentials = "/etc/omnirelay/agent.creds"   # optional
//! state_dir = "/var/lib/omnirelay-agent"
//! heartbeat = "2s"
//!
//! [[peer]]
//! id = "web-07"
//! cluster = "fra1"
//! driver = "systemd"                           # an executable's path, or: process, systemd, haproxy, kubernetes
//! driver_env = { OMNIRELAY_SYSTEMD_SERVICES = "checkout" }
//!
//! [[peer.service]]
//! name = "checkout"
//! handover = "start-first"
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use omnirelay_contract::agent::PeerDescription;
use omnirelay_workflow::resource::Handover;
use omnirelay_workflow::{ClusterId, PeerId, WorkloadId};
use serde::{Deserialize, Deserializer};

use crate::driver::haproxy::HaproxyConfig;
use crate::driver::kubernetes::KubernetesConfig;
use crate::driver::process::Template;
use crate::driver::words;
use crate::observe::ServiceProfile;

const BUILT_IN: &str = "process, systemd, haproxy, kubernetes";

/// Why a configuration is not one.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("{path}: {source}")]
    Parse { path: String, source: Box<toml::de::Error> },
    #[error("{key}: {reason}")]
    Invalid { key: String, reason: String },
}

/// The agent's configuration file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// `nats://host:port`, several separated by commas.
    pub nats: String,
    /// A NATS credentials file (JWT and seed).
    #[serde(default)]
    pub credentials: Option<PathBuf>,
    /// Journals and what drivers remember. One folder a peer in it.
    pub state_dir: PathBuf,
    #[serde(default = "two_seconds", deserialize_with = "duration")]
    pub heartbeat: Duration,
    /// How many driver calls run at once, over all peers.
    #[serde(default = "sixty_four")]
    pub concurrency: usize,
    #[serde(rename = "peer", default)]
    pub peers: Vec<PeerConfig>,
}

/// `[[peer]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    pub id: PeerId,
    /// Free text for people; the id when left out.
    #[serde(default)]
    pub name: Option<String>,
    pub cluster: ClusterId,
    #[serde(default)]
    pub role: String,
    #[serde(default)]
    pub address: String,
    /// Load units; 0 is unlimited.
    #[serde(default)]
    pub capacity: u32,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The path of an executable, `process`, `systemd`, `haproxy` or `kubernetes`. `driver` or `commands`, not both.
    #[serde(default)]
    pub driver: Option<String>,
    /// Before the verb.
    #[serde(default)]
    pub driver_args: Vec<String>,
    #[serde(default)]
    pub driver_env: BTreeMap<String, String>,
    #[serde(default = "thirty_seconds", deserialize_with = "duration")]
    pub driver_timeout: Duration,
    /// How far the peer's replica is behind, in milliseconds: `http(s)://…` or a command. Asked at every heartbeat.
    #[serde(default)]
    pub lag: Option<String>,
    #[serde(default)]
    pub commands: Option<CommandsConfig>,
    /// Of the driver `process`: templates by service.
    #[serde(default)]
    pub process: BTreeMap<String, Template>,
    #[serde(default)]
    pub haproxy: Option<HaproxyConfig>,
    #[serde(default)]
    pub kubernetes: Option<KubernetesConfig>,
    /// Of `process` and `commands`: what runs here at the first start, as `workload` or `workload:service`.
    #[serde(default)]
    pub start: Vec<String>,
    #[serde(rename = "service", default)]
    pub services: Vec<ServiceConfig>,
}

/// `[peer.commands]`: the simple case, for which no driver needs to be written. No shell is involved.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandsConfig {
    pub acquire: String,
    pub release: String,
    /// Told to with every change of the cluster's role, in OMNIRELAY_ROLE.
    #[serde(default)]
    pub role: Option<String>,
    /// `http(s)://…`, `tcp://host:port` or a command; `{workload}` and `{service}` are replaced.
    #[serde(default)]
    pub ready: Option<String>,
}

/// `[[peer.service]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    pub name: String,
    /// The driver's usual one when left out.
    #[serde(default)]
    pub handover: Option<Handover>,
    #[serde(default = "one")]
    pub load: u32,
    #[serde(default)]
    pub restorable: Option<bool>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl AgentConfig {
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: name.clone(), source })?;
        let config: Self =
            toml::from_str(&text).map_err(|source| ConfigError::Parse { path: name, source: Box::new(source) })?;
        config.check()?;
        Ok(config)
    }

    /// What the types alone do not say.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.nats.trim().is_empty() {
            return Err(invalid("nats", "an address is needed, for instance nats://127.0.0.1:4222"));
        }
        if self.heartbeat < Duration::from_millis(50) {
            return Err(invalid("heartbeat", "at least 50ms"));
        }
        if self.concurrency == 0 {
            return Err(invalid("concurrency", "at least 1"));
        }
        if self.peers.is_empty() {
            return Err(invalid("peer", "at least one [[peer]] is needed"));
        }
        let mut seen = BTreeSet::new();
        for (n, peer) in self.peers.iter().enumerate() {
            let key = |key: &str| format!("peer[{n}].{key}");
            if !seen.insert(&peer.id) {
                return Err(invalid(key("id"), format!("{} is there twice", peer.id)));
            }
            peer.check(&key)?;
        }
        Ok(())
    }
}

impl PeerConfig {
    pub fn description(&self) -> PeerDescription {
        PeerDescription {
            cluster: self.cluster.clone(),
            name: self.name.clone().unwrap_or_else(|| self.id.to_string()),
            role: self.role.clone(),
            address: self.address.clone(),
            capacity: self.capacity,
            labels: self.labels.clone(),
        }
    }

    pub fn profiles(&self) -> BTreeMap<String, ServiceProfile> {
        let usual = self.profile();
        let profile = |s: &ServiceConfig| ServiceProfile {
            handover: s.handover.unwrap_or(usual.handover),
            load: s.load,
            restorable: s.restorable.unwrap_or(usual.restorable),
            labels: s.labels.clone(),
        };
        self.services.iter().map(|s| (s.name.clone(), profile(s))).collect()
    }

    /// What is so of a service that is not named here: members of a load balancer only empty, and so do nodes of Kubernetes,
    /// whose pods nobody can put back.
    pub fn profile(&self) -> ServiceProfile {
        let (handover, restorable) = match self.driver.as_deref() {
            Some("haproxy") => (Handover::ReleaseOnly, true),
            Some("kubernetes") => (Handover::ReleaseOnly, false),
            _ => (Handover::StartFirst, true),
        };
        ServiceProfile { handover, restorable, ..ServiceProfile::default() }
    }

    /// `start`, parsed.
    pub fn started(&self) -> Result<Vec<(WorkloadId, String)>, ConfigError> {
        let parse =
            |(n, text): (usize, &String)| parse_workload(text).map_err(|reason| invalid(format!("start[{n}]"), reason));
        self.start.iter().enumerate().map(parse).collect()
    }

    fn check(&self, key: &impl Fn(&str) -> String) -> Result<(), ConfigError> {
        let started = self.started().map_err(|error| match error {
            ConfigError::Invalid { key: inner, reason } => invalid(key(&inner), reason),
            other => other,
        })?;
        match (self.driver.as_deref(), &self.commands) {
            (None, None) => return Err(invalid(key("driver"), "a driver or [peer.commands] is needed")),
            (Some(_), Some(_)) => {
                return Err(invalid(key("commands"), "either a driver or commands, not both"));
            }
            (None, Some(commands)) => commands.check(key)?,
            (Some("process"), None) => {
                if self.process.is_empty() {
                    return Err(invalid(key("process"), "the driver process needs a [peer.process.<service>]"));
                }
                for (n, (id, service)) in started.iter().enumerate() {
                    if !self.process.contains_key(service) {
                        let reason = format!("{id} is of service {service:?}, which has no [peer.process.{service}]");
                        return Err(invalid(key(&format!("start[{n}]")), reason));
                    }
                }
                for (service, template) in &self.process {
                    if template.command.is_empty() {
                        return Err(invalid(key(&format!("process.{service}.command")), "a program is needed"));
                    }
                }
            }
            (Some("haproxy"), None) => {
                let config = self.haproxy.as_ref().ok_or_else(|| {
                    invalid(key("haproxy"), "the driver haproxy needs a [peer.haproxy] with sockets and servers")
                })?;
                config.check().map_err(|(inner, reason)| invalid(key(&format!("haproxy.{inner}")), reason))?;
            }
            (Some("kubernetes"), None) => {
                let config = self.kubernetes.clone().unwrap_or_default();
                config.check().map_err(|(inner, reason)| invalid(key(&format!("kubernetes.{inner}")), reason))?;
            }
            (Some("systemd"), None) => {}
            (Some(path), None) => {
                if !Path::new(path).is_absolute() {
                    let reason = format!("{path:?} is neither {BUILT_IN} nor an absolute path");
                    return Err(invalid(key("driver"), reason));
                }
            }
        }
        for (driver, is_there) in [
            ("process", !self.process.is_empty()),
            ("haproxy", self.haproxy.is_some()),
            ("kubernetes", self.kubernetes.is_some()),
        ] {
            if is_there && self.driver.as_deref() != Some(driver) {
                return Err(invalid(key(driver), format!("only for driver = {driver:?}")));
            }
        }
        if let Some(text) = &self.lag {
            words::split(text).map_err(|error| invalid(key("lag"), error.to_string()))?;
        }
        self.check_services(key)?;
        if self.commands.is_none() && self.driver.as_deref() != Some("process") && !self.start.is_empty() {
            return Err(invalid(key("start"), "only for driver = \"process\" and for commands"));
        }
        Ok(())
    }

    /// What only empties has no target that could take over, and pods do not come back.
    fn check_services(&self, key: &impl Fn(&str) -> String) -> Result<(), ConfigError> {
        let Some(driver @ ("haproxy" | "kubernetes")) = self.driver.as_deref() else { return Ok(()) };
        for (n, service) in self.services.iter().enumerate() {
            if service.handover.is_some_and(|handover| handover != Handover::ReleaseOnly) {
                let reason = format!("the driver {driver} knows only release-only");
                return Err(invalid(key(&format!("service[{n}].handover")), reason));
            }
            if driver == "kubernetes" && service.restorable == Some(true) {
                let reason = "pods are placed by Kubernetes, nothing of them can be restored";
                return Err(invalid(key(&format!("service[{n}].restorable")), reason));
            }
        }
        Ok(())
    }
}

impl CommandsConfig {
    fn check(&self, key: &impl Fn(&str) -> String) -> Result<(), ConfigError> {
        let role = self.role.as_ref().map(|text| ("commands.role", text));
        let both = [("commands.acquire", &self.acquire), ("commands.release", &self.release)];
        for (name, text) in both.into_iter().chain(role) {
            words::split(text).map_err(|error| invalid(key(name), error.to_string()))?;
        }
        Ok(())
    }
}

/// `workload` or `workload:service`; the workload is its own service when none is named.
pub fn parse_workload(text: &str) -> Result<(WorkloadId, String), String> {
    let (id, service) = text.split_once(':').unwrap_or((text, text));
    let id = WorkloadId::parse(id).map_err(|error| error.to_string())?;
    if service.is_empty() {
        return Err(format!("{text:?} names no service behind the colon"));
    }
    Ok((id, service.to_owned()))
}

/// A duration as people write it: `2s`, `300ms`, `1m 30s`.
pub fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    humantime::parse_duration(&text).map_err(|error| serde::de::Error::custom(format!("{text:?}: {error}")))
}

fn invalid(key: impl Into<String>, reason: impl Into<String>) -> ConfigError {
    ConfigError::Invalid { key: key.into(), reason: reason.into() }
}

fn two_seconds() -> Duration {
    Duration::from_secs(2)
}

fn thirty_seconds() -> Duration {
    Duration::from_secs(30)
}

fn sixty_four() -> usize {
    64
}

fn one() -> u32 {
    1
}

#[cfg(test)]
mod tests;
