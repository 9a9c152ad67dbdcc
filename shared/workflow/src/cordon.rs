//! Cordon and uncordon: adding and removing holds. Quick verbs, one step each.
//!
//! ```text
//!            cordon (a hold of mine)                uncordon (mine, and those of finished drains)
//!   active ───────────────────────────▶ cordoned ─────────────────────────────────────────────▶ active,
//!                                          │  ▲                                        or still cordoned by others
//!                                          └──┘ cordon by another: a second hold
//! ```

use crate::resource::{Hold, HoldKind};
use crate::{HoldId, OperationId, PeerId, Rejected};

/// The hold to add, or nothing where this owner holds the peer by hand already.
pub fn cordon(holds: &[Hold], wanted: Hold) -> Option<Hold> {
    let mine = holds.iter().any(|hold| hold.kind == HoldKind::Manual && hold.owner == wanted.owner);
    (!mine).then_some(wanted)
}

/// The holds to remove. `running` is the operation that has the peer's lock, if any; its hold is nobody's to take.
///
/// Removes the caller's manual holds and those of finished drains; with `all`, other people's manual ones too.
pub fn uncordon(
    peer: &PeerId,
    holds: &[Hold],
    actor: &str,
    all: bool,
    running: Option<OperationId>,
) -> Result<Vec<HoldId>, Rejected> {
    if let Some(operation) = running {
        return Err(Rejected::OperationInProgress { resource: format!("peers/{peer}"), operation });
    }
    let removable = |hold: &&Hold| hold.kind == HoldKind::Drain || hold.owner == actor || all;
    let removed: Vec<HoldId> = holds.iter().filter(removable).map(|hold| hold.id).collect();
    if removed.is_empty() && !holds.is_empty() {
        let mut owners: Vec<String> = holds.iter().map(|hold| hold.owner.clone()).collect();
        owners.dedup();
        return Err(Rejected::PeerHeld { peer: peer.clone(), owners });
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    fn hold(n: u128, kind: HoldKind, owner: &str) -> Hold {
        Hold {
            id: HoldId::from_u128(n),
            kind,
            owner: owner.to_owned(),
            operation: None,
            reason: None,
            change_ticket: None,
            since: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_second_cordon_adds_a_hold_only_for_another_owner() {
        let check = |holds: &[Hold], owner: &str, added: bool| {
            assert_eq!(cordon(holds, hold(9, HoldKind::Manual, owner)).is_some(), added, "{owner} on {holds:?}");
        };
        check(&[], "ana", true);
        check(&[hold(1, HoldKind::Manual, "ana")], "ana", false);
        check(&[hold(1, HoldKind::Manual, "bo")], "ana", true);
        check(&[hold(1, HoldKind::Drain, "ana")], "ana", true);
    }

    #[test]
    fn uncordon_takes_mine_and_finished_drains_and_others_only_when_told() {
        let peer = PeerId::parse("edge-7").expect("an id");
        let (mine, bos, drain) =
            (hold(1, HoldKind::Manual, "ana"), hold(2, HoldKind::Manual, "bo"), hold(3, HoldKind::Drain, "bo"));
        let check = |holds: &[&Hold], all: bool, expect: Result<&[u128], ()>| {
            let holds: Vec<Hold> = holds.iter().map(|hold| (*hold).clone()).collect();
            let got = uncordon(&peer, &holds, "ana", all, None);
            let expect = expect.map(|ids| ids.iter().map(|n| HoldId::from_u128(*n)).collect::<Vec<_>>());
            assert_eq!(got.map_err(|_| ()), expect, "{holds:?} all={all}");
        };
        check(&[], false, Ok(&[]));
        check(&[&mine], false, Ok(&[1]));
        check(&[&mine, &bos], false, Ok(&[1]));
        check(&[&bos], false, Err(()));
        check(&[&bos], true, Ok(&[2]));
        check(&[&drain], false, Ok(&[3]));
        check(&[&drain, &bos], false, Ok(&[3]));
    }

    #[test]
    fn a_running_operation_keeps_its_hold() {
        let peer = PeerId::parse("edge-7").expect("an id");
        let running = OperationId::from_u128(5);
        let refused = uncordon(&peer, &[hold(1, HoldKind::Manual, "ana")], "ana", true, Some(running));
        assert_eq!(
            refused,
            Err(Rejected::OperationInProgress { resource: "peers/edge-7".to_owned(), operation: running })
        );
    }
}
