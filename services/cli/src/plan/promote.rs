//! The plan of a promotion or a demotion: how fit the clusters are, which steps follow, until when it can be cancelled.

use omnirelay_contract::rest::{ClusterImpact, FailoverImpact, Plan};
use omnirelay_contract::workflow::operation::BlockerCode;

use super::{Setting, blockers, gates, line, waits};

/// Names in a line before the rest is counted.
const NAMES: usize = 6;

/// What is asked for, in words that are also the command's.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// None: a demotion alone.
    pub promote: Option<String>,
    pub demote: Vec<String>,
}

impl Asked {
    /// `promote ams1, demote fra1`.
    pub fn text(&self) -> String {
        let promote = self.promote.iter().map(|cluster| format!("promote {cluster}"));
        let demote = (!self.demote.is_empty()).then(|| format!("demote {}", self.demote.join(", ")));
        promote.chain(demote).collect::<Vec<_>>().join(", ")
    }

    /// The cluster whose name is typed.
    pub fn target(&self) -> &str {
        self.promote.as_deref().or(self.demote.first().map(String::as_str)).unwrap_or_default()
    }
}

/// The lines of the plan.
pub fn lines(plan: &Plan, asked: &Asked, setting: Setting<'_>) -> Vec<String> {
    let mut lines = vec![setting.head(&asked.text(), "")];
    let Ok(impact) = serde_json::from_value::<FailoverImpact>(plan.impact.clone()) else {
        lines.push(line("impact", &plan.impact.to_string()));
        lines.extend(blockers(plan, setting));
        lines.extend(gates(plan));
        return lines;
    };
    lines.extend(impact.promote.iter().map(|cluster| promoted(cluster, &impact)));
    lines.extend(impact.demote.iter().map(|cluster| line(cluster.cluster.as_str(), &health(cluster))));
    lines.push(line("steps", &steps(plan, &impact)));
    if !impact.unreachable.is_empty() {
        let names: Vec<&str> = impact.unreachable.iter().take(NAMES).map(|peer| peer.as_str()).collect();
        let more = impact.unreachable.len() - names.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        lines.push(line("warn", &format!("do not answer: {}{more}; fenced when they come back", names.join(", "))));
    }
    lines.extend(impact.overridden.iter().map(|passed| line("force", &format!("in spite of: {passed}"))));
    if impact.active_after <= 1 {
        let left = if impact.active_after == 1 { "one active cluster" } else { "no active cluster" };
        lines.push(line("after", &format!("{left} in the mesh")));
    }
    // Who does not answer has been said, in one line for all of them.
    let others = plan.blockers.iter().filter(|blocker| blocker.code != BlockerCode::PeerUnreachable);
    lines.extend(waits(others, setting));
    lines.extend(gates(plan));
    let after = impact.inverse.as_ref().and_then(crate::failure::command_of_inverse);
    let after = after.map_or_else(String::new, |command| format!("; after it: {command}"));
    lines.push(line("cancel", &format!("until cutover{after}")));
    lines
}

/// `  ams1     38/40 healthy, lag 120ms (limit 500ms)`
fn promoted(cluster: &ClusterImpact, impact: &FailoverImpact) -> String {
    let mut text = health(cluster);
    if let Some(limit) = impact.max_replication_lag_ms.filter(|_| cluster.replication_lag_ms.is_some()) {
        text.push_str(&format!(" (limit {limit}ms)"));
    }
    line(cluster.cluster.as_str(), &text)
}

fn health(cluster: &ClusterImpact) -> String {
    let lag = cluster.replication_lag_ms.map(|lag| format!(", lag {lag}ms")).unwrap_or_default();
    format!("{}/{} healthy{lag}", cluster.healthy_peers, cluster.peers)
}

fn steps(plan: &Plan, impact: &FailoverImpact) -> String {
    let gated = plan.approval.as_ref().is_some_and(|approval| !approval.gates.is_empty());
    let approve = if gated { "approve > " } else { "" };
    format!("{approve}fence {} agents > cutover > verify", impact.fence)
}
