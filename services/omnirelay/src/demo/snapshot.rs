//! How peers and workloads stand, so that two moments can be compared.

use std::collections::BTreeMap;
use std::fmt;

use omnirelay_contract::rest::{Page, Peer, Workload};
use serde_json::{Value, json};

use super::api::Api;

/// What somebody decided or relies on, by resource and member. Left out is what every hand-over changes by its nature and nobody
/// decides (epoch, port, revision, load) and what the clock changes (when a peer was last seen).
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot(BTreeMap<String, Value>);

/// A member that is not what it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    member: String,
    before: Option<Value>,
    after: Option<Value>,
}

impl Snapshot {
    /// Of these peers and everything on them.
    pub async fn take(api: &Api, peers: &[&str]) -> anyhow::Result<Self> {
        let mut members = BTreeMap::new();
        for id in peers {
            let peer: Peer = api.get(&format!("/control/peers/{id}")).await?;
            let page: Page<Workload> = api.get(&format!("/control/peers/{id}/workloads")).await?;
            insert(&mut members, &format!("peers/{id}"), &peer_members(&peer));
            for workload in page.items {
                insert(&mut members, &format!("workloads/{}", workload.id), &workload_members(&workload));
            }
        }
        Ok(Self(members))
    }

    pub fn members(&self) -> usize {
        self.0.len()
    }

    /// Every member that differs.
    pub fn differences(&self, after: &Snapshot) -> Vec<Difference> {
        let members: std::collections::BTreeSet<&String> = self.0.keys().chain(after.0.keys()).collect();
        members
            .into_iter()
            .filter(|member| self.0.get(*member) != after.0.get(*member))
            .map(|member| Difference {
                member: member.clone(),
                before: self.0.get(member).cloned(),
                after: after.0.get(member).cloned(),
            })
            .collect()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |value: &Option<Value>| value.as_ref().map_or_else(|| "(absent)".to_owned(), Value::to_string);
        write!(f, "{}: {} -> {}", self.member, show(&self.before), show(&self.after))
    }
}

fn insert(members: &mut BTreeMap<String, Value>, resource: &str, value: &Value) {
    for (name, value) in value.as_object().into_iter().flatten() {
        members.insert(format!("{resource} {name}"), value.clone());
    }
}

fn peer_members(peer: &Peer) -> Value {
    json!({
        "cluster": peer.cluster, "role": peer.role, "labels": peer.labels, "metadata": peer.metadata,
        "state": peer.state, "schedulable": peer.schedulable, "holds": peer.holds, "health": peer.health,
        "workloads": peer.workloads, "operation": peer.operation,
    })
}

fn workload_members(workload: &Workload) -> Value {
    json!({
        "peer": workload.peer, "service": workload.service, "labels": workload.labels, "handover": workload.handover,
        "restorable": workload.restorable, "ready": workload.ready, "state": workload.state,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(resource: &str, value: &Value) -> Snapshot {
        let mut members = BTreeMap::new();
        insert(&mut members, resource, value);
        Snapshot(members)
    }

    #[test]
    fn the_same_differs_in_nothing() {
        let one = snapshot("peers/web-1", &json!({"state": "cordoned", "holds": [{"owner": "bob"}]}));
        assert_eq!(one.differences(&one.clone()), []);
        assert_eq!(one.members(), 2);
    }

    #[test]
    fn what_changed_came_or_went_is_named() {
        let before = snapshot("workloads/w-1", &json!({"peer": "web-1", "ready": true, "gone": 1}));
        let after = snapshot("workloads/w-1", &json!({"peer": "web-2", "ready": true, "new": 2}));
        let told: Vec<String> = before.differences(&after).iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "workloads/w-1 gone: 1 -> (absent)",
                "workloads/w-1 new: (absent) -> 2",
                r#"workloads/w-1 peer: "web-1" -> "web-2""#,
            ]
        );
    }
}
