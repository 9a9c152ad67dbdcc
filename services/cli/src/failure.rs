//! What a command that does not work out tells: one style, `error: <what>` and below it what to do.

use omnirelay_contract::problem::{Code, Problem};
use omnirelay_contract::rest::Inverse;

use crate::client::ClientError;
use crate::exit::Exit;
use crate::resolve;

/// The end of a command that could not do what it was asked to.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{what}")]
pub struct Failure {
    pub exit: Exit,
    /// One sentence without a full stop.
    pub what: String,
    /// What to do about it, one line each.
    pub hints: Vec<String>,
}

impl Failure {
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), hints: Vec::new() }
    }

    pub fn error(what: impl Into<String>) -> Self {
        Self::new(Exit::Error, what)
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// As printed on stderr.
    pub fn text(&self) -> String {
        let mut text = format!("error: {}\n", self.what);
        for hint in self.hints.iter().flat_map(|hint| hint.lines()) {
            text.push_str("  ");
            text.push_str(hint);
            text.push('\n');
        }
        text
    }

    /// A problem of the API: title, code, detail, and the command that helps where one is known.
    pub fn of_problem(problem: &Problem) -> Self {
        let mut failure = Failure::new(
            Exit::of_problem(problem),
            format!("{} ({}, {})", problem.title.to_lowercase(), problem.code, problem.status),
        );
        if !problem.detail.is_empty() {
            failure.hints.push(problem.detail.clone());
        }
        match problem.code {
            Code::Unauthenticated => failure.hint("see what token you have: omnirelay auth whoami"),
            Code::OperationInProgress => match operation_of(problem) {
                Some(tail) => failure.hint(format!("follow it: omnirelay ops attach {tail}")),
                None => failure,
            },
            Code::TooLate => match inverse_of(problem) {
                Some(command) => failure.hint(format!("to undo it: {command}")),
                None => failure,
            },
            Code::RevisionMismatch => {
                failure.hint("somebody else changed it meanwhile: look at it and repeat the command")
            }
            Code::TicketRequired => failure.hint("name the ticket: --ticket ID"),
            Code::SelfApproval => failure.hint("see who may decide: omnirelay mesh approvals list"),
            _ => failure,
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match &error {
            ClientError::Problem(problem) => Failure::of_problem(problem),
            ClientError::Unreachable { .. } => Failure::new(Exit::Unavailable, error.to_string())
                .hint("check the address (omnirelay context show) and that the service runs (omnirelay doctor)"),
            ClientError::Answer { status, .. } => Failure::new(Exit::of_status(*status), error.to_string()).hint(
                "something between here and OmniRelay may have answered: check the address (omnirelay context show)",
            ),
            ClientError::Unreadable { .. } => {
                Failure::error(error.to_string()).hint("client and server may be of different versions")
            }
            ClientError::Setup(_) | ClientError::Record { .. } => Failure::error(error.to_string()),
        }
    }
}

fn operation_of(problem: &Problem) -> Option<String> {
    let id = problem.extra.get("operation")?.as_str()?;
    Some(resolve::short(id.parse().ok()?))
}

/// The inverse of what can no longer be cancelled, as a command of this CLI, else as the request it is.
fn inverse_of(problem: &Problem) -> Option<String> {
    let inverse: Inverse = serde_json::from_value(problem.extra.get("inverse")?.clone()).ok()?;
    Some(
        command_of_inverse(&inverse).unwrap_or_else(|| format!("{} {} {}", inverse.method, inverse.path, inverse.body)),
    )
}

/// A prepared request as the command that makes it, where there is one.
pub fn command_of_inverse(inverse: &Inverse) -> Option<String> {
    let rest = inverse.path.strip_prefix("/control/")?;
    let (target, verb) = rest.rsplit_once(':')?;
    let (resource, id) = target.split_once('/').unwrap_or((target, ""));
    let text = |name: &str| inverse.body.get(name).map(crate::diff::plain);
    match (resource, verb) {
        ("peers", "cordon" | "uncordon" | "drain") if !id.is_empty() => {
            Some(format!("omnirelay mesh peers {verb} {id}"))
        }
        ("clusters", "demote") => Some(format!("omnirelay mesh clusters demote {id}")),
        ("clusters", "promote") => {
            let demote = inverse.body.get("demote").and_then(|demote| demote.as_array()).into_iter().flatten();
            let demote: String = demote.map(|id| format!(" --demote {}", crate::diff::plain(id))).collect();
            Some(format!("omnirelay promote {id}{demote}"))
        }
        ("config", "rollback") => Some(format!("omnirelay mesh config rollback {}", text("revision")?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(problem: &Problem, text: &str) {
        assert_eq!(Failure::of_problem(problem).text(), text);
    }

    #[test]
    fn problems_say_what_to_do() {
        check(
            &Problem::new(Code::OperationInProgress, "peers/web-07 is in a drain")
                .with("operation", "0193d1f0-0000-7000-8000-00009c41e07b"),
            "error: another operation is in progress (operation-in-progress, 409)\n  peers/web-07 is in a drain\n  follow it: omnirelay ops attach 9c41e07b\n",
        );
        check(
            &Problem::new(Code::TooLate, "already succeeded")
                .with("inverse", json!({"method": "POST", "path": "/control/peers/web-07:uncordon", "body": {}})),
            "error: too late (too-late, 409)\n  already succeeded\n  to undo it: omnirelay mesh peers uncordon web-07\n",
        );
        check(
            &Problem::new(Code::TooLate, "cut over").with(
                "inverse",
                json!({"method": "POST", "path": "/control/clusters/fra1:promote", "body": {"demote": ["ams1"]}}),
            ),
            "error: too late (too-late, 409)\n  cut over\n  to undo it: omnirelay promote fra1 --demote ams1\n",
        );
        check(&Problem::new(Code::NotFound, "no peer web-99"), "error: not found (not-found, 404)\n  no peer web-99\n");
    }
}
