//! Merge patches (RFC 7396) of what a client may set on a peer: labels and metadata.

use serde_json::{Map, Value};

use crate::resource::Labels;

/// Keys and values beyond these are refused: they are told with every event and sent to every browser.
const MAX_LABELS: usize = 64;
const MAX_LABEL_BYTES: usize = 253;
const MAX_METADATA_BYTES: usize = 32 * 1024;

/// Why a patch is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPatch {
    #[error("label key {0:?} is not 1 to 253 letters, digits, '-', '_', '.' or '/'")]
    Key(String),
    #[error(
        "the value of label {0} is not text of at most 253 characters without '=', '!', ',' or a null character (null removes the label)"
    )]
    Value(String),
    #[error("a peer has at most 64 labels, this would be {0}")]
    TooMany(usize),
    #[error("metadata is a JSON object of at most 32 KiB without null characters")]
    Metadata,
}

/// What a patch changes; `null` of a member removes it, `null` of the whole removes all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PeerPatch {
    pub labels: Option<Value>,
    pub metadata: Option<Value>,
}

/// The labels and metadata after the patch.
pub fn peer(labels: &Labels, metadata: &Value, patch: &PeerPatch) -> Result<(Labels, Value), InvalidPatch> {
    let labels = match &patch.labels {
        None => labels.clone(),
        Some(wanted) => {
            let mut whole = Value::Object(labels.iter().map(|(k, v)| (k.clone(), Value::String(v.clone()))).collect());
            merge(&mut whole, wanted);
            checked_labels(&whole)?
        }
    };
    let metadata = match &patch.metadata {
        None => metadata.clone(),
        Some(wanted) => {
            let mut whole = metadata.clone();
            merge(&mut whole, wanted);
            checked_metadata(whole)?
        }
    };
    Ok((labels, metadata))
}

/// Applies a merge patch in place, as RFC 7396 section 2 writes it.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(members) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            members.remove(key);
        } else {
            merge(members.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Labels as a client may write them.
pub fn checked_labels(labels: &Value) -> Result<Labels, InvalidPatch> {
    let empty = Map::new();
    let members = match labels {
        Value::Object(members) => members,
        Value::Null => &empty,
        _ => return Err(InvalidPatch::Value("labels".to_owned())),
    };
    if members.len() > MAX_LABELS {
        return Err(InvalidPatch::TooMany(members.len()));
    }
    members
        .iter()
        .map(|(key, value)| {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
            if key.is_empty() || key.len() > MAX_LABEL_BYTES || !key.bytes().all(fits) {
                return Err(InvalidPatch::Key(key.chars().take(80).collect()));
            }
            match value {
                // What a selector could not name could not be found again.
                Value::String(text) if text.len() <= MAX_LABEL_BYTES && !text.contains(['=', '!', ',', '\0']) => {
                    Ok((key.clone(), text.clone()))
                }
                _ => Err(InvalidPatch::Value(key.clone())),
            }
        })
        .collect()
}

/// Metadata as a client may write it.
pub fn checked_metadata(metadata: Value) -> Result<Value, InvalidPatch> {
    let metadata = if metadata.is_null() { Value::Object(Map::new()) } else { metadata };
    let text = metadata.to_string();
    let stored = metadata.is_object() && text.len() <= MAX_METADATA_BYTES && !text.contains("\\u0000");
    if stored { Ok(metadata) } else { Err(InvalidPatch::Metadata) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Appendix A of RFC 7396.
    #[test]
    fn a_merge_patch_does_what_its_rfc_shows() {
        let check = |mut target: Value, patch: Value, expect: Value| {
            merge(&mut target, &patch);
            assert_eq!(target, expect, "{patch}");
        };
        check(json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"}));
        check(json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"}));
        check(json!({"a": "b"}), json!({"a": null}), json!({}));
        check(json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"}));
        check(json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"}));
        check(json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]}));
        check(json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}}));
        check(json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]}));
        check(json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"]));
        check(json!({"a": "b"}), json!(["c"]), json!(["c"]));
        check(json!({"a": "foo"}), json!(null), json!(null));
        check(json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1}));
        check(json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"}));
        check(json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}}));
    }

    #[test]
    fn labels_are_text_that_a_selector_can_name() {
        let labels = Labels::from([("zone".to_owned(), "a".to_owned()), ("disk".to_owned(), "nvme".to_owned())]);
        let check = |patch: Value, expect: Result<&[(&str, &str)], &str>| {
            let patch = PeerPatch { labels: Some(patch), metadata: None };
            let got = peer(&labels, &json!({}), &patch).map(|(labels, _)| labels).map_err(|error| error.to_string());
            match expect {
                Ok(pairs) => {
                    let pairs: Labels = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
                    assert_eq!(got, Ok(pairs));
                }
                Err(part) => assert!(got.as_ref().is_err_and(|text| text.contains(part)), "{got:?}"),
            }
        };
        check(json!({"zone": "b"}), Ok(&[("disk", "nvme"), ("zone", "b")]));
        check(json!({"zone": null}), Ok(&[("disk", "nvme")]));
        check(json!(null), Ok(&[]));
        check(json!({"zone": 1}), Err("the value of label zone"));
        check(json!({"zone": "a,b"}), Err("the value of label zone"));
        check(json!({"z z": "a"}), Err("label key"));
        check(json!("zone=a"), Err("labels"));
        let many: Map<String, Value> = (0..65).map(|n| (format!("k{n}"), json!("v"))).collect();
        check(Value::Object(many), Err("at most 64"));
    }

    #[test]
    fn metadata_is_an_object() {
        let check = |patch: Value, expect: Option<Value>| {
            let patch = PeerPatch { labels: None, metadata: Some(patch) };
            let got = peer(&Labels::new(), &json!({"rack": {"row": 1}}), &patch).ok().map(|(_, metadata)| metadata);
            assert_eq!(got, expect);
        };
        check(json!({"rack": {"row": 2}, "owner": "net"}), Some(json!({"rack": {"row": 2}, "owner": "net"})));
        check(json!(null), Some(json!({})));
        check(json!([1]), None);
        check(json!({"a": "\u{0}"}), None);
        check(json!({"a": "x".repeat(40_000)}), None);
    }
}
