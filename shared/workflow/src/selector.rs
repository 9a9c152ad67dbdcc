//! Selectors: `a=b`, `a!=b`, `a` (has it), `!a` (lacks it), all of which must hold, separated by commas.
//!
//! A key is a label, or one of the [`BUILT_IN`] keys of the resource that is looked at.

use std::collections::BTreeMap;

use crate::resource::Labels;

/// What a peer can be selected by beside its labels. A label of the same name does not hide them.
pub const BUILT_IN: [&str; 6] = ["cluster", "health", "id", "name", "role", "state"];

/// Why a text is not a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error("the term {0:?} is none of a=b, a!=b, a, !a")]
    Term(String),
    #[error("{0} is asked to have two values")]
    Contradiction(String),
}

/// What a resource's labels must be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    pub equal: BTreeMap<String, String>,
    pub not_equal: Vec<(String, String)>,
    pub has: Vec<String>,
    pub lacks: Vec<String>,
}

impl Selector {
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut selector = Self::default();
        for term in text.split(',').map(str::trim) {
            let wrong = || SelectorError::Term(term.chars().take(80).collect());
            if let Some((key, value)) = term.split_once("!=") {
                selector.not_equal.push((key_of(key).ok_or_else(wrong)?, value_of(value).ok_or_else(wrong)?));
            } else if let Some((key, value)) = term.split_once('=') {
                let value = value.strip_prefix('=').unwrap_or(value);
                let (key, value) = (key_of(key).ok_or_else(wrong)?, value_of(value).ok_or_else(wrong)?);
                if selector.equal.get(&key).is_some_and(|other| *other != value) {
                    return Err(SelectorError::Contradiction(key));
                }
                selector.equal.insert(key, value);
            } else if let Some(key) = term.strip_prefix('!') {
                selector.lacks.push(key_of(key).ok_or_else(wrong)?);
            } else {
                selector.has.push(key_of(term).ok_or_else(wrong)?);
            }
        }
        Ok(selector)
    }

    /// Whether all terms hold. `built_in` is asked first: what it answers is the value, and only where it has none the label is.
    /// As in Kubernetes, `a!=b` holds where there is no `a`.
    pub fn matches<'a>(&self, labels: &'a Labels, built_in: impl Fn(&str) -> Option<&'a str>) -> bool {
        let value = |key: &str| built_in(key).or_else(|| labels.get(key).map(String::as_str));
        self.equal.iter().all(|(key, wanted)| value(key) == Some(wanted))
            && self.not_equal.iter().all(|(key, other)| value(key) != Some(other))
            && self.has.iter().all(|key| value(key).is_some())
            && self.lacks.iter().all(|key| value(key).is_none())
    }
}

fn key_of(text: &str) -> Option<String> {
    let key = text.trim();
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
    (!key.is_empty() && key.len() <= 253 && key.bytes().all(fits)).then(|| key.to_owned())
}

fn value_of(text: &str) -> Option<String> {
    let value = text.trim();
    (value.len() <= 253 && !value.contains(['=', '!', '\0'])).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_told_apart() {
        let parsed = Selector::parse("zone=a, disk!=hdd,gpu,!spot,os==linux,empty=").expect("a selector");
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
        };
        assert_eq!(
            parsed.equal.into_iter().collect::<Vec<_>>(),
            pairs(&[("empty", ""), ("os", "linux"), ("zone", "a")])
        );
        assert_eq!(parsed.not_equal, pairs(&[("disk", "hdd")]));
        assert_eq!((parsed.has, parsed.lacks), (vec!["gpu".to_owned()], vec!["spot".to_owned()]));
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for bad in ["", ",", "=a", "!", "!=a", "a b=c", "a=b,,c", "a=b=c", "a=1,a=2"] {
            assert!(Selector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn all_terms_must_hold() {
        let labels: Labels =
            [("zone", "a"), ("gpu", ""), ("role", "hidden")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let built_in = |key: &str| match key {
            "cluster" => Some("eu"),
            "role" => Some("web"),
            _ => None,
        };
        let check = |text: &str, expect: bool| {
            let selector = Selector::parse(text).expect(text);
            assert_eq!(selector.matches(&labels, built_in), expect, "{text}");
        };
        check("zone=a", true);
        check("zone=b", false);
        check("zone=a,gpu", true);
        check("zone=a,disk", false);
        check("gpu=", true);
        check("disk=", false);
        check("zone!=a", false);
        check("zone!=b,disk!=ssd", true);
        check("!disk", true);
        check("!gpu", false);
        check("cluster=eu,!disk", true);
        check("cluster!=eu", false);
        check("!cluster", false);
        check("role=web", true);
        check("role=hidden", false);
        check("cluster=us", false);
    }
}
