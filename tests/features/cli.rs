//! The command line, as people meet it in a terminal and scripts without one.

use omnirelay_tests::{Cli, Mesh, Role, Stack, StackOptions};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// One stack for this file; each test has a cluster of its own.
async fn stack() -> &'static Stack {
    static STACK: OnceCell<Stack> = OnceCell::const_new();
    let options = StackOptions { clusters: 14, handover: "150ms..250ms", ..StackOptions::default() };
    STACK.get_or_init(|| Stack::start(options)).await
}

/// A cluster and the operator's command line.
async fn site() -> (Mesh, Cli) {
    let stack = stack().await;
    (stack.mesh(), stack.cli(Role::Operate))
}

/// What people type: the host name.
async fn name(mesh: &Mesh, peer: &str) -> String {
    mesh.reader.read(&format!("/control/peers/{peer}")).await["name"].as_str().expect("a name").to_owned()
}

#[tokio::test]
async fn in_a_terminal_a_drain_shows_its_plan_asks_and_follows_with_a_bar() {
    let stack = stack().await;
    for (nats, label) in [(None, "SSE"), (Some(stack.nats_url()), "NATS")] {
        let (mesh, mut cli) = site().await;
        if let Some(url) = nats {
            cli = cli.env("OMNIRELAY_NATS_URL", url);
        }
        let peer = mesh.peers[0].as_str();
        let name = name(&mesh, peer).await;
        let mut terminal = cli.terminal(&["drain", &name, "--max-concurrent", "1"]);
        let plan = terminal.expect(&format!("Type {name} to drain it"));
        assert!(plan.contains("PLAN drain") && plan.contains("start-first"), "{plan}");
        terminal.expect(": ");
        terminal.type_line(&name);
        terminal.expect("Ctrl-C detaches");
        terminal.expect("2/4");
        let (rest, code) = terminal.end();
        assert_eq!(code, 0, "by {label}: {rest}");
        assert!(rest.contains("SUCCEEDED") && rest.contains("4 moved"), "by {label}: {rest}");
        assert_eq!(mesh.workloads(peer).await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_wrong_name_declines_and_nothing_happens() {
    let (mesh, cli) = site().await;
    let before = mesh.registry().await;
    for typed in ["yes", "", &mesh.peers[1]] {
        let mut terminal = cli.terminal(&["drain", &mesh.peers[0]]);
        terminal.expect("to drain it");
        terminal.expect(": ");
        terminal.type_line(typed);
        let (rest, code) = terminal.end();
        assert_eq!(code, 1, "{rest}");
        assert!(rest.contains("declined"), "{rest}");
    }
    let mut terminal = cli.terminal(&["drain", &mesh.peers[0]]);
    terminal.expect("to drain it");
    terminal.ctrl_c();
    assert_eq!(terminal.end().1, 1, "Ctrl-C at the prompt declines");
    assert_eq!(mesh.registry().await.differences(&before), Vec::<String>::new());
}

#[tokio::test]
async fn ctrl_c_detaches_says_how_to_come_back_and_attach_follows_to_the_end() {
    let (mesh, cli) = site().await;
    let peer = mesh.peers[0].as_str();
    let name = name(&mesh, peer).await;
    let mut terminal = cli.terminal(&["drain", peer, "--yes", "--max-concurrent", "1"]);
    terminal.expect("Ctrl-C detaches");
    terminal.expect("1/4");
    terminal.ctrl_c();
    let (rest, code) = terminal.end();
    assert_eq!(code, 10, "{rest}");
    let hint = format!("omnirelay ops attach {name}");
    assert!(rest.contains("Detached, the drain continues") && rest.contains(&hint), "{rest}");

    let mut terminal = cli.terminal(&["ops", "attach", &name]);
    terminal.expect("SUCCEEDED");
    assert_eq!(terminal.end().1, 0);
    let again = cli.run(&["ops", "attach", &name]).await;
    assert!(again.expect(0).stderr.contains("SUCCEEDED"), "{}", again.stderr);
}

#[tokio::test]
async fn a_cancel_in_a_terminal_is_followed_until_everything_is_back() {
    let (mesh, cli) = site().await;
    let peer = mesh.peers[0].as_str();
    let before = mesh.registry().await;
    let started = cli.run(&["drain", peer, "--yes", "--detach", "--max-concurrent", "1", "-o", "json"]).await;
    let operation = started.expect(10).json()["operation"]["id"].as_str().expect("an id").to_owned();
    mesh.operator.operation_that("has moved one", &operation, |it| it["progress"]["done"].as_u64() >= Some(1)).await;
    let tail = &operation[operation.len() - 8..];
    let mut terminal = cli.terminal(&["ops", "cancel", tail, "--reason", "no"]);
    terminal.expect("CANCELLED");
    let (rest, code) = terminal.end();
    assert_eq!(code, 11, "{rest}");
    assert!(rest.contains("difference: none"), "{rest}");
    assert_eq!(mesh.registry().await.differences(&before), Vec::<String>::new());
    let attached = cli.run(&["ops", "attach", tail]).await;
    attached.expect(11);
}

#[tokio::test]
async fn without_a_terminal_and_without_yes_it_refuses_and_never_hangs() {
    let (mesh, cli) = site().await;
    let refused = cli.run(&["drain", &mesh.peers[0]]).await;
    assert!(refused.expect(1).stderr.contains("--yes"), "{}", refused.stderr);
    assert_eq!(refused.stdout, "");
    assert_eq!(
        mesh.reader.list(&format!("/control/operations?target=peers/{}", mesh.peers[0])).await,
        Vec::<Value>::new()
    );
}

#[tokio::test]
async fn a_dry_run_shows_the_plan_and_changes_nothing() {
    let (mesh, cli) = site().await;
    let before = mesh.registry().await;
    let shown = cli.run(&["drain", &mesh.peers[0], "--dry-run"]).await;
    assert!(shown.expect(0).stdout.contains("PLAN drain"), "{}", shown.stdout);
    let plan = cli.run(&["drain", &mesh.peers[0], "--dry-run", "-o", "json"]).await;
    assert_eq!(plan.expect(0).json()["impact"]["workloads"], 4);
    assert_eq!(mesh.registry().await.differences(&before), Vec::<String>::new());
}

#[tokio::test]
async fn exit_codes_tell_scripts_what_came() {
    let stack = stack().await;
    let (mesh, cli) = site().await;
    let peer = mesh.peers[0].as_str();
    let operator = stack.token(Role::Operate);
    cli.run(&["mesh", "peers", "explode"]).await.expect(2);
    cli.run(&["drain", peer, "--yes", "--deadline", "soon"]).await.expect(2);
    mesh.cordon(&mesh.admin, peer).await;
    let held = cli.run(&["mesh", "peers", "uncordon", peer]).await;
    assert!(held.expect(3).stderr.contains("admin"), "{}", held.stderr);
    Cli::new(stack.folder(), stack.url(), None).run(&["mesh", "peers", "list"]).await.expect(4);
    Cli::new(stack.folder(), stack.url(), Some("nonsense")).run(&["mesh", "peers", "list"]).await.expect(4);
    stack.cli(Role::Read).run(&["mesh", "peers", "cordon", peer]).await.expect(4);
    cli.run(&["mesh", "peers", "get", "nobody"]).await.expect(5);
    cli.run(&["ops", "get", "ffffffff"]).await.expect(5);
    let nowhere = Cli::new(stack.folder(), "http://127.0.0.1:9", Some(operator));
    let away = nowhere.run(&["mesh", "peers", "cordon", peer]).await;
    assert!(away.expect(6).stderr.contains("127.0.0.1:9"), "{}", away.stderr);
    mesh.fault(peer, "busy").await;
    cli.run(&["drain", peer, "--yes", "--wait-timeout", "300ms"]).await.expect(10);
    let again = cli.run(&["drain", peer, "--yes"]).await;
    again.expect(3);
    mesh.fault(peer, "none").await;
    cli.run(&["ops", "attach", peer]).await.expect(0);
}

#[tokio::test]
async fn lists_are_tables_for_people_and_json_and_yaml_for_programs() {
    let (mesh, cli) = site().await;
    let peer = mesh.peers[0].as_str();
    let table = cli.run(&["mesh", "peers", "list"]).await;
    assert!(table.expect(0).stdout.contains(&name(&mesh, peer).await), "{}", table.stdout);
    for args in [
        &["mesh", "peers", "list", "-o", "json"][..],
        &["mesh", "peers", "workloads", peer, "-o", "json"],
        &["mesh", "clusters", "list", "-o", "json"],
        &["mesh", "ops", "list", "-o", "json"],
        &["audit", "list", "-o", "json"],
    ] {
        assert!(!cli.run(args).await.expect(0).json().is_null(), "{args:?}");
    }
    let one = cli.run(&["mesh", "peers", "get", peer, "-o", "json"]).await;
    assert_eq!(one.expect(0).json()["id"], peer);
    let yaml = cli.run(&["mesh", "peers", "get", peer, "-o", "yaml"]).await;
    assert!(yaml.expect(0).stdout.lines().any(|line| line == format!("id: {peer}")), "{}", yaml.stdout);
    let status = cli.run(&["status", "-o", "json"]).await;
    assert!(status.expect(0).json().is_object());
    let cordoned = cli.run(&["mesh", "peers", "cordon", peer, "--reason", "r", "--ticket", "T-1", "-o", "json"]).await;
    assert_eq!(cordoned.expect(0).json()["operation"]["changeTicket"], "T-1");
    let who = cli.run(&["auth", "whoami", "-o", "json"]).await;
    assert!(who.expect(0).stdout.contains("operator"), "{}", who.stdout);
}

#[tokio::test]
async fn colours_are_for_terminals_that_want_them() {
    let (mesh, cli) = site().await;
    let peer = mesh.peers[0].as_str();
    let escapes = |text: &str| text.contains("\u{1b}[3") || text.contains("\u{1b}[1m");
    for args in [&["mesh", "peers", "list"][..], &["mesh", "peers", "cordon", peer], &["status"]] {
        let piped = cli.run(args).await;
        assert!(!escapes(&piped.stdout) && !escapes(&piped.stderr), "{args:?} {piped:?}");
        let (text, code) = cli.clone().env("NO_COLOR", "1").terminal(args).end();
        assert_eq!(code, 0, "{text}");
        assert!(!escapes(&text), "{args:?} {text:?}");
    }
}

#[tokio::test]
async fn a_recording_has_every_exchange_and_no_token() {
    let stack = stack().await;
    let (mesh, cli) = site().await;
    let file = stack.folder().join("exchanges.jsonl");
    let path = file.display().to_string();
    let drained = cli.run(&["drain", &mesh.peers[0], "--yes", "--record", &path]).await;
    drained.expect(0);
    let text = std::fs::read_to_string(&file).expect("the recording");
    assert!(!text.contains(stack.token(Role::Operate)), "no token");
    let exchanges: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect();
    let statuses: Vec<u64> = exchanges
        .iter()
        .filter(|one| one["request"]["path"].as_str().is_some_and(|path| path.ends_with(":drain")))
        .filter_map(|one| one["response"]["status"].as_u64())
        .collect();
    assert_eq!(statuses, [428, 202], "the plan, then the confirmed request");
    assert!(exchanges.iter().all(|one| one["request"]["headers"]["authorization"].is_null()), "{text}");
}

#[tokio::test]
async fn events_are_tailed_until_ctrl_c() {
    let stack = stack().await;
    for nats in [None, Some(stack.nats_url())] {
        let (mesh, mut cli) = site().await;
        if let Some(url) = nats {
            cli = cli.env("OMNIRELAY_NATS_URL", url);
        }
        let mut terminal = cli.terminal(&["mesh", "events", "tail"]);
        // The first may come before it listens.
        let peer = mesh.peers[0].clone();
        let told = async {
            for _ in 0..20 {
                mesh.operator.peer(&peer, "cordon", &json!({})).send().await.expect(200);
                mesh.operator.peer(&peer, "uncordon", &json!({})).send().await.expect(200);
            }
        };
        told.await;
        terminal.expect(&peer);
        terminal.ctrl_c();
        assert_eq!(terminal.end().1, 0);
    }
}
