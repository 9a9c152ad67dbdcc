//! What a command that does not work out tells: one style, `error: <what>` and below it what to do.

use omnirelay_contract::problem::{Code, Problem};

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
    let inverse: omnirelay_contract::rest::Inverse =
        serde_json::from_value(problem.extra.get("inverse")?.clone()).ok()?;
    let command = inverse.path.strip_prefix("/control/peers/").and_then(|rest| {
        let (peer, verb) = rest.rsplit_once(':')?;
        matches!(verb, "cordon" | "uncordon" | "drain").then(|| format!("omnirelay mesh peers {verb} {peer}"))
    });
    Some(command.unwrap_or_else(|| format!("{} {} {}", inverse.method, inverse.path, inverse.body)))
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
        check(&Problem::new(Code::NotFound, "no peer web-99"), "error: not found (not-found, 404)\n  no peer web-99\n");
    }
}
