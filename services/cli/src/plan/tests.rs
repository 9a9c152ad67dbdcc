use super::*;
use omnirelay_contract::rest::{BulkDrainBody, Confirmation};
use serde_json::{Value, json};

use super::promote::Asked;

const NOW: &str = "2026-11-23T12:00:45Z";

fn plan(impact: Value, gates: &Value) -> Plan {
    let at: Timestamp = "2026-11-23T12:00:00Z".parse().expect("time");
    let approval = gates.as_array().filter(|gates| !gates.is_empty()).map(|gates| json!({"gates": gates}));
    Plan {
        impact,
        blockers: Vec::new(),
        approval: approval.map(|approval| serde_json::from_value(approval).expect("gates")),
        digest: "77b0a9e1c0ffee".to_owned(),
        confirmation: Confirmation { token: "t".to_owned(), expires_at: at },
    }
}

fn gate(at: &str, required: u32, rule: &str) -> Value {
    json!({"gate": at, "required": required, "approverScope": "mesh.approve", "expiresInSecs": 1_800, "rule": rule})
}

fn setting() -> Setting<'static> {
    Setting { context: "prod", actor: Some("ana"), now: NOW.parse().expect("time") }
}

fn cluster(id: &str, state: &str, healthy: u32, lag: Option<u64>) -> Value {
    json!({"cluster": id, "state": state, "peers": 40, "healthyPeers": healthy, "replicationLagMs": lag})
}

#[test]
fn a_planned_failover() {
    let impact = json!({"promote": cluster("ams1", "passive", 38, Some(120)),
        "demote": [cluster("fra1", "active", 40, None)], "maxReplicationLagMs": 500, "minHealthyPercent": 50,
        "fence": 78, "unreachable": ["a-3"], "activeAfter": 1, "overridden": ["lag 900 ms"], "changed": true,
        "inverse": {"method": "POST", "path": "/control/clusters/fra1:promote", "body": {"demote": ["ams1"]}}});
    let asked = Asked { promote: Some("ams1".to_owned()), demote: vec!["fra1".to_owned()] };
    let plan = plan(impact, &json!([gate("cutover", 2, "prod-failover")]));
    assert_eq!(
        promote::lines(&plan, &asked, setting()).join("\n"),
        "PLAN promote ams1, demote fra1   context prod   as ana\n  \
         ams1     38/40 healthy, lag 120ms (limit 500ms)\n  \
         fra1     40/40 healthy\n  \
         steps    approve > fence 78 agents > cutover > verify\n  \
         warn     do not answer: a-3; fenced when they come back\n  \
         force    in spite of: lag 900 ms\n  \
         after    one active cluster in the mesh\n  \
         gate     2 approvals before the fencing, rule prod-failover, scope mesh.approve, expires 30m\n  \
         cancel   until cutover; after it: omnirelay promote fra1 --demote ams1"
    );
}

#[test]
fn a_drain_of_many_in_waves() {
    let peer = |n: usize, skipped: Option<&str>| {
        json!({"id": format!("p-{n}"), "name": format!("web-{n:02}"), "cluster": "fra1", "workloads": 10,
            "skipped": skipped})
    };
    let peers: Vec<Value> = (1..=40).map(|n| peer(n, (n == 40).then_some("in operation 9c41e07b"))).collect();
    let impact = json!({"peers": peers, "workloads": 390, "canary": 2, "soakSecs": 600, "maxConcurrent": 4,
        "maxFailures": 1, "changed": true, "notRestorable": [], "warnings": ["web-02 already held by bob (CHG-4790): stays so"],
        "budgets": [{"subject": "clusters/fra1", "total": 40, "maxUnavailable": 6, "unavailable": 1, "unavailableAfter": 5},
            {"subject": "services/x", "total": 4, "maxUnavailable": null, "unavailable": 0, "unavailableAfter": 0}]});
    let plan = plan(impact, &json!([gate("rest", 1, "request")]));
    assert_eq!(bulk::phrase(&plan), "40 peers");
    assert_eq!(
        bulk::lines(&plan, &BulkDrainBody::default(), setting()).join("\n"),
        "PLAN drain 40 peers   context prod   list frozen, digest 77b0a9e1   as ana\n  \
         peers    web-01, web-02, web-03, web-04, web-05, web-06 and 34 more\n  \
         waves    canary 2 > soak 10m > approval > 37, 4 at a time\n  \
         move     390 workloads in all\n  \
         budget   fra1 at most 6 of 40 unavailable: 5 free, 5 unavailable after this\n  \
         warn     web-40 will be skipped: in operation 9c41e07b\n  \
         warn     web-02 already held by bob (CHG-4790): stays so\n  \
         gate     1 approval after the canary, rule request, scope mesh.approve, expires 30m\n  \
         failures more than 1 stop the rest\n  \
         cancel   starts no more; can restore all 390"
    );
}

#[test]
fn an_edit_of_the_settings() {
    let impact = json!({"changed": true, "changes": [
        {"key": "drain.deadline", "before": null, "after": "30m"},
        {"key": "drain.maxConcurrent", "before": 4, "after": 8}]});
    assert_eq!(
        config::lines(&plan(impact, &json!([])), "change settings", setting()).join("\n"),
        "PLAN change settings   context prod   as ana\n  \
         change   drain.deadline: nothing -> 30m\n  \
         change   drain.maxConcurrent: 4 -> 8\n  \
         undo     omnirelay mesh config rollback, with a revision of mesh config history"
    );
}

#[test]
fn impacts_of_the_future_are_shown_as_they_are() {
    let plan = plan(json!({"x": 1}), &json!([]));
    let asked = Asked { promote: Some("ams1".to_owned()), demote: Vec::new() };
    for lines in [
        promote::lines(&plan, &asked, setting()),
        bulk::lines(&plan, &BulkDrainBody::default(), setting()),
        config::lines(&plan, "change settings", setting()),
    ] {
        assert_eq!(lines[1], "  impact   {\"x\":1}");
    }
}
