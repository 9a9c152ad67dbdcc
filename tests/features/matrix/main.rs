//! One table, two doors: who may do what and what each verb answers is the same through REST and through gRPC, and what was
//! refused has changed nothing but the record of the refusal.
//!
//! `scopes` is the matrix of scope and verb, `walk` goes through every verb in a cluster of its own (`verbs` says what it tries),
//! `at_once` lets several people want the same thing at the same time, at both doors.

mod at_once;
mod scopes;
mod verbs;
mod walk;

use omnirelay_tests::{Stack, StackOptions};
use tokio::sync::{Mutex, OnceCell};

/// One stack for all of it; each test has clusters of its own.
async fn stack() -> &'static Stack {
    static STACK: OnceCell<Stack> = OnceCell::const_new();
    let start = async || {
        let stack = Stack::start(StackOptions { clusters: 8, workloads: 2, ..StackOptions::default() }).await;
        // The one that is active stays as it is, but for those who hold MESH_WIDE.
        assert_eq!(stack.mesh().cluster, "cluster-1");
        stack
    };
    STACK.get_or_init(start).await
}

/// Held by whoever changes, or compares, what belongs to the whole mesh: settings, and which clusters are active.
static MESH_WIDE: Mutex<()> = Mutex::const_new(());

/// An operation that nobody has ever asked for.
const NO_OPERATION: &str = "0193d1f0-0000-7000-8000-000000000009";
