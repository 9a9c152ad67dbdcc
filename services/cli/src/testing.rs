//! Samples for tests.

use omnirelay_contract::rest::Operation;
use omnirelay_contract::workflow::operation::{Progress, State, Verb};

pub const ID: &str = "0193d1f0-0000-7000-8000-00009c41e07b";

/// A drain of `web-07` in this state, submitted at noon and begun a second later.
pub fn operation(state: State) -> Operation {
    let at = |text: &str| text.parse().expect("time");
    Operation {
        id: ID.parse().expect("id"),
        verb: Verb::PeersDrain,
        target: "peers/web-07".to_owned(),
        state,
        phase: None,
        progress: Progress { unit: "workloads".to_owned(), ..Progress::default() },
        blockers: Vec::new(),
        paused: None,
        actor: "ana".to_owned(),
        reason: None,
        change_ticket: None,
        params: serde_json::json!({}),
        digest: "4f9a11c2".to_owned(),
        approval: None,
        cancel: None,
        queue: None,
        parent: None,
        children: None,
        created_at: at("2026-11-23T12:00:00Z"),
        started_at: Some(at("2026-11-23T12:00:01Z")),
        finished_at: state.is_terminal().then(|| at("2026-11-23T12:02:15Z")),
        deadline_at: None,
        result: None,
        error: None,
        revision: 1,
    }
}

/// An open gate of a promotion, asked for at noon with half an hour to go.
pub fn gate(required: u32) -> omnirelay_contract::workflow::gate::Gate {
    let gate = serde_json::json!({"gate": "cutover", "required": required, "approvals": [],
        "expiresAt": "2026-11-23T12:30:00Z", "rule": "prod-failover", "approverScope": "mesh.approve",
        "digest": "4f9a11c2d3e4f5", "status": "open", "revisions": {"clusters/ams1": 7}});
    serde_json::from_value(gate).expect("a gate")
}
