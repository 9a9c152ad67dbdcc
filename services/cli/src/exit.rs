//! Exit codes, all of them, and what leads to each. Scripts switch on them, so a code never changes its meaning.

use std::process::ExitCode;

use omnirelay_contract::problem::{Code, Problem};
use omnirelay_contract::rest::Operation;
use omnirelay_contract::workflow::operation::State;

use crate::follow::outcome::DrainResult;

/// How a command ended. The number is the process's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or nothing to do.
    Succeeded = 0,
    /// An error of this side, a declined prompt, an internal error of the other side.
    Error = 1,
    /// The command line itself (clap ends with it too).
    Usage = 2,
    /// The API refused: any 4xx that has no code of its own here.
    Refused = 3,
    /// No token, a bad one, or one without the scope.
    Auth = 4,
    NotFound = 5,
    /// Nobody answered, or somebody answered that they cannot now.
    Unavailable = 6,
    /// This side went away (Ctrl-C, `--detach`, `--wait-timeout`); the operation goes on.
    Detached = 10,
    /// Cancelled, and everything is as before.
    Cancelled = 11,
    Failed = 12,
    /// Succeeded, but only by force at the deadline: something may run twice.
    Forced = 13,
    Stuck = 14,
    /// Waits for approvers, and `--no-wait` was given.
    AwaitingApproval = 15,
    /// An approver said no, or nobody said yes in time.
    Rejected = 16,
    /// Cancelled, and something could not be put back.
    NotRestored = 17,
}

impl Exit {
    pub const ALL: &'static [Exit] = &[
        Exit::Succeeded,
        Exit::Error,
        Exit::Usage,
        Exit::Refused,
        Exit::Auth,
        Exit::NotFound,
        Exit::Unavailable,
        Exit::Detached,
        Exit::Cancelled,
        Exit::Failed,
        Exit::Forced,
        Exit::Stuck,
        Exit::AwaitingApproval,
        Exit::Rejected,
        Exit::NotRestored,
    ];

    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What the code means, for people.
    pub const fn reason(self) -> &'static str {
        match self {
            Exit::Succeeded => "succeeded",
            Exit::Error => "error, or the prompt was declined",
            Exit::Usage => "usage",
            Exit::Refused => "refused",
            Exit::Auth => "not authenticated or not allowed",
            Exit::NotFound => "not found",
            Exit::Unavailable => "unavailable",
            Exit::Detached => "detached, the operation is still running",
            Exit::Cancelled => "cancelled and restored",
            Exit::Failed => "failed",
            Exit::Forced => "succeeded by force at the deadline",
            Exit::Stuck => "stuck",
            Exit::AwaitingApproval => "awaiting approval",
            Exit::Rejected => "rejected or expired",
            Exit::NotRestored => "cancelled, not everything restored",
        }
    }

    /// What an operation that has ended ends the command with. A live one has been left: `Detached`, or
    /// `AwaitingApproval` where it waits for people.
    pub fn of_operation(operation: &Operation) -> Exit {
        let result = DrainResult::of(operation);
        match operation.state {
            State::Succeeded if result.forced => Exit::Forced,
            State::Succeeded => Exit::Succeeded,
            State::Refused => Exit::Refused,
            State::Rejected | State::Expired => Exit::Rejected,
            State::Cancelled if result.not_restored.is_empty() => Exit::Cancelled,
            State::Cancelled => Exit::NotRestored,
            State::Failed => Exit::Failed,
            State::Stuck => Exit::Stuck,
            State::AwaitingApproval => Exit::AwaitingApproval,
            State::Submitted | State::Queued | State::Running | State::Unwinding => Exit::Detached,
        }
    }

    pub fn of_problem(problem: &Problem) -> Exit {
        match problem.code {
            Code::Unauthenticated | Code::InsufficientScope | Code::SelfApproval => Exit::Auth,
            Code::NotFound => Exit::NotFound,
            Code::BacklogFull | Code::Unavailable => Exit::Unavailable,
            _ => Exit::of_status(problem.status),
        }
    }

    /// For answers without a problem in them: a proxy's, for instance.
    pub const fn of_status(status: u16) -> Exit {
        match status {
            200..=299 => Exit::Succeeded,
            401 | 403 => Exit::Auth,
            404 => Exit::NotFound,
            400..=499 => Exit::Refused,
            502..=504 => Exit::Unavailable,
            _ => Exit::Error,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::operation;
    use serde_json::json;

    #[test]
    fn every_state_has_its_code() {
        let mut seen = Vec::new();
        for (state, result, code) in [
            (State::Submitted, json!(null), 10),
            (State::AwaitingApproval, json!(null), 15),
            (State::Queued, json!(null), 10),
            (State::Running, json!(null), 10),
            (State::Unwinding, json!(null), 10),
            (State::Succeeded, json!(null), 0),
            (State::Succeeded, json!({"forced": false}), 0),
            (State::Succeeded, json!({"forced": true}), 13),
            (State::Refused, json!(null), 3),
            (State::Rejected, json!(null), 16),
            (State::Expired, json!(null), 16),
            (State::Cancelled, json!(null), 11),
            (State::Cancelled, json!({"notRestored": []}), 11),
            (State::Cancelled, json!({"notRestored": [{"workload": "w-1", "at": "web-03", "why": "gone"}]}), 17),
            (State::Failed, json!({"rest": [{"workload": "w-1", "why": "deadline"}]}), 12),
            (State::Stuck, json!(null), 14),
        ] {
            let mut operation = operation(state);
            operation.result = Some(result);
            assert_eq!(Exit::of_operation(&operation).code(), code, "{state} {:?}", operation.result);
            seen.push(state);
        }
        assert!(State::ALL.iter().all(|state| seen.contains(state)));
    }

    #[test]
    fn every_problem_code_has_its_exit() {
        for code in Code::ALL {
            let expected = match code.http_status() {
                401 | 403 => 4,
                404 => 5,
                400..=499 => 3,
                503 => 6,
                _ => 1,
            };
            assert_eq!(Exit::of_problem(&Problem::new(*code, "")).code(), expected, "{code}");
        }
    }

    #[test]
    fn codes_are_unique() {
        let mut codes: Vec<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        codes.dedup();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 15, 16, 17]);
    }
}
