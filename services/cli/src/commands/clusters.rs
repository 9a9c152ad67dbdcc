//! `mesh clusters`: reads.

use clap::Subcommand;
use omnirelay_contract::rest::Cluster;
use omnirelay_contract::workflow::ClusterId;

use super::{LimitArgs, word};
use crate::client::Request;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output;
use crate::session::{GlobalArgs, Session};

#[derive(Debug, Subcommand)]
pub enum Clusters {
    /// List clusters
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        limit: LimitArgs,
    },
    /// Show a cluster
    Get {
        #[arg(value_parser = word::<ClusterId>)]
        cluster: ClusterId,
    },
}

pub async fn run(command: Clusters, global: &GlobalArgs) -> Result<Exit, Failure> {
    let session = Session::open(global).await?;
    match command {
        Clusters::List { limit } => {
            let page = session.client.list::<Cluster>(&Request::get("/control/clusters"), limit.limit).await?;
            output::list(session.format, &page)?;
        }
        Clusters::Get { cluster } => {
            let cluster: Cluster = session.client.get(&format!("/control/clusters/{cluster}")).await?;
            output::one(session.format, &cluster)?;
        }
    }
    Ok(Exit::Succeeded)
}
