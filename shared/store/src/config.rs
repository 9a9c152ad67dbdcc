//! The settings of the mesh: every revision is kept, the newest holds.

use omnirelay_workflow::{OperationId, Timestamp};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row};

use crate::StoreError;
use crate::statement::statements;

statements! {
    // Settings that a deployment begins with; whoever comes first writes them.
    SEED = "
        insert into config (revision, settings, actor)
        select 1, $1, 'system' where not exists (select 1 from config)
        on conflict (revision) do nothing";
    CURRENT = "
        select revision, settings, at, actor, operation, reason, change_ticket
        from config order by revision desc limit 1";
    GET = "
        select revision, settings, at, actor, operation, reason, change_ticket
        from config where revision = $1";
    HISTORY_NEWEST = "
        select revision, settings, at, actor, operation, reason, change_ticket
        from config where $1::int8 is null or revision < $1 order by revision desc limit $2";
    HISTORY_OLDEST = "
        select revision, settings, at, actor, operation, reason, change_ticket
        from config where $1::int8 is null or revision > $1 order by revision limit $2";
    REVISION = "select coalesce(max(revision), 0) from config";
    // Whoever writes settings has locked the mesh: the revision is the next one.
    INSERT = "
        insert into config (revision, settings, actor, operation, reason, change_ticket)
        values ($1, $2, $3, $4, $5, $6)";
}

/// One revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigRow {
    pub revision: u64,
    /// JSON object.
    pub settings: String,
    pub at: Timestamp,
    pub actor: String,
    pub operation: Option<OperationId>,
    pub reason: Option<String>,
    pub change_ticket: Option<String>,
}

/// A revision to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewConfig {
    pub revision: u64,
    pub settings: String,
    pub actor: String,
    pub operation: OperationId,
    pub reason: Option<String>,
    pub change_ticket: Option<String>,
}

/// Writes the first revision, unless there is one.
pub async fn seed(pool: &PgPool, settings: &str) -> Result<(), StoreError> {
    sqlx::query(SEED).bind(settings).execute(pool).await?;
    Ok(())
}

/// What holds; nothing before the first seed.
pub async fn current(connection: &mut PgConnection) -> Result<Option<ConfigRow>, StoreError> {
    sqlx::query(CURRENT).fetch_optional(connection).await?.as_ref().map(from_row).transpose()
}

pub async fn get(connection: &mut PgConnection, revision: u64) -> Result<Option<ConfigRow>, StoreError> {
    let revision = i64::try_from(revision).unwrap_or(i64::MAX);
    sqlx::query(GET).bind(revision).fetch_optional(connection).await?.as_ref().map(from_row).transpose()
}

/// The revisions behind `after`, in either order.
pub async fn history(
    pool: &PgPool,
    newest_first: bool,
    after: Option<u64>,
    limit: u32,
) -> Result<Vec<ConfigRow>, StoreError> {
    let after = after.map(|revision| i64::try_from(revision).unwrap_or(i64::MAX));
    let statement = if newest_first { HISTORY_NEWEST } else { HISTORY_OLDEST };
    sqlx::query(statement).bind(after).bind(i64::from(limit)).fetch_all(pool).await?.iter().map(from_row).collect()
}

/// The newest revision; 0 before the first.
pub async fn revision(connection: &mut PgConnection) -> Result<u64, StoreError> {
    let revision: i64 = sqlx::query_scalar(REVISION).fetch_one(connection).await?;
    Ok(revision.unsigned_abs())
}

/// The caller has locked the mesh.
pub async fn insert(connection: &mut PgConnection, config: &NewConfig) -> Result<(), StoreError> {
    sqlx::query(INSERT)
        .bind(i64::try_from(config.revision).unwrap_or(i64::MAX))
        .bind(&config.settings)
        .bind(&config.actor)
        .bind(config.operation)
        .bind(&config.reason)
        .bind(&config.change_ticket)
        .execute(connection)
        .await?;
    Ok(())
}

fn from_row(row: &PgRow) -> Result<ConfigRow, StoreError> {
    Ok(ConfigRow {
        revision: row.try_get::<i64, _>(0)?.unsigned_abs(),
        settings: row.try_get(1)?,
        at: row.try_get::<jiff_sqlx::Timestamp, _>(2)?.to_jiff(),
        actor: row.try_get(3)?,
        operation: row.try_get(4)?,
        reason: row.try_get(5)?,
        change_ticket: row.try_get(6)?,
    })
}
