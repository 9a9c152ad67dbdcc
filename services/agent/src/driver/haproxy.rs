//! Workloads as members of a load balancer: servers of HAProxy backends, taken out and put back over its runtime socket.
//!
//! ```text
//! here ──release: state drain──▶ draining (busy: 17 sessions left) ──0 left──▶ gone ──acquire: state ready──▶ here
//! ```
//!
//! Which servers are this peer's is in its configuration: `backend/server`, the workload's id being `backend--server` where
//! nothing else is said. A server that HAProxy has in drain or maintenance, with no session left, is not here; one with a
//! failing check is, and is not ready. Nothing is remembered: HAProxy's own state is asked every time. Where several HAProxies
//! balance over the peer, all of them are told, and their sessions are added up.

mod member;
mod socket;

use std::collections::BTreeMap;

use futures_util::future::{BoxFuture, FutureExt, try_join_all};
use omnirelay_workflow::WorkloadId;
use serde::Deserialize;

use super::{Answer, Call, Driver, Exit, Line, Target, Verb};
use member::{Member, Servers};
use socket::Socket;

/// `[peer.haproxy]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HaproxyConfig {
    /// `unix:/run/haproxy/admin.sock` or `tcp:127.0.0.1:9999`, with `level admin`. Several, where several balance over the peer.
    pub sockets: Vec<Socket>,
    /// `backend/server`, or `id=backend/server`.
    pub servers: Vec<Member>,
    /// What a server is left in when its last session has ended.
    #[serde(default)]
    pub when_empty: WhenEmpty,
}

/// Where HAProxy keeps a released server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenEmpty {
    /// Checks go on, and so a server that comes back is known to be up. Persistent sessions (cookies) still reach it.
    #[default]
    Drain,
    /// Nothing reaches it any more.
    Maint,
}

impl HaproxyConfig {
    /// What the types alone do not say: the key and the reason.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if self.sockets.is_empty() {
            return Err((
                "sockets",
                "a runtime socket is needed, for instance unix:/run/haproxy/admin.sock".to_owned(),
            ));
        }
        if self.servers.is_empty() {
            return Err(("servers", "a server is needed, as backend/server".to_owned()));
        }
        let mut ids = BTreeMap::new();
        for member in &self.servers {
            if let Some(other) = ids.insert(&member.id, member) {
                let reason =
                    format!("{other} and {member} have the same id {}: give one another, id=backend/server", member.id);
                return Err(("servers", reason));
            }
        }
        Ok(())
    }
}

pub struct HaproxyDriver {
    config: HaproxyConfig,
}

/// A member over all sockets.
struct Look {
    /// Some HAProxy still sends to it, or has sessions on it.
    here: bool,
    sessions: u64,
    /// Why it is not ready; none when every HAProxy has it up.
    amiss: Option<String>,
    out: bool,
}

impl HaproxyDriver {
    pub fn new(config: HaproxyConfig) -> Self {
        Self { config }
    }

    fn member(&self, id: &WorkloadId) -> Option<&Member> {
        self.config.servers.iter().find(|member| member.id == *id)
    }

    async fn looks(&self) -> Result<Vec<(&Member, Look)>, String> {
        let seen = try_join_all(self.config.sockets.iter().map(|socket| async move {
            let text = socket.ask("show stat -1 4 -1;show servers state").await?;
            Ok::<_, String>((socket, Servers::parse(&text).map_err(|why| format!("{socket}: {why}"))?))
        }))
        .await?;
        let look = |member| {
            let mut look = Look { here: false, sessions: 0, amiss: None, out: true };
            for (socket, servers) in &seen {
                // One that is missing was not released: it is a mistake, and no empty list may come of it.
                let server = servers.get(member).ok_or_else(|| format!("{socket} has no server {member}"))?;
                look.sessions += server.sessions;
                look.out &= server.out();
                look.here |= !server.out() || server.sessions > 0;
                look.amiss = look.amiss.or_else(|| server.amiss().map(|why| format!("{member} is {why}")));
            }
            Ok((member, look))
        };
        self.config.servers.iter().map(look).collect()
    }

    async fn look(&self, member: &Member) -> Result<Look, String> {
        let found = self.looks().await?.into_iter().find(|(known, _)| known.id == member.id);
        found.map(|(_, look)| look).ok_or_else(|| format!("{member} is not configured"))
    }

    async fn set(&self, member: &Member, state: &str) -> Result<(), String> {
        try_join_all(self.config.sockets.iter().map(|socket| async move {
            let told = socket.ask(&format!("set server {member} state {state}")).await?;
            match told.trim().lines().next() {
                None => Ok(()),
                Some(words) => Err(format!("{socket}: {member} state {state}: {words}")),
            }
        }))
        .await
        .map(drop)
    }

    async fn list(&self) -> Result<Answer, String> {
        let looks = self.looks().await?;
        Ok(Answer::done(looks.iter().filter(|(_, look)| look.here).map(|(member, look)| line(member, look)).collect()))
    }

    async fn status(&self, target: &Target) -> Result<Answer, String> {
        let Some(member) = self.member(&target.id) else { return Ok(Answer::done(Vec::new())) };
        let look = self.look(member).await?;
        let lines = if look.here { vec![line(member, &look)] } else { Vec::new() };
        Ok(Answer { exit: Exit::Done, lines, message: look.amiss.unwrap_or_default() })
    }

    async fn acquire(&self, target: &Target) -> Result<Answer, String> {
        let member = self.member(&target.id).ok_or_else(|| {
            let known: Vec<String> = self.config.servers.iter().map(|m| m.id.to_string()).collect();
            format!("{} is no server of this peer; its [peer.haproxy] has {}", target.id, known.join(", "))
        })?;
        self.set(member, "ready").await?;
        self.status(target).await
    }

    async fn release(&self, target: &Target) -> Result<Answer, String> {
        let Some(member) = self.member(&target.id) else { return Ok(Answer::done(Vec::new())) };
        // What is out already is left as it is: somebody's maintenance does not become a drain.
        if !self.look(member).await?.out {
            self.set(member, "drain").await?;
        }
        let look = self.look(member).await?;
        match look.sessions {
            0 => {
                if self.config.when_empty == WhenEmpty::Maint {
                    self.set(member, "maint").await?;
                }
                Ok(Answer::done(Vec::new()))
            }
            1 => Ok(Answer::busy(vec![line(member, &look)], "1 session left")),
            n => Ok(Answer::busy(vec![line(member, &look)], format!("{n} sessions left"))),
        }
    }
}

impl Driver for HaproxyDriver {
    fn call(&self, call: Call) -> BoxFuture<'_, Answer> {
        async move {
            let answer = match (call.verb, &call.target) {
                (Verb::List, _) => self.list().await,
                (Verb::Status, Some(target)) => self.status(target).await,
                (Verb::Acquire, Some(target)) => self.acquire(target).await,
                (Verb::Release, Some(target)) => self.release(target).await,
                (Verb::Cordon | Verb::Uncordon | Verb::Role, _) => Ok(Answer::done(Vec::new())),
                (Verb::Status | Verb::Acquire | Verb::Release, None) => Err("which workload?".to_owned()),
            };
            answer.unwrap_or_else(Answer::failed)
        }
        .boxed()
    }
}

fn line(member: &Member, look: &Look) -> Line {
    Line {
        id: member.id.clone(),
        service: member.backend.clone(),
        ready: look.amiss.is_none(),
        // Of a server in use the number is not what is left, it is the traffic.
        remaining: look.out.then_some(look.sessions),
        unit: Some(member.to_string()),
    }
}
