//! The shipped systemd driver, against a `systemctl` of our own: no systemd runs where tests run.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use omnirelay_agent::driver::exec::ExecDriver;
use omnirelay_agent::driver::{Answer, Call, Driver, Exit, Target, Verb};
use omnirelay_workflow::{PeerId, WorkloadId};

/// Units are files, their content the state. Stopping takes until the next question.
const SYSTEMCTL: &str = r#"#!/bin/sh
units=$(dirname "$0")/units; mkdir -p "$units"
verb=$1; for last in "$@"; do :; done
case $verb in
start) case $last in bad@*) exit 5 ;; esac; echo active >"$units/$last" ;;
stop) if [ -e "$units/$last" ]; then echo deactivating >"$units/$last"; fi ;;
is-active) state=$(cat "$units/$last" 2>/dev/null || echo inactive); echo "$state"
    if [ "$state" = deactivating ]; then rm "$units/$last"; fi; [ "$state" = active ] ;;
list-units) cd "$units" || exit 1
    for unit in $last; do if [ -e "$unit" ]; then echo "$unit loaded $(cat "$unit") running A unit"; fi; done ;;
esac
"#;

fn driver(folder: &Path) -> ExecDriver {
    let systemctl = folder.join("systemctl");
    std::fs::write(&systemctl, SYSTEMCTL).unwrap();
    std::fs::set_permissions(&systemctl, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    ExecDriver {
        program: Path::new(env!("CARGO_MANIFEST_DIR")).join("drivers/systemd"),
        args: Vec::new(),
        env: BTreeMap::from([("PATH".to_owned(), path), ("OMNIRELAY_SERVICES".to_owned(), "checkout mail".to_owned())]),
        timeout: Duration::from_secs(20),
    }
}

async fn ask(driver: &ExecDriver, verb: Verb, workload: &str, service: &str, unit: Option<&str>) -> Answer {
    let id = WorkloadId::parse(workload).unwrap();
    let target = Target { id, service: service.to_owned(), unit: unit.map(str::to_owned), epoch: 1 };
    let target = matches!(verb, Verb::Status | Verb::Acquire | Verb::Release).then_some(target);
    driver.call(Call { verb, peer: PeerId::parse("p1").unwrap(), target, holds: Vec::new(), cluster: None }).await
}

#[tokio::test]
async fn units_are_started_listed_and_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let driver = driver(folder.path());
    let list = ask(&driver, Verb::List, "w1", "checkout", None).await;
    assert_eq!(list, Answer::done(vec![]));

    assert_eq!(ask(&driver, Verb::Acquire, "w1", "checkout", None).await, Answer::done(vec![]));
    assert_eq!(ask(&driver, Verb::Acquire, "w1", "checkout", None).await.exit, Exit::Done, "again");
    ask(&driver, Verb::Acquire, "w2", "mail", None).await;
    let list = ask(&driver, Verb::List, "w1", "checkout", None).await;
    let told: Vec<_> =
        list.lines.iter().map(|l| (l.id.as_str(), l.service.as_str(), l.ready, l.unit.as_deref())).collect();
    let expected =
        [("w1", "checkout", true, Some("checkout@w1.service")), ("w2", "mail", true, Some("mail@w2.service"))];
    assert_eq!(told, expected);
    assert!(ask(&driver, Verb::Status, "w1", "checkout", None).await.lines[0].ready);

    let busy = ask(&driver, Verb::Release, "w1", "checkout", None).await;
    assert_eq!((busy.exit, busy.message.as_str()), (Exit::Busy, "checkout@w1.service is deactivating"));
    assert_eq!(ask(&driver, Verb::Release, "w1", "checkout", None).await.exit, Exit::Done);
    assert_eq!(ask(&driver, Verb::Release, "w1", "checkout", None).await.exit, Exit::Done, "again");
    let status = ask(&driver, Verb::Status, "w1", "checkout", None).await;
    assert_eq!((status.exit, status.message.as_str()), (Exit::Done, "checkout@w1.service is inactive"));
    assert!(status.lines.is_empty());
}

#[tokio::test]
async fn the_unit_may_be_named_and_failures_have_words() {
    let folder = tempfile::tempdir().unwrap();
    let driver = driver(folder.path());
    ask(&driver, Verb::Acquire, "w1", "checkout", Some("checkout@blue.service")).await;
    let status = ask(&driver, Verb::Status, "w1", "checkout", Some("checkout@blue.service")).await;
    assert_eq!(status.lines[0].unit.as_deref(), Some("checkout@blue.service"));
    let bad = ask(&driver, Verb::Acquire, "w1", "bad", None).await;
    assert_eq!(bad, Answer::failed("systemctl cannot start bad@w1.service"));
    for verb in [Verb::Cordon, Verb::Uncordon] {
        assert_eq!(ask(&driver, verb, "w1", "checkout", None).await.exit, Exit::Done);
    }
}
