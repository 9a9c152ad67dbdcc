//! The bus as a source of events: a core subscription, so nothing of the past and nothing kept on the server. Whoever needs
//! what was missed asks the API.

use std::time::Duration;

use futures_util::StreamExt as _;
use omnirelay_contract::event::Event;
use omnirelay_contract::subject::{ALL_EVENTS, HEADER_POSITION};
use tokio::sync::mpsc::Sender;

use super::{Filter, Update};

const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// A subscription that stands. Dropping it ends it.
pub struct Subscription {
    // The connection lives as long as its client.
    _client: async_nats::Client,
    messages: async_nats::Subscriber,
}

/// Connects and subscribes, or says why not, so that the caller can take the API's stream instead. Later losses are
/// repaired by the connection itself and told in `updates`.
pub async fn subscribe(url: &str, filter: &Filter, updates: Sender<Update>) -> Result<Subscription, String> {
    let options =
        async_nats::ConnectOptions::new().ping_interval(Duration::from_secs(5)).event_callback(move |event| {
            let updates = updates.clone();
            async move {
                let update = match event {
                    async_nats::Event::Connected => Update::Ready,
                    async_nats::Event::Disconnected => Update::Lost { why: "NATS is disconnected".to_owned() },
                    async_nats::Event::SlowConsumer(_) => Update::Gap { position: None },
                    async_nats::Event::ServerError(error) => Update::Lost { why: format!("NATS: {error}") },
                    _ => return,
                };
                let _ = updates.send(update).await;
            }
        });
    let client = connect(url, options).await?;
    let messages = client.subscribe(filter.nats_subject()).await.map_err(|error| error.to_string())?;
    // Once the server has taken the flush it has the subscription: what is committed after this is heard.
    client.flush().await.map_err(|error| error.to_string())?;
    Ok(Subscription { _client: client, messages })
}

/// Connects as whom the url says, or says why not, without the password. async-nats reads only the address from a url.
pub async fn connect(url: &str, options: async_nats::ConnectOptions) -> Result<async_nats::Client, String> {
    let server: async_nats::ServerAddr = url.parse().map_err(|_| "the address is not a NATS url".to_owned())?;
    let mut options = options.name("omnirelay-cli").connection_timeout(CONNECT_WITHIN);
    match (server.username(), server.password()) {
        (Some(user), Some(password)) => options = options.user_and_password(user.to_owned(), password.to_owned()),
        (Some(token), None) => options = options.token(token.to_owned()),
        _ => {}
    }
    let connected = tokio::time::timeout(CONNECT_WITHIN, options.connect(server)).await;
    connected.map_err(|_| "no answer in time".to_owned())?.map_err(|error| error.to_string())
}

/// Passes events on until nobody listens.
pub async fn feed(mut subscription: Subscription, filter: Filter, updates: Sender<Update>) {
    loop {
        let message = tokio::select! {
            message = subscription.messages.next() => message,
            () = updates.closed() => return,
        };
        let Some(message) = message else { return };
        // What is not an event of ours is somebody else's mistake, and nothing to stop for.
        let Ok(event) = serde_json::from_slice::<Event>(&message.payload) else { continue };
        if !filter.matches(&event) {
            continue;
        }
        let header = message.headers.as_ref().and_then(|headers| headers.get(HEADER_POSITION));
        let position = header.and_then(|position| position.as_str().parse().ok());
        if updates.send(Update::Event { position, event: Box::new(event) }).await.is_err() {
            return;
        }
    }
}

impl Filter {
    /// The narrowest subject that has all that is looked for.
    fn nats_subject(&self) -> String {
        let token =
            |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        match (self.resource.as_deref().and_then(|resource| resource.split_once('/')), self.kind.as_deref()) {
            (Some((kind, id)), _) if token(kind) && token(id) => format!("omni.v1.event.{kind}.{id}.>"),
            (None, Some(kind)) if token(kind) => format!("omni.v1.event.{kind}.>"),
            _ => ALL_EVENTS.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::follow::Feed;
    use omnirelay_contract::event::EventData;
    use omnirelay_contract::subject;
    use std::sync::Arc;

    const WITHIN: Duration = Duration::from_secs(20);

    fn client() -> Arc<Client> {
        // The binary's `main` does this; a second time is harmless.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Arc::new(Client::new("http://127.0.0.1:9", None, None).expect("client"))
    }

    async fn next_event(feed: &mut Feed) -> (Option<u64>, String) {
        let next = async {
            loop {
                match feed.updates.recv().await.expect("a feed that goes on") {
                    Update::Event { position, event } => return (position, event.subject),
                    _ => continue,
                }
            }
        };
        tokio::time::timeout(WITHIN, next).await.expect("an event in time")
    }

    #[tokio::test]
    async fn events_of_the_operation_come_by_the_bus() {
        let url = omnirelay_devstack::testing::shared().await.nats_account().await;
        let operation = uuid::Uuid::new_v4();
        let filter = Filter { operation: Some(operation), ..Filter::default() };
        let mut feed = Feed::start(&client(), Some(&url), filter, None).await;
        assert!(feed.by_bus);
        let bus = connect(&url, async_nats::ConnectOptions::new()).await.expect("connected");
        for (position, of) in [(6, uuid::Uuid::new_v4()), (7, operation)] {
            let data = EventData { operation: Some(of), ..EventData::default() };
            let event = Event::new(uuid::Uuid::new_v4(), "peers", "p-7", "drained", jiff::Timestamp::UNIX_EPOCH, data);
            let mut headers = async_nats::HeaderMap::new();
            headers.insert(HEADER_POSITION, position.to_string().as_str());
            let to = subject::event("peers", "p-7", "drained");
            bus.publish_with_headers(to.clone(), headers, "not an event".into()).await.expect("published");
            let mut headers = async_nats::HeaderMap::new();
            headers.insert(HEADER_POSITION, position.to_string().as_str());
            let payload = serde_json::to_vec(&event).expect("json");
            bus.publish_with_headers(to, headers, payload.into()).await.expect("published");
        }
        bus.flush().await.expect("flushed");
        assert_eq!(next_event(&mut feed).await, (Some(7), "peers/p-7".to_owned()));
    }

    #[tokio::test]
    async fn without_a_bus_the_api_is_watched() {
        let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("port");
        let url = format!("nats://{}", nobody.local_addr().expect("address"));
        drop(nobody);
        let feed = Feed::start(&client(), Some(&url), Filter::default(), None).await;
        assert!(!feed.by_bus);
    }

    #[test]
    fn the_narrowest_subject() {
        for (resource, kind, subject) in [
            (None, None, "omni.v1.event.>"),
            (None, Some("peers"), "omni.v1.event.peers.>"),
            (Some("peers/web-07"), None, "omni.v1.event.peers.web-07.>"),
            (Some("peers/*"), None, "omni.v1.event.>"),
            (None, Some(">"), "omni.v1.event.>"),
        ] {
            let filter =
                Filter { resource: resource.map(str::to_owned), kind: kind.map(str::to_owned), ..Filter::default() };
            assert_eq!(filter.nats_subject(), subject);
        }
    }
}
