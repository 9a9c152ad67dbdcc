//! Reads a whole log again, from the database or from files.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use omnirelay_contract::audit::Verification;
use omnirelay_contract::chain::{Line, Verifier};
use omnirelay_store::audit as store;
use omnirelay_store::{PgPool, StoreError};

use crate::VerifyingKey;

const CHUNK: u32 = 1_000;

/// Why a log could not be read. What is wrong with a log that can be read is in the [`Verification`].
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot read {}: {source}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Verifies the log of a database, up to the record that is the last one now. With a key, the signatures of the checkpoints
/// too. Whoever owns the database can also take its checkpoints away: the files and the bus have them as well.
pub async fn verify_database(pool: &PgPool, key: Option<VerifyingKey>) -> Result<Verification, VerifyError> {
    let mut verifier = verifier(key);
    let head = store::head(pool).await?;
    let mut checkpoints = CheckpointReader { pool, chunk: Vec::new().into_iter(), last: 0, done: false };
    let mut checkpoint = checkpoints.next().await?;
    let mut last = 0;
    while last < head.seq {
        let records = store::after(pool, last, CHUNK).await?;
        if records.is_empty() {
            break;
        }
        for record in records {
            match record {
                Ok(record) => {
                    last = record.seq;
                    if last > head.seq {
                        break; // Written since.
                    }
                    verifier.push(&record);
                }
                Err(error) => {
                    last += 1;
                    verifier.push_unreadable(&error.to_string());
                }
            }
            while let Some(due) = checkpoint.take_if(|checkpoint| checkpoint.seq <= last) {
                verifier.push_checkpoint(&due);
                checkpoint = checkpoints.next().await?;
            }
        }
    }
    // A checkpoint beyond the end is of a record that was cut off, unless the chain has grown meanwhile.
    if let Some(beyond) = checkpoint
        && beyond.seq > store::head(pool).await?.seq.max(head.seq)
    {
        verifier.push_checkpoint(&beyond);
    }
    verifier.expect_last(head.seq, &head.hash);
    Ok(verifier.finish())
}

/// Verifies log files, in whatever order they are given. A last line without its line feed is one that is being written.
/// Blocks for as long as it takes to read them.
pub fn verify_files(paths: &[PathBuf], key: Option<VerifyingKey>) -> Result<Verification, VerifyError> {
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        let first = first_seq(path).map_err(|source| VerifyError::File { path: path.clone(), source })?;
        files.push((first, path));
    }
    files.sort();
    let mut verifier = verifier(key);
    for (index, (_, path)) in files.iter().enumerate() {
        let is_last = index + 1 == files.len();
        push_file(&mut verifier, path, is_last)
            .map_err(|source| VerifyError::File { path: (*path).clone(), source })?;
    }
    Ok(verifier.finish())
}

fn verifier(key: Option<VerifyingKey>) -> Verifier {
    key.map_or_else(Verifier::new, Verifier::with_key)
}

fn push_file(verifier: &mut Verifier, path: &Path, is_last: bool) -> io::Result<()> {
    let mut file = BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        if file.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let parsed = match std::str::from_utf8(&line) {
            Ok(text) => Line::parse(text).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match parsed {
            Ok(Line::Record(record)) => verifier.push(&record),
            Ok(Line::Checkpoint(checkpoint)) => verifier.push_checkpoint(&checkpoint),
            Err(_) if is_last && !line.ends_with(b"\n") => return Ok(()),
            Err(why) => verifier.push_unreadable(&why),
        }
    }
}

/// The first record of a file; an empty one is the newest.
fn first_seq(path: &Path) -> io::Result<u64> {
    for line in BufReader::new(File::open(path)?).lines() {
        if let Ok(Line::Record(record)) = Line::parse(&line?) {
            return Ok(record.seq);
        }
    }
    Ok(u64::MAX)
}

/// The checkpoints one by one, read in chunks.
struct CheckpointReader<'a> {
    pool: &'a PgPool,
    chunk: std::vec::IntoIter<omnirelay_contract::chain::Checkpoint>,
    last: u64,
    done: bool,
}

impl CheckpointReader<'_> {
    async fn next(&mut self) -> Result<Option<omnirelay_contract::chain::Checkpoint>, StoreError> {
        if self.chunk.len() == 0 && !self.done {
            self.chunk = store::checkpoints(self.pool, self.last, CHUNK).await?.into_iter();
            self.done = self.chunk.len() == 0;
        }
        let next = self.chunk.next();
        if let Some(checkpoint) = &next {
            self.last = checkpoint.seq;
        }
        Ok(next)
    }
}
