//! What proves that nothing was lost or done twice: the events of an operation, and the journals of the agents.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use jiff::Timestamp;
use omnirelay_contract::agent::{Command, CommandVerb, Outcome};
use omnirelay_contract::event::Event;
use omnirelay_workflow::CommandId;
use omnirelay_workflow::resource::Role;
use serde::Deserialize;

/// How often each workload was told to have moved, or was commanded to.
pub type Tally = BTreeMap<String, u32>;

/// Whether the events of an operation are there, all of them, each once.
pub fn is_gap_free(events: &[Event]) -> bool {
    events.iter().map(|event| event.data.operation_seq).eq((1..=events.len() as u64).map(Some))
}

/// How often the events tell `what` of each workload.
pub fn told(events: &[Event], what: &str) -> Tally {
    let mut tally = Tally::new();
    for event in events {
        if let Some(("workloads", id, happened)) = event.parts()
            && happened == what
        {
            *tally.entry(id.to_owned()).or_default() += 1;
        }
    }
    tally
}

/// How often agents accepted `verb` for each workload on behalf of `operation`: an accepted command is in the journal before
/// it is acted upon, and one that is repeated is not in it twice.
pub fn accepted(agent: &Path, peers: &[&str], operation: &str, verb: CommandVerb) -> anyhow::Result<Tally> {
    let mut tally = Tally::new();
    for peer in peers {
        for entry in journal(agent, peer)? {
            let Entry::Accept(command) = entry else { continue };
            if command.verb == verb
                && command.operation.is_some_and(|id| id.to_string() == operation)
                && let Some(workload) = command.workload
            {
                *tally.entry(workload.id.to_string()).or_default() += 1;
            }
        }
    }
    Ok(tally)
}

/// When each peer's agent had carried out `role` for the first time. A peer that never has is missing.
pub fn carried_out(agent: &Path, peers: &[&str], role: Role) -> anyhow::Result<BTreeMap<String, Timestamp>> {
    let mut done = BTreeMap::new();
    for peer in peers {
        let mut commands = Vec::new();
        for entry in journal(agent, peer)? {
            match entry {
                Entry::Accept(command) if command.cluster.as_ref().is_some_and(|told| told.role == role) => {
                    commands.push(command.id);
                }
                Entry::Final { id, finished } if finished.outcome == Outcome::Done && commands.contains(&id) => {
                    done.entry((*peer).to_owned()).or_insert(finished.at);
                }
                Entry::Accept(_) | Entry::Final { .. } => {}
            }
        }
    }
    Ok(done)
}

/// The entries of a peer's journal. Other kinds, and a last line that is just being written, are none of ours.
fn journal(agent: &Path, peer: &str) -> anyhow::Result<Vec<Entry>> {
    let path = agent.join(peer).join("journal");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// Whether it is these workloads, each once.
pub fn each_once(tally: &Tally, workloads: &[String]) -> bool {
    tally.len() == workloads.len() && workloads.iter().all(|id| tally.get(id) == Some(&1))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Entry {
    Accept(Box<Command>),
    Final { id: CommandId, finished: Finished },
}

#[derive(Deserialize)]
struct Finished {
    at: Timestamp,
    outcome: Outcome,
}

#[cfg(test)]
mod tests {
    use super::*;
    use omnirelay_contract::event::EventData;

    fn event(seq: u64, resource: &str, id: &str, what: &str) -> Event {
        let data = EventData { operation_seq: Some(seq), ..EventData::default() };
        Event::new(uuid::Uuid::nil(), resource, id, what, jiff::Timestamp::UNIX_EPOCH, data)
    }

    #[test]
    fn a_gap_and_a_repetition_are_seen() {
        let of = |seqs: &[u64]| seqs.iter().map(|seq| event(*seq, "peers", "p", "draining")).collect::<Vec<_>>();
        for (seqs, expected) in [(&[1, 2, 3][..], true), (&[1, 3], false), (&[2, 3], false), (&[1, 1, 2], false)] {
            assert_eq!(is_gap_free(&of(seqs)), expected, "{seqs:?}");
        }
    }

    #[test]
    fn what_was_done_twice_is_seen() {
        let events = [
            event(1, "workloads", "a", "moving"),
            event(2, "workloads", "a", "moved"),
            event(3, "workloads", "b", "moved"),
        ];
        let ids = ["a".to_owned(), "b".to_owned()];
        assert!(each_once(&told(&events, "moved"), &ids));
        assert!(!each_once(&told(&events, "moving"), &ids));
        assert!(!each_once(&told(&[events.to_vec(), events.to_vec()].concat(), "moved"), &ids));
    }

    #[test]
    fn journals_tell_what_was_accepted() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("web-1")).unwrap();
        let line = r#"{"accept":{"id":"c1","verb":"acquire","peer":"web-1","operation":"019ab000-0000-7000-8000-000000000000","workload":{"id":"w1","service":"s","unit":null,"handover":"start-first","epoch":2},"expiresAt":"2026-01-01T00:00:00Z"}}"#;
        let journal = format!("{line}\n{{\"told\":{{\"peer\":\"web-1\",\"id\":\"c1\"}}}}\n{{\"acc");
        std::fs::write(folder.path().join("web-1/journal"), journal).unwrap();
        let count = |operation: &str, verb| accepted(folder.path(), &["web-1"], operation, verb).unwrap();
        let operation = "019ab000-0000-7000-8000-000000000000";
        assert_eq!(count(operation, CommandVerb::Acquire), Tally::from([("w1".to_owned(), 1)]));
        assert!(count(operation, CommandVerb::Release).is_empty());
        assert!(count("019ab000-0000-7000-8000-000000000001", CommandVerb::Acquire).is_empty());
    }

    #[test]
    fn journals_tell_when_a_role_was_carried_out() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("web-1")).unwrap();
        let accept = r#"{"accept":{"id":"c1","verb":"role","peer":"web-1","operation":null,"cluster":{"cluster":"fra1","failoverVersion":2,"role":"fenced"},"expiresAt":"2026-01-01T00:00:00Z"}}"#;
        let end = |outcome: &str| {
            format!(
                r#"{{"final":{{"peer":"web-1","id":"c1","finished":{{"at":"2026-01-01T00:00:01Z","outcome":{outcome}}}}}}}"#
            )
        };
        let check = |outcome: &str, role, expected: usize| {
            std::fs::write(folder.path().join("web-1/journal"), format!("{accept}\n{}\n", end(outcome))).unwrap();
            assert_eq!(carried_out(folder.path(), &["web-1"], role).unwrap().len(), expected, "{outcome} {role}");
        };
        check(r#"{"kind":"done"}"#, Role::Fenced, 1);
        check(r#"{"kind":"done"}"#, Role::Active, 0);
        check(r#"{"kind":"failed","message":"no"}"#, Role::Fenced, 0);
    }
}
