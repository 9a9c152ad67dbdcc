//! A cancel, whenever it comes.

use super::*;

#[test]
fn a_cancel_undoes_whatever_has_begun() {
    let check = |kind: Handover, so_far: &[&str], undo: &[&str]| {
        let mut play = evicting(&[kind], DrainParams::default());
        so_far.iter().for_each(|command| play.done(command));
        play.cancel(false).expect("in time");
        for command in undo {
            assert_eq!(play.asked, [*command], "{kind} after {so_far:?}");
            assert_eq!(play.phase(), "unwinding");
            play.done(command);
        }
        assert_eq!(play.phase(), "cancelled", "{kind} after {so_far:?}");
        assert_eq!((play.owner("w0"), &play.holds[..]), ("s", &[OTHERS_HOLD][..]));
        assert_eq!(play.world.workloads[&workload("w0")].state, WorkloadState::Running);
        assert_eq!(play.world.mark, Some(DrainMark::None));
        assert_eq!(play.result()["notRestored"], json!([]));
    };
    check(StartFirst, &[], &["release w0 t1"]);
    check(StartFirst, &["acquire w0 t1"], &["acquire w0 s", "release w0 t1"]);
    check(StartFirst, &["acquire w0 t1", "release w0 s"], &["acquire w0 s", "release w0 t1"]);
    check(StopFirst, &[], &["acquire w0 s"]);
    check(StopFirst, &["release w0 s"], &["release w0 t1", "acquire w0 s"]);
    check(StopFirst, &["release w0 s", "acquire w0 t1"], &["release w0 t1", "acquire w0 s"]);
    check(ReleaseOnly, &[], &["acquire w0 s"]);
    check(ReleaseOnly, &["release w0 s"], &["acquire w0 s"]);
}

#[test]
fn a_cancel_while_cordoning_has_nothing_to_undo() {
    let mut play = drain(&[StopFirst], DrainParams::default());
    play.cancel(false).expect("in time");
    assert_eq!((play.phase(), play.progress()), ("cancelled", (0, 0, 0, 0)));
    assert!(play.asked.is_empty());
    assert_eq!(play.holds, [OTHERS_HOLD]);
}

#[test]
fn a_cancel_while_waiting_for_capacity_leaves_it_untouched() {
    let mut play = drain(&[StartFirst], DrainParams::default());
    std::sync::Arc::make_mut(&mut play.world.candidates).clear();
    play.done("cordon s");
    assert_eq!(play.blockers(), ["no-capacity w0: the cluster has no other peer"]);
    play.cancel(false).expect("in time");
    assert_eq!((play.phase(), play.at("w0").as_str()), ("cancelled", "untouched"));
}

#[test]
fn keep_moved_leaves_what_has_moved() {
    let mut play = evicting(&[StartFirst, StopFirst], DrainParams::default());
    play.done("acquire w0 t1");
    play.cancel(true).expect("in time");
    assert_eq!(play.out(), ["acquire w1 s", "release w0 s"], "one is moved but for its old copy, the other is not");
    play.done("release w0 s");
    play.done("acquire w1 s");
    assert_eq!((play.phase(), play.owner("w0"), play.owner("w1")), ("cancelled", "t1", "s"));
    assert_eq!(play.result()["moved"], json!([{"workload": "w0", "service": "checkout", "from": "s", "to": "t1"}]));
    assert_eq!(play.result()["restored"], json!([{"workload": "w1"}]));
}

#[test]
fn a_second_cancel_changes_nothing() {
    let mut play = evicting(&[StopFirst], DrainParams::default());
    play.cancel(false).expect("in time");
    let before = play.run.clone();
    play.cancel(true).expect("accepted");
    assert_eq!(play.run, before);
    assert_eq!(play.goes_well(), State::Cancelled);
    let before = play.run.clone();
    play.cancel(false).expect("a cancelled one is cancelled");
    assert_eq!(play.run, before);
}

#[test]
fn a_cancel_after_the_end_is_too_late() {
    let mut play = evicting(&[], DrainParams::default());
    play.lists(&[]);
    let operation = play.run.id;
    assert_eq!(play.cancel(false), Err(Rejected::TooLate { operation, state: State::Succeeded }));
}

#[test]
fn a_cancel_while_verifying_brings_everything_back() {
    let mut play = evicting(&[StopFirst, StartFirst, ReleaseOnly], DrainParams::default());
    while play.phase() == "evicting" {
        let command = play.out().remove(0);
        play.done(&command);
    }
    play.cancel(false).expect("in time");
    let late = play.run.clone();
    play.lists(&[]);
    assert_eq!(play.run, late, "the list comes too late");
    assert_eq!(play.out(), ["acquire w1 s", "acquire w2 s", "release w0 t1"]);
    assert_eq!(play.goes_well(), State::Cancelled);
    assert_eq!(play.progress(), (3, 3, 0, 0));
    assert!(["w0", "w1", "w2"].into_iter().all(|id| play.owner(id) == "s"));
}

#[test]
fn what_is_no_longer_where_the_drain_put_it_is_named_and_left() {
    let check = |change: &dyn Fn(&mut World), why: &str| {
        let params = DrainParams { max_concurrent: 1, ..DrainParams::default() };
        let mut play = evicting(&[StartFirst, StartFirst], params);
        for command in ["acquire w0 t1", "release w0 s", "acquire w1 t1", "release w1 s"] {
            play.done(command);
        }
        change(&mut play.world);
        play.cancel(false).expect("in time");
        assert_eq!(play.goes_well(), State::Cancelled, "{why}");
        assert_eq!(play.result()["notRestored"], json!([{"workload": "w0", "at": "t1", "why": why}]));
        assert_eq!(play.result()["restored"], json!([{"workload": "w1"}]));
        assert_eq!(play.progress(), (1, 2, 0, 1));
    };
    let w0 = || workload("w0");
    let record =
        |world: &mut World, change: &dyn Fn(&mut Workload)| change(world.workloads.get_mut(&w0()).expect("w0"));
    check(&|world| drop(world.workloads.remove(&w0())), "it is gone from t1");
    check(&|world| record(world, &|w| (w.peer, w.epoch) = (peer("t2"), 9)), "it was moved on from t1 to t2");
    check(&|world| record(world, &|w| w.epoch = 9), "it was moved again since, and is on t1");
    let drained_itself = |w: &mut Workload| (w.state, w.operation) = (WorkloadState::Moving, Some(OperationId::nil()));
    check(
        &|world| record(world, &drained_itself),
        "operation 00000000-0000-0000-0000-000000000000 is moving it from t1",
    );
}

#[test]
fn many_that_are_left_never_stop_the_others() {
    let params = DrainParams { max_concurrent: 1, ..DrainParams::default() };
    let mut play = evicting(&[StopFirst; 4], params);
    while play.phase() == "evicting" {
        let command = play.asked.remove(0);
        play.done(&command);
    }
    play.world.workloads.values_mut().for_each(|w| w.epoch += 1);
    play.cancel(false).expect("in time");
    assert_eq!((play.phase(), play.progress()), ("cancelled", (0, 4, 0, 4)));
}

#[test]
fn a_release_that_cannot_be_taken_back_is_named() {
    for begun in [false, true] {
        let mut play = drain(&[ReleaseOnly], DrainParams::default());
        play.run.moves.get_mut(&workload("w0")).expect("w0").restorable = false;
        play.done("cordon s");
        if begun {
            play.done("release w0 s");
        }
        play.cancel(false).expect("in time");
        assert_eq!((play.phase(), play.at("w0").as_str()), ("cancelled", "left"));
        assert_eq!(play.result()["notRestored"][0]["workload"], "w0");
    }
}

#[test]
fn an_undo_that_keeps_failing_is_stuck() {
    let mut play = evicting(&[StopFirst], DrainParams::default());
    play.cancel(false).expect("in time");
    for _ in 0..4 {
        assert_eq!(play.asked, ["acquire w0 s"]);
        play.fails("acquire w0 s", "no disk");
        if play.phase() == "unwinding" {
            assert_eq!(play.blockers(), ["not-ready w0: on s: no disk"]);
            play.wait(15);
        }
    }
    assert_eq!(play.phase(), "stuck");
    assert_eq!(play.holds, [OTHERS_HOLD, OWN_HOLD], "somebody has to look first");
    assert_eq!(
        play.result()["notRestored"],
        json!([{"workload": "w0", "at": null, "why": "s could not take it back: no disk"}])
    );
    let operation = play.run.id;
    assert_eq!(play.cancel(false), Err(Rejected::TooLate { operation, state: State::Stuck }));
}

#[test]
fn a_copy_that_cannot_be_ended_is_named_but_not_stuck() {
    let mut play = evicting(&[StartFirst], DrainParams::default());
    play.cancel(false).expect("in time");
    for _ in 0..4 {
        play.expires("release w0 t1", false);
        play.wait(15);
    }
    assert_eq!(play.phase(), "cancelled");
    let why = "a copy may still run on t1, whose agent does not answer";
    assert_eq!(play.result()["notRestored"], json!([{"workload": "w0", "at": "t1", "why": why}]));
}
