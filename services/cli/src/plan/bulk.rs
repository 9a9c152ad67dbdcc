//! The plan of a drain of many peers: the frozen list in its waves, what the budgets leave free, what to know before a yes.

use omnirelay_contract::rest::{BulkDrainBody, BulkImpact, Plan};
use omnirelay_contract::workflow::gate::GateAt;

use super::{Setting, blockers, budget, deadline, gates, line};
use crate::output::rough;

/// Names in a line before the rest is counted.
const NAMES: usize = 6;
/// Warnings before the rest is counted.
const WARNINGS: usize = 20;

/// What is typed to confirm it: `40 peers`.
pub fn phrase(plan: &Plan) -> String {
    match plan.impact.get("peers").and_then(serde_json::Value::as_array).map(Vec::len) {
        Some(1) => "1 peer".to_owned(),
        Some(count) => format!("{count} peers"),
        None => "all peers".to_owned(),
    }
}

/// The lines of the plan.
pub fn lines(plan: &Plan, request: &BulkDrainBody, setting: Setting<'_>) -> Vec<String> {
    let digest = crate::follow::gate::short(&plan.digest);
    let mut lines = vec![setting.head(&format!("drain {}", phrase(plan)), &format!("   list frozen, digest {digest}"))];
    let impact = serde_json::from_value::<BulkImpact>(plan.impact.clone()).ok();
    match &impact {
        Some(impact) => {
            let names: Vec<&str> = impact.peers.iter().map(|peer| called(&peer.name, peer.id.as_str())).collect();
            lines.push(line("peers", &several(&names)));
            lines.push(line("waves", &waves(plan, impact)));
            lines.push(line("move", &format!("{} workloads in all", impact.workloads)));
            lines.extend(impact.budgets.iter().filter_map(budget));
            lines.extend(warnings(impact));
        }
        None => lines.push(line("impact", &plan.impact.to_string())),
    }
    lines.extend(blockers(plan, setting));
    lines.extend(deadline(request.deadline, request.on_deadline));
    lines.extend(gates(plan));
    if let Some(impact) = &impact {
        lines.push(line("failures", &format!("more than {} stop the rest", impact.max_failures)));
        lines.push(line("cancel", &cancel(request, impact)));
    }
    lines
}

/// `canary 2 > soak 10m > approval > 38, 4 at a time`
fn waves(plan: &Plan, impact: &BulkImpact) -> String {
    let count = impact.peers.iter().filter(|peer| peer.skipped.is_none()).count();
    let canary = (impact.canary as usize).min(count);
    let mut steps = Vec::new();
    if canary > 0 {
        steps.push(format!("canary {canary}"));
        if impact.soak_secs > 0 {
            steps.push(format!("soak {}", rough(impact.soak_secs)));
        }
    }
    if plan.approval.iter().flat_map(|approval| &approval.gates).any(|gate| gate.gate == GateAt::Rest) {
        steps.push("approval".to_owned());
    }
    steps.push(format!("{}, {} at a time", count - canary, impact.max_concurrent));
    steps.join(" > ")
}

/// Who will be skipped and why, and what the server warns of.
fn warnings(impact: &BulkImpact) -> Vec<String> {
    let skipped = impact.peers.iter().filter_map(|peer| {
        let why = peer.skipped.as_ref()?;
        Some(format!("{} will be skipped: {why}", called(&peer.name, peer.id.as_str())))
    });
    let all: Vec<String> = skipped.chain(impact.warnings.iter().cloned()).collect();
    let mut lines: Vec<String> = all.iter().take(WARNINGS).map(|warning| line("warn", warning)).collect();
    if all.len() > WARNINGS {
        lines.push(line("warn", &format!("and {} more; see them all with --dry-run -o json", all.len() - WARNINGS)));
    }
    lines
}

fn cancel(request: &BulkDrainBody, impact: &BulkImpact) -> String {
    if request.keep_moved {
        return "starts no more; what has moved stays where it is (--keep-moved)".to_owned();
    }
    match impact.not_restorable.len() {
        0 => format!("starts no more; can restore all {}", impact.workloads),
        lost => {
            let all = impact.workloads as usize;
            format!("starts no more; can restore {} of {all}", all.saturating_sub(lost))
        }
    }
}

fn several(names: &[&str]) -> String {
    let shown = names.iter().take(NAMES).copied().collect::<Vec<_>>().join(", ");
    if names.len() > NAMES { format!("{shown} and {} more", names.len() - NAMES) } else { shown }
}

fn called<'a>(name: &'a str, id: &'a str) -> &'a str {
    if name.is_empty() { id } else { name }
}
