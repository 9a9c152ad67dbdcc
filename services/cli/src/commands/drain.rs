//! `drain`: plan, prompt, request, follow.
//!
//! The idempotency key is chosen once for the whole command. The first request is answered 428 with the plan and binds
//! nothing; the second carries the plan's token under the same key, so however often it is repeated there is one drain.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use omnirelay_contract::problem::{Code, Problem};
use omnirelay_contract::rest::{DrainBody, Humantime, Mutated, Peer, Plan};
use omnirelay_contract::workflow::drain::OnDeadline;
use uuid::Uuid;

use super::conclude::{WaitArgs, conclude, display_name, had_nothing_to_do, unchanged};
use super::{WhyArgs, duration, word};
use crate::client::{Answer, ClientError, Request, understand};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::follow::screen;
use crate::output::{self, Format, note};
use crate::session::{GlobalArgs, Session};
use crate::{plan, prompt, resolve};

/// The world may change while somebody reads a plan, and again. After this many plans it is too busy to confirm.
const PLANS: usize = 5;

#[derive(Debug, Args)]
pub struct DrainArgs {
    /// The peer: its id or its name
    peer: String,
    #[command(flatten)]
    why: WhyArgs,
    /// How long it may take, such as 30m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    deadline: Option<Duration>,
    /// What happens at the deadline: hold (stop there), cancel (put everything back), force (take the rest away)
    #[arg(long, value_name = "WHAT", value_parser = word::<OnDeadline>)]
    on_deadline: Option<OnDeadline>,
    /// How many workloads may be on their way at once
    #[arg(long, value_name = "N")]
    max_concurrent: Option<u32>,
    /// On a cancel, leave what has moved where it is
    #[arg(long)]
    keep_moved: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Show the plan and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: WaitArgs,
}

pub async fn run(args: DrainArgs, global: &GlobalArgs) -> Result<Exit, Failure> {
    if !args.yes && !args.dry_run {
        prompt::require_terminal("a drain")?;
    }
    let session = Session::open(global).await?;
    let peer = resolve::peer(&session.client, &args.peer).await?;
    let drain = Drain { session: &session, peer: &peer, body: args.body(), key: Uuid::new_v4().to_string() };
    if args.dry_run {
        return drain.dry_run().await;
    }
    let mutated = drain.confirmed(&args).await?;
    let name = display_name(&peer);
    if had_nothing_to_do(&mutated) {
        return unchanged(&session, &mutated, &format!("{name} is {} already", peer.state));
    }
    conclude(&session, mutated, name, &args.wait).await
}

impl DrainArgs {
    fn body(&self) -> DrainBody {
        DrainBody {
            reason: self.why.reason.clone(),
            change_ticket: self.why.ticket.clone(),
            deadline: self.deadline.map(Humantime),
            on_deadline: self.on_deadline,
            max_concurrent: self.max_concurrent,
            keep_moved: self.keep_moved,
            confirmation: None,
        }
    }
}

struct Drain<'a> {
    session: &'a Session,
    peer: &'a Peer,
    body: DrainBody,
    key: String,
}

impl Drain<'_> {
    async fn dry_run(&self) -> Result<Exit, Failure> {
        let request = self.request(None)?.query("validateOnly", true);
        let answer = self.session.client.send(&request).await?;
        // A drained peer has no plan: the answer is that of the drain itself.
        if answer.body.get("operation").is_some() {
            let mutated: Mutated = understand(&request.path, answer.body)?;
            return unchanged(self.session, &mutated, &format!("{} is {} already", self.name(), self.peer.state));
        }
        let plan: Plan = understand(&request.path, answer.body)?;
        match self.session.format {
            Format::Json | Format::Yaml => output::document(self.session.format, &plan)?,
            Format::Table | Format::Wide => output::print(&self.plan_lines(&plan).join("\n"))?,
        }
        Ok(Exit::Succeeded)
    }

    /// Sends until it is taken, asking before each plan that is new.
    async fn confirmed(&self, args: &DrainArgs) -> Result<Mutated, Failure> {
        let mut token = None;
        for attempt in 0..PLANS {
            let request = self.request(token)?;
            // A prompt takes Ctrl-C over for the rest of the process, so it is listened to here as well.
            let answer = tokio::select! {
                answer = self.session.client.send(&request) => answer,
                _ = tokio::signal::ctrl_c() => return Err(self.interrupted()),
            };
            let plan = match answer {
                Ok(Answer { body, .. }) => return Ok(understand(&request.path, body)?),
                Err(ClientError::Problem(problem)) if problem.code == Code::ConfirmationRequired => plan_of(&problem)?,
                Err(error) => return Err(error.into()),
            };
            if attempt > 0 {
                note("the plan is no longer true; this is the new one");
            }
            for line in self.plan_lines(&plan) {
                note(&screen::colour(&line));
            }
            if !args.yes {
                let question = format!("Type {0} to drain it in {1}: ", self.name(), self.session.target.name);
                prompt::confirm(&question, self.name(), self.peer.id.as_str()).await?;
            }
            token = Some(plan.confirmation.token);
        }
        Err(Failure::new(Exit::Refused, format!("{} changes faster than a plan can be confirmed", self.name()))
            .hint("see what is going on: omnirelay mesh events tail"))
    }

    fn interrupted(&self) -> Failure {
        Failure::error("interrupted; whether the drain was taken is not known")
            .hint(format!("omnirelay ops list --target {}", self.name()))
    }

    fn request(&self, confirmation: Option<String>) -> Result<Request, Failure> {
        let body = DrainBody { confirmation, ..self.body.clone() };
        let body = serde_json::to_value(body).map_err(|error| Failure::error(format!("the request: {error}")))?;
        Ok(Request::post(format!("/control/peers/{}:drain", self.peer.id), &self.key, body))
    }

    fn plan_lines(&self, plan: &Plan) -> Vec<String> {
        let actor = self.session.actor();
        let setting =
            plan::Setting { context: &self.session.target.name, actor: actor.as_deref(), now: Timestamp::now() };
        plan::drain(plan, self.name(), &self.body, setting)
    }

    fn name(&self) -> &str {
        display_name(self.peer)
    }
}

/// The plan in a 428.
fn plan_of(problem: &Problem) -> Result<Plan, Failure> {
    let plan = problem.extra.get("plan").cloned().unwrap_or_default();
    serde_json::from_value(plan).map_err(|error| {
        Failure::of_problem(problem).hint(format!("the plan in the answer is not understood: {error}"))
    })
}
