//! Whom PostgreSQL runs as, and which folders that user can reach.
//!
//! PostgreSQL refuses to run as root. As root we run it as `postgres` where that user exists, else as `nobody`;
//! everything it touches must then be reachable for that user, which nothing below `/root` is.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::DevstackError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunAs {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl RunAs {
    /// `None` where we are not root and so may run PostgreSQL ourselves.
    pub(crate) fn for_postgres() -> Result<Option<RunAs>, DevstackError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        ["postgres", "nobody"].iter().find_map(|name| lookup(&passwd, name)).map(Some).ok_or(DevstackError::NoUser)
    }

    /// Whether this user may pass through `path` and every folder above it. `path` must be absolute.
    pub(crate) fn reaches(&self, path: &Path) -> bool {
        path.ancestors()
            .all(|folder| std::fs::metadata(folder).is_ok_and(|m| self.may_enter(m.mode(), m.uid(), m.gid())))
    }

    fn may_enter(&self, mode: u32, uid: u32, gid: u32) -> bool {
        let needed = if uid == self.uid {
            0o100
        } else if gid == self.gid {
            0o010
        } else {
            0o001
        };
        mode & needed != 0
    }
}

/// Finds a user in the text of an `/etc/passwd`: `name:x:uid:gid:...`.
fn lookup(passwd: &str, name: &str) -> Option<RunAs> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let uid: u32 = fields.nth(1)?.parse().ok()?;
        let gid: u32 = fields.next()?.parse().ok()?;
        // A `nobody` mapped to 0, as some odd containers have it, is root all the same.
        (uid != 0).then(|| RunAs { name: name.to_owned(), uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::{RunAs, lookup};

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\npostgres2:x:7:7::/:/bin/sh\npostgres:x:101:104:PostgreSQL,,,:/var/lib/postgresql:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\nodd:x:0:0::/:/bin/sh\ncut:x\n";

    #[test]
    fn users_are_found_by_their_whole_name() {
        let check = |name, expected: Option<(u32, u32)>| {
            assert_eq!(lookup(PASSWD, name).map(|u| (u.uid, u.gid)), expected, "{name}");
        };
        check("postgres", Some((101, 104)));
        check("nobody", Some((65534, 65534)));
        check("post", None);
        check("odd", None);
        check("cut", None);
    }

    #[test]
    fn a_folder_is_entered_by_the_first_class_that_fits() {
        let user = RunAs { name: "postgres".into(), uid: 101, gid: 104 };
        let check =
            |mode, uid, gid, expected| assert_eq!(user.may_enter(mode, uid, gid), expected, "{mode:o} {uid}:{gid}");
        check(0o700, 0, 0, false);
        check(0o711, 0, 0, true);
        check(0o700, 101, 0, true);
        check(0o677, 101, 0, false);
        check(0o710, 0, 104, true);
        check(0o701, 0, 104, false);
    }
}
