//! Real agents, real child processes: a drain moves them from one peer to another, a cancel brings them back, and an agent
//! that ends leaves none behind.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use omnirelay_tests::{
    Api, PATIENCE, Process, Registry, Role, Stack, StackOptions, binary, children_of, eventually, eventually_ok,
    processes_that_mention,
};
use serde_json::json;

const WEB: &str = env!("CARGO_BIN_EXE_omnirelay-test-web");
/// The cluster of the agents; the simulated peer is in another.
const CLUSTER: &str = "real";

/// `omnirelay agent --config` for one peer with the process driver.
fn agent(stack: &Stack, peer: &str, start: &[&str]) -> Process {
    let folder = stack.folder();
    let config = folder.join(format!("{peer}.toml"));
    let text = format!(
        r#"nats = "{nats}"
state_dir = "{state}"
heartbeat = "300ms"

[[peer]]
id = "{peer}"
cluster = "{CLUSTER}"
capacity = 100
driver = "process"
start = {start:?}

[peer.process.web]
command = ["{WEB}", "{{port}}", "{{workload}}", "{peer}", "{marker}", "{lives}"]
ready = "http://127.0.0.1:{{port}}/ready"
stop_grace = "3s"

[[peer.service]]
name = "web"
handover = "start-first"
"#,
        nats = stack.nats_url(),
        state = folder.join(format!("{peer}-state")).display(),
        marker = marker(folder),
        lives = folder.display(),
    );
    std::fs::write(&config, text).expect("a configuration");
    let mut command = Command::new(binary());
    command.args(["agent", "--config"]).arg(config);
    Process::start(peer, command, folder)
}

/// In the command line of every child of this test's agents, and of nobody else.
fn marker(folder: &Path) -> String {
    format!("child-of-{}", folder.file_name().expect("a name").to_string_lossy())
}

/// Workload → peer, of the child processes that run.
fn children(folder: &Path) -> BTreeMap<String, Vec<String>> {
    let mut running: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in processes_that_mention(&marker(folder)).into_values() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (workload, peer) = (words[words.len() - 4], words[words.len() - 3]);
        running.entry(workload.to_owned()).or_default().push(peer.to_owned());
    }
    running
}

fn all_on(peer: &str) -> BTreeMap<String, Vec<String>> {
    ["web-1", "web-2", "web-3"].iter().map(|workload| ((*workload).to_owned(), vec![peer.to_owned()])).collect()
}

async fn listed(api: &Api, peer: &str, count: usize) {
    eventually_ok(format!("{peer} lists {count} ready workloads"), PATIENCE, async || {
        let answer = api.get(&format!("/control/peers/{peer}/workloads")).send().await;
        let items = answer.body["items"].as_array().cloned().unwrap_or_default();
        let ready = items.iter().filter(|workload| workload["ready"] == true).count();
        if answer.status == 200 && items.len() == count && ready == count { Ok(()) } else { Err(answer.body) }
    })
    .await;
}

#[tokio::test]
async fn real_processes_move_with_a_drain_come_back_with_a_cancel_and_end_with_their_agent() {
    let stack = Stack::start(StackOptions { peers: 1, workloads: 0, ..StackOptions::default() }).await;
    let folder = stack.folder();
    let (reader, operator) = (stack.api(Role::Read), stack.api(Role::Operate));
    let first = agent(&stack, "web-a", &["web-1:web", "web-2:web", "web-3:web"]);
    let second = agent(&stack, "web-b", &[]);
    listed(&reader, "web-a", 3).await;
    reader.peer_that("is known", "web-b", |peer| peer["health"] == "healthy").await;
    assert_eq!(children(folder), all_on("web-a"), "{}", first.last_words());
    let before = Registry::of_cluster(&reader, CLUSTER).await;

    let cancelled = operator.drain("web-a", &json!({"maxConcurrent": 1})).await;
    operator.operation_that("has moved one", &cancelled, |it| it["progress"]["done"].as_u64() >= Some(1)).await;
    assert_eq!(operator.cancel(&cancelled).await.status, 202, "it was not over yet");
    let ended = operator.ended(&cancelled).await;
    assert_eq!(ended["state"], "cancelled", "{ended}");
    assert_eq!(children(folder), all_on("web-a"), "{ended}");
    assert_eq!(Registry::of_cluster(&reader, CLUSTER).await.differences(&before), Vec::<String>::new());

    let drained = operator.drain("web-a", &json!({})).await;
    let ended = operator.ended(&drained).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(children(folder), all_on("web-b"), "{ended}");
    assert_eq!(children_of(second.id()).len(), 3);
    assert_eq!(children_of(first.id()), Vec::<u32>::new());
    listed(&reader, "web-b", 3).await;
    // Each answers where the registry says that it is, as soon as the agent has told it.
    eventually_ok("the registry knows every endpoint", PATIENCE, async || {
        for workload in reader.list("/control/peers/web-b/workloads").await {
            let unit = workload["unit"].as_str().ok_or("no unit yet")?.to_owned();
            let (name, address) = unit.split_once('@').ok_or("not name@address")?;
            let answer = Api::new(&format!("http://{address}"), None).get("/").try_send().await;
            if answer.map_err(|error| error.to_string())?.body != json!(name) {
                return Err(format!("{unit} is somebody else"));
            }
        }
        Ok(())
    })
    .await;

    assert!(second.stop().await.success());
    assert!(first.stop().await.success());
    eventually("all children end", PATIENCE, async || children(folder).is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_killed_agent_takes_its_processes_over_when_it_is_back() {
    let stack = Stack::start(StackOptions { peers: 1, workloads: 0, ..StackOptions::default() }).await;
    let folder = stack.folder();
    let reader = stack.api(Role::Read);
    let first = agent(&stack, "web-a", &["web-1:web", "web-2:web", "web-3:web"]);
    listed(&reader, "web-a", 3).await;
    let pids = processes_that_mention(&marker(folder));
    first.kill_9();
    let again = agent(&stack, "web-a", &["web-1:web", "web-2:web", "web-3:web"]);
    // The registry cannot tell yet: it still shows what the killed one said. The log is shared by both.
    let runs = async || (again.log().matches("the agent runs").count() == 2).then_some(());
    eventually("the second agent runs", PATIENCE, runs).await;
    listed(&reader, "web-a", 3).await;
    eventually_ok("each runs once", PATIENCE, async || {
        let now = children(folder);
        if now == all_on("web-a") { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    assert_eq!(processes_that_mention(&marker(folder)), pids, "none was restarted");
    let status = again.stop().await;
    assert!(status.success(), "{status}");
    eventually("all children end", PATIENCE, async || children(folder).is_empty().then_some(())).await;
}
