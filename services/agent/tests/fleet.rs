//! The simulated fleet on a real bus.

mod common;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use common::{Control, command, failed, role_of};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use omnirelay_agent::fleet::{Fleet, FleetOptions};
use omnirelay_contract::agent::{CommandVerb, Outcome, Reply};
use omnirelay_workflow::resource::{Handover, Role};

const P1: &str = "cluster-1-peer-1";
const P2: &str = "cluster-1-peer-2";
const W1: &str = "cluster-1-peer-1-w1";

fn options(control: &Control, folder: &tempfile::TempDir) -> FleetOptions {
    FleetOptions {
        clusters: 2,
        peers: 3,
        workloads: 5,
        handover: Duration::ZERO..Duration::ZERO,
        heartbeat: Duration::from_millis(200),
        ..FleetOptions::new(control.url.clone(), folder.path())
    }
}

async fn set_fault(control: &Control, peer: &str, fault: &str) -> String {
    let answer = control.client.request(format!("omni.v1.fleet.{peer}.fault"), fault.to_owned().into()).await.unwrap();
    String::from_utf8(answer.payload.to_vec()).unwrap()
}

#[tokio::test]
async fn peers_tell_who_they_are_and_remember_what_moved() {
    let mut control = Control::new().await;
    control.create_stream().await;
    let folder = tempfile::tempdir().unwrap();
    let fleet = Fleet::start(options(&control, &folder)).await.unwrap();
    let heartbeat = control.heartbeat("cluster-2-peer-3", |_| true).await;
    assert_eq!(heartbeat.describe.cluster.as_str(), "cluster-2");
    assert_eq!(heartbeat.describe.capacity, 50);
    let told: Vec<_> = heartbeat.workloads.iter().map(|w| (w.id.as_str(), w.service.as_str(), w.handover)).collect();
    assert_eq!(told[0], ("cluster-2-peer-3-w1", "svc-1", Handover::StartFirst));
    assert_eq!(told[3], ("cluster-2-peer-3-w4", "svc-4", Handover::StopFirst));
    assert_eq!(told.len(), 5);

    let come = command("op-1", CommandVerb::Acquire, P2, W1, 1);
    let go = command("op-2", CommandVerb::Release, P1, W1, 1);
    for moved in [&come, &go] {
        control.accepted(moved).await;
        assert_eq!(control.outcome(moved).await, Outcome::Done);
    }
    fleet.stop().await;

    let fleet = Fleet::start(options(&control, &folder)).await.unwrap();
    assert!(control.runs(P2, W1).await);
    assert!(!control.runs(P1, W1).await);
    let stale = command("op-3", CommandVerb::Acquire, P1, W1, 0);
    assert_eq!(control.send(&stale).await, Reply::Refused { message: "stale epoch 0, seen 1".to_owned() });
    fleet.stop().await;
}

#[tokio::test]
async fn faults_make_every_kind_of_blocker() {
    let mut control = Control::new().await;
    control.create_stream().await;
    let folder = tempfile::tempdir().unwrap();
    let fleet = Fleet::start(options(&control, &folder)).await.unwrap();

    assert_eq!(set_fault(&control, P1, r#"{"mode":"busy","message":"17 sessions left"}"#).await, "ok");
    let go = command("busy", CommandVerb::Release, P1, W1, 1);
    control.accepted(&go).await;
    let busy = Outcome::Busy { remaining: Some(1), message: "17 sessions left".to_owned() };
    assert_eq!(control.report(&go).await.outcome, busy);
    assert_eq!(set_fault(&control, P1, r#"{"mode":"none"}"#).await, "ok");
    assert_eq!(control.outcome(&go).await, Outcome::Done);

    assert_eq!(set_fault(&control, P2, r#"{"mode":"not-ready"}"#).await, "ok");
    let come = command("not-ready", CommandVerb::Acquire, P2, W1, 1);
    control.accepted(&come).await;
    let waiting = control.report(&come).await.outcome;
    assert_eq!(waiting, Outcome::NotReady { message: "ready check 503".to_owned() });
    let back = command("back", CommandVerb::Release, P2, W1, 1);
    control.accepted(&back).await;
    assert!(failed(&control.outcome(&come).await).starts_with("superseded by epoch 1 (release)"));
    assert_eq!(control.outcome(&back).await, Outcome::Done);

    assert_eq!(set_fault(&control, P2, r#"{"mode":"refuse","message":"no"}"#).await, "ok");
    let refused = command("refused", CommandVerb::Acquire, P2, W1, 2);
    assert_eq!(control.send(&refused).await, Reply::Refused { message: "no".to_owned() });

    assert_eq!(set_fault(&control, P2, r#"{"mode":"silent"}"#).await, "ok");
    assert_eq!(control.try_send(&refused).await, None);
    assert_eq!(set_fault(&control, P2, r#"{"mode":"none"}"#).await, "ok");
    control.heartbeat(P2, |_| true).await;
    assert!(set_fault(&control, P2, r#"{"mode":"odd"}"#).await.starts_with("not a fault:"));
    fleet.stop().await;
}

#[tokio::test]
async fn roles_are_told_and_kept_and_lag_and_silence_can_be_set() {
    let mut control = Control::new().await;
    control.create_stream().await;
    let folder = tempfile::tempdir().unwrap();
    let fleet = Fleet::start(options(&control, &folder)).await.unwrap();
    assert_eq!(control.heartbeat(P1, |_| true).await.lag_ms, Some(0));
    assert_eq!(set_fault(&control, P1, r#"{"lagMs":900}"#).await, "ok");
    control.heartbeat(P1, |h| h.lag_ms == Some(900)).await;

    let fence = role_of("fence", P1, "cluster-1", 3, Role::Fenced);
    assert_eq!(set_fault(&control, P1, r#"{"mode":"no-role"}"#).await, "ok");
    assert_eq!(control.try_send(&fence).await, None);
    let go = command("go", CommandVerb::Release, P1, W1, 1);
    control.accepted(&go).await;
    assert_eq!(control.outcome(&go).await, Outcome::Done, "everything else is answered");
    assert_eq!(set_fault(&control, P1, r#"{"mode":"role-fails","message":"split brain"}"#).await, "ok");
    control.accepted(&fence).await;
    assert_eq!(failed(&control.outcome(&fence).await), "split brain");
    assert_eq!(set_fault(&control, P1, r#"{"mode":"none"}"#).await, "ok");
    let again = role_of("again", P1, "cluster-1", 3, Role::Fenced);
    control.accepted(&again).await;
    assert_eq!(control.outcome(&again).await, Outcome::Done);
    control.heartbeat(P1, |h| h.cluster == fence.cluster && h.lag_ms == Some(900)).await;
    fleet.stop().await;

    let fleet = Fleet::start(options(&control, &folder)).await.unwrap();
    control.heartbeat(P1, |h| h.cluster == fence.cluster).await;
    let stale = role_of("stale", P1, "cluster-1", 2, Role::Active);
    let refused = Reply::Refused { message: "stale failover version 2, seen 3".to_owned() };
    assert_eq!(control.send(&stale).await, refused);
    fleet.stop().await;
}

/// All commands of many peers, at once: each is answered, done and acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_commands_are_carried_out_at_once() {
    let mut control = Control::new().await;
    control.create_stream().await;
    let folder = tempfile::tempdir().unwrap();
    let peers = 200;
    let options = FleetOptions { clusters: 1, peers, workloads: 10, ..options(&control, &folder) };
    let fleet = Fleet::start(FleetOptions { heartbeat: Duration::from_secs(2), ..options }).await.unwrap();
    let commands: Vec<_> = (1..=peers)
        .flat_map(|p| (1..=10).map(move |w| (p, w)))
        .map(|(p, w)| {
            let peer = format!("cluster-1-peer-{p}");
            command(&format!("c-{p}-{w}"), CommandVerb::Release, &peer, &format!("{peer}-w{w}"), 1)
        })
        .collect();
    let begun = Instant::now();
    let mut sending: FuturesUnordered<_> = commands.iter().map(|command| control.accepted(command)).collect();
    while sending.next().await.is_some() {}
    drop(sending);
    let mut open: BTreeSet<_> = commands.iter().map(|command| command.id.clone()).collect();
    while !open.is_empty() {
        let report = control.any_report().await;
        assert_eq!(report.outcome, Outcome::Done);
        open.remove(&report.command);
    }
    println!("{} commands in {:?}", commands.len(), begun.elapsed());
    fleet.stop().await;
}
