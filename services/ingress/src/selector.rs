//! Selectors of lists: what they ask for, as the registry's statement takes it.

use omnirelay_store::reads::peers::PeerFilter;
use omnirelay_workflow::resource::{Health, PeerState, UnknownWord};
use omnirelay_workflow::selector::{BUILT_IN, Selector, SelectorError};

/// Why a list cannot be filtered by a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfiltered {
    #[error(transparent)]
    Selector(#[from] SelectorError),
    #[error("{key}: {source}")]
    Word { key: &'static str, source: UnknownWord },
    #[error("{0} is asked to have two values")]
    Contradiction(&'static str),
    #[error("{0} is no label: a list takes it only as {0}=value")]
    OnlyEqual(&'static str),
    #[error("a list is not selected by id: read /control/peers/<id>, or select by name")]
    Id,
}

/// Adds a selector to a filter. What is no label goes to a filter of its own, which has to say the same where it is set already.
pub fn apply(text: &str, filter: &mut PeerFilter) -> Result<(), Unfiltered> {
    let mut selector = Selector::parse(text)?;
    let negated = selector.not_equal.iter().map(|(key, _)| key);
    let mut others = negated.chain(&selector.has).chain(&selector.lacks);
    if let Some(key) = others.find_map(|key| BUILT_IN.into_iter().find(|known| known == key)) {
        return Err(Unfiltered::OnlyEqual(key));
    }
    for key in BUILT_IN {
        let Some(value) = selector.equal.remove(key) else { continue };
        match key {
            "cluster" => set(&mut filter.cluster, key, value)?,
            "role" => set(&mut filter.role, key, value)?,
            "name" => set(&mut filter.name, key, value)?,
            "health" => {
                let health: Health = value.parse().map_err(|source| Unfiltered::Word { key, source })?;
                set(&mut filter.health, key, health.to_string())?;
            }
            "state" => {
                let state: PeerState = value.parse().map_err(|source| Unfiltered::Word { key, source })?;
                let state = state.to_string();
                if filter.states.as_ref().is_some_and(|states| !states.contains(&state)) {
                    return Err(Unfiltered::Contradiction(key));
                }
                filter.states = Some(vec![state]);
            }
            _ => return Err(Unfiltered::Id),
        }
    }
    if !selector.equal.is_empty() {
        filter.labels = Some(serde_json::json!(selector.equal).to_string());
    }
    filter.not_labels =
        selector.not_equal.into_iter().map(|(key, value)| serde_json::json!({key: value}).to_string()).collect();
    filter.has_keys = selector.has;
    filter.lacks_keys = selector.lacks;
    Ok(())
}

fn set(to: &mut Option<String>, key: &'static str, value: String) -> Result<(), Unfiltered> {
    if to.as_ref().is_some_and(|other| *other != value) {
        return Err(Unfiltered::Contradiction(key));
    }
    *to = Some(value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_built_in_keys_go_their_own_ways() {
        let mut filter = PeerFilter { cluster: Some("eu".to_owned()), ..PeerFilter::default() };
        apply("zone=a,disk!=hdd,gpu,!spot,cluster=eu,role=web,name=web-1,state=drained,health=healthy", &mut filter)
            .expect("a filter");
        let text = |text: &str| Some(text.to_owned());
        assert_eq!((filter.cluster, filter.role, filter.name), (text("eu"), text("web"), text("web-1")));
        assert_eq!((filter.states, filter.health), (Some(vec!["drained".to_owned()]), text("healthy")));
        assert_eq!(filter.labels, text(r#"{"zone":"a"}"#));
        assert_eq!(filter.not_labels, vec![r#"{"disk":"hdd"}"#.to_owned()]);
        assert_eq!((filter.has_keys, filter.lacks_keys), (vec!["gpu".to_owned()], vec!["spot".to_owned()]));
    }

    #[test]
    fn what_the_statement_cannot_say_is_refused() {
        let check = |text: &str, expect: &str| {
            let mut filter = PeerFilter {
                cluster: Some("eu".to_owned()),
                states: Some(vec!["active".to_owned()]),
                ..PeerFilter::default()
            };
            let refused = apply(text, &mut filter).expect_err(text);
            assert!(refused.to_string().contains(expect), "{refused}");
        };
        check("cluster=us", "cluster is asked to have two values");
        check("state=drained", "state is asked to have two values");
        check("state=asleep", "state: \"asleep\" is none of: active cordoned");
        check("role!=web", "only as role=value");
        check("!cluster", "only as cluster=value");
        check("zone=a,name", "only as name=value");
        check("id=web-1", "not selected by id");
        check("a b", "none of a=b");
    }
}
