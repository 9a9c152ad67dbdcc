//! What an edit of the settings would change.

use omnirelay_contract::rest::{ConfigImpact, SettingChange};
use omnirelay_workflow::settings;
use serde_json::Value;

/// The settings that differ, by their paths.
pub fn changes(before: &Value, after: &Value) -> ConfigImpact {
    let changes: Vec<SettingChange> = settings::changes(before, after)
        .into_iter()
        .map(|one| SettingChange { key: one.key, before: one.before, after: one.after })
        .collect();
    ConfigImpact { changed: !changes.is_empty(), changes }
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
        assert_eq!(
            (impact.changes[1].before.clone(), impact.changes[1].after.clone()),
            (Some(json!(4)), Some(json!(2)))
        );
        assert!(!changes(&before, &before).changed);
    }
}
