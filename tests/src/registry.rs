//! The registry as a client reads it, to be compared before and after.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::api::Api;

/// What changes without anyone's decision, and what counts decisions: not part of a comparison.
const PASSING: &[&str] = &["lastSeen", "health", "revision", "ready", "remaining", "unit", "epoch"];

/// What agents tell, and no request.
const OBSERVED: &[&str] = &["lastSeen", "health", "healthyPeers", "replicationLagMs"];

/// Peers, their workloads, the cluster: each by a path.
#[derive(Debug, Clone, PartialEq)]
pub struct Registry(BTreeMap<String, Value>);

impl Registry {
    pub async fn of_cluster(api: &Api, cluster: &str) -> Self {
        let mut all = BTreeMap::new();
        for peer in api.list(&format!("/control/peers?cluster={cluster}")).await {
            let id = peer["id"].as_str().expect("an id").to_owned();
            for workload in api.list(&format!("/control/peers/{id}/workloads")).await {
                let workload = lasting(workload);
                all.insert(format!("workloads/{}", workload["id"].as_str().expect("an id")), workload);
            }
            all.insert(format!("peers/{id}"), lasting(peer));
        }
        Self(all)
    }

    /// With the cluster itself, the settings, and every revision: what a refused request must leave to the last digit.
    pub async fn to_the_digit(api: &Api, cluster: &str) -> Self {
        let mut all = Self::of_cluster(api, cluster).await.0;
        for mut peer in api.list(&format!("/control/peers?cluster={cluster}")).await {
            let id = peer["id"].as_str().expect("an id").to_owned();
            if let Value::Object(members) = &mut peer {
                members.retain(|name, _| !OBSERVED.contains(&name.as_str()));
            }
            all.insert(format!("peers/{id}"), peer);
        }
        for path in [format!("clusters/{cluster}"), "config".to_owned()] {
            let mut value = api.read(&format!("/control/{path}")).await;
            if let Value::Object(members) = &mut value {
                members.retain(|name, _| !OBSERVED.contains(&name.as_str()));
            }
            all.insert(path, value);
        }
        Self(all)
    }

    /// One line for each member that is not as in `before`.
    pub fn differences(&self, before: &Registry) -> Vec<String> {
        let mut paths: Vec<&String> = self.0.keys().chain(before.0.keys()).collect();
        paths.sort();
        paths.dedup();
        let nothing = Value::Null;
        let mut differences = Vec::new();
        for path in paths {
            let (was, is) = (before.0.get(path).unwrap_or(&nothing), self.0.get(path).unwrap_or(&nothing));
            if was != is {
                differences.push(format!("{path}: was {was}, is {is}"));
            }
        }
        differences
    }

    /// Workload → peer.
    pub fn placement(&self) -> BTreeMap<String, String> {
        let workloads = self.0.iter().filter_map(|(path, value)| Some((path.strip_prefix("workloads/")?, value)));
        workloads.map(|(id, value)| (id.to_owned(), value["peer"].as_str().unwrap_or_default().to_owned())).collect()
    }

    pub fn peer(&self, id: &str) -> &Value {
        &self.0[&format!("peers/{id}")]
    }
}

fn lasting(value: Value) -> Value {
    let Value::Object(members) = value else { return value };
    let kept: Map<String, Value> = members.into_iter().filter(|(name, _)| !PASSING.contains(&name.as_str())).collect();
    Value::Object(kept)
}
