//! The connection. It is kept up for as long as the process lives; a server that is away is waited for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::{Client, ConnectOptions, HeaderMap, ServerAddr, Subscriber};
use bytes::Bytes;

/// An error of the bus. All of them are weather: what they carried is in PostgreSQL.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    #[error("the NATS url is not usable: {0}")]
    Url(String),
    #[error("the NATS credentials {} cannot be used: {source}", path.display())]
    Credentials {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot subscribe to {subject}: {source}")]
    Subscribe {
        subject: String,
        #[source]
        source: async_nats::SubscribeError,
    },
    #[error("cannot publish to {subject}: {source}")]
    Publish {
        subject: String,
        #[source]
        source: async_nats::PublishError,
    },
    #[error("JetStream: {0}")]
    JetStream(String),
}

impl BusError {
    pub(crate) fn jetstream(error: impl std::fmt::Display) -> Self {
        BusError::JetStream(error.to_string())
    }
}

/// A connection with its JetStream context. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bus {
    client: Client,
    jetstream: jetstream::Context,
}

impl Bus {
    /// Connects in the background: a server that is not there yet is retried for ever, with jitter, so that a fleet of
    /// services does not come back in one instant.
    pub async fn connect(url: &str, name: &str) -> Result<Self, BusError> {
        Self::connect_as(url, name, None).await
    }

    /// The same with a `.creds` file (a user's JWT and its seed).
    pub async fn connect_as(url: &str, name: &str, credentials: Option<&Path>) -> Result<Self, BusError> {
        let server: ServerAddr = url.parse().map_err(|source: std::io::Error| BusError::Url(source.to_string()))?;
        let mut options = ConnectOptions::new()
            .name(name)
            .retry_on_initial_connect()
            .connection_timeout(Duration::from_secs(3))
            .ping_interval(Duration::from_secs(5))
            .client_capacity(16_384)
            .subscription_capacity(262_144)
            .reconnect_delay_callback(|attempt| {
                let base = 50u64.saturating_mul(1 << attempt.min(5)).min(1_000);
                let jitter = u64::from(uuid::Uuid::new_v4().as_bytes()[0]) * base / 512;
                Duration::from_millis(base / 2 + jitter)
            });
        // async-nats reads the server's address from the url, but not who we are.
        if let (Some(user), Some(password)) = (server.username(), server.password()) {
            options = options.user_and_password(user.to_owned(), password.to_owned());
        }
        if let Some(path) = credentials {
            options = options
                .credentials_file(path)
                .await
                .map_err(|source| BusError::Credentials { path: path.to_owned(), source })?;
        }
        let client = options.connect(server).await.map_err(|source| BusError::Url(source.to_string()))?;
        let jetstream = jetstream::ContextBuilder::new()
            .timeout(Duration::from_secs(5))
            .ack_timeout(Duration::from_secs(5))
            .max_ack_inflight(65_536)
            .build(client.clone());
        Ok(Self { client, jetstream })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }

    /// Whether the server is there now.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    pub async fn subscribe(&self, subject: &str) -> Result<Subscriber, BusError> {
        self.client
            .subscribe(subject.to_owned())
            .await
            .map_err(|source| BusError::Subscribe { subject: subject.to_owned(), source })
    }

    /// A subscription that shares its messages with the others of the same group.
    pub async fn subscribe_shared(&self, subject: &str, group: &str) -> Result<Subscriber, BusError> {
        self.client
            .queue_subscribe(subject.to_owned(), group.to_owned())
            .await
            .map_err(|source| BusError::Subscribe { subject: subject.to_owned(), source })
    }

    /// Publishes on core NATS. Returns when the message is in the connection's buffer, not when anybody has it; with the
    /// server away it is dropped, so that nothing waits for a bus that nobody depends on.
    pub async fn publish(&self, subject: String, headers: HeaderMap, payload: Bytes) -> Result<(), BusError> {
        if !self.is_connected() {
            return Ok(());
        }
        self.client
            .publish_with_headers(subject.clone(), headers, payload)
            .await
            .map_err(|source| BusError::Publish { subject, source })
    }
}
