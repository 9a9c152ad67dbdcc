//! The event log by position, for streams.

use omnirelay_workflow::OperationId;
use sqlx::PgPool;

use crate::StoreError;
use crate::statement::statements;

statements! {
    AFTER = "select position, payload from events where position > $1 order by position limit $2";
    FIRST_OF_OPERATION = "
        select position from events where operation = $1 and position is not null order by id limit 1";
    OLDEST = "select min(position) from events where position is not null";
}

/// An event in the log: its position and its CloudEvent as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedEvent {
    pub position: u64,
    pub payload: String,
}

/// The events behind a position, in order.
pub async fn after(pool: &PgPool, position: u64, limit: u32) -> Result<Vec<LoggedEvent>, StoreError> {
    let position = i64::try_from(position).unwrap_or(i64::MAX);
    let rows: Vec<(i64, String)> = sqlx::query_as(AFTER).bind(position).bind(i64::from(limit)).fetch_all(pool).await?;
    Ok(rows.into_iter().map(|(position, payload)| LoggedEvent { position: position.unsigned_abs(), payload }).collect())
}

/// Where an operation's events begin, if any has a position yet.
pub async fn first_of(pool: &PgPool, operation: OperationId) -> Result<Option<u64>, StoreError> {
    let position: Option<i64> = sqlx::query_scalar(FIRST_OF_OPERATION).bind(operation).fetch_optional(pool).await?;
    Ok(position.map(i64::unsigned_abs))
}

/// The oldest position that is still kept.
pub async fn oldest(pool: &PgPool) -> Result<Option<u64>, StoreError> {
    let position: Option<i64> = sqlx::query_scalar(OLDEST).fetch_one(pool).await?;
    Ok(position.map(i64::unsigned_abs))
}
