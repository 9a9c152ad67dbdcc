//! Server-sent events: a parser that takes bytes as they come, and the stream of the API that resumes where it broke.

use futures_util::StreamExt as _;
use omnirelay_contract::event::Event;
use tokio::sync::mpsc::Sender;

use super::{Filter, Update};
use crate::client::{Client, ClientError, Request, backoff};

/// A frame may not grow beyond this: an event is a few kilobytes.
const LONGEST: usize = 4 << 20;

/// One dispatched event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    /// The last id seen, which may be an earlier frame's.
    pub id: Option<String>,
    /// `message` where nothing is said.
    pub event: String,
    pub data: String,
}

/// The WHATWG parser: lines end with LF, CR or CRLF, and may be cut anywhere.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    /// The last byte was a CR, so that an LF that follows belongs to it.
    after_cr: bool,
    begun: bool,
    id: Option<String>,
    event: String,
    data: Option<String>,
}

/// A line or a frame that is too long to be an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the event stream has a frame of more than {LONGEST} bytes")]
pub struct TooLong;

impl Parser {
    /// Takes bytes and gives the frames that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Frame>, TooLong> {
        let mut frames = Vec::new();
        for &byte in bytes {
            let after_cr = std::mem::take(&mut self.after_cr);
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    frames.extend(self.end_of_line(&line));
                }
                _ => self.line.push(byte),
            }
            if self.line.len() + self.data.as_ref().map_or(0, String::len) > LONGEST {
                return Err(TooLong);
            }
        }
        Ok(frames)
    }

    fn end_of_line(&mut self, line: &[u8]) -> Option<Frame> {
        let mut text = String::from_utf8_lossy(line).into_owned();
        if !std::mem::replace(&mut self.begun, true)
            && let Some(rest) = text.strip_prefix('\u{feff}')
        {
            text = rest.to_owned();
        }
        if text.is_empty() {
            return self.dispatch();
        }
        let (field, value) = text.split_once(':').unwrap_or((&text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            // Comments have an empty field name; `retry` and unknown fields are nothing to us.
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<Frame> {
        let event = std::mem::take(&mut self.event);
        let data = self.data.take()?;
        let event = if event.is_empty() { "message".to_owned() } else { event };
        Some(Frame { id: self.id.clone(), event, data })
    }
}

/// Reads a frame as what it says. A `gap` and a snapshot both mean that the state is to be asked for.
pub fn understand(frame: &Frame) -> Update {
    let position = frame.id.as_deref().and_then(|id| id.parse().ok());
    if frame.event == "gap" {
        return Update::Gap { position };
    }
    match serde_json::from_str::<Event>(&frame.data) {
        Ok(event) => Update::Event { position, event: Box::new(event) },
        Err(_) => Update::Other { position },
    }
}

/// Feeds the API's stream into `updates` until nobody listens, resuming at the last position. Ends early only where
/// asking again is of no use (a 4xx); then the last update says so.
pub async fn feed(client: &Client, filter: &Filter, since: Option<u64>, updates: &Sender<Update>) {
    let mut last = since;
    let mut attempt = 0;
    loop {
        match open(client, filter, last).await {
            Ok(response) => {
                if updates.send(Update::Ready).await.is_err() {
                    return;
                }
                let (why, got) = read(response, &mut last, updates).await;
                // A server that cuts a slow reader off says why and is asked again at once; one that hangs up on every
                // connection is given time.
                attempt = if got { 1 } else { attempt + 1 };
                if updates.send(Update::Lost { why }).await.is_err() {
                    return;
                }
            }
            Err(error) if error.is_passing() || error.status() == Some(500) => {
                attempt += 1;
                if updates.send(Update::Lost { why: error.to_string() }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                let _ = updates.send(Update::Refused(error)).await;
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(backoff(attempt)) => {}
            () = updates.closed() => return,
        }
    }
}

async fn open(client: &Client, filter: &Filter, last: Option<u64>) -> Result<reqwest::Response, ClientError> {
    let mut request = Request::get("/control/events");
    for (name, value) in filter.query() {
        request = request.query(name, value);
    }
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    client.stream(&request).await
}

/// Reads to the stream's end. Gives why it ended and whether anything came.
async fn read(response: reqwest::Response, last: &mut Option<u64>, updates: &Sender<Update>) -> (String, bool) {
    let mut parser = Parser::default();
    let mut bytes = response.bytes_stream();
    let mut got = false;
    loop {
        let chunk = tokio::select! {
            chunk = tokio::time::timeout(Client::stream_silence(), bytes.next()) => chunk,
            () = updates.closed() => return ("nobody listens".to_owned(), got),
        };
        let chunk = match chunk {
            Err(_) => return ("the event stream is silent".to_owned(), got),
            Ok(None) => return ("the event stream ended".to_owned(), got),
            Ok(Some(Err(error))) => return (format!("the event stream broke: {error}"), got),
            Ok(Some(Ok(chunk))) => chunk,
        };
        let frames = match parser.push(&chunk) {
            Ok(frames) => frames,
            Err(error) => return (error.to_string(), got),
        };
        for frame in frames {
            got = true;
            let update = understand(&frame);
            let position = update.position();
            // Resuming repeats nothing, but a position that was seen is not shown twice either.
            if matches!(update, Update::Event { .. }) && position.is_some() && position <= *last {
                continue;
            }
            *last = (*last).max(position);
            if updates.send(update).await.is_err() {
                return ("nobody listens".to_owned(), got);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses the text whole and cut at every place; `id|event|data` per frame.
    fn check(text: &str, expected: &[&str]) {
        let show = |frames: Vec<Frame>| -> Vec<String> {
            let line = |frame: Frame| format!("{}|{}|{}", frame.id.unwrap_or_default(), frame.event, frame.data);
            frames.into_iter().map(line).collect()
        };
        for cut in 0..=text.len() {
            let mut parser = Parser::default();
            let mut frames = parser.push(&text.as_bytes()[..cut]).expect("short");
            frames.extend(parser.push(&text.as_bytes()[cut..]).expect("short"));
            assert_eq!(show(frames), expected, "cut at {cut}");
        }
        let mut parser = Parser::default();
        let bytes = text.bytes().flat_map(|byte| parser.push(&[byte]).expect("short")).collect();
        assert_eq!(show(bytes), expected, "byte by byte");
    }

    #[test]
    fn frames_in_any_cut() {
        check("id: 7\nevent: omnirelay.peers.drained\ndata: {}\n\n", &["7|omnirelay.peers.drained|{}"]);
        check("data: a\ndata: b\ndata\n\n", &["|message|a\nb\n"]);
        check(": comment\n\n: again\ndata:x\n\n", &["|message|x"]);
        check("data: ä€\r\n\r\ndata: c\r\rdata: d\n\n", &["|message|ä€", "|message|c", "|message|d"]);
        check("\u{feff}data: bom\n\n", &["|message|bom"]);
        check("id: 1\ndata: a\n\ndata: b\n\nid: 2\ndata: c\n\n", &["1|message|a", "1|message|b", "2|message|c"]);
        check("event: gap\nid: 9\n\ndata: next\n\n", &["9|message|next"]);
        check("data:  two spaces\nretry: 10\nunknown: x\n\n", &["|message| two spaces"]);
        check("data: unfinished\n", &[]);
    }

    #[test]
    fn a_frame_without_end_is_given_up() {
        let mut parser = Parser::default();
        assert_eq!(parser.push(&vec![b'x'; LONGEST + 1]), Err(TooLong));
    }

    #[test]
    fn frames_are_understood() {
        let frame = |event: &str, data: &str| Frame { id: Some("41".into()), event: event.into(), data: data.into() };
        assert!(matches!(understand(&frame("gap", "{\"from\":3}")), Update::Gap { position: Some(41) }));
        assert!(matches!(understand(&frame("snapshot", "{\"peers\":[]}")), Update::Other { position: Some(41) }));
        let event = serde_json::json!({"specversion": "1.0", "id": "0193d1f0-0000-7000-8000-000000000001",
            "source": "omnirelay", "type": "omnirelay.peers.drained", "subject": "peers/web-07",
            "time": "2026-11-23T12:00:00Z", "datacontenttype": "application/json",
            "data": {"audit": {"verb": "peers.drain", "outcome": "succeeded"}, "extra": 1}});
        let update = understand(&frame("omnirelay.peers.drained", &event.to_string()));
        let Update::Event { position: Some(41), event } = update else { panic!("{update:?}") };
        assert_eq!((event.subject.as_str(), event.data.detail["extra"].as_i64()), ("peers/web-07", Some(1)));
    }
}
