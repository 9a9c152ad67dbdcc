//! Answers that are not the thing itself: problems, and what turns an error into one.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use omnirelay_contract::problem::{Code, Problem};
use omnirelay_store::StoreError;

/// A request that is answered with a problem.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub problem: Box<Problem>,
    /// Seconds, for `Retry-After`.
    pub retry_after: Option<u32>,
}

impl Refusal {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Problem::new(code, detail).into()
    }

    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, detail)
    }

    /// Nothing can be said now. The same request with the same idempotency key finds out.
    pub fn unavailable() -> Self {
        Self::new(
            Code::Unavailable,
            "the record cannot be reached, so it is not known whether this was taken: repeat it with the same Idempotency-Key",
        )
        .retry_after(1)
    }

    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    #[must_use]
    pub fn at(mut self, path: &str) -> Self {
        if self.problem.instance.is_none() {
            self.problem.instance = Some(path.to_owned());
        }
        self
    }

    pub fn code(&self) -> Code {
        self.problem.code
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self { problem: Box::new(problem), retry_after: None }
    }
}

/// A read that failed. This is where it is handled, so this is where it is logged.
impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        if error.is_data() {
            tracing::error!(%error, "a read failed on what the record holds");
            Self::new(Code::Internal, "the record holds something that cannot be read: it is in the log of the ingress")
        } else {
            tracing::warn!(%error, "a read failed");
            Self::new(Code::Unavailable, "the record cannot be reached: try again").retry_after(1)
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.problem).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// A JSON body with a status.
pub fn json(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Serialises what is ours and always can be.
pub fn to_bytes(value: &impl serde::Serialize) -> Result<Vec<u8>, Refusal> {
    serde_json::to_vec(value).map_err(|error| {
        tracing::error!(%error, "an answer cannot be serialised");
        Refusal::new(Code::Internal, "the answer cannot be written: it is in the log of the ingress")
    })
}
