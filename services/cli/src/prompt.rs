//! Asking before something is changed: for what is destructive the target's name is typed, with the context in the
//! question; for the rest a yes is enough.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use crate::client::Client;
use crate::exit::Exit;
use crate::failure::Failure;

/// Refuses where nobody can be asked. Called before anything is sent, so that a script without `--yes` fails the same way
/// every time and never hangs.
pub fn require_terminal(action: &str) -> Result<(), Failure> {
    if std::io::stdin().is_terminal() {
        return Ok(());
    }
    Err(Failure::new(Exit::Error, format!("{action} asks for confirmation, and stdin is not a terminal"))
        .hint("see what it would do: --dry-run")
        .hint("confirm it in advance: --yes"))
}

/// Asks for `expected` to be typed. Anything else, an end of input and Ctrl-C decline.
///
/// The question is a plain line on stderr and the answer a plain line of stdin: the terminal's own line editing is all
/// that a name needs, and it works the same in every terminal.
pub async fn confirm(client: &Client, question: &str, expected: &str, or: &str) -> Result<(), Failure> {
    match ask(client, question).await?.as_deref() {
        Some(typed) if typed == expected || typed == or => Ok(()),
        Some(typed) => Err(declined(&format!("{typed:?} is not {expected:?}"))),
        None => Err(declined("no answer")),
    }
}

/// Asks `… [y/N]`. Anything but a yes declines.
pub async fn agree(client: &Client, question: &str) -> Result<(), Failure> {
    match ask(client, &format!("{question} [y/N] ")).await?.as_deref() {
        Some(typed) if matches!(typed.to_ascii_lowercase().as_str(), "y" | "yes") => Ok(()),
        Some(_) => Err(declined("not a yes")),
        None => Err(declined("no answer")),
    }
}

/// One line of stdin, trimmed; none where there is no answer. Both go into the recording.
async fn ask(client: &Client, question: &str) -> Result<Option<String>, Failure> {
    let mut stderr = std::io::stderr();
    let _ = write!(stderr, "{question}").and_then(|()| stderr.flush());
    let (sender, answer) = tokio::sync::oneshot::channel();
    // A thread of its own, not one of the runtime's: a read of a terminal cannot be cancelled, and the runtime would wait
    // for it at the end.
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line);
        let _ = sender.send(read.ok().filter(|bytes| *bytes > 0).map(|_| line));
    });
    let typed = tokio::select! {
        typed = answer => typed.ok().flatten(),
        _ = tokio::signal::ctrl_c() => None,
    };
    let typed = typed.map(|line| line.trim().to_owned());
    if typed.is_none() {
        let _ = writeln!(stderr);
    }
    if let Some(recorder) = client.recorder() {
        recorder.prompt(question, typed.as_deref()).map_err(|error| {
            Failure::error(format!("the prompt cannot be recorded in {}: {error}", recorder.file()))
        })?;
    }
    Ok(typed)
}

fn declined(why: &str) -> Failure {
    Failure::new(Exit::Error, format!("declined ({why}): nothing was changed"))
}
