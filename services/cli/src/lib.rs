//! The operator's commands. They speak only the public API, and the bus for watching where a context names one.
//!
//! `services/omnirelay` composes [`Command`] into the one binary and calls [`run`]. A command is a file under `commands`; what
//! they share lies here: `context` (which mesh), `client` (HTTP), `resolve` (which peer, which operation), `plan` and
//! `prompt` (before), `follow` (during), `output` and `exit` (after). Data goes to stdout, everything else to stderr.

mod client;
mod commands;
mod context;
mod diff;
pub mod exit;
mod failure;
#[cfg(test)]
mod flow_tests;
mod follow;
mod observe;
mod output;
mod plan;
mod prompt;
mod record;
mod resolve;
mod session;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod verb_tests;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use clap_complete::Shell;

pub use commands::doctor::{Check, Verdict, doctor_checks, report as doctor_report};
pub use exit::Exit;
pub use output::Format;
pub use session::GlobalArgs;

use commands::{
    apply, approvals, audit, auth, clusters, config, context as contexts, drain, events, ops, peers, promote, status,
};
use failure::Failure;

/// The operator's commands, to be flattened into the binary's own.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look at the mesh and change it
    Mesh {
        #[command(subcommand)]
        command: Mesh,
    },
    /// Read and verify the audit log
    Audit {
        #[command(subcommand)]
        command: audit::Audit,
    },
    /// Tokens: issue one, see what one says
    Auth {
        #[command(subcommand)]
        command: auth::Auth,
    },
    /// Named meshes: where they are, and where their tokens come from
    Context {
        #[command(subcommand)]
        command: contexts::Contexts,
    },
    /// Check what this machine has, and that the API, the token and the bus work
    Doctor,
    /// Short for `mesh peers drain`
    Drain(drain::DrainArgs),
    /// Short for `mesh clusters promote`
    Promote(promote::PromoteArgs),
    /// Short for `mesh ops`
    Ops {
        #[command(subcommand)]
        command: ops::Ops,
    },
    /// Short for `mesh status`
    Status,
}

#[derive(Debug, Subcommand)]
pub enum Mesh {
    /// Peers: what runs where, who holds them
    Peers {
        #[command(subcommand)]
        command: peers::Peers,
    },
    /// Clusters
    Clusters {
        #[command(subcommand)]
        command: clusters::Clusters,
    },
    /// Operations: what is being changed, by whom
    Ops {
        #[command(subcommand)]
        command: ops::Ops,
    },
    /// What waits for somebody's yes, and whose
    Approvals {
        #[command(subcommand)]
        command: approvals::Approvals,
    },
    /// The settings of the mesh
    Config {
        #[command(subcommand)]
        command: config::Configs,
    },
    /// Make clusters, peers and settings as a file says
    Apply(apply::ApplyArgs),
    /// What needs attention, headroom, and whether this page can be trusted
    Status,
    /// Events as they happen
    Events {
        #[command(subcommand)]
        command: events::Events,
    },
}

/// Arguments of `completions`, which needs the binary's whole command tree.
#[derive(Debug, Clone, Args)]
pub struct CompletionsArgs {
    /// The shell to write completions for
    pub shell: Shell,
}

/// Writes completions of the whole command line to stdout.
pub fn completions(args: &CompletionsArgs, root: &mut clap::Command) -> ExitCode {
    let name = root.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, root, name, &mut script);
    finish(output::print(&String::from_utf8_lossy(&script)).map(|()| Exit::Succeeded))
}

/// Runs a command to its end. Errors are told on stderr here, once.
pub async fn run(command: Command, global: GlobalArgs) -> ExitCode {
    finish(dispatch(command, &global).await)
}

async fn dispatch(command: Command, global: &GlobalArgs) -> Result<Exit, Failure> {
    match command {
        Command::Mesh { command: Mesh::Peers { command } } => Box::pin(peers::run(command, global)).await,
        Command::Mesh { command: Mesh::Clusters { command } } => Box::pin(clusters::run(command, global)).await,
        Command::Mesh { command: Mesh::Approvals { command } } => approvals::run(command, global).await,
        Command::Mesh { command: Mesh::Config { command } } => Box::pin(config::run(command, global)).await,
        Command::Mesh { command: Mesh::Apply(args) } => Box::pin(apply::run(args, global)).await,
        Command::Mesh { command: Mesh::Ops { command } } | Command::Ops { command } => {
            Box::pin(ops::run(command, global)).await
        }
        Command::Mesh { command: Mesh::Status } | Command::Status => status::run(global).await,
        Command::Mesh { command: Mesh::Events { command } } => Box::pin(events::run(command, global)).await,
        Command::Audit { command } => Box::pin(audit::run(command, global)).await,
        Command::Auth { command } => auth::run(command, global).await,
        Command::Context { command } => contexts::run(command, global),
        Command::Doctor => commands::doctor::report(&doctor_checks(global).await, global.output),
        Command::Drain(args) => Box::pin(drain::run(args, global)).await,
        Command::Promote(args) => Box::pin(promote::promote(args, global)).await,
    }
}

fn finish(result: Result<Exit, Failure>) -> ExitCode {
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprint!("{}", failure.text());
            failure.exit.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[derive(Debug, Parser)]
    #[command(name = "omnirelay")]
    struct Root {
        #[command(flatten)]
        global: GlobalArgs,
        #[command(subcommand)]
        command: Command,
    }

    #[test]
    fn the_command_tree_is_sound() {
        Root::command().debug_assert();
    }

    fn check(line: &str, expected: &str) {
        let text = match Root::try_parse_from(line.split(' ')) {
            Ok(root) => format!("{:?}", root.command).split([' ', '(']).next().unwrap_or_default().to_owned(),
            Err(error) => format!("{:?}", error.kind()),
        };
        assert_eq!(text, expected, "{line}");
    }

    #[test]
    fn command_lines() {
        check("omnirelay drain web-07 --deadline 30m --ticket CHG-1 --reason x --yes", "Drain");
        check("omnirelay drain web-07 --deadline soon", "ValueValidation");
        check("omnirelay drain web-07 --on-deadline force -o json --url http://x", "Drain");
        check("omnirelay drain web-07 --on-deadline explode", "ValueValidation");
        check("omnirelay drain", "MissingRequiredArgument");
        check("omnirelay drain web-07 web-08 --max-failures 1", "Drain");
        check(
            "omnirelay drain -l cluster=fra1,kernel=5.15 --max-concurrent 4 --canary 2 --soak 10m --gate rest",
            "Drain",
        );
        check("omnirelay drain web-07 -l cluster=fra1", "ArgumentConflict");
        check("omnirelay drain web-07 --gate never", "ValueValidation");
        check("omnirelay drain -l a=b --soak 10m", "MissingRequiredArgument");
        check("omnirelay promote ams1 --demote fra1 --ticket CHG-1 --no-wait", "Promote");
        check("omnirelay promote not.an.id", "ValueValidation");
        check("omnirelay mesh clusters demote fra1 --force --gate cutover --dry-run", "Mesh");
        check("omnirelay mesh peers label web-07 zone=a tier- --reason x", "Mesh");
        check("omnirelay mesh peers label web-07 zone", "ValueValidation");
        check("omnirelay mesh peers label web-07", "MissingRequiredArgument");
        check("omnirelay mesh peers annotate web-07 owner=\"net\" rack-", "Mesh");
        check("omnirelay mesh peers why web-07 -o json", "Mesh");
        check("omnirelay ops approve 7be3d210 --comment ok --yes", "Ops");
        check("omnirelay ops approve 7be3d210 --digest xyz", "ValueValidation");
        check("omnirelay ops reject ams1 --reason freeze", "Ops");
        check("omnirelay ops retry 5d20c9aa --failed --yes", "Ops");
        check("omnirelay ops pause web-07 --reason night", "Ops");
        check("omnirelay ops resolve web-07", "Ops");
        check("omnirelay mesh approvals list -o wide", "Mesh");
        check("omnirelay mesh config get drain.deadline", "Mesh");
        check("omnirelay mesh config set drain.deadline=30m approvals.rules=[] --yes", "Mesh");
        check("omnirelay mesh config edit --ticket CHG-1", "Mesh");
        check("omnirelay mesh config rollback seven", "ValueValidation");
        check("omnirelay mesh apply -f mesh.yaml --dry-run --record x.jsonl", "Mesh");
        check("omnirelay mesh apply", "MissingRequiredArgument");
        check("omnirelay drain web-07 --token x", "UnknownArgument");
        check("omnirelay ops attach web-07 --wait-timeout 5s", "Ops");
        check("omnirelay mesh ops watch 9c41e07b", "Mesh");
        check("omnirelay ops cancel web-07 --keep-moved --no-wait", "Ops");
        check("omnirelay mesh peers list --cluster a --state drained --health suspect -l a=b -o wide", "Mesh");
        check("omnirelay mesh events tail --kind peers --since-position 7 -o line", "Mesh");
        check("omnirelay audit verify --file a.jsonl b.jsonl --key k.pem", "Audit");
        check("omnirelay audit verify --key k.pem", "MissingRequiredArgument");
        check("omnirelay auth token --key k --subject ana --scope mesh.operate --ttl 1h", "Auth");
        check("omnirelay auth token --key k --subject ana --scope mesh.everything", "ValueValidation");
        check("omnirelay context set prod --url https://x --token-file a --token-command b", "ArgumentConflict");
        check("omnirelay status", "Status");
        check("omnirelay doctor", "Doctor");
    }

    #[test]
    fn completions_name_the_commands() {
        let mut script = Vec::new();
        clap_complete::generate(Shell::Bash, &mut Root::command(), "omnirelay", &mut script);
        let script = String::from_utf8(script).expect("text");
        for word in ["uncordon", "whoami", "promote", "demote", "annotate", "rollback", "approvals", "retry", "apply"] {
            assert!(script.contains(word), "{word}");
        }
    }
}
