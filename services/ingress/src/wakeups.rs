//! Wake-ups for the worker: one message for each mutation, to JetStream's subjects.
//!
//! They are sent without waiting for an acknowledgement, and dropped while NATS is away or slow: the worker polls behind
//! them, and the truth is in the record.

use bytes::Bytes;
use omnirelay_bus::{Bus, RequestMessage};
use omnirelay_contract::subject::{self, HEADER_TRACEPARENT};
use omnirelay_workflow::OperationId;
use omnirelay_workflow::operation::Control;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::submission::Submission;

/// Messages that may wait to be sent. Beyond it they are dropped.
const QUEUE: usize = 16_384;

/// Where wake-ups are handed in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Wakeups {
    bus: Bus,
    queue: mpsc::Sender<Message>,
}

#[derive(Debug)]
struct Message {
    subject: String,
    traceparent: String,
    payload: Bytes,
}

impl Wakeups {
    pub fn start(bus: Bus, stop: CancellationToken) -> (Self, tokio::task::JoinHandle<()>) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let task = tokio::spawn(send(bus.clone(), queue, stop));
        (Self { bus, queue: sender }, task)
    }

    /// For an operation that was committed.
    pub fn request(&self, submission: &Submission) {
        let subject = subject::request(submission.about.resource(), &submission.about.id(), submission.verb.action());
        self.send(subject, submission.id, &submission.target, submission.verb.as_str(), &submission.traceparent);
    }

    /// For an operation to which something was done.
    pub fn control(&self, control: Control, operation: OperationId, target: &str, traceparent: &str) {
        let subject = subject::request("operations", &operation.to_string(), control.action());
        self.send(subject, operation, target, control.as_str(), traceparent);
    }

    fn send(&self, subject: String, operation: OperationId, target: &str, verb: &str, traceparent: &str) {
        if !self.bus.is_connected() {
            return;
        }
        let message = RequestMessage { operation, target: target.to_owned(), verb: verb.to_owned() };
        if let Ok(payload) = serde_json::to_vec(&message) {
            let message = Message { subject, traceparent: traceparent.to_owned(), payload: payload.into() };
            // A full queue means that the worker finds the operation by its poll.
            let _dropped = self.queue.try_send(message);
        }
    }
}

async fn send(bus: Bus, mut queue: mpsc::Receiver<Message>, stop: CancellationToken) {
    while let Some(Some(message)) = stop.run_until_cancelled(queue.recv()).await {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(HEADER_TRACEPARENT, message.traceparent.as_str());
        if let Err(error) = bus.publish(message.subject, headers, message.payload).await {
            tracing::debug!(%error, "a wake-up was not sent");
        }
    }
}
