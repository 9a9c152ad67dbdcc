//! What an edit of the settings would change.

use std::collections::BTreeMap;

use omnirelay_contract::rest::{ConfigImpact, SettingChange};
use serde_json::Value;

/// The settings that differ, by their paths. Lists are compared as wholes.
pub fn changes(before: &Value, after: &Value) -> ConfigImpact {
    let (old, new) = (flat(before), flat(after));
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let changes: Vec<SettingChange> = keys
        .into_iter()
        .filter(|key| old.get(*key) != new.get(*key))
        .map(|key| SettingChange { key: key.clone(), before: old.get(key).cloned(), after: new.get(key).cloned() })
        .collect();
    ConfigImpact { changed: !changes.is_empty(), changes }
}

fn flat(value: &Value) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    walk("", value, &mut all);
    all
}

fn walk(path: &str, value: &Value, all: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(&path, value, all);
            }
        }
        other => {
            all.insert(path.to_owned(), other.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_differs_is_told() {
        let before = json!({"drain": {"maxConcurrent": 4, "onDeadline": "hold"}, "approvals": {"rules": []}});
        let after = json!({"drain": {"maxConcurrent": 2, "onDeadline": "hold"}, "approvals": {"rules": [1]}});
        let impact = changes(&before, &after);
        let keys: Vec<&str> = impact.changes.iter().map(|change| change.key.as_str()).collect();
        assert_eq!((impact.changed, keys), (true, vec!["approvals.rules", "drain.maxConcurrent"]));
        assert_eq!((impact.changes[1].before.clone(), impact.changes[1].after.clone()), (Some(json!(4)), Some(json!(2))));
        assert!(!changes(&before, &before).changed);
    }
}
