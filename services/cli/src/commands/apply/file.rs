//! What stands in a file for `mesh apply`: YAML documents, each a cluster, a peer or the settings as they are to be.
//!
//! A document is a mapping with `kind` (`Cluster`, `Peer` or `Config`), `id` (of clusters and peers) and the members of the
//! resource, either beside them or below `spec`. A document may also be a list of such mappings. JSON is YAML, too.

use omnirelay_contract::rest::{Cluster, Peer, PutClusterBody, PutPeerBody};
use omnirelay_contract::workflow::{ClusterId, PeerId};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// One thing as it is to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    Cluster {
        id: ClusterId,
        body: PutClusterBody,
    },
    Peer {
        id: PeerId,
        body: PutPeerBody,
    },
    /// A merge patch of the settings: what is not named stays.
    Config {
        settings: Value,
    },
}

/// What is wrong with a file, and in which document, counted from 1.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FileError {
    #[error("it is no YAML: {0}")]
    Yaml(String),
    #[error("document {0}: {1}")]
    Document(usize, String),
    #[error("{0} is there twice")]
    Twice(String),
    #[error("there is nothing in it")]
    Empty,
}

/// Reads a whole file. Clusters come first, then peers, then the settings: a peer needs its cluster.
pub fn parse(text: &str) -> Result<Vec<Wanted>, FileError> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| FileError::Yaml(error.to_string()))?;
    let mut wanted: Vec<Wanted> = Vec::new();
    for (n, document) in documents.into_iter().enumerate() {
        let items = match document {
            Value::Array(items) => items,
            // Between two separators.
            Value::Null => continue,
            one => vec![one],
        };
        for item in items {
            let one = read(item).map_err(|why| FileError::Document(n + 1, why))?;
            if wanted.iter().any(|other| other.path() == one.path()) {
                return Err(FileError::Twice(one.label()));
            }
            wanted.push(one);
        }
    }
    if wanted.is_empty() {
        return Err(FileError::Empty);
    }
    wanted.sort_by_key(Wanted::order);
    Ok(wanted)
}

impl Wanted {
    /// `cluster fra1`.
    pub fn label(&self) -> String {
        match self {
            Wanted::Cluster { id, .. } => format!("cluster {id}"),
            Wanted::Peer { id, .. } => format!("peer {id}"),
            Wanted::Config { .. } => "config settings".to_owned(),
        }
    }

    pub const fn kind(&self) -> &'static str {
        match self {
            Wanted::Cluster { .. } => "Cluster",
            Wanted::Peer { .. } => "Peer",
            Wanted::Config { .. } => "Config",
        }
    }

    pub fn id(&self) -> Option<&str> {
        match self {
            Wanted::Cluster { id, .. } => Some(id.as_str()),
            Wanted::Peer { id, .. } => Some(id.as_str()),
            Wanted::Config { .. } => None,
        }
    }

    pub fn path(&self) -> String {
        match self {
            Wanted::Cluster { id, .. } => format!("/control/clusters/{id}"),
            Wanted::Peer { id, .. } => format!("/control/peers/{id}"),
            Wanted::Config { .. } => "/control/config".to_owned(),
        }
    }

    const fn order(&self) -> u8 {
        match self {
            Wanted::Cluster { .. } => 0,
            Wanted::Peer { .. } => 1,
            Wanted::Config { .. } => 2,
        }
    }

    /// What the file says, as it can be compared with what is there. What a peer's agent tells and the file leaves out (`name`,
    /// `address`, `capacity`) stays, and so is not compared; `state` is only for a creation.
    pub fn desired(&self, current: Option<&Value>) -> Value {
        match self {
            Wanted::Cluster { body, .. } => {
                let mut desired = json!({"region": body.region.clone().unwrap_or_default(),
                    "priority": body.priority.unwrap_or_default(), "labels": body.labels,
                    "maxUnavailable": body.max_unavailable.as_ref().map(amount)});
                if current.is_none() {
                    add(&mut desired, "state", body.state.map(|state| json!(state)));
                }
                desired
            }
            Wanted::Peer { body, .. } => {
                let mut desired = json!({"role": body.role.clone().unwrap_or_default(), "labels": body.labels,
                    "metadata": body.metadata.clone().filter(|value| !value.is_null()).unwrap_or_else(|| json!({}))});
                add(&mut desired, "cluster", body.cluster.as_ref().map(|cluster| json!(cluster)));
                add(&mut desired, "name", body.name.as_ref().map(|name| json!(name)));
                add(&mut desired, "address", body.address.as_ref().map(|address| json!(address)));
                add(&mut desired, "capacity", body.capacity.map(|capacity| json!(capacity)));
                if current.is_none() {
                    add(&mut desired, "state", body.state.map(|state| json!(state)));
                }
                desired
            }
            Wanted::Config { settings } => crate::diff::merged(current.unwrap_or(&Value::Null), settings),
        }
    }

    /// The same members of what is there; `answer` is the resource as the API gives it.
    pub fn comparable(&self, answer: &Value) -> Result<Value, serde_json::Error> {
        Ok(match self {
            Wanted::Cluster { .. } => {
                let it: Cluster = serde_json::from_value(answer.clone())?;
                json!({"region": it.region, "priority": it.priority, "labels": it.labels,
                    "maxUnavailable": it.max_unavailable.map(|of| amount(&json!(of)))})
            }
            Wanted::Peer { body, .. } => {
                let it: Peer = serde_json::from_value(answer.clone())?;
                let mut value = json!({"role": it.role, "labels": it.labels, "metadata": it.metadata});
                add(&mut value, "cluster", body.cluster.as_ref().map(|_| json!(it.cluster)));
                add(&mut value, "name", body.name.as_ref().map(|_| json!(it.name)));
                add(&mut value, "address", body.address.as_ref().map(|_| json!(it.address)));
                add(&mut value, "capacity", body.capacity.map(|_| json!(it.capacity)));
                value
            }
            Wanted::Config { .. } => answer.get("settings").cloned().unwrap_or_default(),
        })
    }

    /// The body of the request. `state` is said only where the resource is created.
    pub fn body(&self, creates: bool, reason: Option<&str>, ticket: Option<&str>) -> Result<Value, serde_json::Error> {
        let mut value = match self {
            Wanted::Cluster { body, .. } => serde_json::to_value(body)?,
            Wanted::Peer { body, .. } => serde_json::to_value(body)?,
            Wanted::Config { settings } => json!({"settings": settings}),
        };
        if let Some(members) = value.as_object_mut() {
            if !creates {
                members.remove("state");
            }
            members.extend(reason.map(|reason| ("reason".to_owned(), reason.into())));
            members.extend(ticket.map(|ticket| ("changeTicket".to_owned(), ticket.into())));
        }
        Ok(value)
    }
}

fn read(item: Value) -> Result<Wanted, String> {
    let Value::Object(mut members) = item else { return Err("it is no mapping with a kind".to_owned()) };
    let kind = text(&mut members, "kind")?.ok_or("kind is missing: Cluster, Peer or Config")?;
    let id = text(&mut members, "id")?;
    let body = match members.remove("spec") {
        Some(Value::Object(spec)) if members.is_empty() => spec,
        Some(Value::Object(_)) => {
            let beside: Vec<&str> = members.keys().map(String::as_str).collect();
            return Err(format!("{} beside spec: put it below", beside.join(", ")));
        }
        Some(_) => return Err("spec is no mapping".to_owned()),
        None => members,
    };
    let named = || id.clone().ok_or_else(|| "id is missing".to_owned());
    for word in ["reason", "changeTicket", "confirmation"] {
        if body.contains_key(word) {
            return Err(format!("{word} is said on the command line: --reason, --ticket"));
        }
    }
    match kind.as_str() {
        "Cluster" => Ok(Wanted::Cluster { id: wrong(ClusterId::parse(&named()?))?, body: body_of(body)? }),
        "Peer" => Ok(Wanted::Peer { id: wrong(PeerId::parse(&named()?))?, body: body_of(body)? }),
        "Config" if id.as_deref().is_none_or(|id| id == "settings") => {
            // Below `settings`, or the settings themselves.
            let mut body = body;
            let settings = match body.remove("settings") {
                Some(settings) if body.is_empty() => settings,
                Some(_) => return Err("there is more beside settings".to_owned()),
                None => Value::Object(body),
            };
            if settings.is_object() {
                Ok(Wanted::Config { settings })
            } else {
                Err("settings is no mapping".to_owned())
            }
        }
        "Config" => Err("there is one Config only: leave its id out".to_owned()),
        other => Err(format!("kind {other:?} is none of Cluster, Peer, Config")),
    }
}

fn body_of<T: DeserializeOwned>(members: Map<String, Value>) -> Result<T, String> {
    serde_json::from_value(Value::Object(members)).map_err(|error| error.to_string())
}

fn text(members: &mut Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    match members.remove(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(format!("{name} is no text but {other}; write it in quotes")),
    }
}

fn wrong<T, E: std::fmt::Display>(parsed: Result<T, E>) -> Result<T, String> {
    parsed.map_err(|error| error.to_string())
}

fn add(object: &mut Value, name: &str, value: Option<Value>) {
    if let (Some(members), Some(value)) = (object.as_object_mut(), value) {
        members.insert(name.to_owned(), value);
    }
}

/// A number or a percentage, as the API gives it.
fn amount(value: &Value) -> String {
    crate::diff::plain(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESH: &str = "\
kind: Config
settings:
  drain: {maxConcurrent: 8}
---
- kind: Peer
  id: web-07
  cluster: fra1
  labels: {zone: a}
- kind: Peer
  id: web-08
  spec: {cluster: fra1, capacity: 20}
---
kind: Cluster
id: fra1
region: eu
maxUnavailable: 25%
state: active
---
";

    #[test]
    fn documents_and_lists_in_the_order_of_need() {
        let wanted = parse(MESH).expect("a mesh");
        let labels: Vec<String> = wanted.iter().map(Wanted::label).collect();
        assert_eq!(labels, ["cluster fra1", "peer web-07", "peer web-08", "config settings"]);
        assert_eq!(
            wanted[0].body(true, Some("setup"), Some("CHG-1")).expect("json"),
            json!({"region": "eu", "maxUnavailable": "25%", "state": "active", "reason": "setup", "changeTicket": "CHG-1"})
        );
        assert_eq!(wanted[0].body(false, None, None).expect("json").get("state"), None);
        assert_eq!(
            wanted[3].body(false, None, None).expect("json"),
            json!({"settings": {"drain": {"maxConcurrent": 8}}})
        );
    }

    #[test]
    fn what_is_left_out_is_empty_but_for_what_agents_tell() {
        let wanted = parse(MESH).expect("a mesh");
        let peer = json!({"id": "web-07", "name": "host-7", "cluster": "fra1", "role": "web", "address": "10.0.0.7",
            "version": "1", "labels": {"zone": "a", "tier": "1"}, "metadata": {}, "health": "healthy",
            "schedulable": true, "state": "active", "holds": [], "workloads": 1, "capacity": 10, "lastSeen": null,
            "operation": null, "revision": 3});
        let before = wanted[1].comparable(&peer).expect("a peer");
        let after = wanted[1].desired(Some(&before));
        assert_eq!(crate::diff::keys(&before, &after), ["labels.tier: 1 -> nothing", "role: web -> "]);
        let cluster = json!({"id": "fra1", "region": "eu", "priority": 0, "state": "passive", "failoverVersion": 3,
            "peers": 1, "healthyPeers": 1, "replicationLagMs": null, "maxUnavailable": "25%", "labels": {},
            "operation": null, "revision": 4});
        let before = wanted[0].comparable(&cluster).expect("a cluster");
        assert_eq!(before, wanted[0].desired(Some(&before)), "its state is nothing that a file changes");
        let counted = parse("kind: Cluster\nid: fra1\nregion: eu\nmaxUnavailable: 2").expect("a cluster");
        let mut two = cluster;
        two["maxUnavailable"] = json!(2);
        let before = counted[0].comparable(&two).expect("a cluster");
        assert_eq!(before, counted[0].desired(Some(&before)));
        let settings = json!({"settings": {"drain": {"maxConcurrent": 4, "deadline": null}}, "revision": 1});
        let before = wanted[3].comparable(&settings).expect("settings");
        assert_eq!(crate::diff::keys(&before, &wanted[3].desired(Some(&before))), ["drain.maxConcurrent: 4 -> 8"]);
    }

    #[test]
    fn mistakes_are_named() {
        let check = |text: &str, expected: &str| {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        };
        check("", "nothing in it");
        check("a: [", "no YAML");
        check("- 1", "document 1: it is no mapping");
        check("id: a", "kind is missing");
        check("kind: Peer", "id is missing");
        check("kind: Node\nid: a", "\"Node\" is none of Cluster, Peer, Config");
        check("kind: Peer\nid: 7", "in quotes");
        check("kind: Peer\nid: a.b", "a.b");
        check("kind: Peer\nid: a\ncolour: red", "unknown field `colour`");
        check("kind: Peer\nid: a\nspec: {}\nrole: x", "role beside spec");
        check("kind: Peer\nid: a\nreason: x", "--reason");
        check("kind: Config\nid: other", "one Config only");
        check("kind: Peer\nid: a\n---\nkind: Peer\nid: a", "peer a is there twice");
    }
}
