//! PostgreSQL: where its data is, how a new cluster is made, its settings, its start, and when it is ready.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{AssertSqlSafe, Connection, Executor};

use crate::error::{DevstackError, Doing};
use crate::process::{Server, Spec};
use crate::state::{StateDir, create_dir, short_hash};
use crate::user::RunAs;

pub(crate) const NAME: &str = "PostgreSQL";
/// PostgreSQL's "fast" shutdown: sessions are ended, the data is left clean.
pub(crate) const POLITE: Signal = Signal::INT;
pub(crate) const DATABASE: &str = "omnirelay";
const USER: &str = "omnirelay";
const READY_WITHIN: Duration = Duration::from_secs(60);

pub(crate) struct Settings {
    /// The folder of `initdb` and `postgres`.
    pub(crate) programs: PathBuf,
    /// Holds the data and belongs to PostgreSQL's user alone.
    pub(crate) home: PathBuf,
    pub(crate) run_as: Option<RunAs>,
    pub(crate) port: u16,
    pub(crate) password: String,
    /// Little memory, for tests.
    pub(crate) small: bool,
    /// The data goes with the process: nothing needs to survive a power cut.
    pub(crate) disposable: bool,
}

impl Settings {
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://{USER}:{}@{}:{}/{database}", self.password, Ipv4Addr::LOCALHOST, self.port)
    }

    async fn connect(&self, database: &str) -> Result<PgConnection, sqlx::Error> {
        // Not from the URL: that would take what is missing in it from PGHOST and its like.
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .username(USER)
            .password(&self.password)
            .database(database)
            .ssl_mode(PgSslMode::Disable);
        PgConnection::connect_with(&options).await
    }
}

/// The folder for PostgreSQL's data: in the state directory, unless PostgreSQL's user cannot come there (root's own
/// folders are closed to others). Then it is one in the temporary directory, `recorded` in the state directory.
pub(crate) fn home(root: &Path, recorded: Option<&Path>, run_as: Option<&RunAs>) -> Result<PathBuf, DevstackError> {
    let Some(user) = run_as else { return Ok(root.join("postgres")) };
    if user.reaches(root) {
        return Ok(root.join("postgres"));
    }
    if let Some(home) = recorded.filter(|home| home.is_dir()) {
        return Ok(home.to_owned());
    }
    let temp = [std::env::temp_dir(), "/tmp".into(), "/var/tmp".into()];
    let temp = temp.iter().filter_map(|dir| dir.canonicalize().ok()).find(|dir| user.reaches(dir));
    let Some(temp) = temp else {
        let what = format!(
            "has no folder for its data: neither the state directory nor a temporary one can be reached by the user {}",
            user.name
        );
        return Err(DevstackError::Server { server: NAME, what, log: String::new() });
    };
    let home = temp.join(format!("omnirelay-postgres-{}", short_hash(root)));
    // Nothing records it, so the state directory it belonged to is gone, and its password with it.
    if home.symlink_metadata().is_ok() {
        std::fs::remove_dir_all(&home).doing("remove", &home)?;
    }
    tracing::info!(home = %home.display(), user = user.name, "PostgreSQL's user cannot reach the state directory, its data goes to the temporary directory");
    Ok(home)
}

/// The major version that wrote the data, if there is data.
pub(crate) fn major_of_data(home: &Path) -> Option<u32> {
    std::fs::read_to_string(home.join("data/PG_VERSION")).ok()?.trim().parse().ok()
}

/// Data of an earlier run belongs to the user it ran as: PostgreSQL refuses any other.
pub(crate) fn owner_of_data(home: &Path, run_as: Option<RunAs>) -> Option<RunAs> {
    let user = run_as?;
    match std::fs::metadata(home.join("data")) {
        Ok(m) if m.uid() != 0 && m.uid() != user.uid => {
            Some(RunAs { name: format!("uid {}", m.uid()), uid: m.uid(), gid: m.gid() })
        }
        _ => Some(user),
    }
}

/// Makes the cluster if there is none, starts the server, waits until it answers, and makes the database if there is none.
pub(crate) async fn start(state: &StateDir, settings: &Settings) -> Result<Server, DevstackError> {
    let data = settings.home.join("data");
    if !data.is_dir() {
        initialise(state, settings, &data).await?;
    }
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let mut server = spawn(state, settings, "postgres", NAME, server_args(settings, &data))?;
        match ready(&mut server, settings, deadline).await {
            Ok(()) => {
                ensure_database(settings).await?;
                return Ok(server);
            }
            // After a kill, the old server's children hold its memory for the moment they need to notice.
            Err(e) if e.to_string().contains("pre-existing shared memory") && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(e) => return Err(e),
        }
    }
}

/// Makes an empty database. The name must be a plain identifier.
pub(crate) async fn create_database(settings: &Settings, name: &str) -> Result<(), DevstackError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.is_empty() || name.len() > 63 || !name.chars().all(plain) || name.starts_with(|c: char| c.is_ascii_digit())
    {
        return Err(DevstackError::DatabaseName(name.to_owned()));
    }
    let create = async {
        let mut connection = settings.connect("postgres").await?;
        connection.execute(AssertSqlSafe(format!("create database {name} template template0"))).await?;
        connection.close().await
    };
    create.await.map_err(|source| DevstackError::Database { what: format!("create the database {name}"), source })
}

/// Makes the cluster beside its place and moves it there, so that a start cut short leaves none.
async fn initialise(state: &StateDir, settings: &Settings, data: &Path) -> Result<(), DevstackError> {
    let home = &settings.home;
    let (new, password) = (home.join("data.new"), home.join("password.new"));
    create_dir(home, 0o700)?;
    if new.is_dir() {
        std::fs::remove_dir_all(&new).doing("remove", &new)?;
    }
    crate::state::write_private(&password, settings.password.as_bytes())?;
    if let Some(user) = &settings.run_as {
        for path in [home.as_path(), &password] {
            std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)).doing("change the owner of", path)?;
        }
    }
    let mut args: Vec<OsString> =
        vec!["--pgdata".into(), new.clone().into(), "--pwfile".into(), password.clone().into()];
    args.extend(
        ["--username", USER, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"].map(OsString::from),
    );
    let mut initdb = spawn(state, settings, "initdb", "initdb", args)?;
    let status = initdb.wait(READY_WITHIN).await;
    std::fs::remove_file(&password).doing("remove", &password)?;
    match status {
        Some(status) if status.success() => {}
        Some(status) => return Err(initdb.failed(format!("could not make PostgreSQL's data folder ({status})"))),
        None => {
            return Err(
                initdb.failed(format!("did not make PostgreSQL's data folder within {} s", READY_WITHIN.as_secs()))
            );
        }
    }
    std::fs::rename(&new, data).doing("put into place", data)
}

fn spawn(
    state: &StateDir,
    settings: &Settings,
    program: &str,
    name: &'static str,
    args: Vec<OsString>,
) -> Result<Server, DevstackError> {
    let program = settings.programs.join(program);
    let run_as = settings.run_as.as_ref();
    Server::spawn(Spec {
        name,
        program: &program,
        args,
        run_as,
        run: state.run(),
        log: state.log(name),
        polite: POLITE,
    })
}

fn server_args(settings: &Settings, data: &Path) -> Vec<OsString> {
    let port = format!("port={}", settings.port);
    let memory = if settings.small { "shared_buffers=32MB" } else { "shared_buffers=128MB" };
    // A killed server loses nothing by this: what it wrote is the kernel's. Only a power cut would tell.
    let fsync = if settings.disposable { "fsync=off" } else { "fsync=on" };
    let mut args: Vec<OsString> = vec!["-D".into(), data.into()];
    for setting in [
        "listen_addresses=127.0.0.1",
        &port,
        "unix_socket_directories=",
        "max_connections=200",
        memory,
        fsync,
        "autovacuum=on",
        "random_page_cost=1.1",
        "jit=off",
        "timezone=UTC",
        "log_timezone=UTC",
    ] {
        args.extend(["-c".into(), setting.into()]);
    }
    args
}

async fn ready(server: &mut Server, settings: &Settings, deadline: Instant) -> Result<(), DevstackError> {
    loop {
        if let Some(status) = server.exited() {
            return Err(server.failed(format!("ended at its start ({status})")));
        }
        let why = match answers(settings).await {
            Ok(()) => return Ok(()),
            Err(e) => e,
        };
        // 28: a wrong password. Either the state directory lost its own, or this is somebody else's server on our port,
        // and then ours is about to end.
        let refused = why.as_database_error().and_then(|e| e.code()).is_some_and(|code| code.starts_with("28"));
        if refused && server.wait(Duration::from_secs(1)).await.is_none() {
            return Err(
                server.failed("does not know the password of this state directory: remove the directory to start anew")
            );
        }
        if Instant::now() >= deadline {
            return Err(server.failed(format!("did not answer within {} s: {why}", READY_WITHIN.as_secs())));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn answers(settings: &Settings) -> Result<(), sqlx::Error> {
    let mut connection = settings.connect("postgres").await?;
    connection.execute("select 1").await?;
    connection.close().await
}

async fn ensure_database(settings: &Settings) -> Result<(), DevstackError> {
    let exists = async {
        let mut connection = settings.connect("postgres").await?;
        let exists: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(DATABASE)
            .fetch_one(&mut connection)
            .await?;
        connection.close().await?;
        Ok(exists)
    };
    let exists =
        exists.await.map_err(|source| DevstackError::Database { what: "list the databases".to_owned(), source })?;
    if exists { Ok(()) } else { create_database(settings, DATABASE).await }
}
