//! The command line, as people meet it in a terminal and scripts without one.

use omnirelay_tests::{Cli, Mesh, Role, Stack, StackOptions};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// One stack for this file; each test has a cluster of its own.
async fn stack() -> &'static Stack {
    static STACK: OnceCell<Stack> = OnceCell::const_new();
    let options = StackOptions { clusters: 22, handover: "150ms..250ms", ..StackOptions::default() };
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

/// A drain that waits for somebody's yes before it begins; its id.
async fn gated(cli: &Cli, peer: &str) -> String {
    let args =
        ["drain", peer, "--gate", "start", "--ticket", "CHG-7", "--reason", "disk", "--yes", "--no-wait", "-o", "json"];
    let asked = cli.run(&args).await;
    let operation = asked.expect(15).json()["operation"].clone();
    assert_eq!((&operation["state"], &operation["changeTicket"]), (&json!("awaitingApproval"), &json!("CHG-7")));
    operation["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn what_waits_for_approval_is_left_with_15_and_rejected_with_16() {
    let stack = stack().await;
    let (mesh, cli) = site().await;
    let before = mesh.registry().await;
    let peer = mesh.peers[0].as_str();
    let id = gated(&cli, peer).await;
    let tail = &id[id.len() - 8..];
    let approver = stack.cli(Role::Approve);
    let listed = approver.run(&["mesh", "approvals", "list", "-o", "wide"]).await;
    let line = listed.expect(0).stdout.lines().find(|line| line.starts_with(tail)).unwrap_or_default().to_owned();
    for part in ["peers.drain", "operator", "0/1", "scope mesh.approve, not operator", "CHG-7", "start", &id] {
        assert!(line.contains(part), "{part}: {}", listed.stdout);
    }
    let why = cli.run(&["mesh", "peers", "why", peer]).await;
    for part in ["awaitingApproval", "CHG-7", "not operator", &format!("omnirelay ops cancel {tail}")] {
        assert!(why.expect(0).stdout.contains(part), "{part}: {}", why.stdout);
    }
    cli.run(&["ops", "attach", tail, "--wait-timeout", "300ms"]).await.expect(15);
    let own = stack.cli(Role::Operate).run(&["ops", "approve", tail, "--yes"]).await;
    assert!(own.expect(4).stderr.contains("insufficient-scope"), "{}", own.stderr);
    let piped = approver.run(&["ops", "approve", tail]).await;
    assert!(piped.expect(1).stderr.contains("--yes"), "{}", piped.stderr);
    let other = approver.run(&["ops", "approve", tail, "--digest", "00000000", "--yes"]).await;
    assert!(other.expect(3).stderr.contains("not 00000000"), "{}", other.stderr);
    let rejected = approver.run(&["ops", "reject", tail, "--reason", "not tonight"]).await;
    assert!(rejected.expect(0).stderr.contains("nothing of it will be done"), "{}", rejected.stderr);
    let ended = cli.run(&["ops", "attach", tail]).await;
    let told = ended.expect(16).stderr.as_str();
    assert!(told.contains("REJECTED") && told.contains("not tonight") && told.contains("approver"), "{told}");
    let late = approver.run(&["ops", "approve", tail, "--yes"]).await;
    late.expect(3);
    assert_eq!(mesh.registry().await.differences(&before), Vec::<String>::new());
}

#[tokio::test]
async fn who_approves_sees_what_changed_meanwhile_before_a_second_yes() {
    let stack = stack().await;
    let (mesh, cli) = site().await;
    let peer = mesh.peers[0].as_str();
    let id = gated(&cli, peer).await;
    let file = stack.folder().join("approval.jsonl").display().to_string();
    let mut terminal =
        stack.cli(Role::Approve).terminal(&["ops", "approve", peer, "--comment", "ok", "--record", &file]);
    let first = terminal.expect("Approve exactly this? [y/N] ");
    assert!(first.contains("CHG-7") && first.contains("reason: disk") && first.contains("0 of 1 approvals"), "{first}");
    // While it is read, somebody changes what it is about, and it is asked for anew.
    let digest = async || mesh.reader.read(&format!("/control/operations/{id}")).await["approval"]["digest"].clone();
    let before = digest().await;
    mesh.cordon(&mesh.admin, peer).await;
    mesh.operator.operation_that("is asked anew", &id, |it| it["approval"]["digest"] != before).await;
    terminal.type_line("y");
    let second = terminal.expect("Approve exactly this? [y/N] ");
    assert!(second.contains("no longer what you looked at"), "{second}");
    terminal.type_line("y");
    let (rest, code) = terminal.end();
    assert_eq!(code, 0, "{rest}");
    assert!(rest.contains("Approved, 1 of 1."), "{rest}");
    let followed = cli.run(&["ops", "attach", peer]).await;
    assert!(followed.expect(0).stderr.contains("SUCCEEDED"), "{}", followed.stderr);

    // The recording: what was asked of whom, the refusal, and no token.
    let text = std::fs::read_to_string(&file).expect("the recording");
    assert!(!text.contains(stack.token(Role::Approve)), "no token");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect();
    let asked: Vec<&Value> = lines.iter().filter_map(|line| line["prompts"].get(0)).collect();
    let yes = json!({"text": "Approve exactly this? [y/N]", "answer": "y"});
    assert_eq!(asked, [&yes, &yes]);
    let sent =
        || lines.iter().filter(|line| line["request"]["path"].as_str().is_some_and(|path| path.ends_with(":approve")));
    let statuses: Vec<&Value> = sent().map(|line| &line["response"]["status"]).collect();
    assert_eq!(statuses, [&json!(409), &json!(200)]);
    let (refused, taken) = (sent().next().expect("two"), sent().next_back().expect("two"));
    assert_eq!(
        (&refused["response"]["body"]["code"], &refused["request"]["body"]["digest"]),
        (&json!("digest-mismatch"), &before)
    );
    assert_eq!(taken["request"]["body"]["comment"], "ok");
    assert_eq!(taken["request"]["body"]["digest"], digest().await, "the yes is for what was shown last");
}

#[tokio::test]
async fn many_are_confirmed_by_their_count_and_a_cancel_names_what_stays() {
    let (mesh, cli) = site().await;
    let selector = format!("cluster={}", mesh.cluster);
    let mut terminal = cli.terminal(&["drain", "-l", &selector]);
    terminal.expect("Type \"3 peers\"");
    terminal.expect(": ");
    terminal.type_line(&mesh.peers[0]);
    assert_eq!(terminal.end().1, 1, "a peer's name is not the phrase");
    let mut terminal = cli.terminal(&[
        "drain",
        &mesh.peers[0],
        &mesh.peers[1],
        "--max-concurrent",
        "1",
        "--max-concurrent-moves",
        "1",
    ]);
    let plan = terminal.expect("Type \"2 peers\"");
    for part in ["PLAN drain 2 peers", "list frozen", "waves", "8 workloads in all", "stop the rest"] {
        assert!(plan.contains(part), "{part}: {plan}");
    }
    terminal.expect(": ");
    terminal.type_line("2 peers");
    // A row of the whole, and one of the child at work.
    terminal.expect("0/2");
    terminal.expect(&name(&mesh, &mesh.peers[0]).await);
    terminal.expect("1/2");
    terminal.ctrl_c();
    let (rest, code) = terminal.end();
    assert_eq!(code, 10, "{rest}");
    let parent =
        rest.split("ops attach ").last().and_then(|rest| rest.split_whitespace().next()).expect("a hint").to_owned();
    let cancelled = cli.run(&["ops", "cancel", &parent, "--reason", "no", "-o", "json"]).await;
    let ended = &cancelled.expect(17).json()["operation"];
    assert_eq!(ended["state"], "cancelled");
    assert!(cancelled.stderr.contains(&mesh.peers[0]), "who stays drained is named: {}", cancelled.stderr);
    let children = cli.run(&["ops", "list", "--parent", ended["id"].as_str().expect("an id"), "-o", "json"]).await;
    let states: Vec<Value> =
        children.expect(0).json()["items"].as_array().expect("items").iter().map(|it| it["state"].clone()).collect();
    assert!(states.contains(&json!("succeeded")) && states.contains(&json!("cancelled")), "{states:?}");
}

#[tokio::test]
async fn every_list_has_its_formats() {
    let (mesh, cli) = site().await;
    let peer = mesh.peers[0].as_str();
    cli.run(&["mesh", "peers", "label", peer, "runbook=x", "--ticket", "CHG-8"]).await.expect(0);
    let wide = cli.run(&["mesh", "peers", "list", "-l", "runbook=x", "-o", "wide"]).await;
    assert!(wide.expect(0).stdout.contains("runbook=x"), "{}", wide.stdout);
    let yaml = cli.run(&["mesh", "peers", "why", peer, "-o", "yaml"]).await;
    assert!(yaml.expect(0).stdout.contains("changeTicket: CHG-8"), "{}", yaml.stdout);
    let json = cli.run(&["mesh", "peers", "why", peer, "-o", "json"]).await;
    assert_eq!(json.expect(0).json()["peer"]["id"], peer);
    for args in [
        &["mesh", "config", "get"][..],
        &["mesh", "config", "history"],
        &["mesh", "approvals", "list"],
        &["ops", "list"],
    ] {
        let (json, yaml) =
            (cli.run(&[args, &["-o", "json"]].concat()).await, cli.run(&[args, &["-o", "yaml"]].concat()).await);
        assert!(json.expect(0).json().is_object(), "{args:?}");
        assert!(!yaml.expect(0).stdout.starts_with('{'), "{args:?}: {}", yaml.stdout);
    }
    let key = cli.run(&["mesh", "config", "get", "drain.maxConcurrent"]).await;
    assert!(key.expect(0).stdout.trim().parse::<u32>().is_ok(), "{}", key.stdout);
    let schema = cli.run(&["mesh", "config", "schema", "-o", "json"]).await;
    assert!(schema.expect(0).json()["properties"]["drain"].is_object());
    cli.run(&["mesh", "config", "get", "drain.nothing"]).await.expect(5);
}

#[tokio::test]
async fn a_file_is_applied_once_and_an_error_in_it_sends_nothing() {
    let stack = stack().await;
    let (mesh, _) = site().await;
    let admin = stack.cli(Role::Admin);
    let file = stack.folder().join("mesh.yaml");
    let path = file.display().to_string();
    let write = |text: String| std::fs::write(&file, text).expect("a file");
    let (cluster, peer) = (&mesh.cluster, &mesh.peers[0]);
    write(format!(
        "kind: Cluster\nid: {cluster}\nregion: eu\nmaxUnavailable: 50%\n---\nkind: Peer\nid: {peer}\ncluster: {cluster}\nlabels: {{zone: z}}\n"
    ));
    let piped = admin.run(&["mesh", "apply", "-f", &path]).await;
    assert!(piped.expect(1).stderr.contains("--yes"), "{}", piped.stderr);
    let dry = admin.run(&["mesh", "apply", "-f", &path, "--dry-run"]).await;
    dry.expect(0);
    assert_eq!(
        mesh.reader.read(&format!("/control/clusters/{cluster}")).await["region"],
        "",
        "a dry run changes nothing"
    );
    let applied = admin.run(&["mesh", "apply", "-f", &path, "--yes", "-o", "json"]).await;
    let items = applied.expect(0).json()["items"].clone();
    let results: Vec<&Value> = items.as_array().expect("items").iter().map(|item| &item["result"]).collect();
    assert_eq!(results, ["changed", "changed"]);
    let again = admin.run(&["mesh", "apply", "-f", &path, "--yes"]).await;
    assert_eq!(again.expect(0).stdout.matches("unchanged").count(), 2, "{}", again.stdout);
    write(format!(
        "kind: Cluster\nid: {cluster}\nregion: us\n---\nkind: Peer\nid: {peer}\ncluster: {cluster}\nzone: z\n"
    ));
    let wrong = admin.run(&["mesh", "apply", "-f", &path, "--yes"]).await;
    assert!(wrong.expect(2).stderr.contains("zone"), "{}", wrong.stderr);
    assert_eq!(mesh.reader.read(&format!("/control/clusters/{cluster}")).await["region"], "eu", "nothing was sent");
}
