//! nats-server with JetStream: its settings, its start, and when it is ready.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;

use crate::error::DevstackError;
use crate::process::{Server, Spec};
use crate::state::{StateDir, create_dir, write_private};

pub(crate) const NAME: &str = "nats-server";
pub(crate) const POLITE: Signal = Signal::TERM;
const USER: &str = "omnirelay";
const READY_WITHIN: Duration = Duration::from_secs(30);

pub(crate) struct Settings {
    pub(crate) program: PathBuf,
    pub(crate) port: u16,
    pub(crate) password: String,
    /// Accounts `T0`, `T1`, … beside the stack's own, each with a JetStream of its own for one test.
    pub(crate) test_accounts: usize,
}

/// The address for one user of the stack's own account (`None`) or of a test account.
pub(crate) fn url(settings: &Settings, account: Option<usize>) -> String {
    let user = account.map_or_else(|| USER.to_owned(), |number| format!("t{number}"));
    format!("nats://{user}:{}@{}:{}", settings.password, Ipv4Addr::LOCALHOST, settings.port)
}

/// Starts the server and waits until it answers. The error of a taken port is [`is_port_taken`].
pub(crate) async fn start(state: &StateDir, settings: &Settings) -> Result<Server, DevstackError> {
    let config = folder(state.root()).join("nats.conf");
    let server_name = server_name(state.root());
    create_dir(&folder(state.root()), 0o700)?;
    write_private(&config, config_text(settings, &server_name, &store(state.root())).as_bytes())?;
    let mut server = Server::spawn(Spec {
        name: NAME,
        program: &settings.program,
        args: vec!["--config".into(), config.into()],
        run_as: None,
        run: state.run(),
        log: state.log(NAME),
        polite: POLITE,
    })?;

    let deadline = Instant::now() + READY_WITHIN;
    loop {
        if let Some(status) = server.exited() {
            return Err(server.failed(format!("ended at its start ({status})")));
        }
        if greets(settings.port, &server_name).await {
            return Ok(server);
        }
        if Instant::now() >= deadline {
            return Err(server.failed(format!("did not answer within {} s", READY_WITHIN.as_secs())));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// JetStream's files.
pub(crate) fn store(root: &Path) -> PathBuf {
    folder(root).join("store")
}

fn folder(root: &Path) -> PathBuf {
    root.join("nats")
}

/// Tells our server from one that somebody else started on the port we had chosen.
fn server_name(root: &Path) -> String {
    format!("omnirelay-{}", crate::state::short_hash(root))
}

/// The server greets every connection with a line `INFO {...}`, which names it.
async fn greets(port: u16, server_name: &str) -> bool {
    let greeting = async {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await.ok()?;
        Some(line)
    };
    let greeting = tokio::time::timeout(Duration::from_secs(1), greeting).await.ok().flatten();
    greeting.is_some_and(|line| line.starts_with("INFO ") && line.contains(server_name))
}

fn config_text(settings: &Settings, server_name: &str, store: &Path) -> String {
    let account = |name: &str, user: &str| {
        format!(
            "  {name} {{ jetstream: enabled, users: [ {{ user: {user}, password: \"{}\" }} ] }}\n",
            settings.password
        )
    };
    let mut accounts = account("OMNI", USER);
    for number in 0..settings.test_accounts {
        accounts += &account(&format!("T{number}"), &format!("t{number}"));
    }
    format!(
        "# Written by omnirelay at every start.\nserver_name: {server_name}\nlisten: \"{}:{}\"\njetstream {{ store_dir: {} }}\naccounts {{\n{accounts}}}\n",
        Ipv4Addr::LOCALHOST,
        settings.port,
        quoted(store),
    )
}

/// A path as a string of nats-server's configuration language.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('\\', "\\\\").replace('"', "\\\""))
}
