//! How an operation ended, in one line and what belongs below it. The last line says what came, and what to do next.

use omnirelay_contract::rest::Operation;
use omnirelay_contract::workflow::operation::{State, Verb};
use serde::Deserialize;

use crate::output::took;
use crate::resolve::short;

/// `result` of a drain. Every member may be missing: an operation that never began has none.
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
    pub workload: String,
    pub at: Option<String>,
    pub why: Option<String>,
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
            forced: member(result, "forced"),
        }
    }
}

/// The line that says how it ended, and the lines below it. `name` is the target's, `audit` the record's sequence.
pub fn lines(operation: &Operation, name: &str, audit: Option<u64>) -> Vec<String> {
    let result = DrainResult::of(operation);
    let id = short(operation.id);
    let mut head = format!("{} {id}   {}", word(operation.state, &result), summary(operation, name, &result));
    let begin = operation.started_at.unwrap_or(operation.created_at);
    if let Some(end) = operation.finished_at {
        head.push_str(&format!("   {}", took(begin, end)));
    }
    if let Some(seq) = audit {
        head.push_str(&format!("   audit #{seq}"));
    }
    let mut lines = vec![head];
    if let Some(error) = &operation.error {
        lines.push(format!("  why: {} ({})", error.detail, error.code));
    }
    lines.extend(result.not_restored.iter().map(|left| format!("  not restored: {}", describe(left))));
    lines.extend(result.rest.iter().map(|left| format!("  left: {}", describe(left))));
    lines.extend(result.may_run_twice.iter().map(|left| format!("  may run twice: {}", describe(left))));
    lines.extend(next(operation, name, &id, &result).into_iter().map(|next| format!("  what next: {next}")));
    lines
}

/// What is said when this side leaves and the operation goes on.
pub fn detached(operation: &Operation, name: &str, why: Leave) -> String {
    let what = match operation.state {
        State::Unwinding => "unwinding",
        _ => operation.verb.action(),
    };
    let how = match why {
        Leave::Interrupted | Leave::Asked => "Detached",
        Leave::Waited => "Still running after --wait-timeout",
    };
    format!("{how}, the {what} continues. Follow: omnirelay ops attach {name}")
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
        (State::Cancelled, _) => cancelled(operation, name, result),
        (State::Failed, Verb::PeersDrain) => {
            format!("{name} stays cordoned, {} moved, {} left", result.moved.len(), result.rest.len())
        }
        (State::Stuck, _) if !result.not_restored.is_empty() => {
            format!("{name}, {} could not be put back", result.not_restored.len())
        }
        (state, verb) => format!("{} of {name} {state}", verb.action()),
    }
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
            "then somebody with mesh.admin resolves it".to_owned(),
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
        assert_eq!(lines(&operation, "web-07", Some(88_164)).join("\n"), expected);
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
             what next: then somebody with mesh.admin resolves it",
        );
    }

    #[test]
    fn a_refusal_tells_why() {
        let mut refused = operation(State::Refused);
        refused.error = Some(Problem::new(Code::PeerHeld, "held by bo"));
        assert_eq!(
            lines(&refused, "web-07", None),
            ["REFUSED 9c41e07b   drain of web-07 refused   2m14s", "  why: held by bo (peer-held)"]
        );
    }

    #[test]
    fn a_member_of_an_unknown_shape_does_not_hide_the_others() {
        let mut forced = operation(State::Succeeded);
        forced.result = Some(json!({"forced": true, "moved": 10, "rest": null}));
        assert!(DrainResult::of(&forced).forced);
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
