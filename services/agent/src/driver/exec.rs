//! Drivers that are executables: `DRIVER [args] <verb> [workload or role]`, the rest in the environment.
//!
//! A driver runs in a process group of its own. Whatever ends the call (a time-out, too much output, the agent's end) kills
//! the group, so nothing of it stays behind; a call that ended by itself leaves its daemons alone.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use super::{Answer, Call, Driver, Exit, Line, Verb};

/// Standard output beyond this is a failure.
pub const MAX_OUTPUT: usize = 1 << 20;
/// A line of output beyond this is a failure.
pub const MAX_LINE: usize = 64 << 10;
/// Of stderr, only the end matters.
const STDERR_TAIL: usize = 4 << 10;
/// The longest message that is passed on, in characters.
const MAX_MESSAGE: usize = 300;
/// How long output is read after the driver has ended: a daemon that it left may hold the pipe open for ever.
const LINGER: Duration = Duration::from_millis(200);
/// `EX_TEMPFAIL` of sysexits.
const BUSY: i32 = 75;
/// May hold a password, and is none of a driver's business.
const HIDDEN: [&str; 2] = ["OMNIRELAY_NATS_URL", "OMNIRELAY_TOKEN"];

/// An executable and how it is called.
#[derive(Debug, Clone)]
pub struct ExecDriver {
    pub program: PathBuf,
    /// Before the verb.
    pub args: Vec<String>,
    /// Besides the agent's own environment and the `OMNIRELAY_…` of the call.
    pub env: BTreeMap<String, String>,
    /// The longest that a call may take.
    pub timeout: Duration,
}

/// What a program did.
#[derive(Debug, Clone)]
pub struct Ran {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    /// The last line of stderr, shortened.
    pub message: String,
}

impl Driver for ExecDriver {
    fn call(&self, call: Call) -> BoxFuture<'_, Answer> {
        async move {
            let verb = call.verb;
            match run(self.command(&call), self.timeout).await {
                Ok(ran) => interpret(verb, &ran),
                Err(message) => Answer::failed(format!("{verb}: {message}")),
            }
        }
        .boxed()
    }
}

impl ExecDriver {
    fn command(&self, call: &Call) -> Command {
        self.command_of(call.verb.as_str(), call)
    }

    /// The call, under any word for the verb: the conformance checker also asks what a driver does not know.
    pub fn command_of(&self, verb: &str, call: &Call) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).arg(verb).args(call.target.as_ref().map(|t| t.id.as_str()));
        command.args(call.cluster.as_ref().map(|cluster| cluster.role.as_str()));
        command.envs(&self.env).envs(environment(call));
        command
    }
}

/// The variables that tell a program what a call is about.
pub fn environment(call: &Call) -> Vec<(&'static str, OsString)> {
    let holds: Vec<String> = call.holds.iter().map(ToString::to_string).collect();
    let mut vars = vec![("OMNIRELAY_PEER", call.peer.as_str().into()), ("OMNIRELAY_HOLDS", holds.join(" ").into())];
    if let Some(target) = &call.target {
        vars.push(("OMNIRELAY_WORKLOAD", target.id.as_str().into()));
        vars.push(("OMNIRELAY_SERVICE", target.service.as_str().into()));
        vars.push(("OMNIRELAY_UNIT", target.unit.as_deref().unwrap_or_default().into()));
        vars.push(("OMNIRELAY_EPOCH", target.epoch.to_string().into()));
    }
    if let Some(cluster) = &call.cluster {
        vars.push(("OMNIRELAY_ROLE", cluster.role.as_str().into()));
        vars.push(("OMNIRELAY_CLUSTER", cluster.cluster.as_str().into()));
        vars.push(("OMNIRELAY_FAILOVER_VERSION", cluster.failover_version.to_string().into()));
    }
    vars
}

/// Runs a program to its end. The error is a sentence: it could not be started, took too long, or said too much.
pub async fn run(mut command: Command, timeout: Duration) -> Result<Ran, String> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    for hidden in HIDDEN {
        command.env_remove(hidden);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    let mut child = spawn(&mut command).await.map_err(|error| format!("cannot run {name}: {error}"))?;
    let mut group = Group::of(child.id());
    let stdout = Captured::default();
    let stderr = Captured::default();
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let work = async {
        let mut reads = std::pin::pin!(async {
            tokio::try_join!(stdout.read(out, Keep::AllUpTo(MAX_OUTPUT)), stderr.read(err, Keep::Last(STDERR_TAIL)))
        });
        let mut read: Option<Result<_, String>> = None;
        loop {
            tokio::select! {
                status = child.wait() => {
                    let status = status.map_err(|error| format!("cannot wait for {name}: {error}"))?;
                    if read.is_none() && let Ok(done) = tokio::time::timeout(LINGER, &mut reads).await {
                        read = Some(done);
                    }
                    if let Some(read) = read {
                        read?;
                    }
                    return Ok::<_, String>(status);
                }
                done = &mut reads, if read.is_none() => {
                    if let Err(message) = &done {
                        return Err(message.clone());
                    }
                    read = Some(done);
                }
            }
        }
    };
    let status = tokio::time::timeout(timeout, work)
        .await
        .map_err(|_| format!("{name} took longer than {}", humantime::format_duration(timeout)))??;
    group.ended();
    Ok(Ran { status, stdout: stdout.take(), message: last_line(&stderr.take()) })
}

/// Spawns, patiently: a program that is just being replaced is busy for a moment.
async fn spawn(command: &mut Command) -> std::io::Result<Child> {
    for _ in 0..20 {
        match command.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            result => return result,
        }
    }
    command.spawn()
}

/// What the program's exit, lines and last words amount to.
fn interpret(verb: Verb, ran: &Ran) -> Answer {
    let exit = match ran.status.code() {
        Some(0) => Exit::Done,
        Some(BUSY) => Exit::Busy,
        _ => Exit::Failed,
    };
    let lines = match parse_lines(&ran.stdout) {
        Ok(lines) => lines,
        // A failure stays a failure whatever it printed; a success with a broken list is none.
        Err(_) if exit == Exit::Failed => Vec::new(),
        Err(broken) => return Answer::failed(format!("{verb}: {broken}")),
    };
    let message = if ran.message.is_empty() && exit == Exit::Failed {
        format!("{verb}: the driver ended with {}", ran.status)
    } else {
        ran.message.clone()
    };
    Answer { exit, lines, message }
}

/// The JSON lines of a driver's output. The error names the line.
pub fn parse_lines(stdout: &[u8]) -> Result<Vec<Line>, String> {
    let mut lines = Vec::new();
    for (number, line) in stdout.split(|&b| b == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        if line.len() > MAX_LINE {
            return Err(format!("line {} of the output is longer than {MAX_LINE} bytes", number + 1));
        }
        let parsed = serde_json::from_slice(line)
            .map_err(|error| format!("line {} of the output is not a workload: {error}", number + 1))?;
        lines.push(parsed);
    }
    Ok(lines)
}

/// The last line that says something, without control characters, shortened.
fn last_line(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect()
}

/// Output as far as it was read: what is there stays there when reading is given up.
#[derive(Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

#[derive(Clone, Copy)]
enum Keep {
    AllUpTo(usize),
    Last(usize),
}

impl Captured {
    async fn read(&self, from: Option<impl AsyncRead + Unpin>, keep: Keep) -> Result<(), String> {
        let Some(mut from) = from else { return Ok(()) };
        let mut chunk = vec![0; 16 << 10];
        loop {
            let n = from.read(&mut chunk).await.map_err(|error| format!("its output cannot be read: {error}"))?;
            if n == 0 {
                return Ok(());
            }
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend_from_slice(&chunk[..n]);
            match keep {
                Keep::AllUpTo(max) if kept.len() > max => return Err(format!("it printed more than {max} bytes")),
                Keep::Last(max) if kept.len() > 2 * max => {
                    let cut = kept.len() - max;
                    kept.drain(..cut);
                }
                _ => {}
            }
        }
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A process group that is killed unless its leader ended by itself.
struct Group(Option<Pid>);

impl Group {
    fn of(leader: Option<u32>) -> Self {
        Self(leader.and_then(|id| Pid::from_raw(id.cast_signed())))
    }

    fn ended(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended meanwhile; there is nothing to do about it then.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests;
