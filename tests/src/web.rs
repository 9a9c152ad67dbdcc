//! A web server as small as they come: what a real agent starts, checks and stops in these tests.
//!
//! `omnirelay-test-web PORT NAME`: answers every request with its name, `/ready` included.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let (port, name) = (args.next().unwrap_or_default(), args.next().unwrap_or_default());
    let port = port.parse::<u16>().map_err(std::io::Error::other)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    for stream in listener.incoming().flatten() {
        // A client that hangs up is no reason to end.
        let _ = answer(stream, &name);
    }
    Ok(())
}

fn answer(mut stream: TcpStream, name: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{name}", name.len())
}
