//! Workloads as child processes of the agent, by a template per service in the agent's configuration.
//!
//! Each child leads a process group of its own and has a port of its own. What should run is in `process.json` in the peer's
//! folder, with pid and start time: children end with the agent, and after a `kill -9` of it the next start takes over
//! those that are still there, starts those that are not, and ends what nobody recorded. A child that dies is started again.
//!
//! A release takes the workload out of the endpoints first (`ready: false` in the file and in heartbeats), so that a proxy stops
//! sending; it is busy while `drain_url` says that something remains; then comes the signal, and after the grace SIGKILL.

mod proc;
mod role;
mod template;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, FutureExt, join_all};
use omnirelay_workflow::resource::Role;
use omnirelay_workflow::{PeerId, WorkloadId};
use rustix::process::{Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};

use super::probe::Http;
use super::{Answer, Call, Driver, Exit, Line, Target, Verb};
use crate::state_file;
use proc::{Found, OWNER};
pub use template::{Ports, StopSignal, Template};

/// How often a process that was told to end is looked at.
const WATCH: Duration = Duration::from_millis(20);
/// A child that dies is started again, but not more often than this.
const RESTART_GAP: Duration = Duration::from_secs(1);
/// The longest wait for a process to go after SIGKILL.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

pub struct ProcessOptions {
    pub peer: PeerId,
    /// By service.
    pub templates: BTreeMap<String, Template>,
    /// What runs here when the peer starts for the first time: workload and service.
    pub start: Vec<(WorkloadId, String)>,
    /// The peer's own folder: `process.json` and the children's logs.
    pub folder: PathBuf,
    /// Shared by all peers of this process, so that two of them never choose the same port.
    pub ports: Arc<Ports>,
}

/// Where a workload can be reached, as `process.json` tells it to a proxy beside the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub service: String,
    pub port: u16,
    /// Its check passed last time and nobody releases it: send requests here.
    pub ready: bool,
    releasing: bool,
    process: Option<Found>,
}

type Endpoints = BTreeMap<WorkloadId, Endpoint>;

/// The endpoints of a peer whose folder this is, empty before its first start.
pub fn read_endpoints(folder: &Path) -> Result<BTreeMap<WorkloadId, Endpoint>, state_file::StateFileError> {
    Ok(state_file::read(&folder.join(FILE))?.unwrap_or_default())
}

const FILE: &str = "process.json";

pub struct ProcessDriver {
    options: ProcessOptions,
    http: Http,
    inside: Mutex<Inside>,
}

struct Inside {
    endpoints: Endpoints,
    /// Those that this process started; the others were taken over.
    children: HashMap<WorkloadId, Child>,
    started: HashMap<WorkloadId, Instant>,
    /// Of the peer's cluster, once there was a promotion.
    role: Option<Role>,
}

impl ProcessDriver {
    /// Takes over what runs, and starts what should run and does not. To be called within a tokio runtime.
    pub fn open(options: ProcessOptions) -> anyhow::Result<Self> {
        std::fs::create_dir_all(options.folder.join("logs"))?;
        let endpoints: Option<Endpoints> = state_file::read(&options.folder.join(FILE))?;
        let first = endpoints.is_none();
        let mut inside = Inside { role: role::remembered(&options)?, ..Inside::empty() };
        inside.endpoints = endpoints.unwrap_or_default();
        let recorded: Vec<i32> =
            inside.endpoints.values().filter_map(|e| e.process.as_ref()).map(|found| found.pid).collect();
        proc::end_unrecorded(&options.folder, &recorded);
        let driver = Self { http: Http::new()?, options, inside: Mutex::new(Inside::empty()) };
        for endpoint in inside.endpoints.values() {
            driver.options.ports.claim(endpoint.port);
        }
        if first {
            for (id, service) in &driver.options.start {
                driver.spawn(&mut inside, id, service).map_err(anyhow::Error::msg)?;
            }
        }
        driver.revive(&mut inside);
        driver.save(&inside).map_err(anyhow::Error::msg)?;
        *driver.lock() = inside;
        Ok(driver)
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts what should run and does not; forgets what died while it was being released.
    fn revive(&self, inside: &mut Inside) {
        let ids: Vec<WorkloadId> = inside.endpoints.keys().cloned().collect();
        for id in ids {
            if inside.alive(&id) {
                continue;
            }
            let Some(endpoint) = inside.endpoints.get(&id) else { continue };
            let recent = inside.started.get(&id).is_some_and(|at| at.elapsed() < RESTART_GAP);
            if endpoint.releasing || recent {
                continue;
            }
            let service = endpoint.service.clone();
            if let Err(error) = self.spawn(inside, &id, &service) {
                tracing::warn!(peer = %self.options.peer, workload = %id, %error, "cannot start a child process");
            }
        }
    }

    fn spawn(&self, inside: &mut Inside, id: &WorkloadId, service: &str) -> Result<(), String> {
        let template = self.template(service)?;
        let port = match inside.endpoints.get(id) {
            Some(endpoint) => endpoint.port,
            None => self.options.ports.assign(template.port_base)?,
        };
        let argv = template.argv(id, service, &self.options.peer, port);
        let (name, args) = argv.split_first().ok_or_else(|| format!("the command of {service} is empty"))?;
        let log = self.log(id).map_err(|error| format!("the log of {id}: {error}"))?;
        let errors = log.try_clone().map_err(|error| format!("the log of {id}: {error}"))?;
        let mut command = Command::new(name);
        command
            .args(args)
            .env(OWNER, &self.options.folder)
            .env("OMNIRELAY_WORKLOAD", id.as_str())
            .env("OMNIRELAY_SERVICE", service)
            .env("OMNIRELAY_PEER", self.options.peer.as_str())
            .env("PORT", port.to_string())
            .envs(inside.role.map(|role| ("OMNIRELAY_ROLE", role.as_str())))
            .env_remove("OMNIRELAY_NATS_URL")
            .env_remove("OMNIRELAY_TOKEN")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn().map_err(|error| format!("cannot start {name}: {error}"))?;
        let process = child.id().and_then(|pid| proc::find(pid.cast_signed()));
        let endpoint = Endpoint { service: service.to_owned(), port, ready: false, releasing: false, process };
        inside.endpoints.insert(id.clone(), endpoint);
        inside.children.insert(id.clone(), child);
        inside.started.insert(id.clone(), Instant::now());
        self.save(inside)
    }

    fn log(&self, id: &WorkloadId) -> std::io::Result<std::fs::File> {
        let path = self.options.folder.join("logs").join(format!("{id}.log"));
        std::fs::OpenOptions::new().create(true).append(true).open(path)
    }

    fn save(&self, inside: &Inside) -> Result<(), String> {
        state_file::write(&self.options.folder.join(FILE), &inside.endpoints).map_err(|error| error.to_string())
    }

    fn template(&self, service: &str) -> Result<&Template, String> {
        self.options
            .templates
            .get(service)
            .ok_or_else(|| format!("the service {service:?} has no template in the agent's configuration"))
    }

    fn acquire(&self, target: &Target) -> Result<(), String> {
        let mut inside = self.lock();
        if inside.alive(&target.id)
            && let Some(endpoint) = inside.endpoints.get_mut(&target.id)
        {
            // A release may have begun and been taken back.
            if std::mem::replace(&mut endpoint.releasing, false) {
                return self.save(&inside);
            }
            return Ok(());
        }
        self.spawn(&mut inside, &target.id, &target.service)
    }

    async fn status(&self, id: &WorkloadId, call: &Call) -> Answer {
        let (endpoint, alive) = {
            let mut inside = self.lock();
            let alive = inside.alive(id);
            match inside.endpoints.get(id) {
                Some(endpoint) => (endpoint.clone(), alive),
                None => return Answer::done(Vec::new()),
            }
        };
        let checked = if endpoint.releasing {
            Err("it is being released".to_owned())
        } else if !alive {
            Err("the process has ended".to_owned())
        } else {
            self.check(id, &endpoint, call).await
        };
        let ready = self.note_ready(id, checked.is_ok());
        let unit = Some(format!("{id}@127.0.0.1:{}", endpoint.port));
        let line = Line { id: id.clone(), service: endpoint.service, ready, remaining: None, unit };
        Answer { exit: Exit::Done, lines: vec![line], message: checked.err().unwrap_or_default() }
    }

    async fn check(&self, id: &WorkloadId, endpoint: &Endpoint, call: &Call) -> Result<(), String> {
        let template = self.template(&endpoint.service)?;
        match template.check(id, &endpoint.service, &self.options.peer, endpoint.port)? {
            None => Ok(()),
            Some(check) => check.run(&self.http, call).await,
        }
    }

    /// Tells proxies. A release that began during the check wins over its result.
    fn note_ready(&self, id: &WorkloadId, passed: bool) -> bool {
        let mut inside = self.lock();
        let Some(endpoint) = inside.endpoints.get_mut(id) else { return false };
        let ready = passed && !endpoint.releasing;
        if std::mem::replace(&mut endpoint.ready, ready) != ready
            && let Err(error) = self.save(&inside)
        {
            tracing::warn!(peer = %self.options.peer, %error, "endpoints cannot be written");
        }
        ready
    }

    async fn list(&self, call: &Call) -> Answer {
        let ids: Vec<WorkloadId> = {
            let mut inside = self.lock();
            self.revive(&mut inside);
            inside.endpoints.keys().cloned().collect()
        };
        let answers = join_all(ids.iter().map(|id| self.status(id, call))).await;
        Answer::done(answers.into_iter().flat_map(|answer| answer.lines).collect())
    }

    async fn release(&self, target: &Target) -> Answer {
        let id = &target.id;
        let (endpoint, begun) = {
            let mut inside = self.lock();
            let Some(endpoint) = inside.endpoints.get_mut(id) else { return Answer::done(Vec::new()) };
            let begun = !std::mem::replace(&mut endpoint.releasing, true);
            endpoint.ready = false;
            let endpoint = endpoint.clone();
            if begun && let Err(why) = self.save(&inside) {
                return Answer::failed(why);
            }
            (endpoint, begun)
        };
        let template = match self.template(&endpoint.service) {
            Ok(template) => template,
            Err(why) => return Answer::failed(why),
        };
        if begun {
            tokio::time::sleep(template.stop_delay).await;
        }
        if let Some(url) = template.drain_url(id, &endpoint.service, &self.options.peer, endpoint.port)
            && self.lock().alive(id)
        {
            let (remaining, message) = match self.http.remaining(&url).await {
                Ok(0) => (Some(0), String::new()),
                Ok(n) => (Some(n), format!("{n} left")),
                Err(why) => (None, why),
            };
            if remaining != Some(0) {
                let service = endpoint.service.clone();
                let line = Line { id: id.clone(), service, ready: false, remaining, unit: None };
                return Answer::busy(vec![line], message);
            }
        }
        if !self.end(id, template.stop_signal.0, template.stop_grace).await {
            return Answer::failed("the process does not end, not even by SIGKILL");
        }
        let mut inside = self.lock();
        inside.forget(id);
        self.options.ports.give_back(endpoint.port);
        self.save(&inside).map_or_else(Answer::failed, |()| Answer::done(Vec::new()))
    }

    /// Ends a process and its group. True when it is gone.
    async fn end(&self, id: &WorkloadId, signal: Signal, grace: Duration) -> bool {
        let pid = {
            let mut inside = self.lock();
            let alive = inside.alive(id);
            inside.endpoints.get(id).filter(|_| alive).and_then(|e| e.process.as_ref()).and_then(Found::group)
        };
        let Some(group) = pid else { return true };
        // An error means that it has just gone; the wait below finds out.
        let _ = kill_process_group(group, signal);
        let gone = self.wait_gone(id, grace).await;
        // What is left of the group goes too.
        let _ = kill_process_group(group, Signal::KILL);
        gone || self.wait_gone(id, KILL_PATIENCE).await
    }

    async fn wait_gone(&self, id: &WorkloadId, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            if !self.lock().alive(id) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(WATCH).await;
        }
    }
}

impl Inside {
    fn empty() -> Self {
        Self { endpoints: Endpoints::new(), children: HashMap::new(), started: HashMap::new(), role: None }
    }

    fn alive(&mut self, id: &WorkloadId) -> bool {
        match self.children.get_mut(id) {
            // Asking also reaps the child.
            Some(child) => child.try_wait().is_ok_and(|status| status.is_none()),
            None => self.endpoints.get(id).and_then(|e| e.process.as_ref()).is_some_and(Found::is_alive),
        }
    }

    fn forget(&mut self, id: &WorkloadId) {
        self.endpoints.remove(id);
        self.children.remove(id);
        self.started.remove(id);
    }
}

impl Driver for ProcessDriver {
    fn call(&self, call: Call) -> BoxFuture<'_, Answer> {
        async move {
            match (call.verb, &call.target) {
                (Verb::List, _) => self.list(&call).await,
                (Verb::Status, Some(target)) => self.status(&target.id, &call).await,
                (Verb::Acquire, Some(target)) => match self.acquire(target) {
                    Ok(()) => self.status(&target.id, &call).await,
                    Err(why) => Answer::failed(why),
                },
                (Verb::Release, Some(target)) => self.release(target).await,
                (Verb::Role, _) => self.tell_role(call.cluster.as_ref()).await,
                (Verb::Cordon | Verb::Uncordon, _) => Answer::done(Vec::new()),
                (Verb::Status | Verb::Acquire | Verb::Release, None) => Answer::failed("which workload?"),
            }
        }
        .boxed()
    }

    /// Ends all children, together. What should run stays recorded, and runs again after the next start.
    fn stop(&self) -> BoxFuture<'_, ()> {
        async move {
            let all: Vec<(WorkloadId, String)> =
                self.lock().endpoints.iter().map(|(id, e)| (id.clone(), e.service.clone())).collect();
            join_all(all.iter().map(|(id, service)| async move {
                let (signal, grace) = self
                    .template(service)
                    .map_or((Signal::TERM, Duration::from_secs(1)), |t| (t.stop_signal.0, t.stop_grace));
                self.end(id, signal, grace).await
            }))
            .await;
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
