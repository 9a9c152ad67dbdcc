//! No server outlives the process that started it, however that process ends; and the next start copes with whatever is left.
//!
//! The process to end is this test binary itself, run again with only [`hold`] and told by the environment what to do.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use omnirelay_devstack::{Devstack, DevstackError, Options, testing};
use rustix::process::{Pid, Signal, kill_process};

const HOLD: &str = "OMNIRELAY_TEST_HOLD";
const STATE: &str = "OMNIRELAY_TEST_STATE";

/// Starts a stack, prints `ready <nats pid> <postgres pid> <state dir>`, and then ends as told or waits to be killed.
#[tokio::test]
async fn hold() {
    let Ok(mode) = std::env::var(HOLD) else { return };
    let stack = match std::env::var_os(STATE) {
        Some(dir) => Devstack::start(small(Path::new(&dir))).await.unwrap(),
        None => testing::own().await,
    };
    let pids = (stack.nats_pid().unwrap(), stack.postgres_pid().unwrap());
    println!("\nready {} {} {}", pids.0, pids.1, stack.state_dir().display());
    match mode.as_str() {
        "panic" => panic!("as told"),
        "exit" => std::process::exit(0),
        _ => std::future::pending::<()>().await,
    }
}

#[tokio::test]
async fn kill_9_leaves_no_servers_and_the_next_start_resumes() {
    for signal in [Signal::KILL, Signal::TERM, Signal::INT] {
        let dir = tempfile::tempdir().unwrap();
        let mut holder = Holder::start("wait", Some(dir.path()));
        kill(holder.child.id(), signal);
        holder.await_the_end();
        let stack = Devstack::start(small(dir.path())).await.unwrap();
        stack.remove().await.unwrap();
    }
}

#[test]
fn a_panic_leaves_no_servers() {
    let dir = tempfile::tempdir().unwrap();
    Holder::start("panic", Some(dir.path())).await_the_end();
}

#[test]
fn a_stack_for_tests_is_deleted_when_the_process_exits() {
    let mut holder = Holder::start("exit", None);
    holder.await_the_end();
    await_that("the state directory is deleted", || !holder.state_dir.exists());
}

#[tokio::test]
async fn a_start_takes_over_where_even_the_watchdog_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut holder = Holder::start("wait", Some(dir.path()));
    kill(watchdog_of(&holder), Signal::KILL);
    kill(holder.child.id(), Signal::KILL);
    holder.child.wait().unwrap();
    assert!(holder.servers.iter().all(|pid| runs(*pid)), "nobody is left to stop them");

    let stack = Devstack::start(small(dir.path())).await.unwrap();
    assert!(!holder.servers.iter().any(|pid| runs(*pid)), "stopped before the new ones were started");
    stack.remove().await.unwrap();
}

#[tokio::test]
async fn a_directory_in_use_is_refused_with_the_holders_pid() {
    let dir = tempfile::tempdir().unwrap();
    let mut holder = Holder::start("wait", Some(dir.path()));
    let Err(error) = Devstack::start(small(dir.path())).await else { panic!("two stacks in one directory") };
    assert!(
        matches!(&error, DevstackError::Held { holder: pid, .. } if *pid == holder.child.id().to_string()),
        "{error}"
    );
    assert!(holder.servers.iter().all(|pid| runs(*pid)));
    kill(holder.child.id(), Signal::KILL);
    holder.await_the_end();
}

#[tokio::test]
async fn pid_files_of_dead_and_of_other_processes_are_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run/1-earlier");
    std::fs::create_dir_all(&run).unwrap();
    // A process with the pid and start time of the file, but not of this state directory.
    let mut bystander = Command::new("sleep").arg("600").spawn().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", bystander.id())).unwrap();
    std::fs::write(run.join("nats-server.pid"), stat).unwrap();
    let mut dead = Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    std::fs::write(
        run.join("PostgreSQL.pid"),
        format!("{} (postgres) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5\n", dead.id()),
    )
    .unwrap();
    std::fs::write(run.join("initdb.pid"), "").unwrap();

    let options = Options { postgres: false, ..small(dir.path()) };
    Devstack::start(options).await.unwrap().stop().await.unwrap();
    let lives = bystander.try_wait().unwrap().is_none();
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    assert!(lives, "a process that was none of ours was stopped");
    assert!(!run.exists());
}

/// This test binary, run again and holding a stack.
struct Holder {
    child: Child,
    servers: [u32; 2],
    state_dir: PathBuf,
}

impl Holder {
    fn start(mode: &str, dir: Option<&Path>) -> Holder {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "hold", "--nocapture"]).env(HOLD, mode).env_remove(STATE);
        command.envs(dir.map(|dir| (STATE, dir)));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let Some(line) = lines.find(|line| line.starts_with("ready ")) else { panic!("the holder did not start") };
        let words: Vec<&str> = line.split(' ').collect();
        let servers = [words[1].parse().unwrap(), words[2].parse().unwrap()];
        Holder { child, servers, state_dir: words[3].into() }
    }

    fn await_the_end(&mut self) {
        self.child.wait().unwrap();
        await_that("both servers are gone", || !self.servers.iter().any(|pid| runs(*pid)));
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn small(dir: &Path) -> Options {
    Options { small: true, ..Options::new(dir) }
}

fn watchdog_of(holder: &Holder) -> u32 {
    let state_dir = holder.state_dir.to_str().unwrap();
    let pids =
        std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_it = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        line.contains("omnirelay-watchdog") && line.contains(state_dir)
    };
    pids.into_iter().find(is_it).expect("a watchdog")
}

/// A zombie does not run: its new parent may never look at it.
fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|line| !line[line.rfind(')').unwrap()..].starts_with(") Z"))
}

fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

#[track_caller]
fn await_that(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
