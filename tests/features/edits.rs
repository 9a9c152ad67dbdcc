//! Peers and clusters are written down, labelled and annotated: patches under an ETag, puts that make or keep.

use futures_util::future::join_all;
use omnirelay_tests::{Answer, Mesh, Stack, StackOptions, records_of};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// One stack for this file; each test has a cluster of its own.
async fn stack() -> &'static Stack {
    static STACK: OnceCell<Stack> = OnceCell::const_new();
    let options = StackOptions { clusters: 8, peers: 2, workloads: 1, ..StackOptions::default() };
    STACK.get_or_init(|| Stack::start(options)).await
}

async fn mesh() -> Mesh {
    let stack = stack().await;
    stack.healthy().await;
    stack.mesh()
}

fn path(peer: &str) -> String {
    format!("/control/peers/{peer}")
}

async fn patched(mesh: &Mesh, peer: &str, tag: &str, body: &Value) -> Answer {
    mesh.operator.patch(&path(peer), body).header("if-match", tag).send().await
}

#[tokio::test]
async fn a_patch_wants_the_etag_of_what_it_changes() {
    let mesh = mesh().await;
    let peer = mesh.peers[0].as_str();
    let body = json!({"labels": {"zone": "a"}, "reason": "rack move", "changeTicket": "CHG-7"});
    let blind = mesh.operator.patch(&path(peer), &body).send().await;
    blind.refused(428, "precondition-required");
    let (before, tag) = mesh.reader.tagged(&path(peer)).await;
    assert_eq!(tag, format!("\"{}\"", before["revision"]));
    let done = patched(&mesh, peer, &tag, &body).await;
    assert_eq!(done.expect(200).body["changed"], true);
    let revision = before["revision"].as_u64().expect("a revision");
    assert_eq!(done.body["resource"]["labels"]["zone"], "a");
    assert_eq!(done.body["resource"]["revision"], revision + 1, "{}", done.body);
    let stale = patched(&mesh, peer, &tag, &json!({"labels": {"zone": "b"}})).await;
    stale.refused(412, "revision-mismatch");
    assert_eq!(stale.body["revision"], revision + 1, "it says what is there now");
    let (after, tag) = mesh.reader.tagged(&path(peer)).await;
    assert_eq!(after["labels"]["zone"], "a", "a refused patch changes nothing");
    let again = patched(&mesh, peer, &tag, &json!({"labels": {"zone": "a"}})).await;
    assert_eq!(
        (again.expect(200).body["changed"].clone(), again.body["operation"]["state"].clone()),
        (json!(false), json!("succeeded"))
    );
    assert_eq!(mesh.reader.tagged(&path(peer)).await.1, tag, "what changes nothing is no revision");

    let records = records_of(&mesh.reader, &done.operation(), "succeeded").await;
    let changed = records.iter().find(|record| record["outcome"] == "changed").expect("the change itself");
    assert_eq!((&changed["actor"]["subject"], &changed["reason"]), (&json!("operator"), &json!("rack move")));
    assert_eq!((&changed["changeTicket"], &changed["verb"]), (&json!("CHG-7"), &json!("peers.patch")));
    assert_eq!((&changed["revisionBefore"], &changed["revisionAfter"]), (&json!(revision), &json!(revision + 1)));
}

#[tokio::test]
async fn a_patch_merges_and_null_removes() {
    let mesh = mesh().await;
    let peer = mesh.peers[0].as_str();
    let step = async |media_type: &str, body: Value| {
        let (_, tag) = mesh.reader.tagged(&path(peer)).await;
        let ask = mesh.operator.ask(Method::PATCH, &path(peer)).raw(media_type, body.to_string());
        let done = ask.header("if-match", &tag).send().await;
        done.expect(200).body["resource"].clone()
    };
    let (before, _) = mesh.reader.tagged(&path(peer)).await;
    let merge = "application/merge-patch+json";
    step(
        "application/json",
        json!({"labels": {"zone": "a", "disk": "nvme"}, "metadata": {"rack": {"row": 1, "slot": 2}}}),
    )
    .await;
    let merged =
        step(merge, json!({"labels": {"disk": null}, "metadata": {"rack": {"slot": 3}, "owner": "net"}})).await;
    assert_eq!((&merged["labels"]["zone"], merged["labels"].get("disk")), (&json!("a"), None));
    assert_eq!(merged["metadata"], json!({"rack": {"row": 1, "slot": 3}, "owner": "net"}));
    let cleared = step(merge, json!({"labels": null, "metadata": null})).await;
    assert_eq!((&cleared["labels"], &cleared["metadata"]), (&json!({}), &json!({})));
    for member in ["name", "cluster", "state", "role"] {
        assert_eq!(cleared[member], before[member], "a patch touches nothing else");
    }
    let (_, tag) = mesh.reader.tagged(&path(peer)).await;
    for (body, named) in [
        (json!({}), "labels"),
        (json!({"labels": {"a b": "c"}}), "a b"),
        (json!({"labels": {"zone": 1}}), "zone"),
        (json!({"labels": "zone=a"}), "label"),
        (json!({"metadata": [1]}), "metadata"),
        (json!({"state": "drained"}), "state"),
    ] {
        let refused = patched(&mesh, peer, &tag, &body).await;
        refused.refused(400, "invalid-argument");
        assert!(refused.body["detail"].as_str().is_some_and(|detail| detail.contains(named)), "{}", refused.body);
    }
    let ask = mesh.operator.ask(Method::PATCH, &path(peer)).raw("text/plain", "{}").header("if-match", &tag);
    ask.send().await.refused(415, "unsupported-media-type");
    // What fits alone and not with what is there is found by the worker, which changes nothing.
    let many: serde_json::Map<String, Value> = (0..40).map(|n| (format!("k{n}"), json!("v"))).collect();
    step(merge, json!({"labels": many})).await;
    let (_, tag) = mesh.reader.tagged(&path(peer)).await;
    let more: serde_json::Map<String, Value> = (100..140).map(|n| (format!("k{n}"), json!("v"))).collect();
    patched(&mesh, peer, &tag, &json!({"labels": more})).await.refused(400, "invalid-argument");
    assert_eq!(mesh.reader.tagged(&path(peer)).await.1, tag);
}

#[tokio::test]
async fn of_fifty_patches_at_once_with_one_etag_exactly_one_wins() {
    let mesh = mesh().await;
    let peer = mesh.peers[0].as_str();
    for round in 0..3 {
        let (before, tag) = mesh.reader.tagged(&path(peer)).await;
        let bodies: Vec<Value> = (0..50).map(|n| json!({"labels": {"winner": format!("r{round}-{n}")}})).collect();
        let answers = join_all(bodies.iter().map(|body| patched(&mesh, peer, &tag, body))).await;
        let won: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 200).collect();
        assert_eq!(won.len(), 1, "{:?}", answers.iter().map(|a| (a.status, a.code().to_owned())).collect::<Vec<_>>());
        let revision = before["revision"].as_u64().expect("a revision") + 1;
        for lost in answers.iter().filter(|answer| answer.status != 200) {
            lost.refused(412, "revision-mismatch");
            assert_eq!(lost.body["revision"], revision, "{}", lost.body);
        }
        let (after, _) = mesh.reader.tagged(&path(peer)).await;
        assert_eq!(after["revision"], revision);
        assert_eq!(after["labels"]["winner"], won[0].body["operation"]["params"]["labels"]["winner"]);
    }
}

#[tokio::test]
async fn a_put_makes_a_peer_once_and_keeps_it_afterwards() {
    let mesh = mesh().await;
    let (cluster, id) = (mesh.cluster.as_str(), format!("{}-new", mesh.cluster));
    let path = path(&id);
    let body = json!({"cluster": cluster, "role": "edge", "labels": {"zone": "a"}, "metadata": {"rack": 1}, "capacity": 5,
                      "address": "10.0.0.9", "name": format!("{id}.example"), "state": "cordoned", "reason": "new rack"});
    mesh.operator.put(&path, &body).send().await.refused(403, "insufficient-scope");
    let made = mesh.admin.put(&path, &body).header("if-none-match", "*").send().await;
    assert_eq!((made.expect(201).header("location"), &made.body["changed"]), (path.as_str(), &json!(true)));
    let resource = &made.body["resource"];
    assert_eq!(
        (&resource["state"], &resource["schedulable"], &resource["revision"]),
        (&json!("cordoned"), &json!(false), &json!(1))
    );
    assert_eq!(
        (&resource["holds"][0]["owner"], &resource["holds"][0]["reason"]),
        (&json!("admin"), &json!("new rack"))
    );
    let (read, tag) = mesh.reader.tagged(&path).await;
    assert_eq!(&read, resource);
    mesh.admin.put(&path, &body).header("if-none-match", "*").send().await.refused(412, "revision-mismatch");

    let again = mesh.admin.put(&path, &body).send().await;
    assert_eq!(again.expect(200).body["changed"], false, "applied twice it changes nothing: {}", again.body);
    let mut other = body.clone();
    other["labels"] = json!({"zone": "b"});
    let changed = mesh.admin.put(&path, &other).header("if-match", &tag).send().await;
    assert_eq!(
        (changed.expect(200).body["changed"].clone(), &changed.body["resource"]["labels"]),
        (json!(true), &json!({"zone": "b"}))
    );
    mesh.admin.put(&path, &body).header("if-match", &tag).send().await.refused(412, "revision-mismatch");

    let refused = async |change: &dyn Fn(&mut Value), id: &str, status: u16, code: &str| {
        let mut wanted = other.clone();
        change(&mut wanted);
        mesh.admin.put(&crate::path(id), &wanted).send().await.refused(status, code);
    };
    refused(&|body| body["state"] = json!("active"), &id, 409, "invalid-state").await;
    refused(&|body| body["cluster"] = json!("cluster-8"), &id, 409, "invalid-state").await;
    refused(&|body| body["cluster"] = json!("nowhere"), &id, 404, "not-found").await;
    let taken = mesh.reader.read(&crate::path(&mesh.peers[0])).await["name"].clone();
    refused(&|body| body["name"] = taken.clone(), &id, 409, "invalid-state").await;
    refused(&|body| body["state"] = json!("drained"), "another-new", 400, "invalid-argument").await;
    refused(
        &|body| drop(body.as_object_mut().expect("an object").remove("cluster")),
        "another-new",
        400,
        "invalid-argument",
    )
    .await;
    refused(&|_| (), "another-new", 409, "invalid-state").await;
    mesh.reader.get("/control/peers/another-new").send().await.refused(404, "not-found");
}

#[tokio::test]
async fn of_many_who_make_the_same_peer_one_does() {
    let mesh = mesh().await;
    let path = path(&format!("{}-raced", mesh.cluster));
    let bodies: Vec<Value> =
        (0..20).map(|n| json!({"cluster": mesh.cluster, "labels": {"n": format!("{n}")}})).collect();
    let create = |body: &Value| mesh.admin.put(&path, body).header("if-none-match", "*").send();
    let answers = join_all(bodies.iter().map(create)).await;
    let made = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(made, 1, "{:?}", answers.iter().map(|a| (a.status, a.code().to_owned())).collect::<Vec<_>>());
    answers.iter().filter(|answer| answer.status != 201).for_each(|lost| {
        lost.refused(412, "revision-mismatch");
    });
    assert_eq!(mesh.reader.read(&path).await["revision"], 1);
    // Of two that want one name, one has it.
    let body = json!({"cluster": mesh.cluster, "name": format!("{}-name", mesh.cluster)});
    let paths: Vec<String> = (0..5).map(|n| crate::path(&format!("{}-n{n}", mesh.cluster))).collect();
    let answers = join_all(paths.iter().map(|path| mesh.admin.put(path, &body).send())).await;
    let made = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(made, 1, "{:?}", answers.iter().map(|a| (a.status, a.code().to_owned())).collect::<Vec<_>>());
    answers.iter().filter(|answer| answer.status != 201).for_each(|lost| {
        lost.refused(409, "invalid-state");
    });
}

#[tokio::test]
async fn a_put_makes_a_cluster_once_and_keeps_it_afterwards() {
    let mesh = mesh().await;
    let path = format!("/control/clusters/{}-new", mesh.cluster);
    let body =
        json!({"region": "eu", "priority": 3, "maxUnavailable": "25%", "labels": {"tier": "edge"}, "state": "passive"});
    mesh.operator.put(&path, &body).send().await.refused(403, "insufficient-scope");
    let made = mesh.admin.put(&path, &body).header("if-none-match", "*").send().await;
    assert_eq!(
        (made.expect(201).header("location"), &made.body["resource"]["state"]),
        (path.as_str(), &json!("passive"))
    );
    assert_eq!(made.body["resource"]["maxUnavailable"], "25%", "{}", made.body);
    mesh.admin.put(&path, &body).header("if-none-match", "*").send().await.refused(412, "revision-mismatch");
    let (read, tag) = mesh.reader.tagged(&path).await;
    assert_eq!(&read, &made.body["resource"]);
    assert_eq!(mesh.admin.put(&path, &body).send().await.expect(200).body["changed"], false);
    let changed = mesh.admin.put(&path, &json!({"region": "us"})).header("if-match", &tag).send().await;
    let resource = &changed.expect(200).body["resource"];
    assert_eq!(
        (&changed.body["changed"], &resource["region"], &resource["labels"]),
        (&json!(true), &json!("us"), &json!({}))
    );
    assert_eq!(resource["maxUnavailable"], Value::Null);
    mesh.admin.put(&path, &body).header("if-match", &tag).send().await.refused(412, "revision-mismatch");
    mesh.admin.put(&path, &json!({"state": "active"})).send().await.refused(409, "invalid-state");
    for (bad, named) in [
        (json!({"state": "promoting"}), "state"),
        (json!({"maxUnavailable": "lots"}), "maxUnavailable"),
        (json!({"labels": {"": "x"}}), "label"),
        (json!({"colour": 1}), "colour"),
    ] {
        let refused = mesh.admin.put(&path, &bad).send().await;
        refused.refused(400, "invalid-argument");
        assert!(refused.body["detail"].as_str().is_some_and(|detail| detail.contains(named)), "{}", refused.body);
    }
    mesh.admin.put(&path, &body).header("if-none-match", "\"1\"").send().await.refused(400, "invalid-argument");
}

#[tokio::test]
async fn a_plan_of_an_edit_tells_what_it_would_change() {
    let mesh = mesh().await;
    let peer = mesh.peers[0].as_str();
    let (before, tag) = mesh.reader.tagged(&path(peer)).await;
    let asked = format!("{}?validateOnly=true", path(peer));
    let plan = mesh.operator.patch(&asked, &json!({"labels": {"zone": "x"}})).header("if-match", &tag).send().await;
    let impact = &plan.expect(200).body["impact"];
    assert_eq!((&impact["changed"], &impact["after"]["labels"]["zone"]), (&json!(true), &json!("x")));
    assert_eq!(impact["before"]["labels"], before["labels"]);
    mesh.operator.patch(&asked, &json!({"labels": {"zone": "x"}})).send().await.refused(428, "precondition-required");
    let plan = mesh.admin.put("/control/clusters/planned?validateOnly=true", &json!({"region": "eu"})).send().await;
    assert_eq!(plan.expect(200).body["impact"]["exists"], false, "{}", plan.body);
    assert_eq!(mesh.reader.tagged(&path(peer)).await, (before, tag), "a plan changes nothing");
    mesh.reader.get("/control/clusters/planned").send().await.refused(404, "not-found");
}
