//! The plan of a mutation, from the registry as it is now.

use std::collections::BTreeMap;

use omnirelay_contract::problem::Problem;
use omnirelay_contract::rest::{BudgetImpact, Peer, Plan, PlannedApproval};
use omnirelay_store::{PgConnection, StoreError, clusters, config, intake, reads};
use omnirelay_workflow::budget::{self, Admission, Standing};
use omnirelay_workflow::cordon::uncordon;
use omnirelay_workflow::operation::{Blocker, BlockerCode, Verb};
use omnirelay_workflow::resource::HoldKind;
use omnirelay_workflow::settings::{Amount, Settings};
use omnirelay_workflow::{ClusterId, Timestamp, promote};
use serde::Serialize;
use serde_json::{Value, json};

use crate::admit::{Record, subject};
use crate::answer::Refusal;
use crate::submission::{Asked, Submission};
use crate::{App, plan};

/// `revision` is what the confirmation binds of the target.
pub async fn of(app: &App, submission: &Submission, revision: u64) -> Result<Plan, Refusal> {
    let (impact, blockers) = match &submission.asked {
        Asked::Peer if submission.verb == Verb::PeersDrain => drain(app, submission).await?,
        Asked::Peer => (peer(app, submission).await?, Vec::new()),
        Asked::Missing(_) => (Value::Null, Vec::new()),
        Asked::Many { peers, .. } => super::bulk_drain::impact(app, submission, peers).await?,
        Asked::PutPeer { .. } | Asked::PutCluster { .. } => {
            let wanted: Value = json_of(&submission.params)?;
            (json!({"target": submission.target, "wanted": wanted, "exists": revision != 0}), Vec::new())
        }
        Asked::Clusters(params) => failover(app, params).await?,
        Asked::Config { patch, whole } => (settings(app, patch, *whole).await?, Vec::new()),
    };
    let now = Timestamp::now();
    let approval = (!submission.gates.is_empty()).then(|| PlannedApproval { gates: submission.gates.clone() });
    Ok(Plan {
        impact,
        blockers,
        approval,
        digest: submission.digest.clone(),
        confirmation: app.confirmations.give(submission.confirms(revision), now),
    })
}

async fn drain(app: &App, submission: &Submission) -> Result<(Value, Vec<Blocker>), Refusal> {
    let peer = peer_of(app, submission).await?;
    let workloads = reads::plan::workloads(&app.pool, peer.id.as_str()).await?;
    let candidates = reads::plan::candidates(&app.pool, peer.cluster.as_str(), peer.id.as_str()).await?;
    let now = Timestamp::now();
    let (mut impact, mut blockers) = plan::drain::drain(&peer, &workloads, &candidates, now);
    // Before the connection: whoever holds one and waits for another stops everybody once all are held.
    let settings = app.settings.fresh(&app.pool).await?;
    let mut connection = app.pool.acquire().await.map_err(StoreError::from)?;
    let cluster = cluster_budget(&mut connection, &settings.settings, &peer.cluster).await?;
    let standing: Vec<Standing> = cluster.peers.clone();
    if let Admission::Queue { position, .. } = budget::admit(cluster.limit, &standing, &peer.id, cluster.ahead) {
        let (id, limit, taken) = (&peer.cluster, cluster.limit.unwrap_or(0), budget::taken_by(&standing));
        blockers.push(Blocker {
            code: BlockerCode::Budget,
            subject: peer.cluster.to_string(),
            message: format!("cluster {id} allows {limit} unavailable: it would wait at position {position}, {taken}"),
            since: now,
        });
    }
    let counted = standing.iter().any(|one| one.peer == peer.id && (one.unavailable || one.holder.is_some()));
    impact.budgets.push(cluster.impact(&peer.cluster, u32::from(!counted)));
    let mut moves: BTreeMap<String, u32> = BTreeMap::new();
    for workload in &workloads {
        *moves.entry(workload.service.clone()).or_default() += 1;
    }
    let limits = &settings.settings.disruption.services;
    let budgeted: Vec<String> = moves.keys().filter(|service| limits.contains_key(*service)).cloned().collect();
    if !budgeted.is_empty() {
        for count in clusters::services(&mut connection, &[peer.cluster.to_string()], &budgeted).await? {
            let at_once = moves.get(&count.service).copied().unwrap_or(0).min(1);
            impact.budgets.push(BudgetImpact {
                max_unavailable: limits.get(&count.service).map(|limit| limit.of(count.total)),
                subject: format!("services/{}", count.service),
                total: count.total,
                unavailable: count.unavailable,
                unavailable_after: count.unavailable + at_once,
            });
        }
    }
    Ok((value_of(&impact)?, blockers))
}

/// A cluster's budget as it stands.
pub struct ClusterBudget {
    pub limit: Option<u32>,
    pub peers: Vec<Standing>,
    /// Operations that wait for it.
    pub ahead: u32,
}

impl ClusterBudget {
    pub fn used(&self) -> u32 {
        self.peers.iter().filter(|one| one.unavailable || one.holder.is_some()).count() as u32
    }

    /// With `more` peers out.
    pub fn impact(&self, cluster: &ClusterId, more: u32) -> BudgetImpact {
        BudgetImpact {
            subject: format!("clusters/{cluster}"),
            total: self.peers.len() as u32,
            max_unavailable: self.limit,
            unavailable: self.used(),
            unavailable_after: self.used() + more,
        }
    }
}

pub async fn cluster_budget(
    connection: &mut PgConnection,
    settings: &Settings,
    cluster: &ClusterId,
) -> Result<ClusterBudget, StoreError> {
    let names = [cluster.to_string()];
    let peers: Vec<Standing> = clusters::budget_peers(connection, &names)
        .await?
        .into_iter()
        .map(|peer| Standing { peer: peer.peer, unavailable: peer.unavailable, holder: peer.holder })
        .collect();
    let own = clusters::limits(connection, &names).await?.pop().and_then(|(_, limit)| limit);
    let own: Option<Amount> = own.and_then(|text| text.parse().ok());
    let limit = budget::of_cluster(own.as_ref(), settings.disruption.max_unavailable.as_ref(), peers.len() as u32);
    let ahead = omnirelay_store::operations::queued(connection, &names).await?.len() as u32;
    Ok(ClusterBudget { limit, peers, ahead })
}

async fn peer(app: &App, submission: &Submission) -> Result<Value, Refusal> {
    let peer = peer_of(app, submission).await?;
    let owner = &submission.principal.subject;
    match submission.verb {
        Verb::PeersUncordon => {
            let params: Value = json_of(&submission.params)?;
            let all = params.get("all").and_then(Value::as_bool).unwrap_or(false);
            // Refused as the request would be.
            let removed = uncordon(&peer.id, &peer.holds, owner, all, peer.operation)
                .map_err(|rejected| Problem::from(&rejected))?;
            let changed = !removed.is_empty();
            Ok(json!({"peer": peer.id, "name": peer.name, "removed": removed, "holds": peer.holds, "changed": changed}))
        }
        Verb::PeersPatch => {
            let wanted: Value = json_of(&submission.params)?;
            let patch = omnirelay_workflow::patch::PeerPatch {
                labels: wanted.get("labels").cloned(),
                metadata: wanted.get("metadata").cloned(),
            };
            let (labels, metadata) = omnirelay_workflow::patch::peer(&peer.labels, &peer.metadata, &patch)
                .map_err(|wrong| Refusal::invalid(wrong.to_string()))?;
            let changed = labels != peer.labels || metadata != peer.metadata;
            Ok(json!({
                "peer": peer.id, "name": peer.name, "changed": changed,
                "before": {"labels": peer.labels, "metadata": peer.metadata},
                "after": {"labels": labels, "metadata": metadata},
            }))
        }
        _ => {
            let mine = peer.holds.iter().any(|hold| hold.kind == HoldKind::Manual && hold.owner == *owner);
            Ok(json!({"peer": peer.id, "name": peer.name, "holds": peer.holds, "changed": !mine}))
        }
    }
}

async fn failover(app: &App, params: &promote::Params) -> Result<(Value, Vec<Blocker>), Refusal> {
    let settings = app.settings.fresh(&app.pool).await?;
    let mut connection = app.pool.acquire().await.map_err(StoreError::from)?;
    let named: Vec<&str> = params.named().map(ClusterId::as_str).collect();
    let known = intake::clusters(&mut connection, &named, true).await?;
    let names: Vec<String> = named.iter().map(|name| (*name).to_owned()).collect();
    let peers = clusters::peers(&mut connection, &names).await?;
    let facts = intake::Facts::default();
    let record = Record { facts: &facts, clusters: &known, peers: &peers, settings: &settings };
    let world = subject::world(params, record);
    let limits = subject::limits(&settings.settings);
    let checked = promote::precheck(params, &limits, &world).map_err(|rejected| Problem::from(&rejected))?;
    let (impact, blockers) = plan::cluster::failover(params, &limits, &world, &peers, &checked, Timestamp::now());
    Ok((value_of(&impact)?, blockers))
}

async fn settings(app: &App, patch: &Value, whole: bool) -> Result<Value, Refusal> {
    let mut connection = app.pool.acquire().await.map_err(StoreError::from)?;
    let revision = config::revision(&mut connection).await?;
    let current = app.settings.at_least(&mut connection, revision).await?;
    let nothing = json!({});
    let (base, patch) = if whole { (patch, &nothing) } else { (&current.value, patch) };
    let (after, _) = Settings::patched(base, patch).map_err(|wrong| Refusal::invalid(wrong.to_string()))?;
    value_of(&plan::config::changes(&current.value, &after))
}

/// The peer that a submission is about.
async fn peer_of(app: &App, submission: &Submission) -> Result<Peer, Refusal> {
    let id = submission.about.id();
    let row = reads::peers::get(&app.pool, &id).await?;
    let row = row.ok_or_else(|| super::absent("peer", &id))?;
    Ok(reads::peer_dto(&row)?)
}

pub fn value_of(value: &impl Serialize) -> Result<Value, Refusal> {
    serde_json::to_value(value).map_err(|error| Refusal::invalid(error.to_string()))
}

pub fn json_of(text: &str) -> Result<Value, Refusal> {
    serde_json::from_str(text).map_err(|error| Refusal::invalid(error.to_string()))
}
