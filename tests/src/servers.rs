//! The servers beneath a stack, stopped and started by a test. `dev` never restarts its own, so whoever takes one down
//! brings it back: the same program, arguments, user and folder.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::process::{Process, alive, gone, processes_that_mention};
use crate::stack::Stack;

/// How to start a server again.
pub struct Server {
    name: &'static str,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(String, OsString)>,
    user: (u32, u32),
    logs: PathBuf,
    pid: u32,
    ours: Option<Process>,
}

impl Server {
    pub fn nats(stack: &Stack) -> Self {
        Self::find(stack, "nats-server")
    }

    pub fn postgres(stack: &Stack) -> Self {
        Self::find(stack, "postgres")
    }

    fn find(stack: &Stack, name: &'static str) -> Self {
        let state = stack.state_dir().display().to_string();
        let found = processes_that_mention(&state).into_keys().find(|pid| {
            let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            program.file_name().is_some_and(|file| file == name)
        });
        let pid = found.unwrap_or_else(|| panic!("{name} of {state} runs"));
        let proc = Path::new("/proc").join(pid.to_string());
        let words = |file: &str| -> Vec<OsString> {
            let bytes = std::fs::read(proc.join(file)).expect("a process can be read");
            bytes
                .split(|byte| *byte == 0)
                .filter(|word| !word.is_empty())
                .map(|w| OsString::from_vec(w.to_vec()))
                .collect()
        };
        let env = words("environ").into_iter().filter_map(|pair| {
            let text = pair.to_string_lossy().into_owned();
            text.split_once('=').map(|(name, value)| (name.to_owned(), value.into()))
        });
        let owner = std::fs::metadata(&proc).expect("a process has an owner");
        Self {
            name,
            program: std::fs::read_link(proc.join("exe")).expect("a program"),
            args: words("cmdline").split_off(1),
            env: env.collect(),
            user: (owner.uid(), owner.gid()),
            logs: stack.folder().to_owned(),
            pid,
            ours: None,
        }
    }

    /// SIGKILL, as a crash or a pulled plug.
    pub async fn kill_9(&mut self) {
        self.end(Signal::KILL).await;
    }

    /// An orderly end that does not wait for clients.
    pub async fn shut_down(&mut self) {
        self.end(Signal::INT).await;
    }

    async fn end(&mut self, signal: Signal) {
        self.signal(signal);
        match self.ours.take() {
            Some(ours) => ours.ended().await,
            None => gone(&[self.pid]).await,
        }
    }

    /// Freezes it: connections stand, nothing is answered.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    pub fn start(&mut self) {
        assert!(!alive(self.pid), "{} runs already", self.name);
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear().current_dir("/");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        // Only root may and must become somebody else.
        if rustix::process::geteuid().is_root() && self.user.0 != 0 {
            command.gid(self.user.1).uid(self.user.0);
        }
        let process = Process::start(self.name, command, &self.logs);
        self.pid = process.id();
        self.ours = Some(process);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, signal).expect("a server can be signalled");
    }
}
