//! The state directory: who holds it, what is remembered in it, and what an earlier run left running.
//!
//! ```text
//! <state dir>/
//!   lock            held (flock) by the process that runs the stack, and naming it
//!   devstack.json   ports and passwords, 0600
//!   run/<run>/      one pid file for each server of one run
//!   log/            what the servers print
//!   nats/           nats.conf, 0600, and JetStream's store
//!   postgres/       PostgreSQL's data, unless its user cannot come here (see `postgres`)
//! ```

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rand::distr::{Alphanumeric, SampleString};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{DevstackError, Doing};
use crate::process::Leftover;
use crate::{nats, postgres};

/// What a state directory remembers from one run to the next.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Saved {
    pub(crate) nats_port: Option<u16>,
    pub(crate) postgres_port: Option<u16>,
    pub(crate) nats_password: String,
    pub(crate) postgres_password: String,
    /// Where PostgreSQL's data is, when it is not in the state directory.
    pub(crate) postgres_home: Option<PathBuf>,
}

/// A state directory that is ours until dropped.
pub(crate) struct StateDir {
    root: PathBuf,
    run: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Creates the directory if need be, locks it, and stops the servers of a predecessor that was killed. Blocking.
    pub(crate) fn open(dir: &Path) -> Result<(StateDir, Saved), DevstackError> {
        // Root's PostgreSQL user must be able to pass through; the secrets inside have modes of their own.
        let mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
        create_dir(dir, mode)?;
        let root = dir.canonicalize().doing("resolve", dir)?;
        let lock = lock(&root)?;
        let saved = load(&root)?;
        stop_leftovers(&root, &saved)?;

        let token = Alphanumeric.sample_string(&mut rand::rng(), 8);
        let run = root.join("run").join(format!("{}-{token}", std::process::id()));
        create_dir(&run, 0o700)?;
        create_dir(&root.join("log"), 0o700)?;
        Ok((StateDir { root, run, _lock: lock }, saved))
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where this run's pid files are. Each run has its own, so that a predecessor's watchdog never sees ours.
    pub(crate) fn run(&self) -> &Path {
        &self.run
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.root.join("log").join(format!("{name}.log"))
    }

    /// Remembers ports and passwords, all or nothing.
    pub(crate) fn save(&self, saved: &Saved) -> Result<(), DevstackError> {
        let path = self.root.join("devstack.json");
        let text = serde_json::to_vec_pretty(saved).map_err(std::io::Error::from).doing("write", &path)?;
        write_private(&path, &text)
    }
}

/// Writes a file of mode 0600 by way of a second one, so that a crash leaves the old content or the new.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), DevstackError> {
    let new = path.with_extension("new");
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    write().doing("write", path)
}

/// Creates a folder and those above it. An existing one keeps its mode.
pub(crate) fn create_dir(path: &Path, mode: u32) -> Result<(), DevstackError> {
    DirBuilder::new().recursive(true).mode(mode).create(path).doing("create", path)
}

fn lock(root: &Path) -> Result<File, DevstackError> {
    let path = root.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .doing("open", &path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let holder = if holder.is_empty() { "(unknown)".to_owned() } else { holder.trim().to_owned() };
            return Err(DevstackError::Held { dir: root.to_owned(), holder });
        }
        Err(TryLockError::Error(e)) => return Err(e).doing("lock", &path),
    }
    let name_ourselves = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(std::process::id().to_string().as_bytes())
    };
    name_ourselves(&mut file).doing("write", &path)?;
    Ok(file)
}

fn load(root: &Path) -> Result<Saved, DevstackError> {
    let path = root.join("devstack.json");
    match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map_err(std::io::Error::from).doing("read", &path),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let password = || Alphanumeric.sample_string(&mut rand::rng(), 32);
            Ok(Saved {
                nats_port: None,
                postgres_port: None,
                nats_password: password(),
                postgres_password: password(),
                postgres_home: None,
            })
        }
        Err(e) => Err(e).doing("read", &path),
    }
}

/// We hold the lock, so whoever started these is gone, and its watchdog may be gone too or still at work.
fn stop_leftovers(root: &Path, saved: &Saved) -> Result<(), DevstackError> {
    let marks: Vec<&Path> = std::iter::once(root).chain(saved.postgres_home.as_deref()).collect();
    let Ok(runs) = std::fs::read_dir(root.join("run")) else { return Ok(()) };
    for run in runs.flatten().map(|entry| entry.path()) {
        for pid_file in std::fs::read_dir(&run).into_iter().flatten().flatten().map(|entry| entry.path()) {
            let Some(leftover) = Leftover::read(&pid_file).filter(|l| l.lives(&marks)) else { continue };
            let (server, polite) = match pid_file.file_stem().and_then(|stem| stem.to_str()) {
                Some(nats::NAME) => (nats::NAME, nats::POLITE),
                Some(postgres::NAME) => (postgres::NAME, postgres::POLITE),
                _ => ("a process", Signal::TERM),
            };
            tracing::info!(server, pid = leftover.pid(), "stopping what a killed predecessor left running");
            if !leftover.stop(polite, &marks) {
                let what = format!("of a killed predecessor (process {}) cannot be stopped", leftover.pid());
                return Err(DevstackError::Server { server, what, log: String::new() });
            }
        }
        // The predecessor's watchdog removes the same folder; whoever is second finds nothing.
        let _ = std::fs::remove_dir_all(&run);
    }
    Ok(())
}

/// Stands for a path where a short, plain name is wanted.
pub(crate) fn short_hash(path: &Path) -> String {
    Sha256::digest(path.as_os_str().as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
