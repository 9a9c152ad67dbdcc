//! PostgreSQL: migrations and named statements, one function each. No decision is made here.

pub mod audit;
pub mod clusters;
pub mod config;
pub mod effects;
pub mod error;
pub mod events;
pub mod intake;
pub mod leases;
pub mod live;
pub mod observed;
pub mod operations;
pub mod reads;
pub mod registry;
mod statement;

use std::str::FromStr;
use std::time::Duration;

use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

pub use error::StoreError;
pub use jiff_sqlx::ToSqlx;
pub use sqlx::PgConnection;
pub use sqlx::{Error as SqlError, PgPool};
pub use statement::all as statements;

/// A connection taken from a pool.
pub type PoolConnection = sqlx::pool::PoolConnection<sqlx::Postgres>;

/// What a pool is for: settings of its connections.
#[derive(Debug, Clone, Copy)]
pub struct PoolOptions {
    pub max_connections: u32,
    /// Statements of the hot paths touch a few rows by key. Tables that grew from empty have no statistics yet, and the
    /// planner's defaults then choose sequential scans at several times the cost.
    pub index_scans_only: bool,
    pub application: &'static str,
}

/// Opens a pool. Every connection carries time-outs, so that a stopped process cannot hold rows.
pub async fn connect(url: &str, options: PoolOptions) -> Result<PgPool, StoreError> {
    let mut connect =
        PgConnectOptions::from_str(url)?.application_name(options.application).statement_cache_capacity(256).options([
            ("statement_timeout", "15s"),
            ("lock_timeout", "10s"),
            ("idle_in_transaction_session_timeout", "10s"),
            ("timezone", "UTC"),
        ]);
    if options.index_scans_only {
        connect =
            connect.options([("enable_seqscan", "off"), ("plan_cache_mode", "force_generic_plan"), ("jit", "off")]);
    }
    // The pool would only say that it waited in vain; one connection of its own says why.
    PgConnection::connect_with(&connect).await?.close().await?;
    let pool = PgPoolOptions::new()
        .max_connections(options.max_connections)
        .acquire_timeout(Duration::from_secs(5))
        // Who is on the hot path tries again by itself; asking first would cost every statement a round trip.
        .test_before_acquire(!options.index_scans_only)
        .connect_with(connect)
        .await?;
    Ok(pool)
}

/// Brings the schema up to date. Safe to call from several processes at once (an advisory lock).
pub async fn migrate(pool: &PgPool) -> Result<(), StoreError> {
    sqlx::migrate!("./migrations").run(pool).await.map_err(StoreError::Migrate)
}

/// Gives the planner its statistics, which tables that grew from empty do not have yet.
pub async fn analyze(pool: &PgPool) -> Result<(), StoreError> {
    sqlx::query("analyze").execute(pool).await?;
    Ok(())
}
