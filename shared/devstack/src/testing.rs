//! Devstacks for tests.
//!
//! [`shared`] gives all tests of one process one stack: each test takes a database and a NATS account of its own from it,
//! and none may stop a server. [`own`] gives a test a stack to itself, to stop and kill servers in.
//! Both live in fresh temporary directories, which disappear with the stack or with the process: statics are not
//! dropped when a process exits, so it is the watchdog that cleans up after the shared one.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::OnceCell;

use crate::stack::{Devstack, Extras, Options};

/// JetStream's names are global in an account, hence one account for each test of the largest test binary.
const ACCOUNTS: usize = 256;

/// The stack of this process, with what its tests have taken from it.
pub struct SharedStack {
    stack: Devstack,
    databases: AtomicUsize,
    accounts: AtomicUsize,
}

/// The stack that all tests of this process share. The first caller starts it.
///
/// # Panics
/// If it cannot be started, with the reason.
pub async fn shared() -> &'static SharedStack {
    static SHARED: OnceCell<SharedStack> = OnceCell::const_new();
    SHARED
        .get_or_init(|| async {
            SharedStack {
                stack: disposable(ACCOUNTS).await,
                databases: AtomicUsize::new(0),
                accounts: AtomicUsize::new(0),
            }
        })
        .await
}

/// A stack for the caller alone, in a temporary directory that is removed with it.
///
/// # Panics
/// If it cannot be started, with the reason.
pub async fn own() -> Devstack {
    disposable(0).await
}

impl SharedStack {
    /// The account that all tests share. Prefer [`SharedStack::nats_account`].
    pub fn nats_url(&self) -> &str {
        self.stack.nats_url()
    }

    /// The URL of a new, empty database.
    ///
    /// # Panics
    /// If PostgreSQL refuses.
    pub async fn database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.stack.create_database(&name).await.unwrap_or_else(|e| panic!("{}", with_causes(&e)))
    }

    /// The URL of a NATS account that nobody else has, with its own subjects and its own JetStream.
    ///
    /// # Panics
    /// After 256 accounts in one process.
    #[expect(clippy::unused_async, reason = "making an account may come to need the server, as making a database does")]
    pub async fn nats_account(&self) -> String {
        let account = self.accounts.fetch_add(1, Ordering::Relaxed);
        self.stack
            .nats_account_url(account)
            .unwrap_or_else(|| panic!("all {ACCOUNTS} NATS accounts of this process are taken"))
    }
}

async fn disposable(test_accounts: usize) -> Devstack {
    // As root, PostgreSQL's user must be able to pass through.
    let folder = tempfile::Builder::new()
        .prefix("omnirelay-test-")
        .permissions(Permissions::from_mode(0o711))
        .tempdir()
        .unwrap_or_else(|e| panic!("cannot make a temporary directory: {e}"));
    let options = Options { small: true, ..Options::new(folder.path()) };
    match Devstack::launch(options, Extras { test_accounts, disposable: true }).await {
        Ok(stack) => {
            // From here on it is the watchdog's.
            let _ = folder.keep();
            stack
        }
        Err(e) => panic!("the devstack for the tests cannot start: {}", with_causes(&e)),
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |e| e.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
