//! Operations as clients see them.

use omnirelay_contract::rest::{Mutated, Operation, Queue};
use omnirelay_workflow::operation::Verb;
use omnirelay_workflow::{OperationId, Timestamp};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row};

use super::{json, word};
use crate::StoreError;
use crate::statement::statements;

/// The columns of an [`OperationRow`], in its order.
macro_rules! columns {
    () => {
        "o.id, o.verb, o.target, o.state, o.phase, o.progress, o.blockers, o.actor, o.reason, o.change_ticket, o.params, \
         o.digest, o.cancel, o.created_at, o.started_at, o.finished_at, o.deadline_at, o.result, o.error, o.revision, \
         o.changed, o.resource, o.event_seq, o.approval, o.paused, o.parent, o.children, o.waits_for, \
         case when o.state = 'queued' and o.waits_for is not null then (select count(*) from (select 1 from operations q \
              where q.state = 'queued' and q.waits_for = o.waits_for and q.id <= o.id limit 1000) ahead) end, \
         case when o.state = 'queued' then array(select h.id from operations h \
              where h.holds_slot and h.waits_for = o.waits_for order by h.id limit 20) end"
    };
}
pub(crate) use columns as operation_columns;

/// A page: `$1` verb, `$2` states, `$3` target, `$4` actor, `$5` behind this id, `$6` how many, `$7` parent.
macro_rules! page {
    ($where:literal, $compare:literal, $order:literal) => {
        concat!(
            "select ",
            columns!(),
            " from operations o where ",
            $where,
            " and ($1::text is null or o.verb = $1) and ($2::text[] is null or o.state = any($2))
              and ($3::text is null or o.target = $3) and ($4::text is null or o.actor = $4)
              and ($7::uuid is null or o.parent = $7)
              and ($5::uuid is null or o.id ",
            $compare,
            " $5) order by o.id ",
            $order,
            " limit $6"
        )
    };
}

statements! {
    GET = concat!("select ", columns!(), " from operations o where o.id = $1");
    MANY = concat!("select ", columns!(), " from operations o where o.id = any($1)");
    // Of one target there may be few among millions: each has the index that its question needs.
    PAGE_NEWEST = page!("true", "<", "desc");
    PAGE_OLDEST = page!("true", ">", "asc");
    PAGE_TARGET_NEWEST = page!("o.target = $3", "<", "desc");
    PAGE_TARGET_OLDEST = page!("o.target = $3", ">", "asc");
    PAGE_PARENT_NEWEST = page!("o.parent = $7", "<", "desc");
    PAGE_PARENT_OLDEST = page!("o.parent = $7", ">", "asc");
    PAGE_LIVE_NEWEST = page!(
        "o.state in ('submitted', 'awaitingApproval', 'queued', 'running', 'unwinding', 'stuck')", "<", "desc");
    PAGE_LIVE_OLDEST = page!(
        "o.state in ('submitted', 'awaitingApproval', 'queued', 'running', 'unwinding', 'stuck')", ">", "asc");
    TERMINAL = concat!(
        "select ", columns!(), " from operations o where o.id = any($1)
         and o.state not in ('submitted', 'awaitingApproval', 'queued', 'running', 'unwinding')");
}

/// An operation as the table has it; texts that end in JSON are JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct OperationRow {
    pub id: OperationId,
    pub verb: String,
    pub target: String,
    pub state: String,
    pub phase: Option<String>,
    pub progress: String,
    pub blockers: String,
    pub actor: String,
    pub reason: Option<String>,
    pub change_ticket: Option<String>,
    pub params: String,
    pub digest: String,
    pub cancel: Option<String>,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub deadline_at: Option<Timestamp>,
    pub result: Option<String>,
    pub error: Option<String>,
    pub revision: i64,
    pub changed: bool,
    /// The resource as it stood at the end.
    pub resource: Option<String>,
    pub event_seq: i64,
    pub approval: Option<String>,
    pub paused: Option<String>,
    pub parent: Option<OperationId>,
    pub children: Option<String>,
    /// The cluster whose budget it counts against or waits for.
    pub waits_for: Option<String>,
    /// Of a queued one, when it was read: its place, and who has the slots.
    pub queue: Option<(u32, Vec<OperationId>)>,
}

/// Which operations.
#[derive(Debug, Clone, Default)]
pub struct OperationFilter {
    pub verb: Option<String>,
    /// Any of these; none: all.
    pub states: Option<Vec<String>>,
    pub target: Option<String>,
    pub actor: Option<String>,
    pub parent: Option<OperationId>,
}

/// What goes over the wire for a row.
pub fn operation_dto(row: &OperationRow) -> Result<Operation, StoreError> {
    Ok(Operation {
        id: row.id,
        verb: word::<Verb>("an operation's verb", &row.verb)?,
        target: row.target.clone(),
        state: word("an operation's state", &row.state)?,
        phase: row.phase.clone(),
        progress: json("an operation's progress", &row.progress)?,
        blockers: json("an operation's blockers", &row.blockers)?,
        paused: row.paused.as_deref().map(|text| json("an operation's pause", text)).transpose()?,
        actor: row.actor.clone(),
        reason: row.reason.clone(),
        change_ticket: row.change_ticket.clone(),
        params: json("an operation's parameters", &row.params)?,
        digest: row.digest.clone(),
        approval: row.approval.as_deref().map(|text| json("an operation's gate", text)).transpose()?,
        cancel: row.cancel.as_deref().map(|text| json("an operation's cancel", text)).transpose()?,
        queue: row.queue.clone().map(|(position, holders)| Queue { position, holders }),
        parent: row.parent,
        children: row.children.as_deref().map(|text| json("an operation's children", text)).transpose()?,
        created_at: row.created_at,
        started_at: row.started_at,
        finished_at: row.finished_at,
        deadline_at: row.deadline_at,
        result: row.result.as_deref().map(|text| json("an operation's result", text)).transpose()?,
        error: row.error.as_deref().map(|text| json("an operation's error", text)).transpose()?,
        revision: row.revision.unsigned_abs(),
    })
}

/// The answer to the mutation that the row came from.
pub fn mutated_dto(row: &OperationRow) -> Result<Mutated, StoreError> {
    let resource = row.resource.as_deref().map(|text| json("an operation's resource", text)).transpose()?;
    let operation = operation_dto(row)?;
    // What has not ended is under way: that it changed nothing is known only at its end.
    let changed = row.changed || !operation.state.is_terminal();
    Ok(Mutated { operation, resource, changed })
}

pub async fn get(pool: &PgPool, id: OperationId) -> Result<Option<OperationRow>, StoreError> {
    let row = sqlx::query(GET).bind(id).fetch_optional(pool).await?;
    row.as_ref().map(from_row).transpose()
}

/// Those of `ids` that exist, in no order.
pub async fn many(connection: &mut PgConnection, ids: &[OperationId]) -> Result<Vec<OperationRow>, StoreError> {
    sqlx::query(MANY).bind(ids).fetch_all(connection).await?.iter().map(from_row).collect()
}

/// Those of `ids` that have ended.
pub async fn terminal(pool: &PgPool, ids: &[OperationId]) -> Result<Vec<OperationRow>, StoreError> {
    sqlx::query(TERMINAL).bind(ids).fetch_all(pool).await?.iter().map(from_row).collect()
}

/// A page, newest first unless `oldest_first`, behind the operation `after`.
pub async fn page(
    pool: &PgPool,
    filter: &OperationFilter,
    oldest_first: bool,
    after: Option<OperationId>,
    limit: u32,
) -> Result<Vec<OperationRow>, StoreError> {
    const LIVE: &[&str] = &["submitted", "awaitingApproval", "queued", "running", "unwinding", "stuck"];
    let live = filter.states.as_ref().is_some_and(|states| states.iter().all(|state| LIVE.contains(&state.as_str())));
    let statement = match (filter.target.is_some(), live, oldest_first) {
        (false, _, false) if filter.parent.is_some() => PAGE_PARENT_NEWEST,
        (false, _, true) if filter.parent.is_some() => PAGE_PARENT_OLDEST,
        (true, _, false) => PAGE_TARGET_NEWEST,
        (true, _, true) => PAGE_TARGET_OLDEST,
        (false, true, false) => PAGE_LIVE_NEWEST,
        (false, true, true) => PAGE_LIVE_OLDEST,
        (false, false, false) => PAGE_NEWEST,
        (false, false, true) => PAGE_OLDEST,
    };
    let rows = sqlx::query(statement)
        .bind(&filter.verb)
        .bind(&filter.states)
        .bind(&filter.target)
        .bind(&filter.actor)
        .bind(after)
        .bind(i64::from(limit))
        .bind(filter.parent)
        .fetch_all(pool)
        .await?;
    rows.iter().map(from_row).collect()
}

/// Open gates in the order of their operations, behind the operation `after`.
pub async fn at_gates(
    pool: &PgPool,
    oldest_first: bool,
    after: Option<OperationId>,
    limit: u32,
) -> Result<Vec<OperationRow>, StoreError> {
    let filter = OperationFilter { states: Some(vec!["awaitingApproval".to_owned()]), ..OperationFilter::default() };
    page(pool, &filter, oldest_first, after, limit).await
}

/// How many columns `operation_columns!` has; others come behind them.
pub(crate) const COLUMNS: usize = 30;

/// Reads the columns of `operation_columns!`.
pub(crate) fn from_row(row: &PgRow) -> Result<OperationRow, StoreError> {
    let time = |index: usize| -> Result<Option<Timestamp>, StoreError> {
        Ok(row.try_get::<Option<jiff_sqlx::Timestamp>, _>(index)?.map(jiff_sqlx::Timestamp::to_jiff))
    };
    Ok(OperationRow {
        id: row.try_get(0)?,
        verb: row.try_get(1)?,
        target: row.try_get(2)?,
        state: row.try_get(3)?,
        phase: row.try_get(4)?,
        progress: row.try_get(5)?,
        blockers: row.try_get(6)?,
        actor: row.try_get(7)?,
        reason: row.try_get(8)?,
        change_ticket: row.try_get(9)?,
        params: row.try_get(10)?,
        digest: row.try_get(11)?,
        cancel: row.try_get(12)?,
        created_at: row.try_get::<jiff_sqlx::Timestamp, _>(13)?.to_jiff(),
        started_at: time(14)?,
        finished_at: time(15)?,
        deadline_at: time(16)?,
        result: row.try_get(17)?,
        error: row.try_get(18)?,
        revision: row.try_get(19)?,
        changed: row.try_get(20)?,
        resource: row.try_get(21)?,
        event_seq: row.try_get(22)?,
        approval: row.try_get(23)?,
        paused: row.try_get(24)?,
        parent: row.try_get(25)?,
        children: row.try_get(26)?,
        waits_for: row.try_get(27)?,
        queue: row
            .try_get::<Option<i64>, _>(28)?
            .map(|place| {
                Ok::<_, StoreError>((
                    super::count(place),
                    row.try_get::<Option<Vec<OperationId>>, _>(29)?.unwrap_or_default(),
                ))
            })
            .transpose()?,
    })
}
