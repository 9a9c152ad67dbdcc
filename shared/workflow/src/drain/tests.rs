//! A drain, told in sentences: what is heard, what is asked, what is said in the end.

mod deadline;
mod holdups;
mod leftovers;
mod unwinding;

use serde_json::{Value, json};

use std::sync::Arc;

use super::model::{OTHERS_HOLD, OWN_HOLD, peer, record_of, workload};
use super::*;
use crate::resource::{Handover, Labels, WorkloadState};

/// A drain of peer `s` and the registry that follows it. A command is written `acquire w0 t1`, `cordon s`.
struct Play {
    run: Drain,
    world: World,
    now: Timestamp,
    wake_at: Option<Timestamp>,
    holds: Vec<HoldId>,
    given: BTreeMap<String, CommandId>,
    /// What the last step asked for.
    asked: Vec<String>,
    events: Vec<Event>,
}

fn candidate(id: &str) -> Candidate {
    Candidate {
        peer: peer(id),
        health: Health::Healthy,
        schedulable: true,
        labels: Labels::new(),
        capacity: 10,
        load: 0,
    }
}

fn request(params: DrainParams) -> Request {
    Request {
        id: OperationId::from_u128(7),
        peer: peer("s"),
        params,
        hold: OWN_HOLD,
        actor: "ana".to_owned(),
        reason: None,
        change_ticket: None,
    }
}

fn after(on_deadline: OnDeadline) -> DrainParams {
    DrainParams { deadline_secs: Some(60), on_deadline, ..DrainParams::default() }
}

/// Workloads `w0`, `w1` … of these kinds on `s`, targets `t1` and `t2`.
fn drain(kinds: &[Handover], params: DrainParams) -> Play {
    let records = kinds.iter().enumerate().map(|(n, kind)| record_of(&format!("w{n}"), "s", *kind, true));
    let world = World {
        source_health: Some(Health::Healthy),
        mark: Some(DrainMark::None),
        inbound: 0,
        workloads: records.map(|w| (w.id.clone(), w)).collect(),
        candidates: Arc::new(vec![candidate("t1"), candidate("t2")]),
        ..World::default()
    };
    let step = start(request(params), &world, Timestamp::UNIX_EPOCH);
    let mut play = Play {
        run: step.next.clone(),
        world,
        now: Timestamp::UNIX_EPOCH,
        wake_at: None,
        holds: vec![OTHERS_HOLD],
        given: BTreeMap::new(),
        asked: Vec::new(),
        events: Vec::new(),
    };
    play.take(step);
    play
}

/// The same, with the cordon acknowledged.
fn evicting(kinds: &[Handover], params: DrainParams) -> Play {
    let mut play = drain(kinds, params);
    play.done("cordon s");
    play
}

impl Play {
    fn take(&mut self, step: Step) {
        let name = |c: &Command| {
            let kind = format!("{:?}", c.kind).to_lowercase();
            let what = c.workload.as_ref().map(|(id, _)| format!(" {id}")).unwrap_or_default();
            format!("{kind}{what} {}", c.peer)
        };
        self.asked = step.commands.iter().map(name).collect();
        self.given.extend(step.commands.iter().map(|c| (name(c), c.id.clone())));
        for change in step.changes {
            self.change(change);
        }
        self.run = step.next;
        self.events = step.events;
        self.wake_at = step.wake_at;
    }

    fn change(&mut self, change: Change) {
        let records = &mut self.world.workloads;
        match change {
            Change::AddHold(hold) => self.holds.push(hold.id),
            Change::RemoveHold(hold) => self.holds.retain(|h| *h != hold),
            Change::Mark(mark) => self.world.mark = Some(mark),
            Change::Moving { workload, epoch, .. } => {
                if let Some(w) = records.get_mut(&workload) {
                    (w.epoch, w.state, w.operation) = (epoch, WorkloadState::Moving, Some(self.run.id));
                }
            }
            Change::Owner { workload, peer, epoch } => {
                let w = records.get_mut(&workload).expect("a record");
                (w.peer, w.epoch) = (peer, epoch);
            }
            Change::Settled { workload } => {
                if let Some(w) = records.get_mut(&workload) {
                    (w.state, w.operation) = (WorkloadState::Running, None);
                }
            }
            Change::Gone { workload } => drop(records.remove(&workload)),
            Change::Back { record } => drop(records.insert(record.id.clone(), record)),
        }
    }

    fn input(&mut self, input: Input) -> Result<(), Rejected> {
        let step = step(&self.run, &self.world, input, self.now)?;
        self.take(step);
        Ok(())
    }

    fn hears(&mut self, command: &str, outcome: Outcome) {
        let command =
            self.given.get(command).unwrap_or_else(|| panic!("{command} is none of {:?}", self.given)).clone();
        self.input(Input::Report { command, outcome }).expect("a report is never rejected");
    }

    fn done(&mut self, command: &str) {
        self.hears(command, Outcome::Done);
    }

    fn fails(&mut self, command: &str, message: &str) {
        self.hears(command, Outcome::Failed { message: message.to_owned() });
    }

    fn expires(&mut self, command: &str, accepted: bool) {
        self.hears(command, Outcome::Expired { accepted });
    }

    fn lists(&mut self, ids: &[&str]) {
        self.hears("list s", Outcome::Listed { workloads: ids.iter().map(|id| workload(id)).collect() });
    }

    fn wait(&mut self, secs: u64) {
        self.now = later(self.now, Duration::from_secs(secs)).expect("a time");
        self.input(Input::Timer).expect("a timer is never rejected");
    }

    fn cancel(&mut self, keep_moved: bool) -> Result<(), Rejected> {
        self.input(Input::Cancel(Cancel { by: "bo".to_owned(), at: self.now, reason: None, keep_moved }))
    }

    /// The commands that the drain waits for.
    fn out(&self) -> Vec<String> {
        let phase = match &self.run.phase {
            Phase::Cordoning { ask } | Phase::Verifying { ask } => Some(ask),
            _ => None,
        };
        let asks = phase.into_iter().chain(self.run.moves.values().filter_map(|m| m.at.ask()));
        let ids: Vec<&CommandId> = asks.filter_map(|ask| ask.command.as_ref()).collect();
        self.given.iter().filter(|(_, id)| ids.contains(id)).map(|(name, _)| name.clone()).collect()
    }

    /// Everything that is asked is done, until it has ended.
    fn goes_well(&mut self) -> State {
        for _ in 0..200 {
            if let Phase::Ended(end) = &self.run.phase {
                return end.state;
            }
            match self.out().first().map(String::as_str) {
                Some("list s") => self.lists(&[]),
                Some(command) => self.done(command),
                None => self.wait(5),
            }
        }
        panic!("it does not end: {:#?}", self.run)
    }

    /// `moved`, `waiting`, `acquiring` …
    fn at(&self, id: &str) -> String {
        let json = serde_json::to_value(&self.run.moves[&workload(id)].at).expect("JSON");
        match json {
            Value::String(word) => word,
            other => other.as_object().and_then(|o| o.keys().next().cloned()).expect("a state"),
        }
    }

    fn owner(&self, id: &str) -> &str {
        self.world.workloads[&workload(id)].peer.as_str()
    }

    /// `code subject: message` of each blocker.
    fn blockers(&self) -> Vec<String> {
        let blockers = self.run.status().blockers;
        blockers.iter().map(|b| format!("{} {}: {}", b.code, b.subject, b.message)).collect()
    }

    fn result(&self) -> Value {
        self.run.status().result.expect("it has ended")
    }

    fn phase(&self) -> &'static str {
        let status = self.run.status();
        status.phase.unwrap_or(status.state.as_str())
    }

    /// Done, total, in flight, failed.
    fn progress(&self) -> (u32, u32, u32, u32) {
        let p = self.run.status().progress;
        (p.done, p.total, p.in_flight, p.failed)
    }
}

use Handover::{ReleaseOnly, StartFirst, StopFirst};

#[test]
fn each_handover_has_its_order() {
    let check = |kind: Handover, order: &[&str], owner: Option<&str>| {
        let mut play = drain(&[kind], DrainParams::default());
        assert_eq!(play.asked, ["cordon s"]);
        play.done("cordon s");
        for command in order {
            assert_eq!(play.asked, [*command], "{kind}");
            play.done(command);
        }
        assert_eq!(play.asked, ["list s"], "{kind}");
        play.lists(&[]);
        assert_eq!(play.phase(), "succeeded");
        let record = play.world.workloads.get(&workload("w0"));
        assert_eq!(record.map(|w| w.peer.as_str()), owner);
        assert_eq!(play.world.mark, Some(DrainMark::Drained));
        assert_eq!(play.holds, [OTHERS_HOLD, OWN_HOLD], "its hold stays until uncordon");
        assert_eq!(play.wake_at, None);
    };
    check(StartFirst, &["acquire w0 t1", "release w0 s"], Some("t1"));
    check(StopFirst, &["release w0 s", "acquire w0 t1"], Some("t1"));
    check(ReleaseOnly, &["release w0 s"], None);
}

#[test]
fn a_drained_peer_needs_nothing() {
    let world = World { mark: Some(DrainMark::Drained), ..World::default() };
    let step = start(request(DrainParams::default()), &world, Timestamp::UNIX_EPOCH);
    let status = step.next.status();
    assert_eq!((status.state, status.changed), (State::Succeeded, false));
    assert!(step.changes.is_empty() && step.commands.is_empty() && step.events.is_empty());
}

#[test]
fn an_empty_peer_is_drained_once_its_agent_says_so() {
    let mut play = evicting(&[], DrainParams::default());
    assert_eq!((play.phase(), &play.asked[..]), ("verifying", &["list s".to_owned()][..]));
    play.lists(&[]);
    assert_eq!((play.phase(), play.progress()), ("succeeded", (0, 0, 0, 0)));
}

#[test]
fn no_more_than_max_concurrent_are_in_flight() {
    let params = DrainParams { max_concurrent: 2, ..DrainParams::default() };
    let mut play = evicting(&[StopFirst; 5], params);
    assert_eq!(play.asked, ["release w0 s", "release w1 s"]);
    assert_eq!(play.progress(), (0, 5, 2, 0));
    play.done("release w0 s");
    assert_eq!(play.asked, ["acquire w0 t1"], "released is still in flight");
    play.done("acquire w0 t1");
    assert_eq!(play.asked, ["release w2 s"]);
    assert_eq!(play.progress(), (1, 5, 2, 0));
    assert_eq!(play.goes_well(), State::Succeeded);
    assert_eq!(play.progress(), (5, 5, 0, 0));
}

#[test]
fn load_promised_in_the_same_step_counts() {
    let play = evicting(&[StartFirst; 4], DrainParams::default());
    assert_eq!(play.asked, ["acquire w0 t1", "acquire w1 t2", "acquire w2 t1", "acquire w3 t2"]);
}

#[test]
fn blockers_say_what_it_waits_for() {
    let check = |kind: Handover, command: &str, outcome: Outcome, expect: &str| {
        let mut play = evicting(&[kind], DrainParams::default());
        play.hears(command, outcome);
        assert_eq!(play.blockers(), [expect]);
    };
    let text = str::to_owned;
    let busy = |remaining, message: &str| Outcome::Busy { remaining, message: text(message) };
    check(StopFirst, "release w0 s", busy(Some(17), "17 sessions left"), "busy w0: 17 sessions left");
    check(StopFirst, "release w0 s", busy(Some(17), ""), "busy w0: 17 left");
    let unready = Outcome::NotReady { message: text("ready check 503") };
    check(StartFirst, "acquire w0 t1", unready, "not-ready w0: on t1: ready check 503");
    let failed = Outcome::Failed { message: text("exit code 1") };
    check(StartFirst, "acquire w0 t1", failed, "not-ready w0: on t1: exit code 1");
    let silent = Outcome::Expired { accepted: false };
    check(StopFirst, "release w0 s", silent, "peer-unreachable s: the agent of s does not answer");

    let mut play = drain(&[], DrainParams::default());
    play.expires("cordon s", false);
    assert_eq!(play.blockers(), ["peer-unreachable s: the agent of s does not answer"]);
    play.wait(1);
    assert_eq!(play.asked, ["cordon s"], "it asks again");
}

#[test]
fn a_release_that_takes_longer_than_a_command_is_busy_not_unreachable() {
    let mut play = evicting(&[StopFirst], DrainParams::default());
    play.hears("release w0 s", Outcome::Busy { remaining: Some(3), message: "3 sessions left".to_owned() });
    let since = play.run.status().blockers[0].since;
    play.wait(30);
    play.expires("release w0 s", true);
    assert_eq!(play.blockers(), ["busy w0: 3 sessions left"]);
    assert_eq!(play.run.status().blockers[0].since, since, "it is as old as it was");
    play.wait(1);
    assert_eq!(play.asked, ["release w0 s"]);
}

#[test]
fn without_capacity_it_waits_and_looks_again() {
    let mut play = drain(&[StopFirst], DrainParams::default());
    Arc::make_mut(&mut play.world.candidates).iter_mut().for_each(|c| c.schedulable = false);
    play.done("cordon s");
    let why = "no-capacity w0: of 2 peers that could take it 2 are cordoned and 0 are not healthy";
    assert_eq!((play.asked.len(), play.blockers()), (0, vec![why.to_owned()]));
    assert!(play.wake_at.is_some());
    assert_eq!(play.owner("w0"), "s", "what cannot go anywhere is not stopped");
    Arc::make_mut(&mut play.world.candidates)[1].schedulable = true;
    play.wait(1);
    assert_eq!(play.asked, ["release w0 s"]);
}

#[test]
fn a_target_that_fails_lets_go_of_it_before_another_gets_it() {
    for kind in [StartFirst, StopFirst] {
        for accepted in [Some(true), None] {
            let mut play = evicting(&[kind], DrainParams::default());
            if kind == StopFirst {
                play.done("release w0 s");
            }
            match accepted {
                Some(accepted) => play.expires("acquire w0 t1", accepted),
                None => play.fails("acquire w0 t1", "exit code 1"),
            }
            assert_eq!(play.asked, ["release w0 t1"], "{kind}");
            play.done("release w0 t1");
            assert_eq!(play.asked, ["acquire w0 t2"], "{kind}");
            assert_eq!(play.goes_well(), State::Succeeded);
            assert_eq!(play.result()["moved"][0]["to"], "t2");
        }
    }
    let mut play = evicting(&[StartFirst], DrainParams::default());
    play.expires("acquire w0 t1", false);
    assert_eq!(play.asked, ["acquire w0 t2"], "what never reached it needs no release");
}

#[test]
fn what_must_not_run_twice_waits_for_the_target_that_may_run_it() {
    let mut play = evicting(&[StopFirst], DrainParams::default());
    play.done("release w0 s");
    play.expires("acquire w0 t1", true);
    for _ in 0..10 {
        play.expires("release w0 t1", false);
        assert!(play.asked.is_empty());
        play.wait(15);
        assert_eq!(play.asked, ["release w0 t1"]);
    }
    play.done("release w0 t1");
    assert_eq!(play.asked, ["acquire w0 t2"]);
}

#[test]
fn a_released_workload_that_nobody_can_take_comes_up_again_where_it_was() {
    let mut play = evicting(&[StopFirst], DrainParams::default());
    play.done("release w0 s");
    for target in ["t1", "t2"] {
        play.fails(&format!("acquire w0 {target}"), "no disk");
        play.done(&format!("release w0 {target}"));
    }
    assert_eq!(play.asked, ["acquire w0 s"]);
    play.done("acquire w0 s");
    assert_eq!((play.owner("w0"), play.at("w0").as_str()), ("s", "waiting"));
    assert_eq!(play.blockers(), ["no-capacity w0: no peer but its own could take it"]);
    assert!(play.asked.is_empty(), "not at once: it would be down again");
    assert_eq!(play.goes_well(), State::Succeeded);
}

#[test]
fn targets_that_all_fail_are_left_alone_for_a_while() {
    let mut play = evicting(&[StartFirst], DrainParams::default());
    for target in ["t1", "t2"] {
        play.fails(&format!("acquire w0 {target}"), "exit code 1");
        play.done(&format!("release w0 {target}"));
    }
    assert!(play.asked.is_empty(), "{:?}", play.asked);
    assert_eq!(play.blockers(), ["not-ready w0: on t2: exit code 1"]);
    assert_eq!(play.goes_well(), State::Succeeded);
}

#[test]
fn a_late_arrival_is_moved_too() {
    let mut play = evicting(&[], DrainParams::default());
    let late = record_of("late", "s", StopFirst, true);
    play.world.workloads.insert(late.id.clone(), late);
    play.lists(&["late"]);
    assert_eq!((play.phase(), &play.asked[..]), ("evicting", &["release late s".to_owned()][..]));
    assert_eq!(play.goes_well(), State::Succeeded);
}

#[test]
fn what_is_promised_to_the_peer_is_waited_for() {
    let mut play = evicting(&[], DrainParams::default());
    play.world.inbound = 1;
    play.lists(&[]);
    assert_eq!(
        (play.phase(), play.blockers()),
        ("verifying", vec!["busy s: 1 workloads are on their way to it".to_owned()])
    );
    play.world.inbound = 0;
    assert_eq!(play.goes_well(), State::Succeeded);
}

#[test]
fn what_the_agent_still_lists_is_released_again() {
    let mut play = evicting(&[StopFirst], DrainParams::default());
    play.done("release w0 s");
    play.done("acquire w0 t1");
    play.lists(&["w0"]);
    play.wait(1);
    assert_eq!(play.asked, ["release w0 s"]);
    assert_eq!(play.goes_well(), State::Succeeded);
    assert_eq!(play.owner("w0"), "t1");
}

#[test]
fn reports_that_are_late_or_repeated_change_nothing() {
    let mut play = evicting(&[StopFirst], DrainParams::default());
    play.done("release w0 s");
    let before = play.run.clone();
    for outcome in [Outcome::Done, Outcome::Failed { message: "late".to_owned() }, Outcome::Expired { accepted: true }]
    {
        play.hears("release w0 s", outcome.clone());
        play.hears("cordon s", outcome);
        assert_eq!(play.run, before);
        assert!(play.asked.is_empty() && play.events.is_empty());
    }
}

#[test]
fn the_result_says_where_everything_is() {
    let mut play = evicting(&[StartFirst, ReleaseOnly], DrainParams::default());
    assert_eq!(play.goes_well(), State::Succeeded);
    let expect = json!({
        "moved": [{"workload": "w0", "service": "checkout", "from": "s", "to": "t1"}],
        "released": [{"workload": "w1", "service": "checkout", "from": "s", "to": null}],
        "restored": [], "notRestored": [], "rest": [], "mayRunTwice": [], "forced": false,
    });
    assert_eq!(play.result(), expect);
}
