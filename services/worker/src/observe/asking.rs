//! Commands by level, not by edge: an agent is told again and again until its heartbeats say what is wanted.

use std::time::Duration;

use async_nats::HeaderMap;
use omnirelay_bus::Bus;
use omnirelay_contract::agent::Command;
use omnirelay_contract::subject;
use omnirelay_workflow::{CommandId, Timestamp};
use tokio::time::Instant;
use uuid::Uuid;

/// How often a peer is told the same, at most.
const PAUSE: Duration = Duration::from_secs(2);
/// An agent that knows a command's id repeats its report and does nothing, also where it has failed: after this time it is a
/// new one.
const RENEW: Duration = Duration::from_secs(10);
/// How long a command is good for.
const EXPIRES: Duration = Duration::from_secs(30);

/// A command that was sent, with what is wanted by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked<W> {
    pub command: CommandId,
    pub wanted: W,
    pub expires_at: Timestamp,
    at: Instant,
    first: Instant,
}

impl<W> Asked<W> {
    /// When it was last sent.
    pub fn at(&self) -> Instant {
        self.at
    }
}

/// The next command for a peer that does not show what is wanted, if it is time. `kind` begins its id.
pub fn ask<W: Clone + PartialEq>(
    kind: &str,
    wanted: &W,
    before: Option<&Asked<W>>,
    now: Instant,
    clock: Timestamp,
) -> Option<Asked<W>> {
    match before.filter(|asked| asked.wanted == *wanted) {
        Some(asked) if now < asked.at + PAUSE => None,
        Some(asked) if now < asked.first + RENEW => Some(Asked { at: now, ..asked.clone() }),
        Some(_) | None => Some(Asked {
            command: CommandId::parse(&format!("{kind}-{}", Uuid::new_v4().simple())).ok()?,
            wanted: wanted.clone(),
            expires_at: clock.checked_add(EXPIRES).unwrap_or(Timestamp::MAX),
            at: now,
            first: now,
        }),
    }
}

/// Sends it. Nobody waits for an answer: the next heartbeats tell.
pub async fn send(bus: &Bus, command: &Command) {
    let (peer, verb) = (&command.peer, command.verb);
    let payload = match serde_json::to_vec(command) {
        Ok(payload) => payload,
        Err(error) => return tracing::error!(%peer, %verb, %error, "a command cannot be written"),
    };
    if let Err(error) = bus.publish(subject::agent(peer, verb.as_str()), HeaderMap::new(), payload.into()).await {
        tracing::warn!(%peer, %verb, %error, "an agent cannot be told; its next heartbeat brings it up again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_repeated_and_renewed_and_another_wish_does_not_wait() {
        let (start, clock) = (Instant::now(), Timestamp::UNIX_EPOCH);
        let after = |secs: u64| start + Duration::from_secs(secs);
        let ask = |wanted: u32, before, secs| super::ask("test", &wanted, before, after(secs), clock);

        let first = ask(1, None, 0).expect("it is not told yet");
        assert_eq!(ask(1, Some(&first), 1), None);
        let again = ask(1, Some(&first), 2).expect("it is repeated");
        assert_eq!((&again.command, again.at()), (&first.command, after(2)));
        let anew = ask(1, Some(&again), 10).expect("the first may have failed");
        assert_ne!(anew.command, first.command);
        let other = ask(2, Some(&anew), 10).expect("it has changed");
        assert_ne!(other.command, anew.command);
    }
}
