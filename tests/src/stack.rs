//! `omnirelay dev` as a real process.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::{Connection as _, PgConnection};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::api::Api;
use crate::binary::binary;
use crate::cli::Cli;
use crate::mesh::Mesh;
use crate::process::{Process, reaper};
use crate::wait::eventually;

/// Two servers and the product each: more at once only makes all of them slow.
static ROOM: Semaphore = Semaphore::const_new(2);
const START: Duration = Duration::from_secs(90);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Services {
    All,
    /// Only nats-server, PostgreSQL and the peers; the services are started by the test.
    None,
}

#[derive(Debug, Clone)]
pub struct StackOptions {
    pub clusters: usize,
    /// In each cluster.
    pub peers: usize,
    /// On each peer.
    pub workloads: usize,
    pub handover: &'static str,
    pub services: Services,
    /// Of `dev`, beside this process's own.
    pub env: Vec<(String, String)>,
}

impl Default for StackOptions {
    fn default() -> Self {
        Self { clusters: 1, peers: 3, workloads: 4, handover: "5ms..20ms", services: Services::All, env: Vec::new() }
    }
}

/// Whose token a request carries. The subjects differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Read,
    Operate,
    Approve,
    Admin,
}

impl Role {
    pub const ALL: [Role; 4] = [Role::Read, Role::Operate, Role::Approve, Role::Admin];

    /// The key of its token in the env file.
    pub const fn key(self) -> &'static str {
        match self {
            Role::Read => "OMNIRELAY_TOKEN_READ",
            Role::Operate => "OMNIRELAY_TOKEN_OPERATE",
            Role::Approve => "OMNIRELAY_TOKEN_APPROVE",
            Role::Admin => "OMNIRELAY_TOKEN_ADMIN",
        }
    }
}

/// A running stack. Dropping it stops the process and removes its folder.
pub struct Stack {
    pub env: BTreeMap<String, String>,
    pub options: StackOptions,
    folder: PathBuf,
    dev: Option<Process>,
    clusters_taken: AtomicUsize,
    _room: SemaphorePermit<'static>,
}

impl Stack {
    pub async fn start(options: StackOptions) -> Self {
        let room = ROOM.acquire().await.expect("never closed");
        // As root, PostgreSQL runs as another user, who must be able to pass through.
        let folder = tempfile::Builder::new()
            .prefix("omnirelay-feature-")
            .permissions(Permissions::from_mode(0o711))
            .tempdir()
            .expect("a temporary folder")
            .keep();
        reaper(&format!("d {}", folder.display()));
        let mut stack =
            Self { env: BTreeMap::new(), options, folder, dev: None, clusters_taken: AtomicUsize::new(0), _room: room };
        stack.start_again().await;
        stack
    }

    /// Starts `dev` on the same state directory and waits until it is ready.
    pub async fn start_again(&mut self) {
        let env_file = self.folder.join("env");
        let _ = std::fs::remove_file(&env_file);
        let mut dev = Process::start("dev", self.command(&env_file), &self.folder);
        let text = eventually("the stack is ready", START, async || {
            if let Some(status) = dev.exited() {
                panic!("dev ended with {status}:\n{}", dev.last_words());
            }
            std::fs::read_to_string(&env_file).ok()
        })
        .await;
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        self.env = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        self.dev = Some(dev);
    }

    fn command(&self, env_file: &Path) -> Command {
        let services = match self.options.services {
            Services::All => "all",
            Services::None => "none",
        };
        let mut command = Command::new(binary());
        command.arg("dev").arg("--state-dir").arg(self.state_dir()).args(["--http", "127.0.0.1:0"]);
        command.arg("--env-file").arg(env_file);
        command.args(["--clusters", &self.options.clusters.to_string()]);
        command.args(["--peers", &self.options.peers.to_string()]);
        command.args(["--workloads", &self.options.workloads.to_string()]);
        command.args(["--handover", self.options.handover, "--services", services]);
        command.envs(self.options.env.iter().map(|(name, value)| (name, value)));
        command
    }

    pub fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Where logs are, and a test may put files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn dev(&self) -> &Process {
        self.dev.as_ref().expect("dev runs")
    }

    /// The process, to be ended by the test.
    pub fn take_dev(&mut self) -> Process {
        self.dev.take().expect("dev runs")
    }

    pub fn url(&self) -> &str {
        &self.env["OMNIRELAY_URL"]
    }

    pub fn nats_url(&self) -> &str {
        &self.env["OMNIRELAY_NATS_URL"]
    }

    pub fn database_url(&self) -> &str {
        &self.env["OMNIRELAY_DATABASE_URL"]
    }

    pub fn token(&self, role: Role) -> &str {
        &self.env[role.key()]
    }

    /// A client of its own for each caller: connections belong to the runtime that made them.
    pub fn api(&self, role: Role) -> Api {
        Api::new(self.url(), Some(self.token(role)))
    }

    pub fn cli(&self, role: Role) -> Cli {
        Cli::new(self.folder(), self.url(), Some(self.token(role)))
    }

    pub async fn database(&self) -> PgConnection {
        PgConnection::connect(self.database_url()).await.expect("the database")
    }

    /// A cluster for the caller alone.
    pub fn mesh(&self) -> Mesh {
        let n = self.clusters_taken.fetch_add(1, Ordering::Relaxed) + 1;
        assert!(n <= self.options.clusters, "the stack of this file needs more clusters");
        Mesh::new(self, n)
    }

    /// A role of the control plane as a process of its own, beside `--services none`.
    pub fn serve(&self, role: &str, name: &str) -> Process {
        let mut command = Command::new(binary());
        command.args(["serve", role, "--config"]).arg(self.state_dir().join("serve.toml"));
        Process::start(name, command, &self.folder)
    }

    /// Waits for an ingress that answers.
    pub async fn answers(&self) {
        let api = self.api(Role::Read);
        eventually("the ingress is ready", START, async || {
            let answer = api.get("/readyz").try_send().await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
    }

    /// Waits until all simulated peers are known and healthy.
    pub async fn healthy(&self) {
        let api = self.api(Role::Read);
        let expected = self.options.clusters * self.options.peers;
        eventually(format!("{expected} healthy peers"), START, async || {
            let page = api.get("/control/peers?health=healthy&pageSize=1000").try_send().await.ok()?;
            (page.body["items"].as_array()?.len() == expected).then_some(())
        })
        .await;
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(dev) = &self.dev
        {
            eprintln!("--- the end of the log of dev\n{}", dev.last_words());
        }
        drop(self.dev.take());
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
