//! Tells a driver's author what is wrong with the driver: calls every verb the way the agent does and judges the answers.
//!
//! The check acquires and releases a workload, so it is not to be run on a peer with one of the same name. The rules are those
//! of `docs/drivers.md`.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use omnirelay_contract::agent::ClusterRole;
use omnirelay_workflow::resource::Role;
use omnirelay_workflow::{ClusterId, PeerId, WorkloadId};
use tokio::time::Instant;

use crate::args::CheckDriverArgs;
use crate::driver::exec::{ExecDriver, MAX_LINE, Ran, run};
use crate::driver::{Call, Line, Target, Verb};

const BUSY: i32 = 75;
/// Between two questions to a driver that is busy or not ready.
const POLL: Duration = Duration::from_millis(200);

/// What the checker needs to know besides the driver's path.
#[derive(Debug, Clone)]
pub struct CheckOptions {
    /// May be acquired and released.
    pub workload: WorkloadId,
    pub service: String,
    /// Told to the driver as OMNIRELAY_PEER.
    pub peer: PeerId,
    pub cluster: ClusterId,
    /// Before the verb.
    pub args: Vec<String>,
    /// The longest that a call, getting ready, or being released may take.
    pub timeout: Duration,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub check: &'static str,
    pub ok: bool,
    /// When it fails: what was seen, and what to do about it.
    pub detail: String,
}

/// `omnirelay agent check-driver`: prints the findings; an error when anything fails.
pub async fn check_driver_cli(args: &CheckDriverArgs) -> anyhow::Result<()> {
    let options = CheckOptions {
        workload: args.workload.clone(),
        service: args.service.clone(),
        peer: args.peer.clone(),
        cluster: args.cluster.clone(),
        args: args.args.clone(),
        timeout: args.timeout,
    };
    let findings = check_driver(&args.path, &options).await;
    print(&findings)?;
    let failed = findings.iter().filter(|finding| !finding.ok).count();
    anyhow::ensure!(failed == 0, "{failed} of {} checks failed; the protocol is in docs/drivers.md", findings.len());
    Ok(())
}

fn print(findings: &[Finding]) -> std::io::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    for finding in findings {
        let word = if finding.ok { "pass" } else { "FAIL" };
        writeln!(out, "{word}  {}", finding.check)?;
        if !finding.detail.is_empty() {
            writeln!(out, "      {}", finding.detail)?;
        }
    }
    Ok(())
}

/// Checks the driver at `path`. The findings are in the order of the checks; a driver that cannot be run has just one.
pub async fn check_driver(path: &Path, options: &CheckOptions) -> Vec<Finding> {
    let mut check = Checker::new(path, options);
    check.executable(path);
    if check.findings.iter().all(|finding| finding.ok) {
        check.before().await;
        if check.acquire().await {
            check.acquire_again().await;
        }
        check.holds().await;
        check.roles().await;
        check.release().await;
        check.release_again().await;
        check.unknown_verb().await;
    }
    check.findings
}

struct Checker {
    driver: ExecDriver,
    peer: PeerId,
    /// Told to the driver as OMNIRELAY_CLUSTER.
    cluster: ClusterId,
    target: Target,
    timeout: Duration,
    findings: Vec<Finding>,
}

/// What a call came to.
struct Seen {
    code: Option<i32>,
    lines: Result<Vec<Line>, String>,
    message: String,
}

impl Checker {
    fn new(path: &Path, options: &CheckOptions) -> Self {
        // A relative path would be looked up in PATH.
        let program: PathBuf = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let env = BTreeMap::from([("OMNIRELAY_SERVICES".to_owned(), options.service.clone())]);
        let id = options.workload.clone();
        Self {
            driver: ExecDriver { program, args: options.args.clone(), env, timeout: options.timeout },
            peer: options.peer.clone(),
            cluster: options.cluster.clone(),
            target: Target { id, service: options.service.clone(), unit: None, epoch: 1 },
            timeout: options.timeout,
            findings: Vec::new(),
        }
    }

    fn executable(&mut self, path: &Path) {
        let result = match std::fs::metadata(path) {
            Err(error) => Err(format!("{}: {error}", path.display())),
            Ok(meta) if !meta.is_file() => Err(format!("{} is not a file", path.display())),
            Ok(meta) if meta.permissions().mode() & 0o111 == 0 => {
                Err(format!("{} is not executable: chmod +x it", path.display()))
            }
            Ok(_) => Ok(()),
        };
        self.note("it can be executed", result);
    }

    async fn before(&mut self) {
        let list = self.call(Verb::List).await;
        self.note("list: exits with 0", list.as_ref().map_err(Clone::clone).and_then(exits_with_zero));
        let Ok(list) = list else { return };
        self.note("list: one JSON object a line", list.lines.as_ref().map(|_| ()).map_err(Clone::clone));
        let raw = self.raw(Verb::List).await;
        self.note("list: each line has id, service and ready", raw.and_then(|ran| fields(&ran)));
        let status = self.call(Verb::Status).await;
        self.note(
            "status: exits with 0, also for a workload that is not here",
            status.and_then(|s| exits_with_zero(&s)),
        );
    }

    async fn acquire(&mut self) -> bool {
        let acquired = self.until_done(Verb::Acquire).await;
        let ok = acquired.is_ok();
        self.note("acquire: exits with 0 (75 while it must be asked again)", acquired);
        if !ok {
            return false;
        }
        let ready = self.until_ready().await;
        self.note("status: says \"ready\": true some time after acquire", ready);
        let listed = self.listed().await;
        self.note("list: shows the acquired workload, once, with its service", listed);
        true
    }

    async fn acquire_again(&mut self) {
        let again = self
            .call(Verb::Acquire)
            .await
            .and_then(|s| exits_with_zero(&s))
            .map_err(|why| format!("{why}; acquire is repeated after failures: what runs already is a success"));
        self.note("acquire again: exits with 0", again);
        let listed = self.listed().await;
        self.note("acquire again: still there once", listed);
    }

    async fn holds(&mut self) {
        for (verb, check) in [(Verb::Cordon, "cordon: exits with 0"), (Verb::Uncordon, "uncordon: exits with 0")] {
            let result = self.call(verb).await.and_then(|s| exits_with_zero(&s));
            self.note(check, result.map_err(|why| format!("{why}; a driver that has nothing to do exits with 0")));
        }
    }

    /// As in a failover and back; the peer is left active.
    async fn roles(&mut self) {
        for (version, role, check) in [
            (1, Role::Fenced, "role fenced: exits with 0 (75 while it must be asked again)"),
            (1, Role::Passive, "role passive: exits with 0 (75 while it must be asked again)"),
            (2, Role::Active, "role active: exits with 0 (75 while it must be asked again)"),
            (2, Role::Active, "role again: exits with 0"),
        ] {
            let cluster = Some(ClusterRole { cluster: self.cluster.clone(), failover_version: version, role });
            let result = self.asked(&Call { cluster, ..self.to(Verb::Role) }).await;
            self.note(check, result.map_err(|why| format!("{why}; a promotion waits for every peer's driver")));
        }
    }

    async fn release(&mut self) {
        let released = self.until_done(Verb::Release).await;
        self.note("release: exits with 0 (75 with words or \"remaining\" while it is busy)", released);
        let gone = match self.call(Verb::List).await {
            Err(why) => Err(why),
            Ok(seen) => match seen.lines {
                Ok(lines) if lines.iter().any(|line| line.id == self.target.id) => {
                    Err("list still shows it: release exits with 75 until nothing is left".to_owned())
                }
                Ok(_) => Ok(()),
                Err(why) => Err(why),
            },
        };
        self.note("list: no longer shows the released workload", gone);
        let status = match self.call(Verb::Status).await {
            Err(why) => Err(why),
            Ok(seen) => exits_with_zero(&seen).and_then(|()| match seen.lines {
                Ok(lines) if lines.iter().any(|l| l.id == self.target.id && l.ready) => {
                    Err("status says \"ready\": true of a workload that was released".to_owned())
                }
                Ok(_) => Ok(()),
                Err(why) => Err(why),
            }),
        };
        self.note("status: a released workload is not ready", status);
    }

    async fn release_again(&mut self) {
        let again = self
            .call(Verb::Release)
            .await
            .and_then(|s| exits_with_zero(&s))
            .map_err(|why| format!("{why}; release is repeated after failures: what is not here is a success"));
        self.note("release again: exits with 0", again);
    }

    async fn unknown_verb(&mut self) {
        let call = self.to(Verb::Status);
        let ran = run(self.driver.command_of("no-such-verb", &call), self.timeout).await;
        let result = match ran {
            Err(why) => Err(why),
            Ok(ran) if matches!(ran.status.code(), Some(0 | BUSY)) => Err(format!(
                "{}; verbs may be added: exit with 1 and say so on stderr",
                ran.status.code().map_or_else(|| "it was killed".to_owned(), |code| format!("it exits with {code}"))
            )),
            Ok(ran) if ran.message.is_empty() => {
                Err("it says nothing on stderr: the last line of stderr is what operators see".to_owned())
            }
            Ok(_) => Ok(()),
        };
        self.note("an unknown verb: fails, with words on stderr", result);
    }

    /// Asks until the exit code is not 75.
    async fn until_done(&self, verb: Verb) -> Result<(), String> {
        self.asked(&self.to(verb)).await
    }

    async fn asked(&self, call: &Call) -> Result<(), String> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let seen = seen(&self.run(call).await?);
            if seen.code != Some(BUSY) {
                return exits_with_zero(&seen);
            }
            let remaining = seen.lines?.iter().any(|line| line.remaining.is_some());
            if seen.message.is_empty() && !remaining {
                return Err("it exits with 75 and does not say on stderr what it waits for".to_owned());
            }
            if Instant::now() >= deadline {
                let waited = humantime::format_duration(self.timeout);
                return Err(format!("it still exits with 75 after {waited}: {}", seen.message));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn until_ready(&self) -> Result<(), String> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let seen = self.call(Verb::Status).await?;
            exits_with_zero(&seen)?;
            let lines = seen.lines?;
            let line = lines.iter().find(|line| line.id == self.target.id);
            if line.is_some_and(|line| line.ready) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let waited = humantime::format_duration(self.timeout);
                return Err(match line {
                    None => format!("after {waited} status still prints no line with the workload's id"),
                    Some(_) => format!("after {waited} it is not ready: {}", seen.message),
                });
            }
            if line.is_some() && seen.message.is_empty() {
                return Err("it is not ready, and status does not say on stderr why".to_owned());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn listed(&self) -> Result<(), String> {
        let lines = self.call(Verb::List).await?.lines?;
        let mut same = lines.iter().filter(|line| line.id == self.target.id);
        match (same.next(), same.next()) {
            (None, _) => Err(format!("list prints no line with the id {}", self.target.id)),
            (Some(_), Some(_)) => Err("list prints it more than once".to_owned()),
            (Some(line), None) if line.service != self.target.service => {
                Err(format!("its service is {:?}, OMNIRELAY_SERVICE was {:?}", line.service, self.target.service))
            }
            (Some(_), None) => Ok(()),
        }
    }

    async fn call(&self, verb: Verb) -> Result<Seen, String> {
        Ok(seen(&self.raw(verb).await?))
    }

    async fn raw(&self, verb: Verb) -> Result<Ran, String> {
        self.run(&self.to(verb)).await
    }

    async fn run(&self, call: &Call) -> Result<Ran, String> {
        run(self.driver.command_of(call.verb.as_str(), call), self.timeout).await
    }

    fn to(&self, verb: Verb) -> Call {
        let target = match verb {
            Verb::Status | Verb::Acquire | Verb::Release => Some(self.target.clone()),
            Verb::List | Verb::Cordon | Verb::Uncordon | Verb::Role => None,
        };
        Call { verb, peer: self.peer.clone(), target, holds: Vec::new(), cluster: None }
    }

    fn note(&mut self, check: &'static str, result: Result<(), String>) {
        let ok = result.is_ok();
        self.findings.push(Finding { check, ok, detail: result.err().unwrap_or_default() });
    }
}

fn seen(ran: &Ran) -> Seen {
    let lines = crate::driver::exec::parse_lines(&ran.stdout);
    Seen { code: ran.status.code(), lines, message: ran.message.clone() }
}

fn exits_with_zero(seen: &Seen) -> Result<(), String> {
    let words = if seen.message.is_empty() { String::new() } else { format!(" ({})", seen.message) };
    match seen.code {
        Some(0) => Ok(()),
        Some(code) => Err(format!("it exits with {code}{words}")),
        None => Err(format!("it was ended by a signal{words}")),
    }
}

/// The agent takes what is missing as empty and not ready; an author wants to know.
fn fields(ran: &Ran) -> Result<(), String> {
    for line in ran.stdout.split(|&b| b == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
        if line.len() > MAX_LINE {
            return Err(format!("a line is longer than {MAX_LINE} bytes"));
        }
        let value: serde_json::Value =
            serde_json::from_slice(line).map_err(|error| format!("a line is not JSON: {error}"))?;
        for (field, right) in [
            ("id", value["id"].is_string()),
            ("service", value["service"].is_string()),
            ("ready", value["ready"].is_boolean()),
        ] {
            if !right {
                return Err(format!("{field:?} is missing or of the wrong kind in {value}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
