//! What agents say of peers: heartbeats read against the record, adoption of what nobody declared, and health.
//!
//! Locks are taken in the order clusters, peers, observed rows, workloads, each by id, as the worker's batches take theirs.

use std::collections::BTreeMap;

use omnirelay_contract::agent::{ClusterRole, PeerDescription};
use omnirelay_workflow::resource::{ClusterState, Health, Hold};
use omnirelay_workflow::{ClusterId, HoldId, OperationId, PeerId, Timestamp};
use sqlx::{PgConnection, PgPool, Row};
use uuid::Uuid;

use crate::StoreError;
use crate::registry::{WorkloadRecord, json, text, workload, workload_columns};
use crate::statement::statements;

statements! {
    PEERS = "
        select p.id, case when p.schedulable then null else p.holds::text end,
               o.incarnation, o.seq, o.digest, o.health, extract(epoch from clock_timestamp() - o.last_seen)::float8,
               c.id, c.state, c.failover_version
        from peers p join clusters c on c.id = p.cluster left join peer_observed o on o.peer = p.id
        where p.id = any($1)";

    // The first cluster is the active one: two workers must not both find that there is none yet.
    ADOPTION_LOCK = "select pg_advisory_xact_lock(hashtext('omnirelay.clusters.adopt'))";
    ADOPT_CLUSTERS = "
        insert into clusters (id, state)
        select u.id, case when u.n = 1 and not exists (select 1 from clusters) then 'active' else 'passive' end
        from unnest($1::text[]) with ordinality as u (id, n)
        order by u.id
        on conflict (id) do nothing
        returning id, state";

    // Names are unique: a peer whose name somebody has is called by its id. Whoever loses a race is not inserted at all and
    // comes again with its next heartbeat.
    ADOPT_PEERS = "
        insert into peers (id, name, cluster, role, address, labels, capacity)
        select u.id,
               case when not exists (select 1 from peers p where p.name = u.name) then u.name
                    when not exists (select 1 from peers p where p.name = u.id) then u.id
                    else u.cluster || '/' || u.id end,
               u.cluster, u.role, u.address, u.labels::jsonb, u.capacity
        from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int4[])
            as u (id, name, cluster, role, address, labels, capacity)
        order by u.id
        on conflict do nothing
        returning id";

    // `before`: the rows as they are, locked. What is older than the row is not written and not returned.
    WRITE = "
        with input as (
            select * from unnest($1::text[], $2::uuid[], $3::int8[], $4::int8[], $5::text[], $6::text[], $7::int8[],
                                 $8::text[], $9::float8[])
                as i (peer, incarnation, seq, digest, health, version, lag_ms, holds, age)
        ),
        before as materialized (
            select peer, incarnation, seq, health from peer_observed where peer = any($1) order by peer for update
        ),
        written as (
            insert into peer_observed as o (peer, incarnation, seq, digest, health, version, lag_ms, holds, last_seen)
            select i.peer, i.incarnation, i.seq, i.digest, i.health, i.version, i.lag_ms, i.holds::json,
                   clock_timestamp() - make_interval(secs => i.age)
            from input i left join before b on b.peer = i.peer
            where b.peer is null or b.incarnation <> i.incarnation or b.seq < i.seq
            order by i.peer
            on conflict (peer) do update set
                incarnation = excluded.incarnation, seq = excluded.seq, digest = excluded.digest,
                health = excluded.health, version = excluded.version, lag_ms = excluded.lag_ms, holds = excluded.holds,
                last_seen = greatest(o.last_seen, excluded.last_seen)
            where o.incarnation <> excluded.incarnation or o.seq < excluded.seq
            returning peer, last_seen
        )
        select w.peer, b.health, w.last_seen from written w left join before b on b.peer = w.peer order by w.peer";

    // What these peers own or are promised, and these ids wherever they are. Not locked: most looks change nothing.
    WORKLOADS = concat!(
        "select ", workload_columns!(), " from workloads w
        where w.id = any(array(
            select id from workloads where peer = any($1)
            union select id from workloads where target = any($1)
            union select unnest($2::text[])))");

    // A new workload refers to its peer. A worker that has the peer locked may want workloads that we are about to lock:
    // peers come first.
    SHARE_PEERS = "select id from peers where id = any($1) order by id for key share";

    ADOPT_WORKLOADS = "
        insert into workloads (id, service, peer, load, labels, handover, restorable, ready, remaining, unit, epoch)
        select id, service, peer, load, labels::jsonb, handover, restorable, ready, remaining, unit, epoch
        from unnest($1::text[], $2::text[], $3::text[], $4::int4[], $5::text[], $6::text[], $7::bool[], $8::bool[],
                    $9::int8[], $10::text[], $11::int8[])
            as u (id, service, peer, load, labels, handover, restorable, ready, remaining, unit, epoch)
        order by id
        on conflict (id) do nothing";

    // Whoever may wait for news of these peers: `$1` as resources, `$2` as ids. `$3`: clusters in which health has changed,
    // which is what a promotion looks at.
    CONCERNED = "
        select operation from operation_locks where resource = any($1)
        union select operation from operation_locks where resource = any($3)
        union select operation from workloads where target = any($2) and operation is not null
        union select operation from workloads where peer = any($2) and operation is not null";

    // Drains that go on once a cluster has a healthy peer more: those that find no room in it, or wait for a service's budget.
    // Whatever drains has a slot, so the index of slots finds them.
    HELD_UP = "
        select d.id from (select distinct unnest($1::text[]) as cluster) c cross join lateral (
            select id from operations
            where holds_slot and waits_for = c.cluster and state || '' = 'running'
              and (blockers like '%\"no-capacity\"%' or blockers like '%\"budget\"%')
            order by id limit 64
        ) d";

    // Commands of promotions that have the clusters `$1` locked, to the peers `$2`, of the roles that these show. What somebody
    // else has locked is being voided, or answered in another way.
    ROLES_SHOWN = "
        with shown as (
            select * from unnest($1::text[], $2::text[], $3::int8[], $4::text[]) as s (resource, peer, version, role)
        ),
        holders as materialized (
            select operation from operation_locks where resource = any($1)
        ),
        asked as materialized (
            select id, peer, (payload::json -> 'cluster' ->> 'failoverVersion')::int8 as version,
                   payload::json -> 'cluster' ->> 'role' as role
            from effects
            where operation in (select operation from holders) and peer = any($2) and verb = 'role'
              and state <> 'answered'
        ),
        answered as (
            select e.id from effects e
            where e.id = any(array(select a.id from asked a join shown s using (peer, version, role)))
              and e.state <> 'answered'
            order by e.id for update skip locked
        )
        update effects e set state = 'answered', outcome = '\"done\"'
        from answered where e.id = answered.id
        returning e.operation";

    // Only under the lease. A row that a heartbeat is being written to is not late.
    JUDGE = "
        with late as (
            select peer, health,
                   case when last_seen < clock_timestamp() - make_interval(secs => $2) then 'unreachable'
                        else 'suspect' end as verdict
            from peer_observed
            where last_seen < clock_timestamp() - make_interval(secs => $1)
              and (health = 'healthy'
                   or (health = 'suspect' and last_seen < clock_timestamp() - make_interval(secs => $2)))
              and exists (select 1 from leases where name = 'judge' and holder = $3 and fence = $4)
            order by peer limit $5
            for update skip locked
        )
        update peer_observed o set health = late.verdict from late where o.peer = late.peer
        returning o.peer, late.health, o.health, o.last_seen, (select p.cluster from peers p where p.id = o.peer)";

    BY_HEALTH = "
        select coalesce(o.health, 'unreachable'), count(*)
        from peers p left join peer_observed o on o.peer = p.id group by 1";
}

/// A peer of the registry with what was last written of its heartbeats.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownPeer {
    pub id: PeerId,
    /// The ids of its holds, sorted.
    pub holds: Vec<HoldId>,
    pub cluster: KnownCluster,
    /// Nothing before the first heartbeat.
    pub last: Option<LastHeartbeat>,
}

/// The cluster of a peer, as far as its agent has to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownCluster {
    pub id: ClusterId,
    pub state: ClusterState,
    pub failover_version: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LastHeartbeat {
    pub incarnation: Uuid,
    pub seq: u64,
    pub digest: i64,
    pub health: Health,
    pub age_secs: f64,
}

/// A peer that the registry does not know.
#[derive(Debug, Clone, Copy)]
pub struct NewPeer<'a> {
    pub id: &'a PeerId,
    pub describe: &'a PeerDescription,
}

/// What is kept of a heartbeat.
#[derive(Debug, Clone, PartialEq)]
pub struct NewObservation<'a> {
    pub peer: &'a PeerId,
    pub incarnation: Uuid,
    pub seq: u64,
    pub digest: i64,
    pub health: &'a str,
    pub version: &'a str,
    pub lag_ms: Option<u64>,
    pub holds: &'a [HoldId],
    /// How long ago it was received.
    pub age_secs: f64,
}

/// A heartbeat that was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    pub peer: PeerId,
    /// The health before; nothing with the first heartbeat.
    pub was: Option<Health>,
    pub last_seen: Timestamp,
}

/// A change of health for want of heartbeats.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    pub peer: PeerId,
    pub cluster: ClusterId,
    pub was: Health,
    pub health: Health,
    pub last_seen: Timestamp,
}

/// Those of `ids` that the registry knows.
pub async fn peers(pool: &PgPool, ids: &[&str]) -> Result<Vec<KnownPeer>, StoreError> {
    let rows = sqlx::query(PEERS).bind(ids).fetch_all(pool).await?;
    rows.iter()
        .map(|row| {
            let holds = match row.try_get::<Option<&str>, _>(1)? {
                None => Vec::new(),
                Some(_) => {
                    let mut ids: Vec<HoldId> =
                        json::<Vec<Hold>>(row, 1, "a peer's holds")?.into_iter().map(|hold| hold.id).collect();
                    ids.sort_unstable();
                    ids
                }
            };
            let last = match row.try_get::<Option<Uuid>, _>(2)? {
                None => None,
                Some(incarnation) => Some(LastHeartbeat {
                    incarnation,
                    seq: row.try_get::<i64, _>(3)?.unsigned_abs(),
                    digest: row.try_get(4)?,
                    health: text(row, 5, "a peer's health")?,
                    age_secs: row.try_get(6)?,
                }),
            };
            let cluster = KnownCluster {
                id: text(row, 7, "a cluster's id")?,
                state: text(row, 8, "a cluster's state")?,
                failover_version: row.try_get::<i64, _>(9)?.unsigned_abs(),
            };
            Ok(KnownPeer { id: text(row, 0, "a peer's id")?, holds, cluster, last })
        })
        .collect()
}

/// Adopts clusters, `(id, state)` of those that were not there. The first of the mesh becomes the active one.
pub async fn adopt_clusters(connection: &mut PgConnection, ids: &[&str]) -> Result<Vec<(String, String)>, StoreError> {
    sqlx::query(ADOPTION_LOCK).execute(&mut *connection).await?;
    Ok(sqlx::query_as(ADOPT_CLUSTERS).bind(ids).fetch_all(connection).await?)
}

/// Adopts peers; returns those that were inserted. Their clusters exist.
pub async fn adopt_peers(connection: &mut PgConnection, peers: &[NewPeer<'_>]) -> Result<Vec<PeerId>, StoreError> {
    let labels = peers.iter().map(|p| labels(&p.describe.labels)).collect::<Result<Vec<String>, _>>()?;
    let rows = sqlx::query(ADOPT_PEERS)
        .bind(peers.iter().map(|p| p.id.as_str()).collect::<Vec<_>>())
        .bind(peers.iter().map(|p| p.describe.name.as_str()).collect::<Vec<_>>())
        .bind(peers.iter().map(|p| p.describe.cluster.as_str()).collect::<Vec<_>>())
        .bind(peers.iter().map(|p| p.describe.role.as_str()).collect::<Vec<_>>())
        .bind(peers.iter().map(|p| p.describe.address.as_str()).collect::<Vec<_>>())
        .bind(labels)
        .bind(peers.iter().map(|p| i32::try_from(p.describe.capacity).unwrap_or(i32::MAX)).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| text(row, 0, "a peer's id")).collect()
}

/// Writes heartbeats, one a peer, all of known peers. Those that are older than what is there are left out of the answer.
pub async fn write(
    connection: &mut PgConnection,
    observations: &[NewObservation<'_>],
) -> Result<Vec<Written>, StoreError> {
    macro_rules! column {
        (|$o:ident| $value:expr) => {
            observations.iter().map(|$o| $value).collect::<Vec<_>>()
        };
    }
    let holds = observations
        .iter()
        .map(|o| serde_json::to_string(o.holds))
        .collect::<Result<Vec<String>, _>>()
        .map_err(|error| StoreError::corrupt("a heartbeat's holds", error))?;
    let rows = sqlx::query(WRITE)
        .bind(column!(|o| o.peer.as_str()))
        .bind(column!(|o| o.incarnation))
        .bind(column!(|o| signed(o.seq)))
        .bind(column!(|o| o.digest))
        .bind(column!(|o| o.health))
        .bind(column!(|o| o.version))
        .bind(column!(|o| o.lag_ms.map(signed)))
        .bind(holds)
        .bind(column!(|o| o.age_secs))
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Written {
                peer: text(row, 0, "a peer's id")?,
                was: row
                    .try_get::<Option<&str>, _>(1)?
                    .map(|word| word.parse().map_err(|error| StoreError::corrupt("a peer's health", error)))
                    .transpose()?,
                last_seen: row.try_get::<jiff_sqlx::Timestamp, _>(2)?.to_jiff(),
            })
        })
        .collect()
}

/// What these peers own or are promised, and `ids` wherever they are; not locked.
pub async fn workloads(
    connection: &mut PgConnection,
    peers: &[&str],
    ids: &[&str],
) -> Result<Vec<WorkloadRecord>, StoreError> {
    let rows = sqlx::query(WORKLOADS).bind(peers).bind(ids).fetch_all(connection).await?;
    rows.iter().map(workload).collect()
}

/// Keeps these peers from being deleted or locked until the end of the transaction. Comes before any lock on workloads.
pub async fn share_peers(connection: &mut PgConnection, ids: &[&str]) -> Result<(), StoreError> {
    sqlx::query(SHARE_PEERS).bind(ids).execute(connection).await?;
    Ok(())
}

/// Adopts workloads, running at their peers. One that somebody else has adopted meanwhile is left as it is.
pub async fn adopt_workloads(connection: &mut PgConnection, records: &[&WorkloadRecord]) -> Result<(), StoreError> {
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
    let labels = records.iter().map(|r| labels(&r.workload.labels)).collect::<Result<Vec<String>, _>>()?;
    sqlx::query(ADOPT_WORKLOADS)
        .bind(column!(|w| w.id.as_str()))
        .bind(column!(|w| w.service.as_str()))
        .bind(column!(|w| w.peer.as_str()))
        .bind(column!(|w| i32::try_from(w.load).unwrap_or(i32::MAX)))
        .bind(labels)
        .bind(column!(|w| w.handover.as_str()))
        .bind(column!(|w| w.restorable))
        .bind(column!(|w| w.ready))
        .bind(column!(|w| w.remaining.map(signed)))
        .bind(column!(|w| w.unit.as_deref()))
        .bind(column!(|w| signed(w.epoch)))
        .execute(connection)
        .await?;
    Ok(())
}

/// The operations that may wait for news of these peers: they have them locked, or move something from or to them. And those
/// that have one of `clusters` locked, in which the health of a peer has changed.
pub async fn concerned(
    connection: &mut PgConnection,
    peers: &[&str],
    clusters: &[&str],
) -> Result<Vec<OperationId>, StoreError> {
    let locked: Vec<String> = peers.iter().map(|id| format!("peers/{id}")).collect();
    let clusters: Vec<String> = clusters.iter().map(|id| format!("clusters/{id}")).collect();
    Ok(sqlx::query_scalar(CONCERNED).bind(locked).bind(peers).bind(clusters).fetch_all(connection).await?)
}

/// A heartbeat that shows a role is the report of whoever commanded it: their commands are answered as done. Returns the
/// operations that wait for them.
pub async fn roles_shown(
    connection: &mut PgConnection,
    shown: &[(&PeerId, ClusterRole)],
) -> Result<Vec<OperationId>, StoreError> {
    Ok(sqlx::query_scalar(ROLES_SHOWN)
        .bind(shown.iter().map(|(_, role)| format!("clusters/{}", role.cluster)).collect::<Vec<_>>())
        .bind(shown.iter().map(|(peer, _)| peer.as_str()).collect::<Vec<_>>())
        .bind(shown.iter().map(|(_, role)| signed(role.failover_version)).collect::<Vec<_>>())
        .bind(shown.iter().map(|(_, role)| role.role.as_str()).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?)
}

/// The operations that may go on now that these clusters have a healthy peer more, beside those that wait in their queues.
pub async fn held_up(connection: &mut PgConnection, clusters: &[String]) -> Result<Vec<OperationId>, StoreError> {
    Ok(sqlx::query_scalar(HELD_UP).bind(clusters).fetch_all(connection).await?)
}

/// Lowers the health of up to `limit` peers that have not been heard of. Nothing for a judge that has lost its lease.
pub async fn judge(
    connection: &mut PgConnection,
    holder: &str,
    fence: i64,
    suspect_secs: f64,
    unreachable_secs: f64,
    limit: i64,
) -> Result<Vec<Judged>, StoreError> {
    let rows = sqlx::query(JUDGE)
        .bind(suspect_secs)
        .bind(unreachable_secs)
        .bind(holder)
        .bind(fence)
        .bind(limit)
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Judged {
                peer: text(row, 0, "a peer's id")?,
                cluster: text(row, 4, "a cluster's id")?,
                was: text(row, 1, "a peer's health")?,
                health: text(row, 2, "a peer's health")?,
                last_seen: row.try_get::<jiff_sqlx::Timestamp, _>(3)?.to_jiff(),
            })
        })
        .collect()
}

/// How many peers there are of each health.
pub async fn by_health(pool: &PgPool) -> Result<Vec<(String, i64)>, StoreError> {
    Ok(sqlx::query_as(BY_HEALTH).fetch_all(pool).await?)
}

fn labels(labels: &BTreeMap<String, String>) -> Result<String, StoreError> {
    serde_json::to_string(labels).map_err(|error| StoreError::corrupt("labels", error))
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
