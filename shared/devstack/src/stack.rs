//! The devstack itself: starts both servers, hands out their addresses, and stops, kills and restarts them on request.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::binaries::Places;
use crate::doctor::{self, Finding};
use crate::error::{DevstackError, Doing, blocking};
use crate::process::{Guardian, Server};
use crate::state::{Saved, StateDir};
use crate::user::RunAs;
use crate::watchdog::Watchdog;
use crate::{nats, ports, postgres};

/// What to start, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// Created if need be. The same directory again resumes the same data.
    pub state_dir: PathBuf,
    pub nats: bool,
    pub postgres: bool,
    /// PostgreSQL with little memory, for tests.
    pub small: bool,
}

impl Options {
    /// Both servers, as the product runs them.
    pub fn new(state_dir: impl Into<PathBuf>) -> Options {
        Options { state_dir: state_dir.into(), nats: true, postgres: true, small: false }
    }
}

/// A running nats-server and PostgreSQL, ours alone.
///
/// They stop when this is stopped or dropped, and also when the process ends without either. Prefer [`Devstack::stop`]:
/// dropping blocks the thread until the servers are gone.
pub struct Devstack {
    // Dropped in this order: servers, then the watchdog (which finds nothing left to stop), then the lock.
    nats: Option<Part<nats::Settings>>,
    postgres: Option<Part<postgres::Settings>>,
    _watchdog: Watchdog,
    state: StateDir,
}

/// One of the two servers. `server` is `None` while it is stopped.
struct Part<S> {
    server: Option<Server>,
    settings: S,
    url: String,
}

/// What only tests ask for.
#[derive(Default)]
pub(crate) struct Extras {
    pub(crate) test_accounts: usize,
    /// Delete everything when the process ends.
    pub(crate) disposable: bool,
}

impl Devstack {
    /// Finds or fetches the programs, starts them, and returns when both answer and the database exists.
    ///
    /// # Errors
    /// [`DevstackError::Held`] if another process has the state directory, [`DevstackError::Missing`] if a program is
    /// neither here nor to be fetched; else what the server or the operating system said.
    pub async fn start(options: Options) -> Result<Devstack, DevstackError> {
        Devstack::launch(options, Extras::default()).await
    }

    /// Which programs a start would use, or what is missing and how to get it. Starts and fetches nothing. Blocking.
    pub fn check() -> Vec<Finding> {
        doctor::check()
    }

    pub(crate) async fn launch(options: Options, extras: Extras) -> Result<Devstack, DevstackError> {
        let began = Instant::now();
        let (mut stack, mut saved) = blocking(move || Devstack::prepare(&options, &extras)).await?;
        let Devstack { nats, postgres, state, .. } = &mut stack;
        let (nats, postgres) = tokio::join!(start_nats_anywhere(state, nats), start_postgres_anywhere(state, postgres));
        saved.nats_port = nats?.or(saved.nats_port);
        saved.postgres_port = postgres?.or(saved.postgres_port);
        stack.state.save(&saved)?;
        tracing::info!(state_dir = %stack.state.root().display(), took_ms = began.elapsed().as_millis() as u64, "devstack is ready");
        Ok(stack)
    }

    /// Everything up to the first server. Blocking.
    fn prepare(options: &Options, extras: &Extras) -> Result<(Devstack, Saved), DevstackError> {
        let (state, mut saved) = StateDir::open(&options.state_dir)?;
        let run_as = if options.postgres { RunAs::for_postgres()? } else { None };
        let places = Places::of_this_machine(run_as.as_ref());
        let mut nats = None;
        if options.nats {
            let settings = nats::Settings {
                program: places.nats()?.path,
                port: free_port(saved.nats_port)?,
                password: saved.nats_password.clone(),
                test_accounts: extras.test_accounts,
            };
            nats = Some(Part { server: None, url: String::new(), settings });
        }
        let mut postgres = None;
        let mut delete = vec![state.root().to_owned()];
        if options.postgres {
            let home = postgres::home(state.root(), saved.postgres_home.as_deref(), run_as.as_ref())?;
            saved.postgres_home = (!home.starts_with(state.root())).then(|| home.clone());
            delete.extend(saved.postgres_home.clone());
            let settings = postgres::Settings {
                programs: places.postgres(postgres::major_of_data(&home))?.path,
                run_as: postgres::owner_of_data(&home, run_as),
                home,
                port: free_port(saved.postgres_port)?,
                password: saved.postgres_password.clone(),
                small: options.small,
                disposable: extras.disposable,
            };
            postgres = Some(Part { server: None, url: String::new(), settings });
        }
        // Before the first server: a password must not be forgotten once it is in use.
        state.save(&saved)?;
        let watchdog = Watchdog::start(state.run(), if extras.disposable { &delete } else { &[] })?;
        Ok((Devstack { nats, postgres, _watchdog: watchdog, state }, saved))
    }

    /// `nats://user:password@127.0.0.1:port`, empty in a stack without NATS.
    pub fn nats_url(&self) -> &str {
        self.nats.as_ref().map_or("", |part| &part.url)
    }

    /// `postgres://omnirelay:password@127.0.0.1:port/omnirelay`, empty in a stack without PostgreSQL.
    pub fn database_url(&self) -> &str {
        self.postgres.as_ref().map_or("", |part| &part.url)
    }

    /// `None` while it is stopped.
    pub fn nats_pid(&self) -> Option<u32> {
        self.nats.as_ref()?.server.as_ref().map(Server::pid)
    }

    /// `None` while it is stopped.
    pub fn postgres_pid(&self) -> Option<u32> {
        self.postgres.as_ref()?.server.as_ref().map(Server::pid)
    }

    /// The state directory, with every link in it resolved.
    pub fn state_dir(&self) -> &Path {
        self.state.root()
    }

    /// Has the watchdog end processes of the caller's too, should this process end without doing so itself.
    pub fn guardian(&self) -> Guardian {
        Guardian::new(self.state.run())
    }

    /// Makes an empty database beside `omnirelay` and returns its URL.
    ///
    /// # Errors
    /// [`DevstackError::DatabaseName`] for anything but a plain lower-case identifier.
    pub async fn create_database(&self, name: &str) -> Result<String, DevstackError> {
        let part = self.postgres.as_ref().ok_or(DevstackError::NotStarted(postgres::NAME))?;
        postgres::create_database(&part.settings, name).await?;
        Ok(part.settings.url(name))
    }

    /// The URL of test account number `account`.
    pub(crate) fn nats_account_url(&self, account: usize) -> Option<String> {
        let settings = &self.nats.as_ref()?.settings;
        (account < settings.test_accounts).then(|| nats::url(settings, Some(account)))
    }

    /// Stops nats-server cleanly. Does nothing if it is stopped.
    pub async fn stop_nats(&mut self) -> Result<(), DevstackError> {
        stop(&mut nats_part(&mut self.nats)?.server).await;
        Ok(())
    }

    /// Starts nats-server again, with the same port and data. Does nothing if it runs.
    pub async fn start_nats(&mut self) -> Result<(), DevstackError> {
        let part = nats_part(&mut self.nats)?;
        if part.runs() {
            return Ok(());
        }
        part.server = None;
        await_port(part.settings.port).await;
        part.server = Some(nats::start(&self.state, &part.settings).await?);
        Ok(())
    }

    /// Kills nats-server as a crash would (SIGKILL).
    pub async fn kill_nats(&mut self) -> Result<(), DevstackError> {
        kill(&mut nats_part(&mut self.nats)?.server).await;
        Ok(())
    }

    /// Stops nats-server and deletes everything JetStream held. It stays stopped until [`Devstack::start_nats`].
    pub async fn wipe_nats(&mut self) -> Result<(), DevstackError> {
        self.stop_nats().await?;
        let store = nats::store(self.state.root());
        if !store.exists() { Ok(()) } else { tokio::fs::remove_dir_all(&store).await.doing("remove", &store) }
    }

    /// Stops PostgreSQL cleanly, ending its sessions. Does nothing if it is stopped.
    pub async fn stop_postgres(&mut self) -> Result<(), DevstackError> {
        stop(&mut postgres_part(&mut self.postgres)?.server).await;
        Ok(())
    }

    /// Starts PostgreSQL again, with the same port and data. Does nothing if it runs.
    pub async fn start_postgres(&mut self) -> Result<(), DevstackError> {
        let part = postgres_part(&mut self.postgres)?;
        if part.runs() {
            return Ok(());
        }
        part.server = None;
        await_port(part.settings.port).await;
        part.server = Some(postgres::start(&self.state, &part.settings).await?);
        Ok(())
    }

    /// Kills PostgreSQL's first process as a crash would (SIGKILL); its children follow by themselves.
    pub async fn kill_postgres(&mut self) -> Result<(), DevstackError> {
        kill(&mut postgres_part(&mut self.postgres)?.server).await;
        Ok(())
    }

    /// Stops both servers cleanly, by force after ten seconds. The data stays.
    pub async fn stop(mut self) -> Result<(), DevstackError> {
        self.stop_servers().await;
        blocking(move || drop(self)).await;
        Ok(())
    }

    /// Stops both servers and deletes the state directory, and PostgreSQL's data wherever it is.
    pub async fn remove(mut self) -> Result<(), DevstackError> {
        self.stop_servers().await;
        blocking(move || {
            let home = self.postgres.as_ref().map(|part| part.settings.home.clone());
            for folder in home.iter().map(PathBuf::as_path).chain([self.state.root()]) {
                std::fs::remove_dir_all(folder).doing("remove", folder)?;
            }
            // Only now, because this ends our hold on the directory.
            drop(self);
            Ok(())
        })
        .await
    }

    async fn stop_servers(&mut self) {
        let mut nats = self.nats.as_mut().and_then(|part| part.server.take());
        let mut postgres = self.postgres.as_mut().and_then(|part| part.server.take());
        tokio::join!(stop(&mut nats), stop(&mut postgres));
    }
}

impl Drop for Devstack {
    /// Asks both servers before either is waited for; the waiting is in [`Server`]'s own drop.
    fn drop(&mut self) {
        for server in [
            self.nats.as_mut().and_then(|part| part.server.as_mut()),
            self.postgres.as_mut().and_then(|part| part.server.as_mut()),
        ]
        .into_iter()
        .flatten()
        {
            server.ask_to_stop();
        }
    }
}

impl<S> Part<S> {
    fn runs(&mut self) -> bool {
        self.server.as_mut().is_some_and(|server| server.exited().is_none())
    }
}

/// Between our choice of a port and the server's taking it, somebody else may.
const PORT_ATTEMPTS: u32 = 5;

/// Returns the port it runs on.
async fn start_nats_anywhere(
    state: &StateDir,
    part: &mut Option<Part<nats::Settings>>,
) -> Result<Option<u16>, DevstackError> {
    let Some(part) = part else { return Ok(None) };
    let mut attempt = 1;
    part.server = loop {
        match nats::start(state, &part.settings).await {
            Ok(server) => break Some(server),
            Err(e) if is_port_taken(&e) && attempt < PORT_ATTEMPTS => part.settings.port = free_port(None)?,
            Err(e) => return Err(e),
        }
        attempt += 1;
    };
    part.url = nats::url(&part.settings, None);
    Ok(Some(part.settings.port))
}

/// Returns the port it runs on.
async fn start_postgres_anywhere(
    state: &StateDir,
    part: &mut Option<Part<postgres::Settings>>,
) -> Result<Option<u16>, DevstackError> {
    let Some(part) = part else { return Ok(None) };
    let mut attempt = 1;
    part.server = loop {
        match postgres::start(state, &part.settings).await {
            Ok(server) => break Some(server),
            Err(e) if is_port_taken(&e) && attempt < PORT_ATTEMPTS => part.settings.port = free_port(None)?,
            Err(e) => return Err(e),
        }
        attempt += 1;
    };
    part.url = part.settings.url(postgres::DATABASE);
    Ok(Some(part.settings.port))
}

fn free_port(preferred: Option<u16>) -> Result<u16, DevstackError> {
    ports::free(preferred).doing("find a free port on", Path::new("127.0.0.1"))
}

/// A server that comes back must come back where its clients look for it. What holds the port for a moment after a kill
/// lets go soon; if not, the server's own error tells.
async fn await_port(port: u16) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !ports::is_free(port) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn is_port_taken(error: &DevstackError) -> bool {
    matches!(error, DevstackError::Server { log, .. } if log.to_lowercase().contains("address already in use"))
}

fn nats_part(part: &mut Option<Part<nats::Settings>>) -> Result<&mut Part<nats::Settings>, DevstackError> {
    part.as_mut().ok_or(DevstackError::NotStarted(nats::NAME))
}

fn postgres_part(part: &mut Option<Part<postgres::Settings>>) -> Result<&mut Part<postgres::Settings>, DevstackError> {
    part.as_mut().ok_or(DevstackError::NotStarted(postgres::NAME))
}

async fn stop(server: &mut Option<Server>) {
    if let Some(server) = server.take() {
        server.stop().await;
    }
}

async fn kill(server: &mut Option<Server>) {
    if let Some(server) = server.take() {
        server.kill().await;
    }
}
