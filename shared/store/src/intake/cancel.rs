//! A cancel, written into the operation's row under its lock before it is acknowledged.

use omnirelay_workflow::OperationId;
use sqlx::PgConnection;

use super::NewEvent;
use crate::StoreError;
use crate::reads::operations::{OperationRow, from_row, operation_columns};
use crate::statement::statements;

statements! {
    LOCK = concat!("select ", operation_columns!(), " from operations o where o.id = $1 for update");

    // `void`: commands that would go forward are gone in the same transaction, so none is sent after the acknowledgement.
    // `log`: the event, whose number within the operation is the row's.
    CANCEL = concat!("
        with void as (
            delete from effects where operation = $1 and not undo
        ),
        log as (
            insert into events (event_id, resource, nats_subject, operation, payload)
            values ($4, 'operations', $5, $1, $6)
        )
        update operations o
        set cancel = $2, state = 'unwinding', revision = revision + 1, event_seq = event_seq + 1,
            wake_at = clock_timestamp(), ingress = coalesce($3, ingress)
        where o.id = $1
        returning ", operation_columns!());
}

/// The operation with its row locked until the transaction ends.
pub async fn lock(connection: &mut PgConnection, id: OperationId) -> Result<Option<OperationRow>, StoreError> {
    let row = sqlx::query(LOCK).bind(id).fetch_optional(connection).await?;
    row.as_ref().map(from_row).transpose()
}

/// Writes the cancel. The caller has [locked](lock) the row and seen that it is not terminal; `event` carries the next
/// number of the operation's events. `ingress` is where somebody waits for the end.
pub async fn cancel(
    connection: &mut PgConnection,
    id: OperationId,
    cancel: &str,
    ingress: Option<&str>,
    event: NewEvent<'_>,
) -> Result<OperationRow, StoreError> {
    let row = sqlx::query(CANCEL)
        .bind(id)
        .bind(cancel)
        .bind(ingress)
        .bind(event.id)
        .bind(event.nats_subject)
        .bind(event.payload)
        .fetch_one(connection)
        .await?;
    from_row(&row)
}
