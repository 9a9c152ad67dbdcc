//! What a peer tells of itself: the driver's lines, the journal's epochs and the configuration put together.

use std::collections::BTreeMap;

use omnirelay_contract::agent::{AgentHealth, Heartbeat, ObservedWorkload, PeerDescription};
use omnirelay_workflow::resource::Handover;
use omnirelay_workflow::{ClusterId, PeerId};
use uuid::Uuid;

use crate::driver::Line;
use crate::journal::Journal;

/// What the agent's configuration says of a service, since no driver knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceProfile {
    pub handover: Handover,
    pub load: u32,
    pub restorable: bool,
    pub labels: BTreeMap<String, String>,
}

impl Default for ServiceProfile {
    fn default() -> Self {
        Self { handover: Handover::StartFirst, load: 1, restorable: true, labels: BTreeMap::new() }
    }
}

/// Who a peer is.
#[derive(Debug, Clone)]
pub struct Observer {
    peer: PeerId,
    incarnation: Uuid,
    describe: PeerDescription,
    services: BTreeMap<String, ServiceProfile>,
    /// Of services that the configuration does not name.
    unknown: ServiceProfile,
}

impl Observer {
    /// `incarnation` is chosen anew at every start of the agent.
    pub fn new(
        peer: PeerId,
        incarnation: Uuid,
        describe: PeerDescription,
        services: BTreeMap<String, ServiceProfile>,
        unknown: ServiceProfile,
    ) -> Self {
        Self { peer, incarnation, describe, services, unknown }
    }

    pub fn peer(&self) -> &PeerId {
        &self.peer
    }

    pub fn cluster(&self) -> &ClusterId {
        &self.describe.cluster
    }

    /// The driver's lines as the control plane sees them.
    pub fn observed(&self, lines: &[Line], journal: &Journal) -> Vec<ObservedWorkload> {
        let epochs = journal.epochs(&self.peer, lines.iter().map(|line| &line.id));
        lines
            .iter()
            .zip(epochs)
            .map(|(line, epoch)| {
                let profile = self.services.get(&line.service).unwrap_or(&self.unknown);
                ObservedWorkload {
                    id: line.id.clone(),
                    service: line.service.clone(),
                    epoch,
                    ready: line.ready,
                    remaining: line.remaining,
                    unit: line.unit.clone(),
                    load: profile.load,
                    handover: profile.handover,
                    restorable: profile.restorable,
                    labels: profile.labels.clone(),
                }
            })
            .collect()
    }

    pub fn heartbeat(
        &self,
        seq: u64,
        health: AgentHealth,
        lines: &[Line],
        lag_ms: Option<u64>,
        journal: &Journal,
    ) -> Heartbeat {
        Heartbeat {
            peer: self.peer.clone(),
            incarnation: self.incarnation,
            seq,
            health,
            holds: journal.holds(&self.peer),
            workloads: self.observed(lines, journal),
            lag_ms,
            cluster: journal.roles(&self.peer).done,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            describe: self.describe.clone(),
        }
    }
}
