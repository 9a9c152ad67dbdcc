//! A web server as small as they come: what a real agent starts, checks and stops in these tests.
//!
//! `omnirelay-test-web PORT NAME … FOLDER`: answers every request with its name, `/ready` included, and ends with the test's
//! folder: an agent that a failing test killed leaves its children to nobody.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let (port, name) = (args.next().unwrap_or_default(), args.next().unwrap_or_default());
    let port = port.parse::<u16>().map_err(std::io::Error::other)?;
    if let Some(folder) = args.last().map(PathBuf::from) {
        std::thread::spawn(move || {
            while folder.exists() {
                std::thread::sleep(Duration::from_millis(500));
            }
            std::process::exit(0);
        });
    }
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
