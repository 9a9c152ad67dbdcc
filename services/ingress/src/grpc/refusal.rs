//! A problem as a gRPC status: one code, and the problem itself in the details.
//!
//! Details travel in a trailer, and clients bound those (8 KiB is usual), so a plan that is too large for it is shortened
//! and says what it left out; `validate_only` answers with the whole plan as a message.

use std::collections::BTreeMap;

use http::{HeaderMap, StatusCode, header};
use omnirelay_contract::grpc::json::{Kind, Value};
use omnirelay_contract::grpc::status::{Delay, ErrorInfo, RetryInfo, Status as RpcStatus};
use omnirelay_contract::grpc::{DOMAIN, v1};
use omnirelay_contract::problem::{Code, Problem};
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::{Code as RpcCode, Status};

/// In bytes; in a trailer it is a third more.
const MAX_DETAILS: usize = 4 * 1024;
/// Of one member in `ErrorInfo.metadata`; a longer one is only in the problem.
const MAX_METADATA_BYTES: usize = 200;
/// Of the message, which is a header of its own.
const MAX_DETAIL_CHARS: usize = 600;

/// The status of an answer that is not a success.
pub fn status(http: StatusCode, headers: &HeaderMap, body: &[u8]) -> Status {
    let Ok(problem) = serde_json::from_slice::<Problem>(body) else {
        tracing::error!(status = http.as_u16(), "the router answered without a problem");
        return internal("the answer was no problem of ours");
    };
    let retry_after = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
    of_problem(&problem, retry_after)
}

/// A request that cannot even be asked.
pub fn invalid(detail: &str) -> Status {
    of_problem(&Problem::new(Code::InvalidArgument, detail), None)
}

pub fn internal(detail: &str) -> Status {
    of_problem(&Problem::new(Code::Internal, detail), None)
}

/// The status of a problem.
pub fn of_problem(problem: &Problem, retry_after: Option<u32>) -> Status {
    let mut metadata = BTreeMap::from([("status".to_owned(), problem.status.to_string())]);
    for (name, value) in &problem.extra {
        let text = match value {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Number(number) => number.to_string(),
            serde_json::Value::Bool(flag) => flag.to_string(),
            _ => continue,
        };
        if text.len() <= MAX_METADATA_BYTES {
            metadata.insert(name.clone(), text);
        }
    }
    let read = serde_json::to_value(problem).and_then(serde_json::from_value::<v1::Problem>);
    let detail = read.inspect_err(|error| tracing::error!(%error, "a problem is not what the contract says")).ok();
    build(problem.code.grpc_code(), problem.code.as_str(), &problem.detail, metadata, retry_after, detail)
}

/// A status whose reason is none of a problem's codes: the end of a stream.
pub fn of_reason(code: RpcCode, reason: &str, detail: &str, metadata: BTreeMap<String, String>) -> Status {
    build(code, reason, detail, metadata, None, None)
}

fn build(
    code: RpcCode,
    reason: &str,
    detail: &str,
    metadata: BTreeMap<String, String>,
    retry_after: Option<u32>,
    problem: Option<v1::Problem>,
) -> Status {
    let message: String = detail.chars().take(MAX_DETAIL_CHARS).collect();
    let info = ErrorInfo { reason: reason.to_owned(), domain: DOMAIN.to_owned(), metadata };
    let mut status = RpcStatus { code: code as i32, message: message.clone(), details: Vec::new() }.with(&info);
    let mut headers = MetadataMap::new();
    if let Some(seconds) = retry_after {
        status = status.with(&RetryInfo { retry_delay: Some(Delay { seconds: i64::from(seconds), nanos: 0 }) });
        headers.insert("retry-after", seconds.into());
    }
    if let Some(problem) = problem {
        let room = MAX_DETAILS.saturating_sub(status.encoded_len());
        if let Some(problem) = shortened(problem, room) {
            status = status.with(&problem);
        }
    }
    Status::with_details_and_metadata(code, message, status.encode_to_vec().into(), headers)
}

/// The problem in `room` bytes. First the lists of a plan's impact go, then all of its impact, then the rest.
fn shortened(mut problem: v1::Problem, room: usize) -> Option<v1::Problem> {
    let steps: [fn(&mut v1::Problem); 5] = [
        |_| {},
        |problem| {
            if let Some(Kind::Struct(impact)) =
                problem.plan.as_mut().and_then(|plan| plan.impact.as_mut()?.kind.as_mut())
            {
                let large = |value: &Value| matches!(value.kind, Some(Kind::List(_) | Kind::Struct(_)));
                let names: Vec<String> =
                    impact.fields.iter().filter(|(_, value)| large(value)).map(|(name, _)| name.clone()).collect();
                impact.fields.retain(|_, value| !large(value));
                impact.fields.insert("omitted".to_owned(), serde_json::Value::from(names).into());
            }
        },
        |problem| {
            if let Some(plan) = &mut problem.plan {
                plan.impact = None;
                plan.blockers.clear();
            }
        },
        |problem| problem.members.clear(),
        |problem| problem.detail = problem.detail.chars().take(MAX_DETAIL_CHARS).collect(),
    ];
    for step in steps {
        step(&mut problem);
        // The type's URL and the tags around it are some sixty bytes.
        if problem.encoded_len() + 64 <= room {
            return Some(problem);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn details(problem: &Problem) -> RpcStatus {
        let status = of_problem(problem, Some(2));
        assert_eq!(status.code(), problem.code.grpc_code());
        RpcStatus::of(&status).expect("details")
    }

    #[test]
    fn every_code_is_the_reason_of_its_status() {
        for code in Code::ALL {
            let details = details(&Problem::new(*code, "no").with("revision", 7).with("owners", ["bo"]));
            let info: ErrorInfo = details.detail().expect("an ErrorInfo");
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (code.as_str(), "omnirelay"));
            assert_eq!(info.metadata.get("revision").map(String::as_str), Some("7"));
            let retry: RetryInfo = details.detail().expect("a RetryInfo");
            assert_eq!(retry.retry_delay.map(|delay| delay.seconds), Some(2));
            let problem: v1::Problem = details.detail().expect("the problem");
            assert_eq!((problem.code.as_str(), problem.status), (code.as_str(), u32::from(code.http_status())));
            assert!(problem.members.contains_key("owners"));
        }
    }

    #[test]
    fn a_plan_that_is_too_large_keeps_its_token_and_its_numbers() {
        let plan = |moves: usize| {
            json!({
                "impact": {"workloads": moves, "moves": vec!["a rather long name of a workload"; moves]},
                "blockers": [], "approval": null, "digest": "d",
                "confirmation": {"token": "t", "expiresAt": "2026-01-01T00:00:00Z"},
            })
        };
        for (moves, whole) in [(3, true), (5_000, false)] {
            let problem = Problem::new(Code::ConfirmationRequired, "confirm").with("plan", plan(moves));
            let details = details(&problem);
            assert!(details.encoded_len() <= MAX_DETAILS);
            let plan = details.detail::<v1::Problem>().and_then(|problem| problem.plan).expect("a plan");
            assert_eq!(plan.confirmation.map(|confirmation| confirmation.token).as_deref(), Some("t"));
            let impact = serde_json::to_value(plan.impact).expect("JSON");
            assert_eq!(impact["workloads"], moves);
            assert_eq!(impact["moves"].is_array(), whole);
            assert_eq!(impact["omitted"] == json!(["moves"]), !whole);
        }
    }

    #[test]
    fn a_text_without_end_is_cut() {
        let problem = Problem::new(Code::InvalidArgument, "x".repeat(100_000)).with("all", "y".repeat(100_000));
        let status = of_problem(&problem, None);
        assert_eq!(status.message().len(), MAX_DETAIL_CHARS);
        assert!(status.details().len() <= MAX_DETAILS, "{}", status.details().len());
    }
}
