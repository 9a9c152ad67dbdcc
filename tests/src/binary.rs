//! The binaries under test: built once per test process, in the profile of the tests.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

/// The path of `omnirelay`. Building is cargo's business: it does nothing when everything is fresh, and its own lock keeps
/// test processes apart. `OMNIRELAY_BIN` names one that exists already.
///
/// # Panics
/// If it cannot be built.
pub fn binary() -> &'static PathBuf {
    static BINARY: LazyLock<PathBuf> = LazyLock::new(|| match std::env::var_os("OMNIRELAY_BIN") {
        Some(path) => path.into(),
        None => build("omnirelay"),
    });
    &BINARY
}

/// The path of the approval bot, found in the same way; `OMNIRELAY_BOT_BIN` names one that exists already.
///
/// # Panics
/// If it cannot be built.
pub fn bot_binary() -> &'static PathBuf {
    static BINARY: LazyLock<PathBuf> = LazyLock::new(|| match std::env::var_os("OMNIRELAY_BOT_BIN") {
        Some(path) => path.into(),
        None => build("omnirelay-approval-bot"),
    });
    &BINARY
}

/// Package and binary have one name.
fn build(name: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--package", name, "--bin", name, "--message-format=json"]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null()).stderr(Stdio::inherit());
    // The variables of a running `cargo test` describe this package, not the one to build.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST") || text == "CARGO_CRATE_NAME" {
            command.env_remove(&name);
        }
    }
    let output = command.output().expect("cargo runs");
    assert!(output.status.success(), "{name} cannot be built");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo names the executable")
}
