//! What an operation does, in the words of the command that asks for it.

use omnirelay_contract::rest::Operation;
use omnirelay_contract::workflow::operation::Verb;
use serde_json::Value;

use crate::diff;
use crate::follow::bulk::is_bulk;
use crate::plan::promote::Asked;

/// `promote ams1, demote fra1`, `drain web-07`, `drain 40 peers`. `name` is what the target is called.
pub fn what(operation: &Operation, name: &str) -> String {
    match operation.verb {
        Verb::ClustersPromote | Verb::ClustersDemote => asked(&operation.params).map(|asked| asked.text()),
        Verb::PeersDrain if is_bulk(operation) => Some(many(operation)),
        Verb::ConfigPatch => Some("change settings".to_owned()),
        Verb::ConfigRollback => {
            let revision = operation.params.get("revision").map(diff::plain);
            revision.map(|revision| format!("roll the settings back to revision {revision}"))
        }
        _ => None,
    }
    .unwrap_or_else(|| format!("{} {name}", operation.verb.action()))
}

/// What of its parameters somebody who decides wants to know beside that.
pub fn parameters(operation: &Operation) -> Vec<String> {
    let params = &operation.params;
    match operation.verb {
        Verb::ConfigPatch => {
            let patch = params.get("settings").unwrap_or(params);
            diff::leaves(patch).into_iter().map(|line| format!("set      {line}")).collect()
        }
        Verb::ClustersPromote | Verb::ClustersDemote if params.get("force") == Some(&Value::Bool(true)) => {
            vec!["force    in spite of too few healthy peers, lag, or agents that do not answer".to_owned()]
        }
        // A yes is to these peers and to no others.
        Verb::PeersDrain if is_bulk(operation) => {
            let names = params.get("peers").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
            let names: Vec<&str> = names.collect();
            let number = |name: &str| params.get(name).and_then(Value::as_u64);
            let canary = number("canary").filter(|canary| *canary > 0).map(|canary| format!("canary {canary}, "));
            let at_once = number("maxConcurrent").unwrap_or(1);
            vec![
                format!("peers    {}", names.join(", ")),
                format!("waves    {}{at_once} at a time", canary.unwrap_or_default()),
            ]
        }
        Verb::PeersPatch | Verb::PeersPut | Verb::ClustersPut | Verb::PeersDrain => {
            let Value::Object(members) = params else { return Vec::new() };
            let told = members.iter().filter(|(name, value)| !is_nothing(value) && *name != "peers");
            let told: Vec<String> =
                told.map(|(name, value)| format!("{name}={}", crate::output::inline(value))).collect();
            if told.is_empty() { Vec::new() } else { vec![format!("with     {}", told.join(", "))] }
        }
        _ => Vec::new(),
    }
}

/// The parameters of a promotion or demotion.
pub fn asked(params: &Value) -> Option<Asked> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let promote = params.get("promote").and_then(text);
    let demote: Vec<String> = params.get("demote")?.as_array()?.iter().filter_map(text).collect();
    Some(Asked { promote, demote })
}

/// `drain 40 peers (cluster=fra1)`.
fn many(operation: &Operation) -> String {
    let frozen = operation.params.get("peers").and_then(Value::as_array).map(Vec::len);
    let count = frozen.or_else(|| usize::try_from(operation.progress.total).ok().filter(|total| *total > 0));
    let count = count.map_or_else(|| "many peers".to_owned(), |count| format!("{count} peers"));
    let selector = operation.params.get("selector").and_then(Value::as_str);
    let selector = selector.map(|selector| format!(" ({selector})")).unwrap_or_default();
    format!("drain {count}{selector}")
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}
