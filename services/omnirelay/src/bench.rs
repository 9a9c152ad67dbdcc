//! `omnirelay bench`: mutations from many clients, answered when done, measured from outside.
//!
//! Every client has peers of its own and cordons and uncordons them in turn, so that every request changes something. It
//! speaks plain HTTP/1.1 on a kept connection: a generator that shares the cores should cost little. The figures are
//! of answers with status 200, each an operation that has ended and is on record.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use omnirelay_contract::rest::{Page, Peer};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Clients at once, each with peers of its own
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// How long to measure
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Not measured, before
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    warm_up: Duration,
    /// What an answer means
    #[arg(long, value_enum, default_value = "done")]
    answered: Answered,
    /// The API; a development stack, never a mesh that somebody uses
    #[arg(long, env = "OMNIRELAY_URL")]
    url: String,
    /// A token with mesh.operate
    #[arg(long, env = "OMNIRELAY_TOKEN", hide_env_values = true)]
    token: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Answered {
    /// When the operation has ended
    Done,
    /// As soon as the intent is committed
    Accepted,
}

#[derive(Default)]
struct Counts {
    measuring: AtomicBool,
    stop: AtomicBool,
    failed: AtomicU64,
}

pub async fn run(args: BenchArgs) -> ExitCode {
    match measure(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(args: &BenchArgs) -> anyhow::Result<()> {
    let address = args.url.strip_prefix("http://").context("only http:// is measured")?.trim_end_matches('/');
    let peers = peers(address, &args.token).await?;
    if peers.len() < args.clients {
        bail!("{} clients need as many peers, there are {}: `omnirelay dev --peers N`", args.clients, peers.len());
    }
    let counts = Arc::new(Counts::default());
    let mut clients = JoinSet::new();
    for n in 0..args.clients {
        let own: Vec<String> = peers.iter().skip(n).step_by(args.clients).cloned().collect();
        let client = Client {
            stream: connect(address).await?,
            host: address.to_owned(),
            token: args.token.clone(),
            prefer: if args.answered == Answered::Done { "wait=30" } else { "respond-async" },
            expected: if args.answered == Answered::Done { 200 } else { 202 },
        };
        clients.spawn(client.run(own, counts.clone()));
    }
    tokio::time::sleep(args.warm_up).await;
    counts.measuring.store(true, Ordering::Relaxed);
    let started = Instant::now();
    tokio::time::sleep(args.duration).await;
    counts.measuring.store(false, Ordering::Relaxed);
    let elapsed = started.elapsed();
    counts.stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    while let Some(client) = clients.join_next().await {
        latencies.extend(client.context("a client panicked")??);
    }
    let failed = counts.failed.load(Ordering::Relaxed);
    latencies.sort_unstable();
    let at = |part: f64| {
        let index = ((latencies.len() as f64 * part) as usize).min(latencies.len().saturating_sub(1));
        latencies.get(index).map_or(0.0, |micros| *micros as f64 / 1e3)
    };
    println!(
        "{} clients, answered when {}: {:.0}/s   p50 {:.1} ms   p99 {:.1} ms   max {:.1} ms   failed {failed}",
        args.clients,
        if args.answered == Answered::Done { "done" } else { "accepted" },
        latencies.len() as f64 / elapsed.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(1.0),
    );
    if failed > 0 {
        bail!("{failed} requests were not answered as expected");
    }
    Ok(())
}

struct Client {
    stream: BufReader<TcpStream>,
    host: String,
    token: String,
    prefer: &'static str,
    expected: u16,
}

impl Client {
    /// Latencies in microseconds of what was answered as expected while it was measured.
    async fn run(mut self, peers: Vec<String>, counts: Arc<Counts>) -> anyhow::Result<Vec<u64>> {
        let mut latencies = Vec::new();
        for turn in 0usize.. {
            let action = if (turn / peers.len()).is_multiple_of(2) { "cordon" } else { "uncordon" };
            let Some(peer) = peers.get(turn % peers.len()) else { break };
            let started = Instant::now();
            let status = self.post(peer, action).await?;
            if counts.measuring.load(Ordering::Relaxed) {
                if status == self.expected {
                    latencies.push(started.elapsed().as_micros() as u64);
                } else {
                    counts.failed.fetch_add(1, Ordering::Relaxed);
                }
            }
            if counts.stop.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(latencies)
    }

    async fn post(&mut self, peer: &str, action: &str) -> anyhow::Result<u16> {
        let body = "{\"reason\":\"bench\"}";
        let request = format!(
            "POST /control/peers/{peer}:{action} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\nprefer: {}\r\ncontent-length: {}\r\n\r\n{body}",
            self.host,
            self.token,
            self.prefer,
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await?;
        Ok(answer(&mut self.stream).await?.0)
    }
}

async fn connect(address: &str) -> anyhow::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

async fn answer(stream: &mut BufReader<TcpStream>) -> anyhow::Result<(u16, Vec<u8>)> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let status = line.split(' ').nth(1).and_then(|word| word.parse().ok()).context("this is not HTTP")?;
    let mut length = 0usize;
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        if line.trim_end().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok((status, body))
}

/// The ids of all peers.
async fn peers(address: &str, token: &str) -> anyhow::Result<Vec<String>> {
    let mut stream = connect(address).await?;
    let (mut peers, mut next) = (Vec::new(), None::<String>);
    loop {
        let page = next.map(|token| format!("&pageToken={token}")).unwrap_or_default();
        let request = format!(
            "GET /control/peers?pageSize=1000{page} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let (status, body) = answer(&mut stream).await?;
        if status != 200 {
            bail!("the list of peers was answered with {status}: {}", String::from_utf8_lossy(&body));
        }
        let page: Page<Peer> = serde_json::from_slice(&body)?;
        peers.extend(page.items.into_iter().map(|peer| peer.id.to_string()));
        next = page.next_page_token;
        if next.is_none() {
            return Ok(peers);
        }
    }
}
