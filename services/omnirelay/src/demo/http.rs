//! As much HTTP/1.1 as the demo needs: requests without a body, answers with a length. Written out, so that whoever doubts
//! the demo's figures can read how a request is made and when it counts as failed.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

const CONNECT: Duration = Duration::from_secs(2);
/// Longer than the proxy waits for anybody.
const ANSWER: Duration = Duration::from_secs(60);
/// No line and no body here is longer.
const MAX: u64 = 16 << 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<String>) -> Self {
        Self { status, body: body.into() }
    }
}

/// A request without an answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// Not a byte of an answer came, as from a server that refuses connections: whoever may ask elsewhere can do so.
    #[error("no answer: {0}")]
    None(io::Error),
    /// It broke off in the middle of the answer.
    #[error("a broken answer: {0}")]
    Broken(io::Error),
}

/// A connection to a server.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub async fn open(to: SocketAddr) -> io::Result<Self> {
        let stream = tokio::time::timeout(CONNECT, TcpStream::connect(to)).await??;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    pub async fn get(&mut self, path: &str) -> Result<Answer, NoAnswer> {
        self.ask(path, "keep-alive").await
    }

    async fn ask(&mut self, path: &str, connection: &str) -> Result<Answer, NoAnswer> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: demo\r\nconnection: {connection}\r\n\r\n");
        let first = async {
            self.stream.write_all(request.as_bytes()).await?;
            self.stream.fill_buf().await.map(<[u8]>::is_empty)
        };
        match tokio::time::timeout(ANSWER, first).await {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => return Err(NoAnswer::None(io::ErrorKind::UnexpectedEof.into())),
            Ok(Err(error)) => return Err(NoAnswer::None(error)),
            Err(late) => return Err(NoAnswer::None(late.into())),
        }
        match tokio::time::timeout(ANSWER, self.read_answer()).await {
            Ok(answer) => answer.map_err(NoAnswer::Broken),
            Err(late) => Err(NoAnswer::Broken(late.into())),
        }
    }

    async fn read_answer(&mut self) -> io::Result<Answer> {
        let head = Head::read(&mut self.stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = head.first.split(' ').nth(1).and_then(|word| word.parse().ok());
        let status = status.ok_or_else(|| io::Error::other("not an answer of HTTP"))?;
        let mut body = vec![0; head.length.min(MAX) as usize];
        self.stream.read_exact(&mut body).await?;
        Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
    }
}

/// One request on a connection of its own.
pub async fn get(to: SocketAddr, path: &str) -> Result<Answer, NoAnswer> {
    let mut connection = Connection::open(to).await.map_err(NoAnswer::None)?;
    connection.ask(path, "close").await
}

/// The first line of a request or an answer, and what the demo reads of the headers.
pub struct Head {
    first: String,
    length: u64,
    close: bool,
}

impl Head {
    /// `None` where the other side has ended the connection.
    pub async fn read(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Head>> {
        let Some(first) = line(from).await? else { return Ok(None) };
        let mut head = Head { first, length: 0, close: false };
        loop {
            let text = line(from).await?.ok_or(io::ErrorKind::UnexpectedEof)?.to_ascii_lowercase();
            if text.is_empty() {
                return Ok(Some(head));
            }
            match text.split_once(':').map(|(name, value)| (name, value.trim())) {
                Some(("content-length", value)) => head.length = value.parse().map_err(io::Error::other)?,
                Some(("connection", value)) => head.close = value == "close",
                _ => {}
            }
        }
    }

    /// Of a request.
    pub fn path(&self) -> &str {
        self.first.split(' ').nth(1).unwrap_or("/")
    }

    /// The other side wants no more of this connection.
    pub fn is_last(&self) -> bool {
        self.close
    }
}

/// Answers a request.
pub async fn answer(stream: &mut TcpStream, answer: &Answer, close: bool) -> io::Result<()> {
    let reason = if answer.status == 200 { "OK" } else { "Not OK" };
    let connection = if close { "close" } else { "keep-alive" };
    let Answer { status, body } = answer;
    let length = body.len();
    let text =
        format!("HTTP/1.1 {status} {reason}\r\ncontent-length: {length}\r\nconnection: {connection}\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).await
}

async fn line(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut text = String::new();
    if from.take(MAX).read_line(&mut text).await? == 0 {
        return Ok(None);
    }
    text.truncate(text.trim_end().len());
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_head_tells_path_length_and_whether_it_is_the_last() {
        let mut text = "GET /ledger HTTP/1.1\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc".as_bytes();
        let head = Head::read(&mut text).await.unwrap().unwrap();
        assert_eq!((head.path(), head.length, head.is_last()), ("/ledger", 3, true));
        assert_eq!(text, b"abc");
        assert!(Head::read(&mut "".as_bytes()).await.unwrap().is_none());
        assert!(Head::read(&mut "GET / HTTP/1.1\r\nhost: x".as_bytes()).await.is_err());
    }
}
