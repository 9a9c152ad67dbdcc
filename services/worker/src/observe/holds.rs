//! Agents are told of their peers' holds until they say the same.

use omnirelay_contract::agent::{Command, CommandVerb, Heartbeat};
use omnirelay_workflow::{HoldId, PeerId, Timestamp};
use tokio::time::Instant;

use super::asking;

pub type Asked = asking::Asked<Vec<HoldId>>;

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
    asking::ask("hold", &holds.to_vec(), before, now, clock)
}

pub fn command(peer: &PeerId, asked: &Asked) -> Command {
    Command {
        id: asked.command.clone(),
        verb: if asked.wanted.is_empty() { CommandVerb::Uncordon } else { CommandVerb::Cordon },
        peer: peer.clone(),
        operation: None,
        workload: None,
        holds: asked.wanted.clone(),
        cluster: None,
        expires_at: asked.expires_at,
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::observe::tests::heartbeat;

    #[test]
    fn it_is_asked_until_they_agree() {
        let (now, clock) = (Instant::now(), Timestamp::UNIX_EPOCH);
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut beat = heartbeat("a", "c");
        assert_eq!(ask(&beat, &[], None, now, clock), None);
        let first = ask(&beat, &[one], None, now, clock).expect("it is not told yet");
        assert_eq!((command(&beat.peer, &first).verb, &first.wanted), (CommandVerb::Cordon, &vec![one]));
        beat.holds = vec![two, one];
        assert_eq!(ask(&beat, &[one, two], Some(&first), now, clock), None, "in any order");
        let none = ask(&beat, &[], Some(&first), now, clock).expect("nobody holds it any more");
        assert_eq!(command(&beat.peer, &none).verb, CommandVerb::Uncordon);
    }
}
