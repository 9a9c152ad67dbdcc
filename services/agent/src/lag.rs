//! How far a peer's replica is behind, as heartbeats tell it: a URL or a program that answers with milliseconds.
//!
//! A promotion reads it, so that nobody promotes what would lose writes. What cannot be measured is unknown, never zero.

use std::time::Duration;

use crate::driver::exec::run;
use crate::driver::probe::Http;
use crate::driver::words;

/// The longest that a program may take: a heartbeat waits for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the lag is to be had.
pub enum Lag {
    /// GET answers a number, or a JSON object with the number `lagMs`.
    Http { http: Http, url: String },
    /// The same on stdout.
    Program(Vec<String>),
}

impl Lag {
    /// `http://…` and `https://…` are fetched, anything else is a command.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        if text.starts_with("http://") || text.starts_with("https://") {
            Ok(Lag::Http { http: Http::new()?, url: text.to_owned() })
        } else {
            Ok(Lag::Program(words::split(text)?))
        }
    }

    pub async fn measure(&self) -> Result<u64, String> {
        match self {
            Lag::Http { http, url } => http.number(url, "lagMs").await,
            Lag::Program(argv) => {
                let (name, args) = argv.split_first().ok_or("the command is empty")?;
                let mut command = tokio::process::Command::new(name);
                command.args(args);
                let ran = run(command, PATIENCE).await?;
                match ran.status.success() {
                    true => crate::driver::probe::parse_number(&ran.stdout, "lagMs")
                        .ok_or_else(|| format!("{name} prints neither a number nor {{\"lagMs\": number}}")),
                    false if ran.message.is_empty() => Err(format!("{name} ended with {}", ran.status)),
                    false => Err(ran.message),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_tells_milliseconds_or_why_not() {
        for (text, expected) in [
            ("echo 900", Ok(900)),
            (r#"echo '{"lagMs": 7, "from": "db-1"}'"#, Ok(7)),
            ("echo soon", Err("echo prints neither a number nor {\"lagMs\": number}")),
            ("sh -c 'echo no replica >&2; exit 1'", Err("no replica")),
            ("false", Err("false ended with exit status: 1")),
        ] {
            let measured = Lag::parse(text).unwrap().measure().await;
            assert_eq!(measured, expected.map_err(str::to_owned), "{text}");
        }
        assert!(Lag::parse("").is_err());
    }
}
