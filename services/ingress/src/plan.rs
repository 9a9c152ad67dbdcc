//! What a mutation would do: pure functions of the registry as it is read, with the worker's own decisions.

pub mod cluster;
pub mod config;
pub mod drain;
