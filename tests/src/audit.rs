//! The audit log, as a client reads it.

use std::time::Duration;

use serde_json::Value;

use crate::api::Api;
use crate::wait::eventually_ok;

/// A record is visible within this.
const VISIBLE: Duration = Duration::from_secs(2);

/// The records of a filter such as `operation=…`, once they are as wanted: within the two seconds of the contract.
pub async fn records(api: &Api, filter: &str, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    eventually_ok(format!("the audit of {filter}"), VISIBLE, async || {
        let records = api.list(&format!("/control/audit?{filter}")).await;
        if wanted(&records) { Ok(records) } else { Err(Value::from(records)) }
    })
    .await
}

/// The records of an operation, in order, once its end is among them.
pub async fn records_of(api: &Api, operation: &str, outcome: &str) -> Vec<Value> {
    let mut records =
        records(api, &format!("operation={operation}"), |all| all.iter().any(|one| one["outcome"] == outcome)).await;
    records.sort_by_key(|record| record["seq"].as_u64());
    records
}
