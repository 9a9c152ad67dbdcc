//! `audit`: read the log, watch it, and check that it is what was written.
//!
//! `verify` does the arithmetic on this side, over the API's records or over log files: a server that verified itself would
//! prove little. Checkpoints come from log files, where the database's owner cannot rewrite them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use ed25519_dalek::pkcs8::DecodePublicKey as _;
use jiff::Timestamp;
use omnirelay_contract::audit::{AuditRecord, Verification};
use omnirelay_contract::chain::{Line, Verifier, VerifyingKey};
use omnirelay_contract::rest::Page;
use omnirelay_contract::workflow::OperationId;
use tokio::io::AsyncBufReadExt as _;

use super::{LimitArgs, filtered};
use crate::client::{Client, ORDER_BY, PAGE_SIZE, PAGE_TOKEN, Request};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::follow::{Feed, Filter, Update};
use crate::output::{self, Format, Row as _, note};
use crate::resolve;
use crate::session::{GlobalArgs, Session};

/// Events come in bursts; their records are fetched this long after the first.
const GATHER: Duration = Duration::from_millis(250);
/// The log is looked at this often even when nothing was heard.
const LOOK: Duration = Duration::from_secs(1);
/// The order of a list that is read from its end.
const NEWEST_FIRST: &str = "seq desc";

#[derive(Debug, Subcommand)]
pub enum Audit {
    /// List records, newest first
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        filters: Filters,
        #[command(flatten)]
        limit: LimitArgs,
    },
    /// Print records as they are written, until Ctrl-C
    Tail {
        #[command(flatten)]
        filters: Filters,
        /// How many earlier records to begin with
        #[arg(short = 'n', long, default_value_t = 10)]
        lines: usize,
    },
    /// Show a record
    Show { seq: u64 },
    /// Check the chain from its first record on; exit 1 and the first bad record where it does not hold
    Verify(VerifyArgs),
}

#[derive(Debug, Clone, Default, Args)]
pub struct Filters {
    /// An id, the tail of one, or the target's name
    #[arg(long)]
    operation: Option<String>,
    #[arg(long, value_name = "SUBJECT")]
    actor: Option<String>,
    /// Such as peers/edge-7
    #[arg(long)]
    target: Option<String>,
    /// Such as peers.drain
    #[arg(long)]
    verb: Option<String>,
    /// accepted, succeeded, refused, denied, failed, cancelled, ...
    #[arg(long)]
    outcome: Option<String>,
    /// A time (RFC 3339), or how long ago (2h)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// A time (RFC 3339), or how long ago (10m)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Timestamp>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("logs").args(["file", "checkpoints"]))]
pub struct VerifyArgs {
    /// Log files to verify instead of the API's records, in their order
    #[arg(long, value_name = "PATH", num_args = 1..)]
    file: Vec<PathBuf>,
    /// Log files whose signed checkpoints the API's records are held against
    #[arg(long, value_name = "PATH", num_args = 1..)]
    checkpoints: Vec<PathBuf>,
    /// The public key (PEM) that checkpoints must be signed with; several after a rotation
    #[arg(long, value_name = "PUBLIC_KEY", num_args = 1.., requires = "logs")]
    key: Vec<PathBuf>,
}

pub async fn run(command: Audit, global: &GlobalArgs) -> Result<Exit, Failure> {
    match command {
        Audit::List { filters, limit } => {
            let session = Session::open(global).await?;
            let request = filters.request(&session.client).await?.query(ORDER_BY, NEWEST_FIRST);
            output::list(session.format, &session.client.list::<AuditRecord>(&request, limit.limit).await?)?;
            Ok(Exit::Succeeded)
        }
        Audit::Show { seq } => {
            let session = Session::open(global).await?;
            let record: AuditRecord = session.client.get(&format!("/control/audit/{seq}")).await?;
            output::one(session.format, &record)?;
            Ok(Exit::Succeeded)
        }
        Audit::Tail { filters, lines } => {
            let session = Session::open(global).await?;
            tokio::select! {
                result = tail(&session, &filters, lines) => result,
                _ = tokio::signal::ctrl_c() => Ok(Exit::Succeeded),
            }
        }
        Audit::Verify(args) => verify(&args, global).await,
    }
}

async fn tail(session: &Session, filters: &Filters, lines: usize) -> Result<Exit, Failure> {
    let request = filters.request(&session.client).await?.query(ORDER_BY, NEWEST_FIRST);
    let mut feed = Feed::start(&session.client, session.target.nats.as_deref(), Filter::default(), None).await;
    let mut page: Page<AuditRecord> = session.client.list(&request, lines.max(1)).await?;
    let mut last = page.items.first().map_or(0, |record| record.seq);
    page.items.truncate(lines);
    show(session.format, page.items)?;
    let mut heard = true;
    loop {
        // Woken by an event, or by the clock where no stream is to be had.
        tokio::select! {
            update = feed.updates.recv(), if heard => match update {
                Some(Update::Refused(_)) | None => heard = false,
                Some(_) => {
                    tokio::time::sleep(GATHER).await;
                    while feed.updates.try_recv().is_ok() {}
                }
            },
            () = tokio::time::sleep(LOOK) => {}
        }
        match newer(&session.client, &request, last).await {
            Ok(records) => {
                last = records.first().map_or(last, |record| record.seq);
                show(session.format, records)?;
            }
            // It was readable a moment ago.
            Err(error) if error.is_passing() => note(&format!("waiting: {error}")),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Records above `last`, newest first, over as many pages as that takes.
async fn newer(client: &Client, request: &Request, last: u64) -> Result<Vec<AuditRecord>, crate::client::ClientError> {
    let mut records = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let mut request = request.clone().query(PAGE_SIZE, 100);
        if let Some(token) = &token {
            request = request.query(PAGE_TOKEN, token);
        }
        let page: Page<AuditRecord> = client.read(&request).await?;
        let before = records.len();
        let read = page.items.len();
        records.extend(page.items.into_iter().take_while(|record| record.seq > last));
        match page.next_page_token {
            Some(next) if records.len() - before == read && read > 0 => token = Some(next),
            _ => return Ok(records),
        }
    }
}

/// Prints records, given newest first, oldest first.
fn show(format: Format, records: Vec<AuditRecord>) -> Result<(), Failure> {
    for record in records.into_iter().rev() {
        match format {
            Format::Table => output::print(&record.cells(Timestamp::now())[..AuditRecord::HEAD.len()].join("  "))?,
            Format::Wide => output::print(&record.cells(Timestamp::now()).join("  "))?,
            format => output::streamed(format, &record)?,
        }
    }
    Ok(())
}

async fn verify(args: &VerifyArgs, global: &GlobalArgs) -> Result<Exit, Failure> {
    let mut verifier = Verifier::new();
    for path in &args.key {
        verifier.add_key(read_key(path)?);
    }
    let mut what = args.file.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    if args.file.is_empty() {
        let session = Session::open(global).await?;
        for path in &args.checkpoints {
            each_line(path, |line| {
                if let Ok(Line::Checkpoint(checkpoint)) = line {
                    verifier.push_checkpoint(&checkpoint);
                }
            })
            .await?;
        }
        what.clone_from(&session.target.name);
        records(&session.client, &mut verifier).await?;
    }
    for path in &args.file {
        each_line(path, |line| match line {
            Ok(Line::Record(record)) => verifier.push(&record),
            Ok(Line::Checkpoint(checkpoint)) => verifier.push_checkpoint(&checkpoint),
            Err(error) => verifier.push_unreadable(&error.to_string()),
        })
        .await?;
    }
    let found = verifier.finish();
    match global.output {
        Format::Table | Format::Wide => output::print(&verdict(&found, &what).join("\n"))?,
        format => output::document(format, &found)?,
    }
    Ok(if found.ok { Exit::Succeeded } else { Exit::Error })
}

/// Reads the whole log through the API, page by page, so that its length costs no memory.
async fn records(client: &Client, verifier: &mut Verifier) -> Result<(), Failure> {
    let mut token: Option<String> = None;
    loop {
        let mut request = Request::get("/control/audit").query(ORDER_BY, "seq").query(PAGE_SIZE, 1_000);
        if let Some(token) = &token {
            request = request.query(PAGE_TOKEN, token);
        }
        let page: Page<AuditRecord> = client.read(&request).await?;
        page.items.iter().for_each(|record| verifier.push(record));
        match page.next_page_token {
            Some(next) => token = Some(next),
            None => return Ok(()),
        }
    }
}

/// What was found, in lines: a good log in one, a bad one with what is wrong and what to do.
fn verdict(found: &Verification, what: &str) -> Vec<String> {
    let checkpoints = match found.checkpoints {
        0 => String::new(),
        1 => ", 1 signed checkpoint".to_owned(),
        n => format!(", {n} signed checkpoints"),
    };
    if found.ok {
        return vec![format!("VERIFIED {what}   {} records{checkpoints}", found.records)];
    }
    let mut lines = vec![format!("NOT VERIFIED {what}   {} records{checkpoints}", found.records)];
    if let Some(bad) = &found.first_bad {
        lines.push(format!("  first bad record #{}: {}", bad.seq, bad.why));
        lines.push(format!("  what next: omnirelay audit show {}", bad.seq));
    }
    let name = |gap: &omnirelay_contract::audit::OperationGap| {
        format!("  operation {} has no event {}, though it has later ones", gap.operation, gap.missing)
    };
    lines.extend(found.gaps.iter().take(20).map(name));
    if found.gaps.len() > 20 {
        lines.push(format!("  and {} more operations with gaps", found.gaps.len() - 20));
    }
    lines
}

async fn each_line(path: &Path, mut take: impl FnMut(Result<Line, serde_json::Error>)) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::error(format!("cannot read {}: {error}", path.display()));
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut lines = tokio::io::BufReader::new(file).lines();
    while let Some(line) = lines.next_line().await.map_err(failed)? {
        if !line.trim().is_empty() {
            take(Line::parse(&line));
        }
    }
    Ok(())
}

fn read_key(path: &Path) -> Result<VerifyingKey, Failure> {
    let pem = std::fs::read_to_string(path)
        .map_err(|error| Failure::error(format!("cannot read {}: {error}", path.display())))?;
    VerifyingKey::from_public_key_pem(pem.trim())
        .map_err(|error| Failure::error(format!("{} is not an Ed25519 public key in PEM: {error}", path.display())))
}

impl Filters {
    async fn request(&self, client: &Client) -> Result<Request, Failure> {
        let operation: Option<OperationId> = match &self.operation {
            Some(text) => match text.parse() {
                Ok(id) => Some(id),
                Err(_) => Some(resolve::operation(client, text).await?.id),
            },
            None => None,
        };
        Ok(filtered(
            Request::get("/control/audit"),
            &[
                ("operation", operation.map(|id| id.to_string())),
                ("actor", self.actor.clone()),
                ("target", self.target.clone()),
                ("verb", self.verb.clone()),
                ("outcome", self.outcome.clone()),
                ("since", self.since.map(|at| at.to_string())),
                ("until", self.until.map(|at| at.to_string())),
            ],
        ))
    }
}

/// A time, or a duration that counts back from now.
fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let ago = humantime::parse_duration(text).map_err(|_| "a time like 2026-11-23T12:00:00Z, or 2h".to_owned())?;
    Timestamp::now().checked_sub(ago).map_err(|error| error.to_string())
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
