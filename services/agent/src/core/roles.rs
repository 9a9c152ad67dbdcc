//! A peer's cluster gets another role: handed to the driver in the peer's lane, asked again while it is busy.
//!
//! The journal has the role on the disk before this runs, so the newest one is known: whatever was overtaken by it ends here
//! without reaching the driver. A role that the driver has carried out already is reported again and not carried out again.

use omnirelay_contract::agent::{ClusterRole, Command, CommandVerb, Outcome};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{BUSY_POLL, Core, Interim, busy, left_until};
use crate::driver::{Exit, Verb};

/// The outcome of a role command; none when the agent ends first.
pub(super) async fn run(
    core: &Core,
    command: &Command,
    newest: &mut watch::Receiver<(CommandVerb, u64)>,
) -> Option<Outcome> {
    let role = command.cluster.as_ref()?;
    let mut interim = Interim::default();
    let mut pause = BUSY_POLL.0;
    loop {
        let known = core.journal.roles(&core.peer);
        if let Some(later) = known.told.filter(|told| told != role) {
            return Some(Outcome::Failed { message: overtaken_by(&later) });
        }
        if known.settled {
            return Some(Outcome::Done);
        }
        let answer = core.call(command, Verb::Role).await;
        core.changed.notify_one();
        match answer.exit {
            Exit::Done => return Some(Outcome::Done),
            Exit::Failed => return Some(Outcome::Failed { message: answer.message }),
            Exit::Busy => {}
        }
        let message = busy(&answer, None);
        core.tell_interim(command, Outcome::Busy { remaining: None, message: message.clone() }, &mut interim);
        let left = left_until(command.expires_at);
        if left.is_zero() {
            return Some(Outcome::Failed { message: format!("still busy: {message}") });
        }
        let wake = Instant::now() + pause.min(left);
        tokio::select! {
            () = core.stop.cancelled() => return None,
            () = tokio::time::sleep_until(wake) => pause = (pause * 2).min(BUSY_POLL.1),
            // Something joined the lane: it may be a later role.
            joined = newest.changed() => if joined.is_err() { return None },
        }
    }
}

fn overtaken_by(later: &ClusterRole) -> String {
    format!("superseded by {} of failover version {}", later.role, later.failover_version)
}
