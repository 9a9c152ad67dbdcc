//! A child process of the demo: started in a group of its own, with a log; killed, restarted and stopped at will.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use omnirelay_devstack::{Guard, Guardian};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// How long a process may take to end in order.
const GRACE: Duration = Duration::from_secs(15);
/// How much of a log is read for its last lines.
const TAIL: usize = 64 << 10;

/// What a process is told besides its arguments, which everybody on the machine can read.
pub type Env = Vec<(&'static str, String)>;

/// A process of this very binary.
pub struct Process {
    pub name: &'static str,
    args: Vec<OsString>,
    env: Env,
    log: PathBuf,
    child: Child,
    /// Ends it should the demo be killed.
    _guard: Guard,
}

impl Process {
    /// Starts it with `args` and `env`; it logs to `log`.
    pub fn start(
        guardian: &Guardian,
        name: &'static str,
        log: PathBuf,
        args: Vec<OsString>,
        env: Env,
    ) -> anyhow::Result<Self> {
        let child = spawn(&args, &env, &log).with_context(|| format!("cannot start {name}"))?;
        let pid = child.id().with_context(|| format!("{name} has ended at once"))?;
        let guard = guardian.guard(pid)?;
        tracing::debug!(name, pid, "started");
        Ok(Self { name, args, env, log, child, _guard: guard })
    }

    /// Starts it again, as a supervisor would after its end.
    pub fn restart(&mut self, guardian: &Guardian) -> anyhow::Result<()> {
        *self = Self::start(guardian, self.name, self.log.clone(), self.args.clone(), self.env.clone())?;
        Ok(())
    }

    /// 0 once it has ended.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Kills it as a crash would (SIGKILL), and waits until it is gone.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("cannot kill {}", self.name))
    }

    /// Asks it to end, and kills it if it does not.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::TERM);
        if tokio::time::timeout(GRACE, self.child.wait()).await.is_err() {
            tracing::warn!(name = self.name, "did not end when asked, killing it");
            self.kill().await?;
        }
        Ok(())
    }

    /// The last lines that it logged.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }

    fn signal(&mut self, signal: Signal) {
        // A pid that was waited for may be somebody else's by now; one that was not is still ours.
        if self.ended().is_none()
            && let Some(pid) = Pid::from_raw(self.pid().cast_signed())
        {
            // It has ended meanwhile: so much the better.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Process {
    /// Whoever panics leaves nothing behind: an agent ends its own children when it is asked to end.
    fn drop(&mut self) {
        self.signal(Signal::TERM);
    }
}

/// A command of this very binary, without what the caller's environment would say to it.
pub fn omnirelay() -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OMNIRELAY_")) {
        command.env_remove(name);
    }
    // Ctrl-C in a terminal reaches the demo alone, which ends everything in order.
    command.stdin(Stdio::null()).process_group(0);
    Ok(command)
}

fn spawn(args: &[OsString], env: &Env, log: &Path) -> anyhow::Result<Child> {
    let out = OpenOptions::new().create(true).append(true).open(log)?;
    let errors = out.try_clone()?;
    Ok(omnirelay()?.args(args).envs(env.iter().cloned()).stdout(out).stderr(errors).spawn()?)
}

fn tail(path: &Path, lines: usize) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let mut text = Vec::new();
    let read = File::open(path).and_then(|mut log| {
        let length = log.metadata()?.len();
        log.seek(SeekFrom::Start(length.saturating_sub(TAIL as u64)))?;
        log.read_to_end(&mut text)
    });
    if let Err(error) = read {
        return format!("(cannot read {}: {error})", path.display());
    }
    let text = console::strip_ansi_codes(&String::from_utf8_lossy(&text)).into_owned();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
