use super::*;
use serde_json::json;

fn policy(text: &str) -> Policy {
    let policy: Policy = toml::from_str(text).expect("a policy");
    policy.check().expect("a sound policy");
    policy
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

const POLICY: &str = r#"
[[approve]]
verbs = ["clusters.promote"]
clusters = ["ams1", "fra1"]
require_ticket = "^CHG-[0-9]+$"
between = "08:00-18:00"
comment = "planned"
[[approve]]
verbs = ["peers.drain"]
clusters = ["ams1", "fra1"]
max_peers = 2
comment = "small"
[[reject]]
verbs = ["peers.drain"]
more_peers_than = 3
comment = "too many"
[[reject]]
verbs = ["clusters.promote"]
clusters = ["lab"]
outside = "09:00-10:00"
comment = "not the lab, not now"
[[reject]]
verbs = ["config.patch"]
without_ticket = "^CHG-"
comment = "a ticket"
[[freeze]]
from = "2026-12-18T00:00:00Z"
until = "2027-01-04T00:00:00Z"
comment = "the holidays"
"#;

/// `verb requester clusters ticket peers time`, `-` for none.
fn check(line: &str, expect: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let some = |word: &str| (word != "-").then(|| word.to_owned());
    let request = Request {
        verb: words[0].to_owned(),
        requester: words[1].to_owned(),
        clusters: some(words[2]).iter().flat_map(|all| all.split(',').map(str::to_owned)).collect(),
        ticket: some(words[3]),
        peers: (0..words[4].parse().expect("a number")).map(|n| format!("p-{n}")).collect(),
        ..Request::default()
    };
    let decided = match decide(&policy(POLICY), Some("policy-bot"), &request, at(words[5])) {
        Decision::Approve { comment } => format!("yes: {comment}"),
        Decision::Reject { comment } => format!("no: {comment}"),
        Decision::Leave { why } => format!("left: {why}"),
    };
    assert_eq!(decided, expect, "{line}");
}

#[test]
fn it_decides_by_the_policy() {
    const NOON: &str = "2026-11-23T12:00:00Z";
    let promote = |rest: &str, expect: &str| check(&format!("clusters.promote {rest}"), expect);
    promote(&format!("ana ams1,fra1 CHG-4820 0 {NOON}"), "yes: planned");
    promote("ana ams1,fra1 CHG-4820 0 2026-11-23T08:00:00Z", "yes: planned");
    promote("ana ams1,fra1 CHG-4820 0 2026-11-23T18:00:00Z", "left: not at this time of the day");
    promote(&format!("ana ams1,fra1 - 0 {NOON}"), "left: no ticket like ^CHG-[0-9]+$");
    promote(&format!("ana ams1,fra1 CHG-48x 0 {NOON}"), "left: no ticket like ^CHG-[0-9]+$");
    promote(&format!("ana ams1,nyc1 CHG-4820 0 {NOON}"), "left: cluster nyc1 is not in the rule");
    promote(&format!("ana ams1,lab CHG-4820 0 {NOON}"), "no: not the lab, not now");
    promote("ana ams1,lab CHG-4820 0 2026-11-23T09:30:00Z", "left: cluster lab is not in the rule");
    promote(&format!("policy-bot ams1,fra1 CHG-4820 0 {NOON}"), "left: this bot has asked for it");
    promote("ana ams1,fra1 CHG-4820 0 2026-12-24T12:00:00Z", "left: freeze until 2027-01-04T00:00:00Z: the holidays");
    promote("ana ams1,fra1 CHG-4820 0 2027-01-04T12:00:00Z", "yes: planned");
    promote("ana lab CHG-4820 0 2026-12-24T12:00:00Z", "no: not the lab, not now");

    check(&format!("peers.drain ana fra1 - 2 {NOON}"), "yes: small");
    check(&format!("peers.drain ana fra1 - 3 {NOON}"), "left: 3 peers are more than 2");
    check(&format!("peers.drain ana fra1 - 4 {NOON}"), "no: too many");
    check(&format!("config.patch ana - - 0 {NOON}"), "no: a ticket");
    check(&format!("config.patch ana - CHG-1 0 {NOON}"), "left: no rule for config.patch");
}

#[test]
fn a_time_of_the_day_may_go_over_midnight() {
    let night = Between("22:00".parse().expect("a time"), "06:00".parse().expect("a time"));
    for (hour, expected) in [(21, false), (22, true), (0, true), (5, true), (6, false)] {
        assert_eq!(night.contains(at(&format!("2026-11-23T{hour:02}:30:00Z"))), expected, "{hour}");
    }
}

#[test]
fn an_operation_is_a_request_while_its_gate_is_open_and_this_bot_silent() {
    let operation = json!({
        "id": "7be3", "verb": "clusters.promote", "target": "clusters/ams1", "actor": "ana", "changeTicket": "CHG-1",
        "params": {"promote": "ams1", "demote": ["fra1"]},
        "approval": {"status": "open", "digest": "4f9a", "approvals": [{"actor": "bo"}]},
    });
    let request = Request::of(&operation, Some("policy-bot")).expect("a request");
    assert_eq!((request.requester.as_str(), request.digest.as_str(), request.peers.len()), ("ana", "4f9a", 0));
    assert_eq!(request.clusters, BTreeSet::from(["ams1".to_owned(), "fra1".to_owned()]));
    assert_eq!(Request::of(&operation, Some("bo")), None, "bo has spoken");
    let with = |pointer: &str, value: Value| {
        let mut changed = operation.clone();
        *changed.pointer_mut(pointer).expect("a member") = value;
        Request::of(&changed, None)
    };
    assert_eq!(with("/approval/status", json!("granted")), None);
    assert_eq!(with("/approval", Value::Null), None);
    assert_eq!(with("/target", json!("peers/edge-7")).expect("a request").peers, ["edge-7"]);
    let params = json!({"peers": ["a", "b"]});
    let mut many = operation.clone();
    many["target"] = json!("peers/019ab");
    many["params"] = params;
    assert_eq!(Request::of(&many, None).expect("a request").peers, ["a", "b"]);
}

const STAGE: &str = r#"
[[stage]]
name = "suspects"
on = "peers.health"
when = { health = "suspect" }
path = "/control/peers/{id}:cordon"
body = { reason = "{id} is suspect", gate = "start" }
[[stage]]
name = "planned"
at = "2026-11-24T06:00:00Z"
path = "/control/peers/web-07:drain"
body = { gate = "start" }
"#;

#[test]
fn it_stages_after_events() {
    let policy = policy(STAGE);
    assert_eq!(policy.subjects(), BTreeSet::from(["omni.v1.event.peers.*.health".to_owned()]));
    let event = |kind: &str, health: &str| json!({"id": "e1", "type": format!("omnirelay.{kind}"), "subject": "peers/a", "data": {"health": health}});
    let staged = policy.after(&event("peers.health", "suspect"));
    assert_eq!(staged.len(), 1);
    assert_eq!((staged[0].path.as_str(), staged[0].key.as_str()), ("/control/peers/a:cordon", "bot-suspects-e1"));
    assert_eq!(staged[0].body, json!({"reason": "a is suspect", "gate": "start"}));
    assert!(policy.after(&event("peers.health", "healthy")).is_empty());
    assert!(policy.after(&event("peers.drained", "suspect")).is_empty());
    assert!(policy.after(&json!("nonsense")).is_empty());
}

#[test]
fn it_stages_when_the_time_has_come_and_not_long_after() {
    let policy = policy(STAGE);
    for (time, expected) in [("05:59:59", 0), ("06:00:00", 1), ("06:59:59", 1), ("07:00:00", 0)] {
        let due = policy.due(at(&format!("2026-11-24T{time}Z")));
        assert_eq!(due.len(), expected, "{time}");
        assert!(due.iter().all(|staged| staged.key == "bot-planned-1795500000"), "{due:?}");
    }
    assert_eq!(policy.next_look(at("2026-11-24T05:59:50Z")), Duration::from_secs(10));
    assert_eq!(policy.next_look(at("2026-11-24T05:00:00Z")), Duration::from_secs(30));
    assert_eq!(policy.next_look(at("2026-11-24T06:00:00Z")), Duration::from_secs(30));
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let wrong = |text: &str, expect: &str| {
        let told = match toml::from_str::<Policy>(text) {
            Ok(policy) => policy.check().expect_err(expect).to_string(),
            Err(error) => error.to_string(),
        };
        assert!(told.contains(expect), "{text}: {told}");
    };
    let stage = |more: &str| format!("[[stage]]\nname = \"a\"\npath = \"/control/peers/a:drain\"\n{more}");
    wrong("poll = \"10ms\"", "poll: at least 1s");
    wrong("pol = \"10s\"", "unknown field `pol`");
    wrong("[[approve]]\nverbs = []\nbetween = \"8-18\"\ncomment = \"\"", "is not like 08:00-18:00");
    wrong("[[approve]]\nverbs = []\nrequire_ticket = \"(\"\ncomment = \"\"", "unclosed group");
    wrong(
        "[[freeze]]\nfrom = \"2026-12-18T00:00:00Z\"\nuntil = \"2026-12-18T00:00:00Z\"\ncomment = \"\"",
        "later than from",
    );
    wrong(&stage("body = { gate = \"start\" }"), "stage[0]: it needs `at` or `on`");
    wrong(&stage("on = \"peers.>\"\nbody = { gate = \"start\" }"), "stage[0].on");
    wrong(&stage("on = \"peers.health\"\nbody = { reason = \"x\" }"), "stage[0].body: it needs gate");
    let both = stage("on = \"peers.health\"\nbody = { gate = \"start\" }");
    wrong(&format!("{both}\n{both}"), "stage[1].name");
}

#[test]
fn the_example_is_a_policy() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("policy.example.toml");
    let policy = Policy::load(&path).expect("the example");
    assert!(!policy.approve.is_empty() && !policy.reject.is_empty() && !policy.freeze.is_empty());
    assert_eq!(policy.stage.len(), 2);
}
