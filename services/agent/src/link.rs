//! The connection to NATS: kept for ever, and telling when it is there again.

use std::path::Path;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::watch;

/// The longest pause between two attempts to connect.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(2);

/// A connection that reconnects by itself. Clones share it.
#[derive(Clone)]
pub struct Link {
    client: Client,
    /// How often it was connected.
    connections: watch::Receiver<u64>,
}

impl Link {
    /// Begins to connect, and goes on trying: only a bad URL or a credentials file that cannot be read is an error.
    ///
    /// `url` may name several servers, separated by commas, and a user and password, `nats://user:password@host:port`.
    pub async fn open(url: &str, credentials: Option<&Path>, name: &str) -> anyhow::Result<Self> {
        let servers = servers(url)?;
        let (connected, connections) = watch::channel(0);
        let mut options = ConnectOptions::new()
            .name(name)
            .retry_on_initial_connect()
            .max_reconnects(None)
            .connection_timeout(Duration::from_secs(3))
            .ping_interval(Duration::from_secs(5))
            .client_capacity(16 << 10)
            .subscription_capacity(256 << 10)
            // Full jitter: thousands of agents come back after an outage, not all in the same moment.
            .reconnect_delay_callback(|attempt| {
                let cap = Duration::from_millis(50 << attempt.min(6)).min(MAX_RECONNECT_DELAY);
                cap.mul_f64(rand::random_range(0.2..1.0))
            })
            .event_callback(move |event| {
                let connected = connected.clone();
                async move { tell(&event, &connected) }
            });
        // async-nats reads a server's address from the url, but not who we are.
        let login = servers.iter().find_map(|server| Some((server.username()?, server.password()?)));
        if let Some((user, password)) = login {
            options = options.user_and_password(user.to_owned(), password.to_owned());
        }
        if let Some(file) = credentials {
            let text = tokio::fs::read_to_string(file)
                .await
                .map_err(|error| anyhow::anyhow!("credentials {}: {error}", file.display()))?;
            // The error may quote the file, which is a secret.
            options = options
                .credentials(&text)
                .map_err(|_| anyhow::anyhow!("credentials {}: not a NATS credentials file", file.display()))?;
        }
        let client = options.connect(servers).await?;
        Ok(Self { client, connections })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Changes at every connect.
    pub fn connections(&self) -> watch::Receiver<u64> {
        self.connections.clone()
    }

    /// Resolves at the first connect.
    pub async fn connected(&self) {
        // An error would mean that the client is gone, and with it whoever waits here.
        let _ = self.connections.clone().wait_for(|n| *n > 0).await;
    }

    /// Resolves when the server has taken everything that was asked of it before: a flush only says that it was sent.
    pub async fn round_trip(&self) -> anyhow::Result<()> {
        let inbox = self.client.new_inbox();
        let mut echo = self.client.subscribe(inbox.clone()).await?;
        self.client.publish(inbox, Bytes::new()).await?;
        echo.next().await.map(drop).ok_or_else(|| anyhow::anyhow!("the connection to NATS was closed"))
    }

    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }
}

fn servers(urls: &str) -> anyhow::Result<Vec<ServerAddr>> {
    let parse = |url: &str| {
        // Not the url itself: it may hold a password.
        url.trim().parse::<ServerAddr>().map_err(|error| anyhow::anyhow!("the NATS url is not usable: {error}"))
    };
    urls.split(',').map(parse).collect()
}

fn tell(event: &Event, connected: &watch::Sender<u64>) {
    match event {
        Event::Connected => {
            tracing::debug!("connected to NATS");
            connected.send_modify(|n| *n += 1);
        }
        Event::SlowConsumer(subscription) => tracing::warn!(subscription, "commands come faster than they are taken"),
        other => tracing::warn!(event = %other, "NATS connection"),
    }
}
