//! Everything that can keep a devstack from running, each with what its reader can do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a devstack could not start, stop or do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DevstackError {
    /// A program is neither on this machine nor could it be fetched.
    #[error("{0}")]
    Missing(Box<Missing>),
    /// Another live process has this state directory.
    #[error("{} is in use by process {holder}: stop that process, or choose another state directory", dir.display())]
    Held { dir: PathBuf, holder: String },
    /// A server ended or did not become ready. `log` holds the last lines it wrote.
    #[error("{server} {what}{}", quoted(log))]
    Server { server: &'static str, what: String, log: String },
    /// A server which this stack was started without.
    #[error("this devstack was started without {0}")]
    NotStarted(&'static str),
    /// A name for a database that is not a plain lower-case identifier.
    #[error("{0:?} is no name for a database: use a-z, 0-9 and _, at most 63, not starting with a digit")]
    DatabaseName(String),
    /// PostgreSQL refused a statement of ours.
    #[error("cannot {what}")]
    Database { what: String, source: sqlx::Error },
    /// The operating system refused something.
    #[error("cannot {what}")]
    Io { what: String, source: io::Error },
    /// As root, PostgreSQL needs an unprivileged user, and there is none.
    #[error(
        "PostgreSQL refuses to run as root, and /etc/passwd names neither a user postgres nor nobody: add one (useradd --system postgres)"
    )]
    NoUser,
}

/// A program that is not here: what was tried, and the commands that put it right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The program and the versions that would do, such as `nats-server 2.15 or newer`.
    pub wanted: String,
    /// One line for each place looked at, and for the fetch.
    pub tried: Vec<String>,
    /// Any one of these helps.
    pub fixes: Vec<String>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is missing.\nTried:", self.wanted)?;
        for line in &self.tried {
            write!(f, "\n  - {line}")?;
        }
        write!(f, "\nAny one of these puts it right:")?;
        for line in &self.fixes {
            write!(f, "\n  - {line}")?;
        }
        Ok(())
    }
}

/// Names what was being done, and to which path, when an I/O call failed.
pub(crate) trait Doing<T> {
    fn doing(self, what: &str, path: &Path) -> Result<T, DevstackError>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: &str, path: &Path) -> Result<T, DevstackError> {
        self.map_err(|e| DevstackError::Io { what: format!("{what} {}", path.display()), source: e.into() })
    }
}

/// A blocking closure's panic goes on in the caller; it is a bug, never a state of the machine.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}

fn quoted(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!("; its last lines:\n{log}") }
}
