//! The plan of a ring, which a rank receives from the coordinator.

use std::fmt;
use std::net::SocketAddr;

use crate::RingError;

/// The epoch of a ring: (generation of the coordinator, counter). Epochs are ordered and never
/// reused; an older one is stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RingEpoch {
    /// The coordinator's generation.
    pub generation: u64,
    /// The counter within the generation.
    pub counter: u64,
}

impl fmt::Display for RingEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation, self.counter)
    }
}

/// The key that the members of a ring share. `Debug` does not print it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The coordinator's answer to a rank that joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingPlan {
    /// The run and stage that the ring trains for. Ranks of another run are refused.
    pub run: String,
    /// The epoch of the ring.
    pub ring_epoch: RingEpoch,
    /// This rank, `0..world_size`.
    pub rank: usize,
    /// Number of ranks in the ring.
    pub world_size: usize,
    /// The address of each rank's listener, in rank order; unused in a world of one.
    pub peers: Vec<SocketAddr>,
    /// The key that every member proves to know.
    pub secret: Secret,
}

impl RingPlan {
    /// The rank that this one sends to.
    pub fn next(&self) -> usize {
        (self.rank + 1) % self.world_size
    }

    /// The rank that this one receives from.
    pub fn previous(&self) -> usize {
        (self.rank + self.world_size - 1) % self.world_size
    }

    /// Checks that the fields of the plan agree.
    pub(crate) fn check(&self) -> Result<(), RingError> {
        if self.rank >= self.world_size {
            return Err(RingError::NoSuchRank {
                rank: self.rank,
                world_size: self.world_size,
            });
        }
        if self.world_size > 1 && self.peers.len() != self.world_size {
            return Err(RingError::Peers {
                peers: self.peers.len(),
                world_size: self.world_size,
            });
        }
        Ok(())
    }
}
