//! The schema of `/control/status`.

use omnirelay_workflow::gate::GateAt;
use omnirelay_workflow::operation::{State, Verb};
use omnirelay_workflow::resource::ClusterState;
use serde_json::{Value, json};

use super::shape::{array, doc, map, nullable, number, object, optional, text, time, uuid, words};

pub fn schema() -> Value {
    let budget = || doc(nullable(number()), "What `maxUnavailable` comes to; null without a budget.");
    let cluster = object(
        "",
        &[
            ("id", text()),
            ("state", words(ClusterState::ALL, ClusterState::as_str)),
            ("peers", number()),
            ("healthy", number()),
            ("schedulable", number()),
            ("draining", number()),
            ("unavailable", doc(number(), "Peers that count against the budget.")),
            ("maxUnavailable", budget()),
            ("slotsFree", nullable(number())),
            ("queued", number()),
            ("headroom", object("", &[("capacity", number()), ("load", number())])),
        ],
    );
    let service = object(
        "A cluster's part of a service.",
        &[
            ("cluster", text()),
            ("service", text()),
            ("total", number()),
            ("ready", number()),
            ("moving", number()),
            ("unavailable", number()),
            ("maxUnavailable", budget()),
            ("free", nullable(number())),
        ],
    );
    let wanted = object(
        "Whose yes is missing.",
        &[
            ("gate", words(GateAt::ALL, GateAt::as_str)),
            ("rule", text()),
            ("scope", text()),
            ("notBy", doc(text(), "Who asked for the operation.")),
            ("have", number()),
            ("need", number()),
            ("approvedBy", array(text())),
            ("expiresAt", time()),
        ],
    );
    let kinds = ["stuck", "blocked", "awaitingApproval", "queued", "unreachable", "deadLetter"];
    let attention = object(
        "",
        &[
            ("kind", json!({"type": "string", "enum": kinds})),
            ("code", doc(text(), "Of a blocker: its own.")),
            ("subject", text()),
            ("target", doc(text(), "Of an operation.")),
            ("message", text()),
            ("since", time()),
            ("holders", doc(array(text()), "Who has what is waited for: an actor, or operations with the slots.")),
            ("position", number()),
            ("approval", wanted),
            ("command", doc(text(), "To copy.")),
        ],
    );
    let attention = optional(attention, &["target", "holders", "position", "approval"]);
    let change = object(
        "An operation that ended lately.",
        &[
            ("operation", uuid()),
            ("verb", words(Verb::ALL, Verb::as_str)),
            ("target", text()),
            ("actor", text()),
            ("reason", nullable(text())),
            ("changeTicket", nullable(text())),
            ("approvedBy", array(text())),
            ("outcome", words(State::ALL, State::as_str)),
            ("at", time()),
        ],
    );
    object(
        "How the mesh stands.",
        &[
            ("clusters", array(cluster)),
            ("services", array(service)),
            ("operations", doc(map(number()), "How many are in each state.")),
            ("attention", array(attention)),
            ("changes", doc(array(change), "The newest 50 of the last two hours, as the audit has them.")),
            ("lags", map(json!({"type": "number"}))),
        ],
    )
}
