//! The agent proper: its peers, from the configuration to the bus and back.
//!
//! A start: journals and drivers, connect, subscribe, look again at what was unfinished, and only then heartbeats, so that
//! whoever hears of a peer can also command it. A stop: commands are no longer taken, what runs is dropped (the journal has
//! it), reports get a moment, children end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use omnirelay_contract::subject;
use omnirelay_workflow::Timestamp;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::commands::{self, Found};
use crate::config::{AgentConfig, PeerConfig};
use crate::core::{Core, CoreParts};
use crate::driver::Driver;
use crate::driver::exec::ExecDriver;
use crate::driver::haproxy::HaproxyDriver;
use crate::driver::kubernetes::KubernetesDriver;
use crate::driver::process::{Ports, ProcessDriver, ProcessOptions};
use crate::driver::simple::{SimpleDriver, SimpleOptions};
use crate::driver::words;
use crate::heartbeat::{self, Rhythm};
use crate::journal::Journal;
use crate::lag::Lag;
use crate::link::Link;
use crate::observe::Observer;
use crate::reports::Reports;

/// A peer's journal is rewritten from this size on.
const COMPACT_ABOVE: u64 = 4 << 20;
/// How long a stopping agent waits for its last reports to be acknowledged.
const LAST_REPORTS: Duration = Duration::from_secs(1);
/// The shipped driver for systemd, written to the state folder where it is used.
const SYSTEMD: &str = include_str!("../drivers/systemd");

/// Runs an agent until `shutdown`.
pub async fn run_agent(config: AgentConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    let incarnation = Uuid::new_v4();
    let stop = shutdown.child_token();
    let reports = Reports::default();
    let permits = Arc::new(Semaphore::new(config.concurrency));
    let ports = Arc::new(Ports::default());
    let mut cores = Vec::new();
    for peer in &config.peers {
        let folder = config.state_dir.join(peer.id.as_str());
        let journal = Arc::new(Journal::open(&folder.join("journal"), COMPACT_ABOVE)?);
        let driver = open_driver(peer, &folder, &ports).with_context(|| format!("the driver of {}", peer.id))?;
        let observer =
            Arc::new(Observer::new(peer.id.clone(), incarnation, peer.description(), peer.profiles(), peer.profile()));
        let (reports, permits, stop) = (reports.clone(), permits.clone(), stop.clone());
        let lag = peer.lag.as_deref().map(Lag::parse).transpose().with_context(|| format!("the lag of {}", peer.id))?;
        let core = Core::new(CoreParts { driver, journal, reports, observer: observer.clone(), lag, permits, stop });
        cores.push((core, observer));
    }
    let result = speak(&config, &cores, &reports, &stop, &shutdown).await;
    stop.cancel();
    futures_util::future::join_all(cores.iter().map(|(core, _)| async move {
        core.stopped().await;
        core.driver.stop().await;
    }))
    .await;
    tracing::info!(peers = cores.len(), at = %Timestamp::now(), "the agent has stopped");
    result
}

async fn speak(
    config: &AgentConfig,
    cores: &[(Arc<Core>, Arc<Observer>)],
    reports: &Reports,
    stop: &CancellationToken,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let link = Link::open(&config.nats, config.credentials.as_deref(), "omnirelay-agent").await?;
    // The reports' own token: they go on for a moment when everything else has stopped.
    let publishing = CancellationToken::new();
    let tasks = TaskTracker::new();
    for (core, _) in cores {
        let commands = link.client().subscribe(subject::agent(&core.peer, "*")).await?;
        let (client, core, stop) = (link.client().clone(), core.clone(), stop.clone());
        tasks.spawn(async move {
            let find = |_: &str, _: &str| Some(Found::Core(core.clone()));
            commands::serve(&client, commands, find, stop).await;
        });
    }
    tasks.spawn({
        let (reports, client, stop) = (reports.clone(), link.client().clone(), publishing.clone());
        async move { reports.publish(client, stop).await }
    });
    for (n, (core, observer)) in cores.iter().enumerate() {
        core.resume();
        let rhythm = Rhythm { interval: config.heartbeat, offset: n as f64 / cores.len() as f64 };
        tasks.spawn(heartbeat::beat(core.clone(), observer.clone(), link.clone(), rhythm, || false, stop.clone()));
    }
    tracing::info!(peers = cores.len(), "the agent runs");
    shutdown.cancelled().await;
    stop.cancel();
    if link.is_connected() {
        // Those that are not told now are told after the next start.
        let _ = tokio::time::timeout(LAST_REPORTS, reports.drained()).await;
    }
    publishing.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(())
}

fn open_driver(peer: &PeerConfig, folder: &Path, ports: &Arc<Ports>) -> anyhow::Result<Arc<dyn Driver>> {
    if let Some(commands) = &peer.commands {
        return Ok(Arc::new(SimpleDriver::open(SimpleOptions {
            on_acquire: words::split(&commands.acquire)?,
            on_release: words::split(&commands.release)?,
            on_role: commands.role.as_deref().map(words::split).transpose()?,
            ready: commands.ready.clone(),
            workloads: peer.started()?,
            file: folder.join("workloads.json"),
            timeout: peer.driver_timeout,
        })?));
    }
    let program = match peer.driver.as_deref() {
        Some("process") => {
            return Ok(Arc::new(ProcessDriver::open(ProcessOptions {
                peer: peer.id.clone(),
                templates: peer.process.clone(),
                start: peer.started()?,
                folder: folder.to_owned(),
                ports: ports.clone(),
            })?));
        }
        Some("haproxy") => {
            let config = peer.haproxy.clone().context("[peer.haproxy] is missing")?;
            return Ok(Arc::new(HaproxyDriver::new(config)));
        }
        Some("kubernetes") => {
            let config = peer.kubernetes.clone().unwrap_or_default();
            let node = peer.name.as_deref().unwrap_or(peer.id.as_str());
            return Ok(Arc::new(KubernetesDriver::open(&config, peer.id.clone(), node)?));
        }
        Some("systemd") => write_script(&folder.join("systemd-driver"), SYSTEMD)?,
        Some(path) => PathBuf::from(path),
        None => anyhow::bail!("no driver is configured"),
    };
    let mut env = peer.driver_env.clone();
    let services: Vec<&str> = peer.services.iter().map(|s| s.name.as_str()).collect();
    env.entry("OMNIRELAY_SERVICES".to_owned()).or_insert_with(|| services.join(" "));
    Ok(Arc::new(ExecDriver { program, args: peer.driver_args.clone(), env, timeout: peer.driver_timeout }))
}

/// Writes a shipped driver, anew at every start: its version is the agent's.
fn write_script(path: &Path, text: &str) -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let beside = path.with_extension("new");
    std::fs::write(&beside, text)?;
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o755))?;
    std::fs::rename(&beside, path)?;
    Ok(path.canonicalize()?)
}
