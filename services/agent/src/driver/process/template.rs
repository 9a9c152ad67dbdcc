//! How the children of one service are started, checked, drained and stopped.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use omnirelay_workflow::{PeerId, WorkloadId};
use rustix::process::Signal;
use serde::{Deserialize, Deserializer};

use crate::config::duration;
use crate::driver::probe::Check;

/// How many ports from `port_base` on are tried.
const PORTS: u16 = 1000;

/// `[peer.process.<service>]` of the agent's file. `{workload}`, `{service}`, `{peer}` and `{port}` are replaced in texts.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// Program and arguments; no shell.
    pub command: Vec<String>,
    /// A URL, `tcp` for a connection to the port, or a command. Without it, a running process is a ready one.
    #[serde(default)]
    pub ready: Option<String>,
    /// The first port to try; without it the system chooses.
    #[serde(default)]
    pub port_base: Option<u16>,
    #[serde(default = "StopSignal::term")]
    pub stop_signal: StopSignal,
    /// Between the signal and SIGKILL.
    #[serde(default = "ten_seconds", deserialize_with = "duration")]
    pub stop_grace: Duration,
    /// Between leaving the endpoints and the signal: time for proxies to notice.
    #[serde(default, deserialize_with = "duration")]
    pub stop_delay: Duration,
    /// Says what remains before it may be stopped.
    #[serde(default)]
    pub drain_url: Option<String>,
    /// POSTed to with every role of the peer's cluster, `{role}` replaced: 2xx when it is carried out, 503 while it is not yet.
    #[serde(default)]
    pub role_url: Option<String>,
}

impl Template {
    pub fn argv(&self, id: &WorkloadId, service: &str, peer: &PeerId, port: u16) -> Vec<String> {
        self.command.iter().map(|word| fill(word, id, service, peer, port)).collect()
    }

    pub fn check(&self, id: &WorkloadId, service: &str, peer: &PeerId, port: u16) -> Result<Option<Check>, String> {
        match self.ready.as_deref() {
            None => Ok(None),
            Some("tcp") => Ok(Some(Check::Tcp(format!("127.0.0.1:{port}")))),
            Some(text) => {
                Check::parse(&fill(text, id, service, peer, port)).map(Some).map_err(|e| format!("ready check: {e}"))
            }
        }
    }

    pub fn drain_url(&self, id: &WorkloadId, service: &str, peer: &PeerId, port: u16) -> Option<String> {
        self.drain_url.as_deref().map(|url| fill(url, id, service, peer, port))
    }

    pub fn role_url(&self, id: &WorkloadId, service: &str, peer: &PeerId, port: u16) -> Option<String> {
        self.role_url.as_deref().map(|url| fill(url, id, service, peer, port))
    }
}

fn fill(text: &str, id: &WorkloadId, service: &str, peer: &PeerId, port: u16) -> String {
    text.replace("{workload}", id.as_str())
        .replace("{service}", service)
        .replace("{peer}", peer.as_str())
        .replace("{port}", &port.to_string())
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

/// A signal by its name: `TERM`, `INT`, `QUIT`, `HUP`, `USR1`, `USR2` or `KILL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopSignal(pub Signal);

impl StopSignal {
    fn term() -> Self {
        Self(Signal::TERM)
    }
}

impl<'de> Deserialize<'de> for StopSignal {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        let signal = match name.strip_prefix("SIG").unwrap_or(&name) {
            "TERM" => Signal::TERM,
            "INT" => Signal::INT,
            "QUIT" => Signal::QUIT,
            "HUP" => Signal::HUP,
            "USR1" => Signal::USR1,
            "USR2" => Signal::USR2,
            "KILL" => Signal::KILL,
            _ => {
                let known = "TERM, INT, QUIT, HUP, USR1, USR2 or KILL";
                return Err(serde::de::Error::custom(format!("stop_signal {name:?} is none of {known}")));
            }
        };
        Ok(Self(signal))
    }
}

/// The ports that children of this process have. A child takes a while to listen on its port; until then only this knows.
#[derive(Debug, Default)]
pub struct Ports(Mutex<BTreeSet<u16>>);

impl Ports {
    pub fn assign(&self, base: Option<u16>) -> Result<u16, String> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match base {
            Some(base) => (base..base.saturating_add(PORTS)).find(|port| !taken.contains(port) && is_free(*port)),
            None => (0..100).find_map(|_| any_free().filter(|port| !taken.contains(port))),
        };
        let port = found.ok_or_else(|| match base {
            Some(base) => format!("no port is free from {base} to {}", base.saturating_add(PORTS - 1)),
            None => "no port is free".to_owned(),
        })?;
        taken.insert(port);
        Ok(port)
    }

    pub fn claim(&self, port: u16) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(port);
    }

    pub fn give_back(&self, port: u16) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&port);
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

fn any_free() -> Option<u16> {
    TcpListener::bind(("127.0.0.1", 0)).ok()?.local_addr().ok().map(|address| address.port())
}
