//! The order of samples.
use crate::error::Result;
use capstan_plan::id::TextId;
use std::ops::Range;

/// What the order depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleKey {
    /// The text.
    pub text_id: TextId,
    /// Tokens of the text.
    pub length: u32,
    /// Ordinal of the shard.
    pub shard: u32,
}
/// A batch of the endless stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Pass over the samples to which its first sample belongs, from 0.
    pub data_epoch: u64,
    /// `global_batch` indices into the samples.
    pub samples: Vec<usize>,
}
/// A pure function of (samples, seed, step).
#[derive(Debug)]
pub struct Sampler {}
impl Sampler {
    /// `length_bucket`: batches that are sorted by length together; 1 sorts nothing.
    pub fn new(
        _keys: Vec<SampleKey>,
        _global_batch: usize,
        _length_bucket: usize,
        _seed: u64,
    ) -> Result<Self> {
        todo!()
    }
    /// The batch of a step, from 0. Cheapest for steps in order.
    pub fn batch(&self, _step: u64) -> Batch {
        todo!()
    }
}
/// The contiguous slice of a global batch that is this rank's.
pub fn rank_slice(global_batch: usize, rank: usize, world_size: usize) -> Range<usize> {
    global_batch * rank / world_size..global_batch * (rank + 1) / world_size
}
