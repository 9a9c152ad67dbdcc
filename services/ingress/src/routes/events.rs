//! `GET /control/events`: the events as they happen, as server-sent events.
//!
//! A stream first catches up from the record, from `Last-Event-ID` or from the operation's first event, until it meets
//! the hub's ring; then it follows the ring. Where the record no longer has what was asked for, one `gap` event says so,
//! `snapshot` events show how things stand at a position, and the tail goes on behind it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Uri, header};
use omnirelay_contract::problem::Code;
use omnirelay_store::{StoreError, reads};
use omnirelay_workflow::operation::State as OperationState;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Observer, operation_id};
use crate::App;
use crate::answer::Refusal;
use crate::hub::{Filter, Framed, Tail, frame};
use crate::request;

/// Silence is broken by a comment this often, so that proxies do not take it for death.
const COMMENT_EVERY: Duration = Duration::from_secs(15);
/// Events read from the record at once while catching up.
const CATCH_UP: u32 = 500;
/// Resources in one `snapshot` event.
const SNAPSHOT: u32 = 500;

pub async fn stream(State(app): State<Arc<App>>, observer: Observer) -> Response {
    let Observer { uri, headers } = observer;
    match open(&app, &uri, &headers).await {
        Ok(follower) => {
            let body = Body::from_stream(stream::unfold(follower, |mut follower| async move {
                let bytes = follower.next().await?;
                Some((Ok::<_, Infallible>(bytes), follower))
            }));
            let mut response = Response::new(body);
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
            response
        }
        Err(refusal) => refusal.at(uri.path()).into_response(),
    }
}

async fn open(app: &Arc<App>, uri: &Uri, headers: &HeaderMap) -> Result<Follower, Refusal> {
    let mut filter = Filter::default();
    for (name, value) in request::query(uri, &["operation", "resource", "kind"])? {
        match name.as_str() {
            "operation" => filter.operation = Some(operation_id(&value)?),
            "resource" => filter.resource = Some(value),
            _ => filter.kind = Some(value),
        }
    }
    let last: Option<u64> =
        match request::text(headers, "last-event-id")? {
            None | Some("") => None,
            Some(text) => {
                let number = text.trim().parse::<u64>().ok().filter(|last| i64::try_from(*last).is_ok());
                Some(number.ok_or_else(|| {
                    Refusal::invalid("Last-Event-ID is a position: the id of an event of this stream")
                })?)
            }
        };
    let head = app.hub.head();
    let mut pending = VecDeque::from([Bytes::from_static(b": omnirelay\n\n")]);
    let cursor = match (last, filter.operation) {
        (Some(last), _) => {
            let oldest = reads::events::oldest(&app.pool).await?;
            let position = reads::position(&app.pool).await?;
            if last > position {
                // Of a record that was set back since.
                pending.extend(snapshot(app, &filter, last, position).await?);
                position
            } else if oldest.map_or(last < position, |oldest| last + 1 < oldest) {
                pending.extend(snapshot(app, &filter, last, position).await?);
                position
            } else {
                last
            }
        }
        (None, Some(operation)) => {
            if reads::operations::get(&app.pool, operation).await?.is_none() {
                return Err(Refusal::new(Code::NotFound, format!("there is no operation {operation}")));
            }
            reads::events::first_of(&app.pool, operation).await?.map_or(head, |first| first.saturating_sub(1))
        }
        (None, None) => head,
    };
    metrics::gauge!("omnirelay_sse_clients").increment(1.0);
    Ok(Follower {
        app: Arc::clone(app),
        filter,
        cursor,
        pending,
        head: app.hub.watch(),
        comment_at: Instant::now() + COMMENT_EVERY,
        live: false,
        ended: false,
    })
}

/// One watcher. It has a cursor and nothing else: what it has not read waits in the ring or the record, not here.
struct Follower {
    app: Arc<App>,
    filter: Filter,
    cursor: u64,
    pending: VecDeque<Bytes>,
    head: watch::Receiver<u64>,
    comment_at: Instant,
    /// It has met the ring once; to fall behind it again is to be too slow.
    live: bool,
    ended: bool,
}

impl Follower {
    /// The next bytes to send; nothing when the stream ends.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.pending.pop_front() {
                self.comment_at = Instant::now() + COMMENT_EVERY;
                return Some(bytes);
            }
            if self.ended || self.app.stop.is_cancelled() {
                return None;
            }
            // Seen before the ring is read, so that an event in between wakes us.
            self.head.mark_unchanged();
            match self.app.hub.behind(self.cursor, &self.filter) {
                Tail::Frames(frames, cursor) => {
                    self.live = true;
                    self.cursor = cursor;
                    if !frames.is_empty() {
                        self.pending.push_back(frames);
                        continue;
                    }
                }
                Tail::Behind if self.live => {
                    let reason = json!({
                        "code": "slow-reader",
                        "detail": "events came faster than they were read: connect again with Last-Event-ID",
                        "position": self.cursor,
                    });
                    self.end(&reason);
                    continue;
                }
                Tail::Behind => {
                    self.catch_up().await;
                    continue;
                }
            }
            let stop = self.app.stop.clone();
            tokio::select! {
                changed = self.head.changed() => if changed.is_err() { return None },
                () = tokio::time::sleep_until(self.comment_at) => {
                    self.pending.push_back(Bytes::from_static(b": still here\n\n"));
                }
                () = stop.cancelled() => return None,
            }
        }
    }

    async fn catch_up(&mut self) {
        match reads::events::after(&self.app.pool, self.cursor, CATCH_UP).await {
            Ok(page) if page.is_empty() => {
                // The ring is ahead and the record has nothing: it was set back, or cleaned up, this very moment.
                let reason = json!({"code": "gap", "detail": "the log no longer has what comes next: connect again"});
                self.end(&reason);
            }
            Ok(page) => {
                let mut frames = BytesMut::new();
                for event in page {
                    let framed = Framed::new(event.position, &event.payload);
                    self.cursor = framed.position;
                    if self.filter.passes(&framed) {
                        frames.extend_from_slice(&framed.frame);
                    }
                }
                if !frames.is_empty() {
                    self.pending.push_back(frames.freeze());
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a stream cannot catch up");
                let reason = json!({"code": "unavailable", "detail": "the record cannot be read: connect again with Last-Event-ID"});
                self.end(&reason);
            }
        }
    }

    fn end(&mut self, reason: &Value) {
        self.pending.push_back(frame(None, "error", &reason.to_string()));
        self.ended = true;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        metrics::gauge!("omnirelay_sse_clients").decrement(1.0);
    }
}

/// One `gap` event and how things stand at `position`. The last frame has the position as its id, so that a client which is
/// cut off before asks again from where it was.
async fn snapshot(app: &App, filter: &Filter, last: u64, position: u64) -> Result<Vec<Bytes>, Refusal> {
    let gap = json!({"after": last, "position": position, "detail": "events are missing here; snapshots follow"});
    let mut frames = vec![frame(None, "gap", &gap.to_string())];
    let wants = |kind: &str| {
        let by_resource =
            filter.resource.as_deref().and_then(|resource| resource.split_once('/')).map(|(kind, _)| kind);
        filter.kind.as_deref().is_none_or(|wanted| wanted == kind) && by_resource.is_none_or(|wanted| wanted == kind)
    };
    let mut add = |kind: &str, items: Vec<Value>| {
        if !items.is_empty() {
            let data = json!({"position": position, "kind": kind, "items": items});
            frames.push(frame(None, "snapshot", &data.to_string()));
        }
    };
    if let Some(operation) = filter.operation {
        let row = reads::operations::get(&app.pool, operation).await?;
        add(
            "operations",
            row.as_ref().map(|row| value(&reads::operation_dto(row)?)).transpose()?.into_iter().collect(),
        );
    } else {
        let passes = |kind: &str, item: &Value| {
            let id = item.get("id").and_then(Value::as_str).unwrap_or("");
            filter.resource.as_deref().is_none_or(|wanted| wanted == id || wanted == format!("{kind}/{id}"))
        };
        if wants("clusters") {
            let rows = reads::clusters::page(&app.pool, false, None, SNAPSHOT).await?;
            let items = rows.iter().map(|row| value(&reads::cluster_dto(row)?)).collect::<Result<Vec<_>, _>>()?;
            add("clusters", items.into_iter().filter(|item| passes("clusters", item)).collect());
        }
        if wants("peers") {
            let mut after: Option<String> = None;
            loop {
                let order = reads::peers::PeerOrder::Id;
                let everything = reads::peers::PeerFilter::default();
                let rows = reads::peers::page(&app.pool, &everything, order, after.as_deref(), SNAPSHOT).await?;
                let items = rows.iter().map(|row| value(&reads::peer_dto(row)?)).collect::<Result<Vec<_>, _>>()?;
                add("peers", items.into_iter().filter(|item| passes("peers", item)).collect());
                if rows.len() < SNAPSHOT as usize {
                    break;
                }
                after = rows.last().map(|row| row.id.clone());
            }
        }
        if wants("operations") {
            let live = [
                OperationState::Submitted,
                OperationState::AwaitingApproval,
                OperationState::Queued,
                OperationState::Running,
                OperationState::Unwinding,
                OperationState::Stuck,
            ];
            let states = Some(live.iter().map(ToString::to_string).collect());
            let wanted = reads::operations::OperationFilter { states, ..Default::default() };
            let mut after = None;
            loop {
                let rows = reads::operations::page(&app.pool, &wanted, true, after, SNAPSHOT).await?;
                let items = rows.iter().map(|row| value(&reads::operation_dto(row)?)).collect::<Result<Vec<_>, _>>()?;
                add("operations", items.into_iter().filter(|item| passes("operations", item)).collect());
                if rows.len() < SNAPSHOT as usize {
                    break;
                }
                after = rows.last().map(|row| row.id);
            }
        }
    }
    frames.push(frame(Some(position), "snapshot", &json!({"position": position, "complete": true}).to_string()));
    Ok(frames)
}

fn value(item: &impl serde::Serialize) -> Result<Value, StoreError> {
    serde_json::to_value(item).map_err(|error| StoreError::corrupt("a resource", error))
}
