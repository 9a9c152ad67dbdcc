//! A drain of many peers: one operation with a child for each, its list frozen in the plan.

use omnirelay_contract::rest::{BulkDrainBody, Plan};
use reqwest::Method;

use super::conclude::{WaitArgs, conclude, had_nothing_to_do, settle_gate, unchanged};
use super::confirmed::{AskArgs, Destructive, Shown};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::plan::{self, Setting};
use crate::session::Session;

const ROUTE: &str = "/control/peers:drain";
const NOBODY: &str = "no peer matches";

/// From the plan to the end.
pub async fn of_many(session: &Session, body: BulkDrainBody, ask: &AskArgs, wait: &WaitArgs) -> Result<Exit, Failure> {
    let request = Destructive::new(session, Method::POST, ROUTE.to_owned(), &body, what(&body))?;
    let shown = ManyPeers { body: &body };
    if ask.dry_run {
        return match request.dry_run(&shown).await? {
            Some(mutated) => unchanged(session, &mutated, NOBODY),
            None => Ok(Exit::Succeeded),
        };
    }
    let taken = request.confirmed(&shown, ask.yes).await?;
    if had_nothing_to_do(&taken.mutated) {
        return unchanged(session, &taken.mutated, NOBODY);
    }
    let mutated = settle_gate(session, taken, wait).await;
    // Its target is named after itself, so its tail is what people call it.
    let name = crate::resolve::short(mutated.operation.id);
    conclude(session, mutated, &name, wait).await
}

fn what(body: &BulkDrainBody) -> String {
    match (&body.selector, &body.peers) {
        (Some(selector), _) => format!("drain -l {selector}"),
        (None, Some(peers)) => format!("drain {} peers", peers.len()),
        (None, None) => "drain".to_owned(),
    }
}

struct ManyPeers<'a> {
    body: &'a BulkDrainBody,
}

impl Shown for ManyPeers<'_> {
    fn lines(&self, plan: &Plan, setting: Setting<'_>) -> Vec<String> {
        plan::bulk::lines(plan, self.body, setting)
    }

    fn phrase(&self, plan: &Plan) -> (String, String) {
        let phrase = plan::bulk::phrase(plan);
        (phrase.clone(), phrase)
    }

    fn question(&self, plan: &Plan, context: &str) -> String {
        format!("Type \"{}\" to start in {context}: ", plan::bulk::phrase(plan))
    }
}
