//! Asking before something destructive: the target's name is typed, with the context in the question.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

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
pub async fn confirm(question: &str, expected: &str, or: &str) -> Result<(), Failure> {
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
    match typed.as_deref().map(str::trim) {
        Some(typed) if typed == expected || typed == or => Ok(()),
        Some(typed) => Err(declined(&format!("{typed:?} is not {expected:?}"))),
        None => {
            let _ = writeln!(stderr);
            Err(declined("no answer"))
        }
    }
}

fn declined(why: &str) -> Failure {
    Failure::new(Exit::Error, format!("declined ({why}): nothing was changed"))
}
