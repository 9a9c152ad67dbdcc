//! What the plan of a drain is computed from.

use omnirelay_contract::rest::Workload;
use omnirelay_workflow::WorkloadId;
use omnirelay_workflow::placement::Candidate;
use omnirelay_workflow::resource::Health;
use sqlx::{PgPool, Row};

use super::peers::workload_dto;
use super::{json, word};
use crate::StoreError;
use crate::statement::statements;

statements! {
    // Load that is promised to a peer by moves in flight counts as its load.
    CANDIDATES = "
        select p.id, o.health, p.schedulable, p.labels::text, p.capacity,
               (select coalesce(sum(w.load), 0) from workloads w where w.peer = p.id)
             + (select coalesce(sum(w.load), 0) from workloads w where w.target = p.id and w.peer <> p.id)
        from peers p left join peer_observed o on o.peer = p.id
        where p.cluster = $1 and p.id <> $2
        order by p.id";
    NOT_RESTORABLE = "
        select id from workloads where peer = any($1) and not restorable order by id limit 100";
    WORKLOADS = "
        select id, service, peer, load, labels::text, handover, restorable, ready, remaining, unit, epoch, state
        from workloads where peer = $1 order by id";
}

/// The other peers of the cluster, as the worker will see them when it chooses.
pub async fn candidates(pool: &PgPool, cluster: &str, except: &str) -> Result<Vec<Candidate>, StoreError> {
    let rows = sqlx::query(CANDIDATES).bind(cluster).bind(except).fetch_all(pool).await?;
    rows.iter()
        .map(|row| {
            let health: Option<&str> = row.try_get(1)?;
            let load: i64 = row.try_get(5)?;
            Ok(Candidate {
                peer: word("a peer's id", row.try_get(0)?)?,
                health: health.map_or(Ok(Health::Unreachable), |text| word("a peer's health", text))?,
                schedulable: row.try_get(2)?,
                labels: json("a peer's labels", row.try_get(3)?)?,
                capacity: row.try_get::<i32, _>(4)?.unsigned_abs(),
                load: super::count(load),
            })
        })
        .collect()
}

/// All that a peer owns.
pub async fn workloads(pool: &PgPool, peer: &str) -> Result<Vec<Workload>, StoreError> {
    sqlx::query(WORKLOADS).bind(peer).fetch_all(pool).await?.iter().map(workload_dto).collect()
}

/// Of what these peers own, the first hundred whose release cannot be taken back.
pub async fn not_restorable(pool: &PgPool, peers: &[&str]) -> Result<Vec<WorkloadId>, StoreError> {
    let ids: Vec<String> = sqlx::query_scalar(NOT_RESTORABLE).bind(peers).fetch_all(pool).await?;
    ids.iter().map(|id| word("a workload's id", id)).collect()
}
