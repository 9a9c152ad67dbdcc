//! The operator: the real command line, as a process of its own, with its output on the screen.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use omnirelay_devstack::Guardian;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

use super::process::omnirelay;
use super::report::Screen;

/// No command of the demo takes nearly as long.
const LIMIT: Duration = Duration::from_secs(45);

/// Somebody with a token at a terminal.
#[derive(Clone)]
pub struct Operator {
    pub subject: &'static str,
    pub url: String,
    pub nats: String,
    pub token: String,
    /// A file that is not there: what the user has configured is none of the demo's business.
    pub config: std::path::PathBuf,
    pub guardian: Guardian,
    pub screen: Arc<Screen>,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Ran {
    /// None where a signal ended it.
    pub exit: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Operator {
    /// Shows the command and every line of its output.
    pub async fn run(&self, line: &[&str]) -> anyhow::Result<Ran> {
        self.screen.line(&format!("{}$ omnirelay {}", self.subject, shown(line)));
        let ran = self.start(line, true).await?;
        self.screen
            .line(&format!("exit {}", ran.exit.map_or_else(|| "by a signal".to_owned(), |code| code.to_string())));
        Ok(ran)
    }

    /// Shows nothing.
    pub async fn ask(&self, line: &[&str]) -> anyhow::Result<Ran> {
        self.start(line, false).await
    }

    async fn start(&self, line: &[&str], quote: bool) -> anyhow::Result<Ran> {
        let mut child = omnirelay()?
            .args(line)
            .env("OMNIRELAY_URL", &self.url)
            .env("OMNIRELAY_NATS_URL", &self.nats)
            .env("OMNIRELAY_TOKEN", &self.token)
            .env("OMNIRELAY_CONFIG", &self.config)
            .env("NO_COLOR", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        // One that has ended already needs no guard.
        let _guard = child.id().and_then(|pid| self.guardian.guard(pid).ok());
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let ended = async {
            let (stdout, stderr) = tokio::join!(self.read(out, quote), self.read(err, quote));
            let status = child.wait().await.context("a command cannot be waited for")?;
            anyhow::Ok(Ran { exit: status.code(), stdout: stdout?, stderr: stderr? })
        };
        // A follower waits for a lost API for as long as it takes; the demo does not.
        let line = shown(line);
        tokio::time::timeout(LIMIT, ended)
            .await
            .with_context(|| format!("`omnirelay {line}` did not end within {} s", LIMIT.as_secs()))?
    }

    async fn read(&self, from: Option<impl AsyncRead + Unpin>, quote: bool) -> anyhow::Result<String> {
        let Some(from) = from else { return Ok(String::new()) };
        let mut lines = BufReader::new(from).lines();
        let mut text = String::new();
        while let Some(line) = lines.next_line().await? {
            if quote && !line.trim().is_empty() {
                self.screen.quote(&line);
            }
            text.push_str(&line);
            text.push('\n');
        }
        Ok(text)
    }
}

fn shown(line: &[&str]) -> String {
    let quoted = |word: &&str| if word.contains(' ') { format!("\"{word}\"") } else { (*word).to_owned() };
    line.iter().map(quoted).collect::<Vec<_>>().join(" ")
}
