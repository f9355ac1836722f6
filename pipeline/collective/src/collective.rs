//! The operations that training needs from a ring.

use std::time::Instant;

use crate::RingError;

/// Operations that all ranks of a world call in the same order.
///
/// After an error the contents of the buffers are unspecified and every later call fails: discard
/// the step and form a new ring.
pub trait Collective: Send {
    /// This rank, `0..world_size`.
    fn rank(&self) -> usize;

    /// Number of ranks in the world.
    fn world_size(&self) -> usize;

    /// Sums `values` over all ranks in place. All ranks obtain the same bits.
    ///
    /// - `values`: the same length on every rank.
    /// - `deadline`: limit for the whole call, not for one hop.
    ///
    /// # Errors
    /// See [`RingError`]; `values` is then unspecified.
    fn all_reduce_sum(&mut self, values: &mut [f32], deadline: Instant) -> Result<(), RingError>;

    /// Returns the bytes of every rank in rank order. Their lengths may differ.
    ///
    /// # Errors
    /// See [`RingError`].
    fn all_gather_bytes(
        &mut self,
        bytes: &[u8],
        deadline: Instant,
    ) -> Result<Vec<Vec<u8>>, RingError>;

    /// Copies the `values` of rank `root` to every rank.
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

    /// Returns the values of every rank in rank order. Their lengths may differ.
    ///
    /// # Errors
    /// See [`RingError`].
    fn all_gather(
        &mut self,
        values: &[f32],
        deadline: Instant,
    ) -> Result<Vec<Vec<f32>>, RingError> {
        let gathered = self.all_gather_bytes(bytemuck::cast_slice(values), deadline)?;
        let mut out = Vec::with_capacity(gathered.len());
        for (rank, bytes) in gathered.iter().enumerate() {
            if bytes.len() % size_of::<f32>() != 0 {
                return Err(RingError::Protocol {
                    rank,
                    detail: "the length of a gathered block is not a multiple of 4 bytes",
                });
            }
            out.push(bytemuck::pod_collect_to_vec(bytes));
        }
        Ok(out)
    }

    /// Returns when every rank has called it.
    ///
    /// # Errors
    /// See [`RingError`].
    fn barrier(&mut self, deadline: Instant) -> Result<(), RingError> {
        self.all_gather_bytes(&[], deadline).map(drop)
    }
}
