//! One server process: started so that it can be found again, stopped so that nothing is left.
//!
//! A server is started through a few lines of `/bin/sh` which write the process's own `/proc` line (pid and start time)
//! to a pid file, make sure that we still live, and then become the server. So there is no moment at which a server runs
//! that the [`watchdog`](crate::watchdog) or the next start could not find, even if we are killed in the middle.
//! Each server leads a process group of its own: Ctrl-C in a terminal reaches us alone, and we stop in order.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::error::{DevstackError, Doing};
use crate::user::RunAs;

/// How long a server may take to stop when asked to, before it is killed.
pub(crate) const GRACE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);

/// `$0` is our pid. `/proc`'s fourth field is the parent as it is now; `$PPID` would be the one at the shell's start.
const BECOME_SERVER: &str = r#"
read -r line </proc/$$/stat && echo "$line" >&0 || exit 126
read -r line </proc/$$/stat || exit 126
line=${line##*) }
line=${line#? }
[ "${line%% *}" = "$0" ] || exit 125
exec "$@" </dev/null
"#;

/// What is passed on of our environment: enough to run a program, and none of our secrets.
const PASSED_ON: [&str; 4] = ["PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH"];

pub(crate) struct Spec<'a> {
    /// Names the pid file, and the server in errors.
    pub(crate) name: &'static str,
    pub(crate) program: &'a Path,
    pub(crate) args: Vec<OsString>,
    pub(crate) run_as: Option<&'a RunAs>,
    /// The folder of this run's pid files.
    pub(crate) run: &'a Path,
    /// Appended to.
    pub(crate) log: PathBuf,
    /// Asks the server to stop cleanly.
    pub(crate) polite: Signal,
}

pub(crate) struct Server {
    name: &'static str,
    child: Child,
    pid_file: PathBuf,
    log: PathBuf,
    log_from: u64,
    polite: Signal,
}

impl Server {
    pub(crate) fn spawn(spec: Spec<'_>) -> Result<Server, DevstackError> {
        let pid_file = spec.run.join(format!("{}.pid", spec.name));
        let pid_out = private(OpenOptions::new().write(true).create(true).truncate(true))
            .open(&pid_file)
            .doing("write", &pid_file)?;
        let log = private(OpenOptions::new().append(true).create(true)).open(&spec.log).doing("write", &spec.log)?;
        let log_from = log.metadata().doing("read", &spec.log)?.len();
        let log_err = log.try_clone().doing("write", &spec.log)?;

        let mut command = Command::new("/bin/sh");
        command
            .arg("-c")
            .arg(BECOME_SERVER)
            .arg(std::process::id().to_string())
            .arg(spec.program)
            .args(&spec.args)
            .stdin(pid_out)
            .stdout(log)
            .stderr(log_err)
            .current_dir("/")
            .env_clear()
            .envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .process_group(0);
        if let Some(user) = spec.run_as {
            command.uid(user.uid).gid(user.gid);
        }
        let child = command.spawn().doing("start", spec.program)?;
        tracing::debug!(server = spec.name, pid = child.id(), program = %spec.program.display(), "started");
        Ok(Server { name: spec.name, child, pid_file, log: spec.log, log_from, polite: spec.polite })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How the process ended, if it has.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks the server to stop; does not wait.
    pub(crate) fn ask_to_stop(&mut self) {
        self.signal(self.polite);
    }

    /// Stops the server cleanly, or by force after [`GRACE`].
    pub(crate) async fn stop(mut self) {
        self.ask_to_stop();
        if self.wait(GRACE).await.is_none() {
            tracing::warn!(
                server = self.name,
                pid = self.pid(),
                grace_s = GRACE.as_secs(),
                "did not stop when asked, killing it"
            );
            self.signal(Signal::KILL);
            self.wait(GRACE).await;
        }
    }

    /// Kills the server as a crash would (SIGKILL) and waits until it is gone.
    pub(crate) async fn kill(mut self) {
        self.signal(Signal::KILL);
        self.wait(GRACE).await;
    }

    /// Waits for the process to end by itself, at most `within`.
    pub(crate) async fn wait(&mut self, within: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.exited() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// An error that carries the last lines the server wrote since it was started.
    pub(crate) fn failed(&self, what: impl Into<String>) -> DevstackError {
        DevstackError::Server { server: self.name, what: what.into(), log: self.log_tail() }
    }

    /// The last 20 lines this run of the server wrote.
    pub(crate) fn log_tail(&self) -> String {
        let mut text = Vec::new();
        let read = File::open(&self.log).and_then(|mut log| {
            log.seek(SeekFrom::Start(self.log_from))?;
            log.read_to_end(&mut text)
        });
        if let Err(e) = read {
            return format!("(cannot read {}: {e})", self.log.display());
        }
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.trim_end().lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Never signals a pid that was waited for and so may be somebody else's by now.
    fn signal(&mut self, signal: Signal) {
        if self.exited().is_none()
            && let Some(pid) = Pid::from_raw(self.child.id() as i32)
        {
            // ESRCH means it ended meanwhile, which is what any of our signals is for.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

impl Drop for Server {
    /// Best effort, and waits: whoever panics or returns early leaves no server behind.
    fn drop(&mut self) {
        self.ask_to_stop();
        let deadline = Instant::now() + GRACE;
        while self.exited().is_none() {
            if Instant::now() >= deadline {
                self.signal(Signal::KILL);
                let _ = self.child.wait();
                break;
            }
            std::thread::sleep(POLL);
        }
        // A pid file of a dead process does no harm (it is checked before use), so failing to remove it does none either.
        let _ = std::fs::remove_file(&self.pid_file);
    }
}

/// Puts processes of the caller's under the [`watchdog`](crate::watchdog) of a running stack.
#[derive(Debug, Clone)]
pub struct Guardian {
    run: PathBuf,
}

impl Guardian {
    pub(crate) fn new(run: &Path) -> Guardian {
        Guardian { run: run.to_owned() }
    }

    /// The next start in the same state directory recognises the process as well if that directory is on its command line.
    ///
    /// # Errors
    /// If the process is gone already, or the note about it cannot be written.
    pub fn guard(&self, pid: u32) -> Result<Guard, DevstackError> {
        let stat = PathBuf::from(format!("/proc/{pid}/stat"));
        let line = std::fs::read(&stat).doing("read", &stat)?;
        let pid_file = self.run.join(format!("{pid}.pid"));
        let mut file = private(OpenOptions::new().write(true).create(true).truncate(true))
            .open(&pid_file)
            .doing("write", &pid_file)?;
        file.write_all(&line).doing("write", &pid_file)?;
        Ok(Guard { pid_file })
    }
}

/// While it lives, the process that it stands for ends with ours, by SIGTERM and then SIGKILL. Dropped once that process has
/// ended.
#[derive(Debug)]
pub struct Guard {
    pid_file: PathBuf,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // What it names is gone, and the start time in it keeps anybody else from being taken for it.
        let _ = std::fs::remove_file(&self.pid_file);
    }
}

/// A process of an earlier run, named by a pid file. The start time makes it unmistakable when the pid is reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leftover {
    pid: u32,
    started: u64,
}

impl Leftover {
    /// `None` if the file is empty or garbled, which is how a start that was cut short leaves it.
    pub(crate) fn read(pid_file: &Path) -> Option<Leftover> {
        let stat = Stat::parse(&std::fs::read_to_string(pid_file).ok()?)?;
        Some(Leftover { pid: stat.pid, started: stat.started })
    }

    /// Whether this very process still runs, with one of `marks` on its command line.
    pub(crate) fn lives(&self, marks: &[&Path]) -> bool {
        let proc = PathBuf::from(format!("/proc/{}", self.pid));
        let now = std::fs::read_to_string(proc.join("stat")).ok().and_then(|line| Stat::parse(&line));
        let same = now.is_some_and(|now| now.started == self.started && !now.ended());
        same && std::fs::read(proc.join("cmdline")).is_ok_and(|line| {
            let is_on_line =
                |mark: &&Path| line.windows(mark.as_os_str().len()).any(|w| w == mark.as_os_str().as_bytes());
            marks.iter().any(is_on_line)
        })
    }

    /// Stops it, by force after [`GRACE`]. Blocking. Returns whether it is gone.
    pub(crate) fn stop(&self, polite: Signal, marks: &[&Path]) -> bool {
        let Some(pid) = Pid::from_raw(self.pid as i32) else { return true };
        for signal in [polite, Signal::KILL] {
            if !self.lives(marks) {
                return true;
            }
            let _ = rustix::process::kill_process(pid, signal);
            let deadline = Instant::now() + GRACE;
            while self.lives(marks) && Instant::now() < deadline {
                std::thread::sleep(POLL);
            }
        }
        !self.lives(marks)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }
}

/// The fields of `/proc/<pid>/stat` that we need (proc(5)): 1 pid, 3 state, 22 start time.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    pid: u32,
    state: char,
    started: u64,
}

impl Stat {
    fn parse(line: &str) -> Option<Stat> {
        let pid = line.split(' ').next()?.parse().ok()?;
        // The second field is the program's name in parentheses, and may itself hold spaces and parentheses.
        let mut rest = line[line.rfind(')')? + 1..].split_whitespace();
        let state = rest.next()?.chars().next()?;
        let started = rest.nth(18)?.parse().ok()?;
        Some(Stat { pid, state, started })
    }

    /// A zombie waits for its parent's attention only; where pid 1 gives none, it waits for ever.
    fn ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.mode(0o600)
}

#[cfg(test)]
mod tests {
    use super::{Leftover, Stat};
    use std::path::Path;

    #[test]
    fn the_stat_line_is_read_behind_the_last_parenthesis() {
        let line = "4242 (a (b) c) S 1 4242 4242 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 2662400 200 1844 1 1\n";
        assert_eq!(Stat::parse(line), Some(Stat { pid: 4242, state: 'S', started: 98765 }));
        for garbled in ["", "4242", "4242 (sh", "4242 (sh) S 1 2", "x (sh) S"] {
            assert_eq!(Stat::parse(garbled), None, "{garbled}");
        }
    }

    #[test]
    fn a_reused_pid_is_not_taken_for_the_old_process() {
        let own = std::fs::read_to_string("/proc/self/stat").unwrap();
        let stat = Stat::parse(&own).unwrap();
        let exe = std::env::args_os().next().unwrap();
        let marks = [Path::new(&exe)];
        assert!(Leftover { pid: stat.pid, started: stat.started }.lives(&marks));
        assert!(!Leftover { pid: stat.pid, started: stat.started + 1 }.lives(&marks));
        assert!(!Leftover { pid: stat.pid, started: stat.started }.lives(&[Path::new("/no/such/state")]));
    }
}
