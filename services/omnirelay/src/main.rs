//! The one binary: parses, composes the services, nothing else.

mod bench;
mod control;
mod demo;
mod dev;
mod doctor;
mod identity;
mod metrics;
mod serve;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use omnirelay_agent::AgentArgs;
use omnirelay_cli::{CompletionsArgs, GlobalArgs};
use omnirelay_runtime::config::Telemetry;
use omnirelay_runtime::telemetry::LogFormat;
use omnirelay_runtime::{shutdown, spans, telemetry};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Operate a mesh: durable, cancellable, audited changes to peers and what runs on them.
#[derive(Debug, Parser)]
#[command(name = "omnirelay", version)]
struct Args {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Operator(omnirelay_cli::Command),
    /// Run the control plane: all of it, or one role
    Serve(serve::ServeArgs),
    /// Run everything in one process, with its own nats-server, PostgreSQL and simulated peers
    Dev(dev::DevArgs),
    /// See it at work in about a minute, and have every claim measured
    Demo(demo::DemoArgs),
    /// Run beside peers: report what runs there, and move it when an operation asks
    Agent(Box<AgentArgs>),
    /// Measure a development stack: mutations from many clients, answered when done
    Bench(bench::BenchArgs),
    /// The server that the demo's workloads are
    #[command(hide = true)]
    DemoServer(demo::ServerArgs),
    /// The approval bot that decides in the demo; elsewhere it is a program of its own, services/bot
    #[command(hide = true)]
    DemoBot(omnirelay_approval_bot::BotArgs),
    /// Write shell completions to stdout
    Completions(CompletionsArgs),
}

fn main() -> ExitCode {
    let args = Args::parse();
    // Two TLS providers in one process panic at run time: ours is installed before anything could choose another.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("error: another TLS provider was installed first");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(run(args))
}

async fn run(args: Args) -> ExitCode {
    match args.command {
        Command::Operator(omnirelay_cli::Command::Doctor) => doctor::run(args.global).await,
        Command::Operator(command) => omnirelay_cli::run(command, args.global).await,
        Command::Completions(shell) => omnirelay_cli::completions(&shell, &mut Args::command()),
        Command::Serve(serve) => service(Box::pin(serve::run(serve))).await,
        Command::Dev(dev) => service(Box::pin(dev::run(dev))).await,
        Command::Demo(demo) => Box::pin(demo::run(demo)).await,
        Command::Bench(bench) => bench::run(bench).await,
        Command::DemoServer(server) => service(demo::serve(server)).await,
        Command::DemoBot(bot) => service(Box::pin(run_bot(bot))).await,
        Command::Agent(agent) => service(Box::pin(run_agent(*agent))).await,
    }
}

async fn run_agent(args: AgentArgs) -> anyhow::Result<()> {
    log_to_stderr("info")?;
    let exporting = spans::start(&Telemetry::from_environment(), "agent")?;
    let ended = omnirelay_agent::run(args, shutdown::on_signals()?).await;
    exporting.finish().await;
    ended
}

async fn run_bot(args: omnirelay_approval_bot::BotArgs) -> anyhow::Result<()> {
    log_to_stderr("info")?;
    omnirelay_approval_bot::run(args, shutdown::on_signals()?).await
}

/// Logs for people, unless the environment says otherwise (`OMNIRELAY_LOG_FORMAT`, `OMNIRELAY_LOG_FILTER`).
fn log_to_stderr(default: &str) -> anyhow::Result<()> {
    let format = match std::env::var("OMNIRELAY_LOG_FORMAT").as_deref() {
        Ok("json") => LogFormat::Json,
        _ => LogFormat::Pretty,
    };
    let filter =
        std::env::var("OMNIRELAY_LOG_FILTER").unwrap_or_else(|_| format!("{default},sqlx=warn,async_nats=warn"));
    telemetry::init_logging(format, &filter)?;
    Ok(())
}

async fn service(run: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    match run.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
