//! Why a mutation is refused. Every variant names what stands in the way, so that the answer can say what to do.

use crate::operation::State;
use crate::{OperationId, PeerId};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("peer {peer} is held only by others ({}): ask them, or repeat with \"all\": true to remove their manual holds too", owners.join(", "))]
    PeerHeld { peer: PeerId, owners: Vec<String> },
    #[error(
        "{resource} is in operation {operation}: follow it with `omnirelay ops attach {operation}`, or cancel it first"
    )]
    OperationInProgress { resource: String, operation: OperationId },
    #[error("operation {operation} is already {state}: it can no longer be cancelled")]
    TooLate { operation: OperationId, state: State },
    #[error("operation {operation} is {state}, which does not allow this")]
    InvalidState { operation: OperationId, state: State },
}
