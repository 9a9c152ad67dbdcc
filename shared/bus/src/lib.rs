//! JetStream: the connection, the three streams, and the messages that cross it.
//!
//! Nothing but wake-ups and fan-out depends on the bus. It may be away, wiped or rebuilt: the truth is in PostgreSQL.

mod connect;
mod messages;
mod streams;

pub use async_nats::Subscriber;
pub use connect::{Bus, BusError};
pub use messages::RequestMessage;
pub use streams::{EventsStream, StreamOptions};
