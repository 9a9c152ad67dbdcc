//! The registry: what a step may know, how it is made, and how its changes are applied.

use super::*;

impl Sim {
    /// No operation is under way that names a cluster which the next one names too.
    pub(super) fn startable(&self) -> bool {
        let Some(next) = self.waiting.first() else { return false };
        let locked = |id: &ClusterId| {
            self.ops.iter().any(|op| !op.run.is_ended() && op.run.params.named().any(|named| named == id))
        };
        !next.params.named().any(locked)
    }

    pub(super) fn start(&mut self) {
        let request = self.waiting.remove(0);
        let world = self.world(&request.params, false);
        let first = super::super::start(request.clone(), &world, self.now);
        assert_eq!(first, super::super::start(request, &world, self.now), "start is a function");
        self.ops.push(Op { run: first.next.clone(), wake_at: None, paused: false });
        self.commit(self.ops.len() - 1, first);
    }

    /// One step. The worker may die before the commit: then the same step is made again, from the old state.
    pub(super) fn input(&mut self, n: usize, input: &Input) {
        let op = &self.ops[n];
        let world = self.world(&op.run.params, op.paused);
        let step = super::super::step(&op.run, &world, input.clone(), self.now);
        assert_eq!(step, super::super::step(&op.run, &world, input.clone(), self.now), "a step is a function");
        match step {
            Ok(step) => {
                check::step(self, n, &step);
                self.commit(n, step);
            }
            Err(rejected) => {
                assert!(matches!(input, Input::Cancel(_)), "only a cancel is ever rejected");
                assert!(matches!(rejected, Rejected::TooLate { .. }), "{rejected}");
            }
        }
        check::quiet(self, n);
    }

    pub(super) fn world(&self, params: &Params, paused: bool) -> World {
        let named: BTreeSet<&ClusterId> = params.named().collect();
        let clusters = |is_named: bool| self.clusters.iter().filter(move |(id, _)| named.contains(id) == is_named);
        World {
            clusters: clusters.clone()(true).map(|(id, cluster)| (id.clone(), cluster.clone())).collect(),
            mesh_version: self.mesh_version,
            other_active: clusters(false).filter(|(_, cluster)| cluster.state == ClusterState::Active).count() as u32,
            paused: paused.then(|| "by ana".to_owned()),
        }
    }

    /// What the observer tells the agents of a cluster.
    pub(super) fn role_of(&self, id: &ClusterId) -> Told {
        let cluster = &self.clusters[id];
        (cluster.failover_version, role_of(cluster.state))
    }

    /// Applies a step as the worker does.
    fn commit(&mut self, n: usize, step: Step) {
        let Step { next, changes, void, commands, events, wake_at } = step;
        for change in changes {
            match change {
                Change::Version { version, clusters } => {
                    assert!(version > self.mesh_version, "versions grow: {version} after {}", self.mesh_version);
                    self.mesh_version = version;
                    for id in clusters {
                        self.clusters.get_mut(&id).expect("a cluster").failover_version = version;
                    }
                }
                Change::State { cluster, state } => self.clusters.get_mut(&cluster).expect("a cluster").state = state,
            }
        }
        for event in events {
            match event {
                Event::Changed { .. } => continue,
                Event::Promoted { cluster, .. } => self.meant.insert(cluster, ClusterState::Active),
                Event::Demoted { cluster, .. } => self.meant.insert(cluster, ClusterState::Passive),
            };
            check::cutover(self);
        }
        if void {
            self.rows.retain(|row| row.op != n || row.sent || row.command.undo);
        }
        let row = |command| Row { op: n, command, sent: false, accepted: false, on_wire: false, done: false };
        self.rows.extend(commands.into_iter().map(row));
        let op = &mut self.ops[n];
        (op.run, op.wake_at) = (next, wake_at);
    }
}
