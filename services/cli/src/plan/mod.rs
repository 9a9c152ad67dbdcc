//! Plans as lines that can be read before they are confirmed: a file per verb, and here what all of them say.
//!
//! An `impact` that is not understood (a newer server's) is shown as the JSON that it is: whoever confirms a plan has seen it.

pub mod bulk;
pub mod config;
pub mod drain;
pub mod promote;

use jiff::Timestamp;
use omnirelay_contract::rest::{BudgetImpact, Humantime, Plan};
use omnirelay_contract::workflow::drain::OnDeadline;
use omnirelay_contract::workflow::gate::GateAt;
use omnirelay_contract::workflow::operation::Blocker;
use omnirelay_contract::workflow::resource::Hold;

use crate::output::{age, rough};

/// Where and as whom the plan would be carried out.
#[derive(Debug, Clone, Copy)]
pub struct Setting<'a> {
    pub context: &'a str,
    /// The token's subject, if it tells.
    pub actor: Option<&'a str>,
    pub now: Timestamp,
}

impl Setting<'_> {
    /// `PLAN drain web-07   context prod   as ana`; `more` stands before the actor.
    fn head(&self, what: &str, more: &str) -> String {
        let actor = self.actor.map(|actor| format!("   as {actor}")).unwrap_or_default();
        format!("PLAN {what}   context {}{more}{actor}", self.context)
    }
}

/// `  word     rest`.
fn line(word: &str, rest: &str) -> String {
    format!("  {word:<8} {rest}")
}

/// What it would have to wait for.
fn blockers(plan: &Plan, setting: Setting<'_>) -> Vec<String> {
    waits(plan.blockers.iter(), setting)
}

fn waits<'a>(blockers: impl Iterator<Item = &'a Blocker>, setting: Setting<'_>) -> Vec<String> {
    let tell = |blocker: &Blocker| {
        let since = age(blocker.since, setting.now);
        line("wait", &format!("{} {}: {}   {since}", blocker.code, blocker.subject, blocker.message))
    };
    blockers.map(tell).collect()
}

/// `2 approvals before the cutover, rule prod-failover, scope mesh.approve, expires 30m`, a line for each gate.
fn gates(plan: &Plan) -> Vec<String> {
    let gates = plan.approval.iter().flat_map(|approval| &approval.gates);
    let tell = |gate: &omnirelay_contract::workflow::gate::GatePolicy| {
        let approvals =
            if gate.required == 1 { "1 approval".to_owned() } else { format!("{} approvals", gate.required) };
        let at = match gate.gate {
            GateAt::Start => "before anything",
            GateAt::Rest => "after the canary",
            GateAt::Cutover => "before the fencing",
        };
        let expires = rough(gate.expires_in_secs);
        line("gate", &format!("{approvals} {at}, rule {}, scope {}, expires {expires}", gate.rule, gate.approver_scope))
    };
    gates.map(tell).collect()
}

fn deadline(deadline: Option<Humantime>, then: Option<OnDeadline>) -> Option<String> {
    let then = then.map_or("hold", |then| then.as_str());
    let warning = if then == "force" { "; the rest may then run twice" } else { "" };
    let deadline = humantime::format_duration(deadline?.0);
    Some(line("deadline", &format!("{deadline}, then {then}{warning}")))
}

/// `fra1 2 of 6 unavailable after this`, where there is a limit.
fn budget(of: &BudgetImpact) -> Option<String> {
    let limit = of.max_unavailable?;
    let (kind, name) = of.subject.split_once('/').unwrap_or(("", &of.subject));
    let text = if kind == "services" {
        let needs = of.total.saturating_sub(limit);
        format!("{name} needs {needs} of {} ready, has {} now", of.total, of.total.saturating_sub(of.unavailable))
    } else {
        let free = limit.saturating_sub(of.unavailable);
        let after = of.unavailable_after;
        format!("{name} at most {limit} of {} unavailable: {free} free, {after} unavailable after this", of.total)
    };
    Some(line("budget", &text))
}

fn held(name: &str, hold: &Hold) -> String {
    let why = hold.change_ticket.as_ref().or(hold.reason.as_ref());
    let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
    line("warn", &format!("{name} already held by {}{why}: stays so", hold.owner))
}

#[cfg(test)]
mod tests;
