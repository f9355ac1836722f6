//! What kind of failure an error is, for whoever must decide what happens next.

use serde::{Deserialize, Serialize};

/// How the scheduler must treat a failed task. Crosses gRPC as an enum, never as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// May go away by itself: a store that answers 503, a peer that is gone. Retried with backoff.
    Transient,
    /// The input of the task is wrong and will stay so (a pipeline that asks for
    /// what is not there, a foreign model folder). Quarantined at once.
    BadInput,
    /// The data of this shard breaks the program. Quarantined at once.
    PoisonShard,
    /// This worker cannot do it (disk full, device gone); another one may. Retried elsewhere.
    WorkerFault,
    /// The run cannot go on at all.
    Fatal,
}

impl FailureKind {
    /// Whether another attempt can help.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Transient | Self::WorkerFault)
    }
}
