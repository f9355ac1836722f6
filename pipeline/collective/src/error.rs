//! Errors of a ring.

use std::io;

use crate::RingEpoch;

/// Why a ring could not be formed, or why an operation failed. After a failed operation the ring
/// is broken: discard the step and form a new one.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// A neighbour closed its connection, or its host is unreachable. A rank that fails closes its
    /// own connections too, so that the first lost rank may be further along the ring.
    #[error("rank {rank} is lost")]
    PeerLost {
        /// The neighbour.
        rank: usize,
        /// The error of the socket; `None` if the connection was closed.
        #[source]
        source: Option<io::Error>,
    },
    /// The deadline of the whole call passed.
    #[error("{operation}: deadline passed while waiting for rank {rank}")]
    Deadline {
        /// The operation.
        operation: &'static str,
        /// The neighbour that this rank waited for.
        rank: usize,
    },
    /// No connection proved to be the neighbour before the deadline.
    #[error("rank {rank} did not join in time ({refused} connections were refused)")]
    NotJoined {
        /// The rank that this rank waited for.
        rank: usize,
        /// Connections that were refused.
        refused: usize,
        /// Why the last of them was refused.
        #[source]
        last: Option<Box<RingError>>,
    },
    /// Another thread stopped the joining.
    #[error("joining was stopped while waiting for rank {rank}")]
    GivenUp {
        /// The rank that this rank waited for.
        rank: usize,
    },
    /// A newer ring exists. This rank must request a new plan.
    #[error("ring epoch {mine} is stale: rank {rank} is in {theirs}")]
    StaleEpoch {
        /// The rank that is in the newer ring.
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
    #[error("rank {rank} belongs to another run, not to `{run}`")]
    ForeignRun {
        /// The rank that it claims to be.
        rank: usize,
        /// This rank's run.
        run: String,
    },
    /// The other side would start at another step.
    #[error("rank {rank} is at step {theirs}, this rank is at step {mine}")]
    WrongStep {
        /// The other rank.
        rank: usize,
        /// The next step of this rank.
        mine: u64,
        /// The next step of the other rank.
        theirs: u64,
    },
    /// The other side is not the neighbour that the plan names.
    #[error("expected rank {expected} of {world_size}, found rank {rank} of {peer_world_size}")]
    WrongRank {
        /// The neighbour by this rank's plan.
        expected: usize,
        /// This rank's world size.
        world_size: usize,
        /// The rank of the other side.
        rank: usize,
        /// The world size by the other side's plan.
        peer_world_size: usize,
    },
    /// The other side does not know the ring's secret.
    #[error("rank {rank} did not prove that it knows the ring's secret")]
    Unauthenticated {
        /// The rank that it claims to be.
        rank: usize,
    },
    /// TLS failed: one side does not trust the other's certificate, or it is of another role.
    #[error("TLS with rank {rank} failed")]
    Untrusted {
        /// The other rank.
        rank: usize,
        /// A `rustls::Error` in an I/O error.
        #[source]
        source: io::Error,
    },
    /// The other side uses another protocol or is in another operation.
    #[error("rank {rank} violated the protocol: {detail}")]
    Protocol {
        /// The other rank.
        rank: usize,
        /// The violation.
        detail: &'static str,
    },
    /// An earlier operation failed.
    #[error("an earlier operation of the ring failed: form a new ring")]
    Broken,
    /// A rank outside the world.
    #[error("there is no rank {rank} in a world of {world_size}")]
    NoSuchRank {
        /// The rank.
        rank: usize,
        /// Number of ranks in the world.
        world_size: usize,
    },
    /// A plan with too few or too many addresses.
    #[error("the plan names {peers} addresses for a world of {world_size}")]
    Peers {
        /// Addresses in the plan.
        peers: usize,
        /// Number of ranks in the world.
        world_size: usize,
    },
    /// A block longer than a gather may carry.
    #[error("the block of rank {rank} has {bytes} bytes, over the limit of {limit}")]
    TooLarge {
        /// The rank that would send it.
        rank: usize,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A socket or thread could not be set up.
    #[error("cannot set up the ring: {doing}")]
    Setup {
        /// The step that failed.
        doing: &'static str,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
}

impl RingError {
    /// Whether a new ring may succeed. It cannot after an error in the plan or in a certificate.
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
