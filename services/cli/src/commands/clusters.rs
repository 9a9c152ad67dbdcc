//! `mesh clusters`: reads. What changes them is in [`super::promote`].

use clap::Subcommand;
use omnirelay_contract::rest::Cluster;
use omnirelay_contract::workflow::ClusterId;

use super::promote::{self, DemoteArgs, PromoteArgs};
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
    /// Make a cluster active, and others passive in the same step
    Promote(PromoteArgs),
    /// Make a cluster passive
    Demote(DemoteArgs),
}

pub async fn run(command: Clusters, global: &GlobalArgs) -> Result<Exit, Failure> {
    match command {
        Clusters::List { limit } => {
            let session = Session::open(global).await?;
            let page = session.client.list::<Cluster>(&Request::get("/control/clusters"), limit.limit).await?;
            output::list(session.format, &page)?;
            Ok(Exit::Succeeded)
        }
        Clusters::Get { cluster } => {
            let session = Session::open(global).await?;
            let cluster: Cluster = session.client.get(&format!("/control/clusters/{cluster}")).await?;
            output::one(session.format, &cluster)?;
            Ok(Exit::Succeeded)
        }
        Clusters::Promote(args) => promote::promote(args, global).await,
        Clusters::Demote(args) => promote::demote(args, global).await,
    }
}
