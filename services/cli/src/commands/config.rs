//! `mesh config`: the settings of the mesh, read and changed. Every change is for the settings as they were read.

use clap::{Args, Subcommand};
use jiff::Timestamp;
use omnirelay_contract::rest::{Config, ConfigRevision, Page, PatchConfigBody, Plan, RollbackConfigBody};
use omnirelay_contract::workflow::OperationId;
use reqwest::Method;
use serde::Serialize;
use serde_json::{Map, Value};

use super::conclude::{WaitArgs, conclude, had_nothing_to_do, settle_gate, unchanged};
use super::confirmed::{AskArgs, Destructive, Shown};
use super::{LimitArgs, WhyArgs, config_edit, label};
use crate::client::Request;
use crate::diff;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Format, Row, age, dash, note};
use crate::plan::{self, Setting};
use crate::resolve::short;
use crate::session::{GlobalArgs, Session};

const ROUTE: &str = "/control/config";
/// What is typed to confirm a change.
const NAME: &str = "settings";

#[derive(Debug, Subcommand)]
pub enum Configs {
    /// Show the settings
    Get {
        /// Only this one, such as drain.maxConcurrent
        key: Option<String>,
    },
    /// Change settings: KEY.PATH=VALUE, with JSON values (what is not JSON is text); null takes the default
    Set(SetArgs),
    /// Change the settings in $VISUAL or $EDITOR, as YAML
    Edit(ChangeArgs),
    /// List the revisions of the settings, newest first
    History {
        #[command(flatten)]
        limit: LimitArgs,
    },
    /// Make the settings of an earlier revision the newest
    Rollback {
        /// As in history
        revision: u64,
        #[command(flatten)]
        how: ChangeArgs,
    },
    /// Print the JSON Schema of the settings
    Schema,
}

#[derive(Debug, Args)]
pub struct SetArgs {
    /// Such as drain.deadline=30m; write a key with dots in quotes: 'disruption.services."web.front"=10%'
    #[arg(required = true, value_name = "KEY.PATH=VALUE")]
    settings: Vec<String>,
    #[command(flatten)]
    how: ChangeArgs,
}

#[derive(Debug, Args)]
pub struct ChangeArgs {
    #[command(flatten)]
    pub why: WhyArgs,
    #[command(flatten)]
    pub ask: AskArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
}

pub async fn run(command: Configs, global: &GlobalArgs) -> Result<Exit, Failure> {
    match command {
        Configs::Get { key } => get(key.as_deref(), &Session::open(global).await?).await,
        Configs::Set(SetArgs { settings, how }) => {
            let patch = patch_of(&settings).map_err(|why| Failure::new(Exit::Usage, why))?;
            how.ask.require_terminal("a change of the settings")?;
            let session = Session::open(global).await?;
            let config: Config = session.client.get(ROUTE).await?;
            changed(&session, &config, patch, &how).await
        }
        Configs::Edit(how) => {
            how.ask.require_terminal("a change of the settings")?;
            config_edit::run(&Session::open(global).await?, &how).await
        }
        Configs::History { limit } => {
            let session = Session::open(global).await?;
            let request = Request::get("/control/config/history");
            let page: Page<ConfigRevision> = session.client.list(&request, limit.limit).await?;
            output::list(session.format, &with_changes(page))?;
            Ok(Exit::Succeeded)
        }
        Configs::Rollback { revision, how } => {
            how.ask.require_terminal("a rollback of the settings")?;
            rolled_back(&Session::open(global).await?, revision, &how).await
        }
        Configs::Schema => {
            let session = Session::open(global).await?;
            let schema: Value = session.client.get("/control/config/schema").await?;
            output::document(session.format, &schema)?;
            Ok(Exit::Succeeded)
        }
    }
}

async fn get(key: Option<&str>, session: &Session) -> Result<Exit, Failure> {
    let config: Config = session.client.get(ROUTE).await?;
    if let Some(key) = key {
        let path = path_of(key).map_err(|why| Failure::new(Exit::Usage, why))?;
        let value = path.iter().try_fold(&config.settings, |value, key| value.get(key));
        let value = value.ok_or_else(|| {
            Failure::new(Exit::NotFound, format!("there is no setting {key}")).hint("omnirelay mesh config schema")
        })?;
        match session.format {
            Format::Table | Format::Wide if !value.is_object() => output::print(&diff::plain(value))?,
            Format::Json => output::document(Format::Json, value)?,
            _ => output::document(Format::Yaml, value)?,
        }
        return Ok(Exit::Succeeded);
    }
    match session.format {
        // For people the settings alone, as they are edited; for programs with the revision.
        Format::Table | Format::Wide => {
            output::document(Format::Yaml, &config.settings)?;
            note(&format!("revision {}", config.revision));
        }
        format => output::document(format, &config)?,
    }
    Ok(Exit::Succeeded)
}

/// A merge patch of the settings as they were read, from its plan to its end.
pub async fn changed(session: &Session, config: &Config, patch: Value, how: &ChangeArgs) -> Result<Exit, Failure> {
    let body = PatchConfigBody {
        reason: how.why.reason.clone(),
        change_ticket: how.why.ticket.clone(),
        settings: Some(patch),
        gate: None,
        confirmation: None,
    };
    let what = "change settings".to_owned();
    let request = Destructive::new(session, Method::PATCH, ROUTE.to_owned(), &body, what)?.if_match(config.revision);
    carry_out(&request, how).await
}

/// The settings of an earlier revision again, from the plan to the end.
pub async fn rolled_back(session: &Session, revision: u64, how: &ChangeArgs) -> Result<Exit, Failure> {
    let config: Config = session.client.get(ROUTE).await?;
    let body = RollbackConfigBody {
        reason: how.why.reason.clone(),
        change_ticket: how.why.ticket.clone(),
        revision: Some(revision),
        gate: None,
        confirmation: None,
    };
    let what = format!("settings of revision {revision}");
    let path = format!("{ROUTE}:rollback");
    let request = Destructive::new(session, Method::POST, path, &body, what)?.if_match(config.revision);
    carry_out(&request, how).await
}

async fn carry_out(request: &Destructive<'_>, how: &ChangeArgs) -> Result<Exit, Failure> {
    const ALREADY: &str = "the settings are like that already";
    let session = request.session;
    let shown = Settings { what: &request.what };
    if how.ask.dry_run {
        return match request.dry_run(&shown).await? {
            Some(mutated) => unchanged(session, &mutated, ALREADY),
            None => Ok(Exit::Succeeded),
        };
    }
    let taken = request.confirmed(&shown, how.ask.yes).await?;
    if had_nothing_to_do(&taken.mutated) {
        return unchanged(session, &taken.mutated, ALREADY);
    }
    let mutated = settle_gate(session, taken, &how.wait).await;
    conclude(session, mutated, NAME, &how.wait).await
}

/// What is shown and asked of a change of the settings.
pub struct Settings<'a> {
    pub what: &'a str,
}

impl Shown for Settings<'_> {
    fn lines(&self, plan: &Plan, setting: Setting<'_>) -> Vec<String> {
        plan::config::lines(plan, self.what, setting)
    }

    fn phrase(&self, _plan: &Plan) -> (String, String) {
        (NAME.to_owned(), NAME.to_owned())
    }

    fn question(&self, _plan: &Plan, context: &str) -> String {
        format!("Type {NAME} to change them in {context}: ")
    }
}

/// `["a.b=1", "a.c=x"]` as `{"a": {"b": 1, "c": "x"}}`.
fn patch_of(texts: &[String]) -> Result<Value, String> {
    let mut patch = Map::new();
    for text in texts {
        let (key, value) = split(text).ok_or_else(|| format!("{text:?}: write KEY.PATH=VALUE"))?;
        let path = path_of(key)?;
        let value = label::value(value)?;
        put(&mut patch, &path, value).ok_or_else(|| format!("{key} contradicts another of the settings given"))?;
    }
    Ok(Value::Object(patch))
}

/// At the first `=` outside quotes.
fn split(text: &str) -> Option<(&str, &str)> {
    let mut quoted = false;
    let at = text.char_indices().find(|(_, c)| {
        quoted ^= *c == '"';
        *c == '=' && !quoted
    })?;
    Some((&text[..at.0], &text[at.0 + 1..]))
}

/// `disruption.services."web.front"` in its parts.
fn path_of(key: &str) -> Result<Vec<String>, String> {
    let (mut path, mut part, mut quoted) = (Vec::new(), String::new(), false);
    for c in key.chars() {
        match c {
            '"' => quoted = !quoted,
            '.' if !quoted => path.push(std::mem::take(&mut part)),
            c => part.push(c),
        }
    }
    path.push(part);
    if quoted || path.iter().any(String::is_empty) {
        return Err(format!("{key:?} is not a key like drain.maxConcurrent"));
    }
    Ok(path)
}

fn put(object: &mut Map<String, Value>, path: &[String], value: Value) -> Option<()> {
    match path {
        [] => None,
        [key] => object.insert(key.clone(), value).is_none().then_some(()),
        [key, rest @ ..] => {
            let inner = object.entry(key.clone()).or_insert_with(|| Value::Object(Map::new()));
            put(inner.as_object_mut()?, rest, value)
        }
    }
}

/// A revision, with what it changed of the one before.
#[derive(Debug, Serialize)]
struct Revised {
    #[serde(flatten)]
    revision: ConfigRevision,
    /// None where the one before is not on the page.
    changes: Option<Vec<String>>,
}

fn with_changes(page: Page<ConfigRevision>) -> Page<Revised> {
    let changes: Vec<Option<Vec<String>>> = page
        .items
        .iter()
        .enumerate()
        .map(|(n, revision)| Some(diff::keys(&page.items.get(n + 1)?.settings, &revision.settings)))
        .collect();
    let items = page.items.into_iter().zip(changes).map(|(revision, changes)| Revised { revision, changes }).collect();
    Page { items, next_page_token: page.next_page_token, position: page.position }
}

impl Row for Revised {
    const HEAD: &'static [&'static str] = &["REVISION", "AGE", "ACTOR", "TICKET", "OPERATION", "CHANGES"];
    const WIDE: &'static [&'static str] = &["REASON", "AT"];

    fn cells(&self, now: Timestamp) -> Vec<String> {
        let ConfigRevision { revision, at, actor, operation, reason, change_ticket, .. } = &self.revision;
        let changes = match &self.changes {
            Some(changes) if changes.is_empty() => "none".to_owned(),
            Some(changes) => changes.join(", "),
            None => "-".to_owned(),
        };
        vec![
            revision.to_string(),
            age(*at, now),
            actor.clone(),
            dash(change_ticket.clone()),
            dash(operation.map(|id: OperationId| short(id))),
            changes,
            dash(reason.clone()),
            format!("{at:.0}"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn dotted_keys_become_a_merge_patch() {
        let check = |texts: &[&str], expected: Value| {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(patch_of(&texts).map_err(|_| ()), serde_json::from_value(expected).map_err(|_| ()), "{texts:?}");
        };
        check(
            &["drain.deadline=30m", "drain.maxConcurrent=8"],
            json!({"drain": {"deadline": "30m", "maxConcurrent": 8}}),
        );
        check(&["drain.deadline=null"], json!({"drain": {"deadline": null}}));
        check(&["disruption.services.\"web.front\"=10%"], json!({"disruption": {"services": {"web.front": "10%"}}}));
        check(&["disruption.services.\"a=b\"=1"], json!({"disruption": {"services": {"a=b": 1}}}));
        check(&["approvals.rules=[{\"name\":\"x\"}]"], json!({"approvals": {"rules": [{"name": "x"}]}}));
        for wrong in [&["drain"][..], &["drain.=1"], &["=1"], &["a=1", "a.b=2"], &["a=1", "a=2"], &["a=[1"], &["\"a=1"]]
        {
            let texts: Vec<String> = wrong.iter().map(|text| (*text).to_owned()).collect();
            assert!(patch_of(&texts).is_err(), "{wrong:?}");
        }
    }
}
