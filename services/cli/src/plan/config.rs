//! The plan of an edit of the settings: what is different afterwards, and who has to agree.

use omnirelay_contract::rest::{ConfigImpact, Plan};
use serde_json::Value;

use super::{Setting, blockers, gates, line};
use crate::diff::plain;

/// The lines of the plan.
pub fn lines(plan: &Plan, what: &str, setting: Setting<'_>) -> Vec<String> {
    let mut lines = vec![setting.head(what, "")];
    match serde_json::from_value::<ConfigImpact>(plan.impact.clone()) {
        Ok(impact) if impact.changes.is_empty() => lines.push(line("change", "none")),
        Ok(impact) => lines.extend(impact.changes.iter().map(|change| {
            let tell = |value: &Option<Value>| value.as_ref().map_or_else(|| "nothing".to_owned(), plain);
            line("change", &format!("{}: {} -> {}", change.key, tell(&change.before), tell(&change.after)))
        })),
        Err(_) => lines.push(line("impact", &plan.impact.to_string())),
    }
    lines.extend(blockers(plan, setting));
    lines.extend(gates(plan));
    lines.push(line("undo", "omnirelay mesh config rollback, with a revision of mesh config history"));
    lines
}
