//! What the demo plays on: real servers, the control plane as processes of its own, an agent, and the workloads that it runs.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use omnirelay_devstack::{Devstack, Options};
use omnirelay_runtime::auth::Scope;
use omnirelay_store::{PgPool, registry};
use tempfile::TempDir;

use super::api::Api;
use super::cli::Operator;
use super::process::{Env, Process};
use super::report::Screen;
use super::server::violations;
use crate::control::pool;
use crate::dev::{free_address, serve_config};
use crate::identity::{Identity, write_private};

pub const CLUSTER: &str = "fra1";
pub const PEERS: [&str; 3] = ["web-1", "web-2", "web-3"];
/// Takes over in the failover. Until then its ledger serves nobody.
pub const STANDBY: &str = "ams1";
pub const STANDBY_PEERS: [&str; 2] = ["ams-1", "ams-2"];
pub const CLUSTERS: [(&str, &[&str]); 2] = [(CLUSTER, &PEERS), (STANDBY, &STANDBY_PEERS)];
/// Whose approval the policy gives.
pub const BOT: &str = "policy-bot";
/// What runs where at the beginning: cluster, peer, and workloads as `id:service`.
const WORKLOADS: [(&str, &str, &[&str]); 5] = [
    (
        CLUSTER,
        "web-1",
        &[
            "checkout-1:checkout",
            "checkout-2:checkout",
            "checkout-3:checkout",
            "checkout-4:checkout",
            "ledger-1:ledger",
        ],
    ),
    (CLUSTER, "web-2", &["checkout-5:checkout", "checkout-6:checkout", "checkout-7:checkout", "checkout-8:checkout"]),
    (
        CLUSTER,
        "web-3",
        &["checkout-9:checkout", "checkout-10:checkout", "checkout-11:checkout", "checkout-12:checkout"],
    ),
    (STANDBY, "ams-1", &["checkout-13:checkout", "checkout-14:checkout", "ledger-2:ledger"]),
    (STANDBY, "ams-2", &["checkout-15:checkout", "checkout-16:checkout"]),
];
/// Of the cluster that serves at the beginning, and of the other.
pub const WORKLOAD_COUNT: u32 = 13;
pub const STANDBY_COUNT: u32 = 5;

/// What the approval bot decides by.
const POLICY: &str = r#"[[approve]]
verbs = ["clusters.promote"]
clusters = ["ams1", "fra1"]
require_ticket = "^CHG-[0-9]+$"
comment = "no freeze, ticket open"
"#;

/// How long a start may take, step by step.
const READY: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

pub struct Stage {
    pub url: String,
    pub identity: Identity,
    /// For what only the database's owner can do: editing the audit.
    pub pool: PgPool,
    stack: Devstack,
    /// Deleted at the end.
    temporary: bool,
    /// In the order of their start.
    processes: Vec<Process>,
}

impl Stage {
    /// Starts the servers. Without a `state_dir` everything is in a temporary folder.
    pub async fn open(state_dir: Option<&Path>) -> anyhow::Result<Self> {
        // Gone with a start that fails or is given up.
        let folder = match state_dir {
            Some(dir) => {
                if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
                    bail!("{} is not empty: the demo begins with nothing", dir.display());
                }
                None
            }
            None => Some(temporary_folder()?),
        };
        let dir = state_dir.or(folder.as_ref().map(TempDir::path)).context("there is no folder")?.to_owned();
        let stack = Devstack::start(Options::new(dir)).await?;
        let identity = Identity::open(stack.state_dir())?;
        let pool = pool(stack.database_url(), 2, false, "omnirelay-demo").await?;
        omnirelay_store::migrate(&pool).await?;
        registry::seed_cluster(&pool, CLUSTER, true).await?;
        registry::seed_cluster(&pool, STANDBY, false).await?;
        let http = free_address(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let dir = stack.state_dir();
        write_private(&dir.join("serve.toml"), &serve_config(http, &stack, &identity, dir))?;
        write_private(&dir.join("agent.toml"), &agent_config(dir, stack.nats_url())?)?;
        let temporary = folder.map(TempDir::keep).is_some();
        Ok(Self { url: format!("http://{http}"), identity, pool, stack, temporary, processes: Vec::new() })
    }

    /// Starts the control plane and the agent, and waits until the registry knows every workload as ready.
    pub async fn start(&mut self, api: &Api) -> anyhow::Result<()> {
        for role in ["ingress", "worker", "audit"] {
            self.start_process(role, &["serve", role], "serve.toml")?;
        }
        self.start_process("agent", &["agent"], "agent.toml")?;
        until("the API is ready", READY, async || Ok(api.is_ready().await.then_some(()))).await?;
        until("every workload is in the registry and ready", READY, async || {
            Ok(all_are_ready(api).await?.then_some(()))
        })
        .await
    }

    pub fn dir(&self) -> &Path {
        self.stack.state_dir()
    }

    pub fn nats_url(&self) -> &str {
        self.stack.nats_url()
    }

    pub fn api(&self, subject: &str, scope: Scope) -> anyhow::Result<Api> {
        Api::new(&self.url, self.identity.token(subject, scope)?)
    }

    pub fn operator(&self, subject: &'static str, scope: Scope, screen: &Arc<Screen>) -> anyhow::Result<Operator> {
        Ok(Operator {
            subject,
            url: self.url.clone(),
            nats: self.stack.nats_url().to_owned(),
            token: self.identity.token(subject, scope)?,
            config: self.dir().join("no-cli-config.toml"),
            guardian: self.stack.guardian(),
            screen: screen.clone(),
        })
    }

    /// Starts the approval bot, with a token that may approve and nothing else. Returns its process id.
    pub fn start_bot(&mut self) -> anyhow::Result<u32> {
        let policy = self.dir().join("bot.toml");
        write_private(&policy, POLICY)?;
        let env = vec![
            ("OMNIRELAY_URL", self.url.clone()),
            ("OMNIRELAY_NATS_URL", self.nats_url().to_owned()),
            ("OMNIRELAY_TOKEN", self.identity.token(BOT, Scope::Approve)?),
        ];
        let bot = self.spawn_with("approval-bot", vec!["demo-bot".into(), "--policy".into(), policy.into()], env)?;
        let pid = bot.pid();
        self.processes.push(bot);
        Ok(pid)
    }

    pub fn process(&mut self, name: &str) -> anyhow::Result<&mut Process> {
        self.processes.iter_mut().find(|process| process.name == name).with_context(|| format!("no process {name}"))
    }

    /// Starts again what has ended, as a supervisor would.
    pub fn restart(&mut self, name: &str) -> anyhow::Result<u32> {
        let process = self.processes.iter_mut().find(|process| process.name == name);
        let process = process.with_context(|| format!("no process {name}"))?;
        process.restart(&self.stack.guardian())?;
        Ok(process.pid())
    }

    /// Starts again whatever has ended, servers included; returns it with its new process id.
    pub async fn revive(&mut self) -> anyhow::Result<Vec<(&'static str, u32)>> {
        let before = self.pids();
        // Both do nothing where the server runs.
        self.stack.start_nats().await?;
        self.stack.start_postgres().await?;
        for name in self.ended() {
            self.restart(name)?;
        }
        let known = |now: &(&str, u32)| before.iter().any(|was| was == now);
        Ok(self.pids().into_iter().filter(|now| !known(now)).collect())
    }

    /// Names of the processes that have ended.
    fn ended(&mut self) -> Vec<&'static str> {
        self.processes.iter_mut().filter_map(|process| process.ended().map(|_| process.name)).collect()
    }

    /// Everything that runs, with its process id.
    pub fn pids(&self) -> Vec<(&'static str, u32)> {
        let servers = [("nats-server", self.stack.nats_pid()), ("PostgreSQL", self.stack.postgres_pid())];
        let servers = servers.into_iter().filter_map(|(name, pid)| Some((name, pid?)));
        servers.chain(self.processes.iter().map(|process| (process.name, process.pid()))).collect()
    }

    /// The last lines of those who have ended, or else of everybody.
    pub fn last_words(&mut self) -> Vec<(&'static str, String)> {
        let ended = self.ended();
        let concerned = |name: &str| ended.is_empty() || ended.contains(&name);
        self.processes.iter().filter(|p| concerned(p.name)).map(|p| (p.name, p.log_tail(8))).collect()
    }

    /// Whether two `ledger`s ever ran at once.
    pub fn ledger_was_doubled(&self) -> bool {
        violations(&ledger_lock(self.dir())).exists()
    }

    /// Ends everything: the agent with its workloads first, the servers last. With `keep_logs` the folder stays.
    pub async fn close(mut self, keep_logs: bool) -> anyhow::Result<Option<PathBuf>> {
        let mut result = Ok(());
        while let Some(mut process) = self.processes.pop() {
            result = result.and(process.stop().await);
        }
        self.pool.close().await;
        if self.temporary && !keep_logs {
            self.stack.remove().await?;
            return result.map(|()| None);
        }
        let dir = self.stack.state_dir().to_owned();
        self.stack.stop().await?;
        result.map(|()| Some(dir))
    }

    /// Starts a process of this binary, which logs beside the servers.
    pub fn spawn(&self, name: &'static str, args: Vec<OsString>) -> anyhow::Result<Process> {
        self.spawn_with(name, args, Env::new())
    }

    fn spawn_with(&self, name: &'static str, args: Vec<OsString>, env: Env) -> anyhow::Result<Process> {
        let log = self.dir().join("log").join(format!("{name}.log"));
        Process::start(&self.stack.guardian(), name, log, args, env)
    }

    fn start_process(&mut self, name: &'static str, command: &[&str], config: &str) -> anyhow::Result<()> {
        let mut args: Vec<OsString> = command.iter().map(OsString::from).collect();
        args.extend(["--config".into(), self.dir().join(config).into()]);
        self.processes.push(self.spawn(name, args)?);
        Ok(())
    }
}

/// Whether the registry has all workloads, all ready and none on its way.
pub async fn all_are_ready(api: &Api) -> anyhow::Result<bool> {
    use omnirelay_contract::rest::{Page, Workload};
    use omnirelay_workflow::resource::WorkloadState;
    let mut ready = 0;
    for peer in CLUSTERS.iter().flat_map(|(_, peers)| *peers) {
        // A peer that has not been heard of yet is not there yet.
        let Ok(page) = api.get::<Page<Workload>>(&format!("/control/peers/{peer}/workloads")).await else {
            return Ok(false);
        };
        let settled = |w: &&Workload| w.ready && w.state == WorkloadState::Running && w.unit.is_some();
        ready += page.items.iter().filter(settled).count() as u32;
    }
    Ok(ready == WORKLOAD_COUNT + STANDBY_COUNT)
}

/// Waits for `check` to give something; an error of it, or the end of the time, ends the wait.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut check: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = check().await.with_context(|| format!("while waiting: {what}"))? {
            return Ok(found);
        }
        if began.elapsed() >= limit {
            bail!("waited {} s in vain: {what}", limit.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Where we are root, PostgreSQL's user must be able to pass through.
fn temporary_folder() -> std::io::Result<TempDir> {
    let permissions = std::fs::Permissions::from_mode(0o711);
    tempfile::Builder::new().prefix("omnirelay-demo-").permissions(permissions).tempdir()
}

fn ledger_lock(dir: &Path) -> PathBuf {
    dir.join("ledger.lock")
}

/// Five peers in two clusters, for whom one agent speaks. Their workloads are child processes of it.
fn agent_config(dir: &Path, nats: &str) -> anyhow::Result<String> {
    use toml::{Table, Value};
    let exe = std::env::current_exe()?;
    let words = |words: &[&str]| words.iter().map(|word| Value::from(*word)).collect::<Vec<_>>();
    let template = |extra: &[&str], stop_delay: &str| {
        let server = ["demo-server", "--name", "{workload}", "--port", "{port}"];
        let mut command = vec![Value::from(exe.display().to_string())];
        command.extend(words(&server));
        command.extend(words(extra));
        Table::from_iter([
            ("command".to_owned(), Value::from(command)),
            ("ready".to_owned(), Value::from("http://127.0.0.1:{port}/ready")),
            ("drain_url".to_owned(), Value::from("http://127.0.0.1:{port}/drain-remaining")),
            ("stop_delay".to_owned(), Value::from(stop_delay)),
        ])
    };
    let lock = ledger_lock(dir).display().to_string();
    let process = |standby: bool| {
        let exclusive = ["--exclusive", &lock, "--standby"];
        // Nobody else can serve meanwhile: the sooner it ends, the sooner the next one starts.
        let mut ledger = template(if standby { &exclusive } else { &exclusive[..2] }, "0s");
        // One of a fenced cluster has let go before its agent says that it is fenced.
        ledger.insert("role_url".to_owned(), Value::from("http://127.0.0.1:{port}/role/{role}"));
        // Long enough for the proxy to read the registry, so that it has left before the process ends.
        let checkout = template(&[], "750ms");
        Table::from_iter(
            [("checkout", checkout), ("ledger", ledger)].map(|(name, t)| (name.to_owned(), Value::from(t))),
        )
    };
    let services = [("checkout", "start-first"), ("ledger", "stop-first")].map(|(name, handover)| {
        let members = [("name", name), ("handover", handover)];
        Value::from(Table::from_iter(members.map(|(key, value)| (key.to_owned(), Value::from(value)))))
    });
    let peers = WORKLOADS.map(|(cluster, peer, start)| {
        Value::from(Table::from_iter([
            ("id".to_owned(), Value::from(peer)),
            ("cluster".to_owned(), Value::from(cluster)),
            ("role".to_owned(), Value::from("web")),
            ("driver".to_owned(), Value::from("process")),
            ("start".to_owned(), Value::from(words(start))),
            ("process".to_owned(), Value::from(process(cluster == STANDBY))),
            ("service".to_owned(), Value::from(services.to_vec())),
        ]))
    });
    let config = Table::from_iter([
        ("nats".to_owned(), Value::from(nats)),
        ("state_dir".to_owned(), Value::from(dir.join("agent").display().to_string())),
        // The registry learns of a new process by heartbeats: here they are as frequent as the demo is short.
        ("heartbeat".to_owned(), Value::from("250ms")),
        ("peer".to_owned(), Value::from(peers.to_vec())),
    ]);
    Ok(toml::to_string(&config)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use omnirelay_agent::config::AgentConfig;

    #[test]
    fn the_agent_takes_its_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.toml");
        std::fs::write(&path, agent_config(folder.path(), "nats://127.0.0.1:4222").unwrap()).unwrap();
        let config = AgentConfig::load(&path).unwrap();
        let started: usize = config.peers.iter().map(|peer| peer.started().unwrap().len()).sum();
        assert_eq!(started as u32, WORKLOAD_COUNT + STANDBY_COUNT);
        assert_eq!(config.peers.len(), PEERS.len() + STANDBY_PEERS.len());
    }

    #[test]
    fn the_bot_takes_its_policy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bot.toml");
        std::fs::write(&path, POLICY).unwrap();
        omnirelay_approval_bot::policy::Policy::load(&path).unwrap();
    }
}
