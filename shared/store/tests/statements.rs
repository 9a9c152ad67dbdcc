//! Every statement of the crate is prepared against a freshly migrated database, so that a typo, or a column that a migration
//! renamed, is found without running the product.

use omnirelay_store::{PoolOptions, connect, migrate, statements};
use sqlx::{AssertSqlSafe, Executor, SqlSafeStr};

#[tokio::test]
async fn every_statement_can_be_prepared() {
    let url = omnirelay_devstack::testing::shared().await.database().await;
    let options = PoolOptions { max_connections: 2, index_scans_only: true, application: "statements" };
    let pool = connect(&url, options).await.expect("a database");
    migrate(&pool).await.expect("the schema");
    migrate(&pool).await.expect("the schema, again");
    let mut broken = Vec::new();
    for (name, statement) in statements() {
        if let Err(error) = pool.prepare(AssertSqlSafe(statement).into_sql_str()).await {
            broken.push(format!("{name}: {error}"));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
