//! Peers and workloads under the worker's locks.

use omnirelay_workflow::placement::Candidate;
use omnirelay_workflow::resource::{DrainMark, Health, Hold, Workload};
use omnirelay_workflow::{ClusterId, PeerId, WorkloadId};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row};

use crate::StoreError;
use crate::reads::PeerRow;
use crate::reads::peers::{self, peer_columns, peer_joins};
use crate::statement::statements;

macro_rules! workload_columns {
    () => {
        "w.id, w.service, w.peer, w.load, w.labels::text, w.handover, w.restorable, w.ready, w.remaining, w.unit, \
         w.epoch, w.state, w.operation, w.target"
    };
}
pub(crate) use workload_columns;

statements! {
    // No key is changed, so a workload that moves to a peer (a foreign key) does not wait for whoever has that peer's lock.
    LOCK_PEERS = concat!(
        "select ", peer_columns!(), " from peers p", peer_joins!(),
        "where p.id = any($1)
        order by p.id
        for no key update of p");

    // Placement reads the loads of a whole cluster: two workers must not promise the same room twice.
    LOCK_CLUSTERS = "
        select c.id from clusters c
        where c.id in (select cluster from peers where id = any($1)) or c.id = any($2)
        order by c.id
        for no key update";

    LOCK_WORKLOADS = concat!(
        "select ", workload_columns!(), " from workloads w
        where w.id = any(array(
            select id from workloads where peer = any($1)
            union select id from workloads where target = any($1)
            union select unnest($2::text[])))
        order by w.id
        for update");

    // `owned`: what each peer carries. `promised`: what is on its way to it.
    CANDIDATES = "
        with owned as (
            select w.peer, sum(w.load) as load from peers p join workloads w on w.peer = p.id
            where p.cluster = any($1) group by w.peer
        ),
        promised as (
            select w.target, sum(w.load) as load from workloads w
            where w.target is not null and w.target <> w.peer group by w.target
        )
        select p.id, p.cluster, p.labels::text, p.capacity, p.schedulable, coalesce(o.health, 'unreachable'),
               coalesce(owned.load, 0) + coalesce(promised.load, 0)
        from peers p
        left join peer_observed o on o.peer = p.id
        left join owned on owned.peer = p.id
        left join promised on promised.target = p.id
        where p.cluster = any($1)
        order by p.id";

    SAVE_WORKLOADS = "
        insert into workloads (id, service, peer, load, labels, handover, restorable, ready, remaining, unit, epoch, state,
                               operation, target)
        select id, service, peer, load, labels::jsonb, handover, restorable, ready, remaining, unit, epoch, state,
               operation, target
        from unnest($1::text[], $2::text[], $3::text[], $4::int4[], $5::text[], $6::text[], $7::bool[], $8::bool[],
                    $9::int8[], $10::text[], $11::int8[], $12::text[], $13::uuid[], $14::text[])
            as u (id, service, peer, load, labels, handover, restorable, ready, remaining, unit, epoch, state, operation,
                  target)
        on conflict (id) do update set
            peer = excluded.peer, epoch = excluded.epoch, state = excluded.state, operation = excluded.operation,
            target = excluded.target, ready = excluded.ready, remaining = excluded.remaining, unit = excluded.unit,
            service = excluded.service, load = excluded.load, labels = excluded.labels, handover = excluded.handover,
            restorable = excluded.restorable";

    DELETE_WORKLOADS = "delete from workloads where id = any($1)";

    SEED_CLUSTER = "
        insert into clusters (id, state) values ($1, case when $2 then 'active' else 'passive' end)
        on conflict (id) do nothing";

    HEALTHY = "select count(*) from peer_observed where health = 'healthy'";
}

/// A peer under its lock.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerRecord {
    pub id: PeerId,
    pub cluster: ClusterId,
    pub holds: Vec<Hold>,
    pub mark: DrainMark,
    pub revision: i64,
    /// The peer as it was loaded, for what a client is shown of it.
    pub row: PeerRow,
}

impl PeerRecord {
    /// The row as it stands now, with what was decided since it was loaded.
    pub fn current(&self) -> Result<PeerRow, StoreError> {
        let holds = serde_json::to_string(&self.holds).map_err(|error| StoreError::corrupt("a peer's holds", error))?;
        let drain_mark = self.mark.as_str().to_owned();
        Ok(PeerRow { holds, drain_mark, revision: self.revision, ..self.row.clone() })
    }
}

/// A workload with whom it is promised to.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadRecord {
    pub workload: Workload,
    pub target: Option<PeerId>,
}

pub async fn lock_peers(connection: &mut PgConnection, ids: &[String]) -> Result<Vec<PeerRecord>, StoreError> {
    let rows = sqlx::query(LOCK_PEERS).bind(ids).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            let row = peers::peer_from_row(row)?;
            let holds = serde_json::from_str(&row.holds).map_err(|e| StoreError::corrupt("a peer's holds", e))?;
            Ok(PeerRecord {
                id: row.id.parse().map_err(|e| StoreError::corrupt("a peer's id", e))?,
                cluster: row.cluster.parse().map_err(|e| StoreError::corrupt("a peer's cluster", e))?,
                holds,
                mark: row.drain_mark.parse().map_err(|e| StoreError::corrupt("a peer's drain mark", e))?,
                revision: row.revision,
                row,
            })
        })
        .collect()
}

/// Locks the clusters of these peers, and these clusters.
pub async fn lock_clusters(
    connection: &mut PgConnection,
    peers: &[String],
    clusters: &[String],
) -> Result<(), StoreError> {
    sqlx::query(LOCK_CLUSTERS).bind(peers).bind(clusters).execute(connection).await?;
    Ok(())
}

/// Locks what these peers own or are promised, and `ids` wherever they are.
pub async fn lock_workloads(
    connection: &mut PgConnection,
    peers: &[String],
    ids: &[String],
) -> Result<Vec<WorkloadRecord>, StoreError> {
    let rows = sqlx::query(LOCK_WORKLOADS).bind(peers).bind(ids).fetch_all(connection).await?;
    rows.iter().map(workload).collect()
}

/// All peers of these clusters, as placement sees them.
pub async fn candidates(
    connection: &mut PgConnection,
    clusters: &[String],
) -> Result<Vec<(ClusterId, Candidate)>, StoreError> {
    let rows = sqlx::query(CANDIDATES).bind(clusters).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            let candidate = Candidate {
                peer: text(row, 0, "a peer's id")?,
                labels: json(row, 2, "a peer's labels")?,
                capacity: row.try_get::<i32, _>(3)?.unsigned_abs(),
                schedulable: row.try_get(4)?,
                health: text::<Health>(row, 5, "a peer's health")?,
                load: u32::try_from(row.try_get::<i64, _>(6)?).unwrap_or(u32::MAX),
            };
            Ok((text(row, 1, "a peer's cluster")?, candidate))
        })
        .collect()
}

/// Writes workloads, new ones too.
pub async fn save_workloads(connection: &mut PgConnection, records: &[&WorkloadRecord]) -> Result<(), StoreError> {
    macro_rules! column {
        (|$w:ident| $value:expr) => {
            records
                .iter()
                .map(|record| {
                    let $w = &record.workload;
                    $value
                })
                .collect::<Vec<_>>()
        };
    }
    let labels = records
        .iter()
        .map(|record| serde_json::to_string(&record.workload.labels))
        .collect::<Result<Vec<String>, _>>()
        .map_err(|error| StoreError::corrupt("a workload's labels", error))?;
    let targets: Vec<Option<&str>> = records.iter().map(|r| r.target.as_ref().map(PeerId::as_str)).collect();
    sqlx::query(SAVE_WORKLOADS)
        .bind(column!(|w| w.id.as_str()))
        .bind(column!(|w| w.service.as_str()))
        .bind(column!(|w| w.peer.as_str()))
        .bind(column!(|w| i32::try_from(w.load).unwrap_or(i32::MAX)))
        .bind(labels)
        .bind(column!(|w| w.handover.as_str()))
        .bind(column!(|w| w.restorable))
        .bind(column!(|w| w.ready))
        .bind(column!(|w| w.remaining.and_then(|n| i64::try_from(n).ok())))
        .bind(column!(|w| w.unit.as_deref()))
        .bind(column!(|w| i64::try_from(w.epoch).unwrap_or(i64::MAX)))
        .bind(column!(|w| w.state.as_str()))
        .bind(column!(|w| w.operation))
        .bind(targets)
        .execute(connection)
        .await?;
    Ok(())
}

pub async fn delete_workloads(connection: &mut PgConnection, ids: &[&WorkloadId]) -> Result<(), StoreError> {
    let ids: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
    sqlx::query(DELETE_WORKLOADS).bind(ids).execute(connection).await?;
    Ok(())
}

/// Makes a cluster that a development stack begins with. One that is there stays as it is.
pub async fn seed_cluster(pool: &PgPool, id: &str, active: bool) -> Result<(), StoreError> {
    sqlx::query(SEED_CLUSTER).bind(id).bind(active).execute(pool).await?;
    Ok(())
}

/// How many peers are healthy.
pub async fn healthy_peers(pool: &PgPool) -> Result<u64, StoreError> {
    let count: i64 = sqlx::query_scalar(HEALTHY).fetch_one(pool).await?;
    Ok(count.unsigned_abs())
}

pub(crate) fn workload(row: &PgRow) -> Result<WorkloadRecord, StoreError> {
    let target: Option<&str> = row.try_get(13)?;
    Ok(WorkloadRecord {
        workload: Workload {
            id: text(row, 0, "a workload's id")?,
            service: row.try_get(1)?,
            peer: text(row, 2, "a workload's peer")?,
            load: row.try_get::<i32, _>(3)?.unsigned_abs(),
            labels: json(row, 4, "a workload's labels")?,
            handover: text(row, 5, "a workload's handover")?,
            restorable: row.try_get(6)?,
            ready: row.try_get(7)?,
            remaining: row.try_get::<Option<i64>, _>(8)?.map(i64::unsigned_abs),
            unit: row.try_get(9)?,
            epoch: row.try_get::<i64, _>(10)?.unsigned_abs(),
            state: text(row, 11, "a workload's state")?,
            operation: row.try_get(12)?,
        },
        target: target
            .map(|id| PeerId::parse(id).map_err(|error| StoreError::corrupt("a workload's target", error)))
            .transpose()?,
    })
}

pub(crate) fn text<T>(row: &PgRow, index: usize, what: &'static str) -> Result<T, StoreError>
where
    T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    let text: &str = row.try_get(index)?;
    text.parse().map_err(|error| StoreError::corrupt(what, error))
}

pub(crate) fn json<T: serde::de::DeserializeOwned>(
    row: &PgRow,
    index: usize,
    what: &'static str,
) -> Result<T, StoreError> {
    let text: &str = row.try_get(index)?;
    serde_json::from_str(text).map_err(|error| StoreError::corrupt(what, error))
}
