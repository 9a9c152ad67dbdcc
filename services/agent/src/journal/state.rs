//! What a journal's entries amount to. Pure: entries in, questions answered.
//!
//! Applying an entry twice changes nothing, so a compacted file may be followed by lines that it already contains.

use std::collections::{BTreeMap, HashMap, VecDeque};

use omnirelay_contract::agent::{ClusterRole, Command, CommandVerb, Outcome};
use omnirelay_workflow::{CommandId, HoldId, PeerId, Timestamp, WorkloadId};
use serde::{Deserialize, Serialize};

/// How many finished commands are remembered per journal. Older ones are guarded by epoch, expiry and idempotent drivers.
const REMEMBERED: usize = 50_000;

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    pub at: Timestamp,
    pub outcome: Outcome,
}

/// Where the last finished acquire or release left a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Placement {
    Here { service: String },
    Gone,
}

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Entry {
    Accept(Command),
    Final {
        peer: PeerId,
        id: CommandId,
        finished: Finished,
    },
    Told {
        peer: PeerId,
        id: CommandId,
    },
    /// Of a compacted file: a finished command whose body is no longer needed.
    Past {
        peer: PeerId,
        id: CommandId,
        finished: Finished,
        told: bool,
    },
    /// Of a compacted file.
    Seen {
        peer: PeerId,
        workload: WorkloadId,
        epoch: u64,
        placement: Option<Placement>,
    },
    /// Of a compacted file.
    Held {
        peer: PeerId,
        holds: Vec<HoldId>,
    },
    /// Of a compacted file.
    Role {
        peer: PeerId,
        #[serde(flatten)]
        roles: Roles,
    },
}

impl Entry {
    /// The entry as a line, its end included.
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = Vec::with_capacity(512);
        self.write(&mut line);
        line
    }

    fn write(&self, to: &mut Vec<u8>) {
        // Writing plain data with text keys to memory cannot fail.
        if serde_json::to_writer(&mut *to, self).is_ok() {
            to.push(b'\n');
        }
    }
}

/// A command that the journal knows.
#[derive(Debug, Clone)]
pub enum Known {
    InFlight { command: Box<Command>, order: u64 },
    Finished { finished: Finished, told: bool },
}

#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub epoch: u64,
    pub placement: Option<Placement>,
}

/// What a peer was told about its cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Roles {
    /// The newest that was accepted: its version is the highest seen.
    pub told: Option<ClusterRole>,
    /// The last that the driver carried out.
    pub done: Option<ClusterRole>,
    /// Whether `done` is `told`, and the driver was not sent elsewhere in between.
    pub settled: bool,
}

#[derive(Debug, Default)]
struct Peer {
    workloads: HashMap<WorkloadId, Seen>,
    commands: HashMap<CommandId, Known>,
    holds: Vec<HoldId>,
    roles: Roles,
}

#[derive(Debug, Default)]
pub struct State {
    peers: BTreeMap<PeerId, Peer>,
    /// Finished commands, oldest first.
    past: VecDeque<(PeerId, CommandId)>,
    accepted: u64,
}

impl State {
    /// Applies an entry. False when it changes nothing.
    pub fn apply(&mut self, entry: Entry) -> bool {
        match entry {
            Entry::Accept(command) => self.accept(command),
            Entry::Final { peer, id, finished } => self.finish(&peer, &id, finished),
            Entry::Told { peer, id } => match self.known(&peer, &id) {
                Some(Known::Finished { told, .. }) => !std::mem::replace(told, true),
                _ => false,
            },
            Entry::Past { peer, id, finished, told } => {
                self.peer(&peer).commands.insert(id.clone(), Known::Finished { finished, told });
                self.remember(peer, id);
                true
            }
            Entry::Seen { peer, workload, epoch, placement } => {
                self.peer(&peer).workloads.insert(workload, Seen { epoch, placement });
                true
            }
            Entry::Held { peer, holds } => {
                self.peer(&peer).holds = holds;
                true
            }
            Entry::Role { peer, roles } => {
                self.peer(&peer).roles = roles;
                true
            }
        }
    }

    /// Records an accepted command, raises the epoch of its workload, keeps the role of its cluster. False when it is known.
    pub fn accept(&mut self, command: Command) -> bool {
        let order = self.accepted;
        let peer = self.peer(&command.peer);
        if peer.commands.contains_key(&command.id) {
            return false;
        }
        if let Some(workload) = &command.workload {
            let seen = peer.workloads.entry(workload.id.clone()).or_default();
            seen.epoch = seen.epoch.max(workload.epoch);
        }
        if command.verb == CommandVerb::Role {
            peer.roles.accept(command.cluster.as_ref());
        }
        peer.commands.insert(command.id.clone(), Known::InFlight { command: Box::new(command), order });
        self.accepted += 1;
        true
    }

    /// Takes back a command that could not be made durable. The epoch stays raised, which is the safe side.
    pub fn forget(&mut self, peer: &PeerId, id: &CommandId) {
        self.peer(peer).commands.remove(id);
    }

    pub fn command(&self, peer: &PeerId, id: &CommandId) -> Option<&Known> {
        self.peers.get(peer)?.commands.get(id)
    }

    pub fn workload(&self, peer: &PeerId, workload: &WorkloadId) -> Option<&Seen> {
        self.peers.get(peer)?.workloads.get(workload)
    }

    pub fn holds(&self, peer: &PeerId) -> Vec<HoldId> {
        self.peers.get(peer).map(|p| p.holds.clone()).unwrap_or_default()
    }

    pub fn roles(&self, peer: &PeerId) -> Roles {
        self.peers.get(peer).map(|p| p.roles.clone()).unwrap_or_default()
    }

    /// What the peer was last told about its cluster.
    pub fn told_role(&self, peer: &PeerId) -> Option<&ClusterRole> {
        self.peers.get(peer)?.roles.told.as_ref()
    }

    pub fn unfinished(&self, peer: &PeerId) -> Vec<Command> {
        let mut found: Vec<(u64, &Command)> = self
            .commands(peer)
            .filter_map(|(_, known)| match known {
                Known::InFlight { command, order } => Some((*order, &**command)),
                Known::Finished { .. } => None,
            })
            .collect();
        found.sort_by_key(|(order, _)| *order);
        found.into_iter().map(|(_, command)| command.clone()).collect()
    }

    pub fn untold(&self, peer: &PeerId) -> Vec<(CommandId, Finished)> {
        self.commands(peer)
            .filter_map(|(id, known)| match known {
                Known::Finished { finished, told: false } => Some((id.clone(), finished.clone())),
                _ => None,
            })
            .collect()
    }

    pub fn placements(&self, peer: &PeerId) -> Vec<(WorkloadId, Placement)> {
        let Some(peer) = self.peers.get(peer) else { return Vec::new() };
        peer.workloads.iter().filter_map(|(id, seen)| Some((id.clone(), seen.placement.clone()?))).collect()
    }

    /// The lines of a file that holds just what is known now.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut lines = Vec::new();
        for (id, peer) in &self.peers {
            for (workload, seen) in &peer.workloads {
                Entry::Seen {
                    peer: id.clone(),
                    workload: workload.clone(),
                    epoch: seen.epoch,
                    placement: seen.placement.clone(),
                }
                .write(&mut lines);
            }
            if !peer.holds.is_empty() {
                Entry::Held { peer: id.clone(), holds: peer.holds.clone() }.write(&mut lines);
            }
        }
        for (peer, id) in &self.past {
            if let Some(Known::Finished { finished, told }) = self.command(peer, id) {
                let (peer, id, finished, told) = (peer.clone(), id.clone(), finished.clone(), *told);
                Entry::Past { peer, id, finished, told }.write(&mut lines);
            }
        }
        for (id, peer) in &self.peers {
            for command in self.unfinished(id) {
                Entry::Accept(command).write(&mut lines);
            }
            // Behind the commands: an unfinished one may be of a role that was overtaken.
            if peer.roles.told.is_some() {
                Entry::Role { peer: id.clone(), roles: peer.roles.clone() }.write(&mut lines);
            }
        }
        lines
    }

    fn finish(&mut self, peer: &PeerId, id: &CommandId, finished: Finished) -> bool {
        let entry = self.peer(peer);
        let command = match entry.commands.get(id) {
            Some(Known::InFlight { command, .. }) => command.clone(),
            Some(Known::Finished { .. }) | None => return false,
        };
        if finished.outcome == Outcome::Done {
            match (command.verb, command.workload) {
                (CommandVerb::Acquire, Some(w)) => {
                    entry.workloads.entry(w.id).or_default().placement = Some(Placement::Here { service: w.service });
                }
                (CommandVerb::Release, Some(w)) => {
                    entry.workloads.entry(w.id).or_default().placement = Some(Placement::Gone);
                }
                (CommandVerb::Cordon, _) => entry.holds = command.holds,
                (CommandVerb::Uncordon, _) => entry.holds = Vec::new(),
                (CommandVerb::Role, _) => entry.roles.finish(command.cluster),
                (CommandVerb::Acquire | CommandVerb::Release, None) | (CommandVerb::List, _) => {}
            }
        }
        entry.commands.insert(id.clone(), Known::Finished { finished, told: false });
        self.remember(peer.clone(), id.clone());
        true
    }

    fn remember(&mut self, peer: PeerId, id: CommandId) {
        self.past.push_back((peer, id));
        if self.past.len() > REMEMBERED
            && let Some((peer, id)) = self.past.pop_front()
        {
            self.peer(&peer).commands.remove(&id);
        }
    }

    fn commands(&self, peer: &PeerId) -> impl Iterator<Item = (&CommandId, &Known)> {
        self.peers.get(peer).into_iter().flat_map(|p| p.commands.iter())
    }

    fn known(&mut self, peer: &PeerId, id: &CommandId) -> Option<&mut Known> {
        self.peers.get_mut(peer)?.commands.get_mut(id)
    }

    fn peer(&mut self, id: &PeerId) -> &mut Peer {
        if !self.peers.contains_key(id) {
            self.peers.insert(id.clone(), Peer::default());
        }
        self.peers.entry(id.clone()).or_default()
    }
}

impl Roles {
    fn accept(&mut self, role: Option<&ClusterRole>) {
        let Some(role) = role else { return };
        if self.told.as_ref() != Some(role) {
            self.told = Some(role.clone());
            self.settled = false;
        }
    }

    fn finish(&mut self, role: Option<ClusterRole>) {
        if role.is_some() {
            self.settled = self.told == role;
            self.done = role;
        }
    }
}
