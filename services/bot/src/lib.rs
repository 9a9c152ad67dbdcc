//! An approval bot, as an operator's team would write one: it approves, rejects and stages changes by a policy in a file.
//!
//! ```text
//!  omni.v1.event.approvals.*.requested ──┐
//!  started, connected again, every poll ─┴─▶ the operation, by GET ──▶ decide(policy, request, now) ──▶ :approve, :reject, or nothing
//!
//!  omni.v1.event.<on>, or the time has come ──▶ POST with `gate`: people, or another bot, approve what this one has staged
//! ```
//!
//! It knows nothing of OmniRelay but what is public: HTTP routes, NATS subjects, JSON. Messages only wake it: what it decides
//! about it has read from the API, and it sends the digest of exactly that. It keeps nothing: whoever starts it again loses
//! nothing, and two of them with tokens of different subjects are two approvers.

mod api;
mod bot;
pub mod policy;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use async_nats::{Client, ConnectOptions, Event, ServerAddr, Subscriber};
use clap::Args;
use futures_util::StreamExt;
use futures_util::stream::select_all;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use api::Api;
use bot::Bot;
use policy::Policy;

/// Where a request for approval is told.
const REQUESTED: &str = "omni.v1.event.approvals.*.requested";
/// When to look again after something went wrong.
const SOON: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Args)]
pub struct BotArgs {
    /// The policy, a TOML file
    #[arg(long, value_name = "FILE")]
    pub policy: PathBuf,
    /// The API
    #[arg(long, env = "OMNIRELAY_URL")]
    pub url: String,
    /// The bus, where a user that may only listen is enough
    #[arg(long, env = "OMNIRELAY_NATS_URL", hide_env_values = true)]
    pub nats_url: String,
    /// A NATS credentials file (JWT and seed)
    #[arg(long, value_name = "FILE")]
    pub nats_credentials: Option<PathBuf>,
    /// A file with a token of scope mesh.approve; and mesh.operate, to stage. Left out: OMNIRELAY_TOKEN
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// Runs until `stop`. Only what is wrong from the start is an error: API and bus may come and go.
pub async fn run(args: BotArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let policy = Policy::load(&args.policy)?;
    let api = Api::new(&args.url, token(&args)?)?;
    let (connected, mut connections) = mpsc::channel(1);
    let nats = connect(&args, connected).await?;
    let mut requests = nats.subscribe(REQUESTED).await.with_context(|| format!("cannot subscribe to {REQUESTED}"))?;
    let mut events = select_all(subscribe(&nats, &policy).await?);
    let mut bot = Bot::new(api, policy);
    let mut next_look = Instant::now();
    tracing::info!(subject = bot.subject(), "the bot listens");
    loop {
        let looked = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(message) = requests.next() => bot.requested(&message.payload).await,
            Some(message) = events.next() => bot.happened(&message.payload).await,
            // While it was away anything may have been asked.
            Some(()) = connections.recv() => bot.look_at_all().await,
            () = tokio::time::sleep_until(next_look) => {
                next_look = Instant::now() + bot.next_look();
                bot.look_at_all().await
            }
        };
        if let Err(error) = looked {
            tracing::warn!(%error, "the API cannot be asked, trying again");
            next_look = next_look.min(Instant::now() + SOON);
        }
    }
}

/// From the file or the environment; never an argument, which everybody on the machine could read.
fn token(args: &BotArgs) -> anyhow::Result<String> {
    let text = match &args.token_file {
        Some(path) => {
            std::fs::read_to_string(path).with_context(|| format!("cannot read the token in {}", path.display()))?
        }
        None => std::env::var("OMNIRELAY_TOKEN").context("no token: name --token-file, or set OMNIRELAY_TOKEN")?,
    };
    let token = text.trim();
    anyhow::ensure!(!token.is_empty(), "the token is empty");
    Ok(token.to_owned())
}

/// The connection keeps itself up; `connected` hears each time that it stands.
async fn connect(args: &BotArgs, connected: mpsc::Sender<()>) -> anyhow::Result<Client> {
    let server: ServerAddr = args.nats_url.parse().context("the NATS url is not usable")?;
    let mut options =
        ConnectOptions::new().name("omnirelay-approval-bot").retry_on_initial_connect().event_callback(move |event| {
            if matches!(event, Event::Connected) {
                // Somebody who has not looked yet will look once for both.
                let _ = connected.try_send(());
            }
            std::future::ready(())
        });
    // The client reads the server's address from the URL, but not who we are.
    if let (Some(user), Some(password)) = (server.username(), server.password()) {
        options = options.user_and_password(user.to_owned(), password.to_owned());
    }
    if let Some(path) = &args.nats_credentials {
        options = options
            .credentials_file(path)
            .await
            .with_context(|| format!("cannot use the NATS credentials in {}", path.display()))?;
    }
    options.connect(server).await.context("cannot use NATS")
}

/// What the policy stages after.
async fn subscribe(nats: &Client, policy: &Policy) -> anyhow::Result<Vec<Subscriber>> {
    let mut subscribers = Vec::new();
    for subject in policy.subjects() {
        let subscriber = nats.subscribe(subject.clone()).await;
        subscribers.push(subscriber.with_context(|| format!("cannot subscribe to {subject}"))?);
    }
    Ok(subscribers)
}
