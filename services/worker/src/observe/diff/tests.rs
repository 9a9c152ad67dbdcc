use omnirelay_workflow::resource::Labels;

use super::*;
use crate::observe::tests::{heartbeat, observed};

/// `w` as its owner's agent sees it.
fn seen(epoch: u64, handover: Handover) -> ObservedWorkload {
    ObservedWorkload { handover, ..observed("w", epoch) }
}

/// The record of `w`.
fn record(owner: &str, epoch: u64, handover: Handover) -> WorkloadRecord {
    adopted(&PeerId::parse(owner).expect("an id"), &seen(epoch, handover))
}

fn moving(owner: &str, target: &str, epoch: u64, handover: Handover) -> WorkloadRecord {
    let mut record = record(owner, epoch, handover);
    record.workload.state = WorkloadState::Moving;
    record.workload.operation = Some(OperationId::from_u128(1));
    record.target = Some(PeerId::parse(target).expect("an id"));
    record
}

fn records(record: Option<&WorkloadRecord>) -> Records {
    record.map(|record| (record.workload.id.clone(), record.clone())).into_iter().collect()
}

/// What `peer` is found to be, in one word, by its first heartbeat and by the same one `pause` later.
fn words(peer: &str, lists: Option<ObservedWorkload>, before: Option<&WorkloadRecord>, pause: Duration) -> [String; 2] {
    let mut beat = heartbeat(peer, "c");
    beat.workloads.extend(lists);
    let start = Instant::now();
    let none = Suspicions::new();
    let sight = Sight { heartbeat: &beat, received: start, fresh: false, suspicions: &none };
    let first = diff(&[sight], &records(before), start);
    let suspicions = &first.suspicions[&beat.peer];
    let again = Sight { received: start + pause, suspicions, ..sight };
    let second = diff(&[again], &records(before), start + pause);
    [word(&first), word(&second)]
}

fn word(diff: &Diff) -> String {
    let mut words = Vec::new();
    words.extend(diff.appeared.keys().map(|_| "appears"));
    words.extend(diff.changed.keys().map(|_| "changes"));
    words.extend(diff.gone.iter().map(|_| "goes"));
    words.extend(diff.drift.iter().map(|drift| drift.why.as_str()));
    words.join(" ")
}

#[test]
fn outside_a_move_the_record_follows_its_owner() {
    use Handover::{ReleaseOnly, StartFirst, StopFirst};
    let pause = Duration::from_secs(2);
    let check = |peer: &str, lists: Option<ObservedWorkload>, before: Option<WorkloadRecord>, expect: [&str; 2]| {
        assert_eq!(words(peer, lists.clone(), before.as_ref(), pause), expect, "{peer} lists {lists:?}");
    };
    // No record.
    check("a", Some(seen(1, StartFirst)), None, ["appears", "appears"]);
    check("a", Some(seen(1, StopFirst)), None, ["appears", "appears"]);
    check("a", Some(seen(1, ReleaseOnly)), None, ["", "appears"]);
    // The owner.
    check("a", Some(seen(1, StartFirst)), Some(record("a", 1, StartFirst)), ["", ""]);
    check("a", Some(seen(0, StartFirst)), Some(record("a", 1, StartFirst)), ["", ""]);
    check("a", Some(seen(2, StartFirst)), Some(record("a", 1, StartFirst)), ["changes", "changes"]);
    check("a", None, Some(record("a", 1, StartFirst)), ["", "goes"]);
    // Somebody else.
    check("b", Some(seen(1, StartFirst)), Some(record("a", 1, StartFirst)), ["", "not-owner"]);
    check("b", Some(seen(1, StopFirst)), Some(record("a", 1, StopFirst)), ["", "not-owner"]);
    check("b", Some(seen(2, StopFirst)), Some(record("a", 1, StopFirst)), ["", "epoch-above-record"]);
    check("b", None, Some(record("a", 1, StopFirst)), ["", ""]);
}

#[test]
fn during_a_move_the_operation_decides() {
    use Handover::{StartFirst, StopFirst};
    let pause = Duration::from_secs(2);
    let check = |peer: &str, lists: Option<ObservedWorkload>, handover: Handover, expect: [&str; 2]| {
        let before = moving("a", "b", 4, handover);
        assert_eq!(words(peer, lists.clone(), Some(&before), pause), expect, "{peer} lists {lists:?}");
    };
    for handover in [StartFirst, StopFirst] {
        check("a", None, handover, ["", ""]);
        check("a", Some(seen(4, handover)), handover, ["", ""]);
        check("b", Some(seen(9, handover)), handover, ["", ""]);
        check("c", Some(seen(5, handover)), handover, ["", "epoch-above-record"]);
    }
    check("c", Some(seen(4, StartFirst)), StartFirst, ["", ""]);
    check("c", Some(seen(4, StopFirst)), StopFirst, ["", "not-owner"]);
    let busy = ObservedWorkload { remaining: Some(3), load: 9, ..seen(8, StopFirst) };
    let before = moving("a", "b", 4, StopFirst);
    let followed = follow(&before, &busy);
    assert_eq!(followed.workload.remaining, Some(3));
    assert_eq!((followed.workload.load, followed.workload.epoch), (1, 4));
}

#[test]
fn a_new_owner_that_spoke_too_early_is_looked_at_again() {
    let (target, now, none) = ("b", Instant::now(), Suspicions::new());
    let unit = Some("w@127.0.0.1:4000".to_owned());
    let mut beat = heartbeat(target, "c");
    beat.workloads = vec![ObservedWorkload { unit: unit.clone(), ..seen(4, Handover::StartFirst) }];
    let sight = Sight { heartbeat: &beat, received: now, fresh: false, suspicions: &none };
    let look = |record: &WorkloadRecord| diff(&[sight], &records(Some(record)), now);
    let open = |diff: &Diff| diff.suspicions[&beat.peer].values().map(|s| s.what).collect::<Vec<_>>();

    let promised = moving("a", target, 4, Handover::StartFirst);
    assert_eq!((word(&look(&promised)), open(&look(&promised))), (String::new(), vec![Suspect::Moving]));
    // It owns it, while the source still ends its own.
    let mut owned = promised;
    owned.workload.peer = beat.peer.clone();
    let found = look(&owned);
    assert_eq!(found.changed.values().next().map(|record| &record.workload.unit), Some(&unit));
    assert_eq!(open(&found), [Suspect::Moving]);
    let settled = record(target, 4, Handover::StartFirst);
    let found = look(&settled);
    assert_eq!((word(&found), open(&found)), ("changes".to_owned(), vec![]));
}

#[test]
fn a_contradiction_needs_a_later_heartbeat_and_the_same_record() {
    let before = record("a", 1, Handover::StartFirst);
    let soon = Duration::from_millis(500);
    assert_eq!(words("a", None, Some(&before), soon), ["", ""]);

    let beat = heartbeat("a", "c");
    let (start, later) = (Instant::now(), Instant::now() + Duration::from_secs(5));
    let none = Suspicions::new();
    let sight = Sight { heartbeat: &beat, received: start, fresh: false, suspicions: &none };
    let first = diff(&[sight], &records(Some(&before)), start);
    let again = Sight { received: later, suspicions: &first.suspicions[&beat.peer], ..sight };
    // Acquired again meanwhile.
    let after = record("a", 2, Handover::StartFirst);
    assert_eq!(word(&diff(&[again], &records(Some(&after)), later)), "");
    assert_eq!(word(&diff(&[again], &records(Some(&before)), later)), "goes");
}

#[test]
fn an_agent_that_begins_is_believed() {
    let mut beat = heartbeat("a", "c");
    beat.workloads = vec![seen(1, Handover::ReleaseOnly)];
    let none = Suspicions::new();
    let sight = Sight { heartbeat: &beat, received: Instant::now(), fresh: true, suspicions: &none };
    assert_eq!(word(&diff(&[sight], &Records::new(), Instant::now())), "appears");
}

#[test]
fn of_two_that_list_an_unknown_workload_the_higher_epoch_has_it() {
    let (mut a, mut b) = (heartbeat("a", "c"), heartbeat("b", "c"));
    a.workloads = vec![seen(1, Handover::StopFirst), seen(7, Handover::StopFirst)];
    b.workloads = vec![seen(2, Handover::StopFirst)];
    let (now, none) = (Instant::now(), Suspicions::new());
    let sight = |heartbeat| Sight { heartbeat, received: now, fresh: true, suspicions: &none };
    let found = diff(&[sight(&a), sight(&b)], &Records::new(), now);
    let owners: Vec<_> = found.appeared.values().map(|r| (r.workload.peer.as_str(), r.workload.epoch)).collect();
    assert_eq!(owners, [("b", 2)]);
    assert_eq!(found.appeared.values().next().map(|r| &r.workload.labels), Some(&Labels::new()));
}
