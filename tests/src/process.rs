//! Processes of the product, each in a group of its own, and a reaper that ends them however this test process ends:
//! statics are not dropped, and a killed test has no last word.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process};

use crate::wait::{PATIENCE, eventually};

/// How long a process may take to end when asked to.
const GRACE: Duration = Duration::from_secs(15);

/// A running process of the product. Dropping it asks it to end, then forces it.
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts it with its output in a file of `logs`.
    pub fn start(name: &str, mut command: Command, logs: &Path) -> Self {
        let log = logs.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).expect("a log file");
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("the log file twice")).stderr(file);
        command.process_group(0);
        let child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        reaper(&format!("+ {}", child.id()));
        Self { child, name: name.to_owned(), log }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its last words, for a panic's message.
    pub fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// SIGKILL to this process alone, as a crash; what it started is left behind.
    pub fn kill_9(mut self) {
        self.child.kill().expect("a child can be killed");
        let _ = self.child.wait();
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("a child can be signalled");
    }

    /// SIGTERM, and the exit status. Panics if it does not obey.
    pub async fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        let name = self.name.clone();
        eventually(format!("{name} ends"), GRACE, async || self.exited()).await
    }

    /// Waits for an end that somebody else brought about.
    pub async fn ended(mut self) {
        let name = self.name.clone();
        eventually(format!("{name} ends"), GRACE, async || self.exited()).await;
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exited().is_none() {
            let _ = kill_process(self.pid(), Signal::TERM);
            let begun = Instant::now();
            while self.exited().is_none() && begun.elapsed() < GRACE {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = kill_process_group(self.pid(), Signal::KILL);
            let _ = self.child.wait();
        }
        reaper(&format!("- {}", self.child.id()));
    }
}

/// Whether a process of that id exists (a zombie does not count).
pub fn alive(pid: u32) -> bool {
    let Some(id) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    test_kill_process(id).is_ok()
        && std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| !stat.contains(") Z "))
}

/// Ids of running processes whose command line contains the text.
pub fn processes_that_mention(text: &str) -> BTreeMap<u32, String> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(text) && alive(pid) {
            found.insert(pid, line);
        }
    }
    found
}

/// Ids of the direct children of a process.
pub fn children_of(pid: u32) -> Vec<u32> {
    let parent = |id: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    ids.filter(|id| parent(*id) == Some(pid) && alive(*id)).collect()
}

/// Waits until every process has ended.
pub async fn gone(pids: &[u32]) {
    eventually(format!("{pids:?} end"), PATIENCE, async || pids.iter().all(|pid| !alive(*pid)).then_some(())).await;
}

/// Tells the reaper: `+ PID`, `- PID`, `d FOLDER` (to be removed at the end).
pub(crate) fn reaper(line: &str) {
    static REAPER: LazyLock<Mutex<Child>> = LazyLock::new(|| Mutex::new(start_reaper()));
    let mut reaper = REAPER.lock().unwrap_or_else(PoisonError::into_inner);
    let stdin = reaper.stdin.as_mut().expect("the reaper listens");
    writeln!(stdin, "{line}").expect("the reaper listens");
}

/// It reads until this process is gone, then ends what is left and removes the folders.
fn start_reaper() -> Child {
    let script = r#"
pids=" "; folders=""
while read -r what value; do
  case $what in
    +) pids="$pids$value " ;;
    -) pids=$(printf '%s' "$pids" | sed "s/ $value / /") ;;
    d) folders="$folders $value" ;;
  esac
done
for pid in $pids; do kill -TERM "$pid" 2>/dev/null; done
tries=0
for pid in $pids; do
  while kill -0 "$pid" 2>/dev/null && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
  kill -KILL -"$pid" 2>/dev/null
done
[ -n "$folders" ] && rm -rf $folders
exit 0
"#;
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // Ctrl-C in the terminal of the tests is not for it.
    command.process_group(0).spawn().expect("sh runs")
}
