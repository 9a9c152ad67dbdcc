//! The driver for HAProxy, against a real one: its own process, sessions that stay open, checks that fail.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

use common::{Control, PATIENCE, command};
use omnirelay_agent::config::AgentConfig;
use omnirelay_agent::driver::haproxy::{HaproxyConfig, HaproxyDriver};
use omnirelay_agent::driver::{Answer, Call, Driver, Exit, Target, Verb};
use omnirelay_agent::run_agent;
use omnirelay_contract::agent::{CommandVerb, Outcome};
use omnirelay_workflow::resource::Handover;
use omnirelay_workflow::{PeerId, WorkloadId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const WEB_07: &str = "checkout--web-07";

/// A HAProxy that balances over two servers of the test, which echo.
struct Haproxy {
    folder: tempfile::TempDir,
    process: Child,
    servers: Vec<(u16, JoinHandle<()>)>,
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        // It may have ended; there is nothing to do about it then.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// In PATH or where Debian has it.
fn find() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from));
    let found = folders.map(|folder| folder.join("haproxy")).find(|file| file.is_file());
    found.expect("these tests need HAProxy, and it is not on this machine: install it with `apt-get install haproxy`, or put it in PATH")
}

async fn echo(port: u16) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    (port, serving)
}

impl Haproxy {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let servers = vec![echo(0).await, echo(0).await];
        let here = folder.path().display();
        let config = format!(
            "global\n  stats socket {here}/admin.sock level admin\n\
             defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 5m\n  timeout server 5m\n\
             frontend all\n  bind unix@{here}/front.sock\n  default_backend checkout\n\
             backend checkout\n  balance roundrobin\n  default-server check inter 50ms rise 1 fall 1\n  \
             server web-07 127.0.0.1:{}\n  server web-08 127.0.0.1:{}\n",
            servers[0].0, servers[1].0
        );
        let file = folder.path().join("haproxy.cfg");
        std::fs::write(&file, config).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let process = Process::new(find())
            .args(["-db", "-f"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let haproxy = Self { folder, process, servers };
        let driver = haproxy.driver();
        until(async || {
            let list = ask(&driver, Verb::List, WEB_07).await;
            list.lines.len() == 2 && list.lines.iter().all(|line| line.ready)
        })
        .await;
        haproxy
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self, rest: &str) -> String {
        let socket = self.path("admin.sock");
        format!(
            "sockets = [\"unix:{}\"]\nservers = [\"checkout/web-07\", \"eight=checkout/web-08\"]\n{rest}",
            socket.display()
        )
    }

    fn driver(&self) -> HaproxyDriver {
        driver(&self.config(""))
    }

    /// A session that stays open: established as far as a server when this returns.
    async fn session(&self) -> UnixStream {
        let mut stream = UnixStream::connect(self.path("front.sock")).await.unwrap();
        stream.write_all(b"!").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'!');
        stream
    }

    async fn tell(&self, line: &str) -> String {
        let mut stream = UnixStream::connect(self.path("admin.sock")).await.unwrap();
        stream.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

fn driver(config: &str) -> HaproxyDriver {
    let config: HaproxyConfig = toml::from_str(config).unwrap();
    config.check().unwrap();
    HaproxyDriver::new(config)
}

async fn ask(driver: &HaproxyDriver, verb: Verb, workload: &str) -> Answer {
    let id = WorkloadId::parse(workload).unwrap();
    let target = Target { id, service: "checkout".to_owned(), unit: None, epoch: 1 };
    let target = matches!(verb, Verb::Status | Verb::Acquire | Verb::Release).then_some(target);
    driver.call(Call { verb, peer: PeerId::parse("p1").unwrap(), target, holds: Vec::new(), cluster: None }).await
}

async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "it does not come to pass");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn told(answer: &Answer) -> Vec<(&str, bool, Option<u64>)> {
    assert_eq!(answer.exit, Exit::Done, "{answer:?}");
    answer.lines.iter().map(|line| (line.id.as_str(), line.ready, line.remaining)).collect()
}

#[tokio::test]
async fn a_server_empties_before_it_is_released_and_comes_back() {
    let haproxy = Haproxy::start().await;
    let driver = haproxy.driver();
    let mut sessions = Vec::new();
    for _ in 0..6 {
        sessions.push(haproxy.session().await);
    }
    let busy = ask(&driver, Verb::Release, WEB_07).await;
    assert_eq!((busy.exit, busy.message.as_str(), busy.lines[0].remaining), (Exit::Busy, "3 sessions left", Some(3)));
    assert_eq!(told(&ask(&driver, Verb::List, WEB_07).await), [(WEB_07, false, Some(3)), ("eight", true, None)]);
    assert_eq!(ask(&driver, Verb::List, WEB_07).await.lines[0].unit.as_deref(), Some("checkout/web-07"));
    for _ in 0..4 {
        sessions.push(haproxy.session().await);
    }
    assert_eq!(ask(&driver, Verb::Release, WEB_07).await.message, "3 sessions left", "new ones go elsewhere");

    // A release can be taken back while it lasts.
    assert_eq!(told(&ask(&driver, Verb::Acquire, WEB_07).await), [(WEB_07, true, None)]);
    assert_eq!(ask(&driver, Verb::Release, WEB_07).await.exit, Exit::Busy);
    drop(sessions);
    until(async || ask(&driver, Verb::Release, WEB_07).await.exit == Exit::Done).await;
    assert_eq!(ask(&driver, Verb::Release, WEB_07).await, Answer::done(vec![]), "again");
    assert_eq!(told(&ask(&driver, Verb::List, WEB_07).await), [("eight", true, None)]);
    assert_eq!(ask(&driver, Verb::Status, WEB_07).await.message, "checkout/web-07 is DRAIN");
    assert_eq!(told(&ask(&driver, Verb::Acquire, WEB_07).await), [(WEB_07, true, None)]);
    assert_eq!(told(&ask(&driver, Verb::Acquire, WEB_07).await), [(WEB_07, true, None)], "again");
    for verb in [Verb::Cordon, Verb::Uncordon, Verb::Role] {
        assert_eq!(ask(&driver, verb, WEB_07).await, Answer::done(vec![]));
    }
}

#[tokio::test]
async fn a_failing_check_is_told_and_a_server_that_comes_back_is_ready_only_when_it_passes() {
    let mut haproxy = Haproxy::start().await;
    let driver = driver(&haproxy.config("when_empty = \"maint\""));
    let (port, serving) = haproxy.servers.remove(0);
    serving.abort();
    until(async || ask(&driver, Verb::Status, WEB_07).await.message.contains("Connection refused")).await;
    let status = ask(&driver, Verb::Status, WEB_07).await;
    assert_eq!(told(&status), [(WEB_07, false, None)]);
    assert!(status.message.starts_with("checkout/web-07 is DOWN: Layer4 connection problem"), "{}", status.message);

    assert_eq!(ask(&driver, Verb::Release, WEB_07).await.exit, Exit::Done);
    assert!(haproxy.tell("show stat").await.contains("MAINT"));
    assert_eq!(ask(&driver, Verb::Release, WEB_07).await.exit, Exit::Done, "somebody's maintenance is left alone");
    assert!(haproxy.tell("show stat").await.contains("MAINT"));

    // HAProxy calls a server up that leaves maintenance; nobody listens there yet.
    let back = ask(&driver, Verb::Acquire, WEB_07).await;
    assert!(!told(&back)[0].1 && !back.message.is_empty(), "{back:?}");
    haproxy.servers.push(echo(port).await);
    until(async || told(&ask(&driver, Verb::Status, WEB_07).await) == [(WEB_07, true, None)]).await;
}

#[tokio::test]
async fn what_is_configured_and_not_there_is_a_failure_and_no_empty_list() {
    let haproxy = Haproxy::start().await;
    let socket = haproxy.path("admin.sock").display().to_string();
    let missing = driver(&format!("sockets = [\"unix:{socket}\"]\nservers = [\"checkout/web-09\"]"));
    let at = format!("HAProxy at unix:{socket}");
    let list = ask(&missing, Verb::List, WEB_07).await;
    assert_eq!(list, Answer::failed(format!("{at} has no server checkout/web-09")));
    let acquired = ask(&missing, Verb::Acquire, "checkout--web-09").await;
    assert_eq!(acquired, Answer::failed(format!("{at}: checkout/web-09 state ready: No such server.")));
    let other = ask(&missing, Verb::Acquire, "other").await;
    let why = "other is no server of this peer; its [peer.haproxy] has checkout--web-09";
    assert_eq!(other, Answer::failed(why));
    assert_eq!(ask(&missing, Verb::Release, "other").await, Answer::done(vec![]), "what is not here is released");

    let driver = haproxy.driver();
    drop(haproxy);
    let list = ask(&driver, Verb::List, WEB_07).await;
    assert_eq!(list.exit, Exit::Failed);
    assert!(list.message.starts_with(&at), "{}", list.message);
}

/// Forwards a TCP port of its own to a Unix socket.
async fn forward(to: &Path) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let to = to.to_owned();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut unix = UnixStream::connect(&to).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut unix).await;
        }
    });
    port
}

#[tokio::test]
async fn two_balancers_are_both_told_and_their_sessions_added_up() {
    let (one, two) = (Haproxy::start().await, Haproxy::start().await);
    let port = forward(&two.path("admin.sock")).await;
    let socket = one.path("admin.sock");
    let both = driver(&format!(
        "sockets = [\"unix:{}\", \"tcp:127.0.0.1:{port}\"]\nservers = [\"checkout/web-07\"]",
        socket.display()
    ));
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        first.push(one.session().await);
        second.push(two.session().await);
    }
    assert_eq!(ask(&both, Verb::Release, WEB_07).await.message, "2 sessions left");
    drop(first);
    until(async || ask(&both, Verb::Release, WEB_07).await.message == "1 session left").await;
    drop(second);
    until(async || ask(&both, Verb::Release, WEB_07).await.exit == Exit::Done).await;
    for haproxy in [&one, &two] {
        assert!(haproxy.tell("show stat").await.contains("DRAIN"));
    }
}

#[tokio::test]
async fn an_agent_drains_a_server_over_the_bus() {
    let mut control = Control::new().await;
    control.create_stream().await;
    let haproxy = Haproxy::start().await;
    let file = haproxy.path("agent.toml");
    let text = format!(
        "nats = {:?}\nstate_dir = {:?}\nheartbeat = \"200ms\"\n\
         [[peer]]\nid = \"p1\"\ncluster = \"c1\"\ndriver = \"haproxy\"\n[peer.haproxy]\n{}",
        control.url,
        haproxy.path("state"),
        haproxy.config("")
    );
    std::fs::write(&file, text).unwrap();
    let shutdown = CancellationToken::new();
    let agent = tokio::spawn(run_agent(AgentConfig::load(&file).unwrap(), shutdown.clone()));
    let first = control.heartbeat("p1", |_| true).await;
    let workload = first.workloads.iter().find(|w| w.id.as_str() == WEB_07).unwrap();
    assert_eq!((workload.service.as_str(), workload.ready), ("checkout", true));
    assert_eq!((workload.handover, workload.restorable), (Handover::ReleaseOnly, true));

    let sessions = [haproxy.session().await, haproxy.session().await];
    let go = command("op-1", CommandVerb::Release, "p1", WEB_07, 1);
    control.accepted(&go).await;
    let busy = Outcome::Busy { remaining: Some(1), message: "1 session left".to_owned() };
    assert_eq!(control.report(&go).await.outcome, busy);
    control.heartbeat("p1", |h| h.workloads.iter().any(|w| w.remaining == Some(1))).await;
    drop(sessions);
    assert_eq!(control.outcome(&go).await, Outcome::Done);
    control.heartbeat("p1", |h| h.workloads.len() == 1).await;
    let come = command("op-2", CommandVerb::Acquire, "p1", WEB_07, 2);
    control.accepted(&come).await;
    assert_eq!(control.outcome(&come).await, Outcome::Done);
    shutdown.cancel();
    tokio::time::timeout(PATIENCE, agent).await.unwrap().unwrap().unwrap();
}
