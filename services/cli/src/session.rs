//! What every command that speaks to a mesh has: where it goes, as whom, and how it prints.

use std::sync::Arc;

use clap::Args;
use std::path::PathBuf;

use crate::client::Client;
use crate::commands::auth::Claims;
use crate::context::{Config, Said, Target, choose};
use crate::failure::Failure;
use crate::output::Format;
use crate::record::Recorder;

/// Flags that every command of the CLI takes, anywhere on the line.
#[derive(Debug, Clone, Default, Args)]
pub struct GlobalArgs {
    /// The API's address; wins over the context and OMNIRELAY_URL
    #[arg(long, global = true, value_name = "URL", help_heading = "Global options")]
    pub url: Option<String>,
    /// A context of the configuration; wins over the environment
    #[arg(long, global = true, value_name = "NAME", help_heading = "Global options")]
    pub context: Option<String>,
    /// How data is printed on stdout
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "Global options"
    )]
    pub output: Format,
    /// Append each HTTP exchange to this file, as JSON lines, without the token
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub record: Option<PathBuf>,
}

impl GlobalArgs {
    /// Where these flags, the environment and the configuration lead.
    pub fn target(&self) -> Result<Target, Failure> {
        let said = Said::gather(self.url.as_deref(), self.context.as_deref());
        let config = match Config::path() {
            Ok(path) => Config::read(&path)?,
            // Without a home there is still the environment.
            Err(_) => Config::default(),
        };
        Ok(choose(&config, &said)?)
    }
}

pub struct Session {
    pub target: Target,
    pub client: Arc<Client>,
    pub format: Format,
}

impl Session {
    pub async fn open(global: &GlobalArgs) -> Result<Self, Failure> {
        let target = global.target()?;
        let token = target.token.fetch().await?;
        let recorder = match &global.record {
            Some(path) => Some(
                Recorder::open(path)
                    .map_err(|error| Failure::error(format!("cannot record in {}: {error}", path.display())))?,
            ),
            None => None,
        };
        let client = Arc::new(Client::new(&target.url, token, recorder)?);
        Ok(Self { target, client, format: global.output })
    }

    /// The subject that the token claims. The API decides whether it believes it.
    pub fn actor(&self) -> Option<String> {
        Claims::of(self.client.token()?).ok()?.sub
    }
}
