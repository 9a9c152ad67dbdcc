//! The state of the whole: headroom, what needs attention, lags.

use omnirelay_workflow::{OperationId, Timestamp};
use sqlx::{PgPool, Row};

use super::operations::{OperationRow, from_row, operation_columns};
use crate::StoreError;
use crate::statement::statements;

statements! {
    CLUSTERS = "
        select c.id, c.state, count(p.id),
               count(p.id) filter (where o.health = 'healthy'),
               count(p.id) filter (where p.schedulable),
               count(p.id) filter (where p.drain_mark = 'draining'),
               coalesce(sum(p.capacity) filter (where p.schedulable and o.health = 'healthy'), 0)::bigint,
               coalesce(sum(w.load), 0)::bigint,
               count(p.id) filter (where p.drain_mark <> 'none' or coalesce(o.health, 'unreachable') = 'unreachable'
                                      or h.target is not null),
               c.max_unavailable,
               (select count(*) from operations q where q.state = 'queued' and q.waits_for = c.id)
        from clusters c
        left join peers p on p.cluster = c.id
        left join peer_observed o on o.peer = p.id
        left join (select peer, sum(load) as load from workloads group by peer) w on w.peer = p.id
        left join (select distinct target from operations where holds_slot) h on h.target = 'peers/' || p.id
        group by c.id
        order by c.id";
    STATES = "
        select state, count(*) from operations
        where state in ('submitted', 'awaitingApproval', 'queued', 'running', 'unwinding', 'stuck')
        group by state";
    // As their budgets see them: a cluster's part of a service.
    SERVICES = "
        select p.cluster, w.service, count(*),
               count(*) filter (where w.ready and coalesce(o.health, 'unreachable') <> 'unreachable'),
               count(*) filter (where w.state = 'moving'),
               count(*) filter (where w.state = 'moving' or not w.ready or coalesce(o.health, 'unreachable') = 'unreachable')
        from workloads w join peers p on p.id = w.peer left join peer_observed o on o.peer = p.id
        group by p.cluster, w.service
        order by p.cluster, w.service limit $1";
    // What cannot go on by itself first; of each kind the oldest.
    TROUBLED = concat!(
        "select ", operation_columns!(), " from operations o
        where o.state in ('submitted', 'awaitingApproval', 'queued', 'running', 'unwinding', 'stuck')
          and (o.state in ('stuck', 'awaitingApproval', 'queued') or o.blockers <> '[]')
        order by case o.state when 'stuck' then 0 when 'awaitingApproval' then 2 when 'queued' then 3 else 1 end, o.id
        limit $1");
    // By the audit's index of times: operations have none of their ends, which would cost every one of them. `$1` seconds.
    ENDED = concat!(
        "with told as materialized (
            select operation from audit_log
            where at > clock_timestamp() - make_interval(secs => $1) and operation is not null
              and outcome in ('succeeded', 'refused', 'rejected', 'expired', 'cancelled', 'failed', 'stuck')
            order by at desc limit 1000
        )
        select ", operation_columns!(), " from operations o
        where o.id in (select operation from told)
          and o.finished_at > clock_timestamp() - make_interval(secs => $1)
          and (o.changed or o.state <> 'succeeded')
        order by o.finished_at desc, o.id desc limit $2");
    UNREACHABLE = "
        select peer, last_seen from peer_observed where health = 'unreachable' order by peer limit $1";
    // Once its operation is resolved, nobody has to look at it.
    DEAD_LETTERS = "
        select d.operation, d.error, d.at from dead_letters d left join operations o on o.id = d.operation
        where o.id is null or o.state = 'stuck' order by d.id desc limit $1";
    LAGS = "
        select (select position from watermarks where name = 'positioned'),
               (select position from watermarks where name = 'audited'),
               (select count(*) from (select 1 from events where position is null limit 100000) pending),
               coalesce((select extract(epoch from clock_timestamp() - created_at)::float8
                         from events where position is null order by id limit 1), 0),
               coalesce((select extract(epoch from clock_timestamp() - created_at)::float8 from events
                         where position > (select position from watermarks where name = 'audited')
                         order by position limit 1), 0)";
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterStatus {
    pub id: String,
    pub state: String,
    pub peers: u64,
    pub healthy: u64,
    pub schedulable: u64,
    pub draining: u64,
    /// What the healthy, schedulable peers can carry.
    pub capacity: u64,
    /// What the cluster carries.
    pub load: u64,
    /// Peers that count against the budget: draining, drained, unreachable, or with an operation that holds a slot.
    pub unavailable: u64,
    /// The cluster's own budget, as text; none: the settings say.
    pub max_unavailable: Option<String>,
    /// Operations that wait for a slot.
    pub queued: u64,
}

/// A cluster's part of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceStatus {
    pub cluster: String,
    pub service: String,
    pub total: u64,
    pub ready: u64,
    pub moving: u64,
    /// What counts against the service's budget.
    pub unavailable: u64,
}

/// An input that no worker could apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub operation: Option<OperationId>,
    pub error: String,
    pub at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lags {
    /// The highest position that any event has.
    pub position: u64,
    /// The highest position that the audit has recorded.
    pub audit_position: u64,
    /// Events without a position, counted up to 100,000.
    pub outbox_pending: u64,
    pub outbox_lag_seconds: f64,
    pub audit_lag_seconds: f64,
}

pub async fn clusters(pool: &PgPool) -> Result<Vec<ClusterStatus>, StoreError> {
    let rows = sqlx::query(CLUSTERS).fetch_all(pool).await?;
    rows.iter()
        .map(|row| {
            let number = |index: usize| row.try_get::<i64, _>(index).map(i64::unsigned_abs);
            Ok(ClusterStatus {
                id: row.try_get(0)?,
                state: row.try_get(1)?,
                peers: number(2)?,
                healthy: number(3)?,
                schedulable: number(4)?,
                draining: number(5)?,
                capacity: number(6)?,
                load: number(7)?,
                unavailable: number(8)?,
                max_unavailable: row.try_get(9)?,
                queued: number(10)?,
            })
        })
        .collect()
}

/// How many operations are in each state that still wants something.
pub async fn states(pool: &PgPool) -> Result<Vec<(String, u64)>, StoreError> {
    let rows: Vec<(String, i64)> = sqlx::query_as(STATES).fetch_all(pool).await?;
    Ok(rows.into_iter().map(|(state, count)| (state, count.unsigned_abs())).collect())
}

/// The first `limit` services, by cluster.
pub async fn services(pool: &PgPool, limit: u32) -> Result<Vec<ServiceStatus>, StoreError> {
    let rows = sqlx::query(SERVICES).bind(i64::from(limit)).fetch_all(pool).await?;
    rows.iter()
        .map(|row| {
            let number = |index: usize| row.try_get::<i64, _>(index).map(i64::unsigned_abs);
            Ok(ServiceStatus {
                cluster: row.try_get(0)?,
                service: row.try_get(1)?,
                total: number(2)?,
                ready: number(3)?,
                moving: number(4)?,
                unavailable: number(5)?,
            })
        })
        .collect()
}

/// Operations that are stuck, blocked, queued or wait for approval.
pub async fn troubled(pool: &PgPool, limit: u32) -> Result<Vec<OperationRow>, StoreError> {
    let rows = sqlx::query(TROUBLED).bind(i64::from(limit)).fetch_all(pool).await?;
    rows.iter().map(from_row).collect()
}

/// The newest operations that ended within these seconds and are in the audit, those left out that found nothing to do.
pub async fn ended(pool: &PgPool, secs: f64, limit: u32) -> Result<Vec<OperationRow>, StoreError> {
    let rows = sqlx::query(ENDED).bind(secs).bind(i64::from(limit)).fetch_all(pool).await?;
    rows.iter().map(from_row).collect()
}

/// Peers that are not heard of, and since when.
pub async fn unreachable(pool: &PgPool, limit: u32) -> Result<Vec<(String, Timestamp)>, StoreError> {
    let rows: Vec<(String, jiff_sqlx::Timestamp)> =
        sqlx::query_as(UNREACHABLE).bind(i64::from(limit)).fetch_all(pool).await?;
    Ok(rows.into_iter().map(|(peer, seen)| (peer, seen.to_jiff())).collect())
}

pub async fn dead_letters(pool: &PgPool, limit: u32) -> Result<Vec<DeadLetter>, StoreError> {
    let rows: Vec<(Option<OperationId>, String, jiff_sqlx::Timestamp)> =
        sqlx::query_as(DEAD_LETTERS).bind(i64::from(limit)).fetch_all(pool).await?;
    Ok(rows.into_iter().map(|(operation, error, at)| DeadLetter { operation, error, at: at.to_jiff() }).collect())
}

pub async fn lags(pool: &PgPool) -> Result<Lags, StoreError> {
    let row = sqlx::query(LAGS).fetch_one(pool).await?;
    let number = |index: usize| row.try_get::<Option<i64>, _>(index).map(|value| value.unwrap_or(0).unsigned_abs());
    Ok(Lags {
        position: number(0)?,
        audit_position: number(1)?,
        outbox_pending: number(2)?,
        outbox_lag_seconds: row.try_get(3)?,
        audit_lag_seconds: row.try_get(4)?,
    })
}
