//! The agent: runs beside peers, tells what runs there, and moves workloads when an operation asks.
//!
//! ```text
//! commands (NATS) → core: journal, lanes → driver (executable, process, simple, simulated)
//!                         └→ reports (JetStream)          └→ heartbeats (NATS)
//! ```
//!
//! Start reading at [`core`], then [`journal`] for what must never be forgotten, then [`driver`]. [`fleet`] runs thousands of
//! simulated peers over the same code; [`check`] tells a driver's author what is wrong with it.

mod agent;
mod args;
pub mod check;
mod commands;
pub mod config;
mod core;
pub mod driver;
pub mod fleet;
mod heartbeat;
pub mod journal;
mod lag;
mod link;
mod observe;
mod reports;
mod state_file;
mod traces;

use tokio_util::sync::CancellationToken;

pub use agent::run_agent;
pub use args::{AgentArgs, AgentCommand, CheckDriverArgs, RunArgs};
pub use check::check_driver_cli;
pub use state_file::StateFileError;

/// `omnirelay agent`: runs until `shutdown`, or checks a driver and returns an error when it is not as it should be.
pub async fn run(args: AgentArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    match &args.command {
        Some(AgentCommand::CheckDriver(check)) => check_driver_cli(check).await,
        None => run_agent(args.run.config()?, shutdown).await,
    }
}
