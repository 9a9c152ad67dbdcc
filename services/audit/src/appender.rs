//! The chain's writer: positions become records, in order, each once.

use std::ops::Range;
use std::time::Duration;

use async_nats::jetstream::Message;
use omnirelay_contract::audit::AuditRecord;
use omnirelay_contract::chain::{
    canonical_hash, canonical_into, line_into, record_from_event, record_of_lost, record_of_unreadable,
};
use omnirelay_contract::event::Event;
use omnirelay_contract::subject::HEADER_POSITION;
use omnirelay_store::audit::{self as store, AuditHead, NewRecord, PositionedEvent};
use omnirelay_store::{PgPool, StoreError};
use omnirelay_workflow::Timestamp;
use tokio::time::Instant;

use crate::source::BATCH;

/// A position that the relay has given out, and that the event log does not hold, is waited for this long before it is
/// recorded as lost.
const LOST_AFTER: Duration = Duration::from_secs(30);

/// What goes into the log for the positions `first..=position`; nearly always one.
#[derive(Debug)]
pub struct Incoming {
    first: u64,
    position: u64,
    /// Without seq and hashes, which are given under the lock. None: the event has its record under another position.
    record: Option<AuditRecord>,
}

/// What a transaction has done.
#[derive(Debug, Default)]
pub struct Appended {
    /// Whether the chain's position has moved.
    pub moved: bool,
    pub records: usize,
    /// Of the first and last record; meaningless without records.
    pub first_seq: u64,
    pub last_seq: u64,
    /// Of the last record.
    pub hash: String,
    /// The time of the newest event; none without records.
    pub newest: Option<Timestamp>,
    /// The records as lines of a log file.
    pub lines: String,
}

pub struct Appender {
    pool: PgPool,
    /// The canonical forms of the records of a batch, one after the other, and where they and their details are.
    canonical: String,
    spans: Vec<(Range<usize>, Range<usize>)>,
    /// Since when the database lacks which position.
    missing: Option<(u64, Instant)>,
    pub(crate) lost_after: Duration,
}

impl Appender {
    pub fn new(pool: PgPool) -> Self {
        Self { pool, canonical: String::new(), spans: Vec::new(), missing: None, lost_after: LOST_AFTER }
    }

    /// Appends the part of `incoming` that follows the end of the chain, in one transaction, and takes it out of `incoming`
    /// with all that is known already. Where the next position is not in it, or it is empty, the event log is read instead.
    ///
    /// To be called again while anything is left. After an error, `incoming` may be given again, or not.
    pub async fn append(&mut self, incoming: &mut Vec<Incoming>) -> Result<Appended, StoreError> {
        let mut at_most = BATCH;
        loop {
            let mut tried = 0;
            match self.attempt(incoming, at_most, &mut tried).await {
                // One of them cannot be stored. Halves find out which, so that the others are not held up.
                Err(error) if error.is_data() && tried > 1 => at_most = tried / 2,
                Err(error) if error.is_data() && tried == 1 => self.settle(&mut incoming[0], error).await?,
                done => return done,
            }
        }
    }

    async fn attempt(
        &mut self,
        incoming: &mut Vec<Incoming>,
        at_most: usize,
        tried: &mut usize,
    ) -> Result<Appended, StoreError> {
        if !incoming.is_sorted_by_key(|item| item.position) {
            incoming.sort_by_key(|item| item.position);
        }
        incoming.dedup_by_key(|item| item.position);
        let mut transaction = self.pool.begin().await?;
        let head = store::lock_head(&mut transaction).await?;
        // A position that the relay has not given out is from a former life of the stream, or forged.
        incoming.retain(|item| item.position > head.position && item.position <= head.positioned);
        if incoming.first().is_none_or(|item| item.first != head.position + 1) && head.positioned > head.position {
            let events = store::positioned_events(&mut transaction, head.position, BATCH as u32).await?;
            *incoming = self.read_events(&events, &head);
        }
        let run = run_length(incoming, head.position).min(at_most);
        let Some(last) = incoming[..run].last() else {
            incoming.clear();
            return Ok(Appended::default());
        };
        *tried = run;
        let position = last.position;
        let mut appended = self.seal(&mut incoming[..run], &head);
        let records: Vec<_> = incoming[..run]
            .iter()
            .filter_map(|item| item.record.as_ref())
            .zip(&self.spans)
            .map(|(record, (_, detail))| NewRecord { record, detail: &self.canonical[detail.clone()] })
            .collect();
        store::append(&mut transaction, &records, appended.last_seq, &appended.hash, position).await?;
        transaction.commit().await?;
        for (new, (canonical, _)) in records.iter().zip(&self.spans) {
            line_into(&new.record.hash, &self.canonical[canonical.clone()], &mut appended.lines);
        }
        incoming.drain(..run);
        Ok(appended)
    }

    /// Numbers and hashes the records as the continuation of `head`.
    fn seal(&mut self, run: &mut [Incoming], head: &AuditHead) -> Appended {
        self.canonical.clear();
        self.spans.clear();
        let mut seq = head.seq;
        let mut hash = head.hash.clone();
        let mut newest = None;
        for record in run.iter_mut().filter_map(|item| item.record.as_mut()) {
            seq += 1;
            record.seq = seq;
            record.prev_hash = hash;
            let start = self.canonical.len();
            let detail = canonical_into(record, &mut self.canonical);
            record.hash = canonical_hash(&self.canonical[start..]);
            self.spans.push((start..self.canonical.len(), detail));
            hash = record.hash.clone();
            newest = newest.max(Some(record.at));
        }
        Appended {
            moved: true,
            records: self.spans.len(),
            first_seq: head.seq + 1,
            last_seq: seq,
            hash,
            newest,
            lines: String::with_capacity(self.canonical.len() + 80 * self.spans.len()),
        }
    }

    /// A single record that the database does not take. Either its event was recorded before, under another position, or it
    /// holds something that PostgreSQL cannot: then the log says that much.
    async fn settle(&mut self, item: &mut Incoming, error: StoreError) -> Result<(), StoreError> {
        let Some(record) = &item.record else { return Err(error) };
        let mut connection = self.pool.acquire().await?;
        if store::is_known(&mut connection, record.event_id).await? {
            tracing::warn!(event_id = %record.event_id, position = item.position, "an event came under a second position");
            item.record = None;
            return Ok(());
        }
        if record.outcome == "unreadable" {
            return Err(error);
        }
        tracing::error!(%error, event_id = %record.event_id, position = item.position, "an event cannot be recorded as it is");
        let mut content = String::new();
        canonical_into(record, &mut content);
        let why = error.to_string();
        item.record = Some(record_of_unreadable(
            record.event_id,
            &record.target,
            record.operation,
            record.at,
            &content,
            &why,
            item.position,
            0,
            "",
        ));
        Ok(())
    }

    /// The rows of the event log that follow `head`. Rows behind missing ones are held back until those count as lost.
    fn read_events(&mut self, events: &[PositionedEvent], head: &AuditHead) -> Vec<Incoming> {
        let next = head.position + 1;
        let found = events.first().map_or(head.positioned + 1, |event| event.position);
        let mut incoming = Vec::with_capacity(events.len() + 1);
        if found == next {
            self.missing = None;
        } else {
            let since = match self.missing {
                Some((position, since)) if position == next => since,
                _ => Instant::now(),
            };
            self.missing = Some((next, since));
            if since.elapsed() < self.lost_after {
                return incoming;
            }
            tracing::error!(first = next, last = found - 1, "positions are lost: the event log does not hold them");
            let record = record_of_lost(next, found - 1, Timestamp::now(), 0, "");
            incoming.push(Incoming { first: next, position: found - 1, record: Some(record) });
        }
        incoming.extend(events.iter().map(incoming_from_event_log));
        incoming
    }
}

/// A message as a record to be. Nothing where it cannot be read: then its position is missing, and the event log, which is
/// the truth, is asked.
pub fn incoming_from_bus(message: &Message) -> Option<Incoming> {
    let position = match message.headers.as_ref().and_then(|headers| headers.get(HEADER_POSITION)) {
        Some(position) => position.as_str().parse().ok()?,
        None => message.info().ok()?.stream_sequence,
    };
    let event: Event = serde_json::from_slice(&message.payload).ok()?;
    Some(incoming_from_event(event, position))
}

pub fn incoming_from_event(event: Event, position: u64) -> Incoming {
    Incoming { first: position, position, record: Some(record_from_event(event, position, 0, "")) }
}

fn incoming_from_event_log(row: &PositionedEvent) -> Incoming {
    match serde_json::from_str::<Event>(&row.payload) {
        Ok(event) => incoming_from_event(event, row.position),
        Err(error) => {
            tracing::error!(%error, event_id = %row.event_id, position = row.position, "an event cannot be read");
            let record = record_of_unreadable(
                row.event_id,
                &row.resource,
                row.operation,
                row.created_at,
                &row.payload,
                &error.to_string(),
                row.position,
                0,
                "",
            );
            Incoming { first: row.position, position: row.position, record: Some(record) }
        }
    }
}

/// How many of them follow `position` without a gap.
fn run_length(incoming: &[Incoming], position: u64) -> usize {
    let mut end = position;
    incoming
        .iter()
        .take_while(|item| {
            let follows = item.first == end + 1;
            end = item.position;
            follows
        })
        .count()
}
