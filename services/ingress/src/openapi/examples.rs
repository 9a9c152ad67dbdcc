//! An example of everything that goes over the wire, with every member there.

use serde_json::{Value, json};

const OPERATION: &str = "01970c2e-7d10-7000-8000-000000000007";
const HOLD: &str = "01970c2e-7d10-7000-8000-000000000008";
const AT: &str = "2026-11-23T14:00:00Z";
const LATER: &str = "2026-11-23T14:30:00Z";
const DIGEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

/// The example of a schema. There is one for each that has a name, but for settings and their schema.
pub fn example(name: &str) -> Option<Value> {
    Some(match name {
        "Peer" => json!({
            "id": "edge-7", "name": "web-07.fra1", "cluster": "fra1", "role": "edge", "address": "10.0.7.1",
            "version": "0.1.0", "labels": {"zone": "a"}, "metadata": {"rack": 4}, "health": "healthy",
            "schedulable": false, "state": "draining", "holds": [example("Hold")], "workloads": 12, "capacity": 40,
            "lastSeen": AT, "operation": OPERATION, "revision": 17,
        }),
        "Hold" => json!({
            "id": HOLD, "kind": "drain", "owner": "ana", "operation": OPERATION, "reason": "kernel CVE",
            "changeTicket": "CHG-4812", "since": AT,
        }),
        "Workload" => json!({
            "id": "checkout-5", "service": "checkout", "peer": "edge-7", "load": 2, "labels": {"tier": "1"},
            "handover": "start-first", "restorable": true, "ready": true, "remaining": 14, "unit": "checkout@5",
            "epoch": 3, "state": "moving",
        }),
        "Cluster" => json!({
            "id": "fra1", "region": "eu-central", "priority": 10, "state": "active", "failoverVersion": 4,
            "peers": 20, "healthyPeers": 19, "replicationLagMs": 120, "maxUnavailable": "25%",
            "labels": {"tier": "1"}, "operation": OPERATION, "revision": 9,
        }),
        "Config" => json!({"settings": {"drain": {"maxConcurrent": 8}}, "revision": 3}),
        "ConfigRevision" => json!({
            "revision": 3, "settings": {"drain": {"maxConcurrent": 8}}, "at": AT, "actor": "ana",
            "operation": OPERATION, "reason": "faster", "changeTicket": "CHG-4812",
        }),
        "Versions" => json!({"items": [{"version": "0.1.0", "peers": 20}]}),
        "Status" => json!({
            "clusters": [{
                "id": "fra1", "state": "active", "peers": 20, "healthy": 19, "schedulable": 18, "draining": 1,
                "unavailable": 3, "maxUnavailable": 5, "slotsFree": 2, "queued": 0,
                "headroom": {"capacity": 800, "load": 320},
            }],
            "services": [{
                "cluster": "fra1", "service": "checkout", "total": 40, "ready": 38, "moving": 1, "unavailable": 2,
                "maxUnavailable": 4, "free": 2,
            }],
            "operations": {"running": 1, "awaitingApproval": 1},
            "attention": [{
                "kind": "awaitingApproval", "code": "awaiting-approval", "subject": format!("operations/{OPERATION}"),
                "target": "peers/edge-7", "since": AT, "holders": ["ana"], "position": 1,
                "message": "peers.drain of peers/edge-7: 1 of 2 approvals; anybody with mesh.approve may give one, but ana",
                "approval": {
                    "gate": "start", "rule": "prod", "scope": "mesh.approve", "notBy": "ana", "have": 1, "need": 2,
                    "approvedBy": ["bo"], "expiresAt": LATER,
                },
                "command": format!("omnirelay ops approve {OPERATION}"),
            }],
            "changes": [{
                "operation": OPERATION, "verb": "peers.drain", "target": "peers/edge-9", "actor": "ana",
                "reason": "kernel CVE", "changeTicket": "CHG-4812", "approvedBy": ["bo"], "outcome": "succeeded",
                "at": LATER,
            }],
            "lags": {"outboxPending": 0, "outboxLagSeconds": 0.0, "auditLag": 0, "auditLagSeconds": 0.0,
                     "auditPosition": 512, "position": 512},
        }),
        "Operation" => json!({
            "id": OPERATION, "verb": "peers.drain", "target": "peers/edge-7", "state": "running",
            "phase": "moving", "progress": example("Progress"), "blockers": [example("Blocker")],
            "paused": {"by": "bo", "at": AT, "reason": "lunch"}, "actor": "ana", "reason": "kernel CVE",
            "changeTicket": "CHG-4812", "params": {"maxConcurrent": 4}, "digest": DIGEST,
            "approval": example("Gate"),
            "cancel": {"by": "ana", "at": LATER, "reason": "wrong rack", "keepMoved": true},
            "queue": {"position": 1, "holders": [HOLD]}, "parent": HOLD, "children": {"running": 2, "queued": 1},
            "createdAt": AT, "startedAt": AT, "finishedAt": LATER, "deadlineAt": LATER,
            "result": {"moved": 12}, "error": example("Problem"), "revision": 6,
        }),
        "Progress" => json!({"done": 5, "total": 12, "inFlight": 4, "failed": 1, "unit": "workloads"}),
        "Blocker" => json!({
            "code": "no-capacity", "subject": "checkout-5", "message": "no peer of fra1 has room for it", "since": AT,
        }),
        "Gate" => json!({
            "gate": "start", "required": 2, "approvals": [{"actor": "bo", "at": AT, "comment": "seen"}],
            "expiresAt": LATER, "rule": "production", "approverScope": "mesh.approve", "digest": DIGEST,
            "status": "open", "revisions": {"peers/edge-7": 17}, "note": "peers/edge-7 has changed", "rejectedBy": "cy",
        }),
        "Mutated" => json!({"operation": example("Operation"), "resource": example("Peer"), "changed": true}),
        "CordonBody" => json!({"reason": "disk is failing", "changeTicket": "CHG-4812", "gate": "start"}),
        "UncordonBody" => json!({"reason": "disk replaced", "changeTicket": "CHG-4812", "all": true, "gate": "start"}),
        "DrainBody" => json!({
            "reason": "kernel CVE", "changeTicket": "CHG-4812", "deadline": "30m", "onDeadline": "hold",
            "maxConcurrent": 4, "keepMoved": true, "gate": "start", "confirmation": "a-token-of-a-plan",
        }),
        "BulkDrainBody" => json!({
            "reason": "kernel CVE", "changeTicket": "CHG-4812", "selector": "zone=a,!spot", "peers": ["edge-7"],
            "maxConcurrent": 2, "canary": 1, "soak": "10m", "maxFailures": 1, "deadline": "30m",
            "onDeadline": "cancel", "maxConcurrentMoves": 4, "keepMoved": true, "gate": "rest",
            "confirmation": "a-token-of-a-plan",
        }),
        "PatchPeerBody" => json!({
            "reason": "moved", "changeTicket": "CHG-4812", "labels": {"zone": "b", "spot": null},
            "metadata": {"rack": 5}, "gate": "start",
        }),
        "PutPeerBody" => json!({
            "reason": "new rack", "changeTicket": "CHG-4812", "name": "web-07.fra1", "cluster": "fra1",
            "role": "edge", "address": "10.0.7.1", "labels": {"zone": "a"}, "metadata": {"rack": 4},
            "capacity": 40, "state": "cordoned", "gate": "start",
        }),
        "PutClusterBody" => json!({
            "reason": "new site", "changeTicket": "CHG-4812", "region": "eu-central", "priority": 10,
            "state": "passive", "maxUnavailable": "25%", "labels": {"tier": "1"}, "gate": "start",
        }),
        "PromoteBody" => json!({
            "reason": "planned failover", "changeTicket": "CHG-4812", "demote": ["fra1"], "force": true,
            "gate": "cutover", "confirmation": "a-token-of-a-plan",
        }),
        "DemoteBody" => json!({
            "reason": "planned failover", "changeTicket": "CHG-4812", "force": true, "gate": "start",
            "confirmation": "a-token-of-a-plan",
        }),
        "PatchConfigBody" => json!({
            "reason": "faster", "changeTicket": "CHG-4812", "settings": {"drain": {"maxConcurrent": 8}},
            "gate": "start", "confirmation": "a-token-of-a-plan",
        }),
        "RollbackConfigBody" => json!({
            "reason": "too fast", "changeTicket": "CHG-4812", "revision": 2, "gate": "start",
            "confirmation": "a-token-of-a-plan",
        }),
        "CancelBody" => json!({"reason": "wrong rack", "changeTicket": "CHG-4812", "keepMoved": true}),
        "ControlBody" => json!({"reason": "lunch", "changeTicket": "CHG-4812"}),
        "DecideBody" => {
            json!({"reason": "checked", "changeTicket": "CHG-4812", "digest": DIGEST, "comment": "seen"})
        }
        "Plan" => json!({
            "impact": {"peer": "edge-7", "workloads": 12, "peersAvailable": 19, "peersAvailableAfter": 18},
            "blockers": [example("Blocker")],
            "approval": {"gates": [{
                "gate": "start", "required": 2, "approverScope": "mesh.approve", "expiresInSecs": 3600,
                "rule": "production",
            }]},
            "digest": DIGEST, "confirmation": {"token": "a-token-of-a-plan", "expiresAt": LATER},
        }),
        "Problem" => json!({
            "type": "urn:omnirelay:problem:too-late", "title": "Too late", "status": 409,
            "detail": "operation is already succeeded: it can no longer be cancelled",
            "instance": "/control/operations/01970c2e-7d10-7000-8000-000000000007:cancel", "code": "too-late",
            "inverse": example("Inverse"), "operation": OPERATION,
        }),
        "Inverse" => json!({"method": "POST", "path": "/control/peers/edge-7:uncordon", "body": {}}),
        "Actor" => {
            json!({"subject": "ana", "scopes": ["mesh.operate"], "tokenId": "t-1", "address": "192.0.2.7"})
        }
        "AuditRecord" => json!({
            "seq": 512, "hash": DIGEST, "prevHash": DIGEST, "eventId": HOLD, "position": 512, "at": AT,
            "actor": example("Actor"), "verb": "peers.drain", "target": "peers/edge-7", "operation": OPERATION,
            "reason": "kernel CVE", "changeTicket": "CHG-4812", "outcome": "accepted", "latencyMs": 3,
            "revisionBefore": 16, "revisionAfter": 17, "traceId": "0af7651916cd43dd8448eb211c80319c",
            "detail": {"type": "omnirelay.operations.submitted"},
        }),
        "Event" => json!({
            "specversion": "1.0", "id": HOLD, "source": "omnirelay", "type": "omnirelay.operations.progressed",
            "subject": "operations/01970c2e-7d10-7000-8000-000000000007", "time": AT,
            "datacontenttype": "application/json",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "data": {
                "operation": OPERATION, "operationSeq": 4, "actor": "ana", "state": "running", "phase": "moving",
                "progress": example("Progress"),
                "audit": {"verb": "peers.drain", "outcome": "progressed"}, "target": "peers/edge-7",
            },
        }),
        _ => return None,
    })
}
