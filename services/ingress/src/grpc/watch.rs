//! `WatchEvents`: the event stream of REST, frame by frame as messages.
//!
//! Who may watch, where it begins, what passes the filter, gaps, snapshots and when a slow reader is cut off are decided by
//! `routes/events.rs`; here its frames are only read. The stream is pulled as fast as the client takes messages, so a client
//! that is slow is as slow a reader there as one of server-sent events.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;

use axum::body::{Body, BodyDataStream};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderValue, Method};
use omnirelay_contract::grpc::v1::watch_events_response::Frame;
use omnirelay_contract::grpc::v1::{Cluster, Event, Gap, Idle, Operation, Peer, Snapshot};
use omnirelay_contract::grpc::v1::{WatchEventsRequest, WatchEventsResponse};
use omnirelay_contract::problem::{Code, Problem};
use serde::Deserialize;
use serde_json::Value;
use tonic::{Code as RpcCode, Request, Response, Status};

use super::gateway::{Gateway, Origin, with_query};
use super::refusal;

pub type Watched = Pin<Box<dyn Stream<Item = Result<WatchEventsResponse, Status>> + Send>>;

/// Opens the stream.
pub async fn watch(gateway: &Gateway, request: Request<WatchEventsRequest>) -> Result<Response<Watched>, Status> {
    let mut origin = Origin::of(&request);
    let mut filter = request.into_inner();
    if let Some(after) = filter.after.take() {
        origin = origin.with("last-event-id", HeaderValue::from(after));
    }
    let path = with_query("/control/events", &filter)?;
    let response = gateway.send(origin, Method::GET, &path, Body::empty()).await?;
    let (parts, body) = response.into_parts();
    if !parts.status.is_success() {
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
        return Err(refusal::status(parts.status, &parts.headers, &body));
    }
    let reader = Reader { body: body.into_data_stream(), read: BytesMut::new(), ready: VecDeque::new(), ended: false };
    let watched = stream::unfold(reader, |mut reader| async move {
        let next = reader.next().await?;
        Some((next, reader))
    });
    Ok(Response::new(Box::pin(watched)))
}

struct Reader {
    body: BodyDataStream,
    read: BytesMut,
    ready: VecDeque<Bytes>,
    ended: bool,
}

impl Reader {
    /// The next message; nothing behind an error, which is the last.
    async fn next(&mut self) -> Option<Result<WatchEventsResponse, Status>> {
        while !self.ended {
            while let Some(frame) = self.ready.pop_front() {
                match message(&frame) {
                    Ok(Some(message)) => return Some(Ok(message)),
                    Ok(None) => {}
                    Err(status) => {
                        self.ended = true;
                        return Some(Err(*status));
                    }
                }
            }
            match self.body.next().await {
                Some(Ok(bytes)) => {
                    self.read.extend_from_slice(&bytes);
                    self.ready.extend(frames(&mut self.read));
                }
                Some(Err(_)) | None => {
                    self.ended = true;
                    let detail = "the stream has ended: watch again after the last position";
                    return Some(Err(refusal::of_problem(&Problem::new(Code::Unavailable, detail), Some(1))));
                }
            }
        }
        None
    }
}

/// Takes the whole frames out of what was read.
fn frames(read: &mut BytesMut) -> Vec<Bytes> {
    let mut frames = Vec::new();
    let (mut start, mut at) = (0, 0);
    let whole = read.split().freeze();
    while let Some(found) = whole[at..].windows(2).position(|pair| pair == b"\n\n") {
        at += found + 2;
        frames.push(whole.slice(start..at));
        start = at;
    }
    read.extend_from_slice(whole.slice(start..).chunk());
    frames
}

/// What a frame says; nothing where it says nothing to a client.
fn message(frame: &[u8]) -> Result<Option<WatchEventsResponse>, Box<Status>> {
    let text = String::from_utf8_lossy(frame);
    let (mut position, mut kind, mut data) = (None, "", String::new());
    for line in text.lines() {
        if line == ": still here" {
            return Ok(Some(WatchEventsResponse { position: None, frame: Some(Frame::Idle(Idle {})) }));
        }
        match line.split_once(": ") {
            Some(("id", id)) => position = id.parse().ok(),
            Some(("event", event)) => kind = event,
            Some(("data", more)) => {
                if !data.is_empty() {
                    data.push('\n');
                }
                data.push_str(more);
            }
            _ => {}
        }
    }
    let read = match kind {
        "" => return Ok(None),
        "error" => return Err(Box::new(end(&data))),
        "gap" => serde_json::from_str::<Gap>(&data).map(Frame::Gap),
        "snapshot" => serde_json::from_str::<Part>(&data).and_then(Part::read).map(Frame::Snapshot),
        _ => serde_json::from_str::<Event>(&data).map(Frame::Event),
    };
    match read {
        Ok(frame) => Ok(Some(WatchEventsResponse { position, frame: Some(frame) })),
        Err(error) => {
            // It would be so every time: whoever watches is better off with the rest.
            tracing::error!(%error, position, kind, "an event cannot be written as a message");
            Ok(None)
        }
    }
}

/// A `snapshot` event as SSE has it.
#[derive(Deserialize)]
struct Part {
    position: u64,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    items: Value,
    #[serde(default)]
    complete: bool,
}

impl Part {
    fn read(self) -> Result<Snapshot, serde_json::Error> {
        let mut snapshot = Snapshot { position: self.position, complete: self.complete, ..Snapshot::default() };
        match self.kind.as_str() {
            "peers" => snapshot.peers = serde_json::from_value::<Vec<Peer>>(self.items)?,
            "clusters" => snapshot.clusters = serde_json::from_value::<Vec<Cluster>>(self.items)?,
            "operations" => snapshot.operations = serde_json::from_value::<Vec<Operation>>(self.items)?,
            _ => {}
        }
        Ok(snapshot)
    }
}

/// Why the stream is ended from here: its own words, with the position to go on from.
fn end(data: &str) -> Status {
    let data: Value = serde_json::from_str(data).unwrap_or_default();
    let text = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
    let reason = text("code");
    let code = if reason == "slow-reader" { RpcCode::ResourceExhausted } else { RpcCode::Unavailable };
    let position = data["position"].as_u64().map(|position| ("position".to_owned(), position.to_string()));
    refusal::of_reason(code, &reason, &text("detail"), BTreeMap::from_iter(position))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_whole_however_they_arrive() {
        let stream = ": omnirelay\n\nid: 7\nevent: omnirelay.peers.changed\ndata: {}\n\n: still here\n\nid: 8\n";
        for size in 1..stream.len() {
            let (mut read, mut all) = (BytesMut::new(), Vec::new());
            for chunk in stream.as_bytes().chunks(size) {
                read.extend_from_slice(chunk);
                all.extend(frames(&mut read));
            }
            assert_eq!((all.len(), &read[..]), (3, &b"id: 8\n"[..]), "in pieces of {size}");
        }
    }

    #[test]
    fn frames_become_messages() {
        let check = |text: &str| message(text.as_bytes()).expect("no end");
        assert_eq!(check(": omnirelay\n\n"), None);
        let idle = check(": still here\n\n").and_then(|message| message.frame);
        assert_eq!(idle, Some(Frame::Idle(Idle {})));
        let event = check("id: 7\nevent: omnirelay.peers.changed\ndata: {\"subject\":\ndata: \"peers/a\"}\n\n");
        let expected = Event { subject: "peers/a".to_owned(), ..Event::default() };
        assert_eq!(event, Some(WatchEventsResponse { position: Some(7), frame: Some(Frame::Event(expected)) }));
        let snapshot =
            check("event: snapshot\ndata: {\"position\":3,\"kind\":\"peers\",\"items\":[{\"id\":\"a\"}]}\n\n");
        let Some(Frame::Snapshot(snapshot)) = snapshot.and_then(|message| message.frame) else { panic!("a snapshot") };
        assert_eq!((snapshot.position, snapshot.peers.len(), snapshot.complete), (3, 1, false));
        assert_eq!(check("event: omnirelay.x.y\ndata: {\n\n"), None, "it is left out, and logged");
        let slow = "event: error\ndata: {\"code\":\"slow-reader\",\"detail\":\"too slow\",\"position\":9}\n\n";
        let ended = message(slow.as_bytes()).expect_err("the end");
        assert_eq!((ended.code(), ended.message()), (RpcCode::ResourceExhausted, "too slow"));
    }
}
