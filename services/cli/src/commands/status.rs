//! `mesh status`: what needs attention first, then headroom, then whether the page can be trusted.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Format, age, dash, grid};
use crate::session::{GlobalArgs, Session};

pub async fn run(global: &GlobalArgs) -> Result<Exit, Failure> {
    let session = Session::open(global).await?;
    let body: Value = session.client.get("/control/status").await?;
    match session.format {
        Format::Json | Format::Yaml => output::document(session.format, &body)?,
        Format::Table | Format::Wide => {
            let status = crate::client::understand("/control/status", body)?;
            output::print(&render(&status, &session.target.name, Timestamp::now()))?;
        }
    }
    Ok(Exit::Succeeded)
}

/// What of `/control/status` is shown. Members that are missing are shown as unknown.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    pub clusters: Vec<ClusterStatus>,
    /// Counts by state.
    pub operations: BTreeMap<String, u64>,
    pub attention: Vec<Attention>,
    pub lags: Lags,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterStatus {
    pub id: String,
    pub state: String,
    pub peers: u64,
    pub healthy: u64,
    pub schedulable: u64,
    pub draining: u64,
    pub headroom: Headroom,
}

/// Of the schedulable peers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Headroom {
    pub capacity: u64,
    pub load: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Attention {
    pub code: String,
    pub subject: String,
    pub message: String,
    pub since: Option<Timestamp>,
    /// The command to copy.
    pub command: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Lags {
    pub outbox_pending: Option<u64>,
    pub outbox_lag_seconds: Option<f64>,
    /// Events that the audit has yet to record.
    pub audit_lag: Option<u64>,
    pub audit_lag_seconds: Option<f64>,
    pub audit_position: Option<u64>,
    pub position: Option<u64>,
}

fn render(status: &Status, context: &str, now: Timestamp) -> String {
    let mut lines = vec![format!("STATUS {context}")];
    if status.attention.is_empty() {
        lines.push("  nothing needs attention".to_owned());
    }
    for attention in &status.attention {
        let since = attention.since.map(|since| format!(" {}", age(since, now))).unwrap_or_default();
        lines.push(format!("  ATTENTION{since} {}: {} {}", attention.code, attention.subject, attention.message));
        lines.extend(attention.command.as_ref().map(|command| format!("    {command}")));
    }
    let operations: Vec<String> =
        status.operations.iter().filter(|(_, count)| **count > 0).map(|(state, n)| format!("{n} {state}")).collect();
    lines.push(format!(
        "  operations  {}",
        if operations.is_empty() { "none".to_owned() } else { operations.join(", ") }
    ));
    let lags = &status.lags;
    lines.push(format!(
        "  lags        {} events not yet published ({}s), audit {} events behind ({}s), position {}",
        dash(lags.outbox_pending),
        dash(lags.outbox_lag_seconds.map(tenth)),
        dash(lags.audit_lag),
        dash(lags.audit_lag_seconds.map(tenth)),
        dash(lags.position)
    ));
    if !status.clusters.is_empty() {
        lines.push(String::new());
        let rows = status.clusters.iter().map(ClusterStatus::cells);
        lines.push(grid(&["CLUSTER", "STATE", "PEERS", "HEALTHY", "SCHEDULABLE", "DRAINING", "LOAD", "FREE"], rows));
    }
    lines.join("\n")
}

impl ClusterStatus {
    fn cells(&self) -> Vec<String> {
        let Headroom { capacity, load } = self.headroom;
        let free = (capacity > 0).then(|| format!("{}%", 100 * capacity.saturating_sub(load) / capacity));
        vec![
            self.id.clone(),
            self.state.clone(),
            self.peers.to_string(),
            self.healthy.to_string(),
            self.schedulable.to_string(),
            self.draining.to_string(),
            format!("{load}/{capacity}"),
            dash(free),
        ]
    }
}

fn tenth(seconds: f64) -> String {
    format!("{seconds:.1}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(status: Value, expected: &str) {
        let now = "2026-11-23T12:02:14Z".parse().expect("time");
        assert_eq!(render(&serde_json::from_value(status).expect("status"), "prod", now), expected);
    }

    #[test]
    fn attention_comes_first() {
        check(
            json!({"clusters": [{"id": "fra1", "state": "active", "peers": 40, "healthy": 38, "schedulable": 37,
                "draining": 1, "headroom": {"capacity": 400, "load": 100}}],
                "operations": {"running": 2, "failed": 0},
                "attention": [{"code": "stuck", "subject": "peers/web-07", "message": "2 not put back",
                    "since": "2026-11-23T12:00:00Z", "command": "omnirelay ops get web-07"}],
                "lags": {"outboxPending": 3, "outboxLagSeconds": 0.25, "auditLag": 7, "auditLagSeconds": 1.0, "auditPosition": 90, "position": 97}}),
            "STATUS prod\n  ATTENTION 2m14s stuck: peers/web-07 2 not put back\n    omnirelay ops get web-07\n  \
             operations  2 running\n  \
             lags        3 events not yet published (0.2s), audit 7 events behind (1.0s), position 97\n\n\
             CLUSTER  STATE   PEERS  HEALTHY  SCHEDULABLE  DRAINING  LOAD     FREE\n\
             fra1     active  40     38       37           1         100/400  75%",
        );
    }

    #[test]
    fn an_empty_mesh() {
        check(
            json!({}),
            "STATUS prod\n  nothing needs attention\n  operations  none\n  \
             lags        - events not yet published (-s), audit - events behind (-s), position -",
        );
    }
}
