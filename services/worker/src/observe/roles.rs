//! Agents are told what their cluster is until they say the same, and before anything else that follows from a heartbeat: who
//! was out of reach during a promotion must not go on as if there had been none.
//!
//! A mesh that has never promoted anything commands nothing. While a promotion is under way it commands the same role under the
//! same failover version; told twice, an agent does it once.

use omnirelay_contract::agent::{ClusterRole, Command, CommandVerb, Heartbeat};
use omnirelay_store::observed::KnownCluster;
use omnirelay_workflow::promote::role_of;
use omnirelay_workflow::{PeerId, Timestamp};
use tokio::time::Instant;

use super::asking;

/// The failover version of a mesh in which nothing has ever been promoted or demoted.
const FIRST_VERSION: u64 = 1;

pub type Asked = asking::Asked<ClusterRole>;

/// What the agents of a cluster have to show; nothing where there never was a promotion.
pub fn wanted(cluster: &KnownCluster) -> Option<ClusterRole> {
    (cluster.failover_version > FIRST_VERSION).then(|| ClusterRole {
        cluster: cluster.id.clone(),
        failover_version: cluster.failover_version,
        role: role_of(cluster.state),
    })
}

/// The next command for a peer whose heartbeat shows another role than its cluster has, if it is time.
pub fn ask(
    heartbeat: &Heartbeat,
    cluster: &KnownCluster,
    before: Option<&Asked>,
    now: Instant,
    clock: Timestamp,
) -> Option<Asked> {
    // An agent refuses the role of a cluster that it does not count itself to.
    let wanted = wanted(cluster).filter(|_| heartbeat.describe.cluster == cluster.id)?;
    if heartbeat.cluster.as_ref() == Some(&wanted) {
        return None;
    }
    asking::ask("role", &wanted, before, now, clock)
}

pub fn command(peer: &PeerId, asked: &Asked) -> Command {
    Command {
        id: asked.command.clone(),
        verb: CommandVerb::Role,
        peer: peer.clone(),
        operation: None,
        workload: None,
        holds: Vec::new(),
        cluster: Some(asked.wanted.clone()),
        expires_at: asked.expires_at,
    }
}

#[cfg(test)]
mod tests {
    use omnirelay_workflow::ClusterId;
    use omnirelay_workflow::resource::{ClusterState, Role};

    use super::*;
    use crate::observe::tests::heartbeat;

    #[test]
    fn it_is_told_until_they_agree_and_never_where_nothing_was_promoted() {
        let (now, clock) = (Instant::now(), Timestamp::UNIX_EPOCH);
        let of = |id: &str, state, failover_version| KnownCluster {
            id: ClusterId::parse(id).expect("an id"),
            state,
            failover_version,
        };
        let mut beat = heartbeat("a", "c");
        assert_eq!(ask(&beat, &of("c", ClusterState::Active, 1), None, now, clock), None);
        assert_eq!(ask(&beat, &of("other", ClusterState::Active, 2), None, now, clock), None, "it would refuse");
        for (state, role) in [
            (ClusterState::Active, Role::Active),
            (ClusterState::Passive, Role::Passive),
            (ClusterState::Promoting, Role::Fenced),
            (ClusterState::Demoting, Role::Fenced),
        ] {
            beat.cluster = None;
            let asked = ask(&beat, &of("c", state, 2), None, now, clock).expect("it says nothing of it");
            let told = command(&beat.peer, &asked).cluster.expect("a role");
            assert_eq!((told.role, told.failover_version, told.cluster.as_str()), (role, 2, "c"));
            beat.cluster = Some(told);
            assert_eq!(ask(&beat, &of("c", state, 2), Some(&asked), now, clock), None);
            assert!(ask(&beat, &of("c", state, 3), Some(&asked), now, clock).is_some(), "another version");
        }
    }
}
