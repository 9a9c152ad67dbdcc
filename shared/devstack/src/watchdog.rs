//! The process that stops the servers when we can no longer do so ourselves.
//!
//! It reads from a pipe whose write end we alone hold (close-on-exec, so no child has it). When we end in whatever way,
//! the pipe ends, and the watchdog stops what the pid files of this run still name. It is a shell script because the
//! alternative, a parent-death signal, needs `unsafe` between fork and exec and does not survive a change of user.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::error::{DevstackError, Doing};

const SCRIPT: &str = include_str!("watchdog.sh");

pub(crate) struct Watchdog {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Watchdog {
    /// Guards the servers named in `run`. With `delete`, they are taken down at once, and those folders removed.
    pub(crate) fn start(run: &Path, delete: &[PathBuf]) -> Result<Watchdog, DevstackError> {
        // Data about to be deleted needs no orderly shutdown. QUIT is PostgreSQL's immediate one: unlike KILL it takes
        // the backends along and frees the shared memory.
        let (nats, postgres) = if delete.is_empty() { ("TERM", "INT") } else { ("KILL", "QUIT") };
        let mut command = Command::new("/bin/sh");
        command
            .arg("-c")
            .arg(without_comments(SCRIPT))
            .arg("omnirelay-watchdog")
            .arg(run)
            .args([nats, postgres])
            .args(delete)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .process_group(0);
        let mut child = command.spawn().doing("start", Path::new("/bin/sh"))?;
        let pipe = child.stdin.take();
        Ok(Watchdog { child, pipe })
    }
}

impl Drop for Watchdog {
    /// The servers are stopped by now, so this takes milliseconds.
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.child.wait();
    }
}

/// The script is the watchdog's command line, which people see in `ps`.
fn without_comments(script: &str) -> String {
    let code = script.lines().filter(|line| !line.is_empty() && !line.trim_start().starts_with('#'));
    code.collect::<Vec<_>>().join("\n")
}
