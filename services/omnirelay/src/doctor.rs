//! `omnirelay doctor`: what this machine has for a stack of its own, then whether the API, the token and the bus work.

use std::process::ExitCode;

use omnirelay_cli::GlobalArgs;
use omnirelay_devstack::Devstack;

pub async fn run(global: GlobalArgs) -> ExitCode {
    let findings = tokio::task::spawn_blocking(Devstack::check).await.unwrap_or_default();
    for finding in &findings {
        println!("{finding}");
    }
    omnirelay_cli::run(omnirelay_cli::Command::Doctor, global).await
}
