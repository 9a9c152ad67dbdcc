use proptest::prelude::*;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use omnirelay_workflow::operation::{Progress, State};

use super::*;
use crate::audit::{BadRecord, Verification};
use crate::event::{AuditFacts, Event, EventData};

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn event(n: u64) -> Event {
    let detail = json!({ "zone": "b", "holds": [{ "kind": "drain", "id": n }], "share": 0.1 + n as f64 / 3.0 });
    let data = EventData {
        operation: Some(Uuid::from_u128(u128::from(n % 3))),
        operation_seq: Some(n / 3 + 1),
        actor: Some("alice".to_owned()),
        state: Some(State::Running),
        phase: Some("evicting".to_owned()),
        progress: Some(Progress { done: 1, total: 2, in_flight: 1, failed: 0, unit: "workloads".to_owned() }),
        audit: AuditFacts {
            verb: "peers.drain".to_owned(),
            outcome: "progressed".to_owned(),
            actor: Some(Actor {
                subject: "alice".to_owned(),
                scopes: vec!["mesh.operate".to_owned()],
                token_id: Some("t-1".to_owned()),
                address: Some("192.0.2.1".to_owned()),
            }),
            reason: Some("kernel \"patch\"\n".to_owned()),
            change_ticket: Some("CHG-1".to_owned()),
            latency_ms: Some(12),
            revision_before: Some(3),
            revision_after: Some(4),
        },
        detail: detail.as_object().cloned().unwrap_or_default(),
    };
    let at = "2026-11-23T12:02:40.123456789Z".parse().expect("a time");
    let mut event = Event::new(Uuid::from_u128(1_000 + u128::from(n)), "peers", "edge-7", "draining", at, data);
    event.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
    event
}

fn chain(length: u64) -> Vec<AuditRecord> {
    let mut prev = GENESIS.to_owned();
    (1..=length)
        .map(|seq| {
            let mut record = record_from_event(event(seq - 1), seq + 10, seq, &prev);
            record.hash = record_hash(&record);
            prev.clone_from(&record.hash);
            record
        })
        .collect()
}

fn verify(records: &[AuditRecord], checkpoints: &[Checkpoint]) -> Verification {
    let mut verifier = Verifier::with_key(key().verifying_key());
    checkpoints.iter().for_each(|checkpoint| verifier.push_checkpoint(checkpoint));
    records.iter().for_each(|record| verifier.push(record));
    verifier.finish()
}

fn signed(record: &AuditRecord) -> Checkpoint {
    Checkpoint::sign(record.seq, &record.hash, record.at, &key())
}

type Edit = fn(&mut AuditRecord);

/// What every single member of a record can be changed to.
fn edits() -> Vec<(&'static str, Edit)> {
    vec![
        ("hash", |r| r.hash = record_hash(&AuditRecord { verb: "x".to_owned(), ..r.clone() })),
        ("prevHash", |r| r.prev_hash = GENESIS.replace('0', "1")),
        ("eventId", |r| r.event_id = Uuid::from_u128(5)),
        ("position", |r| r.position += 1),
        ("at", |r| r.at = "2026-11-23T12:02:40.123457Z".parse().expect("a time")),
        ("actor.subject", |r| r.actor.subject.push('x')),
        ("actor.scopes", |r| r.actor.scopes.clear()),
        ("actor.tokenId", |r| r.actor.token_id = None),
        ("actor.address", |r| r.actor.address = Some("192.0.2.2".to_owned())),
        ("verb", |r| r.verb = "peers.cordon".to_owned()),
        ("target", |r| r.target = "peers/edge-8".to_owned()),
        ("operation", |r| r.operation = None),
        ("reason", |r| r.reason = Some(String::new())),
        ("changeTicket", |r| r.change_ticket = None),
        ("outcome", |r| r.outcome = "succeeded".to_owned()),
        ("latencyMs", |r| r.latency_ms = Some(0)),
        ("revisionBefore", |r| r.revision_before = None),
        ("revisionAfter", |r| r.revision_after = Some(5)),
        ("traceId", |r| r.trace_id = None),
        ("detail", |r| r.detail["holds"][0]["kind"] = json!("manual")),
    ]
}

#[test]
fn the_canonical_form_is_what_the_documentation_says() {
    let mut record = record_from_event(event(0), 11, 1, GENESIS);
    record.detail = json!({ "b": [1, -2, 1.5, 1.0, true, null], "a": "tab\t nul\u{1} é \u{1f600} \\ \"" });
    record.latency_ms = None;
    let mut text = String::new();
    let detail = canonical_into(&record, &mut text);
    assert_eq!(&text[detail], r#"{"a":"tab\t nul\u0001 é 😀 \\ \"","b":[1,-2,1.5,1.0,true,null]}"#);
    assert_eq!(
        text,
        concat!(
            r#"{"actor":{"address":"192.0.2.1","scopes":["mesh.operate"],"subject":"alice","tokenId":"t-1"},"#,
            r#""at":"2026-11-23T12:02:40.123456Z","changeTicket":"CHG-1","#,
            r#""detail":{"a":"tab\t nul\u0001 é 😀 \\ \"","b":[1,-2,1.5,1.0,true,null]},"#,
            r#""eventId":"00000000-0000-0000-0000-0000000003e8","latencyMs":null,"#,
            r#""operation":"00000000-0000-0000-0000-000000000000","outcome":"progressed","position":11,"#,
            r#""prevHash":"0000000000000000000000000000000000000000000000000000000000000000","#,
            r#""reason":"kernel \"patch\"\n","revisionAfter":4,"revisionBefore":3,"seq":1,"target":"peers/edge-7","#,
            r#""traceId":"0af7651916cd43dd8448eb211c80319c","verb":"peers.drain"}"#,
        )
    );
    // The form is valid JSON, and the same JSON as the record's own.
    let own = serde_json::to_value(&record).expect("serialises");
    let mut members: Map<String, Value> = serde_json::from_str(&text).expect("JSON");
    members.insert("hash".to_owned(), json!(""));
    assert_eq!(own, Value::Object(members));
}

#[test]
fn a_record_tells_all_that_its_event_told() {
    let record = record_from_event(event(4), 15, 5, "p");
    assert_eq!((record.seq, record.position, record.prev_hash.as_str()), (5, 15, "p"));
    assert_eq!(record.event_id, event(4).id);
    assert_eq!(record.target, "peers/edge-7");
    assert_eq!(record.trace_id.as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
    assert_eq!(record.detail["type"], "omnirelay.peers.draining");
    assert_eq!(record.detail["operationSeq"], 2);
    assert_eq!(record.detail["state"], "running");
    assert_eq!(record.detail["phase"], "evicting");
    assert_eq!(record.detail["progress"]["inFlight"], 1);
    assert_eq!(record.detail["zone"], "b");
}

#[test]
fn the_actor_is_the_fullest_that_is_known() {
    let actor = |full: bool, named: Option<&str>| {
        let mut event = event(0);
        event.data.actor = named.map(str::to_owned);
        event.data.audit.actor = event.data.audit.actor.filter(|_| full);
        record_from_event(event, 1, 1, GENESIS).actor
    };
    assert_eq!(actor(true, Some("bob")).subject, "alice");
    assert_eq!(actor(false, Some("agent:edge-7")), Actor::system("agent:edge-7"));
    assert_eq!(actor(false, None), Actor::system("system"));
}

#[test]
fn what_postgresql_cannot_hold_is_changed_before_it_is_hashed() {
    let mut odd = event(0);
    odd.data.audit.reason = Some("a\0b".to_owned());
    odd.data.audit.latency_ms = Some(u64::MAX);
    odd.data.detail.insert("type".to_owned(), json!("own"));
    odd.time = "-009999-01-02T01:59:59Z".parse().expect("a time");
    odd.traceparent = Some("junk".to_owned());
    let record = record_from_event(odd, 1, 1, GENESIS);
    assert_eq!(record.reason.as_deref(), Some("a\u{fffd}b"));
    assert_eq!(record.latency_ms, Some(9_223_372_036_854_775_807));
    assert_eq!(record.at.to_string(), "0001-01-01T00:00:00Z");
    assert_eq!(record.trace_id, None);
    assert_eq!(
        (&record.detail["type"], &record.detail["data.type"]),
        (&json!("omnirelay.peers.draining"), &json!("own"))
    );
}

#[test]
fn a_whole_chain_verifies_also_after_it_was_written_to_a_file() {
    let records = chain(20);
    let checkpoints = [signed(&records[9]), signed(&records[19])];
    let whole = Verification { ok: true, records: 20, checkpoints: 2, first_bad: None, gaps: vec![] };
    assert_eq!(verify(&records, &checkpoints), whole);

    let mut file = String::new();
    for record in &records {
        let mut canonical = String::new();
        canonical_into(record, &mut canonical);
        line_into(&record.hash, &canonical, &mut file);
        for checkpoint in checkpoints.iter().filter(|checkpoint| checkpoint.seq == record.seq) {
            file.push_str(&json!({ "checkpoint": checkpoint }).to_string());
            file.push('\n');
        }
    }
    let mut verifier = Verifier::with_key(key().verifying_key());
    for line in file.lines() {
        match Line::parse(line).expect("a line") {
            Line::Record(record) => verifier.push(&record),
            Line::Checkpoint(checkpoint) => verifier.push_checkpoint(&checkpoint),
        }
    }
    assert_eq!(verifier.finish(), whole);
}

#[test]
fn every_edit_of_every_member_is_found_at_its_record_or_the_next() {
    for at in 0..6 {
        for (member, edit) in edits() {
            let mut records = chain(6);
            let last = signed(&records[5]);
            edit(&mut records[at]);
            let seq = records[at].seq;
            let bad = verify(&records, std::slice::from_ref(&last)).first_bad;
            assert!(bad.as_ref().is_some_and(|bad| bad.seq == seq || bad.seq == seq + 1), "{member} of {seq}: {bad:?}");

            // The same by somebody who knows how to hash: found by the link of the next, or by the checkpoint.
            records[at].hash = record_hash(&records[at]);
            if member == "hash" {
                continue; // That was the repair.
            }
            let bad = verify(&records, &[last]).first_bad;
            assert!(bad.as_ref().is_some_and(|bad| bad.seq == seq || bad.seq == seq + 1), "{member} of {seq}: {bad:?}");
        }
    }
}

#[test]
fn a_chain_that_was_hashed_anew_from_a_record_on_is_found_by_the_next_checkpoint() {
    let mut records = chain(9);
    let checkpoint = signed(&records[6]);
    records[3].reason = None;
    for at in 3..9 {
        records[at].prev_hash = records[at - 1].hash.clone();
        records[at].hash = record_hash(&records[at]);
    }
    assert_eq!(verify(&records, &[]).first_bad, None);
    assert_eq!(verify(&records, &[checkpoint]).first_bad.map(|bad| bad.seq), Some(7));
}

#[test]
fn deletion_insertion_and_swap_are_found() {
    let found = |change: fn(&mut Vec<AuditRecord>)| {
        let mut records = chain(8);
        change(&mut records);
        verify(&records, &[]).first_bad.map(|bad| bad.seq)
    };
    assert_eq!(found(|_| ()), None);
    assert_eq!(found(|records| drop(records.remove(0))), Some(1));
    assert_eq!(found(|records| drop(records.remove(4))), Some(5));
    assert_eq!(found(|records| records.swap(2, 3)), Some(3));
    assert_eq!(found(|records| records.insert(3, records[2].clone())), Some(3));
    assert_eq!(
        found(|records| {
            records.remove(4);
            records[4..].iter_mut().for_each(|record| record.seq -= 1);
        }),
        Some(5)
    );
}

#[test]
fn an_end_that_was_cut_off_is_found_by_a_checkpoint_or_by_the_head() {
    let records = chain(8);
    let checkpoint = signed(&records[7]);
    let bad = verify(&records[..5], &[checkpoint]).first_bad;
    assert_eq!(bad.map(|bad| bad.seq), Some(6));

    let mut verifier = Verifier::new();
    records[..5].iter().for_each(|record| verifier.push(record));
    verifier.expect_last(8, &records[7].hash);
    assert_eq!(verifier.finish().first_bad.map(|bad| bad.seq), Some(6));
}

#[test]
fn a_checkpoint_counts_only_with_the_right_signature() {
    let records = chain(3);
    let good = signed(&records[2]);
    assert_eq!(good.verify(&key().verifying_key()), Ok(()));
    let forged = Checkpoint::sign(3, &records[2].hash, good.at, &SigningKey::from_bytes(&[8; 32]));
    let mut renamed = forged.clone();
    renamed.key_id.clone_from(&good.key_id);
    let mut cut = good.clone();
    cut.signature.truncate(10);
    for bad in [forged, renamed, cut] {
        assert_eq!(verify(&records, &[bad]).first_bad.map(|bad| bad.seq), Some(3));
    }
    // Behind later records, it proves nothing.
    let mut verifier = Verifier::with_key(key().verifying_key());
    chain(4).iter().for_each(|record| verifier.push(record));
    verifier.push_checkpoint(&good);
    assert!(verifier.finish().first_bad.is_some_and(|BadRecord { seq, .. }| seq == 3));
    // Without a key it is compared, and not counted.
    let mut verifier = Verifier::new();
    records.iter().for_each(|record| verifier.push(record));
    verifier.push_checkpoint(&good);
    let found = verifier.finish();
    assert_eq!((found.ok, found.checkpoints), (true, 0));
}

#[test]
fn operations_with_a_gap_are_named_and_those_out_of_order_are_not() {
    let gaps = |sequences: &[u64]| {
        let mut verifier = Verifier::new();
        for &seq in sequences {
            let mut record = record_from_event(event(0), seq, seq, GENESIS);
            record.detail["operationSeq"] = json!(seq);
            verifier.push(&record);
        }
        verifier.finish().gaps.first().map(|gap| gap.missing)
    };
    assert_eq!(gaps(&[1, 2, 3]), None);
    assert_eq!(gaps(&[1, 3, 2, 4]), None);
    assert_eq!(gaps(&[2, 3]), Some(1));
    assert_eq!(gaps(&[1, 2, 5, 4]), Some(3));
}

proptest! {
    #[test]
    fn whatever_json_an_event_holds_it_hashes_to_the_same_after_it_was_stored(
        text in ".*", number in any::<f64>().prop_filter("finite", |n| n.is_finite()), names in prop::collection::vec(".*", 0..6),
    ) {
        let mut odd = event(0);
        odd.data.detail = names.into_iter().map(|name| (name, json!({ "n": number, "t": text }))).collect();
        odd.data.audit.reason = Some(text);
        let mut record = record_from_event(odd, 1, 1, GENESIS);
        record.hash = record_hash(&record);
        let mut canonical = String::new();
        let detail = canonical_into(&record, &mut canonical);
        let stored: Value = serde_json::from_str(&canonical[detail]).expect("JSON");
        let read = AuditRecord { detail: stored, ..record.clone() };
        prop_assert_eq!(record_hash(&read), record.hash.clone());
        let mut line = String::new();
        line_into(&record.hash, &canonical, &mut line);
        let Ok(Line::Record(read)) = Line::parse(&line) else { panic!("{line}") };
        prop_assert_eq!(record_hash(&read), record.hash);
    }
}
