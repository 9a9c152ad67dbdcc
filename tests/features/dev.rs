//! `omnirelay dev`: one command, everything runs, the same directory resumes, and nothing is left behind.

use std::collections::BTreeSet;

use omnirelay_tests::{
    Mesh, PATIENCE, Role, Services, Stack, StackOptions, eventually_ok, gap_free, processes_that_mention, records_of,
};
use serde_json::{Value, json};

fn operations(list: &[Value]) -> BTreeSet<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    list.iter().map(|operation| (text(&operation["id"]), text(&operation["state"]))).collect()
}

async fn nothing_runs(state: &str) {
    eventually_ok("no process of the state directory runs", PATIENCE, async || {
        let left = processes_that_mention(state);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}

#[tokio::test]
async fn the_env_file_is_as_the_contract_says() {
    let options = StackOptions { clusters: 2, peers: 2, workloads: 3, ..StackOptions::default() };
    let stack = Stack::start(options).await;
    let keys: Vec<&str> = stack.env.keys().map(String::as_str).collect();
    let expected = [
        "OMNIRELAY_DATABASE_URL",
        "OMNIRELAY_NATS_URL",
        "OMNIRELAY_TOKEN_ADMIN",
        "OMNIRELAY_TOKEN_APPROVE",
        "OMNIRELAY_TOKEN_OPERATE",
        "OMNIRELAY_TOKEN_READ",
        "OMNIRELAY_URL",
    ];
    assert_eq!(keys, expected);
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(stack.folder().join("env")).expect("the file"));
    assert_eq!(mode & 0o077, 0, "it has tokens in it");
    let mut subjects = BTreeSet::new();
    for role in Role::ALL {
        let who = stack.cli(role).run(&["auth", "whoami", "-o", "json"]).await;
        subjects.insert(who.expect(0).json()["subject"].to_string());
    }
    assert_eq!(subjects.len(), 4, "{subjects:?}");
    let api = stack.api(Role::Read);
    let states: Vec<Value> =
        api.list("/control/clusters").await.iter().map(|cluster| cluster["state"].clone()).collect();
    assert_eq!(states, ["active", "passive"], "the first is active");
    let peers = api.list("/control/peers").await;
    let ids: Vec<&str> = peers.iter().filter_map(|peer| peer["id"].as_str()).collect();
    assert_eq!(ids, ["cluster-1-peer-1", "cluster-1-peer-2", "cluster-2-peer-1", "cluster-2-peer-2"]);
    for peer in &peers {
        assert_eq!(
            (&peer["health"], &peer["workloads"], &peer["state"]),
            (&json!("healthy"), &json!(3), &json!("active"))
        );
    }
}

#[tokio::test]
async fn the_same_directory_resumes_after_sigterm_and_after_kill_9() {
    let mut stack = Stack::start(StackOptions { handover: "150ms..250ms", ..StackOptions::default() }).await;
    let state = stack.state_dir().display().to_string();
    let mut mesh = stack.mesh();
    let [drained, cordoned, third] = [0, 1, 2].map(|n| mesh.peers[n].clone());
    assert_eq!(mesh.drained(&drained, &json!({})).await["state"], "succeeded");
    mesh.cordon(&mesh.admin, &cordoned).await;
    let registry = mesh.registry().await;
    let done = operations(&mesh.reader.list("/control/operations").await);
    let token = stack.token(Role::Operate).to_owned();

    // SIGTERM: an orderly end, and nothing of it left.
    let dev = stack.take_dev();
    assert!(dev.stop().await.success());
    nothing_runs(&state).await;
    stack.start_again().await;
    mesh = mesh.again(&stack);
    assert_eq!(mesh.registry().await.differences(&registry), Vec::<String>::new());
    assert_eq!(operations(&mesh.reader.list("/control/operations").await), done);
    let old = mesh.operator.with_token(Some(&token));
    old.get("/control/peers").send().await.expect(200);

    // kill -9 in the middle of a drain: it goes on.
    mesh.operator.peer(&drained, "uncordon", &json!({})).send().await.expect(200);
    let operation = mesh.operator.drain(&third, &json!({"maxConcurrent": 1})).await;
    mesh.operator.operation_that("is halfway", &operation, |it| it["progress"]["done"].as_u64() >= Some(2)).await;
    stack.take_dev().kill_9();
    stack.start_again().await;
    mesh = mesh.again(&stack);
    let ended = mesh.operator.ended(&operation).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let placement = mesh.registry().await.placement();
    assert_eq!(
        placement.keys().collect::<Vec<_>>(),
        registry.placement().keys().collect::<Vec<_>>(),
        "nothing is lost"
    );
    assert!(placement.values().all(|peer| *peer != third), "{placement:?}");
    let records = records_of(&mesh.reader, &operation, "succeeded").await;
    assert!(records.windows(2).all(|pair| pair[0]["position"].as_u64() < pair[1]["position"].as_u64()));
    let mut sse = omnirelay_tests::Sse::open(&mesh.reader, &format!("operation={operation}"), None).await;
    gap_free(sse.to_the_end().await);
    stack.cli(Role::Read).run(&["audit", "verify"]).await.expect(0);

    let dev = stack.take_dev();
    assert!(dev.stop().await.success());
    nothing_runs(&state).await;
}

#[tokio::test]
async fn without_services_the_roles_run_beside_it_each_in_a_process_of_its_own() {
    let options = StackOptions { services: Services::None, ..StackOptions::default() };
    let stack = Stack::start(options).await;
    let roles = ["ingress", "worker", "audit"].map(|role| stack.serve(role, role));
    stack.answers().await;
    stack.healthy().await;
    let mesh: Mesh = stack.mesh();
    assert_eq!(mesh.drained(&mesh.peers[0], &json!({})).await["state"], "succeeded");
    for role in roles {
        let status = role.stop().await;
        assert!(status.success(), "{status}");
    }
}
