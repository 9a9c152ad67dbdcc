//! The journal's file: appended, synced, replayed, rewritten, and locked against a second agent.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::JournalError;
use super::state::{Entry, State};

/// How long an agent that was just stopped is given to let go of the file.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

pub struct JournalFile {
    path: PathBuf,
    file: File,
    /// Bytes that are whole lines. What a failed write left behind them is cut off.
    len: u64,
    /// Held while the journal is open. A file of its own, because compaction replaces the journal's.
    _lock: File,
}

impl JournalFile {
    /// Opens or creates the file and applies its lines to `state`.
    pub fn open(path: &Path, state: &mut State) -> Result<Self, JournalError> {
        let name = path.display().to_string();
        let failed = |source| JournalError::Io { path: name.clone(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let lock = lock(path)?;
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let whole = replay(&bytes, state).map_err(|(line, reason)| JournalError::Corrupt {
            path: name.clone(),
            line,
            reason,
        })?;
        if whole < bytes.len() {
            tracing::warn!(path = name, bytes = bytes.len() - whole, "cutting off the journal's torn last line");
            file.set_len(whole as u64).map_err(failed)?;
        }
        file.seek(SeekFrom::Start(whole as u64)).map_err(failed)?;
        sync_folder(path).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, len: whole as u64, _lock: lock })
    }

    /// Appends whole lines; with `sync` they are on the disk when this returns. On an error nothing of them remains.
    pub fn append(&mut self, lines: &[u8], sync: bool) -> io::Result<()> {
        let result = self.file.write_all(lines).and_then(|()| if sync { self.file.sync_data() } else { Ok(()) });
        match result {
            Ok(()) => {
                self.len += lines.len() as u64;
                Ok(())
            }
            Err(error) => {
                self.file.set_len(self.len)?;
                self.file.seek(SeekFrom::Start(self.len))?;
                Err(error)
            }
        }
    }

    /// Replaces the content, atomically.
    pub fn rewrite(&mut self, content: &[u8]) -> io::Result<()> {
        let beside = self.path.with_extension("new");
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&beside, &self.path)?;
        sync_folder(&self.path)?;
        self.file = file;
        self.len = content.len() as u64;
        Ok(())
    }

    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn path(&self) -> &str {
        self.path.to_str().unwrap_or("journal")
    }
}

/// Applies each line. Returns how many bytes are good: less than all when the file's end is torn.
fn replay(bytes: &[u8], state: &mut State) -> Result<usize, (usize, String)> {
    let mut good = 0;
    for (number, line) in bytes.split_inclusive(|&b| b == b'\n').enumerate() {
        let parsed = match line.strip_suffix(b"\n") {
            None => Err("it does not end".to_owned()),
            Some([]) => Ok(None),
            Some(text) => serde_json::from_slice::<Entry>(text).map(Some).map_err(|e| e.to_string()),
        };
        match parsed {
            Ok(entry) => {
                if let Some(entry) = entry {
                    state.apply(entry);
                }
                good += line.len();
            }
            Err(reason) if others_follow(&bytes[good + line.len()..]) => return Err((number + 1, reason)),
            Err(_) => return Ok(good),
        }
    }
    Ok(good)
}

fn others_follow(rest: &[u8]) -> bool {
    rest.split(|&b| b == b'\n').any(|line| serde_json::from_slice::<Entry>(line).is_ok())
}

fn lock(path: &Path) -> Result<File, JournalError> {
    let name = path.display().to_string();
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path.with_extension("lock"))
        .map_err(|source| JournalError::Io { path: name.clone(), source })?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => return Err(JournalError::Locked { path: name }),
            Err(TryLockError::Error(source)) => return Err(JournalError::Io { path: name, source }),
        }
    }
}

/// A new name is durable only when its folder is.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}
