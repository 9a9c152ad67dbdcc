//! The mesh's settings: what every replica follows while it runs, changed by merge patches (RFC 7396) under a revision.
//!
//! There is one list of what can be set, in [`spec`]: the JSON Schema is written from it, and values are checked and completed
//! by it, so the two cannot disagree. The settings are stored whole, defaults included and as they were written (`90m` stays
//! `90m`): a revision means the same for ever, and two revisions can be compared by reading them. `null` in a patch takes a
//! setting back to its default.

mod amount;
mod spec;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

pub use amount::Amount;

use crate::drain::OnDeadline;
use crate::gate::GateAt;
use crate::operation::Verb;
use crate::patch;
use crate::rules::{BY_REQUEST, GUARD};

/// The settings, whole and valid.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    pub drain: DrainSettings,
    pub promote: PromoteSettings,
    pub approvals: ApprovalSettings,
    pub disruption: DisruptionSettings,
    pub heartbeat: HeartbeatSettings,
}

/// What a drain does where its request does not say.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainSettings {
    /// None: it waits for ever.
    #[serde(deserialize_with = "maybe_duration")]
    pub deadline: Option<Duration>,
    pub on_deadline: OnDeadline,
    pub max_concurrent: u32,
}

/// What a promotion demands.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PromoteSettings {
    pub min_healthy_percent: u32,
    /// None: no limit, written `unlimited`.
    #[serde(deserialize_with = "limit")]
    pub max_replication_lag_ms: Option<u64>,
    #[serde(deserialize_with = "duration")]
    pub fence_timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalSettings {
    pub rules: Vec<Rule>,
}

/// When an operation has to be approved, and by whom. [`crate::rules`] applies it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Unique among the rules.
    pub name: String,
    /// As in [`Verb`](crate::operation::Verb).
    pub verbs: Vec<String>,
    /// Of the target's labels; none: every target.
    pub selector: Option<String>,
    pub gate: GateAt,
    /// Distinct approvers, at least 1.
    pub required: u32,
    /// `mesh.approve` or `mesh.admin`.
    pub approver_scope: String,
    #[serde(deserialize_with = "duration")]
    pub expires_in: Duration,
    pub require_ticket: bool,
}

/// How much may be out of service at once.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DisruptionSettings {
    /// Peers of a cluster that does not say so itself.
    pub max_unavailable: Option<Amount>,
    /// Workloads of a service, in each cluster.
    pub services: BTreeMap<String, Amount>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeartbeatSettings {
    /// Silence after which a peer is unreachable.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
}

/// A setting that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSetting {
    #[error("{key} must be {rule}, not {found}")]
    Value { key: String, rule: String, found: String },
    #[error("{key} is missing: it must be {rule}")]
    Missing { key: String, rule: String },
    #[error("{key} is no setting; {rule}")]
    Unknown { key: String, rule: String },
}

impl InvalidSetting {
    /// The setting's path: `approvals.rules[0].required`; `settings` for the whole.
    pub fn key(&self) -> &str {
        let (InvalidSetting::Value { key, .. }
        | InvalidSetting::Missing { key, .. }
        | InvalidSetting::Unknown { key, .. }) = self;
        key
    }

    /// What it has to be: `a whole number of at least 1`.
    pub fn rule(&self) -> &str {
        let (InvalidSetting::Value { rule, .. }
        | InvalidSetting::Missing { rule, .. }
        | InvalidSetting::Unknown { rule, .. }) = self;
        rule
    }
}

impl Settings {
    /// What holds where nobody has set anything.
    pub fn default_value() -> Value {
        spec::complete(&json!({})).unwrap_or_else(|wrong| unreachable!("every setting has a valid default: {wrong}"))
    }

    /// Reads settings; what is not there has its default.
    pub fn parse(value: &Value) -> Result<Self, InvalidSetting> {
        Self::completed(value).map(|(_, settings)| settings)
    }

    /// The settings after a merge patch, whole and valid: as they are to be stored, and read. Keys that do not exist are refused
    /// even where the patch only takes them away.
    pub fn patched(current: &Value, patch: &Value) -> Result<(Value, Self), InvalidSetting> {
        spec::known(patch)?;
        let mut whole = current.clone();
        patch::merge(&mut whole, patch);
        Self::completed(&whole)
    }

    /// Reads settings that are on record. They were valid when they were written, perhaps by a newer version: what this one does
    /// not know is left out, because a replica that went by nothing would be worse.
    pub fn stored(value: &Value) -> Result<(Value, Self), InvalidSetting> {
        let mut known = value.clone();
        loop {
            match Self::completed(&known) {
                Err(InvalidSetting::Unknown { key, .. }) if remove(&mut known, &key) => {}
                read => return read,
            }
        }
    }

    fn completed(value: &Value) -> Result<(Value, Self), InvalidSetting> {
        let whole = spec::complete(value)?;
        let settings: Self = read(&whole)?;
        let mut names = BTreeSet::from([BY_REQUEST, GUARD]);
        for (n, rule) in settings.approvals.rules.iter().enumerate() {
            if !names.insert(&rule.name) {
                return Err(InvalidSetting::Value {
                    key: format!("approvals.rules[{n}].name"),
                    rule: format!("a name that no other rule has, nor {BY_REQUEST} or {GUARD}"),
                    found: format!("{:?}", rule.name),
                });
            }
            rule.has_its_gate(n)?;
        }
        Ok((whole, settings))
    }
}

/// Takes the member at a path like `drain.newer` away; false where there is none.
fn remove(value: &mut Value, path: &str) -> bool {
    let (parents, name) = path.rsplit_once('.').map_or((None, path), |(parents, name)| (Some(parents), name));
    let mut at = value;
    for step in parents.into_iter().flat_map(|parents| parents.split('.')) {
        let (name, index) = match step.split_once('[') {
            Some((name, rest)) => (name, rest.trim_end_matches(']').parse::<usize>().ok()),
            None => (step, None),
        };
        let Some(next) = at.get_mut(name) else { return false };
        at = match index {
            None => next,
            Some(index) => match next.get_mut(index) {
                Some(member) => member,
                None => return false,
            },
        };
    }
    at.as_object_mut().is_some_and(|members| members.remove(name).is_some())
}

impl Rule {
    /// A rule about operations that never come to its gate would ask nobody, and nobody would notice.
    fn has_its_gate(&self, n: usize) -> Result<(), InvalidSetting> {
        let known: &[Verb] = match self.gate {
            GateAt::Start => Verb::ALL,
            GateAt::Rest => &[Verb::PeersDrain],
            GateAt::Cutover => &[Verb::ClustersPromote, Verb::ClustersDemote],
        };
        let without = self.verbs.iter().position(|text| !known.iter().any(|verb| verb.as_str() == text));
        let Some(without) = without else { return Ok(()) };
        let known: Vec<&str> = known.iter().map(|verb| verb.as_str()).collect();
        Err(InvalidSetting::Value {
            key: format!("approvals.rules[{n}].verbs[{without}]"),
            rule: format!("one of {}, which have a {} gate", known.join(", "), self.gate),
            found: format!("{:?}", self.verbs[without]),
        })
    }
}

/// A setting that differs between two revisions.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Changed {
    /// `drain.maxConcurrent`.
    pub key: String,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

/// The settings that differ, by their paths. Lists are compared as wholes.
pub fn changes(before: &Value, after: &Value) -> Vec<Changed> {
    let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
    flatten("", before, &mut old);
    flatten("", after, &mut new);
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    keys.into_iter()
        .filter(|key| old.get(*key) != new.get(*key))
        .map(|key| Changed { key: key.clone(), before: old.get(key).cloned(), after: new.get(key).cloned() })
        .collect()
}

fn flatten(path: &str, value: &Value, all: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, value, all);
            }
        }
        other => {
            all.insert(path.to_owned(), other.clone());
        }
    }
}

/// What a gate of a request demands beside where it stands.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Demands {
    pub gate: GateAt,
    pub required: u32,
    pub approver_scope: String,
    #[serde(deserialize_with = "duration")]
    pub expires_in: Duration,
    pub require_ticket: bool,
}

/// The members of a gate that a request asks for, by the same list as those of a rule.
pub(crate) fn gate_request(value: &Value) -> Result<Demands, InvalidSetting> {
    read(&spec::gate_request(value)?)
}

/// What the list has found right always fits; were it not so, this says where.
fn read<T: serde::de::DeserializeOwned>(whole: &Value) -> Result<T, InvalidSetting> {
    T::deserialize(whole).map_err(|error| InvalidSetting::Value {
        key: "settings".to_owned(),
        rule: "as the schema has it".to_owned(),
        found: error.to_string(),
    })
}

impl Default for Settings {
    fn default() -> Self {
        Self::parse(&json!({})).unwrap_or_else(|wrong| unreachable!("every setting has a valid default: {wrong}"))
    }
}

/// The JSON Schema (draft 2020-12) of the settings, with descriptions, defaults and bounds.
pub fn schema() -> Value {
    spec::schema()
}

/// Durations are humantime text.
fn duration<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    humantime::parse_duration(&text).map_err(serde::de::Error::custom)
}

fn maybe_duration<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    text.map(|text| humantime::parse_duration(&text).map_err(serde::de::Error::custom)).transpose()
}

/// Checked before: a number, or the word for none.
fn limit<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    Ok(Value::deserialize(from)?.as_u64())
}
