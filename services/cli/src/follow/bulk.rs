//! A drain of many peers while it runs: counts for all of them, a line for the few that are on their way.

use std::collections::BTreeMap;

use jiff::Timestamp;
use omnirelay_contract::rest::Operation;
use omnirelay_contract::workflow::operation::{Blocker, State};

use super::around::Around;
use super::view::{ROWS, bar};
use crate::output::age;

/// What children there are, by how people think of them. The word is what the API counts by, the state or `skipped`.
const GROUPS: [(&str, &[&str]); 6] = [
    ("running", &["running", "unwinding"]),
    ("waiting for approval", &["awaitingApproval"]),
    ("failed", &["failed", "stuck", "refused", "rejected", "expired"]),
    ("cancelled", &["cancelled"]),
    ("skipped", &["skipped"]),
    ("waiting", &["submitted", "queued"]),
];

/// Whether it is an operation on many: then its target is named after itself.
pub fn is_bulk(operation: &Operation) -> bool {
    operation.children.is_some() || operation.target.strip_prefix("peers/") == Some(&operation.id.to_string())
}

/// `4 running, 1 failed, 24 waiting`; what there is none of is not told. `children` are those whose turn has come; `total` is all
/// but the skipped.
pub fn counts(children: &BTreeMap<String, u32>, total: u32) -> String {
    let sum = |states: &[&str]| states.iter().filter_map(|state| children.get(*state)).sum::<u32>();
    let begun = children.iter().filter(|(state, _)| *state != "skipped").map(|(_, count)| count).sum();
    let to_come = |word: &str| if word == "waiting" { total.saturating_sub(begun) } else { 0 };
    let told = GROUPS.iter().map(|(word, states)| (word, sum(states) + to_come(word))).filter(|(_, count)| *count > 0);
    told.map(|(word, count)| format!("{count} {word}")).collect::<Vec<_>>().join(", ")
}

/// The phases of a drain of many with these parameters, in order.
pub fn phases(operation: &Operation) -> Vec<&'static str> {
    let positive = |name: &str| operation.params.get(name).and_then(serde_json::Value::as_u64).is_some_and(|n| n > 0);
    let canary = positive("canary").then_some("canary");
    let soak = canary.and_then(|_| positive("soakSecs").then_some("soak"));
    canary.into_iter().chain(soak).chain(["rest"]).collect()
}

/// A line for each child that is shown: those that are blocked first, the longest first; then those that move.
pub fn rows(around: &Around, now: Timestamp) -> Vec<String> {
    let mut shown: Vec<&Operation> = around.children.iter().filter(|child| child.state != State::Succeeded).collect();
    shown.sort_by_key(|child| (order(child), oldest(child).map(|blocker| blocker.since), child.id));
    let width = shown.iter().take(ROWS).map(|child| around.name(child).len()).max().unwrap_or_default();
    let mut lines: Vec<String> =
        shown.iter().take(ROWS).map(|child| format!("    {:width$} {}", around.name(child), row(child, now))).collect();
    if shown.len() > ROWS {
        lines.push(format!("    and {} more", shown.len() - ROWS));
    }
    lines
}

/// What holds each child up for the longest, with the child's name before the subject.
pub fn blockers(around: &Around) -> Vec<Blocker> {
    let live = around.children.iter().filter(|child| !child.state.is_terminal());
    let named = |child: &Operation| {
        let blocker = oldest(child)?;
        let subject = format!("{} {}", around.name(child), blocker.subject).trim_end().to_owned();
        Some(Blocker { subject, ..blocker.clone() })
    };
    live.filter_map(named).collect()
}

fn row(child: &Operation, now: Timestamp) -> String {
    if child.state.is_terminal() {
        let why = child.error.as_ref().map(|error| format!("   {}", error.detail)).unwrap_or_default();
        return format!("{}{why}", child.state.as_str().to_uppercase());
    }
    if let Some(blocker) = oldest(child) {
        let since = age(blocker.since, now);
        return format!("BLOCKED {since} {}: {} {}", blocker.code, blocker.subject, blocker.message);
    }
    let phase = match child.state {
        State::Running => child.phase.as_deref().unwrap_or("running"),
        state => state.as_str(),
    };
    let progress = &child.progress;
    if progress.total == 0 {
        return phase.to_owned();
    }
    let failed = if progress.failed > 0 { format!("  {} failed", progress.failed) } else { String::new() };
    format!("{phase:<10} {} {}/{}{failed}", bar(progress), progress.done, progress.total)
}

fn order(child: &Operation) -> u8 {
    match (child.state.is_terminal(), child.blockers.is_empty()) {
        (true, _) => 0,
        (false, false) => 1,
        (false, true) => 2,
    }
}

fn oldest(child: &Operation) -> Option<&Blocker> {
    child.blockers.iter().min_by_key(|blocker| blocker.since)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::operation;
    use serde_json::json;

    fn child(n: u32, state: State, done: u32, blockers: serde_json::Value) -> Operation {
        let mut child = operation(state);
        child.id = format!("0193d1f0-{n:04x}-7000-8000-000000000000").parse().expect("id");
        child.target = format!("peers/p-{n}");
        child.phase = Some("evicting".to_owned());
        (child.progress.done, child.progress.total) = (done, 10);
        child.blockers = serde_json::from_value(blockers).expect("blockers");
        child
    }

    #[test]
    fn children_in_rows() {
        let now = "2026-11-23T12:06:00Z".parse().expect("time");
        let blocker = json!([{"code": "no-capacity", "subject": "shard-17", "message": "needs disk=nvme",
            "since": "2026-11-23T12:00:00Z"}]);
        let children = vec![
            child(1, State::Running, 4, json!([])),
            child(2, State::Succeeded, 10, json!([])),
            child(3, State::Running, 2, blocker),
            child(4, State::Failed, 2, json!([])),
        ];
        let names = BTreeMap::from([("peers/p-1".to_owned(), "web-11".to_owned())]);
        let around = Around { children, names };
        assert_eq!(
            rows(&around, now),
            [
                "    p-4    FAILED",
                "    p-3    BLOCKED 6m00s no-capacity: shard-17 needs disk=nvme",
                "    web-11 evicting   [########------------] 4/10"
            ]
        );
        assert_eq!(blockers(&around)[0].subject, "p-3 shard-17");
    }

    #[test]
    fn a_thousand_children_are_a_screenful() {
        let children = (0..1_000).map(|n| child(n, State::Running, 1, json!([]))).collect();
        let lines = rows(&Around { children, ..Around::default() }, Timestamp::UNIX_EPOCH);
        assert_eq!((lines.len(), lines.last().map(String::as_str)), (9, Some("    and 992 more")));
    }

    #[test]
    fn counts_by_what_people_ask() {
        let check = |children: serde_json::Value, total: u32, expected: &str| {
            let children = serde_json::from_value(children).expect("counts");
            assert_eq!(counts(&children, total), expected);
        };
        let children = json!({"succeeded": 9, "running": 3, "unwinding": 1, "failed": 1, "queued": 4, "skipped": 2});
        check(children, 38, "4 running, 1 failed, 2 skipped, 24 waiting");
        check(json!({"succeeded": 3, "skipped": 1, "running": 0}), 3, "1 skipped");
        check(json!({}), 0, "");
    }
}
