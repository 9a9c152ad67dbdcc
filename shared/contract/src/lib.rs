//! What goes over a wire: REST bodies, problems, events, subjects, the agents' protocol, audit records.
//!
//! Outside clients are written against these shapes (`docs/` and the contract of the project); a change here is a
//! breaking change.

pub mod agent;
pub mod audit;
pub mod chain;
pub mod event;
pub mod grpc;
pub mod problem;
pub mod rest;
pub mod subject;

pub use omnirelay_workflow as workflow;
