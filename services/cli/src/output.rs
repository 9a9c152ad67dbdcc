//! Data on stdout: tables for people, JSON and YAML (the API's own shapes) for programs.

use std::io::Write as _;

use clap::ValueEnum;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use jiff::Timestamp;
use omnirelay_contract::audit::AuditRecord;
use omnirelay_contract::rest::{Cluster, Operation, Page, Peer, Workload};
use omnirelay_contract::workflow::operation::State;
use serde::Serialize;
use serde_json::Value;

use crate::failure::Failure;
use crate::follow::bulk::is_bulk;
use crate::resolve::short;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people (one line per event for streams).
    #[default]
    #[value(alias = "line")]
    Table,
    /// A table with every column.
    Wide,
    /// The API's JSON (one document per line for streams).
    Json,
    Yaml,
}

/// Something with a row in a table.
pub trait Row: Serialize {
    const HEAD: &'static [&'static str];
    /// Columns that only `wide` has.
    const WIDE: &'static [&'static str];
    /// As many cells as `HEAD`, then as `WIDE`.
    fn cells(&self, now: Timestamp) -> Vec<String>;
}

/// A list, as the page that the API gives.
pub fn list<T: Row>(format: Format, page: &Page<T>) -> Result<(), Failure> {
    match format {
        Format::Table | Format::Wide if page.items.is_empty() => {
            note("nothing found");
            Ok(())
        }
        Format::Table | Format::Wide => {
            print(&table(&page.items, format == Format::Wide, Timestamp::now()))?;
            if page.next_page_token.is_some() {
                note(&format!("the first {}; more with --limit", page.items.len()));
            }
            Ok(())
        }
        Format::Json | Format::Yaml => document(format, page),
    }
}

/// One thing: its members line by line, or its document.
pub fn one<T: Serialize>(format: Format, value: &T) -> Result<(), Failure> {
    match format {
        Format::Table | Format::Wide => {
            let value = serde_json::to_value(value).map_err(unprintable)?;
            print(&members(&value, format == Format::Wide))
        }
        Format::Json | Format::Yaml => document(format, value),
    }
}

/// JSON or YAML, whatever the value. A table is not a document and is printed as JSON.
pub fn document<T: Serialize>(format: Format, value: &T) -> Result<(), Failure> {
    let text = match format {
        Format::Yaml => serde_saphyr::to_string(value).map_err(unprintable)?,
        _ => serde_json::to_string_pretty(value).map_err(unprintable)?,
    };
    print(&text)
}

/// One document of a stream: a JSON line, or a YAML document with its separator.
pub fn streamed<T: Serialize>(format: Format, value: &T) -> Result<(), Failure> {
    let text = match format {
        Format::Yaml => format!("---\n{}", serde_saphyr::to_string(value).map_err(unprintable)?),
        _ => serde_json::to_string(value).map_err(unprintable)?,
    };
    print(&text)
}

/// Writes to stdout with a line break at the end. A reader that has gone (`| head`) ends the process quietly.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let end = if text.ends_with('\n') { "" } else { "\n" };
    match write!(stdout, "{text}{end}").and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::error(format!("cannot write to stdout: {error}"))),
    }
}

/// Writes a line to stderr. Whether anybody reads it changes nothing.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

pub fn table<T: Row>(items: &[T], wide: bool, now: Timestamp) -> String {
    let columns = T::HEAD.len() + if wide { T::WIDE.len() } else { 0 };
    let head: Vec<&str> = T::HEAD.iter().chain(T::WIDE).take(columns).copied().collect();
    let rows = items.iter().map(|item| item.cells(now).into_iter().take(columns).collect());
    grid(&head, rows)
}

/// Columns two spaces apart, nothing wrapped, nothing cut: it may go through a pipe.
pub fn grid(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled).force_no_tty();
    table.set_header(head.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// `45s`, `2m14s`, `2h04m`, `3d04h`.
pub fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// `30m`, `1h 30m`: as durations are written in requests.
pub fn rough(seconds: u64) -> String {
    humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string()
}

/// What is left of a time, as a clock that runs down: `29:41`, `1:02:03`.
pub fn countdown(until: Timestamp, now: Timestamp) -> String {
    let left = until.as_second().saturating_sub(now.as_second()).max(0);
    let (hours, minutes, seconds) = (left / 3_600, left % 3_600 / 60, left % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// How long ago, as a [`span`].
pub fn age(since: Timestamp, now: Timestamp) -> String {
    span(now.as_second().saturating_sub(since.as_second()))
}

/// Milliseconds while they say something: `12ms`, `1.4s`, `2m14s`.
pub fn took(from: Timestamp, to: Timestamp) -> String {
    match to.as_millisecond().saturating_sub(from.as_millisecond()).max(0) {
        ms @ 0..1_000 => format!("{ms}ms"),
        ms @ 1_000..10_000 => format!("{}.{}s", ms / 1_000, ms % 1_000 / 100),
        ms => span(ms / 1_000),
    }
}

pub fn dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

impl Row for Peer {
    const HEAD: &'static [&'static str] =
        &["ID", "NAME", "CLUSTER", "STATE", "HEALTH", "WORKLOADS", "HELD BY", "SEEN", "OPERATION"];
    const WIDE: &'static [&'static str] = &["ROLE", "VERSION", "ADDRESS", "CAPACITY", "LABELS", "REVISION"];

    fn cells(&self, now: Timestamp) -> Vec<String> {
        let mut owners: Vec<&str> = self.holds.iter().map(|hold| hold.owner.as_str()).collect();
        owners.dedup();
        vec![
            self.id.to_string(),
            self.name.clone(),
            self.cluster.to_string(),
            self.state.to_string(),
            self.health.to_string(),
            self.workloads.to_string(),
            dash((!owners.is_empty()).then(|| owners.join(","))),
            dash(self.last_seen.map(|seen| age(seen, now))),
            dash(self.operation.map(short)),
            self.role.clone(),
            self.version.clone(),
            self.address.clone(),
            self.capacity.to_string(),
            labels(&self.labels),
            self.revision.to_string(),
        ]
    }
}

impl Row for Workload {
    const HEAD: &'static [&'static str] = &["ID", "SERVICE", "PEER", "STATE", "READY", "HANDOVER", "REMAINING"];
    const WIDE: &'static [&'static str] = &["UNIT", "LOAD", "EPOCH", "RESTORABLE", "LABELS"];

    fn cells(&self, _now: Timestamp) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.service.clone(),
            self.peer.to_string(),
            self.state.to_string(),
            if self.ready { "yes" } else { "no" }.to_owned(),
            self.handover.to_string(),
            dash(self.remaining),
            dash(self.unit.clone()),
            self.load.to_string(),
            self.epoch.to_string(),
            if self.restorable { "yes" } else { "no" }.to_owned(),
            labels(&self.labels),
        ]
    }
}

impl Row for Cluster {
    const HEAD: &'static [&'static str] = &["ID", "REGION", "STATE", "PEERS", "HEALTHY", "LAG", "OPERATION"];
    const WIDE: &'static [&'static str] = &["PRIORITY", "FAILOVER VERSION", "MAX UNAVAILABLE", "LABELS", "REVISION"];

    fn cells(&self, _now: Timestamp) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.region.clone(),
            self.state.to_string(),
            self.peers.to_string(),
            self.healthy_peers.to_string(),
            dash(self.replication_lag_ms.map(|ms| format!("{ms}ms"))),
            dash(self.operation.map(short)),
            self.priority.to_string(),
            self.failover_version.to_string(),
            dash(self.max_unavailable),
            labels(&self.labels),
            self.revision.to_string(),
        ]
    }
}

impl Row for Operation {
    const HEAD: &'static [&'static str] =
        &["ID", "VERB", "TARGET", "STATE", "PHASE", "PROGRESS", "ACTOR", "AGE", "BLOCKED BY"];
    const WIDE: &'static [&'static str] = &["FULL ID", "TICKET", "REASON", "TOOK"];

    fn cells(&self, now: Timestamp) -> Vec<String> {
        let progress = (self.progress.total > 0).then(|| format!("{}/{}", self.progress.done, self.progress.total));
        let mut codes: Vec<String> = self.blockers.iter().map(|blocker| blocker.code.to_string()).collect();
        codes.dedup();
        codes.extend(self.paused.as_ref().map(|paused| format!("paused by {}", paused.by)));
        let gate = self.approval.as_ref().filter(|_| self.state == State::AwaitingApproval);
        codes.extend(gate.map(|gate| format!("approval {}/{}", gate.approvals.len(), gate.required)));
        codes.extend(self.queue.as_ref().map(|queue| format!("queue {}", queue.position)));
        vec![
            short(self.id),
            self.verb.to_string(),
            // Of many it is named after the operation itself, which says nothing.
            if is_bulk(self) { format!("{} peers", self.progress.total) } else { self.target.clone() },
            self.state.to_string(),
            dash(self.phase.clone()),
            dash(progress),
            self.actor.clone(),
            age(self.created_at, now),
            dash((!codes.is_empty()).then(|| codes.join(","))),
            self.id.to_string(),
            dash(self.change_ticket.clone()),
            dash(self.reason.clone()),
            dash(self.finished_at.map(|end| took(self.created_at, end))),
        ]
    }
}

impl Row for AuditRecord {
    const HEAD: &'static [&'static str] = &["SEQ", "AT", "ACTOR", "VERB", "TARGET", "OUTCOME", "OPERATION", "TICKET"];
    const WIDE: &'static [&'static str] = &["REASON", "LATENCY", "REVISION", "POSITION", "HASH"];

    fn cells(&self, _now: Timestamp) -> Vec<String> {
        let revisions = match (self.revision_before, self.revision_after) {
            (None, None) => None,
            (before, after) => Some(format!("{}>{}", dash(before), dash(after))),
        };
        vec![
            self.seq.to_string(),
            format!("{:.0}", self.at),
            self.actor.subject.clone(),
            self.verb.clone(),
            self.target.clone(),
            self.outcome.clone(),
            dash(self.operation.map(short)),
            dash(self.change_ticket.clone()),
            dash(self.reason.clone()),
            dash(self.latency_ms.map(|ms| format!("{ms}ms"))),
            dash(revisions),
            self.position.to_string(),
            self.hash.chars().take(12).collect(),
        ]
    }
}

fn labels(labels: &std::collections::BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    dash((!pairs.is_empty()).then(|| pairs.join(",")))
}

/// `member  value` lines. What is empty is left out unless `all`; lists have a line per item.
fn members(value: &Value, all: bool) -> String {
    let Value::Object(object) = value else { return scalar(value) };
    let shown = || object.iter().filter(|(_, value)| all || !is_empty(value));
    let width = shown().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for (name, value) in shown() {
        let lines: Vec<String> = match value {
            Value::Array(items) if !items.is_empty() => items.iter().map(inline).collect(),
            other => vec![inline(other)],
        };
        for (n, line) in lines.iter().enumerate() {
            let name = if n == 0 { name.as_str() } else { "" };
            text.push_str(format!("{name:width$}  {line}").trim_end());
            text.push('\n');
        }
    }
    text
}

/// A value on one line: `state=running done=4`.
pub fn inline(value: &Value) -> String {
    match value {
        Value::Object(object) if !object.is_empty() => {
            let pairs = object.iter().filter(|(_, value)| !is_empty(value));
            pairs.map(|(name, value)| format!("{name}={}", nested(value))).collect::<Vec<_>>().join(" ")
        }
        Value::Array(items) if !items.is_empty() => items.iter().map(nested).collect::<Vec<_>>().join(","),
        other => scalar(other),
    }
}

fn nested(value: &Value) -> String {
    match value {
        Value::Object(object) if !object.is_empty() => format!("{{{}}}", inline(value)),
        Value::Array(items) if !items.is_empty() => format!("[{}]", inline(value)),
        other => scalar(other),
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Object(object) if object.is_empty() => "-".to_owned(),
        other => other.to_string(),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(object) => object.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn unprintable(error: impl std::fmt::Display) -> Failure {
    Failure::error(format!("the answer cannot be printed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::operation;
    use serde_json::json;

    #[test]
    fn an_operation_in_a_table() {
        let now = "2026-11-23T14:04:30Z".parse().expect("time");
        let mut running = operation(State::Running);
        running.phase = Some("evicting".to_owned());
        (running.progress.done, running.progress.total) = (4, 10);
        let text = table(&[running, operation(State::Failed)], false, now);
        assert_eq!(
            text,
            "ID        VERB         TARGET        STATE    PHASE     PROGRESS  ACTOR  AGE    BLOCKED BY\n\
             9c41e07b  peers.drain  peers/web-07  running  evicting  4/10      ana    2h04m  -\n\
             9c41e07b  peers.drain  peers/web-07  failed   -         -         ana    2h04m  -"
        );
        let wide = table(&[operation(State::Failed)], true, now);
        assert!(wide.contains("FULL ID") && wide.contains(crate::testing::ID) && wide.contains("2m15s"), "{wide}");
    }

    #[test]
    fn one_thing_as_lines() {
        let value = json!({"id": "web-07", "labels": {"a": "1", "b": "2"}, "metadata": {}, "seen": null,
            "holds": [{"owner": "ana"}, {"owner": "bo", "reason": "disk"}], "progress": {"done": 0}});
        assert_eq!(
            members(&value, false),
            "holds     owner=ana\n          owner=bo reason=disk\nid        web-07\nlabels    a=1 b=2\nprogress  done=0\n"
        );
        assert!(members(&value, true).contains("metadata  -\n"));
    }

    #[test]
    fn spans_are_short() {
        for (seconds, text) in
            [(-3, "0s"), (0, "0s"), (45, "45s"), (134, "2m14s"), (7_440, "2h04m"), (273_600, "3d04h")]
        {
            assert_eq!(span(seconds), text);
        }
        for (left, text) in [(-5, "0:00"), (9, "0:09"), (1_781, "29:41"), (3_723, "1:02:03")] {
            let until = Timestamp::from_second(1_000 + left).expect("time");
            assert_eq!(countdown(until, Timestamp::from_second(1_000).expect("time")), text);
        }
        let at = |ms| Timestamp::from_millisecond(ms).expect("time");
        for (ms, text) in [(0, "0ms"), (999, "999ms"), (1_449, "1.4s"), (10_000, "10s"), (134_999, "2m14s")] {
            assert_eq!(took(at(5), at(5 + ms)), text);
        }
    }
}
