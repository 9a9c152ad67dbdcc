//! Keeps the log files in step with the database: what was committed is appended, what is missing is filled in. A disk that is
//! full, or a directory that is another's, is tried again; the chain does not wait for it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use omnirelay_contract::chain::{Checkpoint, canonical_into, line_into};
use omnirelay_store::audit as store;
use omnirelay_store::{PgPool, StoreError};
use tokio::time::Instant;

use crate::log_file::{LogFile, checkpoint_line};

const RETRY: Duration = Duration::from_secs(2);
const CHUNK: u32 = 1_000;

pub struct Mirror {
    dir: Option<PathBuf>,
    rotate_bytes: u64,
    log: Option<LogFile>,
    retry_at: Instant,
    failing: bool,
}

impl Mirror {
    pub fn new(dir: Option<PathBuf>, rotate_bytes: u64) -> Self {
        Self { dir, rotate_bytes, log: None, retry_at: Instant::now(), failing: false }
    }

    /// The records `first..=last` were committed; `lines` are they.
    pub async fn append(&mut self, pool: &PgPool, first: u64, last: u64, lines: String) -> Result<(), StoreError> {
        if self.log.as_ref().is_some_and(|log| log.last() + 1 == first) {
            self.with_log(move |log| {
                log.append(first, last, &lines)?;
                log.rotate_if_large()
            })
            .await;
            return Ok(());
        }
        self.catch_up(pool, last).await
    }

    /// Fills the files up to the record `last`, with the checkpoints in between.
    pub async fn catch_up(&mut self, pool: &PgPool, last: u64) -> Result<(), StoreError> {
        match self.fill_up_to(pool, last).await {
            // A record that somebody made unreadable is the verifier's to name. It keeps the files from going on, not the chain.
            Err(error @ StoreError::Corrupt { .. }) => {
                self.log = self.succeeded(Err(io::Error::other(error)));
                Ok(())
            }
            done => done,
        }
    }

    async fn fill_up_to(&mut self, pool: &PgPool, last: u64) -> Result<(), StoreError> {
        if !self.open(pool).await? {
            return Ok(());
        }
        while let Some((end, checkpointed)) = self.log.as_ref().map(|log| (log.last(), log.checkpointed()))
            && end < last
        {
            let chunk = fill(pool, end, checkpointed, last).await?;
            let Some(chunk) = chunk else { return Ok(()) };
            self.with_log(move |log| {
                if let Some(late) = chunk.checkpoint_of_end {
                    log.append_checkpoint(&late)?;
                }
                log.append(end + 1, chunk.last, &chunk.lines)?;
                log.rotate_if_large()
            })
            .await;
        }
        Ok(())
    }

    /// A checkpoint was committed. It is appended where its record is the last one, which is where a verifier can use it.
    pub async fn append_checkpoint(&mut self, pool: &PgPool, checkpoint: Checkpoint) -> Result<(), StoreError> {
        self.catch_up(pool, checkpoint.seq).await?;
        if self.log.as_ref().is_some_and(|log| log.last() == checkpoint.seq && log.checkpointed() < checkpoint.seq) {
            self.with_log(move |log| log.append_checkpoint(&checkpoint)).await;
        }
        Ok(())
    }

    /// Appends a checkpoint of the last record that was committed, and that a stop kept from the files.
    pub async fn append_late_checkpoint(&mut self, pool: &PgPool) -> Result<(), StoreError> {
        let Some((last, checkpointed)) = self.log.as_ref().map(|log| (log.last(), log.checkpointed())) else {
            return Ok(());
        };
        let found = store::checkpoints(pool, checkpointed, 1).await?.into_iter().next();
        if let Some(checkpoint) = found.filter(|checkpoint| checkpoint.seq == last) {
            self.with_log(move |log| log.append_checkpoint(&checkpoint)).await;
        }
        Ok(())
    }

    /// Whether the log is open now.
    async fn open(&mut self, pool: &PgPool) -> Result<bool, StoreError> {
        let Some(dir) = &self.dir else { return Ok(false) };
        if self.log.is_some() {
            return Ok(true);
        }
        if Instant::now() < self.retry_at {
            return Ok(false);
        }
        let (dir, rotate_bytes) = (dir.clone(), self.rotate_bytes);
        let opened = blocking(move || LogFile::open(&dir, rotate_bytes)).await;
        let Some(log) = self.succeeded(opened) else { return Ok(false) };
        let (last, hash) = (log.last(), log.last_hash().map(str::to_owned));
        let head = store::head(pool).await?;
        let recorded = if last == 0 { None } else { store::get(pool, last).await? };
        self.log = Some(log);
        let is_continued = match (&recorded, &hash) {
            (None, _) => last == 0,
            (Some(recorded), Some(hash)) => recorded.hash == *hash,
            (Some(_), None) => true,
        };
        if !is_continued {
            tracing::error!(
                last_in_files = last,
                last_in_database = head.seq,
                "the log files hold records that the database does not: it was set back or tampered with; they are set aside"
            );
            let go_on_after = last.min(head.seq);
            self.with_log(move |log| log.begin_anew(go_on_after)).await;
        }
        Ok(self.log.is_some())
    }

    /// Does something to the log, where blocking is allowed. After a failure the log is closed; it is opened again later,
    /// and filled from the database.
    async fn with_log(&mut self, work: impl FnOnce(&mut LogFile) -> io::Result<()> + Send + 'static) {
        let Some(mut log) = self.log.take() else { return };
        let done = blocking(move || work(&mut log).map(|()| log)).await;
        self.log = self.succeeded(done);
    }

    fn succeeded(&mut self, done: io::Result<LogFile>) -> Option<LogFile> {
        match done {
            Ok(log) => {
                if self.failing {
                    self.failing = false;
                    tracing::info!("the audit writes its log files again");
                }
                Some(log)
            }
            Err(error) => {
                self.retry_at = Instant::now() + RETRY;
                if !self.failing {
                    self.failing = true;
                    let dir = self.dir.as_deref().unwrap_or(Path::new(""));
                    tracing::error!(%error, dir = %dir.display(), "the audit cannot write its log files; it keeps trying");
                }
                None
            }
        }
    }
}

struct Chunk {
    last: u64,
    lines: String,
    /// A checkpoint of the record that the files end with, which a crash kept from them.
    checkpoint_of_end: Option<Checkpoint>,
}

/// The lines after the record `end`, up to `last` at most; none where the database has nothing readable there.
async fn fill(pool: &PgPool, end: u64, checkpointed: u64, last: u64) -> Result<Option<Chunk>, StoreError> {
    let records = store::after(pool, end, CHUNK).await?;
    let mut checkpoints = store::checkpoints(pool, checkpointed, CHUNK).await?.into_iter().peekable();
    let mut chunk = Chunk { last: end, lines: String::new(), checkpoint_of_end: None };
    chunk.checkpoint_of_end = checkpoints.next_if(|checkpoint| checkpoint.seq == end);
    let mut canonical = String::new();
    for record in records {
        let record = record?;
        if record.seq > last {
            break;
        }
        canonical.clear();
        canonical_into(&record, &mut canonical);
        line_into(&record.hash, &canonical, &mut chunk.lines);
        chunk.last = record.seq;
        while let Some(checkpoint) = checkpoints.next_if(|checkpoint| checkpoint.seq <= record.seq) {
            if checkpoint.seq == record.seq {
                let line = checkpoint_line(&checkpoint).map_err(|error| StoreError::corrupt("a checkpoint", error))?;
                chunk.lines.push_str(&line);
            }
        }
    }
    Ok((chunk.last > end).then_some(chunk))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
