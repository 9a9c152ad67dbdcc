//! Group commit of intents: one statement reads what the waiting requests need, one writes all of them.
//!
//! Nothing is decided here. The ingress reads with [`facts`], decides each request in memory, and writes with [`commit`].

pub mod control;

use omnirelay_workflow::resource::{ClusterState, Labels};
use omnirelay_workflow::{ClusterId, OperationId, Timestamp};
use sqlx::{PgConnection, PgPool, Row};
use uuid::Uuid;

use crate::StoreError;
use crate::registry::{json, text};
use crate::statement::statements;

statements! {
    // Each row looks up at most one row of each table by its key: `limit 1` keeps the planner from ever joining whole
    // tables, whatever it believes about their size.
    FACTS = "
        select r.n,
               o.id as operation, o.request_digest,
               p.revision, p.drain_mark, p.holds::text as holds,
               l.operation as locked_by,
               p.labels, p.cluster, p.role, p.name, coalesce(p.health, 'unreachable') as health,
               (select revision from config order by revision desc limit 1) as config
        from unnest($1::text[], $2::text[], $3::text[]) with ordinality as r (actor, key, peer, n)
        left join lateral (
            select id, request_digest from operations where actor = r.actor and idempotency_key = r.key limit 1
        ) o on true
        left join lateral (
            select revision, drain_mark, holds, case when $4 then labels::text end as labels, cluster, role, name,
                   case when $4 then (select health from peer_observed where peer = r.peer) end as health
            from peers where id = r.peer limit 1
        ) p on true
        left join lateral (
            select operation from operation_locks where resource = 'peers/' || r.peer limit 1
        ) l on true";

    // Clusters that requests name, with what is to be known before one is promoted or demoted.
    CLUSTERS = "
        select c.id, c.revision, c.state, c.labels::text, c.region, l.operation, n.peers, n.healthy, n.lag
        from clusters c
        left join operation_locks l on l.resource = 'clusters/' || c.id
        left join lateral (
            select count(*) as peers, count(*) filter (where o.health = 'healthy') as healthy,
                   max(o.lag_ms) filter (where o.health <> 'unreachable') as lag
            from peers p left join peer_observed o on o.peer = p.id
            where p.cluster = c.id
        ) n on true
        where c.id = any($1) or (c.state = 'active' and $2)";

    // `input`: the requests, sorted by actor and key, so that two ingresses cannot deadlock.
    // `locks`: what the long ones among them lock; a lock that somebody has is not taken. `short`: who did not get all of theirs.
    // `ops`: the operations, except where a lock was lost. A key that is bound already inserts nothing.
    // `log`: the submitted events of exactly those, and the records of refusals.
    // The division fails the statement where a lock was taken and its operation was not inserted (the key was bound, or another
    // of its locks taken, by another ingress at this very moment): a lock without an operation would stay for ever. It is a
    // data error, so the batch is taken apart and read again.
    COMMIT = "
        with input as (
            select * from unnest(
                $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::uuid[], $15::uuid[], $16::text[],
                $17::text[], $23::text[], $24::text[]
            ) as i (id, verb, target, actor, actor_json, reason, change_ticket, params,
                    digest, key, request_digest, ingress, traceparent, parent, event_id, nats_subject,
                    payload, gates, if_match)
        ),
        wanted as (
            select * from unnest($21::text[], $22::uuid[]) as w (resource, operation)
        ),
        locks as (
            insert into operation_locks (resource, operation)
            select resource, operation from wanted order by resource
            on conflict (resource) do nothing
            returning resource, operation
        ),
        short as (
            select operation from wanted where (resource, operation) not in (select resource, operation from locks)
        ),
        ops as (
            insert into operations (id, verb, target, state, actor, actor_json, reason, change_ticket, params, digest,
                                    idempotency_key, request_digest, ingress, traceparent, parent, gates, if_match,
                                    created_at, wake_at, event_seq)
            select id, verb, target, 'submitted', actor, actor_json, reason, change_ticket, params, digest,
                   key, request_digest, ingress, traceparent, parent, gates, if_match,
                   clock_timestamp(), clock_timestamp(), 1
            from input
            where id not in (select operation from short)
            on conflict (actor, idempotency_key) do nothing
            returning id, created_at
        ),
        log as (
            insert into events (event_id, resource, nats_subject, operation, payload)
            select i.event_id, 'operations', i.nats_subject, i.id, i.payload
            from input i join ops on ops.id = i.id
            union all
            select event_id, 'access', nats_subject, null, payload
            from unnest($18::uuid[], $19::text[], $20::text[]) as r (event_id, nats_subject, payload)
        )
        select i.id, ops.created_at,
               1 / case when ops.id is null and i.id in (select operation from locks) then 0 else 1 end as whole
        from input i left join ops on ops.id = i.id";

    // How deep the queue is, counted no further than it matters.
    BACKLOG = "
        select count(*) from (
            select 1 from operations where state = 'submitted' limit $1
        ) waiting";

    LOCKED = "select resource, operation from operation_locks where resource = any($1)";

    CREATE_KEY = "insert into control_keys (name, key) values ($1, $2) on conflict (name) do nothing";
    READ_KEY = "select key from control_keys where name = $1";
}

/// How keys begin that the worker gives to operations of its own; no caller's key begins so.
pub const RESERVED_KEY: &str = "omnirelay:";

/// What a request asks about.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    pub actor: &'a str,
    /// Nothing where the caller named no key: then it cannot have been used before.
    pub key: Option<&'a str>,
    /// Nothing where it is not about one peer.
    pub peer: Option<&'a str>,
}

/// What the record says to a [`Question`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// The operation that is bound to the key.
    pub bound: Option<Bound>,
    pub peer: Option<PeerFacts>,
    /// Of the settings; 0 before there are any.
    pub config: u64,
}

/// A cluster that a request names, or an active one.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterFacts {
    pub id: ClusterId,
    pub revision: u64,
    pub state: ClusterState,
    pub labels: Labels,
    pub region: String,
    pub locked_by: Option<OperationId>,
    pub peers: u32,
    pub healthy: u32,
    /// The highest replication lag of its reachable peers, milliseconds.
    pub lag_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    pub operation: OperationId,
    pub request_digest: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerFacts {
    pub revision: u64,
    /// A `DrainMark` as it is stored.
    pub drain_mark: String,
    /// JSON array of holds.
    pub holds: String,
    pub locked_by: Option<OperationId>,
    /// JSON object, where it was asked for.
    pub labels: Option<String>,
    pub cluster: String,
    pub role: String,
    pub name: String,
    /// As labels: only where it was asked for.
    pub health: String,
}

/// An operation to create.
#[derive(Debug, Clone, Copy)]
pub struct Intent<'a> {
    pub id: OperationId,
    pub verb: &'a str,
    /// `peers/edge-7`.
    pub target: &'a str,
    pub actor: &'a str,
    pub actor_json: &'a str,
    pub reason: Option<&'a str>,
    pub change_ticket: Option<&'a str>,
    pub params: &'a str,
    pub digest: &'a str,
    pub key: &'a str,
    pub request_digest: &'a str,
    /// The ingress where somebody waits for the end.
    pub ingress: Option<&'a str>,
    pub traceparent: &'a str,
    pub parent: Option<OperationId>,
    /// JSON of the gates that the rules demand.
    pub gates: Option<&'a str>,
    /// JSON of the revisions that it may be applied to.
    pub if_match: Option<&'a str>,
    /// The resources to lock.
    pub locks: &'a [String],
    pub event: NewEvent<'a>,
}

/// A row of the outbox.
#[derive(Debug, Clone, Copy)]
pub struct NewEvent<'a> {
    pub id: Uuid,
    pub nats_subject: &'a str,
    pub payload: &'a str,
}

/// What became of an [`Intent`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    pub id: OperationId,
    /// When it was created; nothing where it was not, because its key was bound or its lock was taken meanwhile.
    pub created_at: Option<Timestamp>,
}

/// The facts for each question, in their order; the peers' labels only `with_labels`. One round trip.
pub async fn facts(
    connection: &mut PgConnection,
    questions: &[Question<'_>],
    with_labels: bool,
) -> Result<Vec<Facts>, StoreError> {
    let actors: Vec<&str> = questions.iter().map(|question| question.actor).collect();
    let keys: Vec<Option<&str>> = questions.iter().map(|question| question.key).collect();
    let peers: Vec<Option<&str>> = questions.iter().map(|question| question.peer).collect();
    let rows = sqlx::query(FACTS).bind(actors).bind(keys).bind(peers).bind(with_labels).fetch_all(connection).await?;
    let mut facts = vec![Facts::default(); questions.len()];
    for row in rows {
        let n: i64 = row.try_get(0)?;
        let Some(slot) = usize::try_from(n - 1).ok().and_then(|n| facts.get_mut(n)) else { continue };
        let operation: Option<Uuid> = row.try_get(1)?;
        if let Some(operation) = operation {
            slot.bound = Some(Bound { operation, request_digest: row.try_get(2)? });
        }
        let revision: Option<i64> = row.try_get(3)?;
        if let Some(revision) = revision {
            slot.peer = Some(PeerFacts {
                revision: revision.unsigned_abs(),
                drain_mark: row.try_get(4)?,
                holds: row.try_get(5)?,
                locked_by: row.try_get(6)?,
                labels: row.try_get(7)?,
                cluster: row.try_get(8)?,
                role: row.try_get(9)?,
                name: row.try_get(10)?,
                health: row.try_get(11)?,
            });
        }
        slot.config = row.try_get::<Option<i64>, _>(12)?.unwrap_or(0).unsigned_abs();
    }
    Ok(facts)
}

/// These clusters, those of them that exist, and `with_active` also all that are active.
pub async fn clusters(
    connection: &mut PgConnection,
    ids: &[&str],
    with_active: bool,
) -> Result<Vec<ClusterFacts>, StoreError> {
    let rows = sqlx::query(CLUSTERS).bind(ids).bind(with_active).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(ClusterFacts {
                id: text(row, 0, "a cluster's id")?,
                revision: row.try_get::<i64, _>(1)?.unsigned_abs(),
                state: text(row, 2, "a cluster's state")?,
                labels: json(row, 3, "a cluster's labels")?,
                region: row.try_get(4)?,
                locked_by: row.try_get(5)?,
                peers: u32::try_from(row.try_get::<i64, _>(6)?).unwrap_or(u32::MAX),
                healthy: u32::try_from(row.try_get::<i64, _>(7)?).unwrap_or(u32::MAX),
                lag_ms: row.try_get::<Option<i64>, _>(8)?.map(i64::unsigned_abs),
            })
        })
        .collect()
}

/// Writes operations, their locks and events, and the records of refusals: all of it or, on an error, nothing. One round
/// trip, which is the transaction. `intents` must be sorted by actor and key.
pub async fn commit(
    connection: &mut PgConnection,
    intents: &[Intent<'_>],
    refusals: &[NewEvent<'_>],
) -> Result<Vec<Committed>, StoreError> {
    macro_rules! column {
        ($field:ident) => {
            intents.iter().map(|intent| intent.$field).collect::<Vec<_>>()
        };
        (event $field:ident) => {
            intents.iter().map(|intent| intent.event.$field).collect::<Vec<_>>()
        };
        (refusal $field:ident) => {
            refusals.iter().map(|event| event.$field).collect::<Vec<_>>()
        };
    }
    let rows = sqlx::query(COMMIT)
        .bind(column!(id))
        .bind(column!(verb))
        .bind(column!(target))
        .bind(column!(actor))
        .bind(column!(actor_json))
        .bind(column!(reason))
        .bind(column!(change_ticket))
        .bind(column!(params))
        .bind(column!(digest))
        .bind(column!(key))
        .bind(column!(request_digest))
        .bind(column!(ingress))
        .bind(column!(traceparent))
        .bind(column!(parent))
        .bind(column!(event id))
        .bind(column!(event nats_subject))
        .bind(column!(event payload))
        .bind(column!(refusal id))
        .bind(column!(refusal nats_subject))
        .bind(column!(refusal payload))
        .bind(intents.iter().flat_map(|intent| intent.locks.iter().map(String::as_str)).collect::<Vec<_>>())
        .bind(intents.iter().flat_map(|intent| intent.locks.iter().map(|_| intent.id)).collect::<Vec<_>>())
        .bind(column!(gates))
        .bind(column!(if_match))
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            let created_at: Option<jiff_sqlx::Timestamp> = row.try_get(1)?;
            Ok(Committed { id: row.try_get(0)?, created_at: created_at.map(jiff_sqlx::Timestamp::to_jiff) })
        })
        .collect()
}

/// Which of these resources an operation has for itself, and which operation.
pub async fn locked(
    connection: &mut PgConnection,
    resources: &[String],
) -> Result<Vec<(String, OperationId)>, StoreError> {
    Ok(sqlx::query_as(LOCKED).bind(resources).fetch_all(connection).await?)
}

/// Operations that wait for the worker's first step; counting stops at `at_most`.
pub async fn backlog(pool: &PgPool, at_most: u64) -> Result<u64, StoreError> {
    let at_most = i64::try_from(at_most).unwrap_or(i64::MAX);
    let count: i64 = sqlx::query_scalar(BACKLOG).bind(at_most).fetch_one(pool).await?;
    Ok(count.unsigned_abs())
}

/// The key of this name that every replica shares: `fresh` if nobody had made one.
pub async fn shared_key(pool: &PgPool, name: &str, fresh: &[u8]) -> Result<Vec<u8>, StoreError> {
    sqlx::query(CREATE_KEY).bind(name).bind(fresh).execute(pool).await?;
    Ok(sqlx::query_scalar(READ_KEY).bind(name).fetch_one(pool).await?)
}
