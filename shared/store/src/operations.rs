//! The worker's view of operations: find what is due, lock it, write back what a batch of steps decided.

use omnirelay_workflow::{OperationId, Timestamp};
use sqlx::{PgConnection, PgPool, Row};

use crate::events::NewEvent;
use crate::reads::OperationRow;
use crate::reads::operations::{COLUMNS, from_row, operation_columns};
use crate::registry::PeerRecord;
use crate::statement::statements;
use crate::{StoreError, ToSqlx};

statements! {
    // A wake-up that came over the bus has been taken within this time; what is older was missed. `now()` and not the running
    // clock: only a stable expression can be a bound of the index.
    DUE = "
        select id from operations
        where wake_at <= now() - make_interval(secs => $2)
        order by wake_at limit $1";

    // `asked`: the operations of the batch, all of which are taken. `targets`: where one of them waits for its first step, those that
    // wait there for theirs are taken with it, oldest first, so that inputs of one target are taken in intake order; about two thousand
    // in all, the rest stays due. Those that wait at a gate or in a queue have had their turn: they are not among them. `ids`: all. With `$2` just what was asked for, to find a poisoned one. Locked in id
    // order, after which the state is looked at again.
    // Each row is looked up by its key, so that the cost grows with the batch and never with what else waits: the laterals
    // keep the planner from joining whole indexes, and the concatenation hides the state from the index of live ones.
    LOCK = concat!(
        "with asked as materialized (
            select x.* from unnest($1::uuid[]) as a (id) cross join lateral (
                select id, target, started_at from operations where id = a.id limit 1
            ) x
        ),
        targets as materialized (
            select distinct target from asked where started_at is null and not $2
        ),
        ids as materialized (
            select id from (
                select id from asked
                union
                select w.id from targets t cross join lateral (
                    select id from operations
                    where target = t.target and started_at is null and finished_at is null
                      and state || '' = 'submitted' and paused is null
                    order by target, id
                    limit (select greatest(1, 2000 / greatest(1, count(*))) from targets)
                ) w
            ) wanted
            order by id
        )
        select l.* from ids cross join lateral (
            select ", operation_columns!(), ", o.actor_json, o.ingress, o.traceparent, o.run, clock_timestamp() as now,
                   o.progress_at, o.gates, o.resolve, o.if_match, o.holds_slot, o.idempotency_key,
                   exists (select 1 from operations g where g.target = o.target and g.started_at is null
                           and g.finished_at is null and g.state || '' = 'awaitingApproval') as gates_beside
            from operations o
            where o.id = ids.id
              and (o.state || '' = any('{submitted,awaitingApproval,queued,running,unwinding}'::text[])
                   or (o.state || '' = 'stuck' and o.resolve is not null))
            limit 1
            for update of o
        ) l");

    // What a batch of steps decided, in one round trip: `ops` the operations, `held` the peers, `freed` the locks of what has
    // ended, and the events in their order.
    SAVE = "
        with ops as (
            update operations o set
                state = u.state, phase = u.phase, progress = u.progress, blockers = u.blockers, run = u.run,
                changed = u.changed, result = u.result, error = u.error, resource = u.resource,
                started_at = u.started_at, finished_at = u.finished_at, deadline_at = u.deadline_at,
                wake_at = u.wake_at, stepped_at = clock_timestamp(), event_seq = u.event_seq, revision = u.revision,
                progress_at = u.progress_at, digest = u.digest, approval = u.approval, children = u.children,
                holds_slot = u.holds_slot, waits_for = u.waits_for, cancel = coalesce(u.cancel, o.cancel)
            from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bool[], $8::text[],
                        $9::text[], $10::text[], $11::timestamptz[], $12::timestamptz[], $13::timestamptz[],
                        $14::timestamptz[], $15::int8[], $16::int8[], $17::timestamptz[], $28::text[], $29::text[],
                        $30::text[], $31::bool[], $32::text[], $33::text[])
                as u (id, state, phase, progress, blockers, run, changed, result, error, resource, started_at,
                      finished_at, deadline_at, wake_at, event_seq, revision, progress_at, digest, approval, children,
                      holds_slot, waits_for, cancel)
            where o.id = u.id
        ),
        held as (
            update peers p set holds = u.holds::json, drain_mark = u.drain_mark, revision = u.revision
            from unnest($18::text[], $19::text[], $20::text[], $21::int8[]) as u (id, holds, drain_mark, revision)
            where p.id = u.id
        ),
        freed as (
            delete from operation_locks where operation = any($22::uuid[])
        )
        insert into events (event_id, resource, nats_subject, operation, payload)
        select event_id, resource, nats_subject, operation, payload
        from unnest($23::uuid[], $24::text[], $25::text[], $26::uuid[], $27::text[]) with ordinality
            as u (event_id, resource, nats_subject, operation, payload, n)
        order by n";

    WAKE = "
        update operations set wake_at = clock_timestamp()
        where id = any($1) and state in ('queued', 'running', 'unwinding')
          and (wake_at is null or wake_at > clock_timestamp())";

    // Gates that may have to be asked for again, because what they are about has changed.
    WAKE_GATES = "
        update operations set wake_at = clock_timestamp()
        where id = any(array(
            select o.id from operations o
            where o.id = any(array(
                    select l.operation from operation_locks l where l.resource = any($1)
                    union
                    select w.id from (select unnest($1::text[]) as target) t cross join lateral (
                        select id from operations
                        where target = t.target and started_at is null and finished_at is null
                          and state || '' = 'awaitingApproval'
                    ) w))
              and o.state || '' = 'awaitingApproval' and o.id <> all($2)
            order by o.id for update skip locked))";

    // A peer whose health has changed may be what its drain waits for.
    LOCK_HOLDERS = "
        select operation from operation_locks where resource = any($1)";

    // Live operations that nothing will wake: no timer, no command out. There should be none; a bug or a lost row made it.
    FORGOTTEN = "
        select o.id from operations o
        where o.state in ('submitted', 'awaitingApproval', 'running', 'unwinding')
          and (o.wake_at is null or o.wake_at < now() - interval '30 seconds')
          and coalesce(o.stepped_at, o.created_at) < now() - interval '30 seconds'
          and not exists (select 1 from effects e where e.operation = o.id)
        limit 500";

    // The heads of the queues. Who is being stepped at this moment is left out, so that nobody waits in a circle: the
    // reconciler comes by again.
    WAKE_QUEUED = "
        update operations set wake_at = clock_timestamp()
        where id = any(array(
            select q.id from (select distinct unnest($1::text[]) as cluster) c cross join lateral (
                select id from operations where state = 'queued' and waits_for = c.cluster order by id limit $2
                for update skip locked
            ) q))
          and state = 'queued' and (wake_at is null or wake_at > clock_timestamp())
        returning id";
    QUEUES = "select distinct waits_for from operations where state = 'queued' and waits_for is not null";

    // Who waits before whom, of these clusters.
    QUEUED = "
        select q.waits_for, q.id from (select distinct unnest($1::text[]) as cluster) c cross join lateral (
            select waits_for, id from operations where state = 'queued' and waits_for = c.cluster order by id limit 1000
        ) q order by q.id";
    SLOTS = "
        select waits_for, id, target from operations where holds_slot and waits_for = any($1) order by id";

    // Children as their parents see them; `$1` are the children that may have changed, not all there are.
    CHILDREN = "
        select parent, id, target, state,
               case when finished_at is null then 0
                    else coalesce(jsonb_array_length(result::jsonb -> 'notRestored'), 0) end
        from operations where id = any($1) and parent is not null order by id";
    // A pause of the parent holds for its children, and so does its cancel; read without a lock, as they are.
    PARENTS = "select id, paused, cancel from operations where id = any($1)";
    // Who is being stepped at this moment is left out, so that nobody waits in a circle: its parent asks again.
    CANCEL_CHILDREN = "
        with live as materialized (
            select id, state from operations
            where id = any($1) and state in ('submitted', 'awaitingApproval', 'queued', 'running') and cancel is null
            order by id for update skip locked
        ),
        void as (delete from effects where operation in (select id from live) and not undo)
        update operations o set cancel = $2, wake_at = clock_timestamp(), revision = o.revision + 1
        from live where o.id = live.id
        returning o.id";
    // Who is being stepped at this moment is left out: it is not waited for, so nobody waits in a circle.
    WAKE_CHILDREN = "
        update operations set wake_at = clock_timestamp()
        where id = any(array(
            select id from operations
            where parent = $1 and state in ('submitted', 'queued', 'running', 'unwinding')
            order by id for update skip locked))";

    BY_STATE = "
        select verb, state, count(*) from operations
        where state in ('submitted', 'awaitingApproval', 'queued', 'running', 'unwinding', 'stuck')
        group by verb, state";

    DEAD_LETTER = "
        insert into dead_letters (operation, input, error) values ($1, $2, $3)";

    // Its commands are void: nobody would take what comes of them.
    STUCK = "
        with gone as (delete from effects where operation = $1)
        update operations set state = 'stuck', error = $2, wake_at = null, resolve = null, event_seq = event_seq + 1,
                              revision = revision + 1, finished_at = clock_timestamp(), stepped_at = clock_timestamp()
        where id = $1 and state in ('submitted', 'awaitingApproval', 'queued', 'running', 'unwinding', 'stuck')
        returning event_seq, actor_json, target, verb, reason, change_ticket";
}

/// An operation under its lock, with what only the worker needs.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkRow {
    pub row: OperationRow,
    pub actor_json: String,
    /// The ingress where somebody may wait.
    pub ingress: Option<String>,
    pub traceparent: Option<String>,
    /// The workflow's state, as it was serialised.
    pub run: Option<String>,
    /// Of the next look.
    pub wake_at: Option<Timestamp>,
    /// When its progress was last told.
    pub progress_at: Option<Timestamp>,
    /// JSON of the gates that its rules demanded.
    pub gates: Option<String>,
    /// JSON: who resolved it, stuck as it was.
    pub resolve: Option<String>,
    /// JSON of the revisions that it may be applied to.
    pub if_match: Option<String>,
    pub holds_slot: bool,
    pub key: String,
    /// Operations wait at gates of the same target.
    pub gates_beside: bool,
}

/// Operations that are due, oldest first, at least `late_secs` late.
pub async fn due(pool: &PgPool, limit: i64, late_secs: f64) -> Result<Vec<OperationId>, StoreError> {
    Ok(sqlx::query_scalar(DUE).bind(limit).bind(late_secs).fetch_all(pool).await?)
}

/// Locks live operations and returns them in id order, with the database's time. Not `alone`, whatever waits for its first step
/// on the same targets comes with them.
pub async fn lock(
    connection: &mut PgConnection,
    ids: &[OperationId],
    alone: bool,
) -> Result<(Vec<WorkRow>, Option<Timestamp>), StoreError> {
    let rows = sqlx::query(LOCK).bind(ids).bind(alone).fetch_all(connection).await?;
    let mut now = None;
    let mut work = Vec::with_capacity(rows.len());
    for row in &rows {
        now = Some(row.try_get::<jiff_sqlx::Timestamp, _>(COLUMNS + 4)?.to_jiff());
        let progress_at: Option<jiff_sqlx::Timestamp> = row.try_get(COLUMNS + 5)?;
        work.push(WorkRow {
            row: from_row(row)?,
            actor_json: row.try_get(COLUMNS)?,
            ingress: row.try_get(COLUMNS + 1)?,
            traceparent: row.try_get(COLUMNS + 2)?,
            run: row.try_get(COLUMNS + 3)?,
            wake_at: None,
            progress_at: progress_at.map(jiff_sqlx::Timestamp::to_jiff),
            gates: row.try_get(COLUMNS + 6)?,
            resolve: row.try_get(COLUMNS + 7)?,
            if_match: row.try_get(COLUMNS + 8)?,
            holds_slot: row.try_get(COLUMNS + 9)?,
            key: row.try_get(COLUMNS + 10)?,
            gates_beside: row.try_get(COLUMNS + 11)?,
        });
    }
    Ok((work, now))
}

/// What a batch writes about operations and their peers.
#[derive(Debug)]
pub struct Saved<'a> {
    pub operations: &'a [&'a WorkRow],
    pub peers: &'a [&'a PeerRecord],
    /// Operations whose locks are free again.
    pub unlock: &'a [OperationId],
    /// In this order.
    pub events: &'a [NewEvent],
}

/// Writes a batch back, in one round trip.
pub async fn save(connection: &mut PgConnection, saved: &Saved<'_>) -> Result<(), StoreError> {
    macro_rules! column {
        ($($path:ident).+) => { saved.operations.iter().map(|work| work.$($path).+.clone()).collect::<Vec<_>>() };
        (time $($path:ident).+) => {
            saved.operations.iter().map(|work| work.$($path).+.map(ToSqlx::to_sqlx)).collect::<Vec<_>>()
        };
        (text $($path:ident).+) => {
            saved.operations.iter().map(|work| work.$($path).+.as_str()).collect::<Vec<_>>()
        };
        (maybe $($path:ident).+) => {
            saved.operations.iter().map(|work| work.$($path).+.as_deref()).collect::<Vec<_>>()
        };
        (peer |$peer:ident| $value:expr) => { saved.peers.iter().map(|$peer| $value).collect::<Vec<_>>() };
        (event |$event:ident| $value:expr) => { saved.events.iter().map(|$event| $value).collect::<Vec<_>>() };
    }
    let holds = saved
        .peers
        .iter()
        .map(|peer| serde_json::to_string(&peer.holds))
        .collect::<Result<Vec<String>, _>>()
        .map_err(|error| StoreError::corrupt("a peer's holds", error))?;
    sqlx::query(SAVE)
        .bind(column!(row.id))
        .bind(column!(text row.state))
        .bind(column!(maybe row.phase))
        .bind(column!(text row.progress))
        .bind(column!(text row.blockers))
        .bind(column!(maybe run))
        .bind(column!(row.changed))
        .bind(column!(maybe row.result))
        .bind(column!(maybe row.error))
        .bind(column!(maybe row.resource))
        .bind(column!(time row.started_at))
        .bind(column!(time row.finished_at))
        .bind(column!(time row.deadline_at))
        .bind(column!(time wake_at))
        .bind(column!(row.event_seq))
        .bind(column!(row.revision))
        .bind(column!(time progress_at))
        .bind(column!(peer | peer | peer.id.as_str()))
        .bind(holds)
        .bind(column!(peer | peer | peer.mark.as_str()))
        .bind(column!(peer | peer | peer.revision))
        .bind(saved.unlock)
        .bind(column!(event | event | event.id))
        .bind(column!(event | event | event.resource.as_str()))
        .bind(column!(event | event | event.nats_subject.as_str()))
        .bind(column!(event | event | event.operation))
        .bind(column!(event | event | event.payload.as_str()))
        .bind(column!(text row.digest))
        .bind(column!(maybe row.approval))
        .bind(column!(maybe row.children))
        .bind(column!(holds_slot))
        .bind(column!(maybe row.waits_for))
        .bind(column!(maybe row.cancel))
        .execute(connection)
        .await?;
    Ok(())
}

/// Makes live operations due now.
pub async fn wake(connection: &mut PgConnection, ids: &[OperationId]) -> Result<(), StoreError> {
    sqlx::query(WAKE).bind(ids).execute(connection).await?;
    Ok(())
}

/// The operations that have locked these resources (`peers/edge-7`).
pub async fn lock_holders(connection: &mut PgConnection, resources: &[String]) -> Result<Vec<OperationId>, StoreError> {
    Ok(sqlx::query_scalar(LOCK_HOLDERS).bind(resources).fetch_all(connection).await?)
}

/// Makes operations due that are about these resources and wait at a gate, `except` those.
pub async fn wake_gates(
    connection: &mut PgConnection,
    resources: &[String],
    except: &[OperationId],
) -> Result<(), StoreError> {
    sqlx::query(WAKE_GATES).bind(resources).bind(except).execute(connection).await?;
    Ok(())
}

/// Wakes the first of those that wait for the budgets of these clusters; returns them. Few: one that begins wakes the next.
pub async fn wake_queued(connection: &mut PgConnection, clusters: &[String]) -> Result<Vec<OperationId>, StoreError> {
    Ok(sqlx::query_scalar(WAKE_QUEUED).bind(clusters).bind(8_i64).fetch_all(connection).await?)
}

/// As [`wake_queued`], but more of them, that they may tell anew what they wait for.
pub async fn wake_queues(connection: &mut PgConnection, clusters: &[String]) -> Result<Vec<OperationId>, StoreError> {
    Ok(sqlx::query_scalar(WAKE_QUEUED).bind(clusters).bind(64_i64).fetch_all(connection).await?)
}

/// The clusters that operations wait for.
pub async fn queues(connection: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar(QUEUES).fetch_all(connection).await?)
}

/// Who waits for the budgets of these clusters, `(cluster, operation)` in the order of intake.
pub async fn queued(
    connection: &mut PgConnection,
    clusters: &[String],
) -> Result<Vec<(String, OperationId)>, StoreError> {
    Ok(sqlx::query_as(QUEUED).bind(clusters).fetch_all(connection).await?)
}

/// Who has slots of these clusters' budgets: `(cluster, operation, target)`.
pub async fn slots(
    connection: &mut PgConnection,
    clusters: &[String],
) -> Result<Vec<(String, OperationId, String)>, StoreError> {
    Ok(sqlx::query_as(SLOTS).bind(clusters).fetch_all(connection).await?)
}

/// A child as its parent sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildRow {
    pub parent: OperationId,
    pub id: OperationId,
    pub target: String,
    pub state: String,
    /// So many workloads its result names as not restored.
    pub not_restored: u32,
}

pub async fn children(connection: &mut PgConnection, ids: &[OperationId]) -> Result<Vec<ChildRow>, StoreError> {
    let rows: Vec<(OperationId, OperationId, String, String, i32)> =
        sqlx::query_as(CHILDREN).bind(ids).fetch_all(connection).await?;
    let child = |(parent, id, target, state, left): (_, _, _, _, i32)| ChildRow {
        parent,
        id,
        target,
        state,
        not_restored: left.unsigned_abs(),
    };
    Ok(rows.into_iter().map(child).collect())
}

/// The pauses and cancels (JSON) of these operations.
pub async fn held_up(
    connection: &mut PgConnection,
    ids: &[OperationId],
) -> Result<Vec<(OperationId, Option<String>, Option<String>)>, StoreError> {
    Ok(sqlx::query_as(PARENTS).bind(ids).fetch_all(connection).await?)
}

/// Writes a cancel (JSON) into those of these children that it can still reach; returns them.
pub async fn cancel_children(
    connection: &mut PgConnection,
    ids: &[OperationId],
    cancel: &str,
) -> Result<Vec<OperationId>, StoreError> {
    Ok(sqlx::query_scalar(CANCEL_CHILDREN).bind(ids).bind(cancel).fetch_all(connection).await?)
}

/// Makes the live children of an operation due now.
pub async fn wake_children(pool: &PgPool, parent: OperationId) -> Result<(), StoreError> {
    sqlx::query(WAKE_CHILDREN).bind(parent).execute(pool).await?;
    Ok(())
}

/// Live operations without any progress or anything that could bring it.
pub async fn forgotten(pool: &PgPool) -> Result<Vec<OperationId>, StoreError> {
    Ok(sqlx::query_scalar(FORGOTTEN).fetch_all(pool).await?)
}

/// How many live or stuck operations there are, by verb and state.
pub async fn by_state(pool: &PgPool) -> Result<Vec<(String, String, i64)>, StoreError> {
    Ok(sqlx::query_as(BY_STATE).fetch_all(pool).await?)
}

/// What a poisoned operation's last event needs.
#[derive(Debug, Clone)]
pub struct Poisoned {
    pub event_seq: i64,
    pub actor_json: String,
    pub target: String,
    pub verb: String,
    pub reason: Option<String>,
    pub change_ticket: Option<String>,
}

/// Sets a poisoned input aside: a dead letter, and its operation `stuck` with `error` (JSON of a problem). Nothing where the
/// operation has ended meanwhile.
pub async fn set_aside(
    connection: &mut PgConnection,
    operation: OperationId,
    input: &str,
    message: &str,
    error: &str,
) -> Result<Option<Poisoned>, StoreError> {
    sqlx::query(DEAD_LETTER).bind(operation).bind(input).bind(message).execute(&mut *connection).await?;
    let row = sqlx::query(STUCK).bind(operation).bind(error).fetch_optional(connection).await?;
    row.map(|row| {
        Ok(Poisoned {
            event_seq: row.try_get(0)?,
            actor_json: row.try_get(1)?,
            target: row.try_get(2)?,
            verb: row.try_get(3)?,
            reason: row.try_get(4)?,
            change_ticket: row.try_get(5)?,
        })
    })
    .transpose()
}
