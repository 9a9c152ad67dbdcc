//! Commands off the bus: parsed, checked against their subject, submitted, answered.

use std::sync::Arc;

use async_nats::{Client, Message, Subscriber};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use omnirelay_contract::agent::{Command, Reply};
use tokio_util::sync::CancellationToken;

use crate::core::Core;
use crate::traces::Trace;

/// Takes commands until `stop`. `find` names the core that a peer's commands of a verb are for; none leaves the command unanswered.
///
/// Commands are submitted in the order in which they come; answers go out when they are durable.
pub async fn serve(
    client: &Client,
    mut commands: Subscriber,
    find: impl Fn(&str, &str) -> Option<Found>,
    stop: CancellationToken,
) {
    let mut replies = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(()) = replies.next(), if !replies.is_empty() => {}
            message = commands.next() => {
                let Some(message) = message else { return };
                if let Some(reply) = take(message, &find) {
                    replies.push(answer(client, reply));
                }
            }
        }
    }
}

/// Whose a command is, and what becomes of it.
pub enum Found {
    Core(Arc<Core>),
    /// The peer refuses everything, with these words.
    Refuses(String),
}

struct Pending {
    to: Option<async_nats::Subject>,
    reply: PendingReply,
}

enum PendingReply {
    Now(Reply),
    Later(tokio::sync::oneshot::Receiver<Reply>),
}

fn take(message: Message, find: &impl Fn(&str, &str) -> Option<Found>) -> Option<Pending> {
    // omni.v1.agent.<peer>.<verb>
    let mut tokens = message.subject.as_str().split('.').skip(3);
    let (peer, verb) = (tokens.next()?, tokens.next()?);
    let found = find(peer, verb)?;
    let reply = match (found, serde_json::from_slice::<Command>(&message.payload)) {
        (_, Err(error)) => refused(format!("not a command: {error}")),
        (_, Ok(command)) if command.peer.as_str() != peer || command.verb.as_str() != verb => {
            refused(format!("{} of {} came on the subject of {verb} of {peer}", command.verb, command.peer))
        }
        (Found::Refuses(message), Ok(_)) => refused(message),
        (Found::Core(core), Ok(command)) => {
            PendingReply::Later(core.submit(command, Trace::of(message.headers.as_ref())))
        }
    };
    Some(Pending { to: message.reply, reply })
}

fn refused(message: String) -> PendingReply {
    PendingReply::Now(Reply::Refused { message })
}

async fn answer(client: &Client, pending: Pending) {
    let reply = match pending.reply {
        PendingReply::Now(reply) => reply,
        PendingReply::Later(reply) => match reply.await {
            Ok(reply) => reply,
            // The agent ends: no answer, the command comes again.
            Err(_) => return,
        },
    };
    let Some(to) = pending.to else { return };
    match serde_json::to_vec(&reply) {
        Ok(payload) => {
            if let Err(error) = client.publish(to, payload.into()).await {
                tracing::warn!(%error, "a command cannot be answered");
            }
        }
        Err(error) => tracing::error!(%error, "an answer cannot be written"),
    }
}
