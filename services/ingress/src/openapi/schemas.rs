//! The schemas of what goes over the wire, one table.

use omnirelay_contract::problem::Code;
use omnirelay_workflow::drain::OnDeadline;
use omnirelay_workflow::gate::{Decision, GateAt};
use omnirelay_workflow::operation::{BlockerCode, State, Verb};
use omnirelay_workflow::resource::{ClusterState, Handover, Health, HoldKind, PeerState, WorkloadState};
use serde_json::{Map, Value, json};

use super::shape::{
    amount, array, doc, duration, flag, id, integer, labels, map, nullable, number, object, optional, revision, schema,
    text, time, uuid, words,
};

/// All schemas by their names.
pub fn schemas() -> Map<String, Value> {
    let mut all = Map::new();
    let mut add = |name: &str, schema: Value| {
        all.insert(name.to_owned(), schema);
    };
    resources(&mut add);
    add("Status", super::status::schema());
    operations(&mut add);
    bodies(&mut add);
    plans(&mut add);
    records(&mut add);
    all
}

fn resources(add: &mut impl FnMut(&str, Value)) {
    add(
        "Peer",
        object(
            "A peer. `lastSeen` is not part of its revision.",
            &[
                ("id", id()),
                ("name", doc(text(), "A host or unit name, free.")),
                ("cluster", id()),
                ("role", text()),
                ("address", text()),
                ("version", doc(text(), "Of its agent.")),
                ("labels", labels()),
                ("metadata", doc(json!({}), "Free JSON.")),
                ("health", words(Health::ALL, Health::as_str)),
                ("schedulable", flag()),
                ("state", words(PeerState::ALL, PeerState::as_str)),
                ("holds", array(schema("Hold"))),
                ("workloads", number()),
                ("capacity", number()),
                ("lastSeen", nullable(time())),
                ("operation", doc(nullable(uuid()), "The operation that has the peer's lock.")),
                ("revision", revision()),
            ],
        ),
    );
    add(
        "Hold",
        object(
            "A reason not to schedule on a peer.",
            &[
                ("id", uuid()),
                ("kind", words(HoldKind::ALL, HoldKind::as_str)),
                ("owner", text()),
                ("operation", nullable(uuid())),
                ("reason", nullable(text())),
                ("changeTicket", nullable(text())),
                ("since", time()),
            ],
        ),
    );
    add(
        "Workload",
        object(
            "What runs on a peer.",
            &[
                ("id", id()),
                ("service", text()),
                ("peer", id()),
                ("load", doc(number(), "In the unit of the peers' `capacity`.")),
                ("labels", labels()),
                ("handover", words(Handover::ALL, Handover::as_str)),
                ("restorable", doc(flag(), "Whether a release can be taken back.")),
                ("ready", flag()),
                ("remaining", nullable(number())),
                ("unit", nullable(text())),
                ("epoch", number()),
                ("state", words(WorkloadState::ALL, WorkloadState::as_str)),
            ],
        ),
    );
    add(
        "Cluster",
        object(
            "A cluster.",
            &[
                ("id", id()),
                ("region", text()),
                ("priority", integer()),
                ("state", words(ClusterState::ALL, ClusterState::as_str)),
                ("failoverVersion", doc(number(), "Grows with every cutover of the mesh.")),
                ("peers", number()),
                ("healthyPeers", number()),
                ("replicationLagMs", nullable(number())),
                ("maxUnavailable", nullable(amount())),
                ("labels", labels()),
                ("operation", nullable(uuid())),
                ("revision", revision()),
            ],
        ),
    );
    add(
        "Config",
        object(
            "The settings; `/control/config/schema` says what they may be.",
            &[("settings", json!({"type": "object"})), ("revision", revision())],
        ),
    );
    add(
        "ConfigRevision",
        object(
            "One revision of the settings.",
            &[
                ("revision", revision()),
                ("settings", json!({"type": "object"})),
                ("at", time()),
                ("actor", text()),
                ("operation", nullable(uuid())),
                ("reason", nullable(text())),
                ("changeTicket", nullable(text())),
            ],
        ),
    );
    add("JsonSchema", json!({"type": "object", "description": "A JSON Schema (2020-12)."}));
    let version = object("", &[("version", text()), ("peers", number())]);
    add("Versions", object("Versions of the agent.", &[("items", array(version))]));
}

fn operations(add: &mut impl FnMut(&str, Value)) {
    add(
        "Operation",
        object(
            "An operation. What its verb has no use for is null.",
            &[
                ("id", uuid()),
                ("verb", words(Verb::ALL, Verb::as_str)),
                ("target", doc(text(), "`peers/edge-7`")),
                ("state", words(State::ALL, State::as_str)),
                ("phase", nullable(text())),
                ("progress", schema("Progress")),
                ("blockers", array(schema("Blocker"))),
                ("paused", nullable(object("", &[("by", text()), ("at", time()), ("reason", nullable(text()))]))),
                ("actor", text()),
                ("reason", nullable(text())),
                ("changeTicket", nullable(text())),
                ("params", json!({"type": "object"})),
                ("digest", text()),
                ("approval", doc(nullable(schema("Gate")), "The gate that is open, or the last one that was.")),
                (
                    "cancel",
                    nullable(object(
                        "",
                        &[("by", text()), ("at", time()), ("reason", nullable(text())), ("keepMoved", flag())],
                    )),
                ),
                ("queue", nullable(object("", &[("position", number()), ("holders", array(uuid()))]))),
                ("parent", nullable(uuid())),
                ("children", doc(nullable(map(number())), "Of a bulk drain: how many are in each state.")),
                ("createdAt", time()),
                ("startedAt", nullable(time())),
                ("finishedAt", nullable(time())),
                ("deadlineAt", nullable(time())),
                ("result", json!({})),
                ("error", nullable(schema("Problem"))),
                ("revision", revision()),
            ],
        ),
    );
    add(
        "Progress",
        object(
            "",
            &[("done", number()), ("total", number()), ("inFlight", number()), ("failed", number()), ("unit", text())],
        ),
    );
    add(
        "Blocker",
        object(
            "Why an operation waits, and on whom.",
            &[
                ("code", words(BlockerCode::ALL, BlockerCode::as_str)),
                ("subject", text()),
                ("message", text()),
                ("since", time()),
            ],
        ),
    );
    let approval = optional(object("", &[("actor", text()), ("at", time()), ("comment", text())]), &["comment"]);
    let gate = object(
        "An approval gate. An approval names its `digest`.",
        &[
            ("gate", words(GateAt::ALL, GateAt::as_str)),
            ("required", doc(number(), "Distinct approvers.")),
            ("approvals", array(approval)),
            ("expiresAt", time()),
            ("rule", text()),
            ("approverScope", text()),
            ("digest", text()),
            ("status", words(Decision::ALL, Decision::as_str)),
            ("revisions", map(number())),
            ("note", text()),
            ("rejectedBy", text()),
        ],
    );
    add("Gate", optional(gate, &["note", "rejectedBy"]));
    let mutated = object(
        "The answer to a mutation.",
        &[
            ("operation", schema("Operation")),
            ("resource", doc(json!({}), "The target as it is now, where that is known.")),
            ("changed", flag()),
        ],
    );
    add("Mutated", optional(mutated, &["resource"]));
}

fn bodies(add: &mut impl FnMut(&str, Value)) {
    let mut body = |name: &str, members: &[(&str, Value)]| {
        let mut properties = Map::new();
        properties.insert("reason".to_owned(), text());
        properties.insert("changeTicket".to_owned(), text());
        properties.extend(members.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())));
        add(name, json!({"type": "object", "properties": properties, "additionalProperties": false}));
    };
    let gate = || {
        doc(
            json!({"anyOf": [words(GateAt::ALL, GateAt::as_str), {"type": "object", "required": ["gate"]}]}),
            "A gate of the request's own: stricter than the rules, never weaker.",
        )
    };
    let confirmation = || doc(text(), "The token of a plan.");
    let drain = || {
        vec![
            ("deadline", duration()),
            ("onDeadline", words(OnDeadline::ALL, OnDeadline::as_str)),
            ("keepMoved", doc(flag(), "A cancel leaves what has moved where it is.")),
            ("gate", gate()),
            ("confirmation", confirmation()),
        ]
    };
    let force = || doc(flag(), "Goes on in spite of what stands in the way. It is recorded.");
    body("CordonBody", &[("gate", gate())]);
    body("UncordonBody", &[("all", doc(flag(), "Other people's manual holds too.")), ("gate", gate())]);
    let mut members = drain();
    members.push(("maxConcurrent", doc(number(), "Moves in flight at once.")));
    body("DrainBody", &members);
    let mut members = drain();
    members.extend([
        ("selector", doc(text(), "`zone=a,!spot`")),
        ("peers", doc(array(id()), "Instead of a selector.")),
        ("maxConcurrent", doc(number(), "Peers at once.")),
        ("canary", doc(number(), "So many peers first.")),
        ("soak", duration()),
        ("maxFailures", doc(number(), "More failures than this stop it.")),
        ("maxConcurrentMoves", doc(number(), "Moves in flight at once, of each peer's drain.")),
    ]);
    body("BulkDrainBody", &members);
    body(
        "PatchPeerBody",
        &[
            ("labels", doc(json!({"type": ["object", "null"]}), "Null removes all of them, null of one that one.")),
            ("metadata", doc(json!({"type": ["object", "null"]}), "As `labels`.")),
            ("gate", gate()),
        ],
    );
    body(
        "PutPeerBody",
        &[
            ("name", text()),
            ("cluster", id()),
            ("role", text()),
            ("address", text()),
            ("labels", labels()),
            ("metadata", json!({})),
            ("capacity", number()),
            ("state", doc(json!({"enum": ["active", "cordoned"]}), "Only at its creation.")),
            ("gate", gate()),
        ],
    );
    body(
        "PutClusterBody",
        &[
            ("region", text()),
            ("priority", integer()),
            ("state", doc(json!({"enum": ["active", "passive"]}), "Only at its creation.")),
            ("maxUnavailable", amount()),
            ("labels", labels()),
            ("gate", gate()),
        ],
    );
    body(
        "PromoteBody",
        &[
            ("demote", doc(array(id()), "Clusters that become passive in the same step.")),
            ("force", force()),
            ("gate", gate()),
            ("confirmation", confirmation()),
        ],
    );
    body("DemoteBody", &[("force", force()), ("gate", gate()), ("confirmation", confirmation())]);
    body(
        "PatchConfigBody",
        &[
            ("settings", doc(json!({"type": "object"}), "A merge patch (RFC 7396) of the settings.")),
            ("gate", gate()),
            ("confirmation", confirmation()),
        ],
    );
    body(
        "RollbackConfigBody",
        &[
            ("revision", doc(number(), "Whose settings become the newest.")),
            ("gate", gate()),
            ("confirmation", confirmation()),
        ],
    );
    body("CancelBody", &[("keepMoved", flag())]);
    body("ControlBody", &[]);
    body(
        "DecideBody",
        &[
            ("digest", doc(text(), "Of what was looked at: the operation's `approval.digest`. Required.")),
            ("comment", text()),
        ],
    );
}

fn plans(add: &mut impl FnMut(&str, Value)) {
    let policy = object(
        "",
        &[
            ("gate", words(GateAt::ALL, GateAt::as_str)),
            ("required", number()),
            ("approverScope", text()),
            ("expiresInSecs", number()),
            ("rule", text()),
        ],
    );
    add(
        "Plan",
        object(
            "What a mutation would do, and the token that confirms exactly that.",
            &[
                ("impact", doc(json!({"type": "object"}), "Particular to the verb.")),
                ("blockers", array(schema("Blocker"))),
                ("approval", nullable(object("", &[("gates", array(policy))]))),
                ("digest", text()),
                ("confirmation", object("", &[("token", text()), ("expiresAt", time())])),
            ],
        ),
    );
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    let problem = object(
        "An RFC 9457 problem. `detail` says what to do; switch on `code`.",
        &[
            ("type", text()),
            ("title", text()),
            ("status", number()),
            ("detail", text()),
            ("instance", text()),
            ("code", json!({"enum": codes})),
            ("plan", doc(schema("Plan"), "Of `confirmation-required`.")),
            ("inverse", doc(schema("Inverse"), "Of `too-late`: the request that undoes it.")),
            ("revision", doc(number(), "Of `revision-mismatch`: the current one.")),
            ("operation", doc(text(), "Which operation is in the way.")),
            ("owners", doc(array(text()), "Of `peer-held`.")),
            ("digest", doc(text(), "Of `digest-mismatch`: the one to decide about now.")),
            ("key", doc(text(), "Of `invalid-setting`.")),
            ("rule", doc(text(), "Of `invalid-setting` and `ticket-required`.")),
            ("cluster", doc(text(), "Of what concerns a cluster.")),
        ],
    );
    let of_single_codes =
        ["instance", "plan", "inverse", "revision", "operation", "owners", "digest", "key", "rule", "cluster"];
    add("Problem", optional(problem, &of_single_codes));
    add(
        "Inverse",
        object(
            "A request, ready to send.",
            &[("method", text()), ("path", text()), ("body", json!({"type": "object"}))],
        ),
    );
}

fn records(add: &mut impl FnMut(&str, Value)) {
    let actor = object("", &[("subject", text()), ("scopes", array(text())), ("tokenId", text()), ("address", text())]);
    add("Actor", optional(actor, &["tokenId", "address"]));
    add(
        "AuditRecord",
        object(
            "One link of the audit's chain.",
            &[
                ("seq", number()),
                ("hash", text()),
                ("prevHash", text()),
                ("eventId", uuid()),
                ("position", number()),
                ("at", time()),
                ("actor", schema("Actor")),
                ("verb", text()),
                ("target", text()),
                ("operation", nullable(uuid())),
                ("reason", nullable(text())),
                ("changeTicket", nullable(text())),
                ("outcome", text()),
                ("latencyMs", nullable(number())),
                ("revisionBefore", nullable(number())),
                ("revisionAfter", nullable(number())),
                ("traceId", nullable(text())),
                ("detail", json!({"type": "object"})),
            ],
        ),
    );
    let data = object(
        "Members particular to the type stand beside these.",
        &[
            ("operation", uuid()),
            ("operationSeq", doc(number(), "Gap-free from 1 within an operation.")),
            ("actor", text()),
            ("state", words(State::ALL, State::as_str)),
            ("phase", text()),
            ("progress", schema("Progress")),
            ("audit", json!({"type": "object"})),
        ],
    );
    let data = optional(data, &["operation", "operationSeq", "actor", "state", "phase", "progress"]);
    let event = object(
        "A CloudEvent 1.0.",
        &[
            ("specversion", json!({"const": "1.0"})),
            ("id", uuid()),
            ("source", text()),
            ("type", doc(text(), "`omnirelay.peers.drained`")),
            ("subject", doc(text(), "`peers/edge-7`")),
            ("time", time()),
            ("datacontenttype", text()),
            ("traceparent", text()),
            ("data", data),
        ],
    );
    add("Event", optional(event, &["traceparent"]));
}
