//! The pure heart of OmniRelay: resources, operations and the workflows as step functions.
//!
//! Nothing here does any I/O, reads a clock or a random source, or knows of SQL, NATS or tokio. A workflow is
//! `step(state, world, input, now) -> Step`: what changes, which commands go to agents and what is told to the
//! world are data, carried out by the worker in one transaction. Start reading at [`drain`].

pub mod budget;
pub mod bulk;
pub mod cordon;
pub mod drain;
pub mod gate;
mod id;
pub mod operation;
pub mod patch;
pub mod placement;
pub mod promote;
pub mod rejection;
pub mod resource;
pub mod rules;
pub mod selector;
pub mod settings;

pub use id::{ClusterId, CommandId, HoldId, InvalidId, OperationId, PeerId, WorkloadId};
pub use jiff::Timestamp;
pub use rejection::Rejected;
