//! Moves that wait until their service can do without one more.

use super::*;
use crate::budget::may_move;
use crate::resource::WorkloadState;

/// What the changes of a step have done to services so far. The world was counted before the step.
#[derive(Debug, Default)]
pub(super) struct Shifts {
    /// So many changes are counted in.
    counted: usize,
    workloads: BTreeMap<WorkloadId, Standing>,
    services: BTreeMap<String, Shift>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Shift {
    total: i64,
    unavailable: i64,
}

#[derive(Debug, Clone, Copy)]
struct Standing {
    exists: bool,
    ready: bool,
    moving: bool,
}

impl Standing {
    fn of(record: Option<&Workload>) -> Self {
        match record {
            Some(record) => Self { exists: true, ready: record.ready, moving: record.state == WorkloadState::Moving },
            None => Self { exists: false, ready: false, moving: false },
        }
    }

    fn total(self) -> i64 {
        i64::from(self.exists)
    }

    fn unavailable(self) -> i64 {
        i64::from(self.exists && (self.moving || !self.ready))
    }
}

impl Stepper<'_> {
    /// Whether the service of a workload can do without it for the time of a move; if not, that is why it waits. What is not ready
    /// anyway, or on a peer from which everything is taken, is no loss.
    pub(super) fn within_budget(&mut self, id: &WorkloadId) -> bool {
        let world = self.world;
        let Some(service) = self.run.moves.get(id).map(|m| m.service.clone()) else { return false };
        let free = world.workloads.get(id).is_some_and(|record| !record.ready) || self.takes();
        let budget = world.service_budgets.get(&service).filter(|_| !free);
        let load = if budget.is_some() { self.load_of(&service) } else { ServiceLoad::default() };
        match may_move(&service, budget, load) {
            Ok(()) => {
                if let Some(m) = self.run.moves.get_mut(id) {
                    m.trouble.take_if(|trouble| trouble.code == BlockerCode::Budget);
                }
                true
            }
            Err(block) => {
                self.trouble(id, BlockerCode::Budget, service, block.to_string());
                false
            }
        }
    }

    /// When to look again whether a budget has room: others use it up, and nobody tells. The longer it lasts, the rarer.
    pub(super) fn budget_look(&self) -> Option<Timestamp> {
        if !matches!(self.run.phase, Phase::Evicting) || self.world.paused.is_some() {
            return None;
        }
        let waiting = self.run.moves.values().filter(|m| m.on_source && matches!(m.at, At::Waiting { .. }));
        let since = waiting.filter_map(|m| m.trouble.as_ref()).filter(|t| t.code == BlockerCode::Budget);
        let age = since.map(|t| Duration::try_from(self.now.duration_since(t.since)).unwrap_or_default()).min()?;
        later(self.now, (age / 2).clamp(Duration::from_millis(500), Duration::from_secs(5)))
    }

    /// How a service stands with what this step has done so far.
    fn load_of(&mut self, service: &str) -> ServiceLoad {
        self.count_changes();
        let load = self.world.services.get(service).copied().unwrap_or_default();
        let shift = self.shifts.services.get(service).copied().unwrap_or_default();
        let shifted = |count: u32, by: i64| u32::try_from(i64::from(count) + by).unwrap_or(0);
        ServiceLoad {
            total: shifted(load.total, shift.total),
            unavailable: shifted(load.unavailable, shift.unavailable),
        }
    }

    fn count_changes(&mut self) {
        let shifts = &mut self.shifts;
        for change in &self.changes[shifts.counted..] {
            let (Change::Moving { workload, .. }
            | Change::Owner { workload, .. }
            | Change::Settled { workload }
            | Change::Gone { workload }
            | Change::Back { record: Workload { id: workload, .. } }) = change
            else {
                continue;
            };
            let record = self.world.workloads.get(workload);
            let before = shifts.workloads.get(workload).copied().unwrap_or_else(|| Standing::of(record));
            let after = match change {
                Change::Moving { .. } => Standing { moving: true, ..before },
                Change::Owner { .. } => Standing { ready: true, ..before },
                Change::Settled { .. } => Standing { moving: false, ..before },
                Change::Gone { .. } => Standing::of(None),
                Change::Back { record } => Standing::of(Some(record)),
                Change::AddHold(_) | Change::RemoveHold(_) | Change::Mark(_) => before,
            };
            shifts.workloads.insert(workload.clone(), after);
            let moved = self.run.moves.get(workload).map(|m| &m.service);
            if let Some(service) = moved.or(record.map(|record| &record.service)) {
                let shift = shifts.services.entry(service.clone()).or_default();
                shift.total += after.total() - before.total();
                shift.unavailable += after.unavailable() - before.unavailable();
            }
        }
        shifts.counted = self.changes.len();
    }
}
