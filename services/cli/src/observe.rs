//! How what an operation is about stands now, beside how it stood when its approval was asked for.

use omnirelay_contract::workflow::gate::Gate;
use serde_json::Value;

use crate::client::Client;

/// Resources that are read; of a drain of many there may be a thousand.
const RESOURCES: usize = 8;

/// A resource as it is now; none where it cannot be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// `clusters/ams1`.
    pub resource: String,
    pub value: Option<Value>,
}

/// Reads what the gate's digest is about.
pub async fn now(client: &Client, gate: &Gate) -> Vec<Seen> {
    let mut seen = Vec::new();
    for resource in gate.revisions.keys().take(RESOURCES) {
        let path = match resource.as_str() {
            "config/settings" => "/control/config".to_owned(),
            resource => format!("/control/{resource}"),
        };
        seen.push(Seen { resource: resource.clone(), value: client.get(&path).await.ok() });
    }
    seen
}

/// `now …` for each resource, and what is different from the plan of the request.
pub fn lines(planned: Option<&Value>, gate: &Gate, now: &[Seen]) -> Vec<String> {
    let impact = planned.and_then(|plan| plan.get("impact").or(Some(plan)));
    let limit = impact.and_then(|impact| impact.get("maxReplicationLagMs")).and_then(Value::as_u64);
    let mut lines: Vec<String> = now.iter().map(|seen| format!("now      {}", seen.text(limit))).collect();
    if gate.revisions.len() > now.len() {
        lines.push(format!("         and {} more", gate.revisions.len() - now.len()));
    }
    let changes: Vec<String> = now.iter().flat_map(|seen| seen.changes(impact, gate, limit)).collect();
    let told = match (impact, changes.is_empty()) {
        (_, false) => changes.join("; "),
        (Some(_), true) => "nothing of it has changed".to_owned(),
        (None, true) => return lines,
    };
    lines.push(format!("observed since the request: {told}"));
    lines
}

impl Seen {
    fn id(&self) -> &str {
        self.resource.split_once('/').map_or(&self.resource, |(_, id)| id)
    }

    fn text(&self, limit: Option<u64>) -> String {
        let Some(value) = &self.value else { return format!("{} cannot be read", self.id()) };
        let word = |name: &str| value.get(name).and_then(Value::as_str);
        let number = |name: &str| value.get(name).and_then(Value::as_u64);
        let mut parts: Vec<String> = [word("state"), word("health")].into_iter().flatten().map(str::to_owned).collect();
        if let (Some(healthy), Some(peers)) = (number("healthyPeers"), number("peers")) {
            parts.push(format!("{healthy}/{peers} healthy"));
        }
        parts.extend(number("replicationLagMs").map(|lag| format!("lag {lag}ms{}", limited(limit))));
        parts.extend(number("workloads").map(|workloads| format!("{workloads} workloads")));
        if parts.is_empty() {
            parts.extend(number("revision").map(|revision| format!("revision {revision}")));
        }
        format!("{} {}", self.id(), parts.join(", "))
    }

    /// What is different: the revision that the digest is about, and what the plan had seen.
    fn changes(&self, impact: Option<&Value>, gate: &Gate, limit: Option<u64>) -> Vec<String> {
        let Some(value) = &self.value else { return Vec::new() };
        let id = self.id();
        let mut changes = Vec::new();
        let revision = value.get("revision").and_then(Value::as_u64);
        if let (Some(asked), Some(now)) = (gate.revisions.get(&self.resource), revision)
            && *asked != now
        {
            changes.push(format!("{id} revision {asked} -> {now}"));
        }
        let Some(then) = impact.and_then(|impact| self.planned(impact)) else { return changes };
        let both = |name: &str| {
            let (then, now) = (then.get(name)?, value.get(name)?);
            (then != now && !then.is_null()).then(|| (crate::diff::plain(then), crate::diff::plain(now)))
        };
        let mut tell = |name: &str, word: &str, unit: &str, more: &str| {
            if let Some((then, now)) = both(name) {
                changes.push(format!("{id} {word}{then}{unit} -> {now}{unit}{more}"));
            }
        };
        tell("state", "", "", "");
        tell("healthyPeers", "healthy peers ", "", "");
        tell("replicationLagMs", "lag ", "ms", &limited(limit));
        tell("workloads", "workloads ", "", "");
        changes
    }

    /// The part of the plan's impact that is about it.
    fn planned<'a>(&self, impact: &'a Value) -> Option<&'a Value> {
        let is_it = |part: &&Value| {
            ["cluster", "peer", "id"].iter().any(|name| part.get(*name).and_then(Value::as_str) == Some(self.id()))
        };
        let lists = ["demote", "peers"].into_iter().filter_map(|name| impact.get(name)?.as_array()).flatten();
        impact
            .get("promote")
            .into_iter()
            .chain(lists)
            .find(is_it)
            .or_else(|| (impact.get("peer").and_then(Value::as_str) == Some(self.id())).then_some(impact))
    }
}

fn limited(limit: Option<u64>) -> String {
    limit.map_or_else(String::new, |limit| format!(" (limit {limit}ms)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::gate;
    use serde_json::json;

    #[test]
    fn what_has_changed_since() {
        let check = |planned: Value, resource: &str, value: Value, expected: &[&str]| {
            let mut gate = gate(1);
            gate.revisions = [(resource.to_owned(), 7)].into();
            let seen = Seen { resource: resource.to_owned(), value: (!value.is_null()).then_some(value) };
            let planned = (!planned.is_null()).then_some(planned);
            assert_eq!(lines(planned.as_ref(), &gate, &[seen]), expected);
        };
        let peer = json!({"state": "active", "health": "healthy", "workloads": 9, "revision": 7});
        check(json!(null), "peers/p-7", peer.clone(), &["now      p-7 active, healthy, 9 workloads"]);
        check(
            json!({"impact": {"peer": "p-7", "workloads": 10}}),
            "peers/p-7",
            peer.clone(),
            &["now      p-7 active, healthy, 9 workloads", "observed since the request: p-7 workloads 10 -> 9"],
        );
        check(
            json!({"impact": {"peers": [{"id": "p-7", "workloads": 9}]}}),
            "peers/p-7",
            peer,
            &["now      p-7 active, healthy, 9 workloads", "observed since the request: nothing of it has changed"],
        );
        check(
            json!(null),
            "config/settings",
            json!({"settings": {}, "revision": 8}),
            &["now      settings revision 8", "observed since the request: settings revision 7 -> 8"],
        );
        check(json!(null), "peers/p-7", json!(null), &["now      p-7 cannot be read"]);
    }
}
