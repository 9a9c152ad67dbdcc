//! Where nats-server and PostgreSQL are on this machine.
//!
//! The order is: the environment's override (which must then do), `PATH`, Debian's folders, our cache; and last a fetch into
//! the cache. A program that is too old is passed over and named in the error, never used.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::{DevstackError, Missing};
use crate::fetch::{self, NATS_WHEEL, POSTGRES_WHEEL, Wheel};
use crate::user::RunAs;
use crate::version::Version;

const NATS_AT_LEAST: Version = Version::new(2, 15, 0);
const POSTGRES_AT_LEAST: Version = Version::new(14, 0, 0);
const NATS_OVERRIDE: &str = "OMNIRELAY_NATS_SERVER";
const POSTGRES_OVERRIDE: &str = "OMNIRELAY_POSTGRES_BIN";

/// Where a program was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Named by `OMNIRELAY_NATS_SERVER` or `OMNIRELAY_POSTGRES_BIN`.
    Override,
    Path,
    /// `/usr/lib/postgresql/<version>/bin`.
    Debian,
    /// Fetched by us, now or earlier.
    Cache,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Override => "environment",
            Origin::Path => "PATH",
            Origin::Debian => "system packages",
            Origin::Cache => "omnirelay's cache",
        })
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Binary {
    /// The nats-server itself; for PostgreSQL the folder of `initdb` and `postgres`.
    pub(crate) path: PathBuf,
    pub(crate) version: Version,
    pub(crate) origin: Origin,
}

/// The places to look in. A value, so that tests can look elsewhere.
pub(crate) struct Places {
    path: OsString,
    debian: PathBuf,
    pub(crate) cache: PathBuf,
    nats_override: Option<PathBuf>,
    postgres_override: Option<PathBuf>,
    /// Must be able to run PostgreSQL's programs.
    run_as: Option<RunAs>,
}

impl Places {
    pub(crate) fn of_this_machine(run_as: Option<&RunAs>) -> Places {
        let path_var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Places {
            path: std::env::var_os("PATH").unwrap_or_default(),
            debian: "/usr/lib/postgresql".into(),
            cache: cache_dir(run_as),
            nats_override: path_var(NATS_OVERRIDE),
            postgres_override: path_var(POSTGRES_OVERRIDE),
            run_as: run_as.cloned(),
        }
    }

    /// nats-server, fetched if it is nowhere. Blocking.
    pub(crate) fn nats(&self) -> Result<Binary, DevstackError> {
        let found = self
            .find_nats()
            .or_else(|tried| self.fetch(&NATS_WHEEL, self.nats_override.is_some(), tried, || self.find_nats()));
        found.map_err(|tried| DevstackError::Missing(Box::new(missing_nats(tried))))
    }

    /// PostgreSQL, fetched if it is nowhere. Data of an earlier run wants the very `major` that wrote it. Blocking.
    pub(crate) fn postgres(&self, major: Option<u32>) -> Result<Binary, DevstackError> {
        let find = || self.find_postgres(major);
        let found = find().or_else(|tried| self.fetch(&POSTGRES_WHEEL, self.postgres_override.is_some(), tried, find));
        found.map_err(|tried| DevstackError::Missing(Box::new(missing_postgres(major, tried))))
    }

    /// Looks only. The error is what was tried.
    pub(crate) fn find_nats(&self) -> Result<Binary, Vec<String>> {
        let mut tried = Vec::new();
        if let Some(path) = &self.nats_override {
            return usable_nats(path, Origin::Override).map_err(|why| vec![format!("{NATS_OVERRIDE}: {why}")]);
        }
        let on_path = self.on_path("nats-server");
        if on_path.is_empty() {
            tried.push("PATH: no nats-server".to_owned());
        }
        let cached = NATS_WHEEL.program_in(&self.cache);
        for (path, origin) in on_path.into_iter().map(|p| (p, Origin::Path)).chain([(cached, Origin::Cache)]) {
            match usable_nats(&path, origin) {
                Ok(binary) => return Ok(binary),
                Err(why) => tried.push(format!("{origin}: {why}")),
            }
        }
        Err(tried)
    }

    /// Looks only. The error is what was tried.
    pub(crate) fn find_postgres(&self, major: Option<u32>) -> Result<Binary, Vec<String>> {
        let usable = |folder: &Path, origin| usable_postgres(folder, origin, major, self.run_as.as_ref());
        if let Some(folder) = &self.postgres_override {
            return usable(folder, Origin::Override).map_err(|why| vec![format!("{POSTGRES_OVERRIDE}: {why}")]);
        }
        let mut candidates: Vec<(PathBuf, Origin)> = Vec::new();
        for program in ["postgres", "initdb"].into_iter().flat_map(|name| self.on_path(name)) {
            // A link on PATH leads to the folder where initdb and the rest are.
            let Some(folder) = program.canonicalize().ok().and_then(|p| p.parent().map(Path::to_owned)) else {
                continue;
            };
            if !candidates.iter().any(|(known, _)| *known == folder) {
                candidates.push((folder, Origin::Path));
            }
        }
        let mut tried = Vec::new();
        if candidates.is_empty() {
            tried.push("PATH: neither postgres nor initdb".to_owned());
        }
        let packaged = debian_folders(&self.debian);
        if packaged.is_empty() {
            tried.push(format!("{}: no version of PostgreSQL", self.debian.display()));
        }
        candidates.extend(packaged.into_iter().map(|folder| (folder, Origin::Debian)));
        candidates.push((POSTGRES_WHEEL.program_in(&self.cache), Origin::Cache));
        for (folder, origin) in candidates {
            match usable(&folder, origin) {
                Ok(binary) => return Ok(binary),
                Err(why) => tried.push(format!("{origin}: {why}")),
            }
        }
        Err(tried)
    }

    /// The error is what was tried. An override is somebody's decision: then nothing is fetched behind their back.
    fn fetch<T>(
        &self,
        wheel: &Wheel,
        overridden: bool,
        mut tried: Vec<String>,
        find: impl Fn() -> Result<T, Vec<String>>,
    ) -> Result<T, Vec<String>> {
        if overridden {
            return Err(tried);
        }
        match fetch::into_cache(wheel, &self.cache) {
            Ok(()) => find(),
            Err(why) => {
                tried.push(format!("fetching {}: {why}", wheel.requirement()));
                Err(tried)
            }
        }
    }

    fn on_path(&self, program: &str) -> Vec<PathBuf> {
        std::env::split_paths(&self.path)
            .filter(|folder| folder.is_absolute())
            .map(|folder| folder.join(program))
            .filter(|path| is_executable(path))
            .collect()
    }
}

pub(crate) fn missing_nats(tried: Vec<String>) -> Missing {
    Missing {
        wanted: format!("nats-server {NATS_AT_LEAST} or newer"),
        tried,
        fixes: vec![
            format!("python3 -m pip install {}   (and have its bin folder on PATH)", NATS_WHEEL.requirement()),
            "apt-get install python3 python3-pip   (then omnirelay fetches it by itself)".to_owned(),
            format!("{NATS_OVERRIDE}=/path/to/nats-server"),
        ],
    }
}

pub(crate) fn missing_postgres(major: Option<u32>, tried: Vec<String>) -> Missing {
    let wanted = match major {
        Some(major) => format!("PostgreSQL {major} (which wrote the data in this state directory)"),
        None => format!("PostgreSQL {} or newer (initdb and postgres)", POSTGRES_AT_LEAST.major),
    };
    let mut fixes = match major {
        Some(major) => vec![
            format!("apt-get install postgresql-{major}"),
            "another state directory, or this one emptied".to_owned(),
        ],
        None => vec!["apt-get install postgresql".to_owned()],
    };
    fixes.push("apt-get install python3 python3-pip   (then omnirelay fetches it by itself)".to_owned());
    fixes.push(format!("{POSTGRES_OVERRIDE}=/path/to/postgresql/bin"));
    Missing { wanted, tried, fixes }
}

fn usable_nats(path: &Path, origin: Origin) -> Result<Binary, String> {
    if !is_executable(path) {
        return Err(format!("no {}", path.display()));
    }
    let version = Version::of(path).map_err(|why| format!("{} {why}", path.display()))?;
    if version < NATS_AT_LEAST {
        return Err(format!("{} is {version}, older than {NATS_AT_LEAST}", path.display()));
    }
    Ok(Binary { path: path.to_owned(), version, origin })
}

fn usable_postgres(
    folder: &Path,
    origin: Origin,
    major: Option<u32>,
    run_as: Option<&RunAs>,
) -> Result<Binary, String> {
    for program in ["postgres", "initdb"] {
        if !is_executable(&folder.join(program)) {
            return Err(format!("no {program} in {}", folder.display()));
        }
    }
    if let Some(user) = run_as.filter(|user| !folder.canonicalize().is_ok_and(|folder| user.reaches(&folder))) {
        return Err(format!("{} cannot be reached by the user {}", folder.display(), user.name));
    }
    let version = Version::of(&folder.join("postgres")).map_err(|why| format!("{} {why}", folder.display()))?;
    if version < POSTGRES_AT_LEAST {
        return Err(format!("{} is {version}, older than {}", folder.display(), POSTGRES_AT_LEAST.major));
    }
    if let Some(major) = major.filter(|major| *major != version.major) {
        return Err(format!("{} is {version}, but the data is of {major}", folder.display()));
    }
    Ok(Binary { path: folder.to_owned(), version, origin })
}

/// `<root>/<version>/bin`, the highest version first.
fn debian_folders(root: &Path) -> Vec<PathBuf> {
    let mut found: Vec<(Version, PathBuf)> = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((Version::parse(entry.file_name().to_str()?)?, entry.path().join("bin"))))
        .collect();
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, folder)| folder).collect()
}

/// The first of `$OMNIRELAY_CACHE`, `$XDG_CACHE_HOME/omnirelay` and `~/.cache/omnirelay` that is set, else a folder of the
/// temporary directory. As root, if PostgreSQL's user could not reach it (below `/root`, say), `/var/cache/omnirelay`.
fn cache_dir(run_as: Option<&RunAs>) -> PathBuf {
    let env = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let own = env("OMNIRELAY_CACHE")
        .or_else(|| Some(env("XDG_CACHE_HOME")?.join("omnirelay")))
        .or_else(|| Some(env("HOME")?.join(".cache/omnirelay")))
        .filter(|path| may_write(path))
        .unwrap_or_else(|| {
            std::env::temp_dir().join(format!("omnirelay-cache-{}", rustix::process::geteuid().as_raw()))
        });
    let reached = |user: &RunAs| {
        nearest_existing(&own).and_then(|path| path.canonicalize().ok()).is_some_and(|path| user.reaches(&path))
    };
    match run_as {
        Some(user) if !reached(user) => "/var/cache/omnirelay".into(),
        _ => own,
    }
}

fn nearest_existing(path: &Path) -> Option<&Path> {
    path.ancestors().find(|folder| folder.exists())
}

/// Whether the folder, or the nearest one above it that exists, is ours to write into.
fn may_write(path: &Path) -> bool {
    nearest_existing(path).is_some_and(|folder| rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok())
}

/// Whether nobody but us (or root) can have put the files of this folder there: `/tmp` is everybody's.
pub(crate) fn is_ours(folder: &Path) -> bool {
    let me = rustix::process::geteuid().as_raw();
    std::fs::symlink_metadata(folder).is_ok_and(|m| m.is_dir() && [me, 0].contains(&m.uid()) && m.mode() & 0o022 == 0)
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
#[path = "binaries_tests.rs"]
mod tests;
