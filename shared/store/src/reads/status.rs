//! The state of the whole: headroom, what needs attention, lags.

use omnirelay_workflow::{OperationId, Timestamp};
use sqlx::{PgPool, Row};

use crate::StoreError;
use crate::statement::statements;

statements! {
    CLUSTERS = "
        select c.id, c.state, count(p.id),
               count(p.id) filter (where o.health = 'healthy'),
               count(p.id) filter (where p.schedulable),
               count(p.id) filter (where p.drain_mark = 'draining'),
               coalesce(sum(p.capacity) filter (where p.schedulable and o.health = 'healthy'), 0)::bigint,
               coalesce(sum(w.load), 0)::bigint
        from clusters c
        left join peers p on p.cluster = c.id
        left join peer_observed o on o.peer = p.id
        left join (select peer, sum(load) as load from workloads group by peer) w on w.peer = p.id
        group by c.id
        order by c.id";
    STATES = "
        select state, count(*) from operations
        where state in ('submitted', 'awaitingApproval', 'queued', 'running', 'unwinding', 'stuck')
        group by state";
    TROUBLED = "
        select id, target, state, blockers, created_at, finished_at from operations
        where state in ('submitted', 'awaitingApproval', 'queued', 'running', 'unwinding', 'stuck')
          and (state = 'stuck' or blockers <> '[]')
        order by id limit $1";
    UNREACHABLE = "
        select peer, last_seen from peer_observed where health = 'unreachable' order by peer limit $1";
    DEAD_LETTERS = "
        select operation, error, at from dead_letters order by id desc limit $1";
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
}

/// An operation that is stuck or blocked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TroubledOperation {
    pub id: OperationId,
    pub target: String,
    pub state: String,
    /// JSON array.
    pub blockers: String,
    pub since: Timestamp,
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
            })
        })
        .collect()
}

/// How many operations are in each state that still wants something.
pub async fn states(pool: &PgPool) -> Result<Vec<(String, u64)>, StoreError> {
    let rows: Vec<(String, i64)> = sqlx::query_as(STATES).fetch_all(pool).await?;
    Ok(rows.into_iter().map(|(state, count)| (state, count.unsigned_abs())).collect())
}

pub async fn troubled(pool: &PgPool, limit: u32) -> Result<Vec<TroubledOperation>, StoreError> {
    let rows = sqlx::query(TROUBLED).bind(i64::from(limit)).fetch_all(pool).await?;
    rows.iter()
        .map(|row| {
            let created: jiff_sqlx::Timestamp = row.try_get(4)?;
            let finished: Option<jiff_sqlx::Timestamp> = row.try_get(5)?;
            Ok(TroubledOperation {
                id: row.try_get(0)?,
                target: row.try_get(1)?,
                state: row.try_get(2)?,
                blockers: row.try_get(3)?,
                since: finished.unwrap_or(created).to_jiff(),
            })
        })
        .collect()
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
