//! What happens at the deadline.

use super::*;

#[test]
fn deadline_hold_ends_what_is_in_flight_and_lists_the_rest() {
    let mut play = evicting(&[StartFirst, StartFirst], DrainParams { max_concurrent: 1, ..after(OnDeadline::Hold) });
    play.done("acquire w0 t1");
    play.wait(60);
    assert_eq!((play.phase(), play.at("w0").as_str()), ("stopping", "releasing"));
    play.done("release w0 s");
    assert_eq!(play.phase(), "failed");
    assert_eq!(play.holds, [OTHERS_HOLD, OWN_HOLD], "it stays cordoned");
    assert_eq!(play.result()["moved"][0]["workload"], "w0");
    assert_eq!(play.result()["rest"], json!([{"workload": "w1", "why": "not begun before the deadline"}]));
    assert_eq!(play.progress(), (1, 2, 0, 0));
}

#[test]
fn deadline_hold_does_not_wait_for_ever_for_a_release() {
    let mut play = evicting(&[StartFirst, StopFirst], after(OnDeadline::Hold));
    play.done("acquire w0 t1");
    play.wait(60);
    for _ in 0..4 {
        play.expires("release w0 s", true);
        play.expires("release w1 s", true);
        play.wait(15);
    }
    assert_eq!(play.at("w0"), "moved");
    assert_eq!(play.at("w1"), "takingBack", "its release may have happened: it must not stay down");
    play.done("acquire w1 s");
    assert_eq!((play.phase(), play.owner("w1")), ("failed", "s"));
    assert_eq!(play.result()["mayRunTwice"][0]["workload"], "w0");
    assert_eq!(play.result()["rest"][0]["workload"], "w1");
}

#[test]
fn deadline_cancel_unwinds() {
    let mut play = evicting(&[StopFirst], after(OnDeadline::Cancel));
    play.wait(60);
    assert_eq!((play.phase(), &play.asked[..]), ("unwinding", &["acquire w0 s".to_owned()][..]));
    assert_eq!(play.goes_well(), State::Cancelled);
}

#[test]
fn deadline_force_takes_only_from_a_peer_that_does_not_answer() {
    let mut play = evicting(&[StopFirst], after(OnDeadline::Force));
    play.wait(60);
    play.fails("release w0 s", "exit code 1");
    assert_eq!((play.at("w0").as_str(), play.blockers()), ("releasing", vec!["busy w0: exit code 1".to_owned()]));

    play.world.source_health = Some(Health::Unreachable);
    play.wait(15);
    assert_eq!(play.asked, ["acquire w0 t1"]);
    play.done("acquire w0 t1");
    assert_eq!((play.phase(), play.owner("w0")), ("succeeded", "t1"));
    let result = play.result();
    assert_eq!(result["forced"], true);
    assert_eq!(result["mayRunTwice"], json!([{"workload": "w0", "at": "s", "why": "its peer is unreachable"}]));
}

#[test]
fn forced_from_the_beginning_it_needs_no_cordon() {
    let mut play =
        drain(&[ReleaseOnly, ReleaseOnly, ReleaseOnly], DrainParams { max_concurrent: 1, ..after(OnDeadline::Force) });
    play.world.source_health = None;
    play.wait(60);
    assert_eq!((play.phase(), play.progress()), ("succeeded", (3, 3, 0, 0)), "{:?}", play.run);
}

#[test]
fn a_peer_that_comes_back_after_force_lets_go_of_what_was_taken() {
    let mut play = evicting(&[StopFirst], after(OnDeadline::Force));
    play.world.source_health = Some(Health::Unreachable);
    play.wait(60);
    play.world.source_health = Some(Health::Healthy);
    play.done("acquire w0 t1");
    assert_eq!(play.asked, ["list s"]);
    play.lists(&["w0"]);
    play.wait(1);
    assert_eq!(play.asked, ["release w0 s"]);
    assert_eq!(play.goes_well(), State::Succeeded);
    assert_eq!((play.result()["mayRunTwice"].clone(), play.result()["forced"].clone()), (json!([]), json!(false)));
}

#[test]
fn the_deadline_never_touches_an_unwinding() {
    let mut play = evicting(&[StopFirst], after(OnDeadline::Force));
    play.cancel(false).expect("in time");
    play.wait(60);
    assert_eq!(play.phase(), "unwinding");
    assert!(!play.run.forced);
    assert_eq!(play.goes_well(), State::Cancelled);
}
