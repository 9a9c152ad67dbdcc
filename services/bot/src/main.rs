//! The bot as a program: arguments, logs, signals.

use std::process::ExitCode;

use clap::Parser;
use omnirelay_approval_bot::{BotArgs, run};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Approve, reject and stage changes of a mesh by a policy in a file.
#[derive(Debug, Parser)]
#[command(name = "omnirelay-approval-bot", version)]
struct Args {
    #[command(flatten)]
    bot: BotArgs,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_target(false).with_ansi(false).with_writer(std::io::stderr).init();
    let bot = async {
        // Nobody else in this process has installed one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let cancel = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            cancel.cancel();
        });
        run(Args::parse().bot, stop).await
    };
    match bot.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
