//! The whole product, tried from outside: real processes of the one binary, real servers, the public API and the bus.
//!
//! A test starts a [`Stack`] (`omnirelay dev` as a process), takes a [`Mesh`] of it for itself (a cluster nobody else of the
//! file touches), asks through an [`Api`], listens with [`Sse`] and [`Listener`], types with [`Cli`] and [`Terminal`], and
//! compares a [`Registry`] before and after. Conditions are waited for by [`eventually`]; nothing else sleeps.

mod api;
mod audit;
mod binary;
mod bus;
mod cli;
mod collector;
mod door;
mod events;
pub mod failover;
mod fleet;
mod guardrails;
mod identity;
mod mesh;
mod process;
mod registry;
mod servers;
mod sse;
mod stack;
mod wait;

pub use api::{Answer, Api, Ask};
pub use audit::{records, records_of};
pub use binary::{binary, bot_binary};
pub use bus::{Listener, fault, positions_in_stream};
pub use cli::{Cli, Output, Terminal};
pub use collector::{Collector, Span};
pub use door::{Call, Door, Protocol, Reply};
pub use events::{Event, gap_free, owners, settled_moves};
pub use fleet::{Commands, lag, shows_role};
pub use guardrails::{Sampler, most_children, most_out};
pub use mesh::Mesh;
pub use omnirelay_runtime::auth::Scope;
pub use process::{Process, alive, children_of, processes_that_mention};
pub use registry::Registry;
pub use servers::Server;
pub use sse::Sse;
pub use stack::{Role, Services, Stack, StackOptions};
pub use wait::{PATIENCE, eventually, eventually_ok};
