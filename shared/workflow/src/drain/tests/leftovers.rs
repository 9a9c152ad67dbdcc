//! Copies that an earlier, abandoned operation has left on the source.

use super::*;

/// The cordon is acknowledged, and the agent of `s` lists `w9`, whose record is on `t1` under epoch 5.
fn verifying() -> Play {
    let mut play = evicting(&[], DrainParams::default());
    play.lists(&["w9"]);
    assert_eq!(play.run.touched().cloned().collect::<Vec<_>>(), [workload("w9")], "so its record is loaded");
    let mut record = record_of("w9", "t1", Handover::StopFirst, true);
    record.epoch = 5;
    play.world.workloads.insert(record.id.clone(), record);
    play
}

fn lists_again(play: &mut Play) {
    play.wait(1);
    assert_eq!(play.asked, ["list s"]);
    play.lists(&["w9"]);
}

fn told(play: &Play) -> String {
    play.run.status().blockers[0].message.clone()
}

#[test]
fn a_copy_whose_record_is_elsewhere_is_released_here() {
    let mut play = verifying();
    let before = play.world.workloads.clone();
    lists_again(&mut play);
    assert_eq!(play.asked, ["release w9 s"]);
    assert!(told(&play).ends_with("w9 among them: a copy of what runs on t1 is being released"), "{}", told(&play));
    // Not asked twice while it is out.
    lists_again(&mut play);
    assert_eq!(play.asked, Vec::<String>::new());
    play.done("release w9 s");
    assert_eq!(play.world.workloads, before, "its owner is not disturbed");
    assert_eq!(play.goes_well(), State::Succeeded);
    let status = play.run.status();
    assert_eq!((status.progress.total, status.result.expect("a result")["moved"].clone()), (0, json!([])));
}

#[test]
fn it_carries_the_records_own_epoch() {
    let mut play = verifying();
    play.wait(1);
    let command = play.given["list s"].clone();
    let listed = Input::Report { command, outcome: Outcome::Listed { workloads: vec![workload("w9")] } };
    let step = step(&play.run, &play.world, listed, play.now).expect("a step");
    let given: Vec<_> = step.commands.iter().map(|c| (c.kind, c.workload.clone())).collect();
    assert_eq!(given, [(CommandKind::Release, Some((workload("w9"), 5)))]);
    assert_eq!(step.changes, Vec::new());
}

#[test]
fn a_release_that_fails_is_asked_for_again() {
    let mut play = verifying();
    lists_again(&mut play);
    play.fails("release w9 s", "exit code 1");
    lists_again(&mut play);
    assert_eq!(play.asked, ["release w9 s"]);
    play.expires("release w9 s", true);
    lists_again(&mut play);
    assert!(told(&play).ends_with("w9 among them: its release was not answered"), "{}", told(&play));
}

#[test]
fn what_is_not_well_elsewhere_is_left_alone() {
    let check = |change: &dyn Fn(&mut Play), expect: &str| {
        let mut play = verifying();
        change(&mut play);
        lists_again(&mut play);
        assert_eq!(play.asked, Vec::<String>::new(), "{expect}");
        assert!(told(&play).contains(expect), "{}", told(&play));
    };
    let record = |play: &mut Play, change: &dyn Fn(&mut Workload)| {
        change(play.world.workloads.get_mut(&workload("w9")).expect("a record"));
    };
    check(&|play| record(play, &|w| w.ready = false), "its record is on t1, where it is not well");
    let sick = Candidate { health: Health::Unreachable, ..candidate("t1") };
    check(&|play| play.world.candidates = Arc::new(vec![sick.clone()]), "its record is on t1, where it is not well");
    check(&|play| record(play, &|w| w.state = WorkloadState::Moving), "another operation is moving it");
    check(&|play| play.world.paused = Some("paused".to_owned()), "paused");
}

#[test]
fn what_the_registry_has_here_after_all_is_moved() {
    let mut play = verifying();
    play.world.workloads.get_mut(&workload("w9")).expect("a record").peer = peer("s");
    play.wait(1);
    play.lists(&["w9"]);
    assert_eq!(play.asked, ["release w9 s"]);
    assert_eq!(play.at("w9"), "releasing");
    assert!(play.run.leftovers.is_empty());
}

#[test]
fn a_cancel_forgets_it() {
    let mut play = verifying();
    lists_again(&mut play);
    play.cancel(false).expect("accepted");
    assert_eq!(play.goes_well(), State::Cancelled);
    assert!(play.run.leftovers.is_empty());
}
