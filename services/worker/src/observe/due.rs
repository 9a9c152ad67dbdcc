//! What a heartbeat calls for, decided from the row that the last one left. Pure.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use omnirelay_contract::agent::{AgentHealth, Heartbeat};
use omnirelay_store::observed::KnownPeer;
use omnirelay_workflow::resource::Health;
use tokio::time::Instant;

use super::memory::PeerMemory;

/// What to do about a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// It is older than what is known.
    Stale,
    /// It says nothing new, and its peer was written a moment ago.
    Nothing,
    /// It says nothing new: only that the peer is there.
    Touch,
    /// Write it and compare it with the record.
    Look {
        /// The agent, or the whole peer, was not known.
        fresh: bool,
        /// It says something new.
        news: bool,
    },
}

/// `digest` is of this heartbeat; `memory` is this process's own, of the same peer.
pub fn due(
    heartbeat: &Heartbeat,
    digest: i64,
    known: Option<&KnownPeer>,
    memory: Option<&PeerMemory>,
    timeout: Duration,
    now: Instant,
) -> Due {
    let memory = memory.filter(|memory| memory.incarnation == heartbeat.incarnation);
    if memory.is_some_and(|memory| memory.seq >= heartbeat.seq) {
        return Due::Stale;
    }
    let Some(last) = known.and_then(|peer| peer.last.as_ref()) else { return Due::Look { fresh: true, news: true } };
    if last.incarnation != heartbeat.incarnation {
        return Due::Look { fresh: true, news: true };
    }
    if last.seq >= heartbeat.seq {
        return Due::Stale;
    }
    if last.digest != digest || last.health != health(heartbeat.health) {
        return Due::Look { fresh: false, news: true };
    }
    // The record may have changed although the peer did not: something is open, or it is time to look anyway.
    let settled = memory.is_some_and(|memory| memory.suspicions.is_empty() && now < memory.looked + timeout * 2);
    if !settled {
        Due::Look { fresh: false, news: false }
    } else if last.age_secs >= timeout.as_secs_f64() / 4.0 {
        Due::Touch
    } else {
        Due::Nothing
    }
}

/// What the heartbeat amounts to, apart from its number and the lag: equal content, equal digest.
pub fn digest(heartbeat: &Heartbeat) -> i64 {
    let mut hasher = DefaultHasher::new();
    heartbeat.health.hash(&mut hasher);
    heartbeat.version.hash(&mut hasher);
    let mut holds = heartbeat.holds.clone();
    holds.sort_unstable();
    holds.hash(&mut hasher);
    if let Some(told) = &heartbeat.cluster {
        (&told.cluster, told.failover_version, told.role).hash(&mut hasher);
    }
    // Drivers list in any order.
    let mut workloads: Vec<_> = heartbeat.workloads.iter().collect();
    workloads.sort_by(|a, b| a.id.cmp(&b.id));
    for w in workloads {
        (&w.id, &w.service, w.epoch, w.ready, w.remaining, &w.unit).hash(&mut hasher);
        (w.load, w.handover, w.restorable, &w.labels).hash(&mut hasher);
    }
    hasher.finish().cast_signed()
}

/// An agent that speaks is not unreachable.
pub fn health(said: AgentHealth) -> Health {
    match said {
        AgentHealth::Healthy => Health::Healthy,
        AgentHealth::Suspect => Health::Suspect,
    }
}

#[cfg(test)]
mod tests {
    use omnirelay_contract::agent::ClusterRole;
    use omnirelay_store::observed::{KnownCluster, LastHeartbeat};
    use omnirelay_workflow::resource::{ClusterState, Role};

    use super::*;
    use crate::observe::diff::Suspicions;
    use crate::observe::tests::{heartbeat, observed};

    const TIMEOUT: Duration = Duration::from_secs(10);

    #[test]
    fn the_digest_covers_what_matters_in_any_order() {
        let mut one = heartbeat("a", "c");
        one.workloads = vec![observed("w1", 1), observed("w2", 1)];
        let mut other = one.clone();
        other.workloads.reverse();
        other.seq = 99;
        other.lag_ms = Some(3);
        assert_eq!(digest(&one), digest(&other));
        other.workloads[0].remaining = Some(3);
        assert_ne!(digest(&one), digest(&other));
        other.workloads[0].remaining = None;
        assert_eq!(digest(&one), digest(&other));
        let role = |role| ClusterRole { cluster: one.describe.cluster.clone(), failover_version: 2, role };
        other.cluster = Some(role(Role::Fenced));
        let fenced = digest(&other);
        other.cluster = Some(role(Role::Passive));
        assert!(fenced != digest(&one) && fenced != digest(&other), "a role is news");
    }

    #[test]
    fn most_heartbeats_call_for_nothing() {
        let now = Instant::now();
        let beat = Heartbeat { seq: 5, ..heartbeat("a", "c") };
        let last = LastHeartbeat {
            incarnation: beat.incarnation,
            seq: 4,
            digest: digest(&beat),
            health: Health::Healthy,
            age_secs: 1.0,
        };
        let memory = PeerMemory::new(beat.incarnation, 4, now, Suspicions::new());
        let check = |last: Option<LastHeartbeat>, memory: Option<&PeerMemory>, expect: Due| {
            let cluster =
                KnownCluster { id: beat.describe.cluster.clone(), state: ClusterState::Active, failover_version: 1 };
            let known = KnownPeer { id: beat.peer.clone(), holds: Vec::new(), cluster, last };
            assert_eq!(due(&beat, digest(&beat), Some(&known), memory, TIMEOUT, now), expect);
        };
        let news = Due::Look { fresh: false, news: true };
        check(Some(last), Some(&memory), Due::Nothing);
        check(Some(LastHeartbeat { age_secs: 2.5, ..last }), Some(&memory), Due::Touch);
        check(Some(LastHeartbeat { digest: 0, ..last }), Some(&memory), news);
        check(Some(LastHeartbeat { health: Health::Unreachable, ..last }), Some(&memory), news);
        check(Some(LastHeartbeat { seq: 5, ..last }), Some(&memory), Due::Stale);
        check(Some(last), None, Due::Look { fresh: false, news: false });
        check(None, None, Due::Look { fresh: true, news: true });
        let restarted = LastHeartbeat { incarnation: uuid::Uuid::from_u128(9), seq: 900, ..last };
        check(Some(restarted), Some(&memory), Due::Look { fresh: true, news: true });
        let ahead = PeerMemory::new(beat.incarnation, 5, now, Suspicions::new());
        check(Some(last), Some(&ahead), Due::Stale);
        let long_ago =
            PeerMemory::new(beat.incarnation, 4, now.checked_sub(TIMEOUT * 2).unwrap_or(now), Suspicions::new());
        check(Some(last), Some(&long_ago), Due::Look { fresh: false, news: false });
    }
}
