//! The audit: every event becomes a record of a tamper-evident log, once.
//!
//! The story, in the order of the files:
//!
//! 1. [`source`]: events come from the stream, as fast as they may. The stream is a convenience: what it does not bring, or
//!    brings twice or out of order, changes nothing.
//! 2. [`appender`]: under the lock of the chain's head, known positions are dropped, missing ones read from the event log,
//!    the records hashed, inserted and committed. Only then is the stream's cursor moved.
//! 3. [`mirror`] and [`log_file`]: the records are appended to files, where the database's owner cannot rewrite them. What a
//!    crash kept from a file is filled in from the database.
//! 4. [`checkpoints`]: now and then the end of the chain is signed, for the database, the files and the bus.
//! 5. [`verify`]: reads a log again, and names the first record that is not what was written.
//!
//! Several audit services may run at once: each finds out under the lock what the others have done.

mod appender;
mod checkpoints;
mod log_file;
mod mirror;
mod service;
mod source;
#[cfg(test)]
mod tests;
mod verify;

pub use ed25519_dalek::{SigningKey, VerifyingKey};
pub use log_file::log_files;
pub use service::{AuditOptions, CheckpointEvery, run};
pub use verify::{VerifyError, verify_database, verify_files};
