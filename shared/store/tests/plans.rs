//! The statements of the group commit reach every row by its key, whatever the planner believes about the tables. They are
//! planned here with tables that are empty and never analysed, as they are on the first day.

use omnirelay_store::{PoolOptions, connect, migrate, statements};
use sqlx::{AssertSqlSafe, PgConnection, Row, SqlSafeStr};

#[tokio::test]
async fn the_group_commit_reads_no_table_as_a_whole() {
    let url = omnirelay_devstack::testing::shared().await.database().await;
    let options = PoolOptions { max_connections: 1, index_scans_only: true, application: "plans" };
    let pool = connect(&url, options).await.expect("a database");
    migrate(&pool).await.expect("the schema");
    let mut connection = pool.acquire().await.expect("a connection");
    let facts = plan(&mut connection, "intake::FACTS", 4).await;
    assert!(!facts.contains("Hash Join"), "whole tables are joined:\n{facts}");
    for name in ["intake::FACTS", "intake::COMMIT"] {
        let plan = plan(&mut connection, name, if name.ends_with("FACTS") { 4 } else { 24 }).await;
        for table in ["operations", "peers", "operation_locks", "events"] {
            assert!(!plan.contains(&format!("Seq Scan on {table}")), "{name}:\n{plan}");
        }
    }
}

/// How PostgreSQL would run the statement with any arguments.
async fn plan(connection: &mut PgConnection, name: &str, arguments: usize) -> String {
    let all = statements();
    let (_, statement) = all.iter().find(|(known, _)| known.ends_with(name)).expect("the statement");
    run(connection, format!("prepare planned as {statement}")).await;
    let nulls = vec!["null"; arguments].join(", ");
    let lines = run(connection, format!("explain execute planned({nulls})")).await;
    run(connection, "deallocate planned".to_owned()).await;
    lines.join("\n")
}

async fn run(connection: &mut PgConnection, sql: String) -> Vec<String> {
    let statement = AssertSqlSafe(sql).into_sql_str();
    let rows = sqlx::raw_sql(statement).fetch_all(connection).await.expect("PostgreSQL takes it");
    rows.iter().filter_map(|row| row.try_get(0).ok()).collect()
}
