//! Processes as `/proc` shows them. A pid alone says little, since it is used again: pid and start time name a process.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

/// Tells a child whose it is: the folder of its peer.
pub const OWNER: &str = "OMNIRELAY_AGENT_FOLDER";

/// A process that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub pid: i32,
    /// Clock ticks since boot.
    pub started: u64,
}

impl Found {
    /// Whether just this process still runs. A zombie does not.
    pub fn is_alive(&self) -> bool {
        find(self.pid).is_some_and(|now| now == *self)
    }

    /// The group that it leads.
    pub fn group(&self) -> Option<Pid> {
        Pid::from_raw(self.pid)
    }
}

/// The running process with this pid.
pub fn find(pid: i32) -> Option<Found> {
    let stat = stat(pid)?;
    (!matches!(stat.state, 'Z' | 'X')).then_some(Found { pid, started: stat.started })
}

/// Ends children of an agent that was killed between starting them and recording them.
pub fn end_unrecorded(folder: &Path, recorded: &[i32]) {
    let mut mark = format!("{OWNER}=").into_bytes();
    mark.extend_from_slice(folder.as_os_str().as_bytes());
    let Ok(entries) = std::fs::read_dir("/proc") else { return };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(environment) = std::fs::read(entry.path().join("environ")) else { continue };
        if !environment.split(|&b| b == 0).any(|var| var == mark) {
            continue;
        }
        let Some(stat) = stat(pid) else { continue };
        if !recorded.contains(&stat.group)
            && let Some(group) = Pid::from_raw(stat.group)
        {
            tracing::warn!(pid, group = stat.group, "ending a child process that nobody recorded");
            // Gone meanwhile is as good.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

struct Stat {
    state: char,
    group: i32,
    started: u64,
}

/// `proc_pid_stat(5)`: fields 3, 5 and 22, counted behind the command's closing bracket, as the command may contain anything.
fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    Some(Stat {
        state: fields.next()?.chars().next()?,
        group: fields.nth(1)?.parse().ok()?,
        started: fields.nth(16)?.parse().ok()?,
    })
}
