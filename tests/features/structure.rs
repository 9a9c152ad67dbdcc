//! The house stands as `docs/architecture.md` draws it: who may depend on whom, and what lies at the top.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Member → members that it depends on, tests aside. Members are named by their folder.
fn members() -> BTreeMap<String, BTreeSet<String>> {
    let metadata: Metadata =
        MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().expect("cargo metadata");
    let folder = |path: &Path| {
        let path = path.strip_prefix(root()).expect("members are in the workspace");
        path.to_string_lossy().into_owned()
    };
    let mut members = BTreeMap::new();
    for package in &metadata.packages {
        let here = folder(package.manifest_path.parent().expect("a folder").as_std_path());
        let dependencies = package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development);
        let ours = dependencies.filter_map(|d| d.path.as_ref()).map(|path| folder(path.as_std_path()));
        members.insert(here, ours.collect());
    }
    members
}

#[test]
fn dependencies_point_in_the_allowed_directions() {
    let members = members();
    let names: BTreeSet<&str> = members.keys().map(String::as_str).collect();
    for expected in [
        "shared/workflow",
        "shared/contract",
        "shared/store",
        "shared/bus",
        "services/bot",
        "services/omnirelay",
        "tests",
    ] {
        assert!(names.contains(expected), "{expected} of {names:?}");
    }
    for (member, depends) in &members {
        let allowed = |on: &str| match member.as_str() {
            "shared/workflow" => false,
            "shared/contract" => on == "shared/workflow",
            "shared/store" | "shared/bus" => matches!(on, "shared/workflow" | "shared/contract"),
            // An example to be copied out: it knows what is public, and nothing else.
            "services/bot" => false,
            "services/omnirelay" => true,
            service if service.starts_with("services/") => on.starts_with("shared/"),
            shared if shared.starts_with("shared/") => on.starts_with("shared/"),
            "tests" => on.starts_with("shared/"),
            _ => false,
        };
        for on in depends {
            assert!(allowed(on), "{member} must not depend on {on}");
        }
    }
}

#[test]
fn the_workflow_is_pure() {
    let manifest = std::fs::read_to_string(root().join("shared/workflow/Cargo.toml")).expect("a manifest");
    for effect in ["tokio", "sqlx", "async-nats", "reqwest", "axum", "rand", "tracing", "futures"] {
        assert!(!manifest.contains(effect), "the pure crate must not depend on {effect}");
    }
    for file in sources(&root().join("shared/workflow/src")) {
        let text = std::fs::read_to_string(&file).expect("a source");
        for effect in
            ["std::fs", "std::net", "std::thread", "std::process", "SystemTime::now", "Instant::now", "Timestamp::now"]
        {
            assert!(!text.contains(effect), "{} must not use {effect}", file.display());
        }
    }
}

#[test]
fn nothing_unexpected_lies_at_the_top() {
    let folders: BTreeSet<String> = std::fs::read_dir(root())
        .expect("the workspace")
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.') && name != "target")
        .collect();
    let expected = ["deploy", "docs", "services", "shared", "tests"];
    assert_eq!(folders.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn every_member_takes_the_lints_of_the_workspace() {
    for member in members().keys() {
        let manifest = std::fs::read_to_string(root().join(member).join("Cargo.toml")).expect("a manifest");
        assert!(manifest.contains("[lints]\nworkspace = true"), "{member} does not take the workspace's lints");
    }
}

#[test]
fn statements_live_in_the_store() {
    for member in ["services", "shared/bus", "shared/contract", "shared/runtime", "shared/workflow"] {
        for file in sources(&root().join(member)) {
            let path = file.display().to_string();
            // `demo` plays the intruder who edits a row of the audit; tests look into the tables.
            if path.contains("/tests") || path.ends_with("tests.rs") || path.contains("omnirelay/src/demo") {
                continue;
            }
            let text = std::fs::read_to_string(&file).expect("a source");
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            assert!(!code.contains("sqlx::query"), "{path} has a statement: it belongs in shared/store");
        }
    }
}

#[test]
fn source_files_begin_with_their_story_and_can_be_read_in_one_go() {
    let (mut long, mut mute) = (Vec::new(), Vec::new());
    for part in ["services", "shared", "tests"] {
        for file in sources(&root().join(part)) {
            let text = std::fs::read_to_string(&file).expect("a source");
            let path = file.strip_prefix(root()).expect("in the workspace").display().to_string();
            if path.contains("/generated/") {
                continue;
            }
            if text.lines().count() > 600 {
                long.push(format!("{path}: {} lines", text.lines().count()));
            }
            // Unit tests are told by what they test.
            let unit_tests = path.ends_with("tests.rs") || path.contains("/src/tests/");
            if !text.starts_with("//!") && !unit_tests {
                mute.push(path);
            }
        }
    }
    assert!(long.is_empty(), "ready to split: {long:#?}");
    assert!(mute.is_empty(), "without a module doc: {mute:#?}");
}

/// Every `.rs` file below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}
