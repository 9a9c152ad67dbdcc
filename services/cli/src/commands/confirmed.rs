//! What every destructive command does: send, be shown the plan, ask, send again with the plan's token.
//!
//! The idempotency key is chosen once for the whole command. The first request is answered 428 with the plan and binds
//! nothing; the second carries the plan's token under the same key, so however often it is repeated there is one operation.

use clap::Args;
use jiff::Timestamp;
use omnirelay_contract::problem::{Code, Problem};
use omnirelay_contract::rest::{Mutated, Plan};
use reqwest::Method;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::client::{Answer, ClientError, Request, understand};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::follow::screen;
use crate::output::{self, Format, note};
use crate::plan::Setting;
use crate::prompt;
use crate::session::Session;

/// The world may change while somebody reads a plan, and again. After this many plans it is too busy to confirm.
const PLANS: usize = 5;

/// Whether to ask.
#[derive(Debug, Clone, Default, Args)]
pub struct AskArgs {
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Show the plan and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

impl AskArgs {
    /// Refuses before anything is sent where nobody can be asked.
    pub fn require_terminal(&self, action: &str) -> Result<(), Failure> {
        if self.yes || self.dry_run { Ok(()) } else { prompt::require_terminal(action) }
    }
}

/// A destructive request, without its confirmation.
pub struct Destructive<'a> {
    pub session: &'a Session,
    pub method: Method,
    pub path: String,
    pub body: Value,
    /// The revision that it is for, where the route wants one.
    pub if_match: Option<u64>,
    /// `drain web-07`, for what is said.
    pub what: String,
    pub key: String,
}

/// What is shown and asked of a plan.
pub trait Shown {
    fn lines(&self, plan: &Plan, setting: Setting<'_>) -> Vec<String>;
    /// What is typed to confirm it, and what else would do.
    fn phrase(&self, plan: &Plan) -> (String, String);
    /// `Type web-07 to drain it in prod: `.
    fn question(&self, plan: &Plan, context: &str) -> String;
}

/// A request that was taken.
pub struct Taken {
    pub mutated: Mutated,
    /// Its plan says that somebody has to approve it.
    pub gated: bool,
}

impl<'a> Destructive<'a> {
    pub fn new(
        session: &'a Session,
        method: Method,
        path: String,
        body: &impl Serialize,
        what: String,
    ) -> Result<Self, Failure> {
        let body = json(body)?;
        Ok(Self { session, method, path, body, if_match: None, what, key: Uuid::new_v4().to_string() })
    }

    pub fn if_match(mut self, revision: u64) -> Self {
        self.if_match = Some(revision);
        self
    }

    /// Shows the plan and changes nothing. Where there is nothing to do there is no plan: then the answer is given.
    pub async fn dry_run(&self, shown: &impl Shown) -> Result<Option<Mutated>, Failure> {
        let request = self.request(None).query("validateOnly", true);
        let answer = self.session.client.send(&request).await?;
        if answer.body.get("operation").is_some() {
            return Ok(Some(understand(&request.path, answer.body)?));
        }
        let plan: Plan = understand(&request.path, answer.body)?;
        match self.session.format {
            Format::Json | Format::Yaml => output::document(self.session.format, &plan)?,
            Format::Table | Format::Wide => output::print(&self.lines(shown, &plan).join("\n"))?,
        }
        Ok(None)
    }

    /// Sends until it is taken, asking before each plan that is new.
    pub async fn confirmed(&self, shown: &impl Shown, yes: bool) -> Result<Taken, Failure> {
        let mut token = None;
        let mut gated = false;
        for attempt in 0..PLANS {
            let request = self.request(token.as_deref());
            // A prompt takes Ctrl-C over for the rest of the process, so it is listened to here as well.
            let answer = tokio::select! {
                answer = self.session.client.send(&request) => answer,
                _ = tokio::signal::ctrl_c() => return Err(self.interrupted()),
            };
            let plan = match answer {
                Ok(Answer { body, .. }) => return Ok(Taken { mutated: understand(&request.path, body)?, gated }),
                Err(ClientError::Problem(problem)) if problem.code == Code::ConfirmationRequired => plan_of(&problem)?,
                Err(error) => return Err(error.into()),
            };
            gated = plan.approval.as_ref().is_some_and(|approval| !approval.gates.is_empty());
            if attempt > 0 {
                note("the plan is no longer true; this is the new one");
            }
            for line in self.lines(shown, &plan) {
                note(&screen::colour(&line));
            }
            if !yes {
                let question = shown.question(&plan, &self.session.target.name);
                let (phrase, or) = shown.phrase(&plan);
                prompt::confirm(&self.session.client, &question, &phrase, &or).await?;
            }
            token = Some(plan.confirmation.token);
        }
        Err(Failure::new(Exit::Refused, format!("{}: the mesh changes faster than a plan can be confirmed", self.what))
            .hint("see what is going on: omnirelay mesh events tail"))
    }

    fn lines(&self, shown: &impl Shown, plan: &Plan) -> Vec<String> {
        let actor = self.session.actor();
        let setting = Setting { context: &self.session.target.name, actor: actor.as_deref(), now: Timestamp::now() };
        shown.lines(plan, setting)
    }

    fn request(&self, confirmation: Option<&str>) -> Request {
        let mut body = self.body.clone();
        if let (Some(token), Some(members)) = (confirmation, body.as_object_mut()) {
            members.insert("confirmation".to_owned(), token.into());
        }
        let request = Request::mutation(self.method.clone(), self.path.clone(), &self.key, body);
        match self.if_match {
            Some(revision) => request.if_match(revision),
            None => request,
        }
    }

    fn interrupted(&self) -> Failure {
        Failure::error(format!("interrupted; whether it was taken is not known: {}", self.what))
            .hint("see: omnirelay ops list")
    }
}

/// A body as JSON.
pub fn json(body: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(body).map_err(|error| Failure::error(format!("the request: {error}")))
}

/// The plan in a 428.
fn plan_of(problem: &Problem) -> Result<Plan, Failure> {
    let plan = problem.extra.get("plan").cloned().unwrap_or_default();
    serde_json::from_value(plan).map_err(|error| {
        Failure::of_problem(problem).hint(format!("the plan in the answer is not understood: {error}"))
    })
}
