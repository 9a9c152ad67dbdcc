//! The policy: what is approved, rejected and staged, and the pure function that decides.
//!
//! A rejection that fits wins over everything, since it is final and somebody wrote it down. In a freeze nothing is approved. Then
//! the first approval that fits counts. Whatever is left is left to people.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Time;
use jiff::tz::Offset;
use regex::Regex;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

#[cfg(test)]
mod tests;

/// A planned change that is later than this is not staged any more: somebody has to look first.
const TOO_LATE: Duration = Duration::from_secs(3600);

#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("cannot read the policy {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("the policy {path}: {source}")]
    Parse { path: String, source: Box<toml::de::Error> },
    #[error("{key}: {reason}")]
    Invalid { key: String, reason: String },
}

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// How often to look at what waits without being told. Rules about the time are as exact as this.
    #[serde(default = "half_a_minute", deserialize_with = "duration")]
    poll: Duration,
    #[serde(default)]
    reject: Vec<Reject>,
    #[serde(default)]
    freeze: Vec<Freeze>,
    #[serde(default)]
    approve: Vec<Approve>,
    #[serde(default)]
    stage: Vec<Stage>,
}

/// All that it says must hold.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Approve {
    /// `clusters.promote`, `peers.drain`, …
    verbs: Vec<String>,
    /// Every cluster concerned must be one of these.
    clusters: Option<BTreeSet<String>>,
    require_ticket: Option<Pattern>,
    /// Of the day, in UTC.
    between: Option<Between>,
    max_peers: Option<usize>,
    comment: String,
}

/// Of what it names, everything must be so.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reject {
    verbs: Vec<String>,
    /// One cluster concerned is one of these.
    clusters: Option<BTreeSet<String>>,
    /// There is no ticket like this.
    without_ticket: Option<Pattern>,
    outside: Option<Between>,
    more_peers_than: Option<usize>,
    comment: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Freeze {
    from: Timestamp,
    until: Timestamp,
    comment: String,
}

/// A change that the bot asks for itself, at a time or after an event. Others approve it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stage {
    name: String,
    at: Option<Timestamp>,
    /// `peers.health`: the resource and what has happened to it.
    on: Option<String>,
    /// Members of the event's data that must be so.
    #[serde(default)]
    when: Map<String, Value>,
    /// `/control/peers/{id}:cordon`; `{id}` is what the event is about.
    path: String,
    body: Map<String, Value>,
}

/// What somebody wants to do.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    pub operation: String,
    pub verb: String,
    pub target: String,
    pub requester: String,
    pub ticket: Option<String>,
    /// Those concerned, by name. A promotion concerns clusters only.
    pub peers: Vec<String>,
    pub clusters: BTreeSet<String>,
    /// Binds all of this: sent with the decision.
    pub digest: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Approve {
        comment: String,
    },
    Reject {
        comment: String,
    },
    /// To people, or to another bot.
    Leave {
        why: String,
    },
}

/// A change to be asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Staged {
    pub name: String,
    /// The same for the same cause, so that it is done once.
    pub key: String,
    pub path: String,
    pub body: Value,
}

/// `me` is whose token the bot has: nobody approves what they asked for themselves.
pub fn decide(policy: &Policy, me: Option<&str>, request: &Request, now: Timestamp) -> Decision {
    if me == Some(request.requester.as_str()) {
        return Decision::Leave { why: "this bot has asked for it".to_owned() };
    }
    if let Some(rule) = policy.reject.iter().find(|rule| rule.fits(request, now)) {
        return Decision::Reject { comment: rule.comment.clone() };
    }
    if let Some(freeze) = policy.freeze.iter().find(|freeze| freeze.from <= now && now < freeze.until) {
        return Decision::Leave { why: format!("freeze until {}: {}", freeze.until, freeze.comment) };
    }
    let mut against = Vec::new();
    for rule in policy.approve.iter().filter(|rule| rule.verbs.contains(&request.verb)) {
        match rule.against(request, now) {
            None => return Decision::Approve { comment: rule.comment.clone() },
            Some(why) => against.push(why),
        }
    }
    let why = if against.is_empty() { format!("no rule for {}", request.verb) } else { against.join("; ") };
    Decision::Leave { why }
}

impl Approve {
    /// What speaks against it, if anything does.
    fn against(&self, request: &Request, now: Timestamp) -> Option<String> {
        if let Some(wanted) = &self.clusters
            && let Some(other) = request.clusters.iter().find(|id| !wanted.contains(*id))
        {
            return Some(format!("cluster {other} is not in the rule"));
        }
        if let Some(Pattern(pattern)) = &self.require_ticket
            && !request.ticket.as_deref().is_some_and(|ticket| pattern.is_match(ticket))
        {
            return Some(format!("no ticket like {pattern}"));
        }
        if self.between.as_ref().is_some_and(|between| !between.contains(now)) {
            return Some("not at this time of the day".to_owned());
        }
        self.max_peers
            .filter(|max| request.peers.len() > *max)
            .map(|max| format!("{} peers are more than {max}", request.peers.len()))
    }
}

impl Reject {
    fn fits(&self, request: &Request, now: Timestamp) -> bool {
        let ticket = request.ticket.as_deref();
        self.verbs.contains(&request.verb)
            && self.clusters.as_ref().is_none_or(|clusters| !clusters.is_disjoint(&request.clusters))
            && self.without_ticket.as_ref().is_none_or(|p| !ticket.is_some_and(|ticket| p.0.is_match(ticket)))
            && self.outside.as_ref().is_none_or(|between| !between.contains(now))
            && self.more_peers_than.is_none_or(|max| request.peers.len() > max)
    }
}

impl Request {
    /// What an operation asks for, if it has an open gate at which `me` has not spoken. The clusters of peers are not in it.
    pub fn of(operation: &Value, me: Option<&str>) -> Option<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let texts = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
        let gate = &operation["approval"];
        let spoken =
            gate["approvals"].as_array().is_some_and(|all| all.iter().any(|given| given["actor"].as_str() == me));
        if gate["status"] != "open" || spoken {
            return None;
        }
        let mut request = Self {
            operation: text(&operation["id"]),
            verb: text(&operation["verb"]),
            target: text(&operation["target"]),
            requester: text(&operation["actor"]),
            ticket: operation["changeTicket"].as_str().map(str::to_owned),
            digest: text(&gate["digest"]),
            ..Self::default()
        };
        let params = &operation["params"];
        match request.target.split_once('/') {
            Some(("clusters", id)) => {
                request.clusters.insert(id.to_owned());
                request.clusters.extend(texts(&params["demote"]));
            }
            // A drain of many has its frozen list; anything else is about one.
            Some(("peers", id)) => {
                let many = texts(&params["peers"]);
                request.peers = if many.is_empty() { vec![id.to_owned()] } else { many };
            }
            _ => {}
        }
        Some(request)
    }
}

impl Policy {
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| PolicyError::Read { path: name.clone(), source })?;
        let policy: Self =
            toml::from_str(&text).map_err(|source| PolicyError::Parse { path: name, source: Box::new(source) })?;
        policy.check()?;
        Ok(policy)
    }

    fn check(&self) -> Result<(), PolicyError> {
        let invalid = |key: String, reason: &str| Err(PolicyError::Invalid { key, reason: reason.to_owned() });
        if self.poll < Duration::from_secs(1) {
            return invalid("poll".to_owned(), "at least 1s");
        }
        for (n, freeze) in self.freeze.iter().enumerate() {
            if freeze.until <= freeze.from {
                return invalid(format!("freeze[{n}].until"), "it must be later than from");
            }
        }
        let mut names = BTreeSet::new();
        for (n, stage) in self.stage.iter().enumerate() {
            if !names.insert(&stage.name) {
                return invalid(format!("stage[{n}].name"), "another one has this name");
            }
            if stage.at.is_some() == stage.on.is_some() {
                return invalid(format!("stage[{n}]"), "it needs `at` or `on`, not both");
            }
            if stage.on.as_ref().is_some_and(|on| on.split('.').filter(|word| is_word(word)).count() != 2) {
                return invalid(format!("stage[{n}].on"), "a resource and what happened to it, like peers.health");
            }
            if !stage.path.starts_with("/control/") {
                return invalid(format!("stage[{n}].path"), "a route, like /control/peers/{id}:cordon");
            }
            // Without one it would not be staged but done.
            if !stage.body.contains_key("gate") {
                return invalid(format!("stage[{n}].body"), "it needs gate = \"start\", so that somebody approves it");
            }
        }
        Ok(())
    }

    /// The NATS subjects that something is staged after.
    pub fn subjects(&self) -> BTreeSet<String> {
        let parts = self.stage.iter().filter_map(|stage| stage.on.as_deref()?.split_once('.'));
        parts.map(|(resource, what)| format!("omni.v1.event.{resource}.*.{what}")).collect()
    }

    /// What is to be staged after an event.
    pub fn after(&self, event: &Value) -> Vec<Staged> {
        let kind = event["type"].as_str().and_then(|kind| kind.strip_prefix("omnirelay."));
        let id = event["subject"].as_str().and_then(|subject| subject.split_once('/')).map(|(_, id)| id);
        let (Some(kind), Some(id)) = (kind, id) else { return Vec::new() };
        let concerned = self.stage.iter().filter(|stage| {
            stage.on.as_deref() == Some(kind) && stage.when.iter().all(|(name, value)| event["data"][name] == *value)
        });
        concerned.map(|stage| stage.staged(id, event["id"].as_str().unwrap_or_default())).collect()
    }

    /// What is to be staged by now. A change that was missed by an hour is not.
    pub fn due(&self, now: Timestamp) -> Vec<Staged> {
        let due = |at: &Timestamp| *at <= now && now.duration_since(*at).unsigned_abs() < TOO_LATE;
        let planned = self.stage.iter().filter_map(|stage| stage.at.filter(due).map(|at| (stage, at)));
        planned.map(|(stage, at)| stage.staged("", &at.as_second().to_string())).collect()
    }

    /// Until the next poll, or the next change that is planned before it.
    pub fn next_look(&self, now: Timestamp) -> Duration {
        let planned = self.stage.iter().filter_map(|stage| stage.at).filter(|at| *at > now);
        planned.map(|at| at.duration_since(now).unsigned_abs()).fold(self.poll, Duration::min)
    }
}

impl Stage {
    fn staged(&self, id: &str, cause: &str) -> Staged {
        let fill = |text: &str| text.replace("{id}", id);
        let filled = |(name, value): (&String, &Value)| {
            let value = value.as_str().map_or_else(|| value.clone(), |text| Value::String(fill(text)));
            (name.clone(), value)
        };
        Staged {
            name: self.name.clone(),
            key: format!("bot-{}-{cause}", self.name),
            path: fill(&self.path),
            body: Value::Object(self.body.iter().map(filled).collect()),
        }
    }
}

/// What a ticket looks like.
#[derive(Debug)]
struct Pattern(Regex);

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Regex::new(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// `08:00-18:00`, in UTC; `22:00-06:00` goes over midnight.
#[derive(Debug, PartialEq)]
struct Between(Time, Time);

impl Between {
    fn contains(&self, now: Timestamp) -> bool {
        let (Self(from, until), time) = (self, Offset::UTC.to_datetime(now).time());
        if from <= until { *from <= time && time < *until } else { *from <= time || time < *until }
    }
}

impl<'de> Deserialize<'de> for Between {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let times = text.split_once('-').and_then(|(from, until)| Some((from.parse().ok()?, until.parse().ok()?)));
        let (from, until) =
            times.ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not like 08:00-18:00")))?;
        Ok(Self(from, until))
    }
}

/// Of a subject: nothing in it may be a wildcard.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    humantime::parse_duration(&String::deserialize(from)?).map_err(serde::de::Error::custom)
}

fn half_a_minute() -> Duration {
    Duration::from_secs(30)
}
