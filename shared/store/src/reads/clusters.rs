//! Clusters as clients see them.

use omnirelay_contract::rest::Cluster;
use omnirelay_workflow::OperationId;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};

use super::{count, json, word};
use crate::StoreError;
use crate::statement::statements;

/// The columns of a [`ClusterRow`], in its order.
macro_rules! columns {
    () => {
        "c.id, c.region, c.priority, c.state, c.failover_version, coalesce(n.lag, c.replication_lag_ms), \
         c.max_unavailable, c.labels::text, c.revision, l.operation, n.peers, n.healthy "
    };
}

/// The lag of a cluster is the highest of its peers that are heard of.
macro_rules! joins {
    () => {
        "from clusters c
         left join operation_locks l on l.resource = 'clusters/' || c.id
         left join lateral (
             select count(*) as peers, count(*) filter (where o.health = 'healthy') as healthy,
                    max(o.lag_ms) filter (where o.health <> 'unreachable') as lag
             from peers p left join peer_observed o on o.peer = p.id
             where p.cluster = c.id
         ) n on true "
    };
}

pub(crate) use columns as cluster_columns;
pub(crate) use joins as cluster_joins;

macro_rules! select {
    ($rest:literal) => {
        concat!("select ", columns!(), joins!(), $rest)
    };
}

statements! {
    GET = select!("where c.id = $1");
    PAGE = select!("where ($1::text is null or c.id > $1) order by c.id limit $2");
    PAGE_DESC = select!("where ($1::text is null or c.id < $1) order by c.id desc limit $2");
}

/// A cluster as the tables have it.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterRow {
    pub id: String,
    pub region: String,
    pub priority: i32,
    pub state: String,
    pub failover_version: i64,
    pub replication_lag_ms: Option<i64>,
    pub max_unavailable: Option<String>,
    pub labels: String,
    pub revision: i64,
    pub operation: Option<OperationId>,
    pub peers: i64,
    pub healthy_peers: i64,
}

/// What goes over the wire for a row.
pub fn cluster_dto(row: &ClusterRow) -> Result<Cluster, StoreError> {
    Ok(Cluster {
        id: word("a cluster's id", &row.id)?,
        region: row.region.clone(),
        priority: row.priority,
        state: word("a cluster's state", &row.state)?,
        failover_version: row.failover_version.unsigned_abs(),
        peers: count(row.peers),
        healthy_peers: count(row.healthy_peers),
        replication_lag_ms: row.replication_lag_ms.map(i64::unsigned_abs),
        max_unavailable: row.max_unavailable.as_deref().map(|text| word("a cluster's budget", text)).transpose()?,
        labels: json("a cluster's labels", &row.labels)?,
        operation: row.operation,
        revision: row.revision.unsigned_abs(),
    })
}

pub async fn get(pool: &PgPool, id: &str) -> Result<Option<ClusterRow>, StoreError> {
    let row = sqlx::query(GET).bind(id).fetch_optional(pool).await?;
    row.as_ref().map(from_row).transpose()
}

/// A page by id behind the cluster `after`.
pub async fn page(
    pool: &PgPool,
    descending: bool,
    after: Option<&str>,
    limit: u32,
) -> Result<Vec<ClusterRow>, StoreError> {
    let statement = if descending { PAGE_DESC } else { PAGE };
    let rows = sqlx::query(statement).bind(after).bind(i64::from(limit)).fetch_all(pool).await?;
    rows.iter().map(from_row).collect()
}

pub(crate) fn from_row(row: &PgRow) -> Result<ClusterRow, StoreError> {
    Ok(ClusterRow {
        id: row.try_get(0)?,
        region: row.try_get(1)?,
        priority: row.try_get(2)?,
        state: row.try_get(3)?,
        failover_version: row.try_get(4)?,
        replication_lag_ms: row.try_get(5)?,
        max_unavailable: row.try_get(6)?,
        labels: row.try_get(7)?,
        revision: row.try_get(8)?,
        operation: row.try_get(9)?,
        peers: row.try_get(10)?,
        healthy_peers: row.try_get(11)?,
    })
}
