//! What may not begin, and what `force` passes.

use super::*;

/// `p` with this many healthy peers of four, and this lag.
fn with_p(healthy: usize, lag_ms: Option<u64>) -> World {
    let mut world = mesh();
    let p = world.clusters.get_mut(&cluster_id("p")).expect("p");
    p.peers = (0..4).map(|n| (peer(&format!("p-{n}")), Health::Suspect)).collect();
    p.peers.iter_mut().take(healthy).for_each(|(_, health)| *health = Health::Healthy);
    p.lag_ms = lag_ms;
    world
}

fn with_states(states: &[(&str, ClusterState)]) -> World {
    let mut world = mesh();
    for (id, state) in states {
        world.clusters.get_mut(&cluster_id(id)).expect("a cluster").state = *state;
    }
    world
}

fn refused(words: &str, world: World) -> String {
    let play = play(request(words), world);
    assert_eq!((play.phase(), play.status().changed), ("refused", false), "{words}");
    assert!(play.changes.is_empty() && play.asked.is_empty() && play.events.is_empty(), "{words}");
    play.run.rejected().expect("a reason").to_string()
}

#[test]
fn the_last_active_cluster_is_never_demoted() {
    let last =
        "cluster a is the last active one: promote another before, or promote one with \"demote\": [\"a\"]".to_owned();
    for words in ["-a", "! -a", "-a -p", "a -a -p"] {
        if words == "a -a -p" {
            assert_eq!(play(request(words), mesh()).phase(), "succeeded", "what is promoted is not demoted");
        } else {
            assert_eq!(refused(words, mesh()), last, "{words}");
        }
    }
    use ClusterState::{Active, Demoting};
    let another_named = with_states(&[("q", Active)]);
    assert_eq!(play(request("-a"), World { other_active: 1, ..mesh() }).phase(), "fencing");
    assert_eq!(refused("-a -q", another_named.clone()), last, "not two at once either");
    assert_eq!(play(request("q -a"), another_named).phase(), "fencing", "what is active already counts");
    let message = refused("-a -q", with_states(&[("q", Demoting)]));
    assert_eq!(message, "cluster q is demoting: wait until it is active or passive");
}

#[test]
fn what_cannot_take_over_is_refused_or_forced() {
    let check = |healthy: usize, lag_ms: Option<u64>, expect: &[&str]| {
        let world = || with_p(healthy, lag_ms);
        let forced = play(request("! p -a"), world());
        assert_eq!(forced.phase(), "fencing");
        let passed: Vec<_> = forced.run.overridden.iter().map(|o| format!("{} {}", o.check, o.message)).collect();
        assert_eq!(passed, expect);
        let unforced = play(request("p -a"), world());
        assert_eq!(unforced.phase(), if expect.is_empty() { "fencing" } else { "refused" });
    };
    check(4, None, &[]);
    check(2, Some(500), &[]);
    check(1, None, &["health 1 of its 4 peers are healthy, 50 % must be"]);
    check(0, None, &["health none of its 4 peers is healthy"]);
    check(4, Some(501), &["lag it is 501 ms behind, 500 ms are allowed"]);
    check(
        1,
        Some(900),
        &["health 1 of its 4 peers are healthy, 50 % must be", "lag it is 900 ms behind, 500 ms are allowed"],
    );
}

#[test]
fn refusals_say_what_to_do() {
    let check = |world: World, expect: &str| assert_eq!(refused("p", world), expect);
    check(
        with_p(1, None),
        "cluster p cannot take over: 1 of its 4 peers are healthy, 50 % must be; make its peers healthy, or repeat with \"force\": true",
    );
    check(
        with_p(4, Some(900)),
        "cluster p is 900 ms behind, 500 ms are allowed: wait for its replication, or repeat with \"force\": true",
    );
    check(with_states(&[("p", ClusterState::Promoting)]), "cluster p is promoting: wait until it is active or passive");
    assert_eq!(refused("x", mesh()), "there is no cluster x: see `omnirelay mesh clusters list`");
    assert_eq!(refused("p -x", mesh()), "there is no cluster x: see `omnirelay mesh clusters list`");
}

#[test]
fn an_empty_cluster_takes_over_only_by_force() {
    let mut world = mesh();
    world.clusters.get_mut(&cluster_id("p")).expect("p").peers.clear();
    let check = |words: &str, percent: u32, phase: &str| {
        let limits = Limits { min_healthy_percent: percent, ..limits() };
        assert_eq!(play(Request { limits, ..request(words) }, world.clone()).phase(), phase, "{words}");
    };
    check("p", 0, "refused");
    check("! p", 50, "succeeded");
}

#[test]
fn limits_may_be_absent() {
    let limits = Limits { min_healthy_percent: 0, max_lag_ms: None, ..limits() };
    assert_eq!(play(Request { limits, ..request("p") }, with_p(1, Some(9_000_000))).phase(), "fencing");
}

#[test]
fn what_was_forced_is_in_the_result() {
    let mut play = play(request("! p"), with_p(1, Some(900)));
    play.done(&["fenced p-0", "fenced p-1", "fenced p-2", "fenced p-3"]);
    play.done(&["active p-0", "active p-1", "active p-2", "active p-3"]);
    let expect = json!({"overridden": [
        {"check": "health", "subject": "p", "message": "1 of its 4 peers are healthy, 50 % must be"},
        {"check": "lag", "subject": "p", "message": "it is 900 ms behind, 500 ms are allowed"},
    ]});
    assert_eq!(play.result()["forced"], expect);
}
