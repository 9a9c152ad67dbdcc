//! `POST /control/peers:drain`: many peers, a few at a time. The list is frozen when the request comes; the confirmation binds it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use omnirelay_contract::rest::{BulkDrainBody, BulkImpact, BulkPeer, Peer};
use omnirelay_store::reads::peers::{PeerFilter, PeerOrder};
use omnirelay_store::{StoreError, reads};
use omnirelay_workflow::bulk::BulkParams;
use omnirelay_workflow::drain::DrainParams;
use omnirelay_workflow::operation::{Blocker, BlockerCode, Target, Verb};
use omnirelay_workflow::resource::{Health, PeerState};
use omnirelay_workflow::{ClusterId, PeerId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::mutation::{Parsed, common, digest_of, params_of, serve};
use super::plans::{cluster_budget, json_of, value_of};
use crate::answer::Refusal;
use crate::submission::{Asked, Frozen, Submission};
use crate::{App, request, selector};

/// The longest list: beyond it a mistake is likelier than a wish.
const MAX_PEERS: usize = 10_000;
/// Peers read at once.
const PAGE: u32 = 1_000;
/// Peers at once where the request does not say.
const CONCURRENT: u32 = 1;
const MAX_SOAK: Duration = Duration::from_secs(7 * 24 * 3600);
/// Warnings and blockers of a plan, at most.
const MOST: usize = 50;

/// The parameters as the operation keeps them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Params {
    #[serde(skip_serializing_if = "Option::is_none")]
    selector: Option<String>,
    #[serde(flatten)]
    bulk: BulkParams,
    /// Of each peer's drain.
    drain: DrainParams,
}

pub async fn act(State(app): State<Arc<App>>, request: Request) -> Response {
    let id = Uuid::now_v7();
    let about = Target::Many(id);
    serve(&app, Verb::PeersDrain, "peers".to_owned(), request, async |app, parts, body| {
        let mut body: BulkDrainBody = request::body(&parts.headers, body).await?;
        let common = common!(body, confirmed)?;
        let settings = app.settings.fresh(&app.pool).await?;
        let drain = super::drain::params(
            &settings.settings.drain,
            body.deadline,
            body.on_deadline,
            body.max_concurrent_moves,
            body.keep_moved,
        )?;
        let soak = body.soak.map_or(Duration::ZERO, |soak| soak.0);
        if soak > MAX_SOAK {
            return Err(Refusal::invalid("soak: at most 7d"));
        }
        let max_concurrent = body.max_concurrent.unwrap_or(CONCURRENT);
        if !(1..=1_000).contains(&max_concurrent) {
            return Err(Refusal::invalid("maxConcurrent: from 1 to 1000"));
        }
        let found = match (&body.selector, &body.peers) {
            (Some(text), None) => Ok(selected(app, text).await?),
            (None, Some(ids)) => named(app, ids).await?,
            _ => return Err(Refusal::invalid("name the peers by a selector, or as a list in `peers`: one of the two")),
        };
        let canary = body.canary.unwrap_or(0);
        let (peers, missing) = match found {
            Ok(peers) => (peers, None),
            Err(missing) => (Vec::new(), Some(missing)),
        };
        let asked = match missing {
            Some(detail) => Asked::Missing(detail),
            None => Asked::Many { peers: peers.iter().map(frozen).collect(), canary },
        };
        let params = Params {
            selector: body.selector.clone(),
            bulk: BulkParams {
                peers: peers.iter().map(|peer| peer.id.clone()).collect(),
                max_concurrent,
                canary,
                soak_secs: soak.as_secs(),
                max_failures: body.max_failures.unwrap_or(0),
                gated: false,
            },
            drain,
        };
        Ok(Parsed {
            verb: Verb::PeersDrain,
            id: Some(id),
            about,
            asked,
            common,
            params: params_of(&params)?,
            request_digest: digest_of(parts, &body)?,
        })
    })
    .await
}

async fn selected(app: &App, text: &str) -> Result<Vec<Peer>, Refusal> {
    let mut filter = PeerFilter::default();
    selector::apply(text, &mut filter).map_err(|error| Refusal::invalid(format!("selector: {error}")))?;
    let mut peers: Vec<Peer> = Vec::new();
    loop {
        let after = peers.last().map(|peer| peer.id.to_string());
        let rows = reads::peers::page(&app.pool, &filter, PeerOrder::Id, after.as_deref(), PAGE).await?;
        let full = rows.len() == PAGE as usize;
        for row in &rows {
            peers.push(reads::peer_dto(row)?);
        }
        if peers.len() > MAX_PEERS {
            return Err(Refusal::invalid(format!("selector: it matches more than {MAX_PEERS} peers: narrow it")));
        }
        if !full {
            return Ok(peers);
        }
    }
}

/// The peers, or the sentence that says which of them is not there.
async fn named(app: &App, ids: &[PeerId]) -> Result<Result<Vec<Peer>, String>, Refusal> {
    let ids: BTreeSet<&str> = ids.iter().map(PeerId::as_str).collect();
    if ids.len() > MAX_PEERS {
        return Err(Refusal::invalid(format!("peers: at most {MAX_PEERS}")));
    }
    let ids: Vec<&str> = ids.into_iter().collect();
    let rows = reads::peers::many(&app.pool, &ids).await?;
    let mut peers = rows.iter().map(reads::peer_dto).collect::<Result<Vec<Peer>, _>>()?;
    peers.sort_by(|a, b| a.id.cmp(&b.id));
    let there: BTreeSet<&str> = peers.iter().map(|peer| peer.id.as_str()).collect();
    Ok(match ids.iter().find(|id| !there.contains(**id)) {
        Some(missing) => Err(format!("there is no peer {missing}")),
        None => Ok(peers),
    })
}

fn frozen(peer: &Peer) -> Frozen {
    Frozen {
        id: peer.id.clone(),
        name: peer.name.clone(),
        cluster: peer.cluster.clone(),
        role: peer.role.clone(),
        state: peer.state.to_string(),
        health: peer.health.to_string(),
        labels: peer.labels.clone(),
    }
}

/// What it would do, from the registry as it is now.
pub async fn impact(app: &App, submission: &Submission, frozen: &[Frozen]) -> Result<(Value, Vec<Blocker>), Refusal> {
    let params: Params = serde_json::from_value(json_of(&submission.params)?)
        .map_err(|error| StoreError::corrupt("a bulk drain's parameters", error))?;
    let ids: Vec<&str> = frozen.iter().map(|peer| peer.id.as_str()).collect();
    let rows = reads::peers::many(&app.pool, &ids).await?;
    let mut peers = rows.iter().map(reads::peer_dto).collect::<Result<Vec<Peer>, _>>()?;
    peers.sort_by(|a, b| a.id.cmp(&b.id));
    let now = Timestamp::now();
    let (mut warnings, mut blockers) = (Vec::new(), Vec::new());
    let mut starting: BTreeMap<ClusterId, u32> = BTreeMap::new();
    let described: Vec<BulkPeer> = peers
        .iter()
        .map(|peer| {
            let skipped = peer.operation.map(|operation| format!("it is in operation {operation}"));
            if skipped.is_none() {
                let out = peer.health == Health::Unreachable || peer.state == PeerState::Drained;
                *starting.entry(peer.cluster.clone()).or_default() += u32::from(!out);
            }
            for hold in &peer.holds {
                let ticket = hold.change_ticket.as_ref().map(|ticket| format!(" ({ticket})")).unwrap_or_default();
                warnings.push(format!("{} already held by {}{ticket}: stays so", peer.name, hold.owner));
            }
            if peer.health == Health::Unreachable {
                let message = "its agent is not heard of: nothing can be released there until it is".to_owned();
                let subject = peer.id.to_string();
                blockers.push(Blocker { code: BlockerCode::PeerUnreachable, subject, message, since: now });
            }
            BulkPeer {
                id: peer.id.clone(),
                name: peer.name.clone(),
                cluster: peer.cluster.clone(),
                workloads: peer.workloads,
                skipped,
            }
        })
        .collect();
    let settings = app.settings.fresh(&app.pool).await?;
    let mut connection = app.pool.acquire().await.map_err(StoreError::from)?;
    let mut budgets = Vec::new();
    for (cluster, peers) in &starting {
        let budget = cluster_budget(&mut connection, &settings.settings, cluster).await?;
        // They stay drained, so in the end all of them count; what is over the budget waits until somebody uncordons.
        let impact = budget.impact(cluster, *peers);
        if let Some(limit) = impact.max_unavailable.filter(|limit| impact.unavailable_after > *limit) {
            let message = format!(
                "cluster {cluster} allows {limit} unavailable, {} are already: the rest waits until drained peers are uncordoned",
                impact.unavailable
            );
            blockers.push(Blocker { code: BlockerCode::Budget, subject: cluster.to_string(), message, since: now });
        }
        budgets.push(impact);
    }
    drop(connection);
    let not_restorable = reads::plan::not_restorable(&app.pool, &ids).await?;
    warnings.truncate(MOST);
    blockers.truncate(MOST);
    let impact = BulkImpact {
        workloads: peers.iter().map(|peer| peer.workloads).sum(),
        changed: described.iter().any(|peer| peer.skipped.is_none()),
        peers: described,
        canary: params.bulk.canary.min(frozen.len() as u32),
        soak_secs: params.bulk.soak_secs,
        max_concurrent: params.bulk.max_concurrent,
        max_failures: params.bulk.max_failures,
        budgets,
        warnings,
        not_restorable,
    };
    Ok((value_of(&impact)?, blockers))
}
