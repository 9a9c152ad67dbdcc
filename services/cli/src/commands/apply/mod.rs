//! `mesh apply -f mesh.yaml`: what a file says is compared with what is there; the differences are shown, asked about, and
//! made one after the other. It stops at the first refusal and says what had been done. Nothing is ever taken away that the
//! file does not mention.

mod file;

use std::path::PathBuf;

use clap::Args;
use omnirelay_contract::rest::{Mutated, Operation, Plan};
use reqwest::Method;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use self::file::Wanted;
use super::WhyArgs;
use super::config::Settings;
use super::confirmed::{AskArgs, Destructive, Shown};
use crate::client::{ClientError, Request, understand};
use crate::diff;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::follow::{self, Followed};
use crate::output::{self, Format, note};
use crate::plan::Setting;
use crate::prompt;
use crate::resolve::short;
use crate::session::{GlobalArgs, Session};

/// The format, for `--help`.
const HELP: &str = "\
The file holds YAML documents (or lists of them), each with a kind, an id and what it is to be:

  kind: Cluster
  id: fra1
  region: eu-central
  priority: 10
  maxUnavailable: 25%        # or a number of peers
  labels: {env: prod}
  state: active              # only at its creation: active or passive
  ---
  kind: Peer
  id: web-07
  cluster: fra1
  role: web
  labels: {zone: a}
  metadata: {owner: net}
  # name, address, capacity: what its agent tells, where left out
  # state: active or cordoned, only at its creation
  ---
  kind: Config
  settings:                  # a merge patch: what is not named stays, null takes the default
    drain: {maxConcurrent: 8}

The members may also stand below `spec`. What a cluster or a peer leaves out is empty. Clusters are applied first, then peers,
then the settings; what the file does not mention is left alone. See docs/apply.md.";

#[derive(Debug, Args)]
#[command(after_long_help = HELP)]
pub struct ApplyArgs {
    /// The file, or - for stdin
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    why: WhyArgs,
    #[command(flatten)]
    ask: AskArgs,
}

pub async fn run(args: ApplyArgs, global: &GlobalArgs) -> Result<Exit, Failure> {
    let wanted = read(&args.file)?;
    if args.file.as_os_str() == "-" && !args.ask.yes && !args.ask.dry_run {
        return Err(Failure::new(Exit::Usage, "with the file on stdin nobody can be asked: --yes or --dry-run"));
    }
    args.ask.require_terminal("an apply")?;
    let session = Session::open(global).await?;
    let mut steps = Vec::with_capacity(wanted.len());
    for one in wanted {
        steps.push(Step::prepare(&session, one).await?);
    }
    let apply = Apply { session: &session, why: args.why };
    if args.ask.dry_run {
        return apply.dry_run(&steps).await;
    }
    let changes = steps.iter().filter(|step| !step.is_same()).count();
    if changes > 0 {
        apply.show(&steps).await?;
        if !args.ask.yes {
            let what = if changes == 1 { "this change".to_owned() } else { format!("these {changes} changes") };
            prompt::agree(&session.client, &format!("Apply {what} to {}?", session.target.name)).await?;
        }
    }
    apply.carry_out(&steps).await
}

fn read(path: &PathBuf) -> Result<Vec<Wanted>, Failure> {
    let text =
        if path.as_os_str() == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) };
    let name = path.display();
    let text = text.map_err(|error| Failure::error(format!("{name} cannot be read: {error}")))?;
    file::parse(&text).map_err(|error| {
        Failure::new(Exit::Usage, format!("{name}: {error}")).hint("the format: omnirelay mesh apply --help")
    })
}

/// One thing of the file, beside what is there.
struct Step {
    wanted: Wanted,
    /// None: it is not there yet.
    revision: Option<u64>,
    before: Value,
    after: Value,
}

/// What came of a step.
#[derive(Debug, Clone, Serialize)]
struct Done {
    kind: &'static str,
    id: Option<String>,
    result: &'static str,
    operation: Option<Operation>,
}

impl Step {
    async fn prepare(session: &Session, wanted: Wanted) -> Result<Self, Failure> {
        let path = wanted.path();
        let answer: Option<Value> = match session.client.get(&path).await {
            Ok(answer) => Some(answer),
            Err(error) if error.is_not_found() && wanted.id().is_some() => None,
            Err(error) => return Err(error.into()),
        };
        let unreadable = |source| Failure::from(ClientError::Unreadable { path: path.clone(), source });
        let before = answer.as_ref().map(|answer| wanted.comparable(answer)).transpose().map_err(unreadable)?;
        let revision = answer.as_ref().and_then(|answer| answer.get("revision")?.as_u64());
        let after = wanted.desired(before.as_ref());
        Ok(Self { wanted, revision, before: before.unwrap_or_else(|| json!({})), after })
    }

    fn creates(&self) -> bool {
        self.revision.is_none()
    }

    fn is_same(&self) -> bool {
        !self.creates() && self.before == self.after
    }

    fn result(&self) -> &'static str {
        match (self.creates(), self.is_same()) {
            (true, _) => "created",
            (false, true) => "unchanged",
            (false, false) => "changed",
        }
    }

    fn done(&self, result: &'static str, operation: Option<Operation>) -> Done {
        Done { kind: self.wanted.kind(), id: self.wanted.id().map(str::to_owned), result, operation }
    }
}

struct Apply<'a> {
    session: &'a Session,
    why: WhyArgs,
}

/// The plan of the settings is shown before anything is asked, so it is not shown again.
struct Silent;

impl Shown for Silent {
    fn lines(&self, _plan: &Plan, _setting: Setting<'_>) -> Vec<String> {
        Vec::new()
    }

    fn phrase(&self, _plan: &Plan) -> (String, String) {
        (String::new(), String::new())
    }

    fn question(&self, _plan: &Plan, _context: &str) -> String {
        String::new()
    }
}

impl Apply<'_> {
    /// The differences, and what the API says to them: the plan of the settings, with the approvals that it will want.
    async fn show(&self, steps: &[Step]) -> Result<(), Failure> {
        for step in steps.iter().filter(|step| !step.is_same()) {
            note(&format!("{} {}", step.wanted.label(), if step.creates() { "is created" } else { "is changed" }));
            for line in diff::lines(&step.before, &step.after)? {
                note(&format!("  {line}"));
            }
            if matches!(step.wanted, Wanted::Config { .. }) {
                let plan = self.checked(step).await?;
                let actor = self.session.actor();
                let context = &self.session.target.name;
                let setting = Setting { context, actor: actor.as_deref(), now: jiff::Timestamp::now() };
                let shown = Settings { what: "change settings" };
                for line in plan.iter().flat_map(|plan| shown.lines(plan, setting)) {
                    note(&line);
                }
            }
        }
        Ok(())
    }

    /// Has every change checked by the API, and changes nothing.
    async fn dry_run(&self, steps: &[Step]) -> Result<Exit, Failure> {
        let created: Vec<&str> = steps
            .iter()
            .filter(|step| step.creates())
            .filter_map(|step| match &step.wanted {
                Wanted::Cluster { id, .. } => Some(id.as_str()),
                _ => None,
            })
            .collect();
        self.show(steps).await?;
        let mut all = Vec::new();
        for step in steps {
            let cluster = match &step.wanted {
                Wanted::Peer { body, .. } => body.cluster.as_ref().map(|cluster| cluster.as_str()),
                _ => None,
            };
            let early = cluster.is_some_and(|cluster| created.contains(&cluster));
            if early {
                note(&format!("{}: cannot be checked before its cluster is there", step.wanted.label()));
            } else if !step.is_same() && !matches!(step.wanted, Wanted::Config { .. }) {
                self.checked(step).await.map_err(|failure| self.at(step, failure))?;
            }
            all.push(step.done(step.result(), None));
        }
        self.report(&all, "would be ")?;
        note("nothing was changed");
        Ok(Exit::Succeeded)
    }

    /// By `validateOnly`. A change that turns out to be none has no plan.
    async fn checked(&self, step: &Step) -> Result<Option<Plan>, Failure> {
        let request = self.request(step)?.query("validateOnly", true);
        let answer = self.session.client.send(&request).await?;
        if answer.body.get("confirmation").is_none() {
            return Ok(None);
        }
        Ok(Some(understand(&request.path, answer.body)?))
    }

    async fn carry_out(&self, steps: &[Step]) -> Result<Exit, Failure> {
        let mut all: Vec<Done> = Vec::new();
        for step in steps {
            let done = if step.is_same() {
                Ok((step.done(step.result(), None), Exit::Succeeded))
            } else {
                self.one(step).await
            };
            match done {
                Ok((done, Exit::Succeeded)) => all.push(done),
                Ok((done, exit)) => {
                    let state = done.operation.as_ref().map_or("not done", |operation| operation.state.as_str());
                    let failure = Failure::new(exit, format!("{} is {state}", step.wanted.label()));
                    let operation = done.operation.as_ref().map(|operation| short(operation.id));
                    let failure = match operation {
                        Some(id) => failure.hint(format!("omnirelay mesh ops get {id}")),
                        None => failure,
                    };
                    return self.stopped(steps, &all, failure);
                }
                Err(failure) => return self.stopped(steps, &all, self.at(step, failure)),
            }
        }
        self.report(&all, "")?;
        Ok(Exit::Succeeded)
    }

    /// Sends one change and follows it to its end.
    async fn one(&self, step: &Step) -> Result<(Done, Exit), Failure> {
        let (mutated, status) = match &step.wanted {
            Wanted::Config { .. } => {
                let what = "change settings".to_owned();
                let body = self.body(step)?;
                let path = step.wanted.path();
                let request = Destructive::new(self.session, Method::PATCH, path, &body, what)?;
                let request = request.if_match(step.revision.unwrap_or_default());
                (request.confirmed(&Silent, true).await?.mutated, 200)
            }
            Wanted::Cluster { .. } | Wanted::Peer { .. } => {
                let request = self.request(step)?;
                let answer = self.session.client.send(&request).await?;
                (understand::<Mutated>(&request.path, answer.body)?, answer.status)
            }
        };
        let Mutated { operation, changed, .. } = mutated;
        let (operation, changed) = if operation.state.is_terminal() {
            (operation, changed)
        } else {
            // It waits for approval, or for the worker: what comes after it may need it.
            match follow::follow(self.session, operation, None).await? {
                Followed::Ended(operation) => (operation, true),
                Followed::Left(operation, _) => (operation, false),
            }
        };
        let exit = Exit::of_operation(&operation);
        let result = match (status, changed) {
            (201, _) => "created",
            (_, false) => "unchanged",
            (_, true) => step.result(),
        };
        Ok((step.done(result, Some(operation)), exit))
    }

    fn request(&self, step: &Step) -> Result<Request, Failure> {
        let method = if matches!(step.wanted, Wanted::Config { .. }) { Method::PATCH } else { Method::PUT };
        let request = Request::mutation(method, step.wanted.path(), &Uuid::new_v4().to_string(), self.body(step)?);
        Ok(match step.revision {
            Some(revision) => request.if_match(revision),
            None => request.header("if-none-match", "*"),
        })
    }

    fn body(&self, step: &Step) -> Result<Value, Failure> {
        let body = step.wanted.body(step.creates(), self.why.reason.as_deref(), self.why.ticket.as_deref());
        body.map_err(|error| Failure::error(format!("the request: {error}")))
    }

    fn at(&self, step: &Step, mut failure: Failure) -> Failure {
        failure.what = format!("{}: {}", step.wanted.label(), failure.what);
        failure
    }

    /// Says what had been done when it stopped, and what had not.
    fn stopped(&self, steps: &[Step], all: &[Done], failure: Failure) -> Result<Exit, Failure> {
        self.report(all, "")?;
        let left = steps.len() - all.len();
        let applied = all.iter().filter(|done| done.result != "unchanged").count();
        Err(failure.hint(format!("{applied} applied before it, {left} not applied, this one included")))
    }

    fn report(&self, all: &[Done], would: &str) -> Result<(), Failure> {
        match self.session.format {
            Format::Json | Format::Yaml => output::document(self.session.format, &json!({"items": all})),
            Format::Table | Format::Wide => {
                for done in all {
                    let name = done.id.as_deref().unwrap_or("settings");
                    let would = if done.result == "unchanged" { "" } else { would };
                    output::print(&format!("{} {name} {would}{}", done.kind.to_lowercase(), done.result))?;
                }
                Ok(())
            }
        }
    }
}
