use std::path::PathBuf;

use super::*;

/// A driver that keeps its workloads in a file; `@` lines are where the bad ones differ.
const GOOD: &str = r#"#!/bin/sh
file=$(dirname "$0")/owned; touch "$file"
line() { printf '{"id":"%s","service":"%s","ready":true}\n' "$1" "$2"; }
case $1 in
list) while IFS=: read -r id service; do line "$id" "$service"; done <"$file" ;;
status) if grep -q "^$2:" "$file"; then line "$2" "$OMNIRELAY_SERVICE"; fi ;;
acquire) grep -q "^$2:" "$file" || echo "$2:$OMNIRELAY_SERVICE" >>"$file" ;;
release) if [ -e "$file" ] && grep -q "^$2:" "$file" && [ ! -e "$file.asked" ]; then
             touch "$file.asked"; echo "1 session left" >&2; exit 75; fi
         sed -i "/^$2:/d" "$file" ;;
cordon | uncordon) ;;
role) case $2/$OMNIRELAY_ROLE in fenced/fenced | active/active | passive/passive) ;; *) exit 1 ;; esac ;;
*) echo "unknown verb $1" >&2; exit 1 ;;
esac
"#;

async fn failing(body: &str) -> Vec<Finding> {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), body, 0o755);
    let findings = check_driver(&path, &options()).await;
    findings.into_iter().filter(|finding| !finding.ok).collect()
}

fn write(folder: &Path, body: &str, mode: u32) -> PathBuf {
    let path = folder.join("driver");
    std::fs::write(&path, body).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn options() -> CheckOptions {
    CheckOptions {
        workload: WorkloadId::parse("w1").unwrap(),
        service: "shop".to_owned(),
        peer: PeerId::parse("p1").unwrap(),
        cluster: ClusterId::parse("c1").unwrap(),
        args: Vec::new(),
        timeout: Duration::from_secs(3),
    }
}

#[tokio::test]
async fn a_good_driver_passes() {
    assert_eq!(failing(GOOD).await, []);
}

#[tokio::test]
async fn each_fault_is_found_and_named() {
    let cases = [
        (r#","ready":true"#, "", "list: each line has id, service and ready", "\"ready\" is missing"),
        (r#"{"id":"%s","service":"#, r#"id=%s service="#, "status: says \"ready\": true", "not a workload"),
        (r#"grep -q "^$2:" "$file" || "#, "", "acquire again: still there once", "more than once"),
        (
            r#"grep -q "^$2:" "$file" ||"#,
            r#"grep -q "^$2:" "$file" && exit 1;"#,
            "acquire again: exits with 0",
            "what runs already is a success",
        ),
        (r#"sed -i "/^$2:/d" "$file""#, ":", "list: no longer shows", "exits with 75 until nothing is left"),
        (r#"echo "1 session left" >&2; "#, "", "release: exits with 0", "does not say on stderr"),
        (
            r#"sed -i "/^$2:/d" "$file""#,
            r#"grep -q "^$2:" "$file" || exit 4; sed -i "/^$2:/d" "$file""#,
            "release again",
            "it exits with 4",
        ),
        ("cordon | uncordon) ;;", "", "cordon: exits with 0", "unknown verb cordon"),
        ("role)", "roles)", "role fenced: exits with 0", "unknown verb role"),
        ("passive/passive) ;;", "none) ;;", "role passive: exits with 0", "a promotion waits"),
        (
            "active/active |",
            r#"active/active) [ -e "$file.on" ] && exit 1; touch "$file.on" ;;"#,
            "role again: exits with 0",
            "it exits with 1",
        ),
        (r#"echo "unknown verb $1" >&2; exit 1"#, "exit 0", "an unknown verb", "verbs may be added"),
        (r#"echo "unknown verb $1" >&2; exit 1"#, "exit 1", "an unknown verb", "nothing on stderr"),
        ("list) while", "list) sleep 60; while", "list: exits with 0", "took longer than 3s"),
    ];
    futures_util::future::join_all(cases.map(|(good, bad, check, detail)| async move {
        assert!(GOOD.contains(good), "{good}");
        // A list has lines only once something runs.
        let body = GOOD.replace(good, bad).replace("touch \"$file\"", "[ -e \"$file\" ] || echo other:shop >\"$file\"");
        let failing = failing(&body).await;
        let found = failing.iter().any(|f| f.check.contains(check) && f.detail.contains(detail));
        assert!(found, "{check} / {detail} in {failing:#?}");
    }))
    .await;
}

#[tokio::test]
async fn the_documented_example_passes() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/drivers.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let (_, example) = guide.split_once("```sh\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().to_str().unwrap();
    let body = example.replace("/var/lib/shards", here).replace("/run/shards", here);
    assert_eq!(failing(&body).await, []);
}

#[tokio::test]
async fn what_cannot_be_run_is_said_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), GOOD, 0o644);
    let findings = check_driver(&path, &options()).await;
    assert_eq!(findings.len(), 1);
    assert!(findings[0].detail.ends_with("is not executable: chmod +x it"), "{findings:?}");
    let findings = check_driver(&folder.path().join("none"), &options()).await;
    assert_eq!(findings.len(), 1);
}
