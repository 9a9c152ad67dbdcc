//! Errors as clients see them: RFC 9457 problems, from one enum of codes.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use omnirelay_workflow::Rejected;

macro_rules! codes {
    ($($variant:ident = $word:literal, $status:literal, $title:literal;)+) => {
        /// Every code that an answer can carry. One exhaustive mapping to HTTP; clients switch on the word.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code { $(#[serde(rename = $word)] $variant),+ }

        impl Code {
            pub const ALL: &'static [Code] = &[$(Code::$variant),+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $word),+ }
            }

            pub const fn http_status(self) -> u16 {
                match self { $(Code::$variant => $status),+ }
            }

            pub const fn title(self) -> &'static str {
                match self { $(Code::$variant => $title),+ }
            }

            pub fn parse(word: &str) -> Option<Code> {
                match word { $($word => Some(Code::$variant),)+ _ => None }
            }
        }
    };
}

codes! {
    InvalidArgument = "invalid-argument", 400, "Invalid request";
    Unauthenticated = "unauthenticated", 401, "Not authenticated";
    InsufficientScope = "insufficient-scope", 403, "Insufficient scope";
    SelfApproval = "self-approval", 403, "Nobody approves their own change";
    NotFound = "not-found", 404, "Not found";
    MethodNotAllowed = "method-not-allowed", 405, "Method not allowed";
    LastActiveCluster = "last-active-cluster", 409, "The last active cluster";
    OperationInProgress = "operation-in-progress", 409, "Another operation is in progress";
    TooLate = "too-late", 409, "Too late";
    PeerHeld = "peer-held", 409, "Held by others";
    AlreadyDecided = "already-decided", 409, "Already decided";
    InvalidState = "invalid-state", 409, "Invalid state";
    DigestMismatch = "digest-mismatch", 409, "Digest mismatch";
    NoCapacity = "no-capacity", 409, "No capacity";
    RevisionMismatch = "revision-mismatch", 412, "Revision mismatch";
    PayloadTooLarge = "payload-too-large", 413, "Payload too large";
    UnsupportedMediaType = "unsupported-media-type", 415, "Unsupported media type";
    InvalidSetting = "invalid-setting", 422, "Invalid setting";
    IdempotencyKeyReused = "idempotency-key-reused", 422, "Idempotency key reused";
    TicketRequired = "ticket-required", 422, "Change ticket required";
    PreconditionRequired = "precondition-required", 428, "Precondition required";
    ConfirmationRequired = "confirmation-required", 428, "Confirmation required";
    RateLimited = "rate-limited", 429, "Too many requests";
    Internal = "internal", 500, "Internal error";
    BacklogFull = "backlog-full", 503, "Backlog full";
    Unavailable = "unavailable", 503, "Unavailable";
}

impl Code {
    /// The code's gRPC status: the one mapping, as `http_status` is for HTTP. Which code it was is in `ErrorInfo.reason`.
    pub const fn grpc_code(self) -> tonic::Code {
        match self {
            Code::InvalidArgument
            | Code::PayloadTooLarge
            | Code::UnsupportedMediaType
            | Code::InvalidSetting
            | Code::IdempotencyKeyReused
            | Code::TicketRequired => tonic::Code::InvalidArgument,
            Code::Unauthenticated => tonic::Code::Unauthenticated,
            Code::InsufficientScope | Code::SelfApproval => tonic::Code::PermissionDenied,
            Code::NotFound => tonic::Code::NotFound,
            Code::MethodNotAllowed => tonic::Code::Unimplemented,
            Code::LastActiveCluster
            | Code::OperationInProgress
            | Code::TooLate
            | Code::PeerHeld
            | Code::AlreadyDecided
            | Code::InvalidState
            | Code::NoCapacity
            | Code::PreconditionRequired
            | Code::ConfirmationRequired => tonic::Code::FailedPrecondition,
            // What was read has changed since: read again.
            Code::RevisionMismatch | Code::DigestMismatch => tonic::Code::Aborted,
            Code::RateLimited => tonic::Code::ResourceExhausted,
            Code::Internal => tonic::Code::Internal,
            Code::BacklogFull | Code::Unavailable => tonic::Code::Unavailable,
        }
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// An RFC 9457 problem. `detail` says what to do; `extra` holds members of single codes (`plan`, `operation`,
/// `inverse`, `revision`, `owners`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    pub detail: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    pub code: Code,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:omnirelay:problem:{code}"),
            title: code.title().to_owned(),
            status: code.http_status(),
            detail: detail.into(),
            instance: None,
            code,
            extra: Map::new(),
        }
    }

    /// Adds a member of its own.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Serialize) -> Self {
        let value = serde_json::to_value(value).unwrap_or(Value::Null);
        self.extra.insert(member.to_owned(), value);
        self
    }

    #[must_use]
    pub fn at(mut self, instance: impl Into<String>) -> Self {
        self.instance = Some(instance.into());
        self
    }
}

impl From<&Rejected> for Problem {
    fn from(rejected: &Rejected) -> Self {
        let detail = rejected.to_string();
        match rejected {
            Rejected::PeerHeld { owners, .. } => Problem::new(Code::PeerHeld, detail).with("owners", owners),
            Rejected::OperationInProgress { operation, .. } => {
                Problem::new(Code::OperationInProgress, detail).with("operation", operation)
            }
            Rejected::TooLate { operation, .. } => Problem::new(Code::TooLate, detail).with("operation", operation),
            Rejected::InvalidState { operation, .. } => {
                Problem::new(Code::InvalidState, detail).with("operation", operation)
            }
            Rejected::LastActiveCluster { cluster } => {
                Problem::new(Code::LastActiveCluster, detail).with("cluster", cluster)
            }
            Rejected::NoCapacity { cluster, .. } => Problem::new(Code::NoCapacity, detail).with("cluster", cluster),
            Rejected::LagTooHigh { cluster, lag_ms, limit_ms } => Problem::new(Code::InvalidState, detail)
                .with("cluster", cluster)
                .with("lagMs", lag_ms)
                .with("limitMs", limit_ms),
            Rejected::ClusterInTransition { cluster, state } => {
                Problem::new(Code::InvalidState, detail).with("cluster", cluster).with("state", state)
            }
            Rejected::UnknownCluster { cluster } => Problem::new(Code::NotFound, detail).with("cluster", cluster),
            Rejected::RevisionMismatch { revision, .. } => {
                let problem = Problem::new(Code::RevisionMismatch, detail);
                match revision {
                    Some(revision) => problem.with("revision", revision),
                    None => problem,
                }
            }
            Rejected::InvalidChange { .. } => Problem::new(Code::InvalidArgument, detail),
            Rejected::NotPossible { .. } => Problem::new(Code::InvalidState, detail),
            Rejected::InvalidSetting { key, rule, .. } => {
                Problem::new(Code::InvalidSetting, detail).with("key", key).with("rule", rule)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_survives_the_wire() {
        let problem = Problem::new(Code::PeerHeld, "held").with("owners", ["bo"]).at("/control/peers/edge-7:uncordon");
        let text = serde_json::to_string(&problem).expect("json");
        assert!(text.contains("\"code\":\"peer-held\"") && text.contains("\"status\":409"), "{text}");
        assert_eq!(serde_json::from_str::<Problem>(&text).expect("back"), problem);
    }

    #[test]
    fn codes_are_unique_and_parse() {
        for code in Code::ALL {
            assert_eq!(Code::parse(code.as_str()), Some(*code));
        }
    }
}
