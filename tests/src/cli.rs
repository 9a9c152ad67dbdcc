//! The command line: piped, as scripts run it, and in a pseudo-terminal, as people do.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use expectrl::process::unix::WaitStatus;
use expectrl::session::OsSession;
use expectrl::{ControlCode, Eof, Expect as _, Session};
use serde_json::Value;

use crate::binary::binary;

/// What every command is run with. Nothing of this process's environment reaches it but PATH.
#[derive(Debug, Clone)]
pub struct Cli {
    home: PathBuf,
    env: Vec<(String, String)>,
}

/// How a piped command ended.
#[derive(Debug, Clone)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Cli {
    pub fn new(home: &Path, url: &str, token: Option<&str>) -> Self {
        let mut env = vec![("OMNIRELAY_URL".to_owned(), url.to_owned())];
        env.extend(token.map(|token| ("OMNIRELAY_TOKEN".to_owned(), token.to_owned())));
        Self { home: home.to_owned(), env }
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).env_clear().env("HOME", &self.home).env("TERM", "xterm-256color");
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs it to its end, without a terminal.
    pub async fn run(&self, args: &[&str]) -> Output {
        let mut command = self.command(args);
        command.stdin(Stdio::null());
        let output =
            tokio::task::spawn_blocking(move || command.output()).await.expect("joined").expect("the CLI runs");
        Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs it in a terminal. What follows blocks the thread, like somebody who types.
    pub fn terminal(&self, args: &[&str]) -> Terminal {
        let mut session = Session::spawn(self.command(args)).expect("a terminal");
        session.get_process_mut().set_window_size(140, 40).expect("a size");
        session.set_expect_timeout(Some(Duration::from_secs(30)));
        Terminal { session, seen: String::new() }
    }
}

impl Output {
    /// # Panics
    /// If it ended with another code.
    #[track_caller]
    pub fn expect(&self, code: i32) -> &Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// What `-o json` printed.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

/// A command in a pseudo-terminal.
pub struct Terminal {
    session: OsSession,
    seen: String,
}

impl Terminal {
    /// Waits until the text is on the screen; what came with it.
    ///
    /// # Panics
    /// If it does not come.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        match self.session.expect(text) {
            Ok(found) => {
                let bytes = String::from_utf8_lossy(found.as_bytes()).into_owned();
                self.seen.push_str(&bytes);
                bytes
            }
            Err(error) => {
                let rest =
                    self.session.check(expectrl::NBytes(4096)).map(|rest| rest.as_bytes().to_vec()).unwrap_or_default();
                panic!("no {text:?} ({error}) after {:?} {:?}", self.seen, String::from_utf8_lossy(&rest))
            }
        }
    }

    /// Waits so long for what comes next, instead of half a minute.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.session.set_expect_timeout(Some(patience));
        self
    }

    pub fn type_line(&mut self, text: &str) {
        self.session.send_line(text).expect("somebody reads");
    }

    pub fn ctrl_c(&mut self) {
        self.session.send(ControlCode::EndOfText).expect("somebody reads");
    }

    /// The rest of what it printed, and its exit code.
    pub fn end(mut self) -> (String, i32) {
        match self.session.expect(Eof) {
            Ok(rest) => self.seen.push_str(&String::from_utf8_lossy(rest.as_bytes())),
            Err(expectrl::Error::ExpectTimeout) => self.expect("its end").truncate(0),
            // The terminal may be gone before its end is seen.
            Err(_) => {}
        }
        match self.session.get_process().wait().expect("it ends") {
            WaitStatus::Exited(_, code) => (self.seen, code),
            other => panic!("ended by {other:?} after {:?}", self.seen),
        }
    }
}
