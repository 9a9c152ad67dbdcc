//! `omnirelay agent`: a configuration file, flags for the simple case, or a check of a driver.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use omnirelay_workflow::{ClusterId, PeerId};

use crate::config::{AgentConfig, CommandsConfig, PeerConfig};

/// Runs beside a peer: tells what runs there, and acquires and releases workloads when an operation asks.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AgentArgs {
    #[command(subcommand)]
    pub command: Option<AgentCommand>,
    #[command(flatten)]
    pub run: RunArgs,
}

#[derive(Debug, Clone, Subcommand)]
pub enum AgentCommand {
    /// Say what is wrong with a driver; exit code 1 when anything is
    CheckDriver(CheckDriverArgs),
}

#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// The agent's configuration (agent.toml); instead of all other flags
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Id of the peer
    #[arg(long, value_name = "ID", conflicts_with = "config")]
    pub peer: Option<PeerId>,
    /// Id of the peer's cluster
    #[arg(long, value_name = "ID", conflicts_with = "config")]
    pub cluster: Option<ClusterId>,
    /// NATS, for instance nats://127.0.0.1:4222
    #[arg(long, value_name = "URL", env = "OMNIRELAY_NATS_URL", hide_env_values = true)]
    pub nats: Option<String>,
    /// A NATS credentials file
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub credentials: Option<PathBuf>,
    /// Run to acquire a workload; no shell; the workload is in OMNIRELAY_WORKLOAD
    #[arg(long, value_name = "CMD", conflicts_with = "config")]
    pub on_acquire: Option<String>,
    /// Run to release a workload; exit code 75 when it has to be asked again
    #[arg(long, value_name = "CMD", conflicts_with = "config")]
    pub on_release: Option<String>,
    /// Run when the cluster's role changes; fenced, active or passive is in OMNIRELAY_ROLE
    #[arg(long, value_name = "CMD", conflicts_with = "config")]
    pub on_role: Option<String>,
    /// Ready check: http(s)://…, tcp://host:port or a command; {workload} and {service} are replaced
    #[arg(long, value_name = "URL|CMD", conflicts_with = "config")]
    pub ready: Option<String>,
    /// What runs here at the first start; repeat it
    #[arg(long = "workload", value_name = "ID[:SERVICE]", conflicts_with = "config")]
    pub workloads: Vec<String>,
    /// Where the agent remembers what it did
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pub state_dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub struct CheckDriverArgs {
    /// The driver's executable
    pub path: PathBuf,
    /// A workload that may be acquired and released for the check
    #[arg(long, value_name = "ID", default_value = "driver-check")]
    pub workload: omnirelay_workflow::WorkloadId,
    /// The service of the workload
    #[arg(long, value_name = "NAME", default_value = "driver-check")]
    pub service: String,
    /// The peer that the driver is told to be on
    #[arg(long, value_name = "ID", default_value = "driver-check")]
    pub peer: PeerId,
    /// The cluster whose roles the driver is told
    #[arg(long, value_name = "ID", default_value = "driver-check")]
    pub cluster: ClusterId,
    /// The longest that a call may take
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// Before the verb; repeat it
    #[arg(long = "arg", value_name = "ARG", allow_hyphen_values = true)]
    pub args: Vec<String>,
}

impl RunArgs {
    /// The configuration: the file's, or what the flags amount to.
    pub fn config(&self) -> anyhow::Result<AgentConfig> {
        if let Some(path) = &self.config {
            return Ok(AgentConfig::load(path)?);
        }
        let needed = "is needed, or --config";
        let peer = self.peer.clone().ok_or_else(|| anyhow::anyhow!("--peer {needed}"))?;
        let commands = CommandsConfig {
            acquire: self.on_acquire.clone().ok_or_else(|| anyhow::anyhow!("--on-acquire {needed}"))?,
            release: self.on_release.clone().ok_or_else(|| anyhow::anyhow!("--on-release {needed}"))?,
            role: self.on_role.clone(),
            ready: self.ready.clone(),
        };
        let config = AgentConfig {
            nats: self.nats.clone().ok_or_else(|| anyhow::anyhow!("--nats {needed}"))?,
            credentials: self.credentials.clone(),
            state_dir: self.state_dir.clone().unwrap_or_else(default_state_dir),
            heartbeat: Duration::from_secs(2),
            concurrency: 64,
            peers: vec![PeerConfig {
                name: None,
                cluster: self.cluster.clone().ok_or_else(|| anyhow::anyhow!("--cluster {needed}"))?,
                role: String::new(),
                address: String::new(),
                capacity: 0,
                labels: Default::default(),
                driver: None,
                driver_args: Vec::new(),
                driver_env: Default::default(),
                driver_timeout: Duration::from_secs(30),
                lag: None,
                commands: Some(commands),
                process: Default::default(),
                haproxy: None,
                kubernetes: None,
                start: self.workloads.clone(),
                services: Vec::new(),
                id: peer,
            }],
        };
        config.check()?;
        Ok(config)
    }
}

/// `$STATE_DIRECTORY` (systemd), else the user's state folder.
fn default_state_dir() -> PathBuf {
    let state = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    state("STATE_DIRECTORY")
        .or_else(|| state("XDG_STATE_HOME").map(|dir| dir.join("omnirelay-agent")))
        .or_else(|| state("HOME").map(|dir| dir.join(".local/state/omnirelay-agent")))
        .unwrap_or_else(|| PathBuf::from("omnirelay-agent"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        agent: AgentArgs,
    }

    fn parse(line: &str) -> Result<AgentArgs, clap::Error> {
        Cli::try_parse_from(line.split(' ')).map(|cli| cli.agent)
    }

    #[test]
    fn flags_amount_to_a_configuration() {
        let line = "agent --peer web-07 --cluster fra1 --nats nats://h:1 --on-acquire up --on-release down \
                    --ready http://h/{workload} --workload w1:shop --workload w2"
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        let config = parse(&line).unwrap().run.config().unwrap();
        let peer = &config.peers[0];
        assert_eq!((peer.id.as_str(), peer.cluster.as_str()), ("web-07", "fra1"));
        let services: Vec<String> = peer.started().unwrap().into_iter().map(|(_, service)| service).collect();
        assert_eq!(services, ["shop", "w2"]);
        let line = line.replace("--on-release down ", "");
        let error = parse(&line).unwrap().run.config().unwrap_err().to_string();
        assert_eq!(error, "--on-release is needed, or --config");
    }

    #[test]
    fn a_file_excludes_flags_and_a_check_needs_none() {
        assert!(parse("agent --config agent.toml --peer web-07").is_err());
        let args = parse("agent check-driver ./mine --workload w1 --arg --zone").unwrap();
        let Some(AgentCommand::CheckDriver(check)) = args.command else { panic!("{args:?}") };
        assert_eq!((check.workload.as_str(), check.args), ("w1", vec!["--zone".to_owned()]));
        assert_eq!(check.timeout, Duration::from_secs(30));
    }
}
