//! What can go wrong between ranks.

use std::io;

use crate::RingEpoch;

/// Why a ring could not be formed, or why an operation failed. After a failed operation the ring
/// is broken: discard the step and form a new one.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// A neighbour closed its connection or its host is gone. A rank that gives up closes its own
    /// connections too, so the rank that was lost first may stand further along the ring.
    #[error("rank {rank} is lost")]
    PeerLost {
        /// The neighbour.
        rank: usize,
        /// What the socket said, where it said anything.
        #[source]
        source: Option<io::Error>,
    },
    /// The deadline of the whole call passed.
    #[error("{operation}: deadline passed while waiting for rank {rank}")]
    Deadline {
        /// The operation.
        operation: &'static str,
        /// The neighbour that was waited for.
        rank: usize,
    },
    /// No neighbour proved itself before the deadline.
    #[error("rank {rank} did not join in time ({refused} connections were refused)")]
    NotJoined {
        /// The rank that was waited for.
        rank: usize,
        /// Connections that could not prove to be that rank.
        refused: usize,
        /// Why the last of them was refused.
        #[source]
        last: Option<Box<RingError>>,
    },
    /// Joining was given up from outside.
    #[error("joining was given up while waiting for rank {rank}")]
    GivenUp {
        /// The rank that was waited for.
        rank: usize,
    },
    /// A newer ring exists: this rank must ask for a new plan.
    #[error("ring epoch {mine} is stale: rank {rank} is in {theirs}")]
    StaleEpoch {
        /// Who knows of the newer ring.
        rank: usize,
        /// This rank's epoch.
        mine: RingEpoch,
        /// The newer one.
        theirs: RingEpoch,
    },
    /// The other side belongs to an older ring.
    #[error("rank {rank} is in the stale ring epoch {theirs}, not in {mine}")]
    StalePeer {
        /// The stale rank.
        rank: usize,
        /// This rank's epoch.
        mine: RingEpoch,
        /// The older one.
        theirs: RingEpoch,
    },
    /// The other side trains for another run.
    #[error("rank {rank} belongs to another run than `{run}`")]
    ForeignRun {
        /// The rank that it claims to be.
        rank: usize,
        /// This rank's run.
        run: String,
    },
    /// The other side would begin at another step.
    #[error("rank {rank} is at step {theirs}, this rank at {mine}")]
    WrongStep {
        /// The other rank.
        rank: usize,
        /// The step that this rank would do next.
        mine: u64,
        /// Its own.
        theirs: u64,
    },
    /// The other side is not the neighbour that the plan names.
    #[error("rank {expected} of {world_size} was expected, rank {rank} of {peer_world_size} came")]
    WrongRank {
        /// The neighbour by this rank's plan.
        expected: usize,
        /// This rank's world size.
        world_size: usize,
        /// Who came.
        rank: usize,
        /// The world size that it was told.
        peer_world_size: usize,
    },
    /// The other side does not know the ring's secret.
    #[error("rank {rank} could not prove the ring's secret")]
    Unauthenticated {
        /// The rank that it claims to be.
        rank: usize,
    },
    /// TLS failed: one side does not trust the other's certificate, or it is of another role.
    #[error("rank {rank} and this rank do not trust one another")]
    Untrusted {
        /// The other rank.
        rank: usize,
        /// What TLS says: a `rustls::Error` in an I/O error.
        #[source]
        source: io::Error,
    },
    /// The other side does not speak this protocol, or is at another operation.
    #[error("rank {rank} broke the protocol: {detail}")]
    Protocol {
        /// The other rank.
        rank: usize,
        /// What it did.
        detail: &'static str,
    },
    /// An earlier operation failed.
    #[error("the ring is broken since an earlier operation failed: form a new one")]
    Broken,
    /// A rank outside the world.
    #[error("there is no rank {rank} in a world of {world_size}")]
    NoSuchRank {
        /// The rank.
        rank: usize,
        /// Ranks in the world.
        world_size: usize,
    },
    /// A plan with too few or too many addresses.
    #[error("the plan names {peers} addresses for a world of {world_size}")]
    Peers {
        /// Addresses in the plan.
        peers: usize,
        /// Ranks in the world.
        world_size: usize,
    },
    /// A block longer than a gather may carry.
    #[error("rank {rank} would gather {bytes} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Who would send it.
        rank: usize,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A socket or thread could not be set up.
    #[error("cannot set up the ring: {doing}")]
    Setup {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl RingError {
    /// Whether a new ring may succeed where this one failed: everything but a wrong plan.
    pub fn is_transient(&self) -> bool {
        !matches!(
            self,
            Self::ForeignRun { .. }
                | Self::Untrusted { .. }
                | Self::NoSuchRank { .. }
                | Self::Peers { .. }
                | Self::TooLarge { .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn no_variant_prints_its_source() {
        let io = || io::Error::other("connection reset");
        let errors = [
            RingError::PeerLost {
                rank: 1,
                source: Some(io()),
            },
            RingError::NotJoined {
                rank: 1,
                refused: 1,
                last: Some(Box::new(RingError::Unauthenticated { rank: 1 })),
            },
            RingError::Untrusted {
                rank: 1,
                source: io(),
            },
            RingError::Setup {
                doing: "bind",
                source: io(),
            },
        ];
        for error in errors {
            let source = error
                .source()
                .expect("the variant has a source")
                .to_string();
            assert!(!error.to_string().contains(&source), "{error}");
        }
    }
}
