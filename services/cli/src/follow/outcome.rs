//! How an operation ended, in one line and what belongs below it. The last line says what came, and what to do next.

use omnirelay_contract::rest::Operation;
use omnirelay_contract::workflow::operation::{State, Verb};
use serde::Deserialize;

use super::around::{Failed, peers_in};
use super::bulk::is_bulk;
use crate::output::took;
use crate::resolve::short;

/// Peers that are told of before the rest is counted.
const NAMES: usize = 8;

/// `result` of a drain, and what a promotion's has beside it. Every member may be missing: an operation that never began has none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DrainResult {
    pub moved: Vec<Moved>,
    pub released: Vec<Moved>,
    pub restored: Vec<Left>,
    pub not_restored: Vec<Left>,
    /// What was still to do.
    pub rest: Vec<Left>,
    pub may_run_twice: Vec<Left>,
    /// Of a promotion: peers whose agent has not acknowledged.
    pub unfenced: Vec<Left>,
    pub promoted: Option<String>,
    pub demoted: Vec<String>,
    pub failover_version: Option<u64>,
    pub forced: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Moved {
    pub workload: String,
    pub service: String,
    pub from: Option<String>,
    pub to: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Left {
    #[serde(alias = "peer")]
    pub workload: String,
    pub at: Option<String>,
    pub why: Option<String>,
    /// The command that puts it back.
    pub undo: Option<String>,
}

impl DrainResult {
    /// Reads each member by itself, so that one of an unknown shape does not hide the others: exit codes hang on them.
    pub fn of(operation: &Operation) -> Self {
        let Some(serde_json::Value::Object(result)) = &operation.result else { return Self::default() };
        Self {
            moved: member(result, "moved"),
            released: member(result, "released"),
            restored: member(result, "restored"),
            not_restored: member(result, "notRestored"),
            rest: member(result, "rest"),
            may_run_twice: member(result, "mayRunTwice"),
            unfenced: member(result, "unfenced"),
            promoted: member(result, "promoted"),
            demoted: member(result, "demoted"),
            failover_version: member(result, "failoverVersion"),
            forced: member(result, "forced"),
        }
    }
}

/// The line that says how it ended, and the lines below it. `name` is the target's, `audit` the record's sequence, `failed` the
/// peers of a drain of many that failed.
pub fn lines(operation: &Operation, name: &str, audit: Option<u64>, failed: &Failed) -> Vec<String> {
    if is_bulk(operation) {
        return many(operation, audit, failed);
    }
    let result = DrainResult::of(operation);
    let id = short(operation.id);
    let mut lines = vec![head(operation, &result, &summary(operation, name, &result), audit)];
    lines.extend(why(operation));
    lines.extend(result.not_restored.iter().map(|left| format!("  not restored: {}", describe(left))));
    lines.extend(result.rest.iter().map(|left| format!("  left: {}", describe(left))));
    lines.extend(result.may_run_twice.iter().map(|left| format!("  may run twice: {}", describe(left))));
    lines.extend(result.unfenced.iter().take(NAMES).map(|left| format!("  not acknowledged: {}", describe(left))));
    if let Some(more @ 1..) = result.unfenced.len().checked_sub(NAMES) {
        lines.push(format!("  not acknowledged: {more} more; see them all with omnirelay ops get {id}"));
    }
    lines.extend(next(operation, name, &id, &result).into_iter().map(|next| format!("  what next: {next}")));
    lines
}

/// `FAILED 5d20c9aa   39 succeeded, 1 failed (web-13)   2h04m`, and how to try the rest again.
fn many(operation: &Operation, audit: Option<u64>, failed: &Failed) -> Vec<String> {
    let children = operation.children.clone().unwrap_or_default();
    let succeeded = children.get(State::Succeeded.as_str()).copied().unwrap_or_default();
    let mut summary = vec![format!("{succeeded} succeeded")];
    let Failed { count, names } = failed;
    if *count > 0 {
        let more = if *count > names.len() { format!(" and {} more", count - names.len()) } else { String::new() };
        summary.push(format!("{count} failed ({}{more})", names.join(", ")));
    }
    for (list, word) in [("cancelled", "cancelled"), ("skipped", "skipped"), ("notStarted", "not started")] {
        let count = peers_in(operation, &[list]).len();
        summary.extend((count > 0).then(|| format!("{count} {word}")));
    }
    let result = DrainResult::of(operation);
    let mut lines = vec![head(operation, &result, &summary.join(", "), audit)];
    lines.extend(why(operation));
    lines.extend(result.not_restored.iter().take(NAMES).map(|left| format!("  not restored: {}", describe(left))));
    if result.not_restored.len() > NAMES {
        let (more, id) = (result.not_restored.len() - NAMES, short(operation.id));
        lines.push(format!("  and {more} more: omnirelay mesh ops get {id} -o yaml"));
    }
    if *count > 0 {
        lines.push(format!("  retry: omnirelay ops retry {} --failed", short(operation.id)));
    }
    lines
}

fn head(operation: &Operation, result: &DrainResult, summary: &str, audit: Option<u64>) -> String {
    let mut head = format!("{} {}   {summary}", word(operation.state, result), short(operation.id));
    let begin = operation.started_at.unwrap_or(operation.created_at);
    if let Some(end) = operation.finished_at {
        head.push_str(&format!("   {}", took(begin, end)));
    }
    if let Some(seq) = audit {
        head.push_str(&format!("   audit #{seq}"));
    }
    head
}

/// The error, and who said no.
fn why(operation: &Operation) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(error) = &operation.error {
        lines.push(format!("  why: {} ({})", error.detail, error.code));
    }
    if let Some(gate) = operation.approval.as_ref().filter(|_| operation.state == State::Rejected) {
        lines.extend(super::gate::heard(gate));
    }
    lines
}

/// What is said when this side leaves and the operation goes on.
pub fn detached(operation: &Operation, name: &str, why: Leave) -> String {
    let what = match operation.state {
        State::Unwinding => "unwinding",
        State::AwaitingApproval => {
            let gate = operation.approval.as_ref();
            let gate = gate.map(|gate| format!(" ({})", super::gate::who(gate, &operation.actor))).unwrap_or_default();
            return format!(
                "The {} waits for approval{gate}: omnirelay ops approve {}. Follow: omnirelay ops attach {name}",
                noun(operation.verb),
                short(operation.id)
            );
        }
        _ => noun(operation.verb),
    };
    let how = match why {
        Leave::Interrupted | Leave::Asked => "Detached",
        Leave::Waited => "Still running after --wait-timeout",
    };
    format!("{how}, the {what} continues. Follow: omnirelay ops attach {name}")
}

/// What an operation is called in a sentence.
const fn noun(verb: Verb) -> &'static str {
    match verb {
        Verb::ClustersPromote => "promotion",
        Verb::ClustersDemote => "demotion",
        Verb::PeersPatch | Verb::PeersPut | Verb::ClustersPut | Verb::ConfigPatch => "change",
        Verb::PeersCordon | Verb::PeersUncordon | Verb::PeersDrain | Verb::ConfigRollback => verb.action(),
    }
}

/// Why this side left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    Interrupted,
    Waited,
    Asked,
}

fn word(state: State, result: &DrainResult) -> &'static str {
    match state {
        State::Succeeded if result.forced => "SUCCEEDED BY FORCE",
        State::Succeeded => "SUCCEEDED",
        State::Refused => "REFUSED",
        State::Rejected => "REJECTED",
        State::Expired => "EXPIRED",
        State::Cancelled => "CANCELLED",
        State::Failed => "FAILED",
        State::Stuck => "STUCK",
        State::Submitted | State::AwaitingApproval | State::Queued | State::Running | State::Unwinding => "RUNNING",
    }
}

fn summary(operation: &Operation, name: &str, result: &DrainResult) -> String {
    match (operation.state, operation.verb) {
        (State::Succeeded, Verb::PeersDrain) => {
            let mut text = format!("{name} drained, {} moved", result.moved.len());
            if !result.released.is_empty() {
                text.push_str(&format!(", {} released", result.released.len()));
            }
            text
        }
        (State::Succeeded, Verb::PeersCordon) => format!("{name} cordoned"),
        (State::Succeeded, Verb::PeersUncordon) => format!("{name} uncordoned"),
        (State::Succeeded, Verb::PeersPatch | Verb::PeersPut | Verb::ClustersPut) => format!("{name} changed"),
        (State::Succeeded, Verb::ConfigPatch) => "settings changed".to_owned(),
        (State::Succeeded, Verb::ConfigRollback) => "settings rolled back".to_owned(),
        (State::Succeeded, Verb::ClustersPromote | Verb::ClustersDemote) => failover(name, result),
        (State::Cancelled, _) => cancelled(operation, name, result),
        (State::Failed, Verb::PeersDrain) => {
            format!("{name} stays cordoned, {} moved, {} left", result.moved.len(), result.rest.len())
        }
        (State::Stuck, _) if !result.not_restored.is_empty() => {
            format!("{name}, {} could not be put back", result.not_restored.len())
        }
        (state, verb) => format!("{} of {name} {state}", noun(verb)),
    }
}

/// `ams1 active, fra1 passive, version 42`
fn failover(name: &str, result: &DrainResult) -> String {
    let promoted = result.promoted.iter().map(|cluster| format!("{cluster} active"));
    let demoted = result.demoted.iter().map(|cluster| format!("{cluster} passive"));
    let version = result.failover_version.map(|version| format!("version {version}"));
    let told: Vec<String> = promoted.chain(demoted).chain(version).collect();
    if told.is_empty() { format!("{name} as wished") } else { told.join(", ") }
}

fn cancelled(operation: &Operation, name: &str, result: &DrainResult) -> String {
    let kept = operation.cancel.as_ref().is_some_and(|cancel| cancel.keep_moved);
    if !result.not_restored.is_empty() {
        return format!("{name} not as before, difference: {}", result.not_restored.len());
    }
    if kept && !result.moved.is_empty() {
        return format!("{name} released, {} stay where they moved", result.moved.len());
    }
    format!("{name} as before, difference: none")
}

fn next(operation: &Operation, name: &str, id: &str, result: &DrainResult) -> Vec<String> {
    match (operation.state, operation.verb) {
        (State::Failed, Verb::PeersDrain) => vec![
            format!("drain the rest: omnirelay drain {name}"),
            format!("or give it back: omnirelay mesh peers uncordon {name}"),
        ],
        (State::Stuck, _) => vec![
            format!("see what holds it: omnirelay mesh ops get {id}"),
            format!("then somebody with mesh.admin closes it: omnirelay ops resolve {id}"),
        ],
        (State::Cancelled, Verb::PeersDrain) if !result.not_restored.is_empty() => {
            vec![format!("see where they are: omnirelay mesh peers workloads {name}")]
        }
        (State::Rejected | State::Expired, _) => vec![format!("see who decided: omnirelay mesh ops get {id}")],
        _ => Vec::new(),
    }
}

fn describe(left: &Left) -> String {
    let mut text = left.workload.clone();
    if let Some(at) = &left.at {
        text.push_str(&format!(" at {at}"));
    }
    if let Some(why) = &left.why {
        text.push_str(&format!(": {why}"));
    }
    if let Some(undo) = &left.undo {
        text.push_str(&format!("; {undo}"));
    }
    text
}

fn member<T: Default + for<'de> Deserialize<'de>>(
    result: &serde_json::Map<String, serde_json::Value>,
    name: &str,
) -> T {
    result.get(name).and_then(|value| serde_json::from_value(value.clone()).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::operation;
    use omnirelay_contract::problem::{Code, Problem};
    use serde_json::json;

    fn check(state: State, result: serde_json::Value, expected: &str) {
        let mut operation = operation(state);
        operation.result = Some(result);
        assert_eq!(lines(&operation, "web-07", Some(88_164), &Failed::default()).join("\n"), expected);
    }

    fn moved(count: usize) -> serde_json::Value {
        json!(vec![json!({"workload": "w", "service": "checkout", "from": "p-7", "to": "p-3"}); count])
    }

    #[test]
    fn the_last_line_says_what_came() {
        check(
            State::Succeeded,
            json!({"moved": moved(10)}),
            "SUCCEEDED 9c41e07b   web-07 drained, 10 moved   2m14s   audit #88164",
        );
        check(
            State::Succeeded,
            json!({"moved": moved(1), "forced": true, "mayRunTwice": [{"workload": "w-9", "why": "web-07 unreachable"}],
                "released": [{"workload": "w", "service": "s", "from": "p-7", "to": null}]}),
            "SUCCEEDED BY FORCE 9c41e07b   web-07 drained, 1 moved, 1 released   2m14s   audit #88164\n  \
             may run twice: w-9: web-07 unreachable",
        );
        check(
            State::Cancelled,
            json!({"restored": [{"workload": "w"}]}),
            "CANCELLED 9c41e07b   web-07 as before, difference: none   2m14s   audit #88164",
        );
        check(
            State::Cancelled,
            json!({"notRestored": [{"workload": "w-5", "at": "web-03", "why": "moved on since"}]}),
            "CANCELLED 9c41e07b   web-07 not as before, difference: 1   2m14s   audit #88164\n  \
             not restored: w-5 at web-03: moved on since\n  \
             what next: see where they are: omnirelay mesh peers workloads web-07",
        );
        check(
            State::Failed,
            json!({"moved": moved(4), "rest": [{"workload": "w-5", "why": "needs disk=nvme"}, {"workload": "w-6"}]}),
            "FAILED 9c41e07b   web-07 stays cordoned, 4 moved, 2 left   2m14s   audit #88164\n  \
             left: w-5: needs disk=nvme\n  \
             left: w-6\n  \
             what next: drain the rest: omnirelay drain web-07\n  \
             what next: or give it back: omnirelay mesh peers uncordon web-07",
        );
        check(
            State::Stuck,
            json!(null),
            "STUCK 9c41e07b   drain of web-07 stuck   2m14s   audit #88164\n  \
             what next: see what holds it: omnirelay mesh ops get 9c41e07b\n  \
             what next: then somebody with mesh.admin closes it: omnirelay ops resolve 9c41e07b",
        );
    }

    #[test]
    fn a_refusal_tells_why() {
        let mut refused = operation(State::Refused);
        refused.error = Some(Problem::new(Code::PeerHeld, "held by bo"));
        assert_eq!(
            lines(&refused, "web-07", None, &Failed::default()),
            ["REFUSED 9c41e07b   drain of web-07 refused   2m14s", "  why: held by bo (peer-held)"]
        );
    }

    #[test]
    fn a_drain_of_many_names_those_that_failed() {
        let mut many = operation(State::Failed);
        many.children = Some([("succeeded".to_owned(), 39), ("failed".to_owned(), 1)].into());
        many.result = Some(json!({"failed": [{"peer": "p-13", "state": "failed"}], "notStarted": ["p-14"],
            "skipped": [], "cancelled": [], "notRestored": []}));
        let failed = Failed { count: 1, names: vec!["web-13".to_owned()] };
        assert_eq!(
            lines(&many, "9c41e07b", None, &failed),
            [
                "FAILED 9c41e07b   39 succeeded, 1 failed (web-13), 1 not started   2m14s",
                "  retry: omnirelay ops retry 9c41e07b --failed"
            ]
        );
        many.state = State::Cancelled;
        many.result = Some(json!({"notRestored": [{"peer": "p-1", "why": "its drain had succeeded before the cancel",
            "undo": "omnirelay mesh peers uncordon p-1"}]}));
        assert_eq!(
            lines(&many, "9c41e07b", None, &Failed::default())[1],
            "  not restored: p-1: its drain had succeeded before the cancel; omnirelay mesh peers uncordon p-1"
        );
    }

    #[test]
    fn a_promotion_says_who_is_active_and_who_did_not_answer() {
        let mut promotion = operation(State::Succeeded);
        promotion.verb = Verb::ClustersPromote;
        promotion.result = Some(json!({"promoted": "ams1", "demoted": ["fra1"], "failoverVersion": 42, "forced": null,
            "notRestored": [], "unfenced": [{"peer": "web-3", "cluster": "fra1", "why": "unreachable", "told": false}]}));
        assert_eq!(
            lines(&promotion, "ams1", Some(88_240), &Failed::default()),
            [
                "SUCCEEDED 9c41e07b   ams1 active, fra1 passive, version 42   2m14s   audit #88240",
                "  not acknowledged: web-3: unreachable"
            ]
        );
    }

    #[test]
    fn a_member_of_an_unknown_shape_does_not_hide_the_others() {
        let mut forced = operation(State::Succeeded);
        forced.result = Some(json!({"forced": true, "moved": 10, "rest": null}));
        assert!(DrainResult::of(&forced).forced);
    }

    #[test]
    fn leaving_what_waits_says_who_may_decide() {
        let mut waiting = operation(State::AwaitingApproval);
        waiting.verb = Verb::ClustersPromote;
        waiting.approval = Some(crate::testing::gate(2));
        assert_eq!(
            detached(&waiting, "ams1", Leave::Asked),
            "The promotion waits for approval (scope mesh.approve, not ana): omnirelay ops approve 9c41e07b. \
             Follow: omnirelay ops attach ams1"
        );
    }

    #[test]
    fn leaving_says_how_to_come_back() {
        let say = |state, why| detached(&operation(state), "web-07", why);
        assert_eq!(
            say(State::Running, Leave::Interrupted),
            "Detached, the drain continues. Follow: omnirelay ops attach web-07"
        );
        assert_eq!(
            say(State::Unwinding, Leave::Waited),
            "Still running after --wait-timeout, the unwinding continues. Follow: omnirelay ops attach web-07"
        );
    }
}
