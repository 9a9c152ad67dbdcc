//! `mesh approvals`: what waits for somebody's yes.

use clap::Subcommand;
use jiff::Timestamp;
use omnirelay_contract::rest::{Operation, Page};
use serde::Serialize;

use super::LimitArgs;
use crate::client::Request;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::follow::gate::{short as digits, who};
use crate::output::{self, Row, age, countdown, dash};
use crate::resolve::short;
use crate::session::{GlobalArgs, Session};

#[derive(Debug, Subcommand)]
pub enum Approvals {
    /// List operations that wait for approval, oldest first, with who may decide and how long is left
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        limit: LimitArgs,
    },
}

pub async fn run(command: Approvals, global: &GlobalArgs) -> Result<Exit, Failure> {
    let Approvals::List { limit } = command;
    let session = Session::open(global).await?;
    let page: Page<Operation> = session.client.list(&Request::get("/control/approvals"), limit.limit).await?;
    let me = session.actor();
    let items = page.items.into_iter().map(|operation| Waiting { operation, me: me.clone() }).collect();
    output::list(session.format, &Page { items, next_page_token: page.next_page_token, position: page.position })?;
    Ok(Exit::Succeeded)
}

/// An operation at an open gate, as somebody sees it.
#[derive(Debug, Serialize)]
struct Waiting {
    #[serde(flatten)]
    operation: Operation,
    #[serde(skip)]
    me: Option<String>,
}

impl Waiting {
    fn may_decide(&self) -> String {
        let Operation { approval, actor, .. } = &self.operation;
        let Some(gate) = approval else { return "-".to_owned() };
        if self.me.as_deref() == Some(actor.as_str()) {
            return format!("scope {}, not me", gate.approver_scope);
        }
        who(gate, actor)
    }
}

impl Row for Waiting {
    const HEAD: &'static [&'static str] =
        &["ID", "VERB", "TARGET", "REQUESTER", "HAVE", "LEFT", "MAY DECIDE", "RULE", "TICKET"];
    const WIDE: &'static [&'static str] = &["GATE", "APPROVED BY", "DIGEST", "REASON", "AGE", "FULL ID"];

    fn cells(&self, now: Timestamp) -> Vec<String> {
        let operation = &self.operation;
        let gate = operation.approval.as_ref();
        let given: Vec<&str> =
            gate.into_iter().flat_map(|gate| &gate.approvals).map(|given| given.actor.as_str()).collect();
        vec![
            short(operation.id),
            operation.verb.to_string(),
            operation.target.clone(),
            operation.actor.clone(),
            dash(gate.map(|gate| format!("{}/{}", gate.approvals.len(), gate.required))),
            dash(gate.map(|gate| countdown(gate.expires_at, now))),
            self.may_decide(),
            dash(gate.map(|gate| gate.rule.clone())),
            dash(operation.change_ticket.clone()),
            dash(gate.map(|gate| gate.gate)),
            dash((!given.is_empty()).then(|| given.join(","))),
            dash(gate.map(|gate| digits(&gate.digest))),
            dash(operation.reason.clone()),
            age(operation.created_at, now),
            operation.id.to_string(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{gate, operation};
    use omnirelay_contract::workflow::operation::State;

    #[test]
    fn what_waits_in_a_table() {
        let now = "2026-11-23T12:00:19Z".parse().expect("time");
        let mut operation = operation(State::AwaitingApproval);
        operation.approval = Some(gate(2));
        let mine = Waiting { operation: operation.clone(), me: Some("ana".to_owned()) };
        let theirs = Waiting { operation, me: Some("bo".to_owned()) };
        assert_eq!(
            output::table(&[mine, theirs], false, now),
            "ID        VERB         TARGET        REQUESTER  HAVE  LEFT   MAY DECIDE                   RULE           TICKET\n\
             9c41e07b  peers.drain  peers/web-07  ana        0/2   29:41  scope mesh.approve, not me   prod-failover  -\n\
             9c41e07b  peers.drain  peers/web-07  ana        0/2   29:41  scope mesh.approve, not ana  prod-failover  -"
        );
    }
}
