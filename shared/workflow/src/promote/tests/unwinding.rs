//! A cancel, whenever it comes, and a cutover that is refused.

use super::*;

#[test]
fn before_the_fencing_there_is_nothing_to_undo() {
    let gated = play(Request { gated: true, ..request("p -a") }, mesh());
    let paused = play(request("p -a"), World { paused: paused(), ..mesh() });
    for mut play in [gated, paused] {
        play.cancel().expect("in time");
        assert_eq!((play.phase(), play.status().changed), ("cancelled", false));
        assert!(play.changes.is_empty() && play.asked.is_empty());
        assert_eq!(play.result()["failoverVersion"], Value::Null);
    }
}

#[test]
fn a_cancel_fences_back_under_a_further_version() {
    for so_far in [&[][..], &["fenced a-1"], &["fenced a-1", "fenced a-2", "fenced p-1"]] {
        let mut play = promotion("p -a");
        play.done(so_far);
        play.cancel().expect("in time");
        assert_eq!((play.phase(), play.states().as_str()), ("unwinding", "a active, p passive, q passive"));
        assert_eq!(play.world.mesh_version, 43);
        assert_eq!(play.asked, ["active a-1", "active a-2", "passive p-1", "passive p-2"]);
        let before = play.run.clone();
        play.cancel().expect("twice says nothing new");
        assert_eq!(play.run, before);
        play.done(&["active a-1", "active a-2", "passive p-1", "passive p-2"]);
        assert_eq!((play.phase(), play.wake_at), ("cancelled", None));
        let expect = json!({
            "promoted": null, "demoted": [], "failoverVersion": 43, "unfenced": [], "notRestored": [], "forced": null,
        });
        assert_eq!(play.result(), expect);
        play.cancel().expect("it is cancelled already");
    }
}

#[test]
fn who_cannot_be_told_is_named() {
    let mut play = promotion("p -a");
    play.loses(&["a-1"]);
    play.cancel().expect("in time");
    assert_eq!(play.asked, ["active a-2", "passive p-1", "passive p-2"]);
    play.done(&["passive p-1", "passive p-2"]);
    for _ in 0..3 {
        play.fails("active a-2", "exit code 1");
        assert_eq!((play.phase(), play.blockers()), ("unwinding", vec!["not-ready a-2: exit code 1".to_owned()]));
        play.wait(15);
        assert_eq!(play.asked, ["active a-2"]);
    }
    play.fails("active a-2", "exit code 1");
    assert_eq!(play.phase(), "cancelled");
    let expect = json!([
        {"peer": "a-1", "cluster": "a", "why": "it is unreachable"},
        {"peer": "a-2", "cluster": "a", "why": "exit code 1"},
    ]);
    assert_eq!(play.result()["notRestored"], expect);
}

#[test]
fn after_the_cutover_it_is_too_late() {
    let mut play = promotion("p -a");
    play.done(&["fenced a-1", "fenced a-2", "fenced p-1", "fenced p-2"]);
    let too_late = |state| Err(Rejected::TooLate { operation: OperationId::from_u128(7), state });
    assert_eq!(play.cancel(), too_late(State::Running));
    play.done(&["passive a-1", "passive a-2", "active p-1", "active p-2"]);
    assert_eq!(play.cancel(), too_late(State::Succeeded));
}

#[test]
fn a_cutover_that_would_leave_nobody_active_is_refused_and_fenced_back() {
    let mut play = play(request("! -a"), World { other_active: 1, ..mesh() });
    play.done(&["fenced a-1"]);
    play.world.other_active = 0;
    play.done(&["fenced a-2"]);
    assert_eq!((play.phase(), play.states().as_str()), ("unwinding", "a active, p passive, q passive"));
    assert_eq!(
        (&play.asked[..], play.world.mesh_version),
        (&["active a-1".to_owned(), "active a-2".to_owned()][..], 43)
    );
    play.cancel().expect("it is on its way back already");
    play.done(&["active a-1", "active a-2"]);
    assert_eq!(play.phase(), "refused");
    assert_eq!(play.run.rejected(), Some(&Rejected::LastActiveCluster { cluster: cluster_id("a") }));
    let back = serde_json::from_str::<Promote>(&serde_json::to_string(&play.run).expect("JSON")).expect("a run");
    assert_eq!(back, play.run);
}

#[test]
fn a_refused_cutover_with_nobody_to_ask_ends_at_once() {
    let mut play = play(request("-a"), World { other_active: 1, ..mesh() });
    play.loses(&["a-1", "a-2"]);
    play.world.other_active = 0;
    play.wait(1);
    assert_eq!((play.phase(), play.states().as_str()), ("refused", "a active, p passive, q passive"));
    assert_eq!(play.result()["notRestored"].as_array().map(Vec::len), Some(2));
}
