//! `ops approve` and `ops reject`: the digest of exactly what was shown is what is sent.
//!
//! What is shown is the operation, what it was planned to do, and how its targets are now beside how they were when it was
//! asked for. If it changes between the look and the yes, the API refuses; then what changed is shown and asked about anew.

use clap::Args;
use jiff::Timestamp;
use omnirelay_contract::audit::AuditRecord;
use omnirelay_contract::problem::Code;
use omnirelay_contract::rest::{DecideBody, Mutated, Operation};
use omnirelay_contract::workflow::gate::Gate;
use serde_json::Value;
use uuid::Uuid;

use super::conclude::target_name;
use super::{WhyArgs, confirmed, describe, word};
use crate::client::{ClientError, ORDER_BY, Request, understand};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::follow::gate::short as digits;
use crate::observe::{self, Seen};
use crate::output::{self, Format, countdown, note};
use crate::session::{GlobalArgs, Session};
use crate::{prompt, resolve};

/// What it is about may change while somebody looks, and again.
const LOOKS: usize = 5;

#[derive(Debug, Args)]
pub struct ApproveArgs {
    #[arg(help = super::ops::MEANT)]
    operation: String,
    /// Said with the yes, for the requester and the audit
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
    #[command(flatten)]
    why: WhyArgs,
    /// Do not ask: approve what it is now
    #[arg(short, long)]
    yes: bool,
    /// Approve only this: the digest, or the first eight digits of it or more
    #[arg(long, value_name = "DIGEST", value_parser = word::<Digits>)]
    digest: Option<Digits>,
}

#[derive(Debug, Args)]
pub struct RejectArgs {
    #[arg(help = super::ops::MEANT)]
    operation: String,
    /// Said with the no, for the requester and the audit; --reason does as well
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
    #[command(flatten)]
    why: WhyArgs,
}

/// The beginning of a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digits(String);

impl std::str::FromStr for Digits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = text.len() >= 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if fits { Ok(Self(text.to_ascii_lowercase())) } else { Err("eight hex digits or more".to_owned()) }
    }
}

pub async fn approve(args: ApproveArgs, global: &GlobalArgs) -> Result<Exit, Failure> {
    if !args.yes {
        prompt::require_terminal("an approval")?;
    }
    let session = Session::open(global).await?;
    let mut operation = resolve::operation(&session.client, &args.operation).await?;
    for _ in 0..LOOKS {
        let gate = open_gate(&operation)?;
        if let Some(Digits(wanted)) = args.digest.as_ref().filter(|wanted| !gate.digest.starts_with(&wanted.0)) {
            return Err(Failure::new(Exit::Refused, format!("it is {} now, not {wanted}", digits(&gate.digest)))
                .hint("look at what it is: omnirelay mesh approvals list"));
        }
        show(&session, &operation, gate).await;
        if !args.yes {
            prompt::agree(&session.client, "Approve exactly this?").await?;
        }
        match decide(&session, &operation, "approve", args.comment.clone(), &args.why).await {
            Ok(mutated) => {
                note(&approved(&mutated));
                return document(&session, &mutated);
            }
            Err(ClientError::Problem(problem)) if problem.code == Code::DigestMismatch && !args.yes => {
                operation = session.client.get(&format!("/control/operations/{}", operation.id)).await?;
                let why = operation.approval.as_ref().and_then(|gate| gate.note.clone());
                note(&format!("it is no longer what you looked at: {}", why.unwrap_or_else(|| problem.detail.clone())));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::new(Exit::Refused, "it changes faster than it can be looked at: nothing was approved"))
}

pub async fn reject(args: RejectArgs, global: &GlobalArgs) -> Result<Exit, Failure> {
    let session = Session::open(global).await?;
    let operation = resolve::operation(&session.client, &args.operation).await?;
    open_gate(&operation)?;
    let comment = args.comment.or_else(|| args.why.reason.clone());
    let mutated = decide(&session, &operation, "reject", comment, &args.why).await?;
    let name = target_name(&session, &mutated.operation).await;
    let again = if mutated.changed { "Rejected" } else { "Rejected before" };
    note(&format!("{again}: {}, nothing of it will be done.", describe::what(&mutated.operation, &name)));
    document(&session, &mutated)
}

/// The gate to speak at. One that is decided is sent to all the same: the API says what a repeat means.
fn open_gate(operation: &Operation) -> Result<&Gate, Failure> {
    operation.approval.as_ref().ok_or_else(|| {
        let id = resolve::short(operation.id);
        Failure::new(Exit::Refused, format!("{id} waits for nobody's approval: it is {}", operation.state))
            .hint("see what does: omnirelay mesh approvals list")
    })
}

async fn decide(
    session: &Session,
    operation: &Operation,
    action: &str,
    comment: Option<String>,
    why: &WhyArgs,
) -> Result<Mutated, ClientError> {
    let digest = operation.approval.as_ref().map(|gate| gate.digest.clone());
    let body = DecideBody { reason: why.reason.clone(), change_ticket: why.ticket.clone(), digest, comment };
    let body = confirmed::json(&body).unwrap_or_default();
    let path = format!("/control/operations/{}:{action}", operation.id);
    let request = Request::post(path, &Uuid::new_v4().to_string(), body);
    let answer = session.client.send(&request).await?;
    understand(&request.path, answer.body)
}

/// Everything that the yes is about, on stderr.
async fn show(session: &Session, operation: &Operation, gate: &Gate) {
    let name = target_name(session, operation).await;
    let planned = planned(session, operation).await;
    let now: Vec<Seen> = observe::now(&session.client, gate).await;
    for line in lines(operation, gate, &name, planned.as_ref(), &now, Timestamp::now()) {
        note(&line);
    }
}

/// The plan as it was when it was asked for, which the event of the request carries. Who may not read the audit does without.
async fn planned(session: &Session, operation: &Operation) -> Option<Value> {
    let request = Request::get("/control/audit").query("operation", operation.id).query(ORDER_BY, "seq desc");
    let page = session.client.list::<AuditRecord>(&request, 200).await.ok()?;
    let asked = |record: &&AuditRecord| {
        record.detail.get("type").and_then(Value::as_str) == Some("omnirelay.approvals.requested")
    };
    page.items.iter().find(asked)?.detail.get("plan").cloned().filter(|plan| !plan.is_null())
}

fn lines(
    operation: &Operation,
    gate: &Gate,
    name: &str,
    planned: Option<&Value>,
    now: &[Seen],
    at: Timestamp,
) -> Vec<String> {
    let ticket = operation.change_ticket.as_ref().map(|ticket| format!("   {ticket}")).unwrap_or_default();
    let what = describe::what(operation, name);
    let mut lines = vec![format!("  {what}   by {}{ticket}   digest {}", operation.actor, digits(&gate.digest))];
    lines.extend(operation.reason.as_ref().map(|reason| format!("  reason: {reason}")));
    lines.extend(describe::parameters(operation).into_iter().map(|line| format!("  {line}")));
    lines.push(format!(
        "  {} gate, rule {}: {} of {} approvals, {} left",
        gate.gate,
        gate.rule,
        gate.approvals.len(),
        gate.required,
        countdown(gate.expires_at, at)
    ));
    lines.extend(gate.note.as_ref().map(|note| format!("  asked anew: {note}")));
    lines.extend(observe::lines(planned, gate, now).into_iter().map(|line| format!("  {line}")));
    lines
}

/// `Approved, 2 of 2.`
fn approved(mutated: &Mutated) -> String {
    let again = if mutated.changed { "Approved" } else { "Approved before" };
    match &mutated.operation.approval {
        Some(gate) => format!("{again}, {} of {}.", gate.approvals.len(), gate.required),
        None => format!("{again}."),
    }
}

fn document(session: &Session, mutated: &Mutated) -> Result<Exit, Failure> {
    match session.format {
        Format::Json | Format::Yaml => output::document(session.format, mutated)?,
        Format::Table | Format::Wide => {}
    }
    Ok(Exit::Succeeded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use omnirelay_contract::workflow::operation::{State, Verb};
    use serde_json::json;

    #[test]
    fn what_a_yes_is_about() {
        let mut operation = testing::operation(State::AwaitingApproval);
        operation.verb = Verb::ClustersPromote;
        operation.target = "clusters/ams1".to_owned();
        operation.params = json!({"promote": "ams1", "demote": ["fra1"], "force": false});
        operation.change_ticket = Some("CHG-4820".to_owned());
        operation.reason = Some("power work".to_owned());
        let gate = testing::gate(2);
        let planned = json!({"impact": {"promote": {"cluster": "ams1", "state": "passive", "peers": 40,
            "healthyPeers": 38, "replicationLagMs": 120}, "demote": [], "maxReplicationLagMs": 500}});
        let cluster =
            json!({"state": "passive", "peers": 40, "healthyPeers": 38, "replicationLagMs": 310, "revision": 7});
        let now = [Seen { resource: "clusters/ams1".to_owned(), value: Some(cluster) }];
        let at = "2026-11-23T12:00:19Z".parse().expect("time");
        assert_eq!(
            lines(&operation, &gate, "ams1", Some(&planned), &now, at),
            [
                "  promote ams1, demote fra1   by ana   CHG-4820   digest 4f9a11c2",
                "  reason: power work",
                "  cutover gate, rule prod-failover: 0 of 2 approvals, 29:41 left",
                "  now      ams1 passive, 38/40 healthy, lag 310ms (limit 500ms)",
                "  observed since the request: ams1 lag 120ms -> 310ms (limit 500ms)"
            ]
        );
    }

    #[test]
    fn digests_may_be_shortened() {
        assert!("4F9A11C2".parse::<Digits>().is_ok_and(|digits| digits.0 == "4f9a11c2"));
        assert!("4f9a".parse::<Digits>().is_err() && "not hex!".parse::<Digits>().is_err());
    }
}
