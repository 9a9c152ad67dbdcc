//! `promote` and `demote`: which clusters are active.

use clap::Args;
use omnirelay_contract::rest::{DemoteBody, Plan, PromoteBody};
use omnirelay_contract::workflow::ClusterId;
use omnirelay_contract::workflow::gate::GateAt;
use omnirelay_contract::workflow::rules::GateRequest;
use reqwest::Method;

use super::conclude::{WaitArgs, conclude, had_nothing_to_do, settle_gate, unchanged};
use super::confirmed::{AskArgs, Destructive, Shown};
use super::{WhyArgs, gate, word};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::plan::Setting;
use crate::plan::promote::{self, Asked};
use crate::session::{GlobalArgs, Session};

#[derive(Debug, Args)]
pub struct PromoteArgs {
    /// The cluster that becomes active
    #[arg(value_parser = word::<ClusterId>)]
    cluster: ClusterId,
    /// A cluster that becomes passive in the same step; may be given several times
    #[arg(long, value_name = "CLUSTER", value_parser = word::<ClusterId>, value_delimiter = ',')]
    demote: Vec<ClusterId>,
    #[command(flatten)]
    how: HowArgs,
}

#[derive(Debug, Args)]
pub struct DemoteArgs {
    /// The cluster that becomes passive
    #[arg(value_parser = word::<ClusterId>)]
    cluster: ClusterId,
    #[command(flatten)]
    how: HowArgs,
}

#[derive(Debug, Args)]
struct HowArgs {
    /// In an emergency: in spite of too few healthy peers, lag, or agents that do not answer. It is recorded
    #[arg(long)]
    force: bool,
    /// Ask for an approval: start (before anything) or cutover (after the prechecks); or JSON, to demand more
    #[arg(long, value_name = "WHERE", value_parser = gate)]
    gate: Option<GateRequest>,
    #[command(flatten)]
    why: WhyArgs,
    #[command(flatten)]
    ask: AskArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

pub async fn promote(args: PromoteArgs, global: &GlobalArgs) -> Result<Exit, Failure> {
    let PromoteArgs { cluster, demote, how } = args;
    how.check("a promotion")?;
    let session = Session::open(global).await?;
    let body = PromoteBody {
        reason: how.why.reason.clone(),
        change_ticket: how.why.ticket.clone(),
        demote,
        force: how.force,
        gate: how.gate.clone(),
        confirmation: None,
    };
    promoted(&session, &cluster, body, &how.ask, &how.wait).await
}

pub async fn demote(args: DemoteArgs, global: &GlobalArgs) -> Result<Exit, Failure> {
    let DemoteArgs { cluster, how } = args;
    how.check("a demotion")?;
    let session = Session::open(global).await?;
    let body = DemoteBody {
        reason: how.why.reason.clone(),
        change_ticket: how.why.ticket.clone(),
        force: how.force,
        gate: how.gate.clone(),
        confirmation: None,
    };
    demoted(&session, &cluster, body, &how.ask, &how.wait).await
}

/// A promotion from its plan to its end.
pub async fn promoted(
    session: &Session,
    cluster: &ClusterId,
    body: PromoteBody,
    ask: &AskArgs,
    wait: &WaitArgs,
) -> Result<Exit, Failure> {
    let demote = body.demote.iter().map(ToString::to_string).collect();
    let asked = Asked { promote: Some(cluster.to_string()), demote };
    let path = format!("/control/clusters/{cluster}:promote");
    let request = Destructive::new(session, Method::POST, path, &body, asked.text())?;
    carry_out(&request, asked, "is active already", ask, wait).await
}

/// A demotion from its plan to its end.
pub async fn demoted(
    session: &Session,
    cluster: &ClusterId,
    body: DemoteBody,
    ask: &AskArgs,
    wait: &WaitArgs,
) -> Result<Exit, Failure> {
    let asked = Asked { promote: None, demote: vec![cluster.to_string()] };
    let path = format!("/control/clusters/{cluster}:demote");
    let request = Destructive::new(session, Method::POST, path, &body, asked.text())?;
    carry_out(&request, asked, "is passive already", ask, wait).await
}

async fn carry_out(
    request: &Destructive<'_>,
    asked: Asked,
    already: &str,
    ask: &AskArgs,
    wait: &WaitArgs,
) -> Result<Exit, Failure> {
    let session = request.session;
    let already = format!("{} {already}", asked.target());
    let shown = Clusters { asked };
    if ask.dry_run {
        return match request.dry_run(&shown).await? {
            Some(mutated) => unchanged(session, &mutated, &already),
            None => Ok(Exit::Succeeded),
        };
    }
    let taken = request.confirmed(&shown, ask.yes).await?;
    if had_nothing_to_do(&taken.mutated) {
        return unchanged(session, &taken.mutated, &already);
    }
    let mutated = settle_gate(session, taken, wait).await;
    conclude(session, mutated, shown.asked.target(), wait).await
}

impl HowArgs {
    fn check(&self, action: &str) -> Result<(), Failure> {
        if self.gate.as_ref().is_some_and(|gate| gate.gate == GateAt::Rest) {
            return Err(Failure::new(Exit::Usage, "--gate rest is for drains of many peers"));
        }
        self.ask.require_terminal(action)
    }
}

struct Clusters {
    asked: Asked,
}

impl Shown for Clusters {
    fn lines(&self, plan: &Plan, setting: Setting<'_>) -> Vec<String> {
        promote::lines(plan, &self.asked, setting)
    }

    fn phrase(&self, _plan: &Plan) -> (String, String) {
        (self.asked.target().to_owned(), self.asked.target().to_owned())
    }

    fn question(&self, _plan: &Plan, context: &str) -> String {
        let verb = if self.asked.promote.is_some() { "promote" } else { "demote" };
        format!("Type {} to {verb} it in {context}: ", self.asked.target())
    }
}
