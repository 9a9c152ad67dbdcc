//! Promotions, told in sentences: what is heard, what is asked, what is said in the end.

mod refusals;
mod unwinding;

use serde_json::{Value, json};

use super::*;
use crate::drain::Status;

/// Clusters `a` (active), `p` and `q` (passive) with two peers each, and a promotion among them. A command is written
/// `fenced a-1`, `active p-2`.
struct Play {
    run: Promote,
    world: World,
    now: Timestamp,
    wake_at: Option<Timestamp>,
    given: BTreeMap<String, CommandId>,
    /// What the last step asked for.
    asked: Vec<String>,
    events: Vec<Event>,
    changes: Vec<Change>,
}

pub(super) fn cluster_id(text: &str) -> ClusterId {
    ClusterId::parse(text).expect("an id")
}

pub(super) fn peer(text: &str) -> PeerId {
    PeerId::parse(text).expect("an id")
}

pub(super) fn cluster(id: &str, state: ClusterState) -> Cluster {
    let peers = (1..=2).map(|n| (peer(&format!("{id}-{n}")), Health::Healthy)).collect();
    Cluster { state, failover_version: 1, lag_ms: None, peers }
}

/// `p` promotes it, `-a` demotes it, `!` forces.
pub(super) fn params(words: &str) -> Params {
    let mut params = Params::default();
    for word in words.split_whitespace() {
        match (word, word.strip_prefix('-')) {
            ("!", _) => params.force = true,
            (_, Some(demoted)) => params.demote.push(cluster_id(demoted)),
            (promoted, None) => params.promote = Some(cluster_id(promoted)),
        }
    }
    params
}

pub(super) fn limits() -> Limits {
    Limits { min_healthy_percent: 50, max_lag_ms: Some(500), fence_timeout: Duration::from_secs(20) }
}

pub(super) fn request(words: &str) -> Request {
    Request { id: OperationId::from_u128(7), params: params(words), limits: limits(), gated: false }
}

fn mesh() -> World {
    use ClusterState::{Active, Passive};
    let clusters = [("a", Active), ("p", Passive), ("q", Passive)];
    World {
        clusters: clusters.into_iter().map(|(id, state)| (cluster_id(id), cluster(id, state))).collect(),
        mesh_version: 41,
        other_active: 0,
        paused: None,
    }
}

fn paused() -> Option<String> {
    Some("by ana: lunch".to_owned())
}

fn play(request: Request, world: World) -> Play {
    let now = Timestamp::UNIX_EPOCH;
    let step = start(request, &world, now);
    let mut play = Play {
        run: step.next.clone(),
        world,
        now,
        wake_at: None,
        given: BTreeMap::new(),
        asked: Vec::new(),
        events: Vec::new(),
        changes: Vec::new(),
    };
    play.take(step);
    play
}

fn promotion(words: &str) -> Play {
    play(request(words), mesh())
}

impl Play {
    fn take(&mut self, step: Step) {
        let name = |c: &Command| format!("{} {}", c.role, c.peer);
        self.asked = step.commands.iter().map(name).collect();
        self.given.extend(step.commands.iter().map(|c| (name(c), c.id.clone())));
        for change in &step.changes {
            match change {
                Change::Version { version, clusters } => {
                    self.world.mesh_version = *version;
                    for id in clusters {
                        self.world.clusters.get_mut(id).expect("a cluster").failover_version = *version;
                    }
                }
                Change::State { cluster, state } => {
                    self.world.clusters.get_mut(cluster).expect("a cluster").state = *state;
                }
            }
        }
        (self.run, self.changes, self.events, self.wake_at) = (step.next, step.changes, step.events, step.wake_at);
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

    fn done(&mut self, commands: &[&str]) {
        commands.iter().for_each(|command| self.hears(command, Outcome::Done));
    }

    fn fails(&mut self, command: &str, message: &str) {
        self.hears(command, Outcome::Failed { message: message.to_owned() });
    }

    fn wait(&mut self, secs: u64) {
        self.now = later(self.now, Duration::from_secs(secs)).expect("a time");
        self.input(Input::Timer).expect("a timer is never rejected");
    }

    fn cancel(&mut self) -> Result<(), Rejected> {
        self.input(Input::Cancel(Cancel { by: "bo".to_owned(), at: self.now, reason: None, keep_moved: false }))
    }

    fn loses(&mut self, peers: &[&str]) {
        for (id, health) in self.world.clusters.values_mut().flat_map(|cluster| &mut cluster.peers) {
            if peers.contains(&id.as_str()) {
                *health = Health::Unreachable;
            }
        }
    }

    fn status(&self) -> Status {
        self.run.status()
    }

    fn phase(&self) -> &'static str {
        let status = self.status();
        status.phase.unwrap_or(status.state.as_str())
    }

    fn result(&self) -> Value {
        self.status().result.expect("it has ended")
    }

    /// `a active, p passive …`
    fn states(&self) -> String {
        let told: Vec<String> = self.world.clusters.iter().map(|(id, c)| format!("{id} {}", c.state)).collect();
        told.join(", ")
    }

    /// `code subject: message` of each blocker.
    fn blockers(&self) -> Vec<String> {
        let blockers = self.status().blockers;
        blockers.iter().map(|b| format!("{} {}: {}", b.code, b.subject, b.message)).collect()
    }
}

#[test]
fn a_planned_failover_fences_cuts_over_and_verifies() {
    let mut play = promotion("p -a");
    assert_eq!((play.phase(), play.states().as_str()), ("fencing", "a demoting, p promoting, q passive"));
    assert_eq!(play.asked, ["fenced a-1", "fenced a-2", "fenced p-1", "fenced p-2"]);
    assert_eq!((play.world.mesh_version, play.world.clusters[&cluster_id("q")].failover_version), (42, 1));
    play.done(&["fenced a-1", "fenced a-2", "fenced p-1"]);
    let p = play.status().progress;
    assert_eq!((p.done, p.total, p.in_flight, p.failed), (3, 4, 1, 0));
    assert_eq!(play.states(), "a demoting, p promoting, q passive", "not before the last has let go");
    play.done(&["fenced p-2"]);
    assert_eq!((play.phase(), play.states().as_str()), ("verifying", "a passive, p active, q passive"));
    let (a, p) = (cluster_id("a"), cluster_id("p"));
    let told = [Event::Promoted { cluster: p, version: 42 }, Event::Demoted { cluster: a, version: 42 }];
    assert_eq!(play.events, told);
    assert_eq!(play.asked, ["passive a-1", "passive a-2", "active p-1", "active p-2"]);
    play.done(&["passive a-1", "passive a-2", "active p-1", "active p-2"]);
    assert_eq!((play.phase(), play.wake_at, play.status().changed), ("succeeded", None, true));
    let expect = json!({
        "promoted": "p", "demoted": ["a"], "failoverVersion": 42, "unfenced": [], "notRestored": [], "forced": null,
    });
    assert_eq!(play.result(), expect);
}

#[test]
fn what_is_as_wished_needs_nothing() {
    for words in ["a", "-p", "-p -q", "a -p", "! a"] {
        let play = promotion(words);
        assert_eq!((play.phase(), play.status().changed), ("succeeded", false), "{words}");
        assert!(play.changes.is_empty() && play.asked.is_empty() && play.events.is_empty(), "{words}");
    }
}

#[test]
fn only_what_changes_is_fenced() {
    let check = |words: &str, other_active: u32, asked: &[&str]| {
        let play = play(request(words), World { other_active, ..mesh() });
        assert_eq!(play.asked, asked, "{words}");
    };
    check("p", 0, &["fenced p-1", "fenced p-2"]);
    check("p -q", 0, &["fenced p-1", "fenced p-2"]);
    check("-a", 1, &["fenced a-1", "fenced a-2"]);
    check("-a -a -q", 1, &["fenced a-1", "fenced a-2"]);
}

#[test]
fn the_version_is_higher_than_any_that_is_known() {
    let mut world = mesh();
    world.clusters.get_mut(&cluster_id("p")).expect("p").failover_version = 99;
    assert_eq!(play(request("p"), world).world.mesh_version, 100);
}

#[test]
fn a_gate_comes_before_anything_changes_and_the_checks_again_after_it() {
    let gated = || play(Request { gated: true, ..request("p -a") }, mesh());
    let mut play = gated();
    assert_eq!((play.status().state, play.phase()), (State::AwaitingApproval, "prechecking"));
    assert!(play.changes.is_empty() && play.asked.is_empty() && play.events.is_empty());
    play.wait(5);
    assert_eq!(play.status().state, State::AwaitingApproval);
    play.input(Input::GatePassed).expect("a gate");
    assert_eq!((play.phase(), play.states().as_str()), ("fencing", "a demoting, p promoting, q passive"));
    let before = play.run.clone();
    play.input(Input::GatePassed).expect("twice says nothing new");
    assert_eq!(play.run, before);

    let mut play = gated();
    play.loses(&["p-1", "p-2"]);
    play.input(Input::GatePassed).expect("a gate");
    assert_eq!((play.phase(), play.states().as_str()), ("refused", "a active, p passive, q passive"));
}

#[test]
fn who_is_unreachable_holds_nobody_up_and_is_named() {
    let mut world = mesh();
    world.clusters.get_mut(&cluster_id("a")).expect("a").peers[0].1 = Health::Unreachable;
    let mut play = play(request("p -a"), world);
    assert_eq!(play.asked, ["fenced a-2", "fenced p-1", "fenced p-2"]);
    play.loses(&["a-2"]);
    play.done(&["fenced p-1", "fenced p-2"]);
    assert_eq!((play.phase(), &play.asked[..]), ("verifying", &["active p-1".to_owned(), "active p-2".to_owned()][..]));
    play.done(&["active p-1"]);
    play.loses(&["p-2"]);
    play.wait(1);
    assert_eq!(play.phase(), "succeeded");
    let one = |peer: &str, cluster: &str| json!({"peer": peer, "cluster": cluster, "why": "it is unreachable", "told": false});
    assert_eq!(play.result()["unfenced"], json!([one("a-1", "a"), one("a-2", "a"), one("p-2", "p")]));
    assert_eq!(play.result()["forced"], Value::Null, "that needs no force");
}

#[test]
fn who_was_not_fenced_stays_named_when_it_hears_of_its_role() {
    let mut play = promotion("p -a");
    play.loses(&["a-1"]);
    play.done(&["fenced a-2", "fenced p-1"]);
    play.world.clusters.get_mut(&cluster_id("a")).expect("a").peers[0].1 = Health::Healthy;
    play.done(&["fenced p-2", "passive a-1", "passive a-2", "active p-1", "active p-2"]);
    let expect = json!([{"peer": "a-1", "cluster": "a", "why": "it is unreachable", "told": true}]);
    assert_eq!((play.phase(), &play.result()["unfenced"]), ("succeeded", &expect));
}

#[test]
fn an_answer_that_was_given_up_counts_when_it_comes_after_all() {
    let mut play = promotion("p -a");
    play.loses(&["a-1"]);
    play.wait(1);
    play.done(&["fenced a-1", "fenced a-2", "fenced p-1", "fenced p-2"]);
    play.loses(&["a-1", "a-2"]);
    play.done(&["active p-1", "active p-2"]);
    let unfenced = play.result()["unfenced"].clone();
    assert_eq!((unfenced[0]["peer"].as_str(), unfenced.as_array().map(Vec::len)), (Some("a-1"), Some(2)));
    assert_eq!(play.run.members[&peer("a-1")].unfenced, None, "it was fenced; it has not heard of its role yet");
}

#[test]
fn blockers_say_whom_it_waits_for() {
    let check = |outcome: Outcome, expect: &str, goes_on: bool| {
        let mut play = promotion("p -a");
        play.hears("fenced a-1", outcome);
        assert_eq!(play.blockers(), [expect]);
        let since = play.status().blockers[0].since;
        play.wait(1);
        assert_eq!(play.asked, if goes_on { vec![] } else { vec!["fenced a-1"] }, "{expect}");
        assert_eq!(play.status().blockers[0].since, since, "it is as old as it was");
        play.done(&["fenced a-1"]);
        assert!(play.blockers().is_empty());
    };
    let message = "3 writers left".to_owned();
    check(Outcome::Busy { remaining: Some(3), message: message.clone() }, "busy a-1: 3 writers left", true);
    check(Outcome::Busy { remaining: Some(3), message: String::new() }, "busy a-1: 3 left", true);
    check(Outcome::NotReady { message: message.clone() }, "not-ready a-1: 3 writers left", true);
    check(Outcome::Failed { message: message.clone() }, "not-ready a-1: 3 writers left", false);
    check(Outcome::Refused { message }, "not-ready a-1: 3 writers left", false);
    for accepted in [false, true] {
        check(Outcome::Expired { accepted }, "peer-unreachable a-1: the agent of a-1 does not answer", false);
    }
}

#[test]
fn who_fails_is_asked_ever_more_rarely() {
    let mut play = promotion("p -a");
    let mut delays = Vec::new();
    for _ in 0..7 {
        play.fails("fenced a-1", "exit code 1");
        let at = play.wake_at.expect("a time");
        delays.push(at.duration_since(play.now).as_millis());
        play.now = at;
        play.input(Input::Timer).expect("a timer");
        assert_eq!(play.asked, ["fenced a-1"]);
    }
    assert_eq!(delays, [500, 1000, 2000, 4000, 8000, 15000, 15000]);
}

#[test]
fn force_gives_up_who_does_not_answer_in_time() {
    let mut play = promotion("! p -a");
    play.done(&["fenced a-1", "fenced p-1", "fenced p-2"]);
    play.hears("fenced a-2", Outcome::Busy { remaining: None, message: "3 writers left".to_owned() });
    play.wait(19);
    assert_eq!(play.phase(), "fencing");
    play.wait(1);
    assert_eq!((play.phase(), play.states().as_str()), ("verifying", "a passive, p active, q passive"));
    play.done(&["passive a-1", "active p-1", "active p-2"]);
    play.wait(20);
    assert_eq!(play.phase(), "succeeded");
    let why = "given up by force: 3 writers left";
    assert_eq!(play.result()["unfenced"], json!([{"peer": "a-2", "cluster": "a", "why": why, "told": false}]));
    let forced = json!({"overridden": [{"check": "fencing", "subject": "a-2", "message": why}]});
    assert_eq!(play.result()["forced"], forced);

    let mut patient = promotion("p -a");
    patient.done(&["fenced a-1", "fenced p-1", "fenced p-2"]);
    patient.wait(3600);
    assert_eq!(patient.phase(), "fencing", "without force it waits");
}

#[test]
fn while_paused_nothing_begins_but_answers_are_taken() {
    let mut play = play(request("p -a"), World { paused: paused(), ..mesh() });
    assert_eq!((play.phase(), play.changes.len(), play.asked.len()), ("prechecking", 0, 0));
    play.world.paused = None;
    play.wait(1);
    assert_eq!(play.phase(), "fencing");
    play.world.paused = paused();
    play.fails("fenced a-1", "exit code 1");
    play.wait(60);
    assert_eq!((play.asked.len(), play.wake_at), (0, None), "it is not asked again");
    play.world.paused = None;
    play.wait(1);
    play.world.paused = paused();
    play.done(&["fenced a-1", "fenced a-2", "fenced p-1", "fenced p-2"]);
    assert_eq!((play.phase(), play.states().as_str()), ("fencing", "a demoting, p promoting, q passive"));
    play.world.paused = None;
    play.wait(1);
    assert_eq!(play.phase(), "verifying");
    play.world.paused = paused();
    play.fails("active p-1", "exit code 1");
    play.wait(60);
    assert_eq!(play.asked.len(), 0);
    assert_eq!(play.blockers(), ["paused p: by ana: lunch", "not-ready p-1: exit code 1"]);
    play.loses(&["p-1"]);
    play.done(&["passive a-1", "passive a-2", "active p-2"]);
    assert_eq!(play.phase(), "verifying");
    play.world.paused = None;
    play.wait(1);
    assert_eq!((play.phase(), play.blockers().len()), ("succeeded", 0));
}

#[test]
fn time_outs_and_cancels_are_not_held_up_by_a_pause() {
    let mut play = promotion("! p -a");
    play.world.paused = paused();
    play.wait(20);
    assert_eq!((play.phase(), play.status().progress.failed), ("fencing", 4));
    play.cancel().expect("in time");
    assert_eq!(play.asked, ["active a-1", "active a-2", "passive p-1", "passive p-2"]);
}

#[test]
fn reports_that_are_late_or_repeated_change_nothing() {
    let mut play = promotion("p -a");
    play.done(&["fenced a-1", "fenced a-2", "fenced p-1", "fenced p-2"]);
    let before = play.run.clone();
    for outcome in [Outcome::Done, Outcome::Failed { message: "late".to_owned() }, Outcome::Expired { accepted: true }]
    {
        play.hears("fenced a-1", outcome);
        assert_eq!(play.run, before);
        assert!(play.asked.is_empty() && play.changes.is_empty());
    }
}

#[test]
fn the_inverse_is_what_would_undo_it() {
    let check = |of: &str, expect: Option<&str>| assert_eq!(inverse(&params(of)), expect.map(params), "{of}");
    check("p -a", Some("a -p"));
    check("! p -a", Some("a -p"));
    check("p", Some("-p"));
    check("-a", Some("a"));
    check("p -a -b", None);
    check("-a -b", None);
}

#[test]
fn clusters_are_named_once() {
    let named = |words: &str| params(words).named().map(|id| id.as_str().to_owned()).collect::<Vec<_>>();
    assert_eq!(named("p -a -b -a -p"), ["p", "a", "b"]);
    assert_eq!(named("-a"), ["a"]);
    let json = json!({"promote": "p", "demote": ["a"], "force": true});
    assert_eq!(serde_json::from_value::<Params>(json.clone()).expect("parameters"), params("! p -a"));
    assert_eq!(serde_json::to_value(params("! p -a")).expect("JSON"), json);
}
