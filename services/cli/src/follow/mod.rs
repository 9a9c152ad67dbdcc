//! Following an operation to its end: by subscription to the bus or to the API's event stream, with the operation itself
//! as the truth.
//!
//! Events only make the view quick. Whether it has ended is always read from the operation: at the start, after a lost
//! connection or a gap, when an event says so, and whenever nothing was heard for a while. So a terminal state is never
//! missed, whatever the stream does.

pub mod around;
pub mod bulk;
pub mod gate;
pub mod nats;
pub mod outcome;
pub mod screen;
pub mod sse;
pub mod view;

use std::sync::Arc;
use std::time::{Duration, Instant};

use omnirelay_contract::audit::AuditRecord;
use omnirelay_contract::event::Event;
use omnirelay_contract::rest::Operation;
use omnirelay_contract::workflow::OperationId;
use tokio::sync::mpsc;

use crate::client::{Client, ClientError, ORDER_BY, Request};
use crate::failure::Failure;
use crate::output::note;
use crate::resolve::short;
use crate::session::Session;
use around::{Around, Lookout};
use outcome::Leave;
use screen::Screen;
use view::View;

/// After this long without a word the operation itself is asked.
const SILENCE: Duration = Duration::from_secs(5);
/// How often it is asked where there is no stream: a token without `mesh.observe`, or a lost connection.
const POLL: Duration = Duration::from_secs(1);
/// Ages are redrawn, and silences noticed, this often.
const TICK: Duration = Duration::from_millis(250);
/// One read of the truth may take this long.
const TRUTH_WITHIN: Duration = Duration::from_secs(10);
/// The audit record of an end is waited for this long; a line without it is better than a line late.
const AUDIT_WITHIN: Duration = Duration::from_secs(2);

/// What a source of events says.
#[derive(Debug)]
pub enum Update {
    /// Connected, or connected again: what was missed is asked for.
    Ready,
    Event {
        position: Option<u64>,
        event: Box<Event>,
    },
    /// Something that is not an event of ours, a snapshot for instance.
    Other {
        position: Option<u64>,
    },
    /// Events are missing.
    Gap {
        position: Option<u64>,
    },
    /// The connection is gone; the source comes back by itself.
    Lost {
        why: String,
    },
    /// There will be no events.
    Refused(ClientError),
}

impl Update {
    pub fn position(&self) -> Option<u64> {
        match self {
            Update::Event { position, .. } | Update::Other { position } | Update::Gap { position } => *position,
            Update::Ready | Update::Lost { .. } | Update::Refused(_) => None,
        }
    }
}

/// Which events are looked for. No member means all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub operation: Option<OperationId>,
    /// `peers/edge-7`.
    pub resource: Option<String>,
    /// `peers`.
    pub kind: Option<String>,
}

impl Filter {
    fn query(&self) -> Vec<(&'static str, String)> {
        let operation = self.operation.map(|id| ("operation", id.to_string()));
        let resource = self.resource.clone().map(|resource| ("resource", resource));
        let kind = self.kind.clone().map(|kind| ("kind", kind));
        [operation, resource, kind].into_iter().flatten().collect()
    }

    pub fn matches(&self, event: &Event) -> bool {
        let kind = event.parts().map(|(kind, _, _)| kind);
        (self.operation.is_none() || self.operation == event.data.operation)
            && self.resource.as_deref().is_none_or(|resource| resource == event.subject)
            && (self.kind.is_none() || self.kind.as_deref() == kind)
    }
}

/// A running source. Dropping it ends it.
pub struct Feed {
    pub updates: mpsc::Receiver<Update>,
    /// Whether it is the bus: then what was missed is not repeated.
    pub by_bus: bool,
}

impl Feed {
    /// By the bus where there is one and it answers, else by the API's stream. `since` is a position to resume after, which
    /// only the API can do.
    pub async fn start(client: &Arc<Client>, nats: Option<&str>, filter: Filter, since: Option<u64>) -> Self {
        let (sender, updates) = mpsc::channel(256);
        if let (Some(url), None) = (nats, since) {
            match nats::subscribe(url, &filter, sender.clone()).await {
                Ok(subscription) => {
                    tokio::spawn(nats::feed(subscription, filter, sender));
                    return Self { updates, by_bus: true };
                }
                Err(why) => note(&format!("NATS cannot be used ({why}); watching by the API's event stream")),
            }
        }
        let client = Arc::clone(client);
        tokio::spawn(async move { sse::feed(&client, &filter, since, &sender).await });
        Self { updates, by_bus: false }
    }
}

/// How following ended.
#[derive(Debug)]
pub enum Followed {
    /// The operation ended.
    Ended(Operation),
    /// This side left; the operation goes on from here.
    Left(Operation, Leave),
}

/// Follows until the operation ends, Ctrl-C, or `wait` has passed.
pub async fn follow(session: &Session, operation: Operation, wait: Option<Duration>) -> Result<Followed, Failure> {
    if operation.state.is_terminal() {
        return Ok(Followed::Ended(operation));
    }
    let gate = operation.approval.as_ref();
    let digest = gate.map(|gate| format!("   digest {}", gate::short(&gate.digest))).unwrap_or_default();
    note(&format!("op {}{digest}   Ctrl-C detaches", short(operation.id)));
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut patience = std::pin::pin!(async {
        match wait {
            Some(wait) => tokio::time::sleep(wait).await,
            None => std::future::pending().await,
        }
    });
    let filter = Filter { operation: Some(operation.id), ..Filter::default() };
    let mut feed = tokio::select! {
        feed = Feed::start(&session.client, session.target.nats.as_deref(), filter, None) => feed,
        _ = &mut interrupt => return Ok(Followed::Left(operation, Leave::Interrupted)),
    };
    let mut state = Following::new(session, operation);
    let mut screen = Screen::of_stderr();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        screen.draw(&state.view, state.trouble.as_deref());
        tokio::select! {
            _ = &mut interrupt => {
                screen.finish(&state.view.lines(jiff::Timestamp::now()));
                return Ok(Followed::Left(state.operation, Leave::Interrupted));
            }
            () = &mut patience => {
                screen.finish(&state.view.lines(jiff::Timestamp::now()));
                return Ok(Followed::Left(state.operation, Leave::Waited));
            }
            update = feed.updates.recv(), if !state.polling => state.hear(update),
            Some(truth) = state.truths.recv() => state.learn(truth)?,
            _ = tick.tick() => state.tick(),
        }
        if state.operation.state.is_terminal() {
            screen.finish(&View::ended(&state.operation));
            return Ok(Followed::Ended(state.operation));
        }
    }
}

/// What is known while following.
struct Following {
    client: Arc<Client>,
    operation: Operation,
    view: View,
    trouble: Option<String>,
    /// There is no stream: the operation is asked every second.
    polling: bool,
    /// When something was last heard, of either kind.
    heard: Instant,
    asking: bool,
    ask_again: bool,
    /// When the operation was last asked for.
    asked: Instant,
    lookout: Arc<Lookout>,
    answers: mpsc::Sender<Result<Truth, ClientError>>,
    truths: mpsc::Receiver<Result<Truth, ClientError>>,
}

/// The operation as it is, and what belongs to it.
type Truth = (Operation, Around);

impl Following {
    fn new(session: &Session, operation: Operation) -> Self {
        let (answers, truths) = mpsc::channel(1);
        let view = View::new(&operation);
        let mut following = Self {
            client: Arc::clone(&session.client),
            operation,
            view,
            trouble: None,
            polling: false,
            heard: Instant::now(),
            asking: false,
            ask_again: false,
            asked: Instant::now(),
            lookout: Arc::default(),
            answers,
            truths,
        };
        // The subscription stands: whatever happened before it is in the operation.
        following.ask();
        following
    }

    fn hear(&mut self, update: Option<Update>) {
        // A stream that cannot be had says so again and again, which is no word of the operation.
        if !matches!(update, Some(Update::Lost { .. })) {
            self.heard = Instant::now();
        }
        match update {
            Some(Update::Event { event, .. }) => {
                if self.view.apply(&event) {
                    self.ask();
                }
            }
            Some(Update::Ready) => {
                self.trouble = None;
                self.ask();
            }
            Some(Update::Gap { .. } | Update::Other { .. }) => self.ask(),
            // A server may well hang up once it has told the end.
            Some(Update::Lost { .. }) if self.view.state().is_terminal() => self.ask(),
            Some(Update::Lost { why }) => self.trouble = Some(why),
            Some(Update::Refused(_)) | None => self.polling = true,
        }
    }

    fn learn(&mut self, truth: Result<Truth, ClientError>) -> Result<(), Failure> {
        self.asking = false;
        self.heard = Instant::now();
        match truth {
            Ok((operation, around)) => {
                self.view.surround(around);
                // Two reads never run at once, so a later answer is a later truth.
                self.view.sync(&operation);
                self.operation = operation;
                if self.polling {
                    self.trouble = None;
                }
            }
            Err(error) if error.is_passing() || error.status() == Some(500) => self.trouble = Some(error.to_string()),
            Err(error) => {
                let id = short(self.operation.id);
                return Err(
                    Failure::from(error).hint(format!("the operation goes on; later: omnirelay ops attach {id}"))
                );
            }
        }
        if std::mem::take(&mut self.ask_again) {
            self.ask();
        }
        Ok(())
    }

    fn tick(&mut self) {
        let ended = self.view.state().is_terminal();
        let patience = if ended {
            TICK
        } else if self.polling || self.trouble.is_some() {
            POLL
        } else {
            SILENCE
        };
        // Its children have events of their own, which are not subscribed to: a thousand streams would cost more than a
        // question every second.
        let many = self.view.is_of_many() && self.asked.elapsed() >= POLL;
        if !self.asking && (many || self.heard.elapsed() >= patience) {
            self.ask();
        }
    }

    /// Reads the operation beside the loop, which stays open to Ctrl-C.
    fn ask(&mut self) {
        if self.asking {
            self.ask_again = true;
            return;
        }
        self.asking = true;
        self.asked = Instant::now();
        let (client, answers, lookout) = (Arc::clone(&self.client), self.answers.clone(), Arc::clone(&self.lookout));
        let request = Request::get(format!("/control/operations/{}", self.operation.id));
        tokio::spawn(async move {
            let read = async {
                let answer = client.send_once(&request).await?;
                let operation: Operation = crate::client::understand(&request.path, answer.body)?;
                let around = lookout.look(&client, &operation).await?;
                Ok((operation, around))
            };
            let unreachable =
                || ClientError::Unreachable { url: client.base().to_owned(), why: "no answer in time".to_owned() };
            let truth = tokio::time::timeout(TRUTH_WITHIN, read).await.unwrap_or_else(|_| Err(unreachable()));
            let _ = answers.send(truth).await;
        });
    }
}

/// The sequence of the audit record of an operation's end, if it is there soon enough and may be read.
pub async fn audit_seq(client: &Client, operation: &Operation) -> Option<u64> {
    // The end is the last that is told of an operation, but for what its peer tells in the same transaction.
    let request = Request::get("/control/audit").query("operation", operation.id).query(ORDER_BY, "seq desc");
    let kind = format!("omnirelay.operations.{}", operation.state);
    let find = async {
        loop {
            let page = client.list::<AuditRecord>(&request, 50).await.ok()?;
            let end = page.items.iter().find(|record| record.detail.get("type").is_some_and(|it| *it == kind.as_str()));
            if let Some(end) = end {
                return Some(end.seq);
            }
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    };
    tokio::time::timeout(AUDIT_WITHIN, find).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use omnirelay_contract::event::EventData;

    #[test]
    fn filters() {
        let data = EventData { operation: crate::testing::ID.parse().ok(), ..EventData::default() };
        let event = Event::new(uuid::Uuid::nil(), "peers", "web-07", "drained", jiff::Timestamp::UNIX_EPOCH, data);
        let check = |operation: Option<&str>, resource: Option<&str>, kind: Option<&str>, expected: bool| {
            let filter = Filter {
                operation: operation.map(|id| id.parse().expect("id")),
                resource: resource.map(str::to_owned),
                kind: kind.map(str::to_owned),
            };
            assert_eq!(filter.matches(&event), expected, "{filter:?}");
        };
        check(None, None, None, true);
        check(Some(crate::testing::ID), Some("peers/web-07"), Some("peers"), true);
        check(Some("0193d1f0-0000-7000-8000-000000000009"), None, None, false);
        check(None, Some("peers/web-08"), None, false);
        check(None, None, Some("clusters"), false);
    }
}
