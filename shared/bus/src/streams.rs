//! The three streams: Limits retention (the others have lost messages in past releases), file storage, old messages
//! discarded. They are created by whoever comes first and never deleted to be changed.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};

use omnirelay_contract::subject;

use crate::{Bus, BusError};

/// How the streams are kept.
#[derive(Debug, Clone, Copy)]
pub struct StreamOptions {
    /// 1 in development, 3 in a cluster.
    pub replicas: usize,
    pub requests_max_age: Duration,
    pub events_max_age: Duration,
    pub reports_max_age: Duration,
}

impl Default for StreamOptions {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self { replicas: 1, requests_max_age: day, events_max_age: 7 * day, reports_max_age: day }
    }
}

/// What the events stream holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventsStream {
    pub first_sequence: u64,
    pub last_sequence: u64,
}

impl Bus {
    /// Requests and reports. Safe to call again and from several processes.
    pub async fn ensure_streams(&self, options: StreamOptions) -> Result<(), BusError> {
        let wake_ups = [
            (subject::STREAM_REQUESTS, subject::ALL_REQUESTS, options.requests_max_age),
            (subject::STREAM_REPORTS, subject::ALL_REPORTS, options.reports_max_age),
        ];
        for (name, subjects, max_age) in wake_ups {
            let config = config(name, subjects, max_age, options.replicas);
            self.jetstream().get_or_create_stream(config).await.map_err(BusError::jetstream)?;
        }
        Ok(())
    }

    /// The events stream, created where it is missing so that its next sequence is `next`: **a message's sequence in the
    /// stream is its position**, whatever happened to the stream.
    pub async fn ensure_events(&self, options: StreamOptions, next: u64) -> Result<EventsStream, BusError> {
        let mut config = config(subject::STREAM_EVENTS, subject::ALL_EVENTS, options.events_max_age, options.replicas);
        config.first_sequence = (next > 1).then_some(next);
        let mut stream = self.jetstream().get_or_create_stream(config).await.map_err(BusError::jetstream)?;
        let state = &stream.info().await.map_err(BusError::jetstream)?.state;
        Ok(EventsStream { first_sequence: state.first_sequence, last_sequence: state.last_sequence })
    }

    /// Deletes an events stream that cannot be continued because PostgreSQL, the truth, was set back behind it.
    pub async fn drop_events(&self) -> Result<(), BusError> {
        self.jetstream().delete_stream(subject::STREAM_EVENTS).await.map_err(BusError::jetstream)?;
        Ok(())
    }
}

fn config(name: &str, subjects: &str, max_age: Duration, replicas: usize) -> Config {
    Config {
        name: name.to_owned(),
        subjects: vec![subjects.to_owned()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::Old,
        max_age,
        num_replicas: replicas,
        ..Config::default()
    }
}
