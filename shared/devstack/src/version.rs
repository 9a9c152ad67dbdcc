//! The version a program reports about itself.

use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) patch: u32,
}

impl Version {
    pub(crate) const fn new(major: u32, minor: u32, patch: u32) -> Version {
        Version { major, minor, patch }
    }

    /// Asks `program --version`. The error is a short reason, fit for a list of what was tried.
    pub(crate) fn of(program: &Path) -> Result<Version, String> {
        let output = Command::new(program)
            .arg("--version")
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .map_err(|e| format!("cannot be run: {e}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(format!("--version ended with {}: {}", output.status, why.trim()));
        }
        Version::parse(&said).ok_or_else(|| format!("reports no version: {:?}", said.trim()))
    }

    /// The first word that starts with a number, `v` or not: `nats-server: v2.15.1`, `postgres (PostgreSQL) 18beta1`.
    pub(crate) fn parse(text: &str) -> Option<Version> {
        text.split_whitespace().find_map(|word| {
            let word = word.strip_prefix('v').unwrap_or(word);
            let mut parts = word.split('.').map(leading_number);
            let major = parts.next()??;
            let mut next = || parts.next().flatten().unwrap_or(0);
            Some(Version { major, minor: next(), patch: next() })
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if self.patch > 0 { write!(f, ".{}", self.patch) } else { Ok(()) }
    }
}

fn leading_number(part: &str) -> Option<u32> {
    let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
    part[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::Version;

    #[test]
    fn versions_are_read_from_what_the_programs_print() {
        let check = |text, expected| assert_eq!(Version::parse(text), expected, "{text}");
        let v = |a, b, c| Some(Version::new(a, b, c));
        check("nats-server: v2.15.1\n", v(2, 15, 1));
        check("nats-server: v2.9.25-beta.2", v(2, 9, 25));
        check("postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)", v(15, 13, 0));
        check("postgres (PostgreSQL) 18beta1", v(18, 0, 0));
        check("postgres (PostgreSQL) 9.6.24", v(9, 6, 24));
        check("command not found", None);
        check("", None);
    }

    #[test]
    fn versions_compare_by_number_and_not_by_letter() {
        assert!(Version::new(2, 9, 0) < Version::new(2, 15, 0));
        assert!(Version::new(2, 15, 1) >= Version::new(2, 15, 0));
        assert!(Version::new(9, 6, 24) < Version::new(14, 0, 0));
    }

    #[test]
    fn a_program_that_cannot_run_says_so() {
        let why = Version::of(std::path::Path::new("/nowhere/nats-server")).unwrap_err();
        assert!(why.contains("cannot be run"), "{why}");
    }
}
