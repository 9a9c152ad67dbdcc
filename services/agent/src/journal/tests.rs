use std::io::Write;
use std::sync::mpsc;
use std::time::Duration;

use omnirelay_contract::agent::{CommandVerb, CommandWorkload};
use omnirelay_workflow::ClusterId;
use omnirelay_workflow::resource::Handover;
use uuid::Uuid;

use super::*;

struct Case {
    _folder: tempfile::TempDir,
    path: std::path::PathBuf,
    journal: Journal,
    now: Timestamp,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p1/journal");
        let journal = Journal::open(&path, u64::MAX).unwrap();
        Self { _folder: folder, path, journal, now: "2026-11-23T12:00:00Z".parse().unwrap() }
    }

    /// As if the agent had been killed and started again.
    fn reopen(self) -> Self {
        let Case { _folder, path, journal, now } = self;
        drop(journal);
        let journal = Journal::open(&path, u64::MAX).unwrap();
        Self { _folder, path, journal, now }
    }

    fn admit(&self, command: &Command) -> Admission {
        let (send, receive) = mpsc::channel();
        self.journal.admit(command, self.now, move |admission, durable| {
            durable.unwrap();
            send.send(admission).unwrap();
        });
        receive.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    fn finish(&self, command: &Command, outcome: Outcome) {
        self.journal.finish(&command.peer, &command.id, &Finished { at: self.now, outcome });
    }
}

fn command(id: &str, verb: CommandVerb, workload: &str, epoch: u64) -> Command {
    Command {
        id: CommandId::parse(id).unwrap(),
        verb,
        peer: PeerId::parse("p1").unwrap(),
        operation: None,
        workload: Some(CommandWorkload {
            id: WorkloadId::parse(workload).unwrap(),
            service: "shop".to_owned(),
            unit: None,
            handover: Handover::StartFirst,
            epoch,
        }),
        holds: Vec::new(),
        cluster: None,
        expires_at: "2026-11-23T12:01:00Z".parse().unwrap(),
    }
}

fn acquire(id: &str, epoch: u64) -> Command {
    command(id, CommandVerb::Acquire, "w1", epoch)
}

fn peer() -> PeerId {
    PeerId::parse("p1").unwrap()
}

#[test]
fn a_stale_epoch_and_an_expired_command_are_refused_also_after_a_restart() {
    let mut case = Case::new();
    assert_eq!(case.admit(&acquire("c1", 5)), Admission::Begin);
    let mut case_two = case.reopen();
    assert_eq!(case_two.admit(&acquire("c2", 3)), Admission::Refused("stale epoch 3, seen 5".to_owned()));
    let release = command("c3", CommandVerb::Release, "w1", 5);
    assert_eq!(case_two.admit(&release), Admission::Begin, "an equal epoch is fine");
    assert_eq!(case_two.admit(&command("c4", CommandVerb::Acquire, "w2", 1)), Admission::Begin, "another workload");
    case_two.now = "2026-11-23T12:01:00Z".parse().unwrap();
    assert!(matches!(case_two.admit(&acquire("c5", 6)), Admission::Refused(why) if why.starts_with("expired at")));
    assert_eq!(case_two.journal.epoch(&peer(), &WorkloadId::parse("w1").unwrap()), 5);
    case = case_two.reopen();
    assert_eq!(case.journal.unfinished(&peer()).len(), 3);
}

#[test]
fn a_repeated_command_repeats_its_answer_expired_or_not() {
    let mut case = Case::new();
    let first = acquire("c1", 1);
    assert_eq!(case.admit(&first), Admission::Begin);
    assert_eq!(case.admit(&first), Admission::InFlight);
    case.finish(&first, Outcome::Done);
    case.finish(&first, Outcome::Failed { message: "a second outcome".to_owned() });
    let finished = Finished { at: case.now, outcome: Outcome::Done };
    assert_eq!(case.admit(&first), Admission::Finished(finished.clone()));
    case = case.reopen();
    case.now = "2026-11-24T12:00:00Z".parse().unwrap();
    assert_eq!(case.admit(&first), Admission::Finished(finished));
}

#[test]
fn unfinished_commands_and_untold_outcomes_survive_in_order() {
    let case = Case::new();
    let ids = ["c3", "c1", "c2", "c4"];
    for (n, id) in ids.iter().enumerate() {
        case.admit(&command(id, CommandVerb::Acquire, &format!("w{n}"), 1));
    }
    case.finish(&command("c1", CommandVerb::Acquire, "w1", 1), Outcome::Done);
    case.finish(&command("c4", CommandVerb::Acquire, "w3", 1), Outcome::Done);
    case.journal.told(&peer(), &CommandId::parse("c4").unwrap());
    let case = case.reopen();
    let unfinished: Vec<String> = case.journal.unfinished(&peer()).iter().map(|c| c.id.to_string()).collect();
    assert_eq!(unfinished, ["c3", "c2"]);
    let untold: Vec<String> = case.journal.untold(&peer()).iter().map(|(id, _)| id.to_string()).collect();
    assert_eq!(untold, ["c1"]);
}

#[test]
fn holds_and_placements_follow_what_was_done() {
    let case = Case::new();
    let hold = Uuid::from_u128(1);
    let cordon = Command { workload: None, holds: vec![hold], ..command("c1", CommandVerb::Cordon, "w1", 0) };
    let (come, go) = (acquire("c2", 2), command("c3", CommandVerb::Release, "w2", 2));
    for c in [&cordon, &come, &go] {
        case.admit(c);
        case.finish(c, Outcome::Done);
    }
    let case = case.reopen();
    assert_eq!(case.journal.holds(&peer()), [hold]);
    let mut placements = case.journal.placements(&peer());
    placements.sort_by(|a, b| a.0.cmp(&b.0));
    let id = |text| WorkloadId::parse(text).unwrap();
    let here = Placement::Here { service: "shop".to_owned() };
    assert_eq!(placements, [(id("w1"), here), (id("w2"), Placement::Gone)]);
}

#[test]
fn a_torn_last_line_is_cut_off_and_a_broken_one_in_the_middle_refused() {
    let case = Case::new();
    case.admit(&acquire("c1", 7));
    let Case { _folder, path, journal, .. } = case;
    drop(journal);
    let whole = std::fs::read(&path).unwrap();
    for torn in [&b"{\"accept\":{\"id\":\"c2\""[..], &b"\0\0\0\0\n\0\0"[..], &b"{}\n"[..]] {
        std::fs::write(&path, [&whole, torn].concat()).unwrap();
        let journal = Journal::open(&path, u64::MAX).unwrap();
        assert_eq!(journal.epoch(&peer(), &WorkloadId::parse("w1").unwrap()), 7);
        drop(journal);
        assert_eq!(std::fs::read(&path).unwrap(), whole);
    }
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(&[b"nonsense\n", &whole[..]].concat()).unwrap();
    assert!(matches!(Journal::open(&path, u64::MAX), Err(JournalError::Corrupt { line: 2, .. })));
}

#[test]
fn a_large_journal_is_rewritten_and_says_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let case = Case {
        journal: Journal::open(&path, 16 << 10).unwrap(),
        _folder: folder,
        path: path.clone(),
        now: "2026-11-23T12:00:00Z".parse().unwrap(),
    };
    for n in 1..=500u64 {
        let come = acquire(&format!("c{n}"), n);
        assert_eq!(case.admit(&come), Admission::Begin);
        case.finish(&come, Outcome::Done);
        case.journal.told(&come.peer, &come.id);
    }
    case.admit(&acquire("last", 501));
    let case = case.reopen();
    assert_eq!(case.journal.epoch(&peer(), &WorkloadId::parse("w1").unwrap()), 501);
    assert_eq!(case.journal.unfinished(&peer()).len(), 1);
    assert!(matches!(case.admit(&acquire("c1", 1)), Admission::Finished(_)), "outcomes are kept");
    assert!(case.journal.untold(&peer()).is_empty());
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(size < 500 * 500, "{size} bytes: it was rewritten, each command being more than 500 bytes before");
}

#[test]
fn only_one_agent_may_use_a_journal() {
    let case = Case::new();
    assert!(matches!(Journal::open(&case.path, u64::MAX), Err(JournalError::Locked { .. })));
}

fn role(id: &str, failover_version: u64, role: Role) -> Command {
    let cluster = ClusterRole { cluster: ClusterId::parse("c1").unwrap(), failover_version, role };
    Command { workload: None, cluster: Some(cluster), ..command(id, CommandVerb::Role, "w1", 0) }
}

#[test]
fn failover_versions_only_grow_and_within_one_a_fence_comes_first() {
    let case = Case::new();
    let stale = |why: &str| Admission::Refused(format!("stale{why}"));
    assert_eq!(case.admit(&role("c1", 5, Role::Fenced)), Admission::Begin);
    let case = case.reopen();
    assert_eq!(case.admit(&role("c2", 4, Role::Active)), stale(" failover version 4, seen 5"));
    assert_eq!(case.admit(&role("c3", 5, Role::Fenced)), Admission::Begin, "the same again");
    assert_eq!(case.admit(&role("c4", 5, Role::Active)), Admission::Begin);
    let late = stale(": active already under failover version 5, a fence needs a higher one");
    assert_eq!(case.admit(&role("c5", 5, Role::Fenced)), late);
    assert_eq!(case.admit(&role("c1", 5, Role::Fenced)), Admission::InFlight, "known: only its report is repeated");
    assert_eq!(case.admit(&role("c6", 6, Role::Fenced)), Admission::Begin);
    assert_eq!(case.reopen().journal.roles(&peer()).told, role("c6", 6, Role::Fenced).cluster);
}

#[test]
fn what_was_done_of_a_role_is_known_apart_from_what_was_told() {
    let case = Case::new();
    let (fence, activate) = (role("c1", 5, Role::Fenced), role("c2", 5, Role::Active));
    case.admit(&fence);
    assert_eq!(case.journal.roles(&peer()), Roles { told: fence.cluster.clone(), done: None, settled: false });
    case.finish(&fence, Outcome::Done);
    let fenced = Roles { told: fence.cluster.clone(), done: fence.cluster.clone(), settled: true };
    assert_eq!(case.journal.roles(&peer()), fenced);
    case.admit(&activate);
    case.finish(&activate, Outcome::Failed { message: "no".to_owned() });
    let failed = Roles { told: activate.cluster, done: fence.cluster, settled: false };
    assert_eq!(case.reopen().journal.roles(&peer()), failed);
}

#[test]
fn a_fenced_peer_acquires_nothing_and_still_releases() {
    let case = Case::new();
    case.admit(&role("c1", 5, Role::Fenced));
    let why = "fenced: c1 changes its role (failover version 5), nothing is acquired meanwhile";
    assert_eq!(case.admit(&acquire("c2", 9)), Admission::Refused(why.to_owned()));
    assert_eq!(case.journal.epoch(&peer(), &WorkloadId::parse("w1").unwrap()), 0, "a refused command raises nothing");
    assert_eq!(case.admit(&command("c3", CommandVerb::Release, "w1", 9)), Admission::Begin);
    case.admit(&role("c4", 5, Role::Passive));
    assert_eq!(case.admit(&acquire("c5", 9)), Admission::Begin);
}

#[test]
fn a_rewritten_journal_keeps_the_role_that_overtook_an_unfinished_one() {
    let mut state = State::default();
    for told in [role("c1", 5, Role::Active), role("c2", 5, Role::Passive)] {
        state.accept(told);
    }
    let mut again = State::default();
    for line in state.snapshot().split_inclusive(|&b| b == b'\n') {
        again.apply(serde_json::from_slice(line).unwrap());
    }
    assert_eq!(again.unfinished(&peer()).len(), 2);
    assert_eq!(again.roles(&peer()), state.roles(&peer()));
}
