//! What the demo's workloads are: a process that answers after a moment's work, and ends gracefully when told to.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use futures_util::FutureExt;
use jiff::Timestamp;
use omnirelay_workflow::resource::Role;
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
    /// Locked while it serves: a second one that comes too early leaves a file `….violated`
    #[arg(long, value_name = "FILE")]
    exclusive: Option<PathBuf>,
    /// Serves nobody until its cluster is active
    #[arg(long)]
    standby: bool,
}

/// How long the work of one request takes.
const WORK: Duration = Duration::from_millis(2);
/// Whoever has connected may still send this one request while the server ends.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// Serves until SIGTERM, then finishes what it has.
pub async fn run(args: ServerArgs) -> anyhow::Result<()> {
    // Before anything is served: from here on a SIGTERM is an orderly end.
    let mut terminate = signal(SignalKind::terminate())?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let server = Arc::new(Server {
        name: args.name,
        in_progress: AtomicU64::new(0),
        exclusive: args.exclusive,
        serving: Mutex::default(),
        stop: CancellationToken::new(),
    });
    // One that starts after a promotion is told its role by its agent.
    let told = std::env::var("OMNIRELAY_ROLE").ok().and_then(|role| role.parse().ok());
    server.take_role(told.unwrap_or(if args.standby { Role::Passive } else { Role::Active }))?;
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
    exclusive: Option<PathBuf>,
    serving: Mutex<Serving>,
    stop: CancellationToken,
}

/// Whether requests are taken, with the lock where there may be only one who does.
#[derive(Default)]
struct Serving {
    active: bool,
    lock: Option<File>,
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
            // Who may not serve hangs up: not a byte, so whoever asks knows that nothing was done.
            let Some(answer) = self.answer(head.path()).await else { return Ok(()) };
            http::answer(stream.get_mut(), &answer, head.is_last()).await?;
            if head.is_last() {
                return Ok(());
            }
            first = false;
        }
    }

    async fn answer(&self, path: &str) -> Option<Answer> {
        if let Some(role) = path.strip_prefix("/role/") {
            let Ok(role) = role.parse() else { return Some(Answer::new(404, "there is no such role")) };
            return Some(match self.take_role(role) {
                Ok(0) => Answer::new(200, role.as_str()),
                Ok(left) => Answer::new(503, format!("{left} requests in progress")),
                Err(error) => Answer::new(500, error.to_string()),
            });
        }
        match path {
            "/ready" => Some(Answer::new(200, "ready")),
            "/drain-remaining" => Some(Answer::new(200, self.in_progress.load(Ordering::Relaxed).to_string())),
            _ => {
                {
                    let serving = self.serving();
                    if !serving.active {
                        return None;
                    }
                    // Before anybody can take the role away.
                    self.in_progress.fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(WORK).await;
                self.in_progress.fetch_sub(1, Ordering::Relaxed);
                Some(Answer::new(200, self.name.clone()))
            }
        }
    }

    /// Takes what only the active one may have, or lets go of it. Returns how many requests have to end before that is so.
    fn take_role(&self, role: Role) -> anyhow::Result<u64> {
        let mut serving = self.serving();
        let was = serving.active;
        if role == Role::Active {
            if !was {
                serving.lock = self.exclusive.as_deref().map(alone).transpose()?;
            }
            serving.active = true;
        } else {
            serving.active = false;
            let left = self.in_progress.load(Ordering::Relaxed);
            if left > 0 {
                return Ok(left);
            }
            serving.lock = None;
        }
        println!("{} {}: {role}", Timestamp::now(), self.name);
        Ok(0)
    }

    fn serving(&self) -> MutexGuard<'_, Serving> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_active_one_serves_and_has_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let lock = folder.path().join("ledger.lock");
        let [one, two] = ["one", "two"].map(|name| Server {
            name: name.to_owned(),
            in_progress: AtomicU64::new(0),
            exclusive: Some(lock.clone()),
            serving: Mutex::default(),
            stop: CancellationToken::new(),
        });
        assert!(one.answer("/").await.is_none(), "a standby hangs up");
        assert_eq!(one.answer("/role/active").await, Some(Answer::new(200, "active")));
        assert_eq!(one.answer("/").await, Some(Answer::new(200, "one")));
        one.in_progress.store(1, Ordering::Relaxed);
        assert_eq!(one.answer("/role/fenced").await, Some(Answer::new(503, "1 requests in progress")));
        assert!(one.answer("/").await.is_none(), "nothing new is begun");
        one.in_progress.store(0, Ordering::Relaxed);
        assert_eq!(one.answer("/role/fenced").await.unwrap().status, 200);
        assert_eq!(two.answer("/role/active").await.unwrap().status, 200);
        assert!(!violations(&lock).exists());
        assert_eq!(one.answer("/role/active").await.unwrap().status, 500);
        assert!(violations(&lock).exists(), "two at once are found out");
        assert_eq!(two.answer("/role/king").await.unwrap().status, 404);
    }
}
