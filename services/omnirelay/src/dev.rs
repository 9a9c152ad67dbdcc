//! `omnirelay dev`: everything in one process, for development and scripting.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use omnirelay_agent::fleet::{Fleet, FleetOptions};
use omnirelay_bus::StreamOptions;
use omnirelay_devstack::{Devstack, Options};
use omnirelay_runtime::auth::Scope;
use omnirelay_runtime::config::{Limits, Telemetry};
use omnirelay_runtime::{shutdown, spans};
use omnirelay_store::registry;
use tokio_util::sync::CancellationToken;

use crate::control::{Control, ControlOptions, Role, pool};
use crate::identity::{AUDIENCE, ISSUER, Identity, KID, write_private};

#[derive(Debug, Clone, Args)]
pub struct DevArgs {
    /// Where data, keys and logs are kept; the same directory resumes
    #[arg(long, value_name = "DIR", default_value = ".omnirelay/dev")]
    pub state_dir: PathBuf,
    /// Where the API listens; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8600")]
    pub http: SocketAddr,
    /// Simulated clusters; the first is active, the others passive
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub clusters: u32,
    /// Simulated peers in each cluster
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub peers: u32,
    /// Workloads on each peer
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub workloads: u32,
    /// How long a simulated peer takes to acquire or release
    #[arg(long, value_name = "FROM..TO", default_value = "50ms..300ms", value_parser = durations)]
    pub handover: Range<Duration>,
    /// Written once everything is ready: KEY=value lines with addresses and tokens
    #[arg(long, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// `none`: only nats-server, PostgreSQL and the peers, for `omnirelay serve` beside it
    #[arg(long, value_enum, default_value = "all")]
    pub services: Services,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Services {
    All,
    None,
}

/// How long the peers may take to show up.
const READY: Duration = Duration::from_secs(60);

pub async fn run(args: DevArgs) -> anyhow::Result<()> {
    crate::log_to_stderr("info")?;
    // From here on a signal is an orderly end, whatever has been started by then.
    let stop = shutdown::on_signals()?;
    let exporting = spans::start(&Telemetry::from_environment(), "dev")?;
    let dev = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        dev = Dev::start(&args, stop.clone()) => dev?,
    };
    if let Some(path) = &args.env_file {
        write_private(path, &dev.env)?;
    }
    eprintln!("{}", dev.greeting(&args));
    let ended = dev.run(stop).await;
    exporting.finish().await;
    ended
}

/// A running development stack.
pub struct Dev {
    stack: Devstack,
    fleet: Fleet,
    control: Option<Control>,
    /// What the env file says.
    pub env: String,
    url: String,
}

impl Dev {
    pub async fn start(args: &DevArgs, stop: CancellationToken) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&args.state_dir)
            .with_context(|| format!("cannot create {}", args.state_dir.display()))?;
        let state_dir = args.state_dir.canonicalize()?;
        let stack = Devstack::start(Options::new(state_dir.clone())).await?;
        let identity = Identity::open(&state_dir)?;
        let setup = pool(stack.database_url(), 1, false, "omnirelay-setup").await?;
        omnirelay_store::migrate(&setup).await?;
        for n in 1..=args.clusters {
            registry::seed_cluster(&setup, &format!("cluster-{n}"), n == 1).await?;
        }
        let fleet = FleetOptions {
            clusters: args.clusters,
            peers: args.peers,
            workloads: args.workloads,
            handover: args.handover.clone(),
            ..FleetOptions::new(stack.nats_url(), state_dir.clone())
        };
        let (control, http) = match args.services {
            Services::All => {
                let control = Control::start(control_options(args, &stack, &identity)?, Role::All, stop).await?;
                let http = control.http.context("the ingress has no address")?;
                (Some(control), http)
            }
            Services::None => (None, free_address(args.http)?),
        };
        let fleet = Fleet::start(fleet).await?;
        if control.is_some() {
            peers_are_healthy(&setup, u64::from(args.clusters) * u64::from(args.peers)).await?;
            // Tables that grew from empty have no statistics yet.
            omnirelay_store::analyze(&setup).await?;
        }
        setup.close().await;
        let url = format!("http://{http}");
        let env = environment(&url, &stack, &identity)?;
        let config = serve_config(http, &stack, &identity, &state_dir);
        write_private(&state_dir.join("serve.toml"), &config)?;
        Ok(Self { stack, fleet, control, env, url })
    }

    fn greeting(&self, args: &DevArgs) -> String {
        let peers = args.clusters * args.peers;
        let serve = args.state_dir.join("serve.toml");
        let first = match args.services {
            Services::All => format!("OmniRelay runs at {} with {peers} simulated peers.", self.url),
            Services::None => format!(
                "nats-server, PostgreSQL and {peers} simulated peers run. Start the services beside them:\n  omnirelay serve all --config {}",
                serve.display()
            ),
        };
        match &args.env_file {
            Some(file) => format!(
                "{first}\nIn another terminal:\n  set -a; . {}; set +a; export OMNIRELAY_TOKEN=$OMNIRELAY_TOKEN_OPERATE\n  omnirelay mesh peers list\n  omnirelay drain cluster-1-peer-1\nCtrl-C stops it; the same state directory resumes.",
                file.display()
            ),
            None => {
                format!("{first}\nWith --env-file FILE the addresses and tokens are written there. Ctrl-C stops it.")
            }
        }
    }

    /// Runs until `stop`, then ends everything in order: services, peers, servers.
    async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let ended = match self.control {
            Some(control) => control.ended().await,
            None => {
                stop.cancelled().await;
                Ok(())
            }
        };
        self.fleet.stop().await;
        self.stack.stop().await?;
        ended
    }
}

fn control_options(args: &DevArgs, stack: &Devstack, identity: &Identity) -> anyhow::Result<ControlOptions> {
    Ok(ControlOptions {
        http: args.http,
        database_url: stack.database_url().to_owned(),
        nats_url: stack.nats_url().to_owned(),
        nats_credentials: None,
        auth: Arc::new(identity.authenticator()?),
        limits: Limits::default(),
        first_settings: serde_json::json!({}),
        streams: StreamOptions::default(),
        audit_log_dir: Some(stack.state_dir().join("audit")),
        audit_rotate_bytes: 256 << 20,
        audit_key: identity.audit_key.clone(),
        metrics: None,
    })
}

async fn peers_are_healthy(pool: &omnirelay_store::PgPool, expected: u64) -> anyhow::Result<()> {
    let waited = std::time::Instant::now();
    loop {
        let healthy = registry::healthy_peers(pool).await?;
        if healthy >= expected {
            return Ok(());
        }
        if waited.elapsed() > READY {
            bail!("only {healthy} of {expected} simulated peers have shown up after {READY:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn environment(url: &str, stack: &Devstack, identity: &Identity) -> anyhow::Result<String> {
    let mut env = String::new();
    let tokens = [
        ("OMNIRELAY_TOKEN_READ", "reader", Scope::Observe),
        ("OMNIRELAY_TOKEN_OPERATE", "operator", Scope::Operate),
        ("OMNIRELAY_TOKEN_APPROVE", "approver", Scope::Approve),
        ("OMNIRELAY_TOKEN_ADMIN", "admin", Scope::Admin),
    ];
    writeln!(env, "OMNIRELAY_URL={url}")?;
    writeln!(env, "OMNIRELAY_NATS_URL={}", stack.nats_url())?;
    writeln!(env, "OMNIRELAY_DATABASE_URL={}", stack.database_url())?;
    for (name, subject, scope) in tokens {
        writeln!(env, "{name}={}", identity.token(subject, scope)?)?;
    }
    Ok(env)
}

/// A configuration for `omnirelay serve` beside this stack.
pub fn serve_config(http: SocketAddr, stack: &Devstack, identity: &Identity, state_dir: &std::path::Path) -> String {
    format!(
        "http = \"{http}\"\ndatabase_url = \"{}\"\nnats_url = \"{}\"\n\n[auth]\nissuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\n\n[[auth.keys]]\nkid = \"{KID}\"\nalg = \"EdDSA\"\nkey_file = \"{}\"\n\n[audit]\nlog_dir = \"{}\"\nsigning_key_file = \"{}\"\n\n[log]\nformat = \"pretty\"\n",
        stack.database_url(),
        stack.nats_url(),
        identity.public_file.display(),
        state_dir.join("audit").display(),
        identity.audit_key_file.display(),
    )
}

/// An address that somebody else will listen on.
pub fn free_address(wanted: SocketAddr) -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind(wanted).with_context(|| format!("{wanted} is taken"))?.local_addr()?)
}

/// `50ms..300ms`, or one duration for both.
fn durations(text: &str) -> Result<Range<Duration>, String> {
    let parse = |part: &str| humantime::parse_duration(part.trim()).map_err(|error| format!("{part:?}: {error}"));
    let (from, to) = match text.split_once("..") {
        Some((from, to)) => (parse(from)?, parse(to)?),
        None => (parse(text)?, parse(text)?),
    };
    if from > to {
        return Err(format!("{text:?}: the first is longer than the second"));
    }
    Ok(from..to)
}
