//! `mesh peers why`: why a peer is as it is. Who holds it, what is being done to it and was, by whom and with whose yes, what
//! is in the way, and what to type next.

use jiff::Timestamp;
use omnirelay_contract::rest::{Operation, Peer};
use omnirelay_contract::workflow::operation::State;
use omnirelay_contract::workflow::resource::{Health, Hold, HoldKind};
use serde::Serialize;

use super::conclude::display_name;
use super::describe;
use crate::client::Request;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::follow::view::View;
use crate::output::{self, Format, age, took};
use crate::resolve::{self, short};
use crate::session::{GlobalArgs, Session};

/// Operations that are told of.
const OPERATIONS: usize = 5;

pub async fn run(peer: &str, global: &GlobalArgs) -> Result<Exit, Failure> {
    let session = Session::open(global).await?;
    let peer = resolve::peer(&session.client, peer).await?;
    // Newest first.
    let request = Request::get("/control/operations").query("target", format!("peers/{}", peer.id));
    let mut operations: Vec<Operation> = session.client.list(&request, OPERATIONS).await?.items;
    if let Some(current) = peer.operation.filter(|id| operations.iter().all(|operation| operation.id != *id)) {
        operations.extend(session.client.get::<Operation>(&format!("/control/operations/{current}")).await.ok());
    }
    operations.sort_by_key(|operation| (operation.state.is_terminal(), std::cmp::Reverse(operation.id)));
    let why = Why { peer, operations };
    match session.format {
        Format::Json | Format::Yaml => output::document(session.format, &why)?,
        Format::Table | Format::Wide => output::print(&why.lines(Timestamp::now()).join("\n"))?,
    }
    Ok(Exit::Succeeded)
}

#[derive(Debug, Serialize)]
struct Why {
    peer: Peer,
    /// What is being done first, then what was, the newest first.
    operations: Vec<Operation>,
}

impl Why {
    fn lines(&self, now: Timestamp) -> Vec<String> {
        let Peer { id, cluster, state, health, workloads, revision, .. } = &self.peer;
        let name = display_name(&self.peer);
        let seen = self.peer.last_seen.map_or("never seen".to_owned(), |seen| format!("seen {} ago", age(seen, now)));
        let known = if name == id.as_str() { String::new() } else { format!(" ({id})") };
        let mut lines = vec![format!(
            "{name}{known}   {state}, {health}, {seen}   cluster {cluster}   {workloads} workloads   revision {revision}"
        )];
        lines.extend(self.peer.holds.iter().map(|hold| line("held", &held(hold, now))));
        if self.peer.holds.is_empty() {
            lines.push(line("held", "by nobody"));
        }
        for operation in &self.operations {
            let word = if operation.state.is_terminal() { "was" } else { "now" };
            lines.push(line(word, &self.operation(operation, now)));
            if !operation.state.is_terminal() {
                lines.extend(
                    View::new(operation).lines(now).into_iter().map(|line| format!("         {}", line.trim_start())),
                );
            }
        }
        if self.operations.is_empty() {
            lines.push(line("was", "nothing that is recorded"));
        }
        lines.extend(self.next().into_iter().map(|next| line("next", &next)));
        lines
    }

    /// `drain web-07   9c41e07b   by ana   CHG-4812   approved by bo   succeeded 2h04m ago after 2m14s`
    fn operation(&self, operation: &Operation, now: Timestamp) -> String {
        let mut text = describe::what(operation, display_name(&self.peer));
        text.push_str(&format!("   {}   by {}", short(operation.id), operation.actor));
        if let Some(ticket) = &operation.change_ticket {
            text.push_str(&format!("   {ticket}"));
        }
        if let Some(reason) = &operation.reason {
            text.push_str(&format!("   {reason:?}"));
        }
        let given = operation.approval.iter().flat_map(|gate| &gate.approvals);
        let approvers: Vec<&str> = given.map(|given| given.actor.as_str()).collect();
        if !approvers.is_empty() {
            text.push_str(&format!("   approved by {}", approvers.join(", ")));
        }
        match operation.finished_at {
            Some(end) => {
                let took = took(operation.started_at.unwrap_or(operation.created_at), end);
                text.push_str(&format!("   {} {} ago after {took}", operation.state, age(end, now)));
            }
            None => text.push_str(&format!("   {} for {}", operation.state, age(operation.created_at, now))),
        }
        if let Some(error) = &operation.error {
            text.push_str(&format!(": {} ({})", error.detail, error.code));
        }
        text
    }

    /// What to type, most pressing first.
    fn next(&self) -> Vec<String> {
        let name = display_name(&self.peer);
        let mut next = Vec::new();
        if self.peer.health == Health::Unreachable {
            next.push(format!("its agent is not heard of: look at the agent on {name}"));
        }
        match self.operations.first() {
            Some(operation) if !operation.state.is_terminal() => {
                let id = short(operation.id);
                next.push(match (operation.state, operation.paused.is_some()) {
                    (_, true) => format!("omnirelay ops resume {id}"),
                    (State::AwaitingApproval, _) => format!("omnirelay ops approve {id}   (not {})", operation.actor),
                    _ => format!("omnirelay ops attach {id}"),
                });
                next.push(format!("omnirelay ops cancel {id}"));
                return next;
            }
            Some(operation) if operation.state == State::Stuck && self.peer.operation == Some(operation.id) => {
                next.push(format!("omnirelay ops resolve {}   (mesh.admin)", short(operation.id)));
            }
            _ => {}
        }
        if !self.peer.holds.is_empty() {
            next.push(format!("omnirelay mesh peers uncordon {name}"));
        }
        next
    }
}

/// `manual by bo, 2h04m   CHG-4790   "disk"`
fn held(hold: &Hold, now: Timestamp) -> String {
    let kind = match hold.kind {
        HoldKind::Manual => "cordoned",
        HoldKind::Drain => "drained",
    };
    let mut text = format!("{kind} by {}, {} ago", hold.owner, age(hold.since, now));
    if let Some(operation) = hold.operation {
        text.push_str(&format!("   {}", short(operation)));
    }
    if let Some(ticket) = &hold.change_ticket {
        text.push_str(&format!("   {ticket}"));
    }
    if let Some(reason) = &hold.reason {
        text.push_str(&format!("   {reason:?}"));
    }
    text
}

fn line(word: &str, rest: &str) -> String {
    format!("  {word:<6} {rest}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{gate, operation};
    use serde_json::{Value, json};

    fn check(peer: &Value, operations: Vec<Operation>, expected: &[&str]) {
        let mut whole = json!({"id": "p-7", "name": "web-07", "cluster": "fra1", "role": "", "address": "", "version": "",
            "labels": {}, "metadata": {}, "health": "healthy", "schedulable": true, "state": "active", "holds": [],
            "workloads": 1, "capacity": 10, "lastSeen": "2026-11-23T12:02:59Z", "operation": null, "revision": 3});
        for (name, value) in peer.as_object().expect("members") {
            whole[name] = value.clone();
        }
        let why = Why { peer: serde_json::from_value(whole).expect("a peer"), operations };
        assert_eq!(why.lines("2026-11-23T12:03:00Z".parse().expect("time")), expected);
    }

    #[test]
    fn a_peer_that_was_drained_and_is_held() {
        let mut done = operation(State::Succeeded);
        done.change_ticket = Some("CHG-1".to_owned());
        let mut passed = gate(1);
        passed.approvals =
            serde_json::from_value(json!([{"actor": "bo", "at": "2026-11-23T12:00:00Z"}])).expect("approvals");
        done.approval = Some(passed);
        check(
            &json!({"state": "drained", "holds": [{"id": "0193d1f0-0000-7000-8000-000000000001", "kind": "drain",
                "owner": "ana", "operation": crate::testing::ID, "reason": "cve", "changeTicket": "CHG-1",
                "since": "2026-11-23T12:00:00Z"}]}),
            vec![done],
            &[
                "web-07 (p-7)   drained, healthy, seen 1s ago   cluster fra1   1 workloads   revision 3",
                "  held   drained by ana, 3m00s ago   9c41e07b   CHG-1   \"cve\"",
                "  was    drain web-07   9c41e07b   by ana   CHG-1   approved by bo   succeeded 45s ago after 2m14s",
                "  next   omnirelay mesh peers uncordon web-07",
            ],
        );
    }

    #[test]
    fn a_peer_whose_drain_waits() {
        let mut waiting = operation(State::AwaitingApproval);
        waiting.approval = Some(gate(2));
        check(
            &json!({"operation": crate::testing::ID}),
            vec![waiting],
            &[
                "web-07 (p-7)   active, healthy, seen 1s ago   cluster fra1   1 workloads   revision 3",
                "  held   by nobody",
                "  now    drain web-07   9c41e07b   by ana   awaitingApproval for 3m00s",
                "         APPROVAL 0/2   27:00 left   may decide: scope mesh.approve, not ana",
                "         omnirelay ops approve 9c41e07b   cutover gate, rule prod-failover   digest 4f9a11c2",
                "  next   omnirelay ops approve 9c41e07b   (not ana)",
                "  next   omnirelay ops cancel 9c41e07b",
            ],
        );
    }
}
