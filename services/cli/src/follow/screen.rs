//! Where a follower's lines go: a block that is redrawn in place on a terminal, one line per change anywhere else.

use std::time::{Duration, Instant};

use console::{Style, Term, truncate_str};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;

use super::view::{PlainKey, View};
use crate::output::note;

/// Progress without a change of phase is logged no more often than this.
const THROTTLE: Duration = Duration::from_secs(2);

pub enum Screen {
    Terminal { term: Term, multi: MultiProgress, rows: Vec<ProgressBar> },
    Plain(Plain),
}

/// What was logged last.
#[derive(Default)]
pub struct Plain {
    key: PlainKey,
    line: String,
    at: Option<Instant>,
    trouble: bool,
}

impl Screen {
    pub fn of_stderr() -> Self {
        let term = Term::stderr();
        if term.is_term() {
            let multi = MultiProgress::with_draw_target(ProgressDrawTarget::term(term.clone(), 10));
            Screen::Terminal { term, multi, rows: Vec::new() }
        } else {
            Screen::Plain(Plain::default())
        }
    }

    /// Shows the view, and the trouble with the connection if there is one.
    pub fn draw(&mut self, view: &View, trouble: Option<&str>) {
        match self {
            Screen::Terminal { .. } => {
                let mut lines = view.lines(Timestamp::now());
                lines.extend(trouble.map(|why| format!("  connection lost, asking again: {why}")));
                self.rows(&lines);
            }
            Screen::Plain(plain) => {
                for line in plain.lines(view, trouble, Instant::now(), Timestamp::now()) {
                    note(&line);
                }
            }
        }
    }

    /// Leaves these lines as the last ones and draws no more. Without a terminal they are new only where they differ.
    pub fn finish(&mut self, lines: &[String]) {
        match self {
            Screen::Terminal { multi, rows, .. } => {
                for row in rows.drain(..) {
                    row.finish_and_clear();
                    multi.remove(&row);
                }
                let _ = multi.clear();
                for line in lines {
                    note(&colour(line));
                }
            }
            Screen::Plain(_) => {}
        }
    }

    fn rows(&mut self, lines: &[String]) {
        let Screen::Terminal { term, multi, rows } = self else { return };
        let width = usize::from(term.size().1).max(20) - 1;
        while rows.len() > lines.len() {
            if let Some(row) = rows.pop() {
                row.finish_and_clear();
                multi.remove(&row);
            }
        }
        while rows.len() < lines.len() {
            let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
            rows.push(multi.add(ProgressBar::new_spinner().with_style(style)));
        }
        for (row, line) in rows.iter().zip(lines) {
            row.set_message(colour(&truncate_str(line, width, "~")));
        }
    }
}

impl Plain {
    /// The lines that are due: all of a new phase or of new blockers at once, mere progress now and then.
    fn lines(&mut self, view: &View, trouble: Option<&str>, now: Instant, time: Timestamp) -> Vec<String> {
        let mut lines = Vec::new();
        if std::mem::replace(&mut self.trouble, trouble.is_some()) != trouble.is_some() {
            lines.push(trouble.map_or("connected again".to_owned(), |why| format!("connection lost: {why}")));
        }
        let (key, line) = (view.plain_key(), view.plain());
        let turned = self.key != key;
        let due = self.at.is_none_or(|at| now.duration_since(at) >= THROTTLE);
        if line != self.line && (turned || due) {
            lines.push(line.clone());
            self.line = line;
            self.at = Some(now);
        }
        lines.extend(view.plain_news(&self.key, time));
        self.key = key;
        lines
    }
}

/// Colours for a terminal that wants some; NO_COLOR and CLICOLOR are honoured by `console`.
pub fn colour(line: &str) -> String {
    let style = Style::new().for_stderr();
    let style = match line.split_whitespace().next().unwrap_or_default() {
        "SUCCEEDED" => style.green().bold(),
        "CANCELLED" | "BLOCKED" | "APPROVAL" | "PAUSED" | "QUEUED" | "warn" | "wait" | "force" => style.yellow(),
        "FAILED" | "STUCK" | "REFUSED" | "REJECTED" | "EXPIRED" | "error:" => style.red().bold(),
        "PLAN" => style.bold(),
        _ => return line.to_owned(),
    };
    style.apply_to(line).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::operation;
    use omnirelay_contract::workflow::operation::State;

    #[test]
    fn a_log_has_a_line_per_change() {
        let (start, time) = (Instant::now(), Timestamp::UNIX_EPOCH);
        let mut plain = Plain::default();
        let mut operation = operation(State::Running);
        let mut check = |phase: &str, done: u32, after_ms: u64, trouble: Option<&str>, expected: &[&str]| {
            operation.phase = Some(phase.to_owned());
            (operation.progress.done, operation.progress.total) = (done, 10);
            let now = start + Duration::from_millis(after_ms);
            assert_eq!(plain.lines(&View::new(&operation), trouble, now, time), expected, "{phase} {done} {after_ms}");
        };
        check("cordoning", 0, 0, None, &["cordoning  0/10"]);
        check("cordoning", 0, 10, None, &[]);
        check("evicting", 0, 20, None, &["evicting  0/10"]);
        check("evicting", 1, 100, None, &[]);
        check("evicting", 2, 2_100, None, &["evicting  2/10"]);
        check("evicting", 2, 9_000, None, &[]);
        check("evicting", 2, 9_100, Some("gone"), &["connection lost: gone"]);
        check("evicting", 2, 9_200, Some("gone"), &[]);
        check("evicting", 10, 9_300, None, &["connected again", "evicting  10/10"]);
        check("verifying", 10, 9_400, None, &["verifying  10/10"]);
    }
}
