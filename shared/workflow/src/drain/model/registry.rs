//! The registry: what a step may know, and how its changes are applied.

use super::*;

impl Sim {
    pub(super) fn world(&self) -> World {
        let source = &self.run.peer;
        let candidates = self
            .agents
            .keys()
            .filter(|p| *p != source)
            .map(|p| {
                let owned = self.records.values().filter(|w| w.peer == *p).map(|w| w.load).sum::<u32>();
                let promised =
                    self.targets.iter().filter(|(id, to)| *to == p && self.records.contains_key(*id)).count() as u32;
                Candidate {
                    peer: p.clone(),
                    health: self.health[p],
                    schedulable: !self.cordoned.contains(p),
                    labels: Labels::new(),
                    capacity: 10,
                    load: owned + promised,
                }
            })
            .collect();
        World {
            source_health: Some(self.health[source]),
            mark: Some(self.mark),
            inbound: 0,
            workloads: self.records.clone(),
            candidates: std::sync::Arc::new(candidates),
            services: std::sync::Arc::new(BTreeMap::from([("checkout".to_owned(), self.load())])),
            service_budgets: std::sync::Arc::new(
                self.service_budget.map(|most| ("checkout".to_owned(), Amount::Count(most))).into_iter().collect(),
            ),
            paused: self.paused.then(|| "ana has paused it".to_owned()),
        }
    }

    /// All workloads are of one service.
    pub(super) fn load(&self) -> ServiceLoad {
        let unavailable = self.records.values().filter(|w| w.state == WorkloadState::Moving).count() as u32;
        ServiceLoad { total: self.records.len() as u32, unavailable }
    }

    /// Applies a step as the worker does: all of it or, where the worker dies before, nothing.
    pub(super) fn commit(&mut self, step: Step) {
        let Step { next, changes, void, commands, events: _, wake_at } = step;
        for change in changes {
            self.change(change);
        }
        if void {
            self.rows.retain(|row| row.sent || row.command.undo);
        }
        self.rows.extend(commands.into_iter().map(|command| Row {
            command,
            sent: false,
            accepted: false,
            on_wire: false,
            done: false,
        }));
        self.run = next;
        self.wake_at = wake_at;
    }

    fn change(&mut self, change: Change) {
        let operation = self.run.id;
        match change {
            Change::AddHold(hold) => assert!(self.holds.insert(hold.id), "the hold is new"),
            Change::RemoveHold(hold) => assert!(self.holds.remove(&hold), "the hold was there"),
            Change::Mark(mark) => self.mark = mark,
            Change::Moving { workload, target, epoch } => {
                if let Some(record) = self.records.get_mut(&workload) {
                    assert!(epoch > record.epoch, "epochs grow: {workload} {epoch} after {}", record.epoch);
                    record.epoch = epoch;
                    record.state = WorkloadState::Moving;
                    record.operation = Some(operation);
                    self.targets.remove(&workload);
                    self.targets.extend(target.map(|to| (workload, to)));
                }
            }
            Change::Owner { workload, peer, epoch } => {
                let record = self.records.get_mut(&workload).expect("a record to own");
                assert_eq!(record.operation, Some(operation), "only what it moves gets an owner");
                record.peer = peer;
                record.epoch = epoch;
            }
            Change::Settled { workload } => {
                self.targets.remove(&workload);
                if let Some(record) = self.records.get_mut(&workload) {
                    assert_ne!(
                        record.operation,
                        Some(OTHERS_OPERATION),
                        "another operation's move is not ours to settle"
                    );
                    record.state = WorkloadState::Running;
                    record.operation = None;
                }
            }
            Change::Gone { workload } => {
                let gone = self.records.remove(&workload).expect("a record to go");
                assert_eq!(gone.handover, Handover::ReleaseOnly, "nothing else is ever without an owner");
            }
            Change::Back { record } => {
                assert!(self.records.insert(record.id.clone(), record).is_none(), "it had gone");
            }
        }
    }
}
