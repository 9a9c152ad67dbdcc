//! The outbox, and what the relay does with it.

use omnirelay_workflow::OperationId;
use sqlx::{PgConnection, PgPool, Row};
use uuid::Uuid;

use crate::StoreError;
use crate::statement::statements;

statements! {
    INSERT = "
        insert into events (event_id, resource, nats_subject, operation, payload)
        select event_id, resource, nats_subject, operation, payload
        from unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::text[]) with ordinality
            as u (event_id, resource, nats_subject, operation, payload, n)
        order by n";

    // `fresh`: rows without a position, whichever transaction wrote them, in id order. `head`: the last position, only for the
    // holder of the lease under its fencing number; a relay that was overtaken finds no head and does nothing. `head` is read
    // after the wait for its lock, the plain subselect of it from the statement's beginning: where they differ, somebody else has
    // given positions meanwhile, perhaps to these very rows, and this statement gives none. (Asking for `e.position is null` here
    // would let the planner join by the index of such rows, which is quadratic in a backlog.)
    POSITION = "
        with head as (
            select w.position from watermarks w
            where w.name = 'positioned'
              and exists (select 1 from leases where name = 'relay' and holder = $2 and fence = $3)
            for update
        ),
        fresh as (
            select id, row_number() over (order by id) as n
            from (select id from events where position is null order by id limit $1) unmarked
        ),
        marked as (
            update events e set position = head.position + fresh.n
            from fresh, head
            where e.id = fresh.id
              and head.position = (select position from watermarks where name = 'positioned')
            returning e.position, e.event_id, e.nats_subject, e.payload
        ),
        advanced as (
            update watermarks set position = (select max(position) from marked)
            where name = 'positioned' and exists (select 1 from marked)
        )
        select position, event_id, nats_subject, payload from marked order by position";

    BEHIND = "
        select position, event_id, nats_subject, payload from events
        where position > $1 order by position limit $2";

    FIRST = "select min(position) from events where position is not null";

    PUBLISHED = "
        update watermarks set position = $1 where name = 'published' and position <> $1";

    // What nobody needs any more: audited, and older than the retention. Only the oldest thousand are looked at, so that a log
    // with nothing to prune is not read to its end.
    PRUNE = "
        delete from events where id in (
            select id from (
                select id, created_at from events
                where position <= (select position from watermarks where name = 'audited')
                order by position limit 1000) oldest
            where created_at < now() - make_interval(secs => $1))";

    LAG = "
        select count(*), coalesce(extract(epoch from clock_timestamp() - min(created_at)), 0)::float8
        from (select created_at from events where position is null order by id limit 100000) waiting";
}

/// An event to write.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    pub id: Uuid,
    pub resource: String,
    pub nats_subject: String,
    pub operation: Option<OperationId>,
    /// The CloudEvent, JSON.
    pub payload: String,
}

/// An event with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Positioned {
    pub position: u64,
    pub id: Uuid,
    pub nats_subject: String,
    pub payload: String,
}

/// Appends to the outbox, in this order.
pub async fn insert(connection: &mut PgConnection, events: &[NewEvent]) -> Result<(), StoreError> {
    sqlx::query(INSERT)
        .bind(events.iter().map(|e| e.id).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.resource.as_str()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.nats_subject.as_str()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.operation).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.payload.as_str()).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

/// Gives the next events their positions: dense, in id order. Nothing for a relay that has lost its lease.
pub async fn position(pool: &PgPool, limit: i64, holder: &str, fence: i64) -> Result<Vec<Positioned>, StoreError> {
    let rows = sqlx::query(POSITION).bind(limit).bind(holder).bind(fence).fetch_all(pool).await?;
    rows.iter().map(positioned).collect()
}

/// Events behind a position, in order.
pub async fn behind(pool: &PgPool, after: u64, limit: i64) -> Result<Vec<Positioned>, StoreError> {
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    let rows = sqlx::query(BEHIND).bind(after).bind(limit).fetch_all(pool).await?;
    rows.iter().map(positioned).collect()
}

/// The oldest position that is still kept.
pub async fn first(pool: &PgPool) -> Result<Option<u64>, StoreError> {
    let first: Option<i64> = sqlx::query_scalar(FIRST).fetch_one(pool).await?;
    Ok(first.map(i64::unsigned_abs))
}

pub async fn published(pool: &PgPool, position: u64) -> Result<(), StoreError> {
    sqlx::query(PUBLISHED).bind(i64::try_from(position).unwrap_or(i64::MAX)).execute(pool).await?;
    Ok(())
}

/// Deletes some audited events older than `retention_secs`; returns how many.
pub async fn prune(pool: &PgPool, retention_secs: f64) -> Result<u64, StoreError> {
    Ok(sqlx::query(PRUNE).bind(retention_secs).execute(pool).await?.rows_affected())
}

/// How many events wait for a position, and the age of the oldest in seconds.
pub async fn lag(pool: &PgPool) -> Result<(i64, f64), StoreError> {
    Ok(sqlx::query_as(LAG).fetch_one(pool).await?)
}

fn positioned(row: &sqlx::postgres::PgRow) -> Result<Positioned, StoreError> {
    Ok(Positioned {
        position: row.try_get::<i64, _>(0)?.unsigned_abs(),
        id: row.try_get(1)?,
        nats_subject: row.try_get(2)?,
        payload: row.try_get(3)?,
    })
}
