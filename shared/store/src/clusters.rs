//! Clusters and the mesh under the worker's locks, and what only few operations write of peers.

use omnirelay_workflow::resource::{ClusterState, Health};
use omnirelay_workflow::{ClusterId, OperationId, PeerId};
use sqlx::{PgConnection, Row};

use crate::StoreError;
use crate::reads::ClusterRow;
use crate::reads::clusters::{cluster_columns, cluster_joins, from_row};
use crate::registry::{PeerRecord, text};
use crate::statement::statements;

statements! {
    LOCK_MESH = "select failover_version from mesh for update";
    SAVE_MESH = "update mesh set failover_version = $1 where failover_version < $1";

    LOCK = concat!(
        "select ", cluster_columns!(), cluster_joins!(),
        "where c.id = any($1) order by c.id for no key update of c");
    // Clusters that are active and are not named: whether one of those named may be taken away.
    ACTIVE = "select id from clusters where state = 'active'";

    PEERS = "
        select p.cluster, p.id, coalesce(o.health, 'unreachable'), o.lag_ms
        from peers p left join peer_observed o on o.peer = p.id
        where p.cluster = any($1) order by p.id";

    SAVE = "
        insert into clusters (id, region, priority, state, failover_version, max_unavailable, labels, revision)
        select id, region, priority, state, failover_version, max_unavailable, labels::jsonb, revision
        from unnest($1::text[], $2::text[], $3::int4[], $4::text[], $5::int8[], $6::text[], $7::text[], $8::int8[])
            as u (id, region, priority, state, failover_version, max_unavailable, labels, revision)
        order by id
        on conflict (id) do update set
            region = excluded.region, priority = excluded.priority, state = excluded.state,
            failover_version = excluded.failover_version, max_unavailable = excluded.max_unavailable,
            labels = excluded.labels, revision = excluded.revision";

    // What a patch or a put decides of a peer; holds and marks are written with the operations.
    SAVE_PEERS = "
        insert into peers (id, name, cluster, role, address, labels, metadata, capacity, holds, drain_mark, revision)
        select id, name, cluster, role, address, labels::jsonb, metadata::jsonb, capacity, holds::json, drain_mark, revision
        from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::int4[],
                    $9::text[], $10::text[], $11::int8[])
            as u (id, name, cluster, role, address, labels, metadata, capacity, holds, drain_mark, revision)
        order by id
        on conflict (id) do update set
            name = excluded.name, cluster = excluded.cluster, role = excluded.role, address = excluded.address,
            labels = excluded.labels, metadata = excluded.metadata, capacity = excluded.capacity,
            holds = excluded.holds, drain_mark = excluded.drain_mark, revision = excluded.revision";

    NAMED = "select id, name from peers where name = any($1)";
    EXISTING = "select id from clusters where id = any($1)";

    // What counts against budgets: `$1` clusters. `holder`: the operation that has the peer for itself.
    BUDGETS = "
        select p.cluster, p.id,
               p.drain_mark <> 'none' or coalesce(o.health, 'unreachable') = 'unreachable' as unavailable,
               h.id as holder
        from peers p
        left join peer_observed o on o.peer = p.id
        left join (select id, target from operations where holds_slot and waits_for = any($1)) h
               on h.target = 'peers/' || p.id
        where p.cluster = any($1) order by p.id";
    LIMITS = "select id, max_unavailable from clusters where id = any($1)";

    // How services stand in each of these clusters: not ready, being moved, or on a peer that is not heard of.
    SERVICES = "
        select p.cluster, w.service, count(*),
               count(*) filter (where w.state = 'moving' or not w.ready or coalesce(o.health, 'unreachable') = 'unreachable')
        from peers p join workloads w on w.peer = p.id left join peer_observed o on o.peer = p.id
        where p.cluster = any($1) and w.service = any($2)
        group by p.cluster, w.service";
}

/// A cluster under its lock; `row` is changed in memory and written back.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterRecord {
    pub id: ClusterId,
    pub state: ClusterState,
    pub row: ClusterRow,
}

impl ClusterRecord {
    pub fn set_state(&mut self, state: ClusterState) {
        self.state = state;
        state.as_str().clone_into(&mut self.row.state);
    }
}

/// A peer of a cluster, as a promotion sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterPeer {
    pub cluster: ClusterId,
    pub peer: PeerId,
    pub health: Health,
    pub lag_ms: Option<u64>,
}

/// A peer as its cluster's budget sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetPeer {
    pub cluster: ClusterId,
    pub peer: PeerId,
    pub unavailable: bool,
    pub holder: Option<OperationId>,
}

/// How a service stands in a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceCount {
    pub cluster: ClusterId,
    pub service: String,
    pub total: u32,
    pub unavailable: u32,
}

/// Locks the mesh; returns its failover version.
pub async fn lock_mesh(connection: &mut PgConnection) -> Result<u64, StoreError> {
    let version: i64 = sqlx::query_scalar(LOCK_MESH).fetch_one(connection).await?;
    Ok(version.unsigned_abs())
}

/// Versions only grow: a lower one is not written.
pub async fn save_mesh(connection: &mut PgConnection, version: u64) -> Result<(), StoreError> {
    sqlx::query(SAVE_MESH).bind(signed(version)).execute(connection).await?;
    Ok(())
}

/// Locks these clusters, those of them that exist.
pub async fn lock(connection: &mut PgConnection, ids: &[String]) -> Result<Vec<ClusterRecord>, StoreError> {
    let rows = sqlx::query(LOCK).bind(ids).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            let row = from_row(row)?;
            Ok(ClusterRecord {
                id: row.id.parse().map_err(|e| StoreError::corrupt("a cluster's id", e))?,
                state: row.state.parse().map_err(|e| StoreError::corrupt("a cluster's state", e))?,
                row,
            })
        })
        .collect()
}

/// The clusters that are active.
pub async fn active(connection: &mut PgConnection) -> Result<Vec<ClusterId>, StoreError> {
    let rows = sqlx::query(ACTIVE).fetch_all(connection).await?;
    rows.iter().map(|row| text(row, 0, "a cluster's id")).collect()
}

pub async fn peers(connection: &mut PgConnection, clusters: &[String]) -> Result<Vec<ClusterPeer>, StoreError> {
    let rows = sqlx::query(PEERS).bind(clusters).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(ClusterPeer {
                cluster: text(row, 0, "a peer's cluster")?,
                peer: text(row, 1, "a peer's id")?,
                health: text(row, 2, "a peer's health")?,
                lag_ms: row.try_get::<Option<i64>, _>(3)?.map(i64::unsigned_abs),
            })
        })
        .collect()
}

/// Writes clusters, new ones too.
pub async fn save(connection: &mut PgConnection, records: &[&ClusterRecord]) -> Result<(), StoreError> {
    macro_rules! column {
        (|$row:ident| $value:expr) => {
            records
                .iter()
                .map(|record| {
                    let $row = &record.row;
                    $value
                })
                .collect::<Vec<_>>()
        };
    }
    sqlx::query(SAVE)
        .bind(column!(|row| row.id.as_str()))
        .bind(column!(|row| row.region.as_str()))
        .bind(column!(|row| row.priority))
        .bind(column!(|row| row.state.as_str()))
        .bind(column!(|row| row.failover_version))
        .bind(column!(|row| row.max_unavailable.as_deref()))
        .bind(column!(|row| row.labels.as_str()))
        .bind(column!(|row| row.revision))
        .execute(connection)
        .await?;
    Ok(())
}

/// Writes what was decided of these peers, new ones too.
pub async fn save_peers(connection: &mut PgConnection, peers: &[&PeerRecord]) -> Result<(), StoreError> {
    let rows = peers.iter().map(|peer| peer.current()).collect::<Result<Vec<_>, _>>()?;
    macro_rules! column {
        (|$row:ident| $value:expr) => {
            rows.iter().map(|$row| $value).collect::<Vec<_>>()
        };
    }
    sqlx::query(SAVE_PEERS)
        .bind(column!(|row| row.id.as_str()))
        .bind(column!(|row| row.name.as_str()))
        .bind(column!(|row| row.cluster.as_str()))
        .bind(column!(|row| row.role.as_str()))
        .bind(column!(|row| row.address.as_str()))
        .bind(column!(|row| row.labels.as_str()))
        .bind(column!(|row| row.metadata.as_str()))
        .bind(column!(|row| row.capacity))
        .bind(column!(|row| row.holds.as_str()))
        .bind(column!(|row| row.drain_mark.as_str()))
        .bind(column!(|row| row.revision))
        .execute(connection)
        .await?;
    Ok(())
}

/// Who has these names: `(id, name)`.
pub async fn named(connection: &mut PgConnection, names: &[String]) -> Result<Vec<(String, String)>, StoreError> {
    Ok(sqlx::query_as(NAMED).bind(names).fetch_all(connection).await?)
}

/// Those of these clusters that exist.
pub async fn existing(connection: &mut PgConnection, ids: &[String]) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar(EXISTING).bind(ids).fetch_all(connection).await?)
}

/// All peers of these clusters, as their budgets see them.
pub async fn budget_peers(connection: &mut PgConnection, clusters: &[String]) -> Result<Vec<BudgetPeer>, StoreError> {
    let rows = sqlx::query(BUDGETS).bind(clusters).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(BudgetPeer {
                cluster: text(row, 0, "a peer's cluster")?,
                peer: text(row, 1, "a peer's id")?,
                unavailable: row.try_get(2)?,
                holder: row.try_get(3)?,
            })
        })
        .collect()
}

/// The `maxUnavailable` of these clusters, as text.
pub async fn limits(
    connection: &mut PgConnection,
    clusters: &[String],
) -> Result<Vec<(String, Option<String>)>, StoreError> {
    Ok(sqlx::query_as(LIMITS).bind(clusters).fetch_all(connection).await?)
}

/// How these services stand in these clusters.
pub async fn services(
    connection: &mut PgConnection,
    clusters: &[String],
    services: &[String],
) -> Result<Vec<ServiceCount>, StoreError> {
    let rows = sqlx::query(SERVICES).bind(clusters).bind(services).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(ServiceCount {
                cluster: text(row, 0, "a peer's cluster")?,
                service: row.try_get(1)?,
                total: u32::try_from(row.try_get::<i64, _>(2)?).unwrap_or(u32::MAX),
                unavailable: u32::try_from(row.try_get::<i64, _>(3)?).unwrap_or(u32::MAX),
            })
        })
        .collect()
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
