//! HAProxy's runtime socket: a command, an answer, the end of the connection.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// The longest that HAProxy may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// An answer beyond this is none: some ten thousand servers.
const MAX_ANSWER: u64 = 16 << 20;

/// Where HAProxy takes commands.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Socket {
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

impl TryFrom<String> for Socket {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:")
            && path.starts_with('/')
        {
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let port = |address: &str| address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        match text.strip_prefix("tcp:") {
            Some(address) if port(address) => Ok(Self::Tcp(address.to_owned())),
            _ => Err(format!("{text:?} is neither unix:/path nor tcp:host:port")),
        }
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "HAProxy at unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "HAProxy at tcp:{address}"),
        }
    }
}

impl Socket {
    /// The answer to a command. The error is a sentence that names the socket.
    pub async fn ask(&self, command: &str) -> Result<String, String> {
        let exchange = async {
            match self {
                Self::Unix(path) => exchange(UnixStream::connect(path).await?, command).await,
                Self::Tcp(address) => exchange(TcpStream::connect(address).await?, command).await,
            }
        };
        match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(format!("{self}: {error}")),
            Err(_) => Err(format!("{self} does not answer")),
        }
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, command: &str) -> std::io::Result<String> {
    stream.write_all(format!("{command}\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_what_it_is() {
        let parse = |text: &str| Socket::try_from(text.to_owned());
        assert_eq!(parse("unix:/run/h.sock"), Ok(Socket::Unix("/run/h.sock".into())));
        assert_eq!(parse("tcp:[::1]:9999"), Ok(Socket::Tcp("[::1]:9999".to_owned())));
        for bad in ["/run/h.sock", "unix:h.sock", "tcp:localhost", "tcp:h:port", "localhost:1", ""] {
            assert!(parse(bad).unwrap_err().contains("neither unix:/path nor tcp:host:port"), "{bad}");
        }
    }
}
