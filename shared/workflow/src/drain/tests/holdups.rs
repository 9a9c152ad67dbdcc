//! What holds up moves that have not begun: a pause, and the budget of a service.

use super::*;
use crate::operation::BlockerCode;
use Handover::{StartFirst, StopFirst};

fn told(play: &Play) -> Vec<String> {
    play.run.status().blockers.iter().map(|b| format!("{} {}: {}", b.code, b.subject, b.message)).collect()
}

impl Play {
    fn pause(&mut self, by: Option<&str>) {
        self.world.paused = by.map(str::to_owned);
        self.input(Input::Timer).expect("a timer is never rejected");
    }

    /// A budget of `most` for all workloads, which are of one service; the world counts them as the worker does.
    fn budget(&mut self, most: Amount) {
        self.world.service_budgets = Arc::new([("checkout".to_owned(), most)].into());
        self.count();
    }

    fn count(&mut self) {
        let records = self.world.workloads.values();
        let unavailable = records.filter(|w| w.state == WorkloadState::Moving || !w.ready).count() as u32;
        let load = ServiceLoad { total: self.world.workloads.len() as u32, unavailable };
        self.world.services = Arc::new([("checkout".to_owned(), load)].into());
    }

    fn done_and_counted(&mut self, command: &str) {
        self.done(command);
        self.count();
    }
}

#[test]
fn while_paused_nothing_new_begins_and_what_is_in_flight_ends() {
    let params = DrainParams { max_concurrent: 1, ..DrainParams::default() };
    let mut play = evicting(&[StartFirst, StartFirst], params);
    assert_eq!(play.asked, ["acquire w0 t1"]);
    play.pause(Some("bo has paused it: lunch"));
    play.done("acquire w0 t1");
    assert_eq!(play.asked, ["release w0 s"]);
    play.done("release w0 s");
    assert_eq!((play.asked.len(), play.at("w0").as_str(), play.at("w1").as_str()), (0, "moved", "waiting"));
    assert_eq!(told(&play), ["paused s: bo has paused it: lunch"]);
    play.wait(600);
    assert_eq!(play.asked, Vec::<String>::new());
    assert_eq!(play.run.status().blockers[0].since, Timestamp::UNIX_EPOCH, "since it was paused");
    play.pause(None);
    assert_eq!(play.asked, ["acquire w1 t1"]);
    assert_eq!(told(&play), Vec::<String>::new());
    assert_eq!(play.goes_well(), State::Succeeded);
}

#[test]
fn what_is_released_finds_a_home_although_it_is_paused() {
    let mut play = evicting(&[StopFirst], DrainParams::default());
    play.pause(Some("paused"));
    play.done("release w0 s");
    assert_eq!(play.asked, ["acquire w0 t1"]);
}

#[test]
fn a_paused_drain_is_cancelled_as_any_other() {
    let mut play = evicting(&[StartFirst], DrainParams::default());
    play.pause(Some("paused"));
    play.cancel(false).expect("accepted");
    assert_eq!(told(&play), Vec::<String>::new());
    assert_eq!(play.goes_well(), State::Cancelled);
}

#[test]
fn the_deadline_runs_on_while_it_is_paused() {
    let mut play = drain(&[StartFirst], after(OnDeadline::Hold));
    play.pause(Some("paused"));
    play.done("cordon s");
    assert_eq!(play.wake_at, play.run.deadline_at);
    play.wait(60);
    assert_eq!(play.run.status().state, State::Failed);
}

#[test]
fn moves_wait_for_the_budget_of_their_service() {
    let mut play = drain(&[StartFirst; 4], DrainParams::default());
    play.budget(Amount::Percent(50));
    play.done("cordon s");
    play.count();
    assert_eq!(play.asked, ["acquire w0 t1", "acquire w1 t2"], "those of the same step count");
    assert_eq!(told(&play), ["budget checkout: checkout 2/4 ready, needs 2"]);
    assert_eq!(play.run.status().blockers[0].code, BlockerCode::Budget);
    assert!(play.wake_at.is_some_and(|at| at > play.now), "somebody else may use it up, so it is looked at again");
    play.done_and_counted("acquire w0 t1");
    assert_eq!(play.asked, ["release w0 s"]);
    play.done_and_counted("release w0 s");
    assert_eq!(play.asked, ["acquire w2 t1"], "what has ended in this step has made room");
    for command in ["acquire w1 t2", "release w1 s", "acquire w2 t1", "release w2 s"] {
        play.done_and_counted(command);
    }
    assert_eq!(told(&play), Vec::<String>::new());
    assert_eq!(play.goes_well(), State::Succeeded);
}

#[test]
fn what_is_not_ready_anyway_costs_nothing() {
    let mut play = drain(&[StartFirst; 2], DrainParams::default());
    play.world.workloads.get_mut(&workload("w0")).expect("a record").ready = false;
    play.budget(Amount::Count(1));
    play.done("cordon s");
    assert_eq!(play.asked, ["acquire w0 t1"]);
    assert_eq!(told(&play), ["budget checkout: checkout 1/2 ready, needs 1"]);
}

#[test]
fn a_service_without_a_budget_does_not_wait() {
    let mut play = drain(&[StartFirst; 2], DrainParams::default());
    play.world.service_budgets = Arc::new([("search".to_owned(), Amount::Count(0))].into());
    play.done("cordon s");
    assert_eq!(play.asked.len(), 2);
}
