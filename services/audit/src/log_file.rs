//! The log on disk: `audit.jsonl`, and `audit-<first seq>-<last seq>.jsonl` for what was before it. A line is a record or a
//! checkpoint. All of this blocks; [`crate::mirror`] calls it from where that is allowed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use omnirelay_contract::chain::{Checkpoint, Line};

const CURRENT: &str = "audit.jsonl";

/// The open log file. After an error it is to be dropped and opened again, which repairs a line written in part.
#[derive(Debug)]
pub struct LogFile {
    dir: PathBuf,
    file: File,
    size: u64,
    rotate_bytes: u64,
    /// The first record of the open file; none while it has none.
    first: Option<u64>,
    last: u64,
    last_hash: Option<String>,
    /// The record of the last checkpoint in the files, as far as the end of the open file shows.
    checkpointed: u64,
    /// Held for as long as the files are ours.
    _lock: File,
}

impl LogFile {
    /// Opens or creates the log in `dir`. A torn last line is cut off.
    pub fn open(dir: &Path, rotate_bytes: u64) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join(".lock"))?;
        lock.try_lock()
            .map_err(|_| io::Error::new(io::ErrorKind::WouldBlock, "another process writes the log there"))?;
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(dir.join(CURRENT))?;
        let end = find_end(&mut file)?;
        file.set_len(end.size)?;
        let first = if end.size == 0 { None } else { first_record(&mut file)? };
        let (last, last_hash) = match end.last {
            Some((seq, hash)) => (seq, Some(hash)),
            None => (last_rotated(dir)?, None),
        };
        Ok(Self {
            dir: dir.to_owned(),
            file,
            size: end.size,
            rotate_bytes,
            first,
            last,
            last_hash,
            checkpointed: end.checkpoint.unwrap_or(0),
            _lock: lock,
        })
    }

    /// The last record in the files; 0 if there is none.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Its hash, where the open file tells.
    pub fn last_hash(&self) -> Option<&str> {
        self.last_hash.as_deref()
    }

    /// Checkpoints of this record and earlier ones are in the files, or too late for them.
    pub fn checkpointed(&self) -> u64 {
        self.checkpointed.max(self.last.saturating_sub(1))
    }

    /// Appends the lines of the records `first..=last`, which follow the last one.
    pub fn append(&mut self, first: u64, last: u64, lines: &str) -> io::Result<()> {
        self.file.write_all(lines.as_bytes())?;
        self.size += lines.len() as u64;
        self.first.get_or_insert(first);
        self.last = last;
        self.last_hash = None;
        Ok(())
    }

    /// Appends a checkpoint of the last record, and waits for all to be on the disk.
    pub fn append_checkpoint(&mut self, checkpoint: &Checkpoint) -> io::Result<()> {
        let line = checkpoint_line(checkpoint)?;
        self.file.write_all(line.as_bytes())?;
        self.size += line.len() as u64;
        self.checkpointed = checkpoint.seq;
        self.file.sync_data()
    }

    /// Closes the file if it is large enough, and begins the next one.
    pub fn rotate_if_large(&mut self) -> io::Result<()> {
        if self.size > self.rotate_bytes { self.set_aside("audit") } else { Ok(()) }
    }

    /// Sets the open file aside as one that the chain does not continue, and begins one for the records after `last`.
    pub fn begin_anew(&mut self, last: u64) -> io::Result<()> {
        self.set_aside("diverged")?;
        self.last = last;
        self.last_hash = None;
        self.checkpointed = 0;
        Ok(())
    }

    fn set_aside(&mut self, prefix: &str) -> io::Result<()> {
        let Some(first) = self.first else { return Ok(()) };
        self.file.sync_all()?;
        let current = self.dir.join(CURRENT);
        let mut aside = self.dir.join(format!("{prefix}-{first}-{}.jsonl", self.last));
        // A file is never written over, whatever its name.
        for copy in 2.. {
            if !aside.exists() {
                break;
            }
            aside = self.dir.join(format!("{prefix}-{first}-{}-{copy}.jsonl", self.last));
        }
        fs::rename(&current, aside)?;
        self.file = OpenOptions::new().create(true).read(true).append(true).open(&current)?;
        self.size = 0;
        self.first = None;
        // The names, too, must survive the power going.
        File::open(&self.dir)?.sync_all()
    }
}

/// The log files of a directory, oldest first.
pub fn log_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = rotated(dir)?;
    files.sort();
    let mut paths: Vec<_> = files.into_iter().map(|(_, _, path)| path).collect();
    let current = dir.join(CURRENT);
    if current.exists() {
        paths.push(current);
    }
    Ok(paths)
}

/// A checkpoint as a line of a log file.
pub fn checkpoint_line(checkpoint: &Checkpoint) -> io::Result<String> {
    Ok(format!("{{\"checkpoint\":{}}}\n", serde_json::to_string(checkpoint)?))
}

/// Where the whole lines of a file end, and what the last of them are.
#[derive(Debug, Default)]
struct FileEnd {
    size: u64,
    last: Option<(u64, String)>,
    checkpoint: Option<u64>,
}

/// Reads a file backwards, in ever longer pieces, until a record is found.
fn find_end(file: &mut File) -> io::Result<FileEnd> {
    let size = file.metadata()?.len();
    let mut piece = 64 * 1024;
    loop {
        let start = size.saturating_sub(piece);
        file.seek(SeekFrom::Start(start))?;
        let mut tail = Vec::new();
        file.take(size - start).read_to_end(&mut tail)?;
        let end = end_of(&tail, start);
        if end.last.is_some() || start == 0 {
            return Ok(end);
        }
        piece *= 4;
    }
}

/// The same of a file's tail that begins at `start`. Lines that cannot be read, at the end, count as torn.
fn end_of(tail: &[u8], start: u64) -> FileEnd {
    let mut found = FileEnd::default();
    let mut end = tail.len();
    while let Some(line_end) = tail[..end].iter().rposition(|&byte| byte == b'\n') {
        let begin = tail[..line_end].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let line = std::str::from_utf8(&tail[begin..line_end]).ok().and_then(|line| Line::parse(line).ok());
        if line.is_some() {
            found.size = found.size.max(start + line_end as u64 + 1);
        }
        match line {
            Some(Line::Record(record)) => {
                found.last = Some((record.seq, record.hash));
                return found;
            }
            Some(Line::Checkpoint(checkpoint)) => found.checkpoint = found.checkpoint.or(Some(checkpoint.seq)),
            None => {}
        }
        if begin == 0 {
            break;
        }
        end = begin;
    }
    found
}

fn first_record(file: &mut File) -> io::Result<Option<u64>> {
    file.seek(SeekFrom::Start(0))?;
    for line in BufReader::new(file).lines() {
        if let Ok(Line::Record(record)) = Line::parse(&line?) {
            return Ok(Some(record.seq));
        }
    }
    Ok(None)
}

fn last_rotated(dir: &Path) -> io::Result<u64> {
    Ok(rotated(dir)?.into_iter().map(|(_, last, _)| last).max().unwrap_or(0))
}

/// `(first, last, path)` of the closed files.
fn rotated(dir: &Path) -> io::Result<Vec<(u64, u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let numbers = name.to_str().and_then(|name| name.strip_prefix("audit-")?.strip_suffix(".jsonl"));
        let mut numbers = numbers.unwrap_or_default().split('-').map(str::parse::<u64>);
        if let (Some(Ok(first)), Some(Ok(last))) = (numbers.next(), numbers.next()) {
            files.push((first, last, entry.path()));
        }
    }
    Ok(files)
}
