//! What the demo's workloads are: a process that answers after a moment's work, and ends gracefully when told to.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use futures_util::FutureExt;
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::http::{self, Answer, Head};

#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// What it answers with
    #[arg(long)]
    name: String,
    #[arg(long)]
    port: u16,
    /// Locked while it runs: a second one that comes too early leaves a file `….violated` and ends
    #[arg(long, value_name = "FILE")]
    exclusive: Option<PathBuf>,
}

/// How long the work of one request takes.
const WORK: Duration = Duration::from_millis(2);
/// Whoever has connected may still send this one request while the server ends.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// Serves until SIGTERM, then finishes what it has.
pub async fn run(args: ServerArgs) -> anyhow::Result<()> {
    // Before anything is served: from here on a SIGTERM is an orderly end.
    let mut terminate = signal(SignalKind::terminate())?;
    let _exclusive = args.exclusive.as_deref().map(alone).transpose()?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let server = Arc::new(Server { name: args.name, in_progress: AtomicU64::new(0), stop: CancellationToken::new() });
    let connections = TaskTracker::new();
    let accept = |stream: TcpStream| {
        let server = server.clone();
        connections.spawn(async move { server.converse(stream).await });
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            // A connection that broke before it was accepted concerns nobody else.
            accepted = listener.accept() => if let Ok((stream, _)) = accepted { accept(stream) },
        }
    }
    // Those that the system has accepted on our behalf are still served.
    while let Some(Ok((stream, _))) = listener.accept().now_or_never() {
        accept(stream);
    }
    drop(listener);
    server.stop.cancel();
    connections.close();
    connections.wait().await;
    Ok(())
}

/// Where violations of `exclusive` are left.
pub fn violations(exclusive: &Path) -> PathBuf {
    exclusive.with_extension("violated")
}

/// Holds the lock, or tells that somebody else does.
fn alone(path: &Path) -> anyhow::Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::Error(error)) => Err(error.into()),
        Err(TryLockError::WouldBlock) => {
            std::fs::write(violations(path), "two of them ran at once\n")?;
            bail!("another one still runs")
        }
    }
}

struct Server {
    name: String,
    in_progress: AtomicU64,
    stop: CancellationToken,
}

impl Server {
    async fn converse(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut stream = BufReader::new(stream);
        let mut first = true;
        loop {
            let head = tokio::select! {
                biased;
                head = Head::read(&mut stream) => head?,
                // An idle connection ends with the server; a new one is heard out.
                () = self.stop.cancelled(), if !first => return Ok(()),
                () = async { self.stop.cancelled().await; tokio::time::sleep(LAST_REQUEST).await } => return Ok(()),
            };
            let Some(head) = head else { return Ok(()) };
            let answer = self.answer(head.path()).await;
            http::answer(stream.get_mut(), &answer, head.is_last()).await?;
            if head.is_last() {
                return Ok(());
            }
            first = false;
        }
    }

    async fn answer(&self, path: &str) -> Answer {
        match path {
            "/ready" => Answer::new(200, "ready"),
            "/drain-remaining" => Answer::new(200, self.in_progress.load(Ordering::Relaxed).to_string()),
            _ => {
                self.in_progress.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(WORK).await;
                self.in_progress.fetch_sub(1, Ordering::Relaxed);
                Answer::new(200, self.name.clone())
            }
        }
    }
}
