//! `doctor`: is everything there that a command needs, and if not, what to do. The binary adds what it knows of the machine.

use jiff::Timestamp;
use serde::Serialize;

use super::auth::Claims;
use super::status::Status;
use crate::client::Request;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Format, age};
use crate::session::{GlobalArgs, Session};

/// A token that ends sooner than this is worth a word.
const SOON_SECONDS: i64 = 300;
/// A log this far behind is worth a word.
const LAG_SECONDS: f64 = 5.0;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: String,
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do, where something is to be done.
    pub hint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Good,
    /// Works, with a caveat.
    Warning,
    Bad,
}

impl Check {
    pub fn good(name: &str, found: impl Into<String>) -> Self {
        Self { name: name.to_owned(), verdict: Verdict::Good, found: found.into(), hint: None }
    }

    pub fn warning(name: &str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name: name.to_owned(), verdict: Verdict::Warning, found: found.into(), hint: Some(hint.into()) }
    }

    pub fn bad(name: &str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name: name.to_owned(), verdict: Verdict::Bad, found: found.into(), hint: Some(hint.into()) }
    }
}

/// The checks that need only the API and the bus. They end at the first that makes the later ones pointless.
pub async fn doctor_checks(global: &GlobalArgs) -> Vec<Check> {
    let session = match Session::open(global).await {
        Ok(session) => session,
        Err(failure) => return vec![Check::bad("context", failure.what, failure.hints.join("; "))],
    };
    let target = &session.target;
    let mut checks = vec![Check::good("context", format!("{} at {}", target.name, target.url))];
    let ready = api(&session).await;
    let reachable = ready.verdict != Verdict::Bad;
    checks.push(ready);
    checks.push(token(&session, Timestamp::now()));
    if reachable {
        checks.extend(accepted(&session).await);
    }
    if let Some(url) = &target.nats {
        checks.push(nats(url).await);
    }
    checks
}

/// Prints checks. Anything bad ends with code 1.
pub fn report(checks: &[Check], format: Format) -> Result<Exit, Failure> {
    match format {
        Format::Table | Format::Wide => output::print(&render(checks))?,
        format => output::document(format, &checks)?,
    }
    let bad = checks.iter().any(|check| check.verdict == Verdict::Bad);
    Ok(if bad { Exit::Error } else { Exit::Succeeded })
}

fn render(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or_default();
    let mut lines = Vec::new();
    for check in checks {
        let word = match check.verdict {
            Verdict::Good => "ok  ",
            Verdict::Warning => "warn",
            Verdict::Bad => "BAD ",
        };
        lines.push(format!("{word}  {:width$}  {}", check.name, check.found));
        lines.extend(check.hint.as_ref().map(|hint| format!("      {:width$}  {hint}", "")));
    }
    lines.join("\n")
}

async fn api(session: &Session) -> Check {
    // Health answers are text, not JSON: that something answers with 200 is all that is asked.
    match session.client.send_once(&Request::get("/readyz")).await {
        Ok(_) | Err(crate::client::ClientError::Unreadable { .. }) => {
            Check::good("api", format!("{} is ready", session.target.url))
        }
        Err(error) if error.status().is_some() => {
            Check::warning("api", format!("it runs, and is not ready: {error}"), "its own log says what it waits for")
        }
        Err(error) => Check::bad("api", error.to_string(), "start it (omnirelay dev), or correct the address"),
    }
}

fn token(session: &Session, now: Timestamp) -> Check {
    let source = session.target.token.describe();
    let Some(token) = session.client.token() else {
        return Check::bad("token", "none", "set OMNIRELAY_TOKEN, or omnirelay context set NAME --token-file FILE");
    };
    let renew = "issue a new one: omnirelay auth token";
    let Ok(claims) = Claims::of(token) else {
        return Check::warning("token", format!("{source}, which is not a JWT"), renew);
    };
    let subject = claims.sub.unwrap_or_else(|| "nobody".to_owned());
    let Some(end) = claims.exp.and_then(|exp| Timestamp::from_second(exp).ok()) else {
        return Check::warning("token", format!("{source}, of {subject}, without an end"), "the API wants `exp`");
    };
    let left = end.as_second().saturating_sub(now.as_second());
    if left <= 0 {
        return Check::bad("token", format!("{source}, of {subject}, expired {} ago", age(end, now)), renew);
    }
    let found = format!("{source}, of {subject}, good for {}", output::span(left));
    if left < SOON_SECONDS { Check::warning("token", found, renew) } else { Check::good("token", found) }
}

async fn accepted(session: &Session) -> Vec<Check> {
    let status: Status = match session.client.get("/control/status").await {
        Ok(status) => status,
        Err(error) => {
            return vec![Check::bad("access", error.to_string(), "see what the token says: omnirelay auth whoami")];
        }
    };
    let mut checks = vec![Check::good("access", "the API accepts the token")];
    let lag = status.lags.outbox_lag_seconds.unwrap_or_default().max(status.lags.audit_lag_seconds.unwrap_or_default());
    checks.push(if lag > LAG_SECONDS {
        Check::warning(
            "lags",
            format!("{lag:.1}s behind"),
            "see omnirelay status; are a worker, NATS and audit running?",
        )
    } else {
        Check::good("lags", format!("{lag:.1}s"))
    });
    if !status.attention.is_empty() {
        let found = format!("{} things need attention", status.attention.len());
        checks.push(Check::warning("mesh", found, "omnirelay status"));
    }
    checks
}

async fn nats(url: &str) -> Check {
    let shown = crate::context::without_password(url);
    let hint = "watching works without it, by the API's event stream";
    match crate::follow::nats::connect(url, async_nats::ConnectOptions::new()).await {
        Ok(client) => Check::good("nats", format!("{shown}, nats-server {}", client.server_info().version)),
        Err(why) => Check::warning("nats", format!("{shown}: {why}"), hint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_in_lines() {
        let checks = [Check::good("api", "ready"), Check::bad("token", "none", "set OMNIRELAY_TOKEN")];
        assert_eq!(render(&checks), "ok    api    ready\nBAD   token  none\n             set OMNIRELAY_TOKEN");
        assert_eq!(report(&checks, Format::Json).map(Exit::code), Ok(1));
        assert_eq!(report(&checks[..1], Format::Json).map(Exit::code), Ok(0));
    }
}
