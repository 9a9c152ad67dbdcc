//! Which approvals an operation needs: the settings' rules that match it, and the gate that its own request asks for.
//!
//! All rules that match apply. Those of one gate are combined to the stricter of each demand, and a request can only add to
//! them. The outcome is copied into the operation when it is submitted; later edits of the rules do not touch it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::gate::{GateAt, GatePolicy};
use crate::selector::Selector;
use crate::settings::{InvalidSetting, Rule, gate_request};

/// The name of a gate that only the request asked for.
pub const BY_REQUEST: &str = "request";
/// The name of the gate that keeps the rules from being edited without approval.
pub const GUARD: &str = "approvals-guard";

/// What a request is asked to name and did not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("approval rule {rule} wants a change ticket: name it in changeTicket")]
pub struct TicketRequired {
    pub rule: String,
}

/// A gate that a request asks for itself. In JSON one word, `start`, `rest` or `cutover`, or an object with what else it demands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct GateRequest {
    pub gate: GateAt,
    pub required: u32,
    pub approver_scope: String,
    pub expires_in: Duration,
    pub require_ticket: bool,
}

impl GateRequest {
    /// Reads `"start"` or `{"gate": "start", "required": 2, …}`; the error names the member (`gate.required`) and its rule.
    pub fn parse(value: &Value) -> Result<Self, InvalidSetting> {
        let rule = match value {
            Value::String(word) => gate_request(&json!({"gate": word})).map_err(|wrong| InvalidSetting::Value {
                key: "gate".to_owned(),
                rule: wrong.rule().to_owned(),
                found: format!("{:?}", word.chars().take(80).collect::<String>()),
            })?,
            other => gate_request(other)?,
        };
        Ok(Self {
            gate: rule.gate,
            required: rule.required,
            approver_scope: rule.approver_scope,
            expires_in: rule.expires_in,
            require_ticket: rule.require_ticket,
        })
    }
}

impl TryFrom<Value> for GateRequest {
    type Error = InvalidSetting;

    fn try_from(value: Value) -> Result<Self, InvalidSetting> {
        Self::parse(&value)
    }
}

impl From<GateRequest> for Value {
    fn from(asked: GateRequest) -> Self {
        json!({
            "gate": asked.gate,
            "required": asked.required,
            "approverScope": asked.approver_scope,
            "expiresIn": humantime::format_duration(asked.expires_in).to_string(),
            "requireTicket": asked.require_ticket,
        })
    }
}

/// The gates of an operation, in the order in which it comes to them. `matches` says whether a rule's selector holds for the
/// target; for a bulk drain, whether it holds for any of its peers.
pub fn gates(
    rules: &[Rule],
    verb: &str,
    matches: impl Fn(&Selector) -> bool,
    ticket: Option<&str>,
    asked: Option<&GateRequest>,
) -> Result<Vec<GatePolicy>, TicketRequired> {
    // A selector that cannot be read is never stored. Were there one, asking too many people is the safe side.
    let selected =
        |rule: &Rule| rule.selector.as_ref().is_none_or(|text| Selector::parse(text).map_or(true, |s| matches(&s)));
    let matching = rules.iter().filter(|rule| rule.verbs.iter().any(|known| known == verb) && selected(rule));
    let ticket = ticket.is_some_and(|ticket| !ticket.trim().is_empty());
    let mut gates = BTreeMap::new();
    for rule in matching {
        if rule.require_ticket && !ticket {
            return Err(TicketRequired { rule: rule.name.clone() });
        }
        let secs = rule.expires_in.as_secs();
        demand(&mut gates, policy(rule.gate, rule.required, &rule.approver_scope, secs, &rule.name));
    }
    if let Some(asked) = asked {
        if asked.require_ticket && !ticket {
            return Err(TicketRequired { rule: BY_REQUEST.to_owned() });
        }
        let secs = asked.expires_in.as_secs();
        demand(&mut gates, policy(asked.gate, asked.required, &asked.approver_scope, secs, BY_REQUEST));
    }
    Ok(gates.into_values().collect())
}

/// The gates of an edit of the settings. Where there are rules and none of them is about such edits, one that touches the rules
/// still needs as much approval as the strictest rule asks for: otherwise they could be edited away.
pub fn guard(old_rules: &[Rule], touches_rules: bool, gates: Vec<GatePolicy>) -> Vec<GatePolicy> {
    let ruled = gates.iter().any(|gate| gate.rule != BY_REQUEST);
    if old_rules.is_empty() || !touches_rules || ruled {
        return gates;
    }
    let mut guarded: BTreeMap<GateAt, GatePolicy> = BTreeMap::new();
    for rule in old_rules {
        let secs = rule.expires_in.as_secs();
        demand(&mut guarded, policy(GateAt::Start, rule.required, &rule.approver_scope, secs, GUARD));
    }
    for gate in gates {
        demand(&mut guarded, gate);
    }
    guarded.into_values().collect()
}

fn policy(gate: GateAt, required: u32, scope: &str, expires_in_secs: u64, rule: &str) -> GatePolicy {
    let (approver_scope, rule) = (scope.to_owned(), rule.to_owned());
    GatePolicy { gate, required: required.max(1), approver_scope, expires_in_secs: expires_in_secs.max(1), rule }
}

/// Adds a demand: the stricter of each holds, and the rules are all named.
fn demand(gates: &mut BTreeMap<GateAt, GatePolicy>, more: GatePolicy) {
    let Some(gate) = gates.get_mut(&more.gate) else {
        gates.insert(more.gate, more);
        return;
    };
    gate.required = gate.required.max(more.required);
    gate.expires_in_secs = gate.expires_in_secs.min(more.expires_in_secs);
    if more.approver_scope == "mesh.admin" {
        gate.approver_scope = more.approver_scope;
    }
    if more.rule != BY_REQUEST && more.rule != gate.rule {
        gate.rule = format!("{},{}", gate.rule, more.rule);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Labels;

    /// `name verbs gate required scope minutes [selector] [ticket]`
    fn rule(text: &str) -> Rule {
        let parts: Vec<&str> = text.split(' ').collect();
        Rule {
            name: parts[0].to_owned(),
            verbs: parts[1].split(',').map(str::to_owned).collect(),
            selector: parts.get(6).filter(|s| **s != "-").map(|s| (*s).to_owned()),
            gate: parts[2].parse().expect("a gate"),
            required: parts[3].parse().expect("a number"),
            approver_scope: format!("mesh.{}", parts[4]),
            expires_in: Duration::from_secs(60 * parts[5].parse::<u64>().expect("minutes")),
            require_ticket: parts.get(7) == Some(&"ticket"),
        }
    }

    /// `gate required scope seconds rule`, one after the other.
    fn told(gates: &[GatePolicy]) -> String {
        let told = |g: &GatePolicy| {
            let scope = g.approver_scope.trim_start_matches("mesh.");
            format!("{} {} {scope} {} {}", g.gate, g.required, g.expires_in_secs, g.rule)
        };
        gates.iter().map(told).collect::<Vec<_>>().join("; ")
    }

    fn asked(value: &Value) -> GateRequest {
        GateRequest::parse(value).expect("a gate")
    }

    const PROD: &str = "prod peers.drain start 1 approve 30 env=prod";
    const TWO: &str = "two peers.drain,clusters.promote start 2 approve 60";
    const ROOT: &str = "root peers.drain start 1 admin 90";
    const REST: &str = "rest peers.drain rest 3 approve 10";
    const TICKET: &str = "ticketed peers.drain start 1 approve 30 - ticket";

    fn decide(rules: &[&str], verb: &str, env: &str, ticket: Option<&str>, own: Option<&Value>) -> String {
        let rules: Vec<Rule> = rules.iter().map(|text| rule(text)).collect();
        let labels: Labels = [("env".to_owned(), env.to_owned())].into();
        let own = own.map(asked);
        match gates(&rules, verb, |s| s.matches(&labels, |_| None), ticket, own.as_ref()) {
            Ok(gates) => told(&gates),
            Err(TicketRequired { rule }) => format!("ticket for {rule}"),
        }
    }

    #[test]
    fn all_rules_that_match_are_combined_to_the_stricter() {
        let check = |rules: &[&str], verb: &str, env: &str, expect: &str| {
            assert_eq!(decide(rules, verb, env, None, None), expect, "{rules:?} {verb} {env}");
        };
        check(&[], "peers.drain", "prod", "");
        check(&[PROD], "peers.drain", "prod", "start 1 approve 1800 prod");
        check(&[PROD], "peers.drain", "test", "");
        check(&[PROD], "peers.cordon", "prod", "");
        check(&[TWO], "clusters.promote", "test", "start 2 approve 3600 two");
        check(&[PROD, TWO, ROOT], "peers.drain", "prod", "start 2 admin 1800 prod,two,root");
        check(&[ROOT, TWO], "peers.drain", "prod", "start 2 admin 3600 root,two");
        check(&[REST, PROD], "peers.drain", "prod", "start 1 approve 1800 prod; rest 3 approve 600 rest");
    }

    #[test]
    fn a_rule_may_want_a_ticket() {
        let check = |rules: &[&str], ticket: Option<&str>, expect: &str| {
            assert_eq!(decide(rules, "peers.drain", "test", ticket, None), expect, "{rules:?} {ticket:?}");
        };
        check(&[TICKET], None, "ticket for ticketed");
        check(&[TICKET], Some(" "), "ticket for ticketed");
        check(&[TICKET], Some("CHG-1"), "start 1 approve 1800 ticketed");
        check(&[PROD, TWO], None, "start 2 approve 3600 two");
        assert_eq!(decide(&[TICKET], "peers.cordon", "test", None, None), "");
    }

    #[test]
    fn a_request_only_makes_it_stricter() {
        let check = |rules: &[&str], own: Value, expect: &str| {
            assert_eq!(decide(rules, "peers.drain", "prod", None, Some(&own)), expect, "{rules:?} {own}");
        };
        check(&[], json!("start"), "start 1 approve 1800 request");
        check(&[PROD], json!("start"), "start 1 approve 1800 prod");
        check(&[PROD], json!("rest"), "start 1 approve 1800 prod; rest 1 approve 1800 request");
        check(&[ROOT], json!({"gate": "start", "required": 3, "expiresIn": "5m"}), "start 3 admin 300 root");
        check(
            &[TWO],
            json!({"gate": "start", "approverScope": "mesh.admin", "expiresIn": "5h"}),
            "start 2 admin 3600 two",
        );
        check(&[], json!({"gate": "cutover", "requireTicket": true}), "ticket for request");
    }

    #[test]
    fn a_gate_that_cannot_be_is_refused_by_name() {
        let check = |value: Value, expect: &str| {
            let refused = GateRequest::parse(&value).expect_err(expect).to_string();
            assert!(refused.starts_with(expect), "{refused}");
        };
        check(json!("soon"), "gate must be one of start, rest, cutover, not \"soon\"");
        check(json!(3), "gate must be an object, or one of");
        check(json!({}), "gate.gate is missing: it must be one of start, rest, cutover");
        check(json!({"gate": "start", "required": 0}), "gate.required must be a whole number of at least 1");
        check(json!({"gate": "start", "name": "x"}), "gate.name is no setting; known here: gate, required");
        let own = asked(&json!({"gate": "rest", "required": 2, "expiresIn": "90m"}));
        let text = serde_json::to_string(&own).expect("JSON");
        assert_eq!(serde_json::from_str::<GateRequest>(&text).expect("a gate"), own);
    }

    #[test]
    fn rules_are_not_edited_away() {
        let check = |rules: &[&str], touches: bool, own: Option<Value>, expect: &str| {
            let rules: Vec<Rule> = rules.iter().map(|text| rule(text)).collect();
            let own = own.as_ref().map(asked);
            let matched = gates(&rules, "config.patch", |_| true, None, own.as_ref()).expect("no ticket");
            assert_eq!(told(&guard(&rules, touches, matched)), expect, "{rules:?} {touches}");
        };
        let edits = "edits config.patch start 1 approve 15";
        check(&[], true, None, "");
        check(&[TWO, PROD], false, None, "");
        check(&[TWO, PROD], true, None, "start 2 approve 1800 approvals-guard");
        check(&[TWO, ROOT], true, None, "start 2 admin 3600 approvals-guard");
        check(&[TWO, edits], true, None, "start 1 approve 900 edits");
        check(&[TWO], true, Some(json!("start")), "start 2 approve 1800 approvals-guard");
        check(&[TWO], false, Some(json!("start")), "start 1 approve 1800 request");
    }
}
