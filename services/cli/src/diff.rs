//! Differences between two JSON values, for people: changed keys in a line each, or the whole as YAML, line by line.

use serde_json::{Map, Value};
use similar::{ChangeTag, TextDiff};

use crate::failure::Failure;

/// `drain.deadline: 30m -> 1h` for each key that differs, objects followed downwards, anything else compared whole.
pub fn keys(old: &Value, new: &Value) -> Vec<String> {
    let tell = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), plain);
    changed(old, new).into_iter().map(|(key, old, new)| format!("{key}: {} -> {}", tell(old), tell(new))).collect()
}

/// The keys that differ, with what they are on both sides.
pub fn changed<'a>(old: &'a Value, new: &'a Value) -> Vec<(String, Option<&'a Value>, Option<&'a Value>)> {
    let mut changes = Vec::new();
    walk(&mut changes, String::new(), Some(old), Some(new));
    changes
}

/// `drain.deadline=30m` for each value that is no object, objects followed downwards.
pub fn leaves(value: &Value) -> Vec<String> {
    let empty = Value::Object(Map::new());
    let tell = |value: Option<&Value>| value.map_or_else(|| "null".to_owned(), plain);
    changed(&empty, value).into_iter().flat_map(|(key, _, new)| below(&key, new, &tell)).collect()
}

fn below(key: &str, value: Option<&Value>, tell: &dyn Fn(Option<&Value>) -> String) -> Vec<String> {
    match value {
        Some(Value::Object(members)) if !members.is_empty() => {
            members.iter().flat_map(|(name, value)| below(&format!("{key}.{name}"), Some(value), tell)).collect()
        }
        value => vec![format!("{key}={}", tell(value))],
    }
}

/// The merge patch (RFC 7396) that makes `new` of `old`.
pub fn merge_patch(old: &Value, new: &Value) -> Value {
    let (Value::Object(before), Value::Object(after)) = (old, new) else { return new.clone() };
    let mut patch = Map::new();
    for (key, value) in after {
        match before.get(key) {
            Some(same) if same == value => {}
            Some(other) => {
                patch.insert(key.clone(), merge_patch(other, value));
            }
            // A new object may hold nulls of its own, which a patch cannot say: they mean the same as nothing.
            None => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    Value::Object(patch)
}

/// The value after a merge patch (RFC 7396), as the other side will make it.
pub fn merged(old: &Value, patch: &Value) -> Value {
    let Value::Object(changes) = patch else { return patch.clone() };
    let mut members = old.as_object().cloned().unwrap_or_default();
    for (key, change) in changes {
        if change.is_null() {
            members.remove(key);
        } else {
            let before = members.get(key).cloned().unwrap_or(Value::Null);
            members.insert(key.clone(), merged(&before, change));
        }
    }
    Value::Object(members)
}

/// Both as YAML, with `-` and `+` before the lines that differ and three lines around them.
pub fn lines(old: &Value, new: &Value) -> Result<Vec<String>, Failure> {
    let yaml = |value: &Value| {
        serde_saphyr::to_string(value).map_err(|error| Failure::error(format!("it cannot be shown as YAML: {error}")))
    };
    // Nothing is no line, not an empty mapping.
    let is_nothing = old.as_object().is_some_and(Map::is_empty);
    let (old, new) = (if is_nothing { String::new() } else { yaml(old)? }, yaml(new)?);
    let diff = TextDiff::from_lines(&old, &new);
    let mut lines = Vec::new();
    for (n, group) in diff.grouped_ops(3).iter().enumerate() {
        if n > 0 {
            lines.push("  ...".to_owned());
        }
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            let sign = match change.tag() {
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
                ChangeTag::Equal => ' ',
            };
            lines.push(format!("{sign} {}", change.value().trim_end_matches('\n')));
        }
    }
    Ok(lines)
}

/// A value as it is typed: text without quotes, everything else as JSON.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn walk<'a>(
    changes: &mut Vec<(String, Option<&'a Value>, Option<&'a Value>)>,
    key: String,
    old: Option<&'a Value>,
    new: Option<&'a Value>,
) {
    if old == new {
        return;
    }
    match (old, new) {
        (Some(Value::Object(before)), Some(Value::Object(after))) => {
            let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for name in names {
                let path = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                walk(changes, path, before.get(name), after.get(name));
            }
        }
        _ => changes.push((key, old, new)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[expect(clippy::needless_pass_by_value, reason = "tables of tests read better without references")]
    fn check(old: Value, new: Value, told: &[&str], patch: Value) {
        assert_eq!(keys(&old, &new), told, "{old} {new}");
        assert_eq!(merge_patch(&old, &new), patch, "{old} {new}");
        assert_eq!(merged(&old, &patch), new, "{old} {patch}");
    }

    #[test]
    fn changes_by_key_and_as_a_patch() {
        check(json!({"a": 1}), json!({"a": 1}), &[], json!({}));
        check(
            json!({"drain": {"deadline": "30m", "n": 4}}),
            json!({"drain": {"deadline": "1h", "n": 4}}),
            &["drain.deadline: 30m -> 1h"],
            json!({"drain": {"deadline": "1h"}}),
        );
        check(json!({"a": [1]}), json!({"a": [1, 2]}), &["a: [1] -> [1,2]"], json!({"a": [1, 2]}));
        check(json!({"a": 1}), json!({"b": 2}), &["a: 1 -> nothing", "b: nothing -> 2"], json!({"a": null, "b": 2}));
        check(json!({"a": {"b": 1}}), json!({"a": 2}), &["a: {\"b\":1} -> 2"], json!({"a": 2}));
    }

    #[test]
    fn lines_with_their_surroundings() {
        let old = json!({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6});
        let mut new = old.clone();
        new["f"] = json!(7);
        assert_eq!(lines(&old, &new).expect("lines"), ["  c: 3", "  d: 4", "  e: 5", "- f: 6", "+ f: 7"]);
        assert_eq!(lines(&json!({}), &json!({"a": 1})).expect("lines"), ["+ a: 1"]);
        assert_eq!(lines(&old, &old).expect("lines"), Vec::<String>::new());
    }
}
