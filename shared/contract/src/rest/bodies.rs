//! Bodies of mutations. Each has `reason` and `changeTicket`; unknown members are refused.

use std::collections::BTreeMap;

use omnirelay_workflow::drain::OnDeadline;
use omnirelay_workflow::resource::{ClusterState, Labels, PeerState};
use omnirelay_workflow::rules::GateRequest;
use omnirelay_workflow::{ClusterId, PeerId};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::Humantime;

/// A body: the verb's own members, and those that all have. What is left out is not written either, so that a digest of
/// the body does not depend on how it was spelt.
macro_rules! body {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident : $type:ty = $empty:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        pub struct $name {
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub reason: Option<String>,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub change_ticket: Option<String>,
            $($(#[$fdoc])* #[serde(default, skip_serializing_if = $empty)] pub $field: $type,)*
        }
    };
}

body!(CordonBody {
    /// A gate of the request's own: stricter than the rules, never weaker.
    gate: Option<GateRequest> = "Option::is_none",
});

body!(UncordonBody {
    /// Other people's manual holds too.
    all: bool = "std::ops::Not::not",
    gate: Option<GateRequest> = "Option::is_none",
});

body!(DrainBody {
    deadline: Option<Humantime> = "Option::is_none",
    on_deadline: Option<OnDeadline> = "Option::is_none",
    /// Moves in flight at once.
    max_concurrent: Option<u32> = "Option::is_none",
    keep_moved: bool = "std::ops::Not::not",
    gate: Option<GateRequest> = "Option::is_none",
    /// The token of a plan.
    confirmation: Option<String> = "Option::is_none",
});

body!(
    /// Of many peers: those that match `selector`, or those named.
    BulkDrainBody {
        selector: Option<String> = "Option::is_none",
        peers: Option<Vec<PeerId>> = "Option::is_none",
        /// Peers at once.
        max_concurrent: Option<u32> = "Option::is_none",
        /// So many peers first.
        canary: Option<u32> = "Option::is_none",
        /// How long to wait after the canary.
        soak: Option<Humantime> = "Option::is_none",
        /// More failures than this stop it.
        max_failures: Option<u32> = "Option::is_none",
        /// Of each peer's drain.
        deadline: Option<Humantime> = "Option::is_none",
        on_deadline: Option<OnDeadline> = "Option::is_none",
        /// Moves in flight at once, of each peer's drain.
        max_concurrent_moves: Option<u32> = "Option::is_none",
        keep_moved: bool = "std::ops::Not::not",
        gate: Option<GateRequest> = "Option::is_none",
        confirmation: Option<String> = "Option::is_none",
    }
);

/// A merge patch (RFC 7396) of a peer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PatchPeerBody {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_ticket: Option<String>,
    /// Null removes all of them, null of one that one.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub labels: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub metadata: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<GateRequest>,
}

body!(
    /// A peer as it is to be. What is left out is empty, except what agents tell (`name`, `address`, `capacity`): that stays.
    PutPeerBody {
        name: Option<String> = "Option::is_none",
        cluster: Option<ClusterId> = "Option::is_none",
        role: Option<String> = "Option::is_none",
        address: Option<String> = "Option::is_none",
        labels: Labels = "BTreeMap::is_empty",
        metadata: Option<Value> = "Option::is_none",
        capacity: Option<u32> = "Option::is_none",
        /// Only at its creation: `active` or `cordoned`.
        state: Option<PeerState> = "Option::is_none",
        gate: Option<GateRequest> = "Option::is_none",
    }
);

body!(
    /// A cluster as it is to be.
    PutClusterBody {
        region: Option<String> = "Option::is_none",
        priority: Option<i32> = "Option::is_none",
        /// Only at its creation: `active` or `passive`.
        state: Option<ClusterState> = "Option::is_none",
        /// A number, or a percentage as text.
        max_unavailable: Option<Value> = "Option::is_none",
        labels: Labels = "BTreeMap::is_empty",
        gate: Option<GateRequest> = "Option::is_none",
    }
);

body!(PromoteBody {
    /// Clusters that become passive in the same step.
    demote: Vec<ClusterId> = "Vec::is_empty",
    /// Goes on in spite of too few healthy peers, lag, or peers that do not answer. It is recorded.
    force: bool = "std::ops::Not::not",
    gate: Option<GateRequest> = "Option::is_none",
    confirmation: Option<String> = "Option::is_none",
});

body!(DemoteBody {
    force: bool = "std::ops::Not::not",
    gate: Option<GateRequest> = "Option::is_none",
    confirmation: Option<String> = "Option::is_none",
});

body!(PatchConfigBody {
    /// A merge patch (RFC 7396) of the settings.
    settings: Option<Value> = "Option::is_none",
    gate: Option<GateRequest> = "Option::is_none",
    confirmation: Option<String> = "Option::is_none",
});

body!(RollbackConfigBody {
    /// The settings of this revision become the newest.
    revision: Option<u64> = "Option::is_none",
    gate: Option<GateRequest> = "Option::is_none",
    confirmation: Option<String> = "Option::is_none",
});

body!(CancelBody { keep_moved: Option<bool> = "Option::is_none" });

body!(
    /// Of pause, resume and resolve.
    ControlBody {}
);

body!(
    /// Of approve and reject.
    DecideBody {
        /// Of what was looked at: the operation's `approval.digest`.
        digest: Option<String> = "Option::is_none",
        comment: Option<String> = "Option::is_none",
    }
);

/// A member that is there, null included.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}
