//! Of pods and nodes, what the driver looks at.

use std::collections::BTreeMap;
use std::fmt;

use omnirelay_workflow::WorkloadId;
use serde::Deserialize;

use crate::driver::Line;

#[derive(Debug, Deserialize)]
pub struct PodList {
    #[serde(default)]
    pub metadata: ListMetadata,
    pub items: Vec<Pod>,
}

#[derive(Debug, Default, Deserialize)]
pub struct ListMetadata {
    /// Where the next page begins; empty on the last.
    #[serde(rename = "continue")]
    pub next: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Node {
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: NodeSpec,
}

#[derive(Debug, Default, Deserialize)]
pub struct NodeSpec {
    #[serde(default)]
    pub unschedulable: bool,
}

#[derive(Debug, Deserialize)]
pub struct Pod {
    pub metadata: Metadata,
    #[serde(default)]
    pub status: PodStatus,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    pub name: String,
    #[serde(default)]
    pub namespace: String,
    #[serde(default)]
    pub uid: String,
    #[serde(default)]
    pub resource_version: Option<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub owner_references: Vec<Owner>,
    /// When it is to be gone at the latest, once it was told to go.
    #[serde(default)]
    pub deletion_timestamp: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Owner {
    pub kind: String,
    pub name: String,
    #[serde(default)]
    pub controller: bool,
}

#[derive(Debug, Default, Deserialize)]
pub struct PodStatus {
    #[serde(default)]
    pub phase: String,
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

#[derive(Debug, Deserialize)]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    #[serde(default)]
    pub message: String,
}

/// On a pod that the node runs by itself, from a file.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Of the name, in an id: with a hyphen and the uid's beginning it has an id's length at most.
const NAME_IN_ID: usize = 54;
const UID_IN_ID: usize = 8;

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.metadata.namespace, self.metadata.name)
    }
}

impl Pod {
    /// Whether it runs here and could be moved: not bound to the node, not finished.
    pub fn counts(&self) -> bool {
        let daemon = self.controller().is_some_and(|owner| owner.kind == "DaemonSet");
        let finished = matches!(self.status.phase.as_str(), "Succeeded" | "Failed");
        !daemon && !finished && !self.metadata.annotations.contains_key(MIRROR)
    }

    /// The name with the beginning of its uid: a stateful set's pod comes back under its name, elsewhere, as another workload.
    pub fn id(&self) -> Result<WorkloadId, String> {
        let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' };
        let name: String = self.metadata.name.chars().take(NAME_IN_ID).map(safe).collect();
        let uid: String = self.metadata.uid.chars().filter(char::is_ascii_alphanumeric).take(UID_IN_ID).collect();
        if uid.len() < UID_IN_ID {
            return Err(format!("{self} has no uid"));
        }
        WorkloadId::parse(&format!("{name}-{uid}")).map_err(|error| format!("{self}: {error}"))
    }

    pub fn line(&self, id: &WorkloadId) -> Line {
        let (id, ready) = (id.clone(), self.amiss().is_none());
        Line { id, service: self.service(), ready, remaining: None, unit: Some(self.to_string()) }
    }

    /// Why it is not ready.
    pub fn amiss(&self) -> Option<String> {
        if let Some(until) = &self.metadata.deletion_timestamp {
            return Some(format!("{self} ends, at the latest at {until}"));
        }
        match self.status.conditions.iter().find(|condition| condition.kind == "Ready") {
            Some(ready) if ready.status == "True" => None,
            Some(ready) if !ready.message.is_empty() => Some(ready.message.clone()),
            _ => Some(format!("{self} is not ready ({})", self.status.phase)),
        }
    }

    /// What Kubernetes recommends as a name, what most people use, or what made the pod; within its namespace.
    fn service(&self) -> String {
        let labels = &self.metadata.labels;
        let label = labels.get("app.kubernetes.io/name").or_else(|| labels.get("app")).map(String::as_str);
        let name = label.or_else(|| self.controller().map(|owner| owner.name.as_str())).unwrap_or(&self.metadata.name);
        format!("{}/{name}", self.metadata.namespace)
    }

    fn controller(&self) -> Option<&Owner> {
        self.metadata.owner_references.iter().find(|owner| owner.controller)
    }
}

/// A name of Kubernetes (RFC 1123 subdomain): safe in a path and in a selector.
pub fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    !text.is_empty() && text.len() <= 253 && text.chars().all(allowed) && !text.starts_with(['-', '.'])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(change: impl FnOnce(&mut Value)) -> Pod {
        let mut pod = json!({
            "metadata": { "name": "web-1", "namespace": "shop", "uid": "1a2b3c4d-0000-4000-8000-000000000001" },
            "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] },
        });
        change(&mut pod);
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn what_belongs_to_the_node_or_has_finished_does_not_count() {
        let owner = |kind: &str| json!([{ "kind": kind, "name": "x", "controller": true }]);
        assert!(pod(|_| {}).counts());
        assert!(pod(|p| p["metadata"]["ownerReferences"] = owner("ReplicaSet")).counts());
        assert!(!pod(|p| p["metadata"]["ownerReferences"] = owner("DaemonSet")).counts());
        assert!(!pod(|p| p["metadata"]["annotations"] = json!({ MIRROR: "x" })).counts());
        assert!(!pod(|p| p["status"]["phase"] = json!("Succeeded")).counts());
        assert!(pod(|p| p["status"]["phase"] = json!("Pending")).counts());
    }

    #[test]
    fn a_pod_has_an_id_of_its_own_and_a_service() {
        assert_eq!(pod(|_| {}).id().unwrap().as_str(), "web-1-1a2b3c4d");
        let long = pod(|p| p["metadata"]["name"] = json!(format!("db.{}", "x".repeat(200))));
        assert_eq!(long.id().unwrap().as_str().len(), 63);
        assert!(long.id().unwrap().as_str().starts_with("db-xxx"));
        assert_eq!(pod(|p| p["metadata"]["uid"] = json!("")).id().unwrap_err(), "shop/web-1 has no uid");
        let service = |labels: Value| pod(|p| p["metadata"]["labels"] = labels).service();
        assert_eq!(service(json!({ "app": "web", "app.kubernetes.io/name": "checkout" })), "shop/checkout");
        assert_eq!(service(json!({ "app": "web" })), "shop/web");
        assert_eq!(service(json!({})), "shop/web-1");
    }

    #[test]
    fn a_pod_that_ends_or_fails_its_probe_is_not_ready() {
        assert_eq!(pod(|_| {}).amiss(), None);
        let ending = pod(|p| p["metadata"]["deletionTimestamp"] = json!("2026-11-23T12:00:30Z"));
        assert_eq!(ending.amiss().unwrap(), "shop/web-1 ends, at the latest at 2026-11-23T12:00:30Z");
        let told = json!([{ "type": "Ready", "status": "False", "message": "containers with unready status: [web]" }]);
        let failing = pod(|p| p["status"]["conditions"] = told);
        assert_eq!(failing.amiss().unwrap(), "containers with unready status: [web]");
        let pending = pod(|p| p["status"] = json!({ "phase": "Pending" }));
        assert_eq!(pending.amiss().unwrap(), "shop/web-1 is not ready (Pending)");
    }

    #[test]
    fn names_of_nodes_are_safe_in_a_path() {
        for good in ["worker-3", "ip-10-0-0-1.eu-west-1.compute.internal"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-x", "../pods", "a,b=c", "Worker", "a b"] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
