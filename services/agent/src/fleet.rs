//! Thousands of simulated peers in one process: the same commands, journal, reports and heartbeats as the agent's, one
//! connection and one journal for all. For `omnirelay dev`, tests and measurements.
//!
//! Names: clusters `cluster-1…`, peers `cluster-1-peer-1…`, workloads `cluster-1-peer-1-w1…`, services `svc-1` to `svc-5` in
//! turn; `svc-4` is stop-first, the others start-first. A fleet on the state folder of an earlier one goes on where that was.
//!
//! Faults are set on `omni.v1.fleet.<peer>.fault` with `{"mode": "none|silent|not-ready|refuse|busy|no-role|role-fails",
//! "message": "…"}`, the replication lag with `{"lagMs": 900}` (0 at first); what is left out stays. The answer is `ok` or what
//! is wrong.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use omnirelay_contract::agent::{CommandVerb, PeerDescription};
use omnirelay_workflow::resource::Handover;
use omnirelay_workflow::{ClusterId, PeerId, WorkloadId};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::commands::{self, Found};
use crate::core::{Core, CoreParts};
use crate::driver::simulated::{Change, FaultMode, SimulatedDriver};
use crate::heartbeat::{self, Rhythm};
use crate::journal::{Journal, Placement};
use crate::link::Link;
use crate::observe::{Observer, ServiceProfile};
use crate::reports::Reports;

const ALL_COMMANDS: &str = "omni.v1.agent.*.*";
const ALL_FAULTS: &str = "omni.v1.fleet.*.fault";
const SERVICES: u32 = 5;
/// The journal of a fleet is rewritten from this size on.
const COMPACT_ABOVE: u64 = 64 << 20;
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
const LAST_REPORTS: Duration = Duration::from_secs(1);
/// The domain of the host names of simulated peers.
const DOMAIN: &str = "simulated";

/// How large a fleet is, and how it behaves.
#[derive(Debug, Clone)]
pub struct FleetOptions {
    pub nats_url: String,
    /// Its journal is in `fleet/journal` there.
    pub state_dir: PathBuf,
    pub clusters: u32,
    /// In each cluster.
    pub peers: u32,
    /// On each peer, at the first start.
    pub workloads: u32,
    /// How long a command takes, uniformly random, the same for the same command.
    pub handover: Range<Duration>,
    pub heartbeat: Duration,
    pub seed: u64,
}

impl FleetOptions {
    /// Three clusters of four peers with five workloads each, moves of 50 to 300 ms.
    pub fn new(nats_url: impl Into<String>, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            nats_url: nats_url.into(),
            state_dir: state_dir.into(),
            clusters: 3,
            peers: 4,
            workloads: 5,
            handover: Duration::from_millis(50)..Duration::from_millis(300),
            heartbeat: Duration::from_secs(2),
            seed: 7,
        }
    }
}

/// A running fleet.
pub struct Fleet {
    peers: Arc<HashMap<PeerId, Member>>,
    reports: Reports,
    link: Link,
    stop: CancellationToken,
    publishing: CancellationToken,
    tasks: TaskTracker,
}

struct Member {
    core: Arc<Core>,
    observer: Arc<Observer>,
    driver: Arc<SimulatedDriver>,
}

impl Fleet {
    /// Starts the fleet: it is subscribed when this returns, and its first heartbeats follow within a fraction of the interval.
    pub async fn start(options: FleetOptions) -> anyhow::Result<Self> {
        let journal = {
            let path = options.state_dir.join("fleet").join("journal");
            Arc::new(tokio::task::spawn_blocking(move || Journal::open(&path, COMPACT_ABOVE)).await??)
        };
        let (stop, publishing, reports) = (CancellationToken::new(), CancellationToken::new(), Reports::default());
        let peers = Arc::new(members(&options, &journal, &reports, &stop)?);
        let link = Link::open(&options.nats_url, None, "omnirelay-fleet").await?;
        let fleet = Self { peers, reports, link, stop, publishing, tasks: TaskTracker::new() };
        fleet.listen().await?;
        // Whoever waits for the fleet wants it to be commanded at once. Without NATS it starts all the same, and waits.
        let subscribed = async {
            fleet.link.connected().await;
            fleet.link.round_trip().await
        };
        match tokio::time::timeout(CONNECT_PATIENCE, subscribed).await {
            Ok(known) => known?,
            Err(_) => tracing::warn!("NATS cannot be reached yet, the simulated fleet goes on trying"),
        }
        fleet.beat(options.heartbeat);
        tracing::info!(peers = fleet.peers.len(), "the simulated fleet runs");
        Ok(fleet)
    }

    /// Stops it, like the agents of so many machines that are switched off: nothing is released.
    pub async fn stop(self) {
        self.stop.cancel();
        for member in self.peers.values() {
            member.core.stopped().await;
        }
        if self.link.is_connected() {
            // Those that are not told now are told after the next start.
            let _ = tokio::time::timeout(LAST_REPORTS, self.reports.drained()).await;
        }
        self.publishing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn listen(&self) -> anyhow::Result<()> {
        let client = self.link.client();
        let commands = client.subscribe(ALL_COMMANDS).await?;
        let faults = client.subscribe(ALL_FAULTS).await?;
        let (client, peers, stop) = (client.clone(), self.peers.clone(), self.stop.clone());
        self.tasks.spawn({
            let (client, peers, stop) = (client.clone(), peers.clone(), stop.clone());
            async move { commands::serve(&client, commands, |peer, verb| find(&peers, peer, verb), stop).await }
        });
        self.tasks.spawn({
            let client = client.clone();
            async move {
                stop.run_until_cancelled(take_faults(&client, faults, &peers)).await;
            }
        });
        self.tasks.spawn({
            let (reports, stop) = (self.reports.clone(), self.publishing.clone());
            async move { reports.publish(client, stop).await }
        });
        Ok(())
    }

    fn beat(&self, interval: Duration) {
        let all = self.peers.len() as f64;
        for (n, member) in self.peers.values().enumerate() {
            member.core.resume();
            let rhythm = Rhythm { interval, offset: n as f64 / all };
            let driver = member.driver.clone();
            let silent = move || driver.mode() == FaultMode::Silent;
            let (core, observer) = (member.core.clone(), member.observer.clone());
            self.tasks.spawn(heartbeat::beat(core, observer, self.link.clone(), rhythm, silent, self.stop.clone()));
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop.cancel();
        self.publishing.cancel();
    }
}

fn find(peers: &HashMap<PeerId, Member>, peer: &str, verb: &str) -> Option<Found> {
    let member = peers.get(peer)?;
    match member.driver.mode() {
        FaultMode::Silent => None,
        FaultMode::Refuse => Some(Found::Refuses(member.driver.fault().words())),
        FaultMode::NoRole if verb == CommandVerb::Role.as_str() => None,
        FaultMode::None | FaultMode::NotReady | FaultMode::Busy | FaultMode::NoRole | FaultMode::RoleFails => {
            Some(Found::Core(member.core.clone()))
        }
    }
}

async fn take_faults(client: &async_nats::Client, mut faults: async_nats::Subscriber, peers: &HashMap<PeerId, Member>) {
    while let Some(message) = faults.next().await {
        let peer = message.subject.as_str().split('.').nth(3).unwrap_or_default();
        // Another fleet's.
        let Some(member) = peers.get(peer) else { continue };
        let answer = match serde_json::from_slice::<Change>(&message.payload) {
            Ok(change) => {
                tracing::info!(peer, ?change, "a simulated peer is changed");
                member.driver.change(change);
                member.core.changed.notify_one();
                "ok".to_owned()
            }
            Err(error) => format!("not a fault: {error}"),
        };
        if let Some(to) = message.reply
            && let Err(error) = client.publish(to, answer.into()).await
        {
            tracing::warn!(%error, "a fault cannot be answered");
        }
    }
}

fn members(
    options: &FleetOptions,
    journal: &Arc<Journal>,
    reports: &Reports,
    stop: &CancellationToken,
) -> anyhow::Result<HashMap<PeerId, Member>> {
    let incarnation = Uuid::new_v4();
    // Simulated calls only sleep: any number may.
    let permits = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
    let mut members = HashMap::new();
    for cluster in (1..=options.clusters).map(|c| ClusterId::parse(&format!("cluster-{c}"))) {
        let cluster = cluster?;
        for n in 1..=options.peers {
            let peer = PeerId::parse(&format!("{cluster}-peer-{n}"))?;
            let here = workloads(options, journal, &peer)?;
            let driver = Arc::new(SimulatedDriver::new(here, options.handover.clone(), options.seed));
            let describe = describe(options, &cluster, &peer, n);
            let observer =
                Arc::new(Observer::new(peer.clone(), incarnation, describe, profiles(), ServiceProfile::default()));
            let core = Core::new(CoreParts {
                driver: driver.clone(),
                journal: journal.clone(),
                reports: reports.clone(),
                observer: observer.clone(),
                lag: None,
                permits: permits.clone(),
                stop: stop.clone(),
            });
            members.insert(peer, Member { core, observer, driver });
        }
    }
    Ok(members)
}

/// The peer's own workloads, except those that went, and those that came.
fn workloads(
    options: &FleetOptions,
    journal: &Journal,
    peer: &PeerId,
) -> Result<BTreeMap<WorkloadId, String>, omnirelay_workflow::InvalidId> {
    let mut here = BTreeMap::new();
    for n in 1..=options.workloads {
        here.insert(WorkloadId::parse(&format!("{peer}-w{n}"))?, service((n - 1) % SERVICES));
    }
    for (id, placement) in journal.placements(peer) {
        match placement {
            Placement::Here { service } => {
                here.insert(id, service);
            }
            Placement::Gone => {
                here.remove(&id);
            }
        }
    }
    Ok(here)
}

fn describe(options: &FleetOptions, cluster: &ClusterId, peer: &PeerId, n: u32) -> PeerDescription {
    PeerDescription {
        cluster: cluster.clone(),
        name: format!("{peer}.{DOMAIN}"),
        role: "worker".to_owned(),
        address: format!("10.{}.{}.{}:7000", (n >> 16) & 0xff, (n >> 8) & 0xff, n & 0xff),
        capacity: options.workloads.saturating_mul(10),
        labels: BTreeMap::from([("zone".to_owned(), format!("zone-{}", (n - 1) % 3 + 1))]),
    }
}

fn service(index: u32) -> String {
    format!("svc-{}", index + 1)
}

fn profiles() -> BTreeMap<String, ServiceProfile> {
    let profile = |index| match index {
        3 => ServiceProfile { handover: Handover::StopFirst, ..ServiceProfile::default() },
        _ => ServiceProfile::default(),
    };
    (0..SERVICES).map(|index| (service(index), profile(index))).collect()
}
