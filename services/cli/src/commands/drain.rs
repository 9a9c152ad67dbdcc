//! `drain`: of one peer here, of many in [`super::bulk`].

use std::time::Duration;

use clap::Args;
use omnirelay_contract::rest::{BulkDrainBody, DrainBody, Humantime, Peer, Plan};
use omnirelay_contract::workflow::PeerId;
use omnirelay_contract::workflow::drain::OnDeadline;
use omnirelay_contract::workflow::gate::GateAt;
use omnirelay_contract::workflow::rules::GateRequest;
use reqwest::Method;

use super::conclude::{WaitArgs, conclude, display_name, had_nothing_to_do, settle_gate, unchanged};
use super::confirmed::{AskArgs, Destructive, Shown};
use super::{WhyArgs, bulk, duration, gate, word};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::plan::{self, Setting};
use crate::resolve;
use crate::session::{GlobalArgs, Session};

#[derive(Debug, Args)]
pub struct DrainArgs {
    /// The peer, by id or name; several make one drain of many
    #[arg(required_unless_present = "selector", conflicts_with = "selector", value_name = "PEER")]
    peers: Vec<String>,
    /// All peers that match, such as cluster=fra1,kernel=5.15; terms are a=b, a!=b, a, !a
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    #[command(flatten)]
    why: WhyArgs,
    /// How long a peer's drain may take, such as 30m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    deadline: Option<Duration>,
    /// What happens at the deadline: hold (stop there), cancel (put everything back), force (take the rest away)
    #[arg(long, value_name = "WHAT", value_parser = word::<OnDeadline>)]
    on_deadline: Option<OnDeadline>,
    /// Of one peer: how many workloads may be on their way at once. Of many: how many peers
    #[arg(long, value_name = "N")]
    max_concurrent: Option<u32>,
    /// Of many: how many workloads of a peer may be on their way at once
    #[arg(long, value_name = "N")]
    max_concurrent_moves: Option<u32>,
    /// Of many: so many peers first
    #[arg(long, value_name = "N")]
    canary: Option<u32>,
    /// Of many: how long to wait after the canary
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "canary")]
    soak: Option<Duration>,
    /// Of many: more failed peers than this stop the rest
    #[arg(long, value_name = "N")]
    max_failures: Option<u32>,
    /// Ask for an approval: start (before anything) or rest (of many, after the canary); or JSON, to demand more
    #[arg(long, value_name = "WHERE", value_parser = gate)]
    gate: Option<GateRequest>,
    /// On a cancel, leave what has moved where it is
    #[arg(long)]
    keep_moved: bool,
    #[command(flatten)]
    ask: AskArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

pub async fn run(args: DrainArgs, global: &GlobalArgs) -> Result<Exit, Failure> {
    args.check()?;
    args.ask.require_terminal("a drain")?;
    let session = Session::open(global).await?;
    if let [peer] = args.peers.as_slice() {
        let peer = resolve::peer(&session.client, peer).await?;
        return of_one(&session, &peer, args.body(), &args.ask, &args.wait).await;
    }
    let mut peers = Vec::with_capacity(args.peers.len());
    for name in &args.peers {
        peers.push(resolve::peer(&session.client, name).await?.id);
    }
    let body = args.bulk_body((args.selector.is_none()).then_some(peers));
    bulk::of_many(&session, body, &args.ask, &args.wait).await
}

/// A drain of one peer, from its plan to its end.
pub async fn of_one(
    session: &Session,
    peer: &Peer,
    body: DrainBody,
    ask: &AskArgs,
    wait: &WaitArgs,
) -> Result<Exit, Failure> {
    let name = display_name(peer);
    let path = format!("/control/peers/{}:drain", peer.id);
    let request = Destructive::new(session, Method::POST, path, &body, format!("drain {name}"))?;
    let shown = OnePeer { name, id: peer.id.as_str(), body: &body };
    let already = format!("{name} is {} already", peer.state);
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
    conclude(session, mutated, name, wait).await
}

impl DrainArgs {
    /// What only a drain of many has.
    fn check(&self) -> Result<(), Failure> {
        let many = [
            ("--canary", self.canary.is_some()),
            ("--soak", self.soak.is_some()),
            ("--max-failures", self.max_failures.is_some()),
            ("--max-concurrent-moves", self.max_concurrent_moves.is_some()),
            ("--gate rest", self.gate_at() == Some(GateAt::Rest)),
        ];
        let wrong = match (self.peers.len(), many.iter().find(|(_, given)| *given)) {
            (1, Some((flag, _))) => format!("{flag} is for a drain of many peers; name several, or give a selector"),
            _ if self.gate_at() == Some(GateAt::Cutover) => "--gate cutover is for promotions".to_owned(),
            _ => return Ok(()),
        };
        Err(Failure::new(Exit::Usage, wrong))
    }

    fn gate_at(&self) -> Option<GateAt> {
        self.gate.as_ref().map(|gate| gate.gate)
    }

    fn body(&self) -> DrainBody {
        DrainBody {
            reason: self.why.reason.clone(),
            change_ticket: self.why.ticket.clone(),
            deadline: self.deadline.map(Humantime),
            on_deadline: self.on_deadline,
            max_concurrent: self.max_concurrent,
            keep_moved: self.keep_moved,
            gate: self.gate.clone(),
            confirmation: None,
        }
    }

    fn bulk_body(&self, peers: Option<Vec<PeerId>>) -> BulkDrainBody {
        BulkDrainBody {
            reason: self.why.reason.clone(),
            change_ticket: self.why.ticket.clone(),
            selector: self.selector.clone(),
            peers,
            max_concurrent: self.max_concurrent,
            canary: self.canary,
            soak: self.soak.map(Humantime),
            max_failures: self.max_failures,
            deadline: self.deadline.map(Humantime),
            on_deadline: self.on_deadline,
            max_concurrent_moves: self.max_concurrent_moves,
            keep_moved: self.keep_moved,
            gate: self.gate.clone(),
            confirmation: None,
        }
    }
}

struct OnePeer<'a> {
    name: &'a str,
    id: &'a str,
    body: &'a DrainBody,
}

impl Shown for OnePeer<'_> {
    fn lines(&self, plan: &Plan, setting: Setting<'_>) -> Vec<String> {
        plan::drain::lines(plan, self.name, self.body, setting)
    }

    fn phrase(&self, _plan: &Plan) -> (String, String) {
        (self.name.to_owned(), self.id.to_owned())
    }

    fn question(&self, _plan: &Plan, context: &str) -> String {
        format!("Type {} to drain it in {context}: ", self.name)
    }
}
