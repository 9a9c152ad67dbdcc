use std::io::{Read, Write};
use std::net::TcpListener;

use super::*;

/// Not a test: the child that the tests below start, this very binary. Answers HTTP on `PORT`: `/ready`, and `/sessions` from a
/// file beside the test's folder.
#[test]
#[ignore = "the child process of the other tests"]
fn child() {
    let Ok(port) = std::env::var("PORT") else { return };
    let folder = PathBuf::from(std::env::var(OWNER).unwrap());
    let role = std::env::var("OMNIRELAY_ROLE").unwrap_or_else(|_| "none".to_owned());
    std::fs::write(folder.join("born"), role).unwrap();
    let listener = TcpListener::bind(("127.0.0.1", port.parse().unwrap())).unwrap();
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut request = [0; 1024];
        let n = stream.read(&mut request).unwrap();
        let (status, body) = if request[..n].starts_with(b"POST /role/") {
            let role = String::from_utf8_lossy(&request[11..n]).split(' ').next().unwrap_or_default().to_owned();
            let busy = folder.join("writing").exists();
            if !busy {
                std::fs::write(folder.join("told"), role).unwrap();
            }
            (if busy { "503 Service Unavailable" } else { "204 No Content" }, "3 writes".repeat(usize::from(busy)))
        } else if request[..n].starts_with(b"GET /sessions") {
            ("200 OK", std::fs::read_to_string(folder.join("sessions")).unwrap_or_else(|_| "0".to_owned()))
        } else if folder.join("sick").exists() {
            ("503 Service Unavailable", String::new())
        } else {
            ("200 OK", String::new())
        };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        let _ = stream.write_all(answer.as_bytes());
    }
}

fn options(folder: &Path) -> ProcessOptions {
    let me = std::env::current_exe().unwrap().display().to_string();
    let template = Template {
        command: [me.as_str(), "--exact", "driver::process::tests::child", "--ignored", "--nocapture"]
            .map(str::to_owned)
            .to_vec(),
        ready: Some("http://127.0.0.1:{port}/ready".to_owned()),
        port_base: None,
        stop_signal: StopSignal(Signal::TERM),
        stop_grace: Duration::from_secs(5),
        stop_delay: Duration::ZERO,
        drain_url: Some("http://127.0.0.1:{port}/sessions".to_owned()),
        role_url: Some("http://127.0.0.1:{port}/role/{role}".to_owned()),
    };
    ProcessOptions {
        peer: PeerId::parse("p1").unwrap(),
        templates: BTreeMap::from([("web".to_owned(), template)]),
        start: vec![(id("w1"), "web".to_owned())],
        folder: folder.to_owned(),
        ports: Arc::new(Ports::default()),
    }
}

fn id(text: &str) -> WorkloadId {
    WorkloadId::parse(text).unwrap()
}

async fn ask(driver: &ProcessDriver, verb: Verb, workload: &str) -> Answer {
    let target = Target { id: id(workload), service: "web".to_owned(), unit: None, epoch: 1 };
    driver
        .call(Call { verb, peer: PeerId::parse("p1").unwrap(), target: Some(target), holds: vec![], cluster: None })
        .await
}

/// Asks until the answer is as wanted.
async fn until(driver: &ProcessDriver, verb: Verb, workload: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = ask(driver, verb, workload).await;
        if wanted(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "{verb} of {workload} still answers {answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn is_ready(answer: &Answer) -> bool {
    answer.lines.iter().any(|line| line.ready)
}

fn pid(folder: &Path, workload: &str) -> Found {
    read_endpoints(folder).unwrap()[workload].process.clone().unwrap()
}

#[tokio::test]
async fn a_workload_is_started_checked_drained_and_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let driver = ProcessDriver::open(options(folder.path())).unwrap();
    until(&driver, Verb::Status, "w1", is_ready).await;

    assert_eq!(ask(&driver, Verb::Acquire, "w2").await.exit, Exit::Done);
    let ready = until(&driver, Verb::Status, "w2", is_ready).await;
    let endpoint = read_endpoints(folder.path()).unwrap()["w2"].clone();
    assert!(endpoint.ready);
    assert_eq!(ready.lines[0].unit, Some(format!("w2@127.0.0.1:{}", endpoint.port)));
    let process = pid(folder.path(), "w2");
    assert_eq!(ask(&driver, Verb::Acquire, "w2").await.exit, Exit::Done);
    assert_eq!(pid(folder.path(), "w2"), process, "acquired again, it is the same process");

    std::fs::write(folder.path().join("sick"), "").unwrap();
    assert_eq!(ask(&driver, Verb::Status, "w2").await.message, "ready check 503");
    std::fs::remove_file(folder.path().join("sick")).unwrap();

    std::fs::write(folder.path().join("sessions"), "{\"remaining\": 17}").unwrap();
    let busy = ask(&driver, Verb::Release, "w2").await;
    assert_eq!((busy.exit, busy.message.as_str(), busy.lines[0].remaining), (Exit::Busy, "17 left", Some(17)));
    assert!(!read_endpoints(folder.path()).unwrap()["w2"].ready, "proxies stop sending before it ends");
    assert!(!is_ready(&ask(&driver, Verb::Status, "w2").await));
    ask(&driver, Verb::Acquire, "w2").await;
    until(&driver, Verb::Status, "w2", is_ready).await;
    assert_eq!(pid(folder.path(), "w2"), process, "the release was taken back");

    std::fs::write(folder.path().join("sessions"), "0").unwrap();
    assert_eq!(ask(&driver, Verb::Release, "w2").await.exit, Exit::Done);
    assert!(!process.is_alive());
    assert_eq!(ask(&driver, Verb::Release, "w2").await.exit, Exit::Done, "released again");
    assert!(ask(&driver, Verb::Status, "w2").await.lines.is_empty());
    let listed = ask(&driver, Verb::List, "w1").await.lines;
    assert_eq!(listed.iter().map(|l| l.id.as_str()).collect::<Vec<_>>(), ["w1"]);
    driver.stop().await;
}

#[tokio::test]
async fn a_child_that_dies_is_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let driver = ProcessDriver::open(options(folder.path())).unwrap();
    until(&driver, Verb::Status, "w1", is_ready).await;
    let first = pid(folder.path(), "w1");
    kill_process_group(first.group().unwrap(), Signal::KILL).unwrap();
    until(&driver, Verb::Status, "w1", |answer| !is_ready(answer)).await;
    until(&driver, Verb::List, "w1", is_ready).await;
    assert_ne!(pid(folder.path(), "w1"), first);
    driver.stop().await;
}

#[tokio::test]
async fn children_end_with_the_agent_and_come_back_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let driver = ProcessDriver::open(options(folder.path())).unwrap();
    ask(&driver, Verb::Acquire, "w2").await;
    ask(&driver, Verb::Release, "w1").await;
    let process = pid(folder.path(), "w2");
    driver.stop().await;
    assert!(!process.is_alive());
    drop(driver);

    let driver = ProcessDriver::open(options(folder.path())).unwrap();
    until(&driver, Verb::Status, "w2", is_ready).await;
    assert!(ask(&driver, Verb::Status, "w1").await.lines.is_empty(), "only the first start adopts");
    driver.stop().await;
}

/// What a `kill -9` leaves behind: children, one of them never recorded.
#[tokio::test]
async fn after_a_kill_children_are_taken_over_and_unrecorded_ones_ended() {
    let folder = tempfile::tempdir().unwrap();
    let before = ProcessDriver::open(options(folder.path())).unwrap();
    ask(&before, Verb::Acquire, "w2").await;
    until(&before, Verb::Status, "w2", is_ready).await;
    let (kept, lost) = (pid(folder.path(), "w1"), pid(folder.path(), "w2"));
    let mut endpoints = read_endpoints(folder.path()).unwrap();
    endpoints.remove("w2");
    state_file::write(&folder.path().join(FILE), &endpoints).unwrap();
    // The children are this process's and would become zombies: somebody reaps them.
    let mut children = std::mem::take(&mut before.lock().children);
    let reaping = tokio::spawn(async move {
        for child in children.values_mut() {
            child.wait().await.unwrap();
        }
    });

    let after = ProcessDriver::open(options(folder.path())).unwrap();
    until(&after, Verb::Status, "w1", is_ready).await;
    assert_eq!(pid(folder.path(), "w1"), kept, "taken over");
    let deadline = Instant::now() + Duration::from_secs(10);
    while lost.is_alive() {
        assert!(Instant::now() < deadline, "the unrecorded child still runs");
        tokio::time::sleep(WATCH).await;
    }
    assert_eq!(ask(&after, Verb::Release, "w1").await.exit, Exit::Done);
    assert!(!kept.is_alive());
    reaping.await.unwrap();
}

#[tokio::test]
async fn what_has_no_template_cannot_be_acquired() {
    let folder = tempfile::tempdir().unwrap();
    let driver = ProcessDriver::open(ProcessOptions { start: vec![], ..options(folder.path()) }).unwrap();
    let target = Target { id: id("w9"), service: "mail".to_owned(), unit: None, epoch: 1 };
    let peer = PeerId::parse("p1").unwrap();
    let answer =
        driver.call(Call { verb: Verb::Acquire, peer, target: Some(target), holds: vec![], cluster: None }).await;
    assert_eq!(answer, Answer::failed("the service \"mail\" has no template in the agent's configuration"));
}

#[tokio::test]
async fn children_carry_a_role_out_and_later_ones_are_born_with_it() {
    use omnirelay_contract::agent::ClusterRole;
    use omnirelay_workflow::ClusterId;
    let folder = tempfile::tempdir().unwrap();
    let told = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap_or_default();
    let driver = ProcessDriver::open(options(folder.path())).unwrap();
    until(&driver, Verb::Status, "w1", is_ready).await;
    assert_eq!(told("born"), "none");
    let tell = async |role| {
        let cluster = ClusterRole { cluster: ClusterId::parse("c").unwrap(), failover_version: 2, role };
        let peer = PeerId::parse("p1").unwrap();
        driver.call(Call { verb: Verb::Role, peer, target: None, holds: vec![], cluster: Some(cluster) }).await
    };
    std::fs::write(folder.path().join("writing"), "").unwrap();
    let answer = tell(Role::Fenced).await;
    assert_eq!((answer.exit, answer.message.as_str()), (Exit::Busy, "w1: 503 3 writes"));
    assert_eq!(told("told"), "", "it has not let go");
    std::fs::remove_file(folder.path().join("writing")).unwrap();
    assert_eq!(tell(Role::Fenced).await.exit, Exit::Done);
    assert_eq!(told("told"), "fenced");
    driver.stop().await;
    drop(driver);
    let driver = ProcessDriver::open(options(folder.path())).unwrap();
    until(&driver, Verb::Status, "w1", is_ready).await;
    assert_eq!(told("born"), "fenced", "over a restart");
    driver.stop().await;
}
