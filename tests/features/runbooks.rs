//! The runbooks of `docs/runbooks/`, typed from top to bottom: every command, what it prints, its exit code. How a runbook is
//! written so that this test understands it is said in `docs/runbooks/README.md`. Each ends with the mesh as it was before.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use omnirelay_tests::{PATIENCE, Role, Stack, StackOptions, eventually_ok, fault};
use serde_json::{Value, json};

/// Runbooks that share a stack, in this order. What a drain has moved stays where it is, so those that show plans have their own.
const TOGETHER: [&[&str]; 6] = [
    &["cordon", "label-and-apply", "config-edit", "approvals"],
    &["drain"],
    &["cancel", "stuck"],
    &["bulk-drain"],
    &["promote-planned", "demote"],
    &["promote-emergency"],
];

/// The width of the terminal.
const COLUMNS: usize = 140;

/// An undo that cannot be done is tried for a while before it is given up.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test]
async fn what_changes_no_workloads() {
    typed(TOGETHER[0]).await;
}

#[tokio::test]
async fn a_drain() {
    typed(TOGETHER[1]).await;
}

#[tokio::test]
async fn a_cancel_and_what_is_stuck() {
    typed(TOGETHER[2]).await;
}

#[tokio::test]
async fn a_drain_of_many() {
    typed(TOGETHER[3]).await;
}

#[tokio::test]
async fn a_planned_promotion_and_a_demotion() {
    typed(TOGETHER[4]).await;
}

#[tokio::test]
async fn an_emergency() {
    typed(TOGETHER[5]).await;
}

#[test]
fn every_runbook_is_typed_and_in_the_index() {
    let index = std::fs::read_to_string(folder().join("README.md")).expect("the index");
    let files = std::fs::read_dir(folder()).expect("the folder").map(|entry| entry.expect("an entry").file_name());
    let names: BTreeSet<String> = files.map(|name| name.to_string_lossy().trim_end_matches(".md").to_owned()).collect();
    let typed = TOGETHER.iter().flat_map(|names| names.iter().map(|name| (*name).to_owned()));
    assert_eq!(names, typed.chain(["README".to_owned()]).collect());
    for name in names.iter().filter(|name| *name != "README") {
        assert!(index.contains(&format!("({name}.md)")), "{name} is not in the index");
        let text = std::fs::read_to_string(folder().join(format!("{name}.md"))).expect("a runbook");
        for section in ["**When.**", "## Before you begin", "## Do it", "## Undo", "## What can go wrong"] {
            assert!(text.contains(section), "{name}.md has no {section:?}");
        }
        assert!(text.lines().any(|line| line.starts_with("$ omnirelay ")), "{name}.md has no command");
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/runbooks")
}

async fn typed(names: &[&str]) {
    let options =
        StackOptions { clusters: 2, peers: 4, workloads: 5, handover: "400ms..800ms", ..StackOptions::default() };
    let stack = Stack::start(options).await;
    for name in names {
        let text = std::fs::read_to_string(folder().join(format!("{name}.md"))).expect("a runbook");
        let mut reader = Reader::new(&stack, name);
        for part in parts(&text) {
            reader.follow(part).await;
        }
        nothing_is_left(&stack, name).await;
    }
}

/// What a runbook has that is not prose.
#[derive(Debug, PartialEq)]
enum Part {
    As(Role),
    /// Something that happens to peers.
    Fault {
        mode: String,
        peers: Vec<String>,
    },
    File {
        name: String,
        text: String,
    },
    Typed {
        line: usize,
        command: String,
        seen: Vec<String>,
    },
}

/// The parts of a runbook, in order.
fn parts(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut file = None;
    let mut lines = text.lines().enumerate();
    while let Some((n, line)) = lines.next() {
        if let Some(comment) = line.strip_prefix("<!-- ").and_then(|line| line.strip_suffix(" -->")) {
            let (key, value) = comment.split_once(": ").unwrap_or_else(|| panic!("line {}: {comment:?}", n + 1));
            match key {
                "as" => parts.push(Part::As(role(value))),
                "fault" => {
                    let mut words = value.split(' ').map(str::to_owned);
                    parts.push(Part::Fault { mode: words.next().unwrap_or_default(), peers: words.collect() });
                }
                "file" => file = Some(value.to_owned()),
                other => panic!("line {}: {other:?} is none of as, fault, file", n + 1),
            }
        } else if let Some(kind) = line.strip_prefix("```") {
            let block: Vec<(usize, &str)> = lines.by_ref().take_while(|(_, line)| *line != "```").collect();
            match (file.take(), kind) {
                (Some(name), _) => {
                    let text: Vec<&str> = block.iter().map(|(_, line)| *line).collect();
                    parts.push(Part::File { name, text: text.join("\n") });
                }
                (None, "console") => parts.extend(commands(&block)),
                _ => {}
            }
        }
    }
    parts
}

fn commands(block: &[(usize, &str)]) -> Vec<Part> {
    let mut parts = Vec::new();
    for (n, line) in block {
        match (line.strip_prefix("$ "), parts.last_mut()) {
            (Some(command), _) => {
                parts.push(Part::Typed { line: n + 1, command: command.to_owned(), seen: Vec::new() });
            }
            (None, Some(Part::Typed { seen, .. })) => seen.push((*line).to_owned()),
            (None, _) => panic!("line {}: a block begins with a command", n + 1),
        }
    }
    parts
}

fn role(word: &str) -> Role {
    match word {
        "read" => Role::Read,
        "operate" => Role::Operate,
        "approve" => Role::Approve,
        "admin" => Role::Admin,
        other => panic!("{other:?} is none of read, operate, approve, admin"),
    }
}

/// Somebody with a runbook before them.
struct Reader<'a> {
    stack: &'a Stack,
    runbook: &'a str,
    role: Role,
    /// The last command's.
    code: Option<i32>,
    /// Whether a code other than 0 has yet to be looked at.
    unseen: Option<String>,
    /// Ids that the runbook shows, and what they are today.
    ids: BTreeMap<String, String>,
    files: BTreeMap<String, String>,
}

impl<'a> Reader<'a> {
    fn new(stack: &'a Stack, runbook: &'a str) -> Self {
        let (ids, files) = (BTreeMap::new(), BTreeMap::new());
        Self { stack, runbook, role: Role::Operate, code: None, unseen: None, ids, files }
    }

    async fn follow(&mut self, part: Part) {
        match part {
            Part::Typed { line, command, seen } if command == "echo $?" => {
                let expected = seen.first().and_then(|code| code.parse().ok());
                assert_eq!(
                    self.code,
                    expected,
                    "{}.md:{line}: {}",
                    self.runbook,
                    self.unseen.take().unwrap_or_default()
                );
                self.unseen = None;
            }
            other => {
                assert_eq!(
                    self.unseen, None,
                    "{}.md: it ended with {:?} and the runbook does not say so",
                    self.runbook, self.code
                );
                match other {
                    Part::As(role) => self.role = role,
                    Part::Fault { mode, peers } => self.fault(&mode, &peers).await,
                    Part::File { name, text } => {
                        let path = self.stack.folder().join(&name);
                        std::fs::write(&path, text).expect("a file");
                        self.files.insert(name, path.display().to_string());
                    }
                    Part::Typed { line, command, seen } => self.types(line, &command, &seen),
                }
            }
        }
    }

    /// Sets a fault of simulated peers, and waits until the registry shows what can be seen of it.
    async fn fault(&self, mode: &str, peers: &[String]) {
        let reader = self.stack.api(Role::Read);
        for peer in peers {
            fault(self.stack.nats_url(), peer, mode, "").await;
        }
        let health = match mode {
            "silent" => "unreachable",
            "none" => "healthy",
            _ => return,
        };
        for peer in peers {
            eventually_ok(format!("{peer} is {health}"), PATIENCE, async || {
                let now = reader.read(&format!("/control/peers/{peer}")).await["health"].clone();
                if now == health { Ok(()) } else { Err(now) }
            })
            .await;
        }
    }

    /// Types a command and what it asks for, and compares the terminal with what the runbook shows.
    fn types(&mut self, line: usize, command: &str, seen: &[String]) {
        let place = format!("{}.md:{line}: {command}", self.runbook);
        let mut cli = self.stack.cli(self.role).env("NO_COLOR", "1");
        let mut words = words(command);
        while let Some((name, value)) = words[0].split_once('=') {
            cli = cli.env(name, value);
            words.remove(0);
        }
        assert_eq!(words.remove(0), "omnirelay", "{place}");
        let known = |word: &String| self.ids.get(word).or_else(|| self.files.get(word)).unwrap_or(word).clone();
        let args: Vec<String> = words.iter().map(known).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut terminal = cli.terminal(&args).patience(COMMAND_WITHIN);
        for (n, line) in seen.iter().enumerate() {
            if let Some((prompt, answer)) = split_prompt(line) {
                terminal.expect(if prompt.starts_with("Type ") { "Type " } else { "[y/N" });
                terminal.expect(if prompt.starts_with("Type ") { ": " } else { "] " });
                terminal.type_line(answer);
            } else if line == "^C" {
                terminal.expect(mark(&seen[n - 1]));
                terminal.ctrl_c();
            }
        }
        let (screen, code) = terminal.end();
        let screen = lines_of(&screen);
        let mut rest = screen.iter();
        let whole = || format!("exit {code}, and what came was\n{}", screen.join("\n"));
        for expected in seen.iter().filter(|line| !matches!(line.as_str(), "..." | "^C")) {
            let expected = split_prompt(expected).map_or(expected.as_str(), |(prompt, _)| prompt);
            let found = rest.by_ref().find_map(|line| same(expected, line, &self.ids));
            self.ids.extend(found.unwrap_or_else(|| panic!("{place}\nno line like {expected:?}; {}", whole())));
        }
        self.code = Some(code);
        self.unseen = (code != 0).then(|| format!("{place}\n{}", whole()));
    }
}

/// What tells that a line is there: its count, so that something has been done, else its first word.
fn mark(line: &str) -> &str {
    let mut words = line.split_whitespace();
    let first = words.next().expect("a line above ^C");
    words.find(|word| word.split_once('/').is_some_and(|(done, _)| done.parse::<u32>().is_ok())).unwrap_or(first)
}

/// A command line in words, with quotes as a shell has them.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in command.chars() {
        match (c, quote) {
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, Some(open)) if c == open => quote = None,
            (' ', None) => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// What stood on the screen, line by line: no colours, no cursor movements.
fn lines_of(screen: &str) -> Vec<String> {
    let mut text = String::new();
    let mut chars = screen.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' if chars.peek() == Some(&'[') => {
                // A control sequence ends with a letter.
                let _ = chars.by_ref().find(char::is_ascii_alphabetic);
                text.push('\n');
            }
            '\r' => text.push('\n'),
            c => text.push(c),
        }
    }
    let mut lines = Vec::new();
    for mut line in text.lines() {
        // A row of a bar is filled up with blanks to the edge, and the next follows without a new line.
        while let Some((row, rest)) = line.split_at_checked(COLUMNS).filter(|(row, _)| row.ends_with(&" ".repeat(20))) {
            lines.push(row.trim_end().to_owned());
            line = rest;
        }
        // What is typed at a prompt is not echoed, nor is its end.
        let (prompt, rest) = split_prompt(line).unwrap_or((line, ""));
        lines.extend([prompt, rest].map(|line| line.trim_end().to_owned()));
    }
    lines.retain(|line| !line.is_empty());
    lines.dedup();
    lines
}

/// A prompt, and what is behind it.
fn split_prompt(line: &str) -> Option<(&str, &str)> {
    let end = match line.find("[y/N] ") {
        Some(at) => at + "[y/N] ".len(),
        None => line.starts_with("Type ").then(|| line.find(": "))?? + ": ".len(),
    };
    line.split_at_checked(end)
}

/// Whether two lines say the same, but for ids, numbers, times and bars; then the ids that belong together.
fn same(expected: &str, actual: &str, known: &BTreeMap<String, String>) -> Option<Vec<(String, String)>> {
    let (expected, actual): (Vec<&str>, Vec<&str>) =
        (expected.split_whitespace().collect(), actual.split_whitespace().collect());
    if expected.len() != actual.len() {
        return None;
    }
    let mut ids = Vec::new();
    for (expected, actual) in expected.into_iter().zip(actual) {
        match (id(expected), id(actual)) {
            (Some(expected), Some(actual)) => {
                if known.get(expected).is_some_and(|known| known != actual) {
                    return None;
                }
                ids.push((expected.to_owned(), actual.to_owned()));
            }
            _ if shape(expected) == shape(actual) => {}
            _ => return None,
        }
    }
    Some(ids)
}

/// The tail of an operation's id, or of a digest.
fn id(word: &str) -> Option<&str> {
    let word = word.trim_matches(['.', ',', ':', ';', '`', '(', ')']);
    (word.len() == 8 && word.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))).then_some(word)
}

/// What of a word stays the same from day to day.
fn shape(word: &str) -> String {
    let only = |allowed: &str| word.chars().all(|c| c.is_ascii_digit() || allowed.contains(c));
    let bare = word.trim_matches(['.', ',', ':', ';', '`', '"']);
    if word.starts_with('[') && word.chars().all(|c| "[]#-".contains(c)) {
        "BAR".to_owned()
    } else if word.contains(|c: char| c.is_ascii_digit()) && only("smhd.:/#()+%,?") {
        "NUMBER".to_owned()
    } else if bare.len() == 36 && bare.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') {
        "UUID".to_owned()
    } else if bare.len() >= 20 && bare.ends_with('Z') && bare.starts_with("20") {
        "TIME".to_owned()
    } else if let Some((kind, name)) = word.split_once('/') {
        format!("{}/{}", shape(kind), shape(name))
    } else {
        word.to_owned()
    }
}

/// The undo of a runbook is an undo: nobody holds anything, nothing runs or waits, the clusters and the settings are as they were.
async fn nothing_is_left(stack: &Stack, runbook: &str) {
    let reader = stack.api(Role::Read);
    let live = "/control/operations?state=submitted,awaitingApproval,queued,running,unwinding,stuck";
    assert_eq!(reader.list(live).await, Vec::<Value>::new(), "{runbook} leaves operations");
    for peer in reader.list("/control/peers").await {
        let stands = (&peer["state"], &peer["holds"], &peer["labels"]["runbook"]);
        assert_eq!(stands, (&json!("active"), &json!([]), &Value::Null), "{runbook} leaves {peer}");
    }
    let clusters = reader.list("/control/clusters").await;
    let states: Vec<[&Value; 3]> =
        clusters.iter().map(|one| [&one["id"], &one["state"], &one["maxUnavailable"]]).collect();
    let before = [json!(["cluster-1", "active", null]), json!(["cluster-2", "passive", null])];
    assert_eq!(json!(states), json!(before), "{runbook}");
    let history = reader.list("/control/config/history").await;
    let (newest, oldest) = (history.first().expect("a revision"), history.last().expect("a revision"));
    assert_eq!(newest["settings"], oldest["settings"], "{runbook} leaves settings");
}

#[test]
fn lines_are_compared_but_for_what_changes_from_day_to_day() {
    let check = |expected: &str, actual: &str, equal: bool| {
        let known = BTreeMap::from([("9c41e07b".to_owned(), "0ac340ec".to_owned())]);
        assert_eq!(same(expected, actual, &known).is_some(), equal, "{expected:?} {actual:?}");
    };
    check("SUCCEEDED 9c41e07b   4 moved   1.1s   audit #38", "SUCCEEDED 0ac340ec   5 moved   2m04s   audit #7", true);
    check("SUCCEEDED 9c41e07b   4 moved", "SUCCEEDED ffffffff   4 moved", false);
    check("op 12345678 Ctrl-C detaches", "op abcdef01 Ctrl-C detaches", true);
    check("evicting [####----] 4/10", "evicting [########] 1/1", true);
    check("evicting done", "evicting [########]", false);
    check("-> cluster-1-peer-2 (1)", "-> cluster-1-peer-3 (1)", false);
    let operation = |n: u8| format!("operations/01a20948-8c86-769e-a00b-0980a8c2b7{n:02x}");
    check(&operation(1), &operation(2), true);
    check("Type it in 127.0.0.1:8600: x", "Type it in 127.0.0.1:36709: x", true);
}

#[test]
fn a_runbook_is_read_as_it_is_written() {
    let text = "x\n<!-- as: admin -->\n<!-- file: m.yaml -->\n```yaml\na: 1\n```\n```console\n$ omnirelay a\nb\n$ echo $?\n11\n```\n";
    let typed = |line: usize, command: &str, seen: &str| Part::Typed {
        line,
        command: command.to_owned(),
        seen: vec![seen.to_owned()],
    };
    let file = Part::File { name: "m.yaml".to_owned(), text: "a: 1".to_owned() };
    assert_eq!(parts(text), [Part::As(Role::Admin), file, typed(8, "omnirelay a", "b"), typed(10, "echo $?", "11")]);
    assert_eq!(words("E='a b' omnirelay x --reason \"c d\" ''"), ["E=a b", "omnirelay", "x", "--reason", "c d", ""]);
    let answer = |line| split_prompt(line).map(|(_, answer)| answer);
    assert_eq!(answer("Type \"2 peers\" to start in prod: 2 peers"), Some("2 peers"));
    assert_eq!(answer("Approve exactly this? [y/N] y"), Some("y"));
    assert_eq!(answer("note: a"), None);
    assert_eq!((mark("  evicting   [##--] 1/5  1 moving"), mark("PLAN a")), ("1/5", "PLAN"));
    let row = format!("{:COLUMNS$}d", "c");
    assert_eq!(lines_of(&format!("a\r\n\u{1b}[2Kb\u{1b}[1A\r{row}")), ["a", "b", "c", "d"]);
}
