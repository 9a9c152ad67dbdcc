//! An open gate in lines: how many have said yes, how long is left, who may, and what they said.

use jiff::Timestamp;
use omnirelay_contract::workflow::gate::{Decision, Gate};

use crate::output::countdown;

/// The first digits of a digest, as it is shown to people. What is sent is the whole.
pub fn short(digest: &str) -> String {
    digest.chars().take(8).collect()
}

/// `scope mesh.approve, not ana`.
pub fn who(gate: &Gate, requester: &str) -> String {
    format!("scope {}, not {requester}", gate.approver_scope)
}

/// The gate as it waits. `id` is the operation's tail, for the command to copy.
pub fn lines(gate: &Gate, requester: &str, id: &str, now: Timestamp) -> Vec<String> {
    let have = gate.approvals.len();
    let mut lines = vec![format!(
        "  APPROVAL {have}/{}   {} left   may decide: {}",
        gate.required,
        countdown(gate.expires_at, now),
        who(gate, requester)
    )];
    if let Some(note) = gate.note.as_ref().filter(|_| gate.status == Decision::Open) {
        lines.push(format!("    asked anew: {note}"));
    }
    lines.push(format!(
        "    omnirelay ops approve {id}   {} gate, rule {}   digest {}",
        gate.gate,
        gate.rule,
        short(&gate.digest)
    ));
    lines
}

/// What has been said at the gate: `policy-bot approved   "no freeze, ticket open"`.
pub fn heard(gate: &Gate) -> Vec<String> {
    let said = |comment: Option<&String>| comment.map_or_else(String::new, |text| format!("   {text:?}"));
    let approved = |given: &omnirelay_contract::workflow::gate::Given| {
        format!("  {} approved{}", given.actor, said(given.comment.as_ref()))
    };
    let mut heard: Vec<String> = gate.approvals.iter().map(approved).collect();
    if let Some(by) = &gate.rejected_by {
        heard.push(format!("  {by} rejected{}", said(gate.note.as_ref())));
    }
    heard
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::gate;

    #[test]
    fn a_gate_in_lines() {
        let now = "2026-11-23T12:00:19Z".parse().expect("time");
        let mut gate = gate(2);
        assert_eq!(
            lines(&gate, "ana", "7be3d210", now),
            [
                "  APPROVAL 0/2   29:41 left   may decide: scope mesh.approve, not ana",
                "    omnirelay ops approve 7be3d210   cutover gate, rule prod-failover   digest 4f9a11c2"
            ]
        );
        gate.note = Some("clusters/ams1 was changed from revision 7 to 8".to_owned());
        assert_eq!(
            lines(&gate, "ana", "7be3d210", now)[1],
            "    asked anew: clusters/ams1 was changed from revision 7 to 8"
        );
    }

    #[test]
    fn what_was_said_is_heard() {
        let mut gate = gate(2);
        let given = serde_json::json!([{"actor": "policy-bot", "at": "2026-11-23T12:00:00Z", "comment": "no freeze"},
            {"actor": "bo", "at": "2026-11-23T12:00:00Z"}]);
        gate.approvals = serde_json::from_value(given).expect("approvals");
        assert_eq!(heard(&gate), ["  policy-bot approved   \"no freeze\"", "  bo approved"]);
        gate.rejected_by = Some("cy".to_owned());
        gate.note = Some("freeze".to_owned());
        assert_eq!(heard(&gate)[2], "  cy rejected   \"freeze\"");
    }
}
