//! A world of one rank. It uses no sockets, and every operation is the identity.

use std::time::Instant;

use crate::{Collective, RingError};

/// The ring of a single rank.
#[derive(Debug, Default, Clone, Copy)]
pub struct SoloRing;

impl Collective for SoloRing {
    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        1
    }

    fn all_reduce_sum(&mut self, _values: &mut [f32], _deadline: Instant) -> Result<(), RingError> {
        Ok(())
    }

    fn all_gather_bytes(
        &mut self,
        bytes: &[u8],
        _deadline: Instant,
    ) -> Result<Vec<Vec<u8>>, RingError> {
        Ok(vec![bytes.to_vec()])
    }

    fn broadcast(
        &mut self,
        _values: &mut [f32],
        root: usize,
        _deadline: Instant,
    ) -> Result<(), RingError> {
        if root == 0 {
            Ok(())
        } else {
            Err(RingError::NoSuchRank {
                rank: root,
                world_size: 1,
            })
        }
    }

    fn bytes_reduced(&self) -> u64 {
        0
    }
}
