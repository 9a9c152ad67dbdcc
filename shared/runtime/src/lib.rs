//! What every service needs around its own work: configuration, telemetry, shutdown, retry, authentication, trace context.
//!
//! Nothing here knows of a route, a statement or a workflow's step.

pub mod auth;
pub mod config;
pub mod retry;
pub mod shutdown;
pub mod spans;
pub mod telemetry;
pub mod trace;
