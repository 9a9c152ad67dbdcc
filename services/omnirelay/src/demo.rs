//! `omnirelay demo`: one minute for a sceptic. Everything that it claims is measured while it runs.
//!
//! ```text
//!  load ──▶ proxy ──▶ workloads: real processes, children of the agent     nats-server, PostgreSQL
//!             └─ reads the registry                                        ingress, worker, audit, agent: processes, too
//!
//!  the naive way      one server is stopped and started by hand: requests fail
//!  drain              by the command line: none fails
//!  kill -9            the worker dies in the middle of a drain, and the drain goes on
//!  cancel             half-way: everything is as before, somebody else's hold included
//!  failover           the requester may not approve it, a bot and somebody else do; the standby cluster serves, none fails
//!  audit              verified; then one row is edited by SQL, and found
//! ```
//!
//! The operators' commands are this binary, run as processes: what is shown is what they print. The demo exits with 0 only if
//! every line of its table held.

mod acts;
mod api;
mod cli;
mod evidence;
mod http;
mod load;
mod process;
mod proxy;
mod report;
mod server;
mod snapshot;
mod stage;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use omnirelay_bus::Bus;
use omnirelay_runtime::auth::Scope;
use omnirelay_runtime::shutdown;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use acts::Play;
use load::{Counters, Load};
use proxy::{Backends, Proxy, Route, follow_registry};
use report::{REDRAW, Screen, table};
pub use server::{ServerArgs, run as serve};
use stage::{CLUSTERS, Stage};

#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Where data and logs are kept, an empty or new folder; a temporary one when left out
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Leave it running at the end, with the process ids to kill, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

/// How long a request for `ledger`, of which there must never be two, may wait while it moves.
const LEDGER_PATIENCE: Duration = Duration::from_secs(30);
/// Clients at once.
const CHECKOUT_CLIENTS: usize = 12;
const LEDGER_CLIENTS: usize = 4;
/// How often a supervisor looks, with `--keep`.
const SUPERVISE: Duration = Duration::from_millis(200);
/// As shells tell the end by Ctrl-C.
const INTERRUPTED: u8 = 130;

pub async fn run(args: DemoArgs) -> ExitCode {
    let screen = Arc::new(Screen::new());
    match Box::pin(show(&args, &screen)).await {
        Ok(code) => code,
        Err(error) => {
            screen.finish();
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Sets the stage, plays, and clears it away whatever happened.
async fn show(args: &DemoArgs, screen: &Arc<Screen>) -> anyhow::Result<ExitCode> {
    crate::log_to_stderr("error")?;
    // From here on a signal is an orderly end, whatever has been started by then.
    let stop = shutdown::on_signals()?;
    screen.plain("OmniRelay, measured. Every server and every workload below is a real process.");
    screen.heading("The stage");
    let opened = stop.run_until_cancelled(Stage::open(args.state_dir.as_deref())).await;
    let Some(stage) = opened.transpose().context("nats-server and PostgreSQL do not start")? else {
        return Ok(ExitCode::from(INTERRUPTED));
    };
    screen.line(&format!("nats-server and PostgreSQL run in {}", stage.dir().display()));

    let mut theatre = Theatre { stage, screen: screen.clone(), traffic: None };
    let played = stop.run_until_cancelled(Box::pin(theatre.play())).await;
    let failed = !matches!(&played, Some(Ok(true)) | None);
    if let Some(Err(error)) = &played {
        screen.finish();
        screen.plain(&format!("\nFAILED after {:.0} s: {error:#}", screen.began().elapsed().as_secs_f64()));
        for reason in theatre.traffic.iter().flat_map(|t| t.counters.iter()).flat_map(|c| c.reasons()) {
            screen.line(&format!("a request failed: {reason}"));
        }
        for (name, words) in theatre.stage.last_words() {
            screen.plain(&format!("\nthe last lines of {name}:\n{words}"));
        }
    }
    if args.keep && matches!(played, Some(Ok(_))) {
        theatre.keep(&stop).await?;
    } else if played.is_none() {
        screen.plain("\nstopping");
    }
    if let Some(kept) = theatre.close(failed).await? {
        screen.plain(&format!("data and logs stay in {}", kept.display()));
    }
    Ok(match played {
        Some(Ok(true)) => ExitCode::SUCCESS,
        Some(Ok(false) | Err(_)) => ExitCode::FAILURE,
        None => ExitCode::from(INTERRUPTED),
    })
}

/// Everything that runs.
struct Theatre {
    stage: Stage,
    screen: Arc<Screen>,
    traffic: Option<Traffic>,
}

/// The load, and what it goes through.
struct Traffic {
    proxy: Proxy,
    loads: Vec<Load>,
    counters: Vec<Arc<Counters>>,
    /// Ends those who follow the registry and draw the count.
    stop: CancellationToken,
}

impl Theatre {
    /// Whether everything held.
    async fn play(&mut self) -> anyhow::Result<bool> {
        let api = self.stage.api("demo", Scope::Observe)?;
        self.stage.start(&api).await?;
        let pids = |stage: &Stage| {
            stage.pids().iter().map(|(name, pid)| format!("{name} {pid}")).collect::<Vec<_>>().join(", ")
        };
        self.screen.line(&format!("processes: {}", pids(&self.stage)));
        self.screen.line(
            "cluster fra1: web-1, web-2, web-3 run 12 checkout (start-first) and 1 ledger (stop-first); it serves",
        );
        self.screen.line("cluster ams1: ams-1, ams-2 run 4 checkout and 1 ledger; it stands by");

        let [checkout, ledger, naive] = [(); 3].map(|()| Arc::new(Counters::default()));
        let (known, backends) = watch::channel(Backends::new());
        let proxy = Proxy::start(
            vec![
                Route { service: "checkout", patience: Duration::ZERO, counters: checkout.clone() },
                Route { service: "ledger", patience: LEDGER_PATIENCE, counters: ledger.clone() },
            ],
            backends.clone(),
        )
        .await?;
        let address = proxy.address;
        let quiet = CancellationToken::new();
        let counters = vec![checkout.clone(), ledger.clone()];
        self.traffic = Some(Traffic { proxy, loads: Vec::new(), counters, stop: quiet.clone() });
        let bus = Bus::connect(self.stage.nats_url(), "omnirelay-demo").await?;
        tokio::spawn({
            let (api, quiet) = (api.clone(), quiet.clone());
            async move { follow_registry(&api, &bus, &CLUSTERS, &known, &quiet).await }
        });
        let all = |backends: &Backends| backends.values().map(Vec::len).sum::<usize>() as u32 == stage::WORKLOAD_COUNT;
        tokio::time::timeout(Duration::from_secs(30), backends.clone().wait_for(all))
            .await
            .context("the proxy does not find all workloads in the registry")??;
        if let Some(traffic) = &mut self.traffic {
            traffic.loads.push(Load::start(address, "checkout", CHECKOUT_CLIENTS, &checkout));
            traffic.loads.push(Load::start(address, "ledger", LEDGER_CLIENTS, &ledger));
        }
        self.screen.count(&checkout);
        self.screen.count(&ledger);
        tokio::spawn({
            let (screen, quiet) = (self.screen.clone(), quiet.clone());
            async move {
                while quiet.run_until_cancelled(tokio::time::sleep(REDRAW)).await.is_some() {
                    screen.redraw();
                }
            }
        });
        self.screen.line("load: 16 clients through a proxy that finds its backends in the registry");
        self.screen.act_ends();

        let services = [checkout.clone(), ledger.clone()];
        let mut play = Play::new(&mut self.stage, self.screen.clone(), address, services, naive)?;
        play.all().await?;
        let claims = play.claims();
        let held = claims.iter().all(|claim| claim.held);
        self.screen.plain(&format!("\n  held\n{}", table(&claims)));
        for reason in [checkout, ledger].iter().flat_map(|counters| counters.reasons()) {
            self.screen.line(&format!("a request failed: {reason}"));
        }
        let took = self.screen.began().elapsed().as_secs_f64();
        let verdict = if held { "everything held" } else { "NOT everything held" };
        self.screen.plain(&format!("\n{verdict}, {took:.1} s in all"));
        Ok(held)
    }

    /// Leaves it running, with a supervisor for whatever is killed by hand.
    async fn keep(&mut self, stop: &CancellationToken) -> anyhow::Result<()> {
        let stage = &self.stage;
        self.screen.plain("\nIt goes on until Ctrl-C, and what is killed is started again. In another terminal:");
        let token = stage.identity.token("ana", Scope::Operate)?;
        for (name, value) in [("URL", stage.url.as_str()), ("NATS_URL", stage.nats_url()), ("TOKEN", token.as_str())] {
            self.screen.plain(&format!("  export OMNIRELAY_{name}={value}"));
        }
        let program = std::env::current_exe()?;
        self.screen.plain(&format!("  {} drain web-1", program.display()));
        if let Some(traffic) = &self.traffic {
            self.screen.plain(&format!("  curl http://{}/checkout", traffic.proxy.address));
        }
        for (name, pid) in stage.pids() {
            self.screen.plain(&format!("  kill -9 {pid}   # {name}"));
        }
        while stop.run_until_cancelled(tokio::time::sleep(SUPERVISE)).await.is_some() {
            for (name, pid) in self.stage.revive().await? {
                self.screen.plain(&format!("  {name} had ended and was started again, process {pid}"));
            }
        }
        Ok(())
    }

    /// Ends everything. Returns the folder if it stays.
    async fn close(self, failed: bool) -> anyhow::Result<Option<PathBuf>> {
        self.screen.finish();
        if let Some(traffic) = self.traffic {
            traffic.stop.cancel();
            // First the proxy: requests that wait for a backend would wait for long.
            traffic.proxy.stop().await;
            for load in traffic.loads {
                load.stop().await;
            }
        }
        self.stage.close(failed).await
    }
}
