//! What clients read: peers, workloads, clusters, operations, events, the state of the whole. No decision is made here.
//!
//! Each resource has its row as a struct and one function from the row to what goes over the wire, so that a list, a single
//! read and the end of an operation never differ.

pub mod clusters;
pub mod events;
pub mod operations;
pub mod peers;
pub mod plan;
pub mod status;

pub use clusters::{ClusterRow, cluster_dto};
pub use operations::{OperationRow, mutated_dto, operation_dto};
pub use peers::{PeerRow, peer_dto, workload_dto};

use sqlx::PgPool;

use crate::StoreError;
use crate::statement::statements;

statements! {
    WATERMARK = "select position from watermarks where name = $1";
    ALIVE = "select 1";
}

/// The highest position that any event has. Read before a list, it is where a subscription goes on without a gap.
pub async fn position(pool: &PgPool) -> Result<u64, StoreError> {
    watermark(pool, "positioned").await
}

/// A watermark by name: `positioned`, `published`, `audited`.
pub async fn watermark(pool: &PgPool, name: &str) -> Result<u64, StoreError> {
    let position: Option<i64> = sqlx::query_scalar(WATERMARK).bind(name).fetch_optional(pool).await?;
    Ok(position.unwrap_or(0).unsigned_abs())
}

/// Whether the database answers.
pub async fn alive(pool: &PgPool) -> Result<(), StoreError> {
    sqlx::query(ALIVE).execute(pool).await?;
    Ok(())
}

/// Parses JSON that the record holds.
fn json<T: serde::de::DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::corrupt(what, error))
}

/// Parses a word or an id that the record holds.
fn word<T>(what: &'static str, text: &str) -> Result<T, StoreError>
where
    T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    text.parse().map_err(|error| StoreError::corrupt(what, error))
}

/// A count as a column holds it.
fn count(value: i64) -> u32 {
    u32::try_from(value).unwrap_or(if value < 0 { 0 } else { u32::MAX })
}
