//! The agent on a real bus, with a driver of a few lines of sh: one workload a file, its ready check and its sessions too.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Control, PATIENCE, command, failed, role_of};
use omnirelay_agent::config::AgentConfig;
use omnirelay_agent::run_agent;
use omnirelay_contract::agent::{Command, CommandVerb, Outcome, Reply};
use omnirelay_workflow::Timestamp;
use omnirelay_workflow::resource::Role;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// `w.run` is a workload that runs, `w.sick` keeps it from being ready, `w.busy` from being released; `role.busy` keeps the
/// role as it is; `calls` is the log.
const DRIVER: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 1
line() { r=true; [ -e "$1.sick" ] && r=false; printf '{"id":"%s","service":"shop","ready":%s}\n' "$1" "$r"; }
[ "$1" = list ] || echo "$1 ${2:-} $OMNIRELAY_HOLDS" >>calls
case $1 in
list) for f in *.run; do if [ -e "$f" ]; then line "${f%.run}"; fi; done ;;
status) line "$2"; if [ -e "$2.sick" ]; then cat "$2.sick" >&2; fi ;;
acquire) if [ -e "$2.broken" ]; then echo "no such image" >&2; exit 1; fi; touch "$2.run" ;;
release) if [ -e "$2.busy" ]; then cat "$2.busy" >&2; exit 75; fi; rm -f "$2.run" ;;
cordon | uncordon) ;;
role) if [ -e role.busy ]; then cat role.busy >&2; exit 75; fi; echo "$OMNIRELAY_ROLE $OMNIRELAY_FAILOVER_VERSION" >role ;;
*) echo "unknown verb $1" >&2; exit 1 ;;
esac
"#;

struct Agent {
    shutdown: CancellationToken,
    /// Of its own, so that it can be killed with everything that it runs.
    runtime: Option<tokio::runtime::Runtime>,
    running: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Agent {
    fn start(url: &str, folder: &Path) -> Self {
        let driver = folder.join("driver");
        if !driver.exists() {
            std::fs::write(&driver, DRIVER).unwrap();
            std::fs::set_permissions(&driver, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let file = folder.join("agent.toml");
        let text = format!(
            "nats = {url:?}\nstate_dir = {:?}\nheartbeat = \"200ms\"\n\
             [[peer]]\nid = \"p1\"\ncluster = \"c1\"\nrole = \"web\"\ncapacity = 7\ndriver = {driver:?}\n\
             [[peer.service]]\nname = \"shop\"\nhandover = \"stop-first\"\nload = 3\n",
            folder.join("state")
        );
        std::fs::write(&file, text).unwrap();
        let config = AgentConfig::load(&file).unwrap();
        let shutdown = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let running = runtime.spawn(run_agent(config, shutdown.clone()));
        Self { shutdown, runtime: Some(runtime), running }
    }

    /// As by `kill -9`: nothing is told, nothing ends in order.
    fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, &mut self.running).await.unwrap().unwrap().unwrap();
        self.kill();
    }
}

struct Scene {
    control: Control,
    folder: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let scene = Self { control: Control::new().await, folder: tempfile::tempdir().unwrap() };
        scene.control.create_stream().await;
        scene
    }

    fn agent(&self) -> Agent {
        Agent::start(&self.control.url, self.folder.path())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn calls(&self, call: &str) -> usize {
        let calls = std::fs::read_to_string(self.file("calls")).unwrap_or_default();
        calls.lines().filter(|line| line.trim_end() == call).count()
    }
}

fn acquire(id: &str, epoch: u64) -> Command {
    command(id, CommandVerb::Acquire, "p1", "w1", epoch)
}

fn release(id: &str, epoch: u64) -> Command {
    command(id, CommandVerb::Release, "p1", "w1", epoch)
}

#[tokio::test]
async fn a_workload_is_acquired_and_released_and_heartbeats_follow() {
    let mut scene = Scene::new().await;
    let agent = scene.agent();
    let first = scene.control.heartbeat("p1", |_| true).await;
    assert!(first.workloads.is_empty());
    assert_eq!((first.describe.role.as_str(), first.describe.capacity), ("web", 7));

    let come = acquire("op-1", 5);
    scene.control.accepted(&come).await;
    assert_eq!(scene.control.outcome(&come).await, Outcome::Done);
    let heartbeat = scene.control.heartbeat("p1", |h| !h.workloads.is_empty()).await;
    let workload = &heartbeat.workloads[0];
    assert_eq!((workload.id.as_str(), workload.epoch, workload.ready, workload.load), ("w1", 5, true, 3));
    assert_eq!(heartbeat.incarnation, first.incarnation);
    assert!(heartbeat.seq > first.seq);

    let list = Command { workload: None, ..command("op-l", CommandVerb::List, "p1", "w1", 0) };
    scene.control.accepted(&list).await;
    assert_eq!(scene.control.outcome(&list).await, Outcome::Listed { workloads: heartbeat.workloads });

    let go = release("op-2", 5);
    scene.control.accepted(&go).await;
    assert_eq!(scene.control.outcome(&go).await, Outcome::Done);
    scene.control.heartbeat("p1", |h| h.workloads.is_empty()).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_repeated_command_repeats_its_report_and_does_not_run_again() {
    let mut scene = Scene::new().await;
    let agent = scene.agent();
    let come = acquire("op-1", 5);
    scene.control.accepted(&come).await;
    let first = scene.control.report(&come).await;
    assert_eq!(first.outcome, Outcome::Done);
    scene.control.accepted(&come).await;
    assert_eq!(scene.control.report(&come).await, first);
    agent.stop().await;
    let agent = scene.agent();
    scene.control.accepted(&come).await;
    assert_eq!(scene.control.report(&come).await, first, "also after a restart");
    assert_eq!(scene.calls("acquire w1"), 1);
    agent.stop().await;
}

#[tokio::test]
async fn stale_expired_and_misplaced_commands_are_refused() {
    let mut scene = Scene::new().await;
    let agent = scene.agent();
    let come = acquire("op-1", 5);
    scene.control.accepted(&come).await;
    scene.control.outcome(&come).await;
    let refused = |message: &str| Reply::Refused { message: message.to_owned() };
    assert_eq!(scene.control.send(&release("op-2", 3)).await, refused("stale epoch 3, seen 5"));
    let late = Command { expires_at: Timestamp::now() - Duration::from_secs(1), ..acquire("op-3", 6) };
    assert!(matches!(scene.control.send(&late).await, Reply::Refused { message } if message.starts_with("expired at")));
    let empty = Command { workload: None, ..acquire("op-4", 6) };
    assert_eq!(scene.control.send(&empty).await, refused("acquire of which workload?"));

    let payload = serde_json::to_vec(&acquire("op-5", 6)).unwrap();
    for (subject, payload, why) in [
        ("omni.v1.agent.p1.release", payload, "acquire of p1 came on the subject of release of p1"),
        ("omni.v1.agent.p1.acquire", b"{}".to_vec(), "not a command: missing field `id` at line 1 column 2"),
    ] {
        let answer = scene.control.client.request(subject, payload.into()).await.unwrap();
        assert_eq!(serde_json::from_slice::<Reply>(&answer.payload).unwrap(), refused(why));
    }
    agent.stop().await;
}

#[tokio::test]
async fn a_failing_driver_and_one_that_is_never_ready_are_told_in_its_own_words() {
    let mut scene = Scene::new().await;
    let agent = scene.agent();
    std::fs::write(scene.file("w1.broken"), "").unwrap();
    let come = acquire("op-1", 1);
    scene.control.accepted(&come).await;
    assert_eq!(failed(&scene.control.outcome(&come).await), "no such image");
    std::fs::remove_file(scene.file("w1.broken")).unwrap();

    std::fs::write(scene.file("w1.sick"), "ready check 503").unwrap();
    let come = Command { expires_at: Timestamp::now() + Duration::from_secs(3), ..acquire("op-2", 2) };
    scene.control.accepted(&come).await;
    let waiting = scene.control.report(&come).await.outcome;
    assert_eq!(waiting, Outcome::NotReady { message: "ready check 503".to_owned() });
    scene.control.heartbeat("p1", |h| h.workloads.iter().any(|w| !w.ready)).await;
    let outcome = scene.control.report(&come).await.outcome;
    assert_eq!(failed(&outcome), "not ready in time: ready check 503", "an unchanged message is not told twice");
    assert!(scene.file("w1.run").exists(), "what was started is left to a release");
    agent.stop().await;
}

#[tokio::test]
async fn a_busy_release_is_asked_again_until_done_or_superseded() {
    let mut scene = Scene::new().await;
    let agent = scene.agent();
    std::fs::write(scene.file("w1.run"), "").unwrap();
    std::fs::write(scene.file("w1.busy"), "17 sessions left").unwrap();
    let go = release("op-1", 3);
    scene.control.accepted(&go).await;
    let busy = Outcome::Busy { remaining: None, message: "17 sessions left".to_owned() };
    assert_eq!(scene.control.report(&go).await.outcome, busy);
    let come = acquire("op-2", 4);
    scene.control.accepted(&come).await;
    assert!(failed(&scene.control.outcome(&go).await).starts_with("superseded by epoch 4"));
    assert_eq!(scene.control.outcome(&come).await, Outcome::Done);

    let go = release("op-3", 5);
    scene.control.accepted(&go).await;
    assert_eq!(scene.control.report(&go).await.outcome, busy);
    std::fs::remove_file(scene.file("w1.busy")).unwrap();
    assert_eq!(scene.control.outcome(&go).await, Outcome::Done);
    agent.stop().await;
}

#[tokio::test]
async fn a_killed_agent_goes_on_with_what_it_had_accepted() {
    let mut scene = Scene::new().await;
    let agent = scene.agent();
    std::fs::write(scene.file("w1.sick"), "ready check 503").unwrap();
    let come = acquire("op-1", 5);
    scene.control.accepted(&come).await;
    let waiting = scene.control.report(&come).await.outcome;
    assert_eq!(waiting, Outcome::NotReady { message: "ready check 503".to_owned() });
    agent.kill();
    std::fs::remove_file(scene.file("w1.sick")).unwrap();

    let agent = scene.agent();
    assert_eq!(scene.control.outcome(&come).await, Outcome::Done);
    assert_eq!(scene.calls("acquire w1"), 2, "an idempotent driver is asked again");
    assert_eq!(
        scene.control.send(&acquire("op-2", 4)).await,
        Reply::Refused { message: "stale epoch 4, seen 5".to_owned() }
    );
    agent.stop().await;
}

#[tokio::test]
async fn reports_wait_for_the_stream() {
    let mut scene = Scene { control: Control::new().await, folder: tempfile::tempdir().unwrap() };
    let agent = scene.agent();
    let come = acquire("op-1", 1);
    scene.control.accepted(&come).await;
    assert_eq!(scene.control.outcome(&come).await, Outcome::Done, "it is published, but nobody stores it");
    agent.kill();
    let agent = scene.agent();
    assert_eq!(scene.control.outcome(&come).await, Outcome::Done, "a restart does not forget it");
    scene.control.create_stream().await;
    let context = async_nats::jetstream::new(scene.control.client.clone());
    let mut stream = context.get_stream(omnirelay_contract::subject::STREAM_REPORTS).await.unwrap();
    tokio::time::timeout(PATIENCE, async {
        while stream.info().await.unwrap().state.messages == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the report reaches the stream");
    agent.stop().await;
}

#[tokio::test]
async fn holds_are_told_to_the_driver_and_by_heartbeats_also_after_a_restart() {
    let mut scene = Scene::new().await;
    let agent = scene.agent();
    let hold = Uuid::from_u128(7);
    let of = |id, verb, holds| Command { workload: None, holds, ..command(id, verb, "p1", "w1", 0) };
    let cordon = of("op-1", CommandVerb::Cordon, vec![hold]);
    scene.control.accepted(&cordon).await;
    assert_eq!(scene.control.outcome(&cordon).await, Outcome::Done);
    scene.control.heartbeat("p1", |h| h.holds == [hold]).await;
    assert_eq!(scene.calls(&format!("cordon  {hold}")), 1);
    agent.kill();

    let agent = scene.agent();
    scene.control.heartbeat("p1", |h| h.holds == [hold] && h.seq == 1).await;
    let uncordon = of("op-2", CommandVerb::Uncordon, vec![]);
    scene.control.accepted(&uncordon).await;
    scene.control.heartbeat("p1", |h| h.holds.is_empty()).await;
    agent.stop().await;
}

fn role(id: &str, version: u64, role: Role) -> Command {
    role_of(id, "p1", "c1", version, role)
}

#[tokio::test]
async fn a_role_reaches_the_driver_once_and_lower_versions_are_refused_also_after_a_kill() {
    let mut scene = Scene::new().await;
    let agent = scene.agent();
    let fence = role("op-1", 5, Role::Fenced);
    for told in [&fence, &role("op-2", 5, Role::Fenced)] {
        scene.control.accepted(told).await;
        assert_eq!(scene.control.outcome(told).await, Outcome::Done);
    }
    assert_eq!(scene.calls("role fenced"), 1, "what is done already is only reported");
    let beat = scene.control.heartbeat("p1", |h| h.cluster.is_some()).await;
    assert_eq!(beat.cluster, fence.cluster);
    let Reply::Refused { message } = scene.control.send(&acquire("op-3", 1)).await else { panic!("acquired") };
    assert!(message.starts_with("fenced: c1 changes its role"), "{message}");
    let go = release("op-4", 1);
    scene.control.accepted(&go).await;
    assert_eq!(scene.control.outcome(&go).await, Outcome::Done);
    agent.kill();

    let agent = scene.agent();
    scene.control.heartbeat("p1", |h| h.cluster == fence.cluster && h.seq == 1).await;
    let refused = |message: &str| Reply::Refused { message: message.to_owned() };
    let stale = role("op-5", 4, Role::Active);
    assert_eq!(scene.control.send(&stale).await, refused("stale failover version 4, seen 5"));
    let other = role_of("op-6", "p1", "c2", 6, Role::Active);
    assert_eq!(scene.control.send(&other).await, refused("a role of c2 came to a peer of c1"));
    let none = Command { cluster: None, ..role("op-7", 6, Role::Active) };
    assert_eq!(scene.control.send(&none).await, refused("role of which cluster?"));

    let activate = role("op-8", 5, Role::Active);
    let come = acquire("op-9", 2);
    for told in [&activate, &come] {
        scene.control.accepted(told).await;
        assert_eq!(scene.control.outcome(told).await, Outcome::Done);
    }
    assert_eq!(std::fs::read_to_string(scene.file("role")).unwrap(), "active 5\n");
    agent.stop().await;
}

#[tokio::test]
async fn a_busy_role_is_asked_again_until_a_later_one_overtakes_it() {
    let mut scene = Scene::new().await;
    let agent = scene.agent();
    std::fs::write(scene.file("role.busy"), "3 writes in flight").unwrap();
    let fence = role("op-1", 5, Role::Fenced);
    scene.control.accepted(&fence).await;
    let busy = Outcome::Busy { remaining: None, message: "3 writes in flight".to_owned() };
    assert_eq!(scene.control.report(&fence).await.outcome, busy);
    let back = role("op-2", 6, Role::Active);
    scene.control.accepted(&back).await;
    assert_eq!(failed(&scene.control.outcome(&fence).await), "superseded by active of failover version 6");
    assert_eq!(scene.control.report(&back).await.outcome, busy);
    std::fs::remove_file(scene.file("role.busy")).unwrap();
    assert_eq!(scene.control.outcome(&back).await, Outcome::Done);
    assert_eq!(std::fs::read_to_string(scene.file("role")).unwrap(), "active 6\n", "the fence never got through");
    let brief = Command { expires_at: Timestamp::now() + Duration::from_secs(1), ..role("op-3", 7, Role::Fenced) };
    std::fs::write(scene.file("role.busy"), "3 writes in flight").unwrap();
    scene.control.accepted(&brief).await;
    assert_eq!(failed(&scene.control.outcome(&brief).await), "still busy: 3 writes in flight");
    agent.stop().await;
}

#[tokio::test]
async fn an_acquire_that_was_accepted_before_a_fence_is_not_begun_again_after_it() {
    let mut scene = Scene::new().await;
    let agent = scene.agent();
    std::fs::write(scene.file("w1.sick"), "ready check 503").unwrap();
    let come = acquire("op-1", 5);
    scene.control.accepted(&come).await;
    assert!(matches!(scene.control.report(&come).await.outcome, Outcome::NotReady { .. }));
    let fence = role("op-2", 5, Role::Fenced);
    scene.control.accepted(&fence).await;
    assert_eq!(scene.control.outcome(&fence).await, Outcome::Done, "a move does not hold it up");
    agent.kill();
    let agent = scene.agent();
    assert!(failed(&scene.control.outcome(&come).await).starts_with("fenced: c1 changes its role"));
    assert_eq!(scene.calls("acquire w1"), 1);
    agent.stop().await;
}
