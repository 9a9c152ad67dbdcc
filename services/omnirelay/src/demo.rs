//! `omnirelay demo`.
use std::process::ExitCode;
#[derive(Debug, clap::Args)]
pub struct DemoArgs {}
pub async fn run(_args: DemoArgs) -> ExitCode {
    ExitCode::FAILURE
}
