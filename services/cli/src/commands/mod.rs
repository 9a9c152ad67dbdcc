//! One command, one file.

pub mod apply;
pub mod approvals;
pub mod audit;
pub mod auth;
pub mod bulk;
pub mod clusters;
pub mod conclude;
pub mod config;
pub mod config_edit;
pub mod confirmed;
pub mod context;
pub mod decide;
pub mod describe;
pub mod doctor;
pub mod drain;
pub mod events;
pub mod label;
pub mod ops;
pub mod peers;
pub mod promote;
pub mod retry;
pub mod status;
pub mod why;

use std::time::Duration;

use clap::Args;
use omnirelay_contract::workflow::rules::GateRequest;
use serde_json::Value;

use crate::client::Request;

/// How long a list may get.
#[derive(Debug, Clone, Args)]
pub struct LimitArgs {
    /// At most this many, however many pages that takes
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = limit)]
    pub limit: usize,
}

/// Why, and under which ticket.
#[derive(Debug, Clone, Default, Args)]
pub struct WhyArgs {
    /// Why, for the audit and for whoever finds the peer like this
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// The change ticket
    #[arg(long, value_name = "ID")]
    pub ticket: Option<String>,
}

/// Adds the filters that were given.
fn filtered(mut request: Request, filters: &[(&str, Option<String>)]) -> Request {
    for (name, value) in filters {
        if let Some(value) = value {
            request = request.query(name, value);
        }
    }
    request
}

/// A humantime duration as an argument.
fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it like 30m or 1h 15m"))
}

/// A word of an enum of the contract, with the known ones in the error.
fn word<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// Where an approval is asked for: `start`, `rest` or `cutover`, or JSON with what else is demanded.
fn gate(text: &str) -> Result<GateRequest, String> {
    let value = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))?
    } else {
        Value::String(text.to_owned())
    };
    GateRequest::parse(&value).map_err(|wrong| wrong.to_string())
}

fn limit(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|limit| *limit > 0).ok_or_else(|| "a number from 1".to_owned())
}
