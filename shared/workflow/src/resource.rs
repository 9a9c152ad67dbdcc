//! What the registry holds: peers with their holds, and the workloads that run on them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{HoldId, OperationId, PeerId, Timestamp, WorkloadId};

pub type Labels = BTreeMap<String, String>;

/// Enums that are one word in JSON, in a column and in a table of the CLI.
#[macro_export]
macro_rules! word_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $word)] $variant),+
        }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::resource::UnknownWord;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($word => Ok($name::$variant),)+
                    other => Err($crate::resource::UnknownWord {
                        text: other.chars().take(40).collect(),
                        known: concat!($($word, " "),+),
                    }),
                }
            }
        }
    };
}
pub use crate::word_enum;

/// A word that is none of an enum's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is none of: {}", known.trim_end())]
pub struct UnknownWord {
    pub text: String,
    pub known: &'static str,
}

word_enum!(
    /// How a peer looks from here. Observed, so it never changes a revision.
    Health { Healthy = "healthy", Suspect = "suspect", Unreachable = "unreachable" }
);
word_enum!(
    /// What a peer is doing, derived from its holds and its drain.
    PeerState { Active = "active", Cordoned = "cordoned", Draining = "draining", Drained = "drained" }
);
word_enum!(
    /// What the last drain left on its peer. Stored; [`PeerState`] is derived from it.
    DrainMark { None = "none", Draining = "draining", Drained = "drained" }
);
word_enum!(
    HoldKind { Manual = "manual", Drain = "drain" }
);
word_enum!(
    /// How a workload changes hands.
    Handover {
        /// Acquire there, ready, release here: stateless services.
        StartFirst = "start-first",
        /// Release here, then acquire there: whatever must never run twice.
        StopFirst = "stop-first",
        /// Release here; no target of ours.
        ReleaseOnly = "release-only",
    }
);
word_enum!(
    WorkloadState { Running = "running", Moving = "moving" }
);
word_enum!(
    ClusterState { Active = "active", Passive = "passive", Promoting = "promoting", Demoting = "demoting" }
);
word_enum!(
    /// What a cluster's agents are told about it, under its failover version, and hand to their drivers.
    Role {
        /// Before a cutover: take nothing on, until the version says who is active.
        Fenced = "fenced",
        Active = "active",
        Passive = "passive",
    }
);

/// A reason not to schedule on a peer. The peer is schedulable only while nobody holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    pub id: HoldId,
    pub kind: HoldKind,
    /// The subject of the actor who asked for it.
    pub owner: String,
    /// The operation that made it.
    pub operation: Option<OperationId>,
    pub reason: Option<String>,
    pub change_ticket: Option<String>,
    pub since: Timestamp,
}

/// The state that a peer's holds and drain amount to.
pub fn peer_state(mark: DrainMark, holds: &[Hold]) -> PeerState {
    match mark {
        DrainMark::Draining => PeerState::Draining,
        DrainMark::Drained => PeerState::Drained,
        DrainMark::None if holds.is_empty() => PeerState::Active,
        DrainMark::None => PeerState::Cordoned,
    }
}

/// The registry's record of a workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    pub id: WorkloadId,
    pub service: String,
    /// Its owner. A workload in the record always has one.
    pub peer: PeerId,
    /// In the unit of the peers' `capacity`.
    pub load: u32,
    #[serde(default)]
    pub labels: Labels,
    pub handover: Handover,
    /// Whether a release can be taken back.
    pub restorable: bool,
    pub ready: bool,
    /// What is left to finish before it can be released, in the driver's unit (sessions, requests), if it says.
    pub remaining: Option<u64>,
    /// What the driver calls it (`checkout@5`), for people.
    pub unit: Option<String>,
    /// Grows with every attempt to acquire it, wherever.
    pub epoch: u64,
    pub state: WorkloadState,
    /// The operation that moves it, while `state` is `moving`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
}
