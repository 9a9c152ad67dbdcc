//! Agents are told of their peers' holds until they say the same: by level, not by edge.

use std::time::Duration;

use async_nats::HeaderMap;
use omnirelay_bus::Bus;
use omnirelay_contract::agent::{Command, CommandVerb, Heartbeat};
use omnirelay_contract::subject;
use omnirelay_workflow::{CommandId, HoldId, PeerId, Timestamp};
use tokio::time::Instant;
use uuid::Uuid;

/// How often a peer is told, at most.
const PAUSE: Duration = Duration::from_secs(2);
/// How long a command is good for. An agent that knows its id repeats its report and does nothing: after this time it is a
/// new one.
const EXPIRES: Duration = Duration::from_secs(30);

/// A hold command that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    command: CommandId,
    holds: Vec<HoldId>,
    at: Instant,
    first: Instant,
    expires_at: Timestamp,
}

/// The next command for a peer whose heartbeat names other holds than the record, if it is time. `holds` are sorted.
pub fn ask(
    heartbeat: &Heartbeat,
    holds: &[HoldId],
    before: Option<&Asked>,
    now: Instant,
    clock: Timestamp,
) -> Option<Asked> {
    let mut told = heartbeat.holds.clone();
    told.sort_unstable();
    if told == holds {
        return None;
    }
    let same = before.filter(|asked| asked.holds == holds);
    match same {
        Some(asked) if now < asked.at + PAUSE => None,
        Some(asked) if now < asked.first + EXPIRES => Some(Asked { at: now, ..asked.clone() }),
        Some(_) | None => Some(Asked {
            command: CommandId::parse(&format!("hold-{}", Uuid::new_v4().simple())).ok()?,
            holds: holds.to_vec(),
            at: now,
            first: now,
            expires_at: clock.checked_add(EXPIRES).unwrap_or(Timestamp::MAX),
        }),
    }
}

/// Sends it. Nobody waits for an answer: the next heartbeats tell.
pub async fn send(bus: &Bus, peer: &PeerId, asked: &Asked) {
    let verb = if asked.holds.is_empty() { CommandVerb::Uncordon } else { CommandVerb::Cordon };
    let command = Command {
        id: asked.command.clone(),
        verb,
        peer: peer.clone(),
        operation: None,
        workload: None,
        holds: asked.holds.clone(),
        expires_at: asked.expires_at,
    };
    let payload = match serde_json::to_vec(&command) {
        Ok(payload) => payload,
        Err(error) => return tracing::error!(%peer, %error, "a hold command cannot be written"),
    };
    if let Err(error) = bus.publish(subject::agent(peer, verb.as_str()), HeaderMap::new(), payload.into()).await {
        tracing::warn!(%peer, %error, "an agent cannot be told of its peer's holds; its next heartbeat brings it up again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::tests::heartbeat;

    #[test]
    fn it_is_asked_until_they_agree() {
        let (start, clock) = (Instant::now(), Timestamp::UNIX_EPOCH);
        let after = |secs: u64| start + Duration::from_secs(secs);
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut beat = heartbeat("a", "c");

        assert_eq!(ask(&beat, &[], None, start, clock), None);
        let first = ask(&beat, &[one], None, start, clock).expect("it is not told yet");
        assert_eq!(ask(&beat, &[one], Some(&first), after(1), clock), None);
        let again = ask(&beat, &[one], Some(&first), after(2), clock).expect("it is repeated");
        assert_eq!(again.command, first.command);
        let anew = ask(&beat, &[one], Some(&again), after(30), clock).expect("the first has expired");
        assert_ne!(anew.command, first.command);
        // Another set does not wait.
        let other = ask(&beat, &[one, two], Some(&anew), after(30), clock).expect("it has changed");
        assert_ne!(other.command, anew.command);
        beat.holds = vec![two, one];
        assert_eq!(ask(&beat, &[one, two], Some(&other), after(60), clock), None);
        assert!(ask(&beat, &[], Some(&other), after(60), clock).is_some());
    }
}
