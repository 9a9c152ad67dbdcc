//! What is on the screen: headings, lines, one line that is always there, and the table at the end.

use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use console::{Term, style};

use super::load::{Count, Counters};

/// How often the line that is always there is drawn again.
pub const REDRAW: Duration = Duration::from_millis(100);

/// Standard output, shared by whoever has something to say.
pub struct Screen {
    term: Term,
    live: bool,
    /// What the line counts, once there is load.
    counted: Mutex<Vec<Arc<Counters>>>,
    began: Instant,
}

impl Screen {
    pub fn new() -> Self {
        let term = Term::stdout();
        let live = term.is_term();
        Self { term, live, counted: Mutex::default(), began: Instant::now() }
    }

    pub fn count(&self, counters: &Arc<Counters>) {
        self.counted().push(counters.clone());
    }

    pub fn total(&self) -> Count {
        self.counted().iter().map(|counters| counters.count()).fold(Count::default(), |sum, one| sum + one)
    }

    pub fn began(&self) -> Instant {
        self.began
    }

    pub fn heading(&self, text: &str) {
        self.write(&format!("\n{} {text}", style(format!("{:>4.1}s", self.began.elapsed().as_secs_f64())).dim()));
    }

    pub fn line(&self, text: &str) {
        self.write(&format!("      {text}"));
    }

    /// A line that another program wrote.
    pub fn quote(&self, text: &str) {
        self.write(&format!("      {} {text}", style("|").dim()));
    }

    pub fn plain(&self, text: &str) {
        self.write(text);
    }

    /// The end of an act: the count, where it is not on the screen anyway.
    pub fn act_ends(&self) {
        if !self.live && !self.counted().is_empty() {
            self.write(&format!("      {}", self.status()));
        }
    }

    /// Draws the count again, where there is a terminal to draw on.
    pub fn redraw(&self) {
        if self.live {
            let counted = self.counted();
            if !counted.is_empty() {
                drop(counted);
                self.draw("");
            }
        }
    }

    /// Takes the line away that is drawn again and again.
    pub fn finish(&self) {
        self.counted().clear();
        if self.live {
            // A terminal that has gone away needs no tidying.
            let _ = self.term.clear_line();
        }
    }

    fn write(&self, text: &str) {
        if self.live {
            self.draw(&format!("{text}\n"));
        } else {
            let mut out = std::io::stdout().lock();
            // A reader that has gone away misses only what it did not want.
            let _ = writeln!(out, "{text}").and_then(|()| out.flush());
        }
    }

    /// `text` above the count, in one write, so that nothing flickers.
    fn draw(&self, text: &str) {
        let status = if self.counted().is_empty() { String::new() } else { self.status() };
        let _ = (&self.term).write_all(format!("\r\x1b[2K{text}{status}").as_bytes());
        let _ = self.term.flush();
    }

    fn status(&self) -> String {
        let Count { requests, failed, .. } = self.total();
        let text = format!("requests {}  failed {failed}", grouped(requests));
        let text = if failed == 0 { style(text).green() } else { style(text).red() };
        text.bold().to_string()
    }

    fn counted(&self) -> MutexGuard<'_, Vec<Arc<Counters>>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that the demo says, with what was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub claim: &'static str,
    pub measured: String,
    pub held: bool,
}

/// The table at the end.
pub fn table(claims: &[Claim]) -> String {
    let width = claims.iter().map(|claim| claim.claim.len()).max().unwrap_or_default();
    let mut lines = Vec::new();
    for Claim { claim, measured, held } in claims {
        let held = if *held { style("yes").green() } else { style("NO ").red().bold() };
        lines.push(format!("  {held}  {claim:width$}  {measured}"));
    }
    lines.join("\n")
}

/// `41209` as `41,209`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (41_209, "41,209"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn the_table_says_what_held() {
        console::set_colors_enabled(false);
        let claims = [
            Claim { claim: "nothing failed", measured: "0 of 41,209".to_owned(), held: true },
            Claim { claim: "no", measured: "1".to_owned(), held: false },
        ];
        assert_eq!(table(&claims), "  yes  nothing failed  0 of 41,209\n  NO   no              1");
    }
}
