//! `context`: the named meshes of the configuration file.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use serde::Serialize;

use crate::context::{Config, Context, ContextError, address, without_password};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Format, dash, grid, note};
use crate::session::GlobalArgs;

#[derive(Debug, Subcommand)]
pub enum Contexts {
    /// List contexts; the current one is marked
    #[command(visible_alias = "ls")]
    List,
    /// Make a context the current one
    Use { name: String },
    /// Add a context, or change what is given of one
    Set(SetArgs),
    /// Where commands go as things stand: flags, environment, current context
    Show {
        /// This context instead
        name: Option<String>,
    },
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("token").args(["token_file", "token_command", "no_token"]))]
pub struct SetArgs {
    name: String,
    /// The API's address (the global --url)
    #[arg(skip)]
    url: Option<String>,
    /// Where to watch by subscription, such as nats://nats.example.com; empty for none
    #[arg(long, value_name = "URL")]
    nats: Option<String>,
    /// A file that holds the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A shell command that prints the token
    #[arg(long, value_name = "COMMAND")]
    token_command: Option<String>,
    /// No token of its own
    #[arg(long)]
    no_token: bool,
}

/// A context as it is shown, without passwords.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    name: String,
    current: bool,
    url: String,
    nats: Option<String>,
    token_from: String,
}

pub fn run(command: Contexts, global: &GlobalArgs) -> Result<Exit, Failure> {
    let path = Config::path()?;
    let mut config = Config::read(&path)?;
    match command {
        Contexts::List => {
            let shown: Vec<Shown> =
                config.contexts.iter().map(|(name, context)| show(&config, name, context)).collect();
            match global.output {
                Format::Table | Format::Wide if shown.is_empty() => {
                    note("no contexts; omnirelay context set NAME --url URL");
                }
                Format::Table | Format::Wide => output::print(&table(&shown))?,
                format => output::document(format, &shown)?,
            }
        }
        Contexts::Use { name } => {
            known(&config, &name)?;
            config.current = Some(name.clone());
            config.write(&path)?;
            note(&format!("commands go to {name}"));
        }
        Contexts::Set(mut args) => {
            args.url.clone_from(&global.url);
            let name = args.name.clone();
            set(&mut config, args)?;
            config.write(&path)?;
            note(&format!("{name} is in {}", path.display()));
        }
        Contexts::Show { name: Some(name) } => {
            known(&config, &name)?;
            let context = &config.contexts[&name];
            output::one(global.output, &show(&config, &name, context))?;
        }
        Contexts::Show { name: None } => {
            let target = global.target()?;
            let shown = Shown {
                current: config.current.as_ref() == Some(&target.name),
                url: target.url,
                nats: target.nats.as_deref().map(without_password),
                token_from: target.token.describe(),
                name: target.name,
            };
            output::one(global.output, &shown)?;
        }
    }
    Ok(Exit::Succeeded)
}

/// Changes what is given; the first context becomes the current one.
fn set(config: &mut Config, args: SetArgs) -> Result<(), Failure> {
    let new = !config.contexts.contains_key(&args.name);
    if new && args.url.is_none() {
        return Err(Failure::new(Exit::Usage, format!("{} is new and needs an address", args.name))
            .hint(format!("omnirelay context set {} --url https://omnirelay.example.com", args.name)));
    }
    let url = args.url.as_deref().map(address).transpose()?;
    let context: &mut Context = config.contexts.entry(args.name.clone()).or_default();
    if let Some(url) = url {
        context.url = url;
    }
    if let Some(nats) = args.nats {
        context.nats = Some(nats).filter(|nats| !nats.is_empty());
    }
    if args.token_file.is_some() || args.token_command.is_some() || args.no_token {
        context.token_file = args.token_file;
        context.token_command = args.token_command;
    }
    config.current.get_or_insert(args.name);
    Ok(())
}

fn known(config: &Config, name: &str) -> Result<(), ContextError> {
    if config.contexts.contains_key(name) {
        return Ok(());
    }
    let known: Vec<&str> = config.contexts.keys().map(String::as_str).collect();
    Err(ContextError::Unknown { name: name.to_owned(), known: dash((!known.is_empty()).then(|| known.join(", "))) })
}

fn show(config: &Config, name: &str, context: &Context) -> Shown {
    let token_from = match (&context.token_file, &context.token_command) {
        (Some(path), _) => format!("file {}", path.display()),
        (None, Some(command)) => format!("command {command}"),
        (None, None) => "none".to_owned(),
    };
    Shown {
        name: name.to_owned(),
        current: config.current.as_deref() == Some(name),
        url: without_password(&context.url),
        nats: context.nats.as_deref().map(without_password),
        token_from,
    }
}

fn table(shown: &[Shown]) -> String {
    let row = |one: &Shown| {
        let mark = if one.current { "*" } else { "" };
        vec![mark.to_owned(), one.name.clone(), one.url.clone(), dash(one.nats.clone()), one.token_from.clone()]
    };
    grid(&["", "NAME", "URL", "NATS", "TOKEN FROM"], shown.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(name: &str, url: Option<&str>) -> SetArgs {
        SetArgs {
            name: name.to_owned(),
            url: url.map(str::to_owned),
            nats: None,
            token_file: None,
            token_command: None,
            no_token: false,
        }
    }

    #[test]
    fn setting_changes_what_is_given() {
        let mut config = Config::default();
        assert_eq!(set(&mut config, args("prod", None)).map_err(|failure| failure.exit), Err(Exit::Usage));
        set(&mut config, SetArgs { token_file: Some("t".into()), ..args("prod", Some("https://p/")) }).expect("new");
        set(&mut config, args("dev", Some("http://d"))).expect("second");
        assert_eq!(config.current.as_deref(), Some("prod"));
        set(&mut config, SetArgs { nats: Some("nats://u:p@n".into()), ..args("prod", None) }).expect("changed");
        let prod = &config.contexts["prod"];
        assert_eq!((prod.url.as_str(), prod.token_file.is_some()), ("https://p", true));
        set(&mut config, SetArgs { token_command: Some("pass x".into()), ..args("prod", None) }).expect("changed");
        assert_eq!(config.contexts["prod"].token_file, None);
        let shown: Vec<Shown> = config.contexts.iter().map(|(name, context)| show(&config, name, context)).collect();
        let text = table(&shown);
        assert!(text.contains("nats://...@n") && !text.contains("u:p"), "{text}");
        assert_eq!(set(&mut config, args("x", Some("not an url"))).map_err(|failure| failure.exit), Err(Exit::Error));
    }
}
