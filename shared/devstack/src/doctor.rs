//! What `omnirelay doctor` tells about the two programs, without fetching or starting anything.

use std::fmt;
use std::path::PathBuf;

use crate::binaries::{Binary, Origin, Places, missing_nats, missing_postgres};
use crate::error::Missing;
use crate::fetch;
use crate::user::RunAs;

/// One program a devstack needs, and how it stands with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `nats-server` or `PostgreSQL`.
    pub program: &'static str,
    pub availability: Availability,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// Here and new enough. `path` is the program, or PostgreSQL's folder of programs.
    Ready { version: String, path: PathBuf, origin: Origin },
    /// Not here; the next start will fetch it into `cache`.
    Fetchable { tried: Vec<String>, cache: PathBuf },
    /// Not here, and this machine cannot fetch it.
    Missing(Missing),
}

impl Finding {
    /// Whether a start would find or fetch the program, as far as can be told without trying.
    pub fn is_good(&self) -> bool {
        !matches!(self.availability, Availability::Missing(_))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.availability {
            Availability::Ready { version, path, origin } => {
                write!(f, "{} {version} ({origin}: {})", self.program, path.display())
            }
            Availability::Fetchable { cache, .. } => {
                write!(f, "{} is not on this machine; it will be fetched into {}", self.program, cache.display())
            }
            Availability::Missing(missing) => missing.fmt(f),
        }
    }
}

/// Blocking, for a few tens of milliseconds.
pub(crate) fn check() -> Vec<Finding> {
    // Without an unprivileged user PostgreSQL cannot run; a start says so. The programs can be looked for all the same.
    let run_as = RunAs::for_postgres().unwrap_or_default();
    let places = Places::of_this_machine(run_as.as_ref());
    let availability = |found: Result<Binary, Vec<String>>, missing: fn(Vec<String>) -> Missing| match found {
        Ok(binary) => {
            Availability::Ready { version: binary.version.to_string(), path: binary.path, origin: binary.origin }
        }
        Err(mut tried) => match fetch::possible() {
            Ok(()) => Availability::Fetchable { tried, cache: places.cache.clone() },
            Err(why) => {
                tried.push(format!("fetching it: {why}"));
                Availability::Missing(missing(tried))
            }
        },
    };
    vec![
        Finding { program: "nats-server", availability: availability(places.find_nats(), missing_nats) },
        Finding {
            program: "PostgreSQL",
            availability: availability(places.find_postgres(None), |tried| missing_postgres(None, tried)),
        },
    ]
}
