//! Label selectors: `a=b`, `a!=b`, `a` (has it), `!a` (lacks it), all of which must hold, separated by commas.

use std::collections::BTreeMap;

use omnirelay_store::reads::peers::PeerFilter;

/// Why a text is not a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error("the term {0:?} is none of a=b, a!=b, a, !a")]
    Term(String),
    #[error("{0} is asked to have two values")]
    Contradiction(String),
}

/// What a peer's labels must be.
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

    /// As the registry's statement wants it.
    pub fn apply(self, filter: &mut PeerFilter) {
        if !self.equal.is_empty() {
            filter.labels = Some(serde_json::json!(self.equal).to_string());
        }
        filter.not_labels =
            self.not_equal.into_iter().map(|(key, value)| serde_json::json!({key: value}).to_string()).collect();
        filter.has_keys = self.has;
        filter.lacks_keys = self.lacks;
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
}
