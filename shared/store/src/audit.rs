//! The audit log: appended to under the lock of its head, read by seq. The tables refuse everything else.

use omnirelay_contract::audit::{Actor, AuditRecord};
use omnirelay_contract::chain::Checkpoint;
use omnirelay_workflow::{OperationId, Timestamp};
use sqlx::postgres::PgRow;
use sqlx::{Executor, PgConnection, PgPool, Postgres, Row};
use uuid::Uuid;

use crate::{StoreError, ToSqlx};

macro_rules! columns {
    () => {
        "seq, position, event_id, at, actor, actor_scopes, actor_token_id, actor_address, verb, target, operation, \
         reason, change_ticket, outcome, latency_ms, revision_before, revision_after, trace_id, detail, prev_hash, hash"
    };
}

/// A list with all of the filters, led by the index of `$by`, which is true or a comparison that an index serves.
macro_rules! list {
    ($by:literal, $beyond:literal, $order:literal) => {
        concat!(
            "select ",
            columns!(),
            " from audit_log where ",
            $by,
            " and ($1::uuid is null or operation = $1) and ($2::text is null or actor = $2)",
            " and ($3::text is null or target = $3) and ($4::text is null or verb = $4)",
            " and ($5::text is null or outcome = $5)",
            " and ($6::timestamptz is null or at >= $6) and ($7::timestamptz is null or at < $7)",
            " and seq ",
            $beyond,
            " order by seq ",
            $order,
            " limit $9"
        )
    };
}

crate::statement::statements! {
    LOCK_HEAD = "select seq, hash, position, (select position from watermarks where name = 'positioned') as positioned
        from audit_head where one_row for update";
    HEAD = "select seq, hash, position, (select position from watermarks where name = 'positioned') as positioned
        from audit_head where one_row";
    /// The records, the head behind them and the watermark, in one round trip.
    APPEND = "with written as (
            insert into audit_log (seq, position, event_id, at, actor, actor_scopes, actor_token_id, actor_address,
                verb, target, operation, reason, change_ticket, outcome, latency_ms, revision_before, revision_after,
                trace_id, detail, prev_hash, hash)
            select * from unnest($1::bigint[], $2::bigint[], $3::uuid[], $4::timestamptz[], $5::text[], $6::text[],
                $7::text[], $8::text[], $9::text[], $10::text[], $11::uuid[], $12::text[], $13::text[], $14::text[],
                $15::bigint[], $16::bigint[], $17::bigint[], $18::text[], $19::text[], $20::text[], $21::text[])
        ), moved as (
            update audit_head set seq = $22, hash = $23, position = $24 where one_row
        )
        update watermarks set position = $24 where name = 'audited' and position < $24";
    KNOWN_EVENT = "select exists (select from audit_log where event_id = $1)";
    POSITIONED_EVENTS = "select position, event_id, resource, operation, payload, created_at from events
        where position > $1 order by position limit $2";
    INSERT_CHECKPOINT = "insert into audit_checkpoints (seq, hash, at, key_id, signature) values ($1, $2, $3, $4, $5)
        on conflict (seq) do nothing";
    CHECKPOINTS = "select seq, hash, at, key_id, signature from audit_checkpoints where seq > $1 order by seq limit $2";
    GET = concat!("select ", columns!(), " from audit_log where seq = $1");
    AFTER = concat!("select ", columns!(), " from audit_log where seq > $1 order by seq limit $2");
    LIST_UP = list!("true", "> $8", "asc");
    LIST_DOWN = list!("true", "< $8", "desc");
    LIST_OF_OPERATION_UP = list!("operation = $1", "> $8", "asc");
    LIST_OF_OPERATION_DOWN = list!("operation = $1", "< $8", "desc");
    LIST_OF_TARGET_UP = list!("target = $3", "> $8", "asc");
    LIST_OF_TARGET_DOWN = list!("target = $3", "< $8", "desc");
    LIST_OF_ACTOR_UP = list!("actor = $2", "> $8", "asc");
    LIST_OF_ACTOR_DOWN = list!("actor = $2", "< $8", "desc");
}

/// The end of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditHead {
    /// Of the last record; 0 before the first.
    pub seq: u64,
    /// Of the last record; [`GENESIS`](omnirelay_contract::chain::GENESIS) before the first.
    pub hash: String,
    /// The highest position that is in the log.
    pub position: u64,
    /// The highest position that the relay has given out.
    pub positioned: u64,
}

/// Which records. Empty: all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditFilter {
    pub operation: Option<OperationId>,
    /// The actor's subject.
    pub actor: Option<String>,
    pub target: Option<String>,
    pub verb: Option<String>,
    pub outcome: Option<String>,
    /// Inclusive.
    pub since: Option<Timestamp>,
    /// Exclusive.
    pub until: Option<Timestamp>,
}

/// An event of the log that has its position.
#[derive(Debug, Clone)]
pub struct PositionedEvent {
    pub position: u64,
    pub event_id: Uuid,
    /// `peers/edge-7`.
    pub resource: String,
    pub operation: Option<OperationId>,
    /// The CloudEvent's JSON.
    pub payload: String,
    pub created_at: Timestamp,
}

/// A record to be appended, with the canonical text of its detail.
#[derive(Debug, Clone, Copy)]
pub struct NewRecord<'a> {
    pub record: &'a AuditRecord,
    pub detail: &'a str,
}

/// Records by seq, ascending or descending, strictly beyond `after`.
pub async fn list(
    pool: &PgPool,
    filter: &AuditFilter,
    after: Option<u64>,
    ascending: bool,
    limit: u32,
) -> Result<Vec<AuditRecord>, StoreError> {
    let (up, down) = if filter.operation.is_some() {
        (LIST_OF_OPERATION_UP, LIST_OF_OPERATION_DOWN)
    } else if filter.target.is_some() {
        (LIST_OF_TARGET_UP, LIST_OF_TARGET_DOWN)
    } else if filter.actor.is_some() {
        (LIST_OF_ACTOR_UP, LIST_OF_ACTOR_DOWN)
    } else {
        (LIST_UP, LIST_DOWN)
    };
    let after = after.map(signed).unwrap_or(if ascending { 0 } else { i64::MAX });
    let rows = sqlx::query(if ascending { up } else { down })
        .bind(filter.operation)
        .bind(filter.actor.as_deref())
        .bind(filter.target.as_deref())
        .bind(filter.verb.as_deref())
        .bind(filter.outcome.as_deref())
        .bind(filter.since.map(ToSqlx::to_sqlx))
        .bind(filter.until.map(ToSqlx::to_sqlx))
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await?;
    rows.iter().map(record).collect()
}

/// One record.
pub async fn get(pool: &PgPool, seq: u64) -> Result<Option<AuditRecord>, StoreError> {
    let row = sqlx::query(GET).bind(signed(seq)).fetch_optional(pool).await?;
    row.as_ref().map(record).transpose()
}

/// The records after `seq`, each with what is wrong with it where it cannot be read.
pub async fn after(pool: &PgPool, seq: u64, limit: u32) -> Result<Vec<Result<AuditRecord, StoreError>>, StoreError> {
    let rows = sqlx::query(AFTER).bind(signed(seq)).bind(i64::from(limit)).fetch_all(pool).await?;
    Ok(rows.iter().map(record).collect())
}

/// The end of the chain, as it is now.
pub async fn head(pool: &PgPool) -> Result<AuditHead, StoreError> {
    read_head(pool, HEAD).await
}

/// The end of the chain, locked until the transaction's end.
pub async fn lock_head(connection: &mut PgConnection) -> Result<AuditHead, StoreError> {
    read_head(connection, LOCK_HEAD).await
}

/// Appends records and moves the head and the watermark `audited` behind them. The caller holds the head's lock. Records may
/// be none, where only the position moves.
pub async fn append(
    connection: &mut PgConnection,
    records: &[NewRecord<'_>],
    seq: u64,
    hash: &str,
    position: u64,
) -> Result<(), StoreError> {
    fn column<'a, T>(records: &[NewRecord<'a>], of: impl Fn(&'a AuditRecord) -> T) -> Vec<T> {
        records.iter().map(|new| of(new.record)).collect()
    }
    let scopes = records
        .iter()
        .map(|new| serde_json::to_string(&new.record.actor.scopes))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| StoreError::corrupt("scopes", error))?;
    sqlx::query(APPEND)
        .bind(column(records, |r| signed(r.seq)))
        .bind(column(records, |r| signed(r.position)))
        .bind(column(records, |r| r.event_id))
        .bind(column(records, |r| r.at.to_sqlx()))
        .bind(column(records, |r| r.actor.subject.as_str()))
        .bind(scopes)
        .bind(column(records, |r| r.actor.token_id.as_deref()))
        .bind(column(records, |r| r.actor.address.as_deref()))
        .bind(column(records, |r| r.verb.as_str()))
        .bind(column(records, |r| r.target.as_str()))
        .bind(column(records, |r| r.operation))
        .bind(column(records, |r| r.reason.as_deref()))
        .bind(column(records, |r| r.change_ticket.as_deref()))
        .bind(column(records, |r| r.outcome.as_str()))
        .bind(column(records, |r| r.latency_ms.map(signed)))
        .bind(column(records, |r| r.revision_before.map(signed)))
        .bind(column(records, |r| r.revision_after.map(signed)))
        .bind(column(records, |r| r.trace_id.as_deref()))
        .bind(records.iter().map(|new| new.detail).collect::<Vec<_>>())
        .bind(column(records, |r| r.prev_hash.as_str()))
        .bind(column(records, |r| r.hash.as_str()))
        .bind(signed(seq))
        .bind(hash)
        .bind(signed(position))
        .execute(connection)
        .await?;
    Ok(())
}

/// Whether the event has its record.
pub async fn is_known(connection: &mut PgConnection, event_id: Uuid) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar(KNOWN_EVENT).bind(event_id).fetch_one(connection).await?)
}

/// The events after `position`, by position.
pub async fn positioned_events(
    connection: &mut PgConnection,
    position: u64,
    limit: u32,
) -> Result<Vec<PositionedEvent>, StoreError> {
    let rows =
        sqlx::query(POSITIONED_EVENTS).bind(signed(position)).bind(i64::from(limit)).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(PositionedEvent {
                position: unsigned(row, "position")?,
                event_id: row.try_get("event_id")?,
                resource: row.try_get("resource")?,
                operation: row.try_get("operation")?,
                payload: row.try_get("payload")?,
                created_at: time(row, "created_at")?,
            })
        })
        .collect()
}

/// Keeps a checkpoint. `false` where another writer has one of the same record.
pub async fn insert_checkpoint(pool: &PgPool, checkpoint: &Checkpoint) -> Result<bool, StoreError> {
    let done = sqlx::query(INSERT_CHECKPOINT)
        .bind(signed(checkpoint.seq))
        .bind(&checkpoint.hash)
        .bind(checkpoint.at.to_sqlx())
        .bind(&checkpoint.key_id)
        .bind(&checkpoint.signature)
        .execute(pool)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// The checkpoints after `seq`, by seq.
pub async fn checkpoints(pool: &PgPool, seq: u64, limit: u32) -> Result<Vec<Checkpoint>, StoreError> {
    let rows = sqlx::query(CHECKPOINTS).bind(signed(seq)).bind(i64::from(limit)).fetch_all(pool).await?;
    rows.iter()
        .map(|row| {
            Ok(Checkpoint {
                seq: unsigned(row, "seq")?,
                hash: row.try_get("hash")?,
                at: time(row, "at")?,
                key_id: row.try_get("key_id")?,
                signature: row.try_get("signature")?,
            })
        })
        .collect()
}

async fn read_head<'e>(
    executor: impl Executor<'e, Database = Postgres>,
    sql: &'static str,
) -> Result<AuditHead, StoreError> {
    let row = sqlx::query(sql).fetch_one(executor).await?;
    Ok(AuditHead {
        seq: unsigned(&row, "seq")?,
        hash: row.try_get("hash")?,
        position: unsigned(&row, "position")?,
        positioned: unsigned(&row, "positioned")?,
    })
}

fn record(row: &PgRow) -> Result<AuditRecord, StoreError> {
    let scopes: &str = row.try_get("actor_scopes")?;
    let detail: &str = row.try_get("detail")?;
    Ok(AuditRecord {
        seq: unsigned(row, "seq")?,
        hash: row.try_get("hash")?,
        prev_hash: row.try_get("prev_hash")?,
        event_id: row.try_get("event_id")?,
        position: unsigned(row, "position")?,
        at: time(row, "at")?,
        actor: Actor {
            subject: row.try_get("actor")?,
            scopes: serde_json::from_str(scopes)
                .map_err(|error| StoreError::corrupt("the scopes of an actor", error))?,
            token_id: row.try_get("actor_token_id")?,
            address: row.try_get("actor_address")?,
        },
        verb: row.try_get("verb")?,
        target: row.try_get("target")?,
        operation: row.try_get("operation")?,
        reason: row.try_get("reason")?,
        change_ticket: row.try_get("change_ticket")?,
        outcome: row.try_get("outcome")?,
        latency_ms: optional(row, "latency_ms")?,
        revision_before: optional(row, "revision_before")?,
        revision_after: optional(row, "revision_after")?,
        trace_id: row.try_get("trace_id")?,
        detail: serde_json::from_str(detail).map_err(|error| StoreError::corrupt("the detail of a record", error))?,
    })
}

fn time(row: &PgRow, column: &str) -> Result<Timestamp, StoreError> {
    Ok(row.try_get::<jiff_sqlx::Timestamp, _>(column)?.to_jiff())
}

fn unsigned(row: &PgRow, column: &'static str) -> Result<u64, StoreError> {
    let number: i64 = row.try_get(column)?;
    u64::try_from(number).map_err(|error| StoreError::corrupt(column, error))
}

fn optional(row: &PgRow, column: &'static str) -> Result<Option<u64>, StoreError> {
    let number: Option<i64> = row.try_get(column)?;
    number.map(u64::try_from).transpose().map_err(|error| StoreError::corrupt(column, error))
}

/// A number of a record as a bigint; the chain makes no larger ones.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
