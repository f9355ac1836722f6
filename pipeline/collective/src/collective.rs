//! What training asks of a ring.

use std::time::Instant;

use crate::RingError;

/// Operations that all ranks of a world call together, in the same order.
///
/// After an error the contents of the buffers are unspecified and every later call fails:
/// discard the step and form a new ring.
pub trait Collective: Send {
    /// This rank, `0..world_size`.
    fn rank(&self) -> usize;

    /// Ranks in the world.
    fn world_size(&self) -> usize;

    /// Sums `values` over every rank, in place; all ranks obtain the same bits.
    ///
    /// - `values`: the same length on every rank.
    /// - `deadline`: limit for the whole call, not for one hop.
    ///
    /// # Errors
    /// See [`RingError`]; `values` is unspecified then.
    fn all_reduce_sum(&mut self, values: &mut [f32], deadline: Instant) -> Result<(), RingError>;

    /// Every rank's bytes, in rank order; lengths may differ.
    ///
    /// # Errors
    /// See [`RingError`].
    fn all_gather_bytes(
        &mut self,
        bytes: &[u8],
        deadline: Instant,
    ) -> Result<Vec<Vec<u8>>, RingError>;

    /// Copies `values` of rank `root` to every rank.
    ///
    /// - `values`: the same length on every rank.
    ///
    /// # Errors
    /// See [`RingError`].
    fn broadcast(
        &mut self,
        values: &mut [f32],
        root: usize,
        deadline: Instant,
    ) -> Result<(), RingError>;

    /// Payload bytes that this rank has sent for reductions, gathers and broadcasts.
    fn bytes_reduced(&self) -> u64;

    /// Every rank's values, in rank order; lengths may differ.
    ///
    /// # Errors
    /// See [`RingError`].
    fn all_gather(
        &mut self,
        values: &[f32],
        deadline: Instant,
    ) -> Result<Vec<Vec<f32>>, RingError> {
        let mut bytes = Vec::with_capacity(size_of_val(values));
        encode(values, &mut bytes);
        let gathered = self.all_gather_bytes(&bytes, deadline)?;
        let mut out = Vec::with_capacity(gathered.len());
        for (rank, bytes) in gathered.iter().enumerate() {
            if bytes.len() % size_of::<f32>() != 0 {
                return Err(RingError::Protocol {
                    rank,
                    detail: "a gathered block is no whole number of f32",
                });
            }
            out.push(bytes.chunks_exact(4).map(f32_of).collect());
        }
        Ok(out)
    }

    /// Returns once every rank has called it.
    ///
    /// # Errors
    /// See [`RingError`].
    fn barrier(&mut self, deadline: Instant) -> Result<(), RingError> {
        self.all_gather_bytes(&[], deadline).map(drop)
    }
}

/// Appends `values` as little-endian bytes.
pub(crate) fn encode(values: &[f32], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + size_of_val(values), 0);
    for (bytes, value) in out[start..].chunks_exact_mut(4).zip(values) {
        bytes.copy_from_slice(&value.to_le_bytes());
    }
}

/// Reads one value of four little-endian bytes.
pub(crate) fn f32_of(bytes: &[u8]) -> f32 {
    f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
