//! `omnirelay serve`: one role or all of them, from a configuration file.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use omnirelay_bus::StreamOptions;
use omnirelay_runtime::auth::Authenticator;
use omnirelay_runtime::config::ServeConfig;
use omnirelay_runtime::{shutdown, spans, telemetry};

use crate::control::{Control, ControlOptions, Role};
use crate::identity;

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Which role to run
    #[arg(value_enum, default_value = "all")]
    role: Role,
    /// The configuration file; OMNIRELAY_… variables override its keys
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let config = ServeConfig::load(args.config.as_deref())?;
    telemetry::init_logging(config.log.format, &config.log.filter)?;
    let stop = shutdown::on_signals()?;
    let exporting = spans::start(&config.telemetry, args.role.word())?;
    let audit_key = match &config.audit.signing_key_file {
        Some(path) => identity::read_signing_key(path)?,
        None => {
            tracing::warn!("no audit.signing_key_file: checkpoints are signed with a key that is lost at the end");
            identity::new_signing_key()
        }
    };
    let first_settings = config.first_settings();
    let options = ControlOptions {
        http: config.http,
        auth: Arc::new(Authenticator::new(&config.auth)?),
        database_url: config.database_url,
        nats_url: config.nats_url,
        nats_credentials: config.nats_credentials,
        limits: config.limits,
        first_settings,
        streams: StreamOptions { replicas: usize::from(config.streams.replicas), ..StreamOptions::default() },
        audit_log_dir: config.audit.log_dir,
        audit_rotate_bytes: config.audit.rotate_mib.unwrap_or(256) << 20,
        audit_key,
        metrics: config.telemetry.metrics,
    };
    let control = Control::start(options, args.role, stop).await.context("the control plane did not start")?;
    if let Some(http) = control.http {
        tracing::info!(%http, "serving");
    }
    let ended = control.ended().await;
    exporting.finish().await;
    ended
}
