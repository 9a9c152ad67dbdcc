//! The failover: the standby cluster takes over by a promotion that two others have to approve. The requester is refused, a bot
//! decides by its policy, a person looks and says yes; the old cluster is fenced before the new one is active.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use jiff::Timestamp;
use omnirelay_contract::event::Event;
use omnirelay_contract::rest::{Operation, Page, Workload};
use omnirelay_runtime::auth::Scope;
use omnirelay_workflow::operation::State;
use omnirelay_workflow::resource::Role;

use super::super::api::Api;
use super::super::evidence::carried_out;
use super::super::http;
use super::super::stage::{BOT, CLUSTER, PEERS, STANDBY, STANDBY_PEERS, until};
use super::{PATIENCE, Play, code, operation_now};

/// From now on.
const RULE: &str = r#"approvals.rules=[{"name":"prod-failover","verbs":["clusters.promote"],"gate":"cutover","required":2,"requireTicket":true}]"#;
/// So many answers through the proxy say who serves.
const ASKED: usize = 40;

impl Play<'_> {
    pub(super) async fn failover(&mut self) -> anyhow::Result<()> {
        self.screen.heading("Promote ams1 in place of fra1: two others have to approve it");
        // Whatever she may do otherwise, admin included.
        let ana = self.stage.operator("ana", Scope::Admin, &self.screen)?;
        let cy = self.stage.operator("cy", Scope::Approve, &self.screen)?;
        let ran = ana.run(&["mesh", "config", "set", RULE, "--yes", "--reason", "four eyes on a failover"]).await?;
        if ran.exit != Some(0) {
            bail!("the setting of the rule ended with exit {}", code(&ran));
        }
        let pid = self.stage.start_bot()?;
        self.screen.line(&format!("an approval bot with its own policy and a token of {BOT} listens, process {pid}"));

        let span = self.span();
        let line = ["promote", STANDBY, "--demote", CLUSTER, "--yes", "--ticket", "CHG-4820", "--reason", "power work"];
        let (api, screen, stage) = (self.api.clone(), self.screen.clone(), &mut *self.stage);
        let decide = async {
            let waiting = at_gate(&api, "it waits for approval", |_| true).await?;
            let own = ana.run(&["ops", "approve", STANDBY, "--yes"]).await?;
            at_gate(&api, "the bot approves", |operation| approvers(operation).contains(&BOT)).await?;
            screen.line("the bot's log:");
            screen.quote(&stage.process("approval-bot")?.log_tail(1));
            let other = cy.run(&["ops", "approve", STANDBY, "--yes", "--comment", "looked at the plan"]).await?;
            anyhow::Ok((waiting.id.to_string(), own, other))
        };
        let (ran, decided) = tokio::join!(ana.run(&line), decide);
        let (ran, (id, own, other)) = (ran?, decided?);
        let operation = operation_now(&self.api, &id).await?;

        let refused = own.exit != Some(0) && own.stderr.contains("self-approval, 403");
        let why = if refused { "self-approval, 403" } else { "NOT for that" };
        self.claim("nobody approves their own change", format!("exit {}, {why}; ana is an admin", code(&own)), refused);
        let given = approvers(&operation);
        let measured = format!("approved by {}", given.join(" and "));
        self.claim(
            "others do: a bot by its policy, and a person",
            measured,
            given == [BOT, "cy"] && other.exit == Some(0),
        );

        let events = self.api.events_of(&id).await?;
        let (measured, in_order) = self.order_of_roles(&events)?;
        let ended = ran.exit == Some(0) && operation.state == State::Succeeded;
        self.claim("the old cluster is fenced before the new one is active", measured, in_order && ended);
        self.serving_now().await?;
        self.no_failure(&span, "no request failed during the failover").await?;
        self.screen.act_ends();
        Ok(())
    }

    /// By the journals of the agents, and the event of the cutover.
    fn order_of_roles(&self, events: &[Event]) -> anyhow::Result<(String, bool)> {
        let agent = self.stage.dir().join("agent");
        let all: Vec<&str> = PEERS.iter().chain(&STANDBY_PEERS).copied().collect();
        let fenced = carried_out(&agent, &all, Role::Fenced)?;
        let active = carried_out(&agent, &STANDBY_PEERS, Role::Active)?;
        let cutover = events.iter().find(|event| matches!(event.parts(), Some(("clusters", STANDBY, "promoted"))));
        let cutover = cutover.context("no event tells of the promotion")?.time;
        let (Some(last), Some(first)) = (fenced.values().max(), active.values().min()) else {
            return Ok(("no agent's journal says so".to_owned(), false));
        };
        self.screen.line("the ledgers' own logs:");
        for said in roles_of(&agent, &all, ["ledger-1", "ledger-2"]) {
            self.screen.quote(&said);
        }
        let ms = |from: &Timestamp, to: &Timestamp| to.duration_since(*from).as_millis();
        let measured = format!(
            "{} agents fenced, {} ms before the cutover; {} active, the first {} ms after it",
            fenced.len(),
            ms(last, &cutover),
            active.len(),
            ms(&cutover, first)
        );
        self.screen.line(&format!("agents' journals: {measured}"));
        let everybody = fenced.len() == all.len() && active.len() == STANDBY_PEERS.len();
        Ok((measured, everybody && *last <= cutover && cutover <= *first))
    }

    /// Who answers through the proxy.
    async fn serving_now(&mut self) -> anyhow::Result<()> {
        let mut theirs = BTreeSet::new();
        for peer in STANDBY_PEERS {
            let page: Page<Workload> = self.api.get(&format!("/control/peers/{peer}/workloads")).await?;
            theirs.extend(page.items.iter().map(|workload| workload.id.to_string()));
        }
        let proxy = self.proxy;
        until("the proxy has followed", PATIENCE, async || {
            let answer = http::get(proxy, "/checkout").await.context("GET /checkout")?;
            Ok(theirs.contains(&answer.body).then_some(()))
        })
        .await?;
        let mut answered = BTreeSet::new();
        for n in 0..ASKED {
            let path = if n % 4 == 0 { "/ledger" } else { "/checkout" };
            answered.insert(http::get(proxy, path).await.with_context(|| format!("GET {path}"))?.body);
        }
        let measured = answered.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        self.claim("the standby cluster serves", measured, answered.is_subset(&theirs) && answered.len() > 1);
        Ok(())
    }
}

/// The promotion at its gate, once it is as wanted.
async fn at_gate(api: &Api, what: &str, wanted: impl Fn(&Operation) -> bool) -> anyhow::Result<Operation> {
    let target = format!("clusters/{STANDBY}");
    until(what, Duration::from_secs(30), async || {
        let page: Page<Operation> = api.get("/control/approvals").await?;
        Ok(page.items.into_iter().find(|operation| operation.target == target).filter(|operation| wanted(operation)))
    })
    .await
}

fn approvers(operation: &Operation) -> Vec<&str> {
    operation.approval.iter().flat_map(|gate| &gate.approvals).map(|given| given.actor.as_str()).collect()
}

/// What the logs of these two say of the failover's two roles each, wherever they ran, in the order of time.
fn roles_of(agent: &Path, peers: &[&str], workloads: [&str; 2]) -> Vec<String> {
    let mut said = Vec::new();
    for workload in workloads {
        let logs = peers.iter().map(|peer| agent.join(peer).join("logs").join(format!("{workload}.log")));
        let texts: Vec<String> = logs.filter_map(|log| std::fs::read_to_string(log).ok()).collect();
        let mut lines: Vec<&str> = texts.iter().flat_map(|text| text.lines()).collect();
        // They begin with the time.
        lines.sort_unstable();
        said.extend(lines.iter().skip(lines.len().saturating_sub(2)).map(|line| (*line).to_owned()));
    }
    said.sort_unstable();
    said
}
