use std::path::Path;
use std::time::Instant;

use omnirelay_workflow::{PeerId, WorkloadId};

use super::*;
use crate::driver::Target;

/// Writes an executable sh script.
pub fn script(folder: &Path, name: &str, body: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(name);
    // Written beside and renamed: a script that is open for writing cannot be executed.
    let beside = folder.join(format!("{name}.new"));
    std::fs::write(&beside, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(&beside, &path).unwrap();
    path
}

fn call(verb: Verb) -> Call {
    let target = Target {
        id: WorkloadId::parse("w1").unwrap(),
        service: "shop".to_owned(),
        unit: Some("shop@1".to_owned()),
        epoch: 4,
    };
    Call { verb, peer: PeerId::parse("p1").unwrap(), target: Some(target), holds: Vec::new(), cluster: None }
}

async fn answer(body: &str, timeout: Duration) -> Answer {
    let folder = tempfile::tempdir().unwrap();
    let program = script(folder.path(), "driver", body);
    let driver = ExecDriver { program, args: vec!["--zone".to_owned(), "a".to_owned()], env: BTreeMap::new(), timeout };
    driver.call(call(Verb::Status)).await
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn arguments_environment_lines_and_words_reach_both_sides() {
    let told = answer(
        r#"echo "{\"id\":\"$4\",\"service\":\"$OMNIRELAY_SERVICE\",\"ready\":true,\"remaining\":$OMNIRELAY_EPOCH,\"unit\":\"$OMNIRELAY_UNIT $1 $2 $3 $OMNIRELAY_PEER\",\"more\":1}"
           echo first >&2; echo "ready check 503" >&2; echo >&2"#,
        LONG,
    )
    .await;
    assert_eq!(told.exit, Exit::Done);
    assert_eq!(told.message, "ready check 503");
    let line = told.line(&WorkloadId::parse("w1").unwrap()).unwrap();
    assert_eq!((line.service.as_str(), line.ready, line.remaining), ("shop", true, Some(4)));
    assert_eq!(line.unit.as_deref(), Some("shop@1 --zone a status p1"));
}

#[tokio::test]
async fn exit_codes_tell_done_busy_and_failed() {
    for (body, exit, message) in [
        ("exit 0", Exit::Done, ""),
        ("echo '17 sessions left' >&2; exit 75", Exit::Busy, "17 sessions left"),
        ("echo 'no such unit' >&2; exit 3", Exit::Failed, "no such unit"),
        ("exit 3", Exit::Failed, "status: the driver ended with exit status: 3"),
        ("echo garbage; echo 'no' >&2; exit 1", Exit::Failed, "no"),
        ("kill -9 $$", Exit::Failed, "status: the driver ended with signal: 9 (SIGKILL)"),
    ] {
        let told = answer(body, LONG).await;
        assert_eq!((told.exit, told.message.as_str()), (exit, message), "{body}");
    }
}

#[tokio::test]
async fn broken_and_endless_output_is_a_failure_with_a_reason() {
    for (body, message) in [
        ("echo not json", "line 1 of the output is not a workload"),
        (r#"echo '{"id":"w1"}'; echo '{"id":"a.b"}'"#, "line 2 of the output is not a workload"),
        ("yes", "it printed more than 1048576 bytes"),
        ("head -c 70000 /dev/zero | tr '\\0' ' '; printf x; head -c 70000 /dev/zero | tr '\\0' x", "is longer than"),
    ] {
        let told = answer(body, LONG).await;
        assert_eq!(told.exit, Exit::Failed, "{body}");
        assert!(told.message.contains(message), "{body}: {}", told.message);
    }
    let missing = ExecDriver { program: "/no/such/driver".into(), args: vec![], env: BTreeMap::new(), timeout: LONG };
    assert!(missing.call(call(Verb::List)).await.message.contains("cannot run /no/such/driver"));
}

#[tokio::test]
async fn a_driver_that_takes_too_long_is_killed_with_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    let body = format!("sleep 600 & echo $! >{0}; echo $$ >>{0}; wait", pids.display());
    let told = answer(&body, Duration::from_millis(500)).await;
    assert_eq!(told.exit, Exit::Failed);
    assert!(told.message.contains("took longer than 500ms"), "{}", told.message);
    for pid in std::fs::read_to_string(&pids).unwrap().lines() {
        wait_gone(pid.parse().unwrap()).await;
    }
}

#[tokio::test]
async fn a_daemon_that_keeps_the_pipe_open_does_not_hold_the_call_up() {
    let folder = tempfile::tempdir().unwrap();
    let pid_file = folder.path().join("pid");
    let begun = Instant::now();
    let told = answer(&format!("sleep 600 & echo $! >{}", pid_file.display()), LONG).await;
    assert_eq!(told.exit, Exit::Done);
    assert!(begun.elapsed() < LONG / 2);
    let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
    let daemon = Pid::from_raw(pid).unwrap();
    assert!(rustix::process::test_kill_process(daemon).is_ok(), "it was started on purpose and still runs");
    rustix::process::kill_process(daemon, Signal::KILL).unwrap();
}

async fn wait_gone(pid: i32) {
    let deadline = Instant::now() + Duration::from_secs(10);
    // A zombie that nobody reaps is as good as gone.
    while std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z")) {
        assert!(Instant::now() < deadline, "{pid} still runs");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
