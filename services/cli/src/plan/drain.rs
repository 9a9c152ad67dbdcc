//! The plan of one peer's drain: what moves where, who is left, what a cancel could restore.

use std::collections::BTreeMap;

use omnirelay_contract::rest::{DrainBody, DrainImpact, Plan, PlannedMove};
use omnirelay_contract::workflow::resource::Handover;

use super::{Setting, blockers, budget, deadline, gates, held, line};

/// The lines of a drain's plan. An `impact` that is not understood (a newer server) is shown as it is.
pub fn lines(plan: &Plan, name: &str, request: &DrainBody, setting: Setting<'_>) -> Vec<String> {
    let impact = serde_json::from_value::<DrainImpact>(plan.impact.clone()).ok();
    let cluster = impact.as_ref().map(|impact| format!("   cluster {}", impact.cluster)).unwrap_or_default();
    let mut lines = vec![setting.head(&format!("drain {name}"), &cluster)];
    match &impact {
        Some(impact) => {
            lines.extend(moves(&impact.moves));
            if impact.moves.is_empty() {
                lines.push(line("move", "nothing runs there"));
            }
            lines.push(line(
                "peers",
                &format!(
                    "{} {} available now, {} after this",
                    impact.cluster, impact.peers_available, impact.peers_available_after
                ),
            ));
            lines.extend(impact.budgets.iter().filter_map(budget));
            lines.extend(impact.holds.iter().map(|hold| held(name, hold)));
        }
        None => lines.push(line("impact", &plan.impact.to_string())),
    }
    lines.extend(blockers(plan, setting));
    lines.extend(deadline(request.deadline, request.on_deadline));
    lines.extend(gates(plan));
    if let Some(impact) = &impact {
        lines.push(line("cancel", &cancel(impact, request.keep_moved)));
    }
    lines
}

fn moves(moves: &[PlannedMove]) -> Vec<String> {
    // Grouped by what an operator thinks in: the service and how it changes hands.
    let mut groups: BTreeMap<(bool, &str, Handover), Vec<&PlannedMove>> = BTreeMap::new();
    for planned in moves {
        let release = planned.handover == Handover::ReleaseOnly;
        groups.entry((release, planned.service.as_str(), planned.handover)).or_default().push(planned);
    }
    groups
        .into_iter()
        .map(|((release, service, handover), group)| {
            let count = group.len();
            if release {
                let remaining: u64 = group.iter().filter_map(|planned| planned.remaining).sum();
                let rest = if remaining > 0 { format!("   {remaining} to finish") } else { String::new() };
                return line("release", &format!("{count} {service}{rest}"));
            }
            line("move", &format!("{count} {service}   {handover} -> {}", targets(&group)))
        })
        .collect()
}

/// `web-03 (4), web-05 (3)`: most first; those without room last.
fn targets(group: &[&PlannedMove]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut nowhere = 0;
    for planned in group {
        match &planned.target {
            Some(target) => *counts.entry(target.as_str()).or_default() += 1,
            None => nowhere += 1,
        }
    }
    let mut counts: Vec<(&str, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let mut parts: Vec<String> = counts.into_iter().map(|(target, count)| format!("{target} ({count})")).collect();
    if nowhere > 0 {
        parts.push(format!("nobody has room ({nowhere})"));
    }
    parts.join(", ")
}

fn cancel(impact: &DrainImpact, keep_moved: bool) -> String {
    let all = impact.workloads as usize;
    let lost = impact.not_restorable.len();
    if keep_moved {
        return "leaves what has moved where it is (--keep-moved)".to_owned();
    }
    if lost == 0 {
        return format!("can restore all {all}");
    }
    let names: Vec<&str> = impact.not_restorable.iter().take(5).map(|id| id.as_str()).collect();
    let more = if lost > names.len() { format!(" and {} more", lost - names.len()) } else { String::new() };
    format!("can restore {} of {all}, not {}{more}", all.saturating_sub(lost), names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use omnirelay_contract::rest::{Confirmation, Humantime};
    use omnirelay_contract::workflow::drain::OnDeadline;
    use serde_json::json;
    use std::time::Duration;

    fn planned(n: usize, service: &str, handover: &str, target: Option<&str>) -> serde_json::Value {
        let remaining = (handover == "release-only").then_some(42);
        json!({"workload": format!("w-{n}"), "service": service, "unit": null, "handover": handover, "target": target,
            "remaining": remaining})
    }

    fn plan(moves: &[serde_json::Value], not_restorable: &[&str], holds: &serde_json::Value) -> Plan {
        let at: Timestamp = "2026-11-23T12:00:00Z".parse().expect("time");
        Plan {
            impact: json!({"peer": "p-7", "name": "web-07", "cluster": "fra1", "workloads": moves.len(), "moves": moves,
                "peersAvailable": 6, "peersAvailableAfter": 5, "notRestorable": not_restorable, "holds": holds}),
            blockers: Vec::new(),
            approval: None,
            digest: "d".to_owned(),
            confirmation: Confirmation { token: "t".to_owned(), expires_at: at },
        }
    }

    fn check(plan: &Plan, request: &DrainBody, expected: &str) {
        let now = "2026-11-23T12:00:45Z".parse().expect("time");
        let lines = lines(plan, "web-07", request, Setting { context: "prod", actor: Some("ana"), now });
        assert_eq!(lines.join("\n"), expected);
    }

    #[test]
    fn a_drain_of_two_services() {
        let mut moves = vec![planned(0, "haproxy/web", "release-only", None)];
        for (n, target) in ["web-05", "web-03", "web-03", "web-09", "web-05", "web-03"].iter().enumerate() {
            moves.push(planned(n + 1, "checkout", "start-first", Some(target)));
        }
        check(
            &plan(&moves, &[], &json!([])),
            &DrainBody::default(),
            "PLAN drain web-07   context prod   cluster fra1   as ana\n  \
             move     6 checkout   start-first -> web-03 (3), web-05 (2), web-09 (1)\n  \
             release  1 haproxy/web   42 to finish\n  \
             peers    fra1 6 available now, 5 after this\n  \
             cancel   can restore all 7",
        );
    }

    #[test]
    fn everything_that_warns() {
        let moves = [planned(1, "shard", "stop-first", None), planned(2, "shard", "stop-first", Some("db-2"))];
        let holds = json!([{"id": "0193d1f0-0000-7000-8000-000000000001", "kind": "manual", "owner": "bob",
            "operation": null, "reason": "disk", "changeTicket": "CHG-4790", "since": "2026-11-23T11:00:00Z"}]);
        let mut plan = plan(&moves, &["w-1"], &holds);
        plan.blockers = serde_json::from_value(json!([{"code": "no-capacity", "subject": "w-1",
            "message": "needs disk=nvme", "since": "2026-11-23T12:00:00Z"}]))
        .expect("blockers");
        let deadline = Some(Humantime(Duration::from_secs(1_800)));
        check(
            &plan,
            &DrainBody { deadline, on_deadline: Some(OnDeadline::Force), ..DrainBody::default() },
            "PLAN drain web-07   context prod   cluster fra1   as ana\n  \
             move     2 shard   stop-first -> db-2 (1), nobody has room (1)\n  \
             peers    fra1 6 available now, 5 after this\n  \
             warn     web-07 already held by bob (CHG-4790): stays so\n  \
             wait     no-capacity w-1: needs disk=nvme   45s\n  \
             deadline 30m, then force; the rest may then run twice\n  \
             cancel   can restore 1 of 2, not w-1",
        );
    }

    #[test]
    fn an_empty_peer_and_an_impact_of_the_future() {
        check(
            &plan(&[], &[], &json!([])),
            &DrainBody { keep_moved: true, ..DrainBody::default() },
            "PLAN drain web-07   context prod   cluster fra1   as ana\n  \
             move     nothing runs there\n  \
             peers    fra1 6 available now, 5 after this\n  \
             cancel   leaves what has moved where it is (--keep-moved)",
        );
        let mut future = plan(&[], &[], &json!([]));
        future.impact = json!({"x": 1});
        check(&future, &DrainBody::default(), "PLAN drain web-07   context prod   as ana\n  impact   {\"x\":1}");
    }
}
