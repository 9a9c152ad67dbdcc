//! What `grpc-status-details-bin` holds: `google.rpc.Status` and the details that we put into it.

use std::collections::BTreeMap;

use prost::Message;

use super::v1::Problem;

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
pub struct Status {
    #[prost(int32, tag = "1")]
    pub code: i32,
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub struct Any {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// `google.rpc.ErrorInfo`: `reason` is the problem's code.
#[derive(Clone, PartialEq, Message)]
pub struct ErrorInfo {
    #[prost(string, tag = "1")]
    pub reason: String,
    #[prost(string, tag = "2")]
    pub domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    pub metadata: BTreeMap<String, String>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
pub struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    pub retry_delay: Option<Delay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
pub struct Delay {
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// A message that goes into an [`Any`].
pub trait Detail: Message + Default {
    const TYPE_URL: &'static str;
}

impl Detail for ErrorInfo {
    const TYPE_URL: &'static str = "type.googleapis.com/google.rpc.ErrorInfo";
}

impl Detail for RetryInfo {
    const TYPE_URL: &'static str = "type.googleapis.com/google.rpc.RetryInfo";
}

impl Detail for Problem {
    const TYPE_URL: &'static str = "type.googleapis.com/omnirelay.control.v1.Problem";
}

impl Status {
    /// The first detail of this type.
    pub fn detail<D: Detail>(&self) -> Option<D> {
        let any = self.details.iter().find(|any| any.type_url == D::TYPE_URL)?;
        D::decode(any.value.as_slice()).ok()
    }

    #[must_use]
    pub fn with<D: Detail>(mut self, detail: &D) -> Self {
        self.details.push(Any { type_url: D::TYPE_URL.to_owned(), value: detail.encode_to_vec() });
        self
    }

    /// The details of a status that was received.
    pub fn of(status: &tonic::Status) -> Option<Self> {
        if status.details().is_empty() { None } else { Self::decode(status.details()).ok() }
    }
}
