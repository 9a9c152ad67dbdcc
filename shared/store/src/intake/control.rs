//! What is done to an operation itself (cancel, pause, resume, approve, reject, resolve): written into its row, under its
//! lock, before it is acknowledged.

use omnirelay_workflow::{OperationId, Timestamp};
use sqlx::{PgConnection, Row};

use super::NewEvent;
use crate::StoreError;
use crate::reads::operations::{COLUMNS, OperationRow, from_row, operation_columns};
use crate::registry::text;
use crate::statement::statements;

statements! {
    LOCK = concat!("select ", operation_columns!(), ", clock_timestamp(), o.gates from operations o where o.id = $1 for update");

    // What an approval is about, as it is now. Not locked: who changes it looks at the gate afterwards.
    REVISIONS = "
        select r.resource, case split_part(r.resource, '/', 1)
            when 'peers' then (select revision from peers where id = split_part(r.resource, '/', 2))
            when 'clusters' then (select revision from clusters where id = split_part(r.resource, '/', 2))
            when 'config' then (select max(revision) from config)
        end
        from unnest($1::text[]) as r (resource)";

    // On its own, so that a refusal changes nothing else.
    WAKE = "update operations set wake_at = clock_timestamp() where id = $1";

    // `void`: with a cancel, commands that would go forward, its children's too, are gone in the same transaction, so none is sent
    // after the acknowledgement; what a child's step writes at this very moment is stopped by the dispatcher's last look. `log`: the event, whose number within the operation is the row's.
    WRITE = concat!("
        with void as (
            delete from effects
            where $2::text is not null and not undo
              and operation = any(array(select $1 union select id from operations where parent = $1 and finished_at is null))
        ),
        log as (
            insert into events (event_id, resource, nats_subject, operation, payload)
            values ($9, $10, $11, $1, $12)
        )
        update operations o
        set cancel = coalesce($2, cancel), paused = case when $4 then $3 else paused end,
            approval = coalesce($5, approval), resolve = coalesce($6, resolve), state = coalesce($7, state),
            revision = revision + 1, event_seq = event_seq + 1, wake_at = clock_timestamp(),
            ingress = coalesce($8, ingress)
        where o.id = $1
        returning ", operation_columns!());
}

/// An operation under its lock.
#[derive(Debug, Clone, PartialEq)]
pub struct Locked {
    pub row: OperationRow,
    /// The database's time.
    pub now: Timestamp,
    /// JSON of the gates that its rules demanded.
    pub gates: Option<String>,
}

/// What is written. What is nothing stays as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Write<'a> {
    pub cancel: Option<&'a str>,
    /// The pause, or its end.
    pub paused: Option<Option<&'a str>>,
    pub approval: Option<&'a str>,
    pub resolve: Option<&'a str>,
    pub state: Option<&'a str>,
    /// Where somebody waits for the end.
    pub ingress: Option<&'a str>,
}

/// The operation with its row locked until the transaction ends.
pub async fn lock(connection: &mut PgConnection, id: OperationId) -> Result<Option<Locked>, StoreError> {
    let row = sqlx::query(LOCK).bind(id).fetch_optional(connection).await?;
    row.map(|row| {
        Ok(Locked {
            row: from_row(&row)?,
            now: row.try_get::<jiff_sqlx::Timestamp, _>(COLUMNS)?.to_jiff(),
            gates: row.try_get(COLUMNS + 1)?,
        })
    })
    .transpose()
}

/// The revisions of these resources; those that are gone are left out.
pub async fn revisions(
    connection: &mut PgConnection,
    resources: &[&str],
) -> Result<std::collections::BTreeMap<String, u64>, StoreError> {
    let rows = sqlx::query(REVISIONS).bind(resources).fetch_all(connection).await?;
    let mut revisions = std::collections::BTreeMap::new();
    for row in &rows {
        if let Some(revision) = row.try_get::<Option<i64>, _>(1)? {
            revisions.insert(text(row, 0, "a resource")?, revision.unsigned_abs());
        }
    }
    Ok(revisions)
}

/// Makes the operation due: its gate is to be looked at.
pub async fn wake(connection: &mut PgConnection, id: OperationId) -> Result<(), StoreError> {
    sqlx::query(WAKE).bind(id).execute(connection).await?;
    Ok(())
}

/// Writes what was decided under the [lock]; `event` carries the next number of the operation's events.
pub async fn write(
    connection: &mut PgConnection,
    id: OperationId,
    write: Write<'_>,
    resource: &str,
    event: NewEvent<'_>,
) -> Result<OperationRow, StoreError> {
    let row = sqlx::query(WRITE)
        .bind(id)
        .bind(write.cancel)
        .bind(write.paused.flatten())
        .bind(write.paused.is_some())
        .bind(write.approval)
        .bind(write.resolve)
        .bind(write.state)
        .bind(write.ingress)
        .bind(event.id)
        .bind(resource)
        .bind(event.nats_subject)
        .bind(event.payload)
        .fetch_one(connection)
        .await?;
    from_row(&row)
}
