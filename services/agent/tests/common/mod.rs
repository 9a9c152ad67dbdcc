//! The control plane's side of the wire, as far as the agent's tests need it.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::time::Duration;

use async_nats::jetstream::{self, stream};
use async_nats::{Client, ConnectOptions, ServerAddr, Subscriber};
use futures_util::StreamExt;
use omnirelay_contract::agent::{
    ClusterRole, Command, CommandVerb, CommandWorkload, Heartbeat, Outcome, Reply, Report,
};
use omnirelay_contract::subject;
use omnirelay_workflow::resource::{Handover, Role};
use omnirelay_workflow::{ClusterId, CommandId, PeerId, Timestamp, WorkloadId};
use tokio::time::{Instant, timeout};

pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Control {
    pub client: Client,
    pub url: String,
    heartbeats: Subscriber,
    reports: Subscriber,
}

impl Control {
    /// Connected to an account of its own, without streams.
    pub async fn new() -> Self {
        let url = omnirelay_devstack::testing::shared().await.nats_account().await;
        let server: ServerAddr = url.parse().unwrap();
        let login = (server.username().unwrap().to_owned(), server.password().unwrap().to_owned());
        let options = ConnectOptions::with_user_and_password(login.0, login.1);
        let client = options.connect(server).await.unwrap();
        let heartbeats = client.subscribe(subject::ALL_HEARTBEATS).await.unwrap();
        let reports = client.subscribe(subject::ALL_REPORTS).await.unwrap();
        client.flush().await.unwrap();
        Self { client, url, heartbeats, reports }
    }

    pub async fn create_stream(&self) {
        let config = stream::Config {
            name: subject::STREAM_REPORTS.to_owned(),
            subjects: vec![subject::ALL_REPORTS.to_owned()],
            ..stream::Config::default()
        };
        jetstream::new(self.client.clone()).create_stream(config).await.unwrap();
    }

    /// Sends a command again and again until somebody answers.
    pub async fn send(&self, command: &Command) -> Reply {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.try_send(command).await {
                Some(reply) => return reply,
                None => assert!(Instant::now() < deadline, "nobody answers {command:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn try_send(&self, command: &Command) -> Option<Reply> {
        let payload = serde_json::to_vec(command).unwrap();
        let subject = subject::agent(&command.peer, command.verb.as_str());
        let request = self.client.request(subject, payload.into());
        let answer = timeout(Duration::from_millis(500), request).await.ok()?.ok()?;
        Some(serde_json::from_slice(&answer.payload).unwrap())
    }

    pub async fn accepted(&self, command: &Command) {
        assert_eq!(self.send(command).await, Reply::Accepted);
    }

    pub async fn any_report(&mut self) -> Report {
        let message = timeout(PATIENCE, self.reports.next()).await.expect("a report").unwrap();
        let report: Report = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(message.subject.as_str(), subject::report(&report.peer, "command"));
        report
    }

    /// The next report of the command.
    pub async fn report(&mut self, command: &Command) -> Report {
        loop {
            let report = self.any_report().await;
            if report.command == command.id {
                return report;
            }
        }
    }

    /// The next report that ends the command. Without a stream reports are repeated, so they are no stream of news.
    pub async fn outcome(&mut self, command: &Command) -> Outcome {
        loop {
            match self.report(command).await.outcome {
                Outcome::Busy { .. } | Outcome::NotReady { .. } => {}
                outcome => return outcome,
            }
        }
    }

    /// The next heartbeat of the peer that is as wanted.
    pub async fn heartbeat(&mut self, peer: &str, wanted: impl Fn(&Heartbeat) -> bool) -> Heartbeat {
        let mut last = None;
        let deadline = Instant::now() + PATIENCE;
        while let Ok(Some(message)) = tokio::time::timeout_at(deadline, self.heartbeats.next()).await {
            let heartbeat: Heartbeat = serde_json::from_slice(&message.payload).unwrap();
            if heartbeat.peer.as_str() != peer {
                continue;
            }
            if wanted(&heartbeat) {
                return heartbeat;
            }
            last = Some(heartbeat);
        }
        panic!("no such heartbeat of {peer}; the last was {last:?}");
    }

    /// What the peer runs, by its next heartbeat but one: the next may have been on its way.
    pub async fn runs(&mut self, peer: &str, workload: &str) -> bool {
        let first = self.heartbeat(peer, |_| true).await;
        let next = self.heartbeat(peer, |h| h.incarnation != first.incarnation || h.seq > first.seq + 1).await;
        next.workloads.iter().any(|w| w.id.as_str() == workload)
    }
}

pub fn command(id: &str, verb: CommandVerb, peer: &str, workload: &str, epoch: u64) -> Command {
    Command {
        id: CommandId::parse(id).unwrap(),
        verb,
        peer: PeerId::parse(peer).unwrap(),
        operation: None,
        workload: Some(CommandWorkload {
            id: WorkloadId::parse(workload).unwrap(),
            service: "shop".to_owned(),
            unit: None,
            handover: Handover::StartFirst,
            epoch,
        }),
        holds: Vec::new(),
        cluster: None,
        expires_at: Timestamp::now() + Duration::from_secs(60),
    }
}

/// A role of the peer's cluster.
pub fn role_of(id: &str, peer: &str, cluster: &str, failover_version: u64, role: Role) -> Command {
    let cluster = ClusterRole { cluster: ClusterId::parse(cluster).unwrap(), failover_version, role };
    Command { workload: None, cluster: Some(cluster), ..command(id, CommandVerb::Role, peer, "w1", 0) }
}

pub fn failed(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Failed { message } => message,
        other => panic!("{other:?} is no failure"),
    }
}
