//! The driver behind the flags: a command to acquire, a command to release, a ready check.
//!
//! Such a peer has nobody who could list its workloads, so the driver remembers in a file what was acquired and released here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use omnirelay_workflow::WorkloadId;

use super::exec::{Ran, run};
use super::probe::{Check, Http, program};
use super::{Answer, Call, Driver, Exit, Line, Target, Verb};
use crate::state_file;

pub struct SimpleOptions {
    pub on_acquire: Vec<String>,
    pub on_release: Vec<String>,
    /// Without one a change of role is nobody's concern here.
    pub on_role: Option<Vec<String>>,
    /// Without one a workload is ready once it was acquired. `{workload}` and `{service}` are replaced.
    pub ready: Option<String>,
    /// What runs here when the file does not exist yet: workload and service.
    pub workloads: Vec<(WorkloadId, String)>,
    pub file: PathBuf,
    pub timeout: Duration,
}

pub struct SimpleDriver {
    options: SimpleOptions,
    http: Http,
    here: Mutex<BTreeMap<WorkloadId, String>>,
}

impl SimpleDriver {
    /// Reads what was here when the agent last ran.
    pub fn open(options: SimpleOptions) -> anyhow::Result<Self> {
        let here = match state_file::read(&options.file)? {
            Some(here) => here,
            None => {
                let first: BTreeMap<_, _> = options.workloads.iter().cloned().collect();
                state_file::write(&options.file, &first)?;
                first
            }
        };
        Ok(Self { http: Http::new()?, here: Mutex::new(here), options })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<WorkloadId, String>> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers where the workload is. The command has acted already, so a failing disk is told as a failure: it is asked again.
    fn remember(&self, target: &Target, is_here: bool) -> Result<(), String> {
        let mut here = self.lock();
        if is_here {
            here.insert(target.id.clone(), target.service.clone());
        } else {
            here.remove(&target.id);
        }
        state_file::write(&self.options.file, &*here).map_err(|error| error.to_string())
    }

    async fn act(&self, argv: &[String], call: &Call) -> Result<Ran, Answer> {
        let command = program(argv, call).map_err(Answer::failed)?;
        let ran = run(command, self.options.timeout).await.map_err(Answer::failed)?;
        match ran.status.code() {
            Some(0) => Ok(ran),
            Some(75) => Err(Answer::busy(Vec::new(), ran.message)),
            _ if ran.message.is_empty() => Err(Answer::failed(format!("{} ended with {}", argv[0], ran.status))),
            _ => Err(Answer::failed(ran.message)),
        }
    }

    async fn status(&self, id: &WorkloadId, service: &str, call: &Call) -> Answer {
        let mut message = String::new();
        let ready = match self.check(id, service) {
            None => true,
            Some(Ok(check)) => match check.run(&self.http, call).await {
                Ok(()) => true,
                Err(why) => {
                    message = why;
                    false
                }
            },
            Some(Err(why)) => {
                message = why;
                false
            }
        };
        let line = Line { id: id.clone(), service: service.to_owned(), ready, remaining: None, unit: None };
        Answer { exit: Exit::Done, lines: vec![line], message }
    }

    fn check(&self, id: &WorkloadId, service: &str) -> Option<Result<Check, String>> {
        let text = self.options.ready.as_ref()?.replace("{workload}", id.as_str()).replace("{service}", service);
        Some(Check::parse(&text).map_err(|error| format!("ready check: {error}")))
    }

    async fn list(&self, call: &Call) -> Answer {
        let here: Vec<_> = self.lock().iter().map(|(id, service)| (id.clone(), service.clone())).collect();
        let checks = here.iter().map(|(id, service)| async move {
            let target = Target { id: id.clone(), service: service.clone(), unit: None, epoch: 0 };
            let call = Call { verb: Verb::Status, target: Some(target), ..call.clone() };
            self.status(id, service, &call).await.lines
        });
        Answer::done(futures_util::future::join_all(checks).await.into_iter().flatten().collect())
    }
}

impl Driver for SimpleDriver {
    fn call(&self, call: Call) -> BoxFuture<'_, Answer> {
        async move {
            let Some(target) = &call.target else {
                return match (call.verb, &self.options.on_role) {
                    (Verb::List, _) => self.list(&call).await,
                    (Verb::Role, Some(argv)) => match self.act(argv, &call).await {
                        Ok(_) => Answer::done(Vec::new()),
                        Err(answer) => answer,
                    },
                    _ => Answer::done(Vec::new()),
                };
            };
            match call.verb {
                Verb::Acquire => match self.act(&self.options.on_acquire, &call).await {
                    Err(answer) => answer,
                    Ok(_) => match self.remember(target, true) {
                        Ok(()) => self.status(&target.id, &target.service, &call).await,
                        Err(why) => Answer::failed(why),
                    },
                },
                Verb::Release => match self.act(&self.options.on_release, &call).await {
                    Err(answer) => answer,
                    Ok(_) => self.remember(target, false).map_or_else(Answer::failed, |()| Answer::done(Vec::new())),
                },
                Verb::Status if self.lock().contains_key(&target.id) => {
                    self.status(&target.id, &target.service, &call).await
                }
                Verb::Status | Verb::List | Verb::Cordon | Verb::Uncordon | Verb::Role => Answer::done(Vec::new()),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use omnirelay_contract::agent::ClusterRole;
    use omnirelay_workflow::resource::Role;
    use omnirelay_workflow::{ClusterId, PeerId};

    use super::*;

    fn open(folder: &Path) -> SimpleDriver {
        let words = |text: &str| super::super::words::split(text).unwrap();
        let ready = format!("test -e {}/{{service}}-{{workload}}", folder.display());
        SimpleDriver::open(SimpleOptions {
            on_acquire: words(&format!("sh -c 'touch {}/$OMNIRELAY_SERVICE-$OMNIRELAY_WORKLOAD'", folder.display())),
            on_release: words(&format!(
                "sh -c 'if [ -e {0}/busy ]; then echo 3 left >&2; exit 75; fi; rm -f {0}/shop-$OMNIRELAY_WORKLOAD'",
                folder.display()
            )),
            on_role: Some(words(&format!(
                "sh -c 'echo $OMNIRELAY_CLUSTER $OMNIRELAY_ROLE $OMNIRELAY_FAILOVER_VERSION >>{}/roles'",
                folder.display()
            ))),
            ready: Some(ready),
            workloads: vec![(WorkloadId::parse("w1").unwrap(), "shop".to_owned())],
            file: folder.join("state/workloads.json"),
            timeout: Duration::from_secs(20),
        })
        .unwrap()
    }

    async fn ask(driver: &SimpleDriver, verb: Verb, workload: &str) -> Answer {
        let id = WorkloadId::parse(workload).unwrap();
        let target = Target { id, service: "shop".to_owned(), unit: None, epoch: 1 };
        let target = (verb != Verb::List).then_some(target);
        driver.call(Call { verb, peer: PeerId::parse("p1").unwrap(), target, holds: vec![], cluster: None }).await
    }

    async fn listed(driver: &SimpleDriver) -> Vec<(String, bool)> {
        let answer = ask(driver, Verb::List, "w1").await;
        answer.lines.into_iter().map(|line| (line.id.to_string(), line.ready)).collect()
    }

    #[tokio::test]
    async fn commands_move_workloads_and_the_file_remembers() {
        let folder = tempfile::tempdir().unwrap();
        let driver = open(folder.path());
        assert_eq!(listed(&driver).await, [("w1".to_owned(), false)], "adopted; its check does not pass");
        let acquired = ask(&driver, Verb::Acquire, "w2").await;
        assert!(acquired.exit == Exit::Done && acquired.lines[0].ready, "{acquired:?}");
        std::fs::write(folder.path().join("busy"), "").unwrap();
        assert_eq!(ask(&driver, Verb::Release, "w1").await, Answer::busy(vec![], "3 left"));
        std::fs::remove_file(folder.path().join("busy")).unwrap();
        assert_eq!(ask(&driver, Verb::Release, "w1").await.exit, Exit::Done);
        drop(driver);
        assert_eq!(listed(&open(folder.path())).await, [("w2".to_owned(), true)]);
    }

    #[tokio::test]
    async fn a_role_is_told_to_its_command_and_without_one_is_nobodys_concern() {
        let folder = tempfile::tempdir().unwrap();
        let mut driver = open(folder.path());
        let peer = PeerId::parse("p1").unwrap();
        let cluster = ClusterId::parse("fra1").unwrap();
        let cluster = ClusterRole { cluster, failover_version: 7, role: Role::Fenced };
        let call = Call { verb: Verb::Role, peer, target: None, holds: vec![], cluster: Some(cluster) };
        assert_eq!(driver.call(call.clone()).await, Answer::done(vec![]));
        let told = || std::fs::read_to_string(folder.path().join("roles")).unwrap();
        assert_eq!(told(), "fra1 fenced 7\n");
        driver.options.on_role = Some(vec!["false".to_owned()]);
        assert_eq!(driver.call(call.clone()).await.exit, Exit::Failed);
        driver.options.on_role = None;
        assert_eq!(driver.call(call).await.exit, Exit::Done);
        assert_eq!(told(), "fra1 fenced 7\n");
    }
}
