//! Peers and their workloads as clients see them.

use omnirelay_contract::rest::{Peer, Workload};
use omnirelay_workflow::resource::{DrainMark, Health, peer_state};
use omnirelay_workflow::{OperationId, Timestamp};
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};

use super::{count, json, word};
use crate::StoreError;
use crate::statement::statements;

/// The columns of a [`PeerRow`], in its order, from `peers p`, `peer_observed o` and `operation_locks l`.
macro_rules! columns {
    () => {
        "p.id, p.name, p.cluster, p.role, p.address, p.labels::text, p.metadata::text, p.capacity, p.holds::text, \
         p.drain_mark, p.revision, o.health, o.version, o.last_seen, l.operation, \
         (select count(*) from workloads w where w.peer = p.id)"
    };
}

macro_rules! joins {
    () => {
        " left join peer_observed o on o.peer = p.id
          left join operation_locks l on l.resource = 'peers/' || p.id "
    };
}

pub(crate) use columns as peer_columns;
pub(crate) use joins as peer_joins;

/// A page: `$1` cluster, `$2` role, `$3` states, `$4` health, `$5` version, `$6` name, `$7` labels it must have (JSON object),
/// `$8` labels it must not have (JSON objects), `$9` keys it must have, `$10` keys it must not have, `$11` behind this
/// one, `$12` how many.
macro_rules! page {
    ($key:literal, $compare:literal, $order:literal) => {
        concat!(
            "select ",
            columns!(),
            " from peers p",
            joins!(),
            "where ($1::text is null or p.cluster = $1) and ($2::text is null or p.role = $2)
               and ($3::text[] is null or case
                       when p.drain_mark <> 'none' then p.drain_mark
                       when p.schedulable then 'active'
                       else 'cordoned' end = any($3))
               and ($4::text is null or coalesce(o.health, 'unreachable') = $4)
               and ($5::text is null or o.version = $5) and ($6::text is null or p.name = $6)
               and ($7::text is null or p.labels @> $7::text::jsonb)
               and not exists (select 1 from unnest($8::text[]) as x (label) where p.labels @> x.label::jsonb)
               and p.labels ?& $9::text[] and not p.labels ?| $10::text[]
               and ($11::text is null or ",
            $key,
            $compare,
            " $11) order by ",
            $key,
            $order,
            " limit $12"
        )
    };
}

statements! {
    GET = concat!("select ", columns!(), " from peers p", joins!(), "where p.id = $1");
    MANY = concat!("select ", columns!(), " from peers p", joins!(), "where p.id = any($1)");
    PAGE_ID = page!("p.id", " >", " asc");
    PAGE_ID_DESC = page!("p.id", " <", " desc");
    PAGE_NAME = page!("p.name", " >", " asc");
    PAGE_NAME_DESC = page!("p.name", " <", " desc");
    WORKLOADS = "
        select id, service, peer, load, labels::text, handover, restorable, ready, remaining, unit, epoch, state
        from workloads
        where peer = $1 and ($2::text is null or id > $2)
        order by id limit $3";
    VERSIONS = "
        select version, count(*) from peer_observed group by version order by version";
}

/// A peer as the tables have it.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerRow {
    pub id: String,
    pub name: String,
    pub cluster: String,
    pub role: String,
    pub address: String,
    pub labels: String,
    pub metadata: String,
    pub capacity: i32,
    pub holds: String,
    pub drain_mark: String,
    pub revision: i64,
    /// Nothing before an agent was heard of.
    pub health: Option<String>,
    pub version: Option<String>,
    pub last_seen: Option<Timestamp>,
    /// The operation that has the peer's lock.
    pub operation: Option<OperationId>,
    pub workloads: i64,
}

/// Which peers.
#[derive(Debug, Clone, Default)]
pub struct PeerFilter {
    pub cluster: Option<String>,
    pub role: Option<String>,
    /// Any of these; none: all.
    pub states: Option<Vec<String>>,
    pub health: Option<String>,
    pub version: Option<String>,
    pub name: Option<String>,
    /// A JSON object of labels that a peer must have.
    pub labels: Option<String>,
    /// JSON objects of one label each that a peer must not have.
    pub not_labels: Vec<String>,
    pub has_keys: Vec<String>,
    pub lacks_keys: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerOrder {
    Id,
    IdDescending,
    Name,
    NameDescending,
}

/// What goes over the wire for a row.
pub fn peer_dto(row: &PeerRow) -> Result<Peer, StoreError> {
    let holds: Vec<omnirelay_workflow::resource::Hold> = json("a peer's holds", &row.holds)?;
    let mark: DrainMark = word("a peer's drain mark", &row.drain_mark)?;
    Ok(Peer {
        id: word("a peer's id", &row.id)?,
        name: row.name.clone(),
        cluster: word("a peer's cluster", &row.cluster)?,
        role: row.role.clone(),
        address: row.address.clone(),
        version: row.version.clone().unwrap_or_default(),
        labels: json("a peer's labels", &row.labels)?,
        metadata: json("a peer's metadata", &row.metadata)?,
        health: match &row.health {
            Some(health) => word("a peer's health", health)?,
            None => Health::Unreachable,
        },
        schedulable: holds.is_empty(),
        state: peer_state(mark, &holds),
        holds,
        workloads: count(row.workloads),
        capacity: row.capacity.unsigned_abs(),
        last_seen: row.last_seen,
        operation: row.operation,
        revision: row.revision.unsigned_abs(),
    })
}

pub async fn get(pool: &PgPool, id: &str) -> Result<Option<PeerRow>, StoreError> {
    let row = sqlx::query(GET).bind(id).fetch_optional(pool).await?;
    row.as_ref().map(peer_from_row).transpose()
}

/// Those of `ids` that exist, in no order.
pub async fn many(pool: &PgPool, ids: &[&str]) -> Result<Vec<PeerRow>, StoreError> {
    sqlx::query(MANY).bind(ids).fetch_all(pool).await?.iter().map(peer_from_row).collect()
}

/// A page behind the peer whose id or name, as the order says, is `after`.
pub async fn page(
    pool: &PgPool,
    filter: &PeerFilter,
    order: PeerOrder,
    after: Option<&str>,
    limit: u32,
) -> Result<Vec<PeerRow>, StoreError> {
    let statement = match order {
        PeerOrder::Id => PAGE_ID,
        PeerOrder::IdDescending => PAGE_ID_DESC,
        PeerOrder::Name => PAGE_NAME,
        PeerOrder::NameDescending => PAGE_NAME_DESC,
    };
    let rows = sqlx::query(statement)
        .bind(&filter.cluster)
        .bind(&filter.role)
        .bind(&filter.states)
        .bind(&filter.health)
        .bind(&filter.version)
        .bind(&filter.name)
        .bind(&filter.labels)
        .bind(&filter.not_labels)
        .bind(&filter.has_keys)
        .bind(&filter.lacks_keys)
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await?;
    rows.iter().map(peer_from_row).collect()
}

/// What a peer owns, a page behind the workload `after`.
pub async fn workloads(
    pool: &PgPool,
    peer: &str,
    after: Option<&str>,
    limit: u32,
) -> Result<Vec<Workload>, StoreError> {
    let rows = sqlx::query(WORKLOADS).bind(peer).bind(after).bind(i64::from(limit)).fetch_all(pool).await?;
    rows.iter().map(workload_dto).collect()
}

/// Versions of agents and how many peers run each.
pub async fn versions(pool: &PgPool) -> Result<Vec<(String, u64)>, StoreError> {
    let rows: Vec<(String, i64)> = sqlx::query_as(VERSIONS).fetch_all(pool).await?;
    Ok(rows.into_iter().map(|(version, peers)| (version, peers.unsigned_abs())).collect())
}

pub(crate) fn peer_from_row(row: &PgRow) -> Result<PeerRow, StoreError> {
    Ok(PeerRow {
        id: row.try_get(0)?,
        name: row.try_get(1)?,
        cluster: row.try_get(2)?,
        role: row.try_get(3)?,
        address: row.try_get(4)?,
        labels: row.try_get(5)?,
        metadata: row.try_get(6)?,
        capacity: row.try_get(7)?,
        holds: row.try_get(8)?,
        drain_mark: row.try_get(9)?,
        revision: row.try_get(10)?,
        health: row.try_get(11)?,
        version: row.try_get(12)?,
        last_seen: row.try_get::<Option<jiff_sqlx::Timestamp>, _>(13)?.map(jiff_sqlx::Timestamp::to_jiff),
        operation: row.try_get(14)?,
        workloads: row.try_get(15)?,
    })
}

/// Columns: id, service, peer, load, labels, handover, restorable, ready, remaining, unit, epoch, state.
pub fn workload_dto(row: &PgRow) -> Result<Workload, StoreError> {
    Ok(Workload {
        id: word("a workload's id", row.try_get(0)?)?,
        service: row.try_get(1)?,
        peer: word("a workload's peer", row.try_get(2)?)?,
        load: row.try_get::<i32, _>(3)?.unsigned_abs(),
        labels: json("a workload's labels", row.try_get(4)?)?,
        handover: word("a workload's handover", row.try_get(5)?)?,
        restorable: row.try_get(6)?,
        ready: row.try_get(7)?,
        remaining: row.try_get::<Option<i64>, _>(8)?.map(i64::unsigned_abs),
        unit: row.try_get(9)?,
        epoch: row.try_get::<i64, _>(10)?.unsigned_abs(),
        state: word("a workload's state", row.try_get(11)?)?,
    })
}
