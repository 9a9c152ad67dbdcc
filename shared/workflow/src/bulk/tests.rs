//! A bulk drain, told in words: `p1=running` is what is seen of a child, `launch p1 p2` what is asked.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::operation::Progress;

fn peer(n: usize) -> PeerId {
    PeerId::parse(&format!("p{n}")).expect("an id")
}

fn params(peers: usize, max_concurrent: u32) -> BulkParams {
    BulkParams {
        peers: (1..=peers).map(peer).collect(),
        max_concurrent,
        canary: 0,
        soak_secs: 0,
        max_failures: 0,
        gated: false,
    }
}

/// The operation of `p7` is 7.
fn operation(peer: &PeerId) -> OperationId {
    OperationId::from_u128(peer.as_str()[1..].parse().expect("a number"))
}

struct Play {
    run: Bulk,
    world: World,
    now: Timestamp,
    wake_at: Option<Timestamp>,
    asked: String,
}

fn play(params: BulkParams) -> Play {
    let mut play = Play {
        run: start(OperationId::from_u128(99), params.clone(), &World::default(), Timestamp::UNIX_EPOCH).next,
        world: World::default(),
        now: Timestamp::UNIX_EPOCH,
        wake_at: None,
        asked: String::new(),
    };
    play.take(start(OperationId::from_u128(99), params, &World::default(), Timestamp::UNIX_EPOCH));
    play
}

impl Play {
    fn take(&mut self, step: Step) {
        let told = |effect: &Effect| match effect {
            Effect::Launch(peers) => {
                format!("launch {}", peers.iter().map(PeerId::as_str).collect::<Vec<_>>().join(" "))
            }
            Effect::CancelChildren(ids) => {
                format!("cancel {}", ids.iter().map(|id| format!("p{}", id.as_u128())).collect::<Vec<_>>().join(" "))
            }
        };
        self.asked = step.effects.iter().map(told).collect::<Vec<_>>().join("; ");
        let json = serde_json::to_string(&step.next).expect("JSON");
        assert_eq!(serde_json::from_str::<Bulk>(&json).expect("a bulk drain"), step.next);
        self.run = step.next;
        self.wake_at = step.wake_at;
    }

    fn input(&mut self, input: Input) -> Result<(), Rejected> {
        let step = step(&self.run, &self.world, input, self.now)?;
        self.take(step);
        Ok(())
    }

    /// `p1=succeeded p2=skipped`
    fn sees(&mut self, text: &str) -> &str {
        let one = |text: &str| {
            let (name, word) = text.split_once('=').expect("a state");
            let peer = PeerId::parse(name).expect("an id");
            let seen = match word {
                "skipped" => ChildState::Skipped { why: "locked".to_owned() },
                _ => ChildState::Seen {
                    operation: operation(&peer),
                    state: word.parse().expect("a state"),
                    not_restored: 0,
                },
            };
            (peer, seen)
        };
        self.input(Input::ChildrenSeen(text.split(' ').map(one).collect())).expect("never rejected");
        &self.asked
    }

    fn wait(&mut self, secs: u64) -> &str {
        self.now = later(self.now, Duration::from_secs(secs)).expect("a time");
        self.input(Input::Timer).expect("never rejected");
        &self.asked
    }

    fn cancel(&mut self) -> Result<(), Rejected> {
        self.input(Input::Cancel(Cancel { by: "bo".to_owned(), at: self.now, reason: None, keep_moved: false }))
    }

    fn at(&self) -> String {
        let status = self.run.status();
        format!("{} {}", status.state, status.phase.unwrap_or("-"))
    }

    fn summary(&self) -> String {
        self.run.status().result.expect("a result")["summary"].as_str().expect("text").to_owned()
    }
}

#[test]
fn an_empty_list_needs_nothing() {
    let play = play(BulkParams { gated: true, canary: 3, soak_secs: 9, ..params(0, 2) });
    assert_eq!((play.asked.as_str(), play.at().as_str(), play.run.status().changed), ("", "succeeded -", false));
}

#[test]
fn so_many_at_once_until_all_have_ended() {
    let mut play = play(params(4, 2));
    assert_eq!((play.asked.as_str(), play.at().as_str()), ("launch p1 p2", "running rest"));
    assert_eq!(play.sees("p1=running p2=queued"), "");
    assert_eq!(play.sees("p2=succeeded"), "launch p3");
    assert_eq!(play.sees("p3=skipped"), "launch p4");
    let status = play.run.status();
    assert_eq!(json!(status.children), json!({"running": 1, "skipped": 1, "submitted": 1, "succeeded": 1}));
    let Progress { done, total, in_flight, failed, unit } = status.progress;
    assert_eq!((done, total, in_flight, failed, unit.as_str()), (1, 3, 2, 0, "peers"));
    assert_eq!(play.sees("p1=succeeded p4=succeeded"), "");
    assert_eq!((play.at().as_str(), play.summary().as_str()), ("succeeded -", "3 succeeded, 1 skipped (p3)"));
    let result = play.run.status().result.expect("a result");
    assert_eq!(result["skipped"], json!([{"peer": "p3", "why": "locked"}]));
    assert_eq!(result["succeeded"], json!(["p1", "p2", "p4"]));
}

#[test]
fn nothing_but_skipped_is_no_change() {
    let mut play = play(params(1, 2));
    play.sees("p1=skipped");
    assert_eq!((play.at().as_str(), play.run.status().changed), ("succeeded -", false));
}

#[test]
fn the_rest_waits_for_canary_soak_and_gate() {
    let mut play = play(BulkParams { canary: 2, soak_secs: 60, gated: true, ..params(4, 3) });
    assert_eq!((play.asked.as_str(), play.at().as_str()), ("launch p1 p2", "running canary"));
    assert_eq!(play.sees("p1=succeeded p2=running"), "");
    play.input(Input::GatePassed).expect("a gate that is not open says nothing");
    assert_eq!(play.at(), "running canary");
    assert_eq!(play.sees("p2=succeeded"), "");
    assert_eq!(play.at(), "running soak");
    assert_eq!(play.wake_at, later(play.now, Duration::from_secs(60)));
    assert_eq!(play.wait(59), "");
    assert_eq!(play.at(), "running soak");
    assert_eq!(play.wait(1), "");
    assert_eq!((play.at().as_str(), play.wake_at), ("awaitingApproval rest", None));
    assert_eq!(play.wait(900), "");
    play.input(Input::GatePassed).expect("a gate");
    assert_eq!((play.asked.as_str(), play.at().as_str()), ("launch p3 p4", "running rest"));
    play.sees("p3=succeeded p4=succeeded");
    assert_eq!((play.at().as_str(), play.summary().as_str()), ("succeeded -", "4 succeeded"));
}

#[test]
fn what_is_not_asked_for_is_left_out() {
    let check = |params: BulkParams, expect: &str| {
        let mut play = play(params.clone());
        play.sees("p1=succeeded p2=succeeded");
        assert_eq!(format!("{} | {}", play.at(), play.asked), expect, "{params:?}");
    };
    let base = params(3, 2);
    check(BulkParams { canary: 2, ..base.clone() }, "running rest | launch p3");
    check(BulkParams { canary: 2, gated: true, ..base.clone() }, "awaitingApproval rest | ");
    check(BulkParams { canary: 2, soak_secs: 5, ..base.clone() }, "running soak | ");
    check(BulkParams { gated: true, ..base.clone() }, "awaitingApproval rest | ");
    check(BulkParams { soak_secs: 5, ..base }, "running rest | launch p3");
    // All of them are the canary: there is no rest to wait for.
    check(BulkParams { canary: 9, soak_secs: 5, gated: true, ..params(2, 2) }, "succeeded - | ");
}

#[test]
fn a_gate_that_closes_ends_it() {
    for state in [State::Rejected, State::Expired] {
        let mut play = play(BulkParams { canary: 1, gated: true, ..params(2, 2) });
        play.sees("p1=succeeded");
        play.input(Input::GateClosed(state)).expect("a gate");
        assert_eq!(play.at(), format!("{state} -"));
        assert_eq!(play.summary(), "1 succeeded, 1 not started");
    }
}

#[test]
fn failures_are_put_up_with_so_far() {
    let check = |max_failures: u32, canary: u32, seen: &[&str], expect: &str| {
        let mut play = play(BulkParams { max_failures, canary, ..params(4, 2) });
        for seen in seen {
            play.sees(seen);
        }
        let told = if play.run.status().result.is_some() { play.summary() } else { play.asked.clone() };
        assert_eq!(format!("{} | {told}", play.at()), expect, "{max_failures} {canary} {seen:?}");
    };
    // What runs comes to its end, nothing new is launched.
    check(0, 0, &["p1=failed p2=running"], "running rest | ");
    check(0, 0, &["p1=failed p2=running", "p2=succeeded"], "failed - | 1 succeeded, 1 failed (p1), 2 not started");
    check(1, 0, &["p1=failed p2=succeeded"], "running rest | launch p3 p4");
    check(1, 0, &["p1=failed p2=succeeded", "p3=succeeded p4=succeeded"], "failed - | 3 succeeded, 1 failed (p1)");
    check(1, 0, &["p1=failed p2=failed"], "failed - | 0 succeeded, 2 failed (p1, p2), 2 not started");
    // Before the rest.
    check(0, 1, &["p1=failed"], "failed - | 0 succeeded, 1 failed (p1), 3 not started");
    check(1, 1, &["p1=failed"], "running rest | launch p2 p3");
    for state in ["stuck", "rejected", "refused", "expired", "cancelled"] {
        let told = "failed - | 0 succeeded, 1 failed (p1), 3 not started";
        check(0, 1, &[&format!("p1={state}")], told);
    }
    check(0, 1, &["p1=skipped"], "running rest | launch p2 p3");
}

#[test]
fn a_summary_names_a_few() {
    let mut play = play(BulkParams { max_failures: 9, ..params(7, 7) });
    play.sees("p1=failed p2=failed p3=failed p4=failed p5=failed p6=failed p7=succeeded");
    assert_eq!(play.summary(), "1 succeeded, 6 failed (p1, p2, p3, p4, p5, …)");
}

#[test]
fn a_cancel_stops_what_runs_and_names_what_was_done() {
    let mut play = play(BulkParams { max_failures: 1, ..params(5, 2) });
    play.sees("p1=succeeded p2=failed");
    assert_eq!(play.sees("p3=running"), "");
    play.cancel().expect("accepted");
    assert_eq!((play.asked.as_str(), play.at().as_str()), ("cancel p3", "unwinding unwinding"));
    play.cancel().expect("again");
    assert_eq!(play.asked, "", "each is told once");
    assert_eq!(play.sees("p4=running"), "cancel p4", "what was being launched is told as soon as it is seen");
    assert_eq!(play.sees("p3=cancelled p4=unwinding"), "");
    let Progress { done, total, in_flight, .. } = play.run.status().progress;
    assert_eq!((done, total, in_flight), (1, 2, 1));
    assert_eq!(play.sees("p4=cancelled"), "");
    assert_eq!(play.at(), "cancelled -");
    assert_eq!(play.summary(), "1 succeeded, 1 failed (p2), 2 cancelled (p3, p4), 1 not started");
    let result = play.run.status().result.expect("a result");
    let left: Vec<String> = result["notRestored"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|l| format!("{} {}", l["peer"], l["undo"]))
        .collect();
    assert_eq!(left, [r#""p1" "omnirelay mesh peers uncordon p1""#, r#""p2" "omnirelay mesh peers uncordon p2""#]);
    assert_eq!(result["notStarted"], json!(["p5"]));
    play.cancel().expect("it is cancelled already");
    assert_eq!(play.asked, "");
}

#[test]
fn what_a_cancelled_child_could_not_put_back_is_named() {
    let mut play = play(params(2, 2));
    play.sees("p1=running p2=running");
    play.cancel().expect("accepted");
    let seen = |state, not_restored, n| ChildState::Seen { operation: operation(&peer(n)), state, not_restored };
    let both = [(peer(1), seen(State::Cancelled, 3, 1)), (peer(2), seen(State::Stuck, 1, 2))];
    play.input(Input::ChildrenSeen(both.into())).expect("never rejected");
    assert_eq!(play.at(), "cancelled -");
    let result = play.run.status().result.expect("a result");
    assert_eq!(
        result["notRestored"][0]["why"],
        "its drain was cancelled, but 3 of its workloads could not be put back"
    );
    assert_eq!(result["notRestored"][1]["undo"], format!("omnirelay mesh ops resolve {}", operation(&peer(2))));
}

#[test]
fn a_cancel_is_taken_in_every_phase_but_the_end() {
    let waiting = || BulkParams { canary: 1, soak_secs: 5, gated: true, ..params(3, 2) };
    let mut soaking = play(waiting());
    soaking.sees("p1=succeeded");
    let mut gated = play(waiting());
    gated.sees("p1=succeeded");
    gated.wait(5);
    for (mut play, before) in [(soaking, "running soak"), (gated, "awaitingApproval rest")] {
        assert_eq!(play.at(), before);
        play.cancel().expect("accepted");
        assert_eq!((play.at().as_str(), play.asked.as_str(), play.wake_at), ("cancelled -", "", None));
        assert_eq!(play.summary(), "1 succeeded, 2 not started");
    }
    let mut ended = play(params(1, 1));
    ended.sees("p1=succeeded");
    let operation = ended.run.id;
    assert_eq!(ended.cancel(), Err(Rejected::TooLate { operation, state: State::Succeeded }));
}

#[test]
fn nothing_is_launched_while_it_is_paused() {
    let mut play = play(BulkParams { canary: 1, soak_secs: 5, ..params(3, 2) });
    play.world.paused = Some("bo has paused it".to_owned());
    assert_eq!(play.sees("p1=succeeded"), "");
    assert_eq!(play.wait(5), "", "the soak runs on");
    assert_eq!(play.at(), "running rest");
    let blockers = play.run.status().blockers;
    assert_eq!(
        (blockers.len(), blockers[0].code, blockers[0].message.as_str()),
        (1, BlockerCode::Paused, "bo has paused it")
    );
    assert_eq!(blockers[0].since, Timestamp::UNIX_EPOCH);
    play.world.paused = None;
    assert_eq!(play.wait(0), "launch p2 p3");
    assert!(play.run.status().blockers.is_empty());
}

#[test]
fn what_is_late_says_nothing_new() {
    let mut play = play(params(2, 1));
    play.sees("p1=succeeded");
    assert_eq!(play.sees("p1=running"), "", "what has ended stays ended");
    assert_eq!(play.sees("p1=skipped p2=skipped p9=failed"), "");
    assert_eq!(play.summary(), "1 succeeded, 1 skipped (p2)");
    let before = play.run.clone();
    play.sees("p2=failed");
    assert_eq!(play.run, before);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn every_walk_ends_and_keeps_its_promises(
        (peers, max_concurrent, canary, max_failures) in (0usize..9, 1u32..4, 0u32..4, 0u32..3),
        (soak_secs, gated) in (0u64..3, any::<bool>()),
        picks in prop::collection::vec((0u8..12, any::<u16>()), 0..60),
    ) {
        let mut play = play(BulkParams { canary, max_failures, soak_secs, gated, ..params(peers, max_concurrent) });
        let mut launched: Vec<PeerId> = Vec::new();
        for (pick, which) in picks.into_iter().chain(std::iter::repeat_n((255, 0u16), 200)) {
            // What was launched by the last step; none twice, none while it is paused, after a cancel or too many failures.
            for word in play.asked.split(' ').filter(|_| play.asked.starts_with("launch")).skip(1) {
                let peer = PeerId::parse(word).expect("an id");
                prop_assert!(!launched.contains(&peer) && play.world.paused.is_none());
                let over = matches!(play.run.phase, Phase::Unwinding | Phase::Ended { .. });
                prop_assert!(!over, "nothing is launched after a cancel");
                launched.push(peer);
            }
            prop_assert!(play.run.running() <= max_concurrent as usize);
            let waiting = matches!(play.run.phase, Phase::Canary | Phase::Soaking { .. } | Phase::AwaitingRest);
            prop_assert!(!waiting || launched.len() <= canary as usize, "the rest waits");
            if let Phase::Ended { state, .. } = play.run.phase {
                let status = play.run.status();
                let failed = status.result.as_ref().is_some_and(|r| r["failed"] != json!([]));
                prop_assert_eq!(play.run.running(), 0);
                prop_assert!(state != State::Succeeded || !failed && play.run.not_started().next().is_none());
                prop_assert!(state != State::Failed || failed);
                break;
            }
            let running: Vec<PeerId> = play.run.children.iter().filter(|(_, c)| c.is_running()).map(|(p, _)| p.clone()).collect();
            let child = (!running.is_empty()).then(|| if pick == 255 { running[0].clone() } else { running[usize::from(which) % running.len()].clone() });
            let unwinding = matches!(play.run.phase, Phase::Unwinding);
            let word = match pick {
                0 | 1 => "running",
                2 => "skipped",
                3 => "failed",
                4..=6 => "succeeded",
                _ if unwinding => "cancelled",
                _ => "succeeded",
            };
            match (pick, child) {
                (0..=6, Some(child)) => { play.sees(&format!("{child}={word}")); }
                (7, _) => { play.world.paused = Some("paused".to_owned()); play.wait(0); }
                (8, _) => { play.world.paused = None; play.wait(0); }
                (9, _) => play.input(Input::GatePassed).expect("never rejected"),
                (10, _) if which % 4 == 0 => play.cancel().expect("it has not ended"),
                (255, child) => {
                    // From here on everybody does what they should.
                    play.world.paused = None;
                    if let Some(child) = child {
                        let launching = play.run.children[&child] == Child::Launching;
                        play.sees(&format!("{child}={}", if launching { "running" } else { word }));
                    } else if matches!(play.run.phase, Phase::AwaitingRest) {
                        play.input(Input::GatePassed).expect("never rejected");
                    } else {
                        play.wait(1);
                    }
                }
                _ => { play.wait(1); }
            }
        }
        prop_assert!(matches!(play.run.phase, Phase::Ended { .. }), "it ends: {:?}", play.run);
    }
}
