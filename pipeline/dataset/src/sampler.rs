//! The order of samples: a pure function of (samples, seed, step), independent of the world size.
//!
//! Each data epoch permutes the shards and groups them into windows. Within a window samples are
//! sorted by hash(seed, data_epoch, text_id). Groups of `length_bucket` batches are sorted by length
//! and cut into batches, and the batches of a window are shuffled, so that texts of a batch have
//! similar lengths and the order is otherwise random. Epochs form one endless stream that is cut
//! every `global_batch` samples: the remainder of an epoch begins the first batch of the next.
//!
//! ```text
//! epoch 0: [ batch ][ batch ][ batch ][ rest| epoch 1: head ][ batch ] ...
//! ```

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use capstan_plan::draw::Draws;
use capstan_plan::id::TextId;

use crate::error::{Error, Result};

/// Samples at which a window is closed; bounds the samples that a reader buffers.
const WINDOW_SAMPLES: usize = 65_536;

/// The properties of a sample that its position depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleKey {
    /// The text.
    pub text_id: TextId,
    /// Tokens of the text.
    pub length: u32,
    /// Ordinal of the shard.
    pub shard: u32,
}

/// A global batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Pass over the samples to which its first sample belongs, from 0.
    pub data_epoch: u64,
    /// `global_batch` indices into the samples.
    pub samples: Vec<usize>,
}

/// Computes the batch of any step.
#[derive(Debug)]
pub struct Sampler {
    keys: Vec<SampleKey>,
    global_batch: usize,
    length_bucket: usize,
    window_samples: usize,
    seed: u64,
    /// Orders of the two data epochs requested last.
    orders: Mutex<BTreeMap<u64, Arc<Vec<u32>>>>,
}

impl Sampler {
    /// - `global_batch`: samples of a step, over all ranks.
    /// - `length_bucket`: batches that are sorted by length together; 1 disables sorting.
    ///
    /// # Errors
    /// [`Error::Sampler`] without samples, or for a size of 0.
    pub fn new(
        keys: Vec<SampleKey>,
        global_batch: usize,
        length_bucket: usize,
        seed: u64,
    ) -> Result<Self> {
        let fail = |reason| Err(Error::Sampler { reason });
        if keys.is_empty() {
            return fail("there are no samples; no text of the data is used");
        }
        if global_batch == 0 || length_bucket == 0 {
            return fail("`global_batch` and `length_bucket` must be at least 1");
        }
        if u32::try_from(keys.len()).is_err() {
            return fail("there are more than 4,294,967,295 samples");
        }
        Ok(Self {
            keys,
            global_batch,
            length_bucket,
            window_samples: WINDOW_SAMPLES,
            seed,
            orders: Mutex::new(BTreeMap::new()),
        })
    }

    /// Closes windows at this many samples. Smaller windows need less memory and shuffle less.
    pub fn with_window(mut self, samples: usize) -> Self {
        self.window_samples = samples.max(1);
        self
    }

    /// Samples of a data epoch.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Always false: [`Sampler::new`] refuses an empty list.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The batch of a step, from 0. Cheap for consecutive steps: the orders of two data epochs are
    /// cached.
    pub fn batch(&self, step: u64) -> Batch {
        let first = step * self.global_batch as u64;
        let len = self.keys.len() as u64;
        let mut samples = Vec::with_capacity(self.global_batch);
        let mut at = first;
        while samples.len() < self.global_batch {
            let order = self.order(at / len);
            let within = (at % len) as usize;
            let missing = self.global_batch - samples.len();
            let taken = &order[within..(within + missing).min(order.len())];
            samples.extend(taken.iter().map(|sample| *sample as usize));
            at += taken.len() as u64;
        }
        Batch {
            data_epoch: first / len,
            samples,
        }
    }

    /// The samples of a data epoch in their order.
    fn order(&self, data_epoch: u64) -> Arc<Vec<u32>> {
        // Orders are inserted complete, so a panic elsewhere leaves the map consistent.
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(order) = orders.get(&data_epoch) {
            return order.clone();
        }
        let order = Arc::new(self.draw(data_epoch));
        orders.insert(data_epoch, order.clone());
        while orders.len() > 2 {
            // Keep the nearest epochs: steps are consecutive, or start from a distant step.
            let far = *orders
                .keys()
                .max_by_key(|kept| kept.abs_diff(data_epoch))
                .expect("there are three");
            orders.remove(&far);
        }
        order
    }

    fn draw(&self, data_epoch: u64) -> Vec<u32> {
        let windows = self.windows(data_epoch);
        let mut order: Vec<u32> = windows.iter().flatten().copied().collect();
        // The samples that complete the last batch of the previous epoch.
        let len = order.len() as u64;
        let over = (data_epoch * len) % self.global_batch as u64;
        let head = (self.global_batch as u64 - over) % self.global_batch as u64;
        let head = head.min(len) as usize;
        if self.length_bucket == 1 {
            return order;
        }
        let body = &mut order[head..];
        for group in body.chunks_mut(self.length_bucket * self.global_batch) {
            group.sort_by_key(|sample| self.keys[*sample as usize].length);
        }
        let mut end = 0;
        let ends = windows.iter().map(|window| {
            end += window.len();
            end.saturating_sub(head)
        });
        let body = self.shuffle_batches(body, ends.collect(), data_epoch);
        order.truncate(head);
        order.extend(body);
        order
    }

    /// Samples by window, by hash within it.
    fn windows(&self, data_epoch: u64) -> Vec<Vec<u32>> {
        let mut by_shard: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (sample, key) in (0u32..).zip(&self.keys) {
            by_shard.entry(key.shard).or_default().push(sample);
        }
        let mut shards: Vec<Vec<u32>> = by_shard.into_values().collect();
        let permutation = Draws::new(self.seed, "sampler-shards")
            .permutation(&data_epoch.to_le_bytes(), shards.len());
        let mut windows = vec![Vec::new()];
        for shard in permutation {
            let last = windows.last_mut().expect("there is one from the start");
            last.append(&mut shards[shard]);
            if last.len() >= self.window_samples {
                windows.push(Vec::new());
            }
        }
        let draws = Draws::new(self.seed, "sampler-samples");
        for window in &mut windows {
            // A text in two versions has one hash: the index breaks the tie.
            window.sort_by_cached_key(|sample| {
                let text = self.keys[*sample as usize].text_id;
                (draws.u64(&text.0.0, data_epoch), *sample)
            });
        }
        windows
    }

    /// Shuffles the complete batches of every window; an incomplete batch stays at the end.
    /// A batch belongs to the window of its first sample.
    fn shuffle_batches(&self, body: &[u32], ends: Vec<usize>, data_epoch: u64) -> Vec<u32> {
        let batches: Vec<&[u32]> = body.chunks_exact(self.global_batch).collect();
        let rest = body.chunks_exact(self.global_batch).remainder();
        let draws = Draws::new(self.seed, "sampler-batches");
        let mut shuffled = Vec::with_capacity(body.len());
        let mut first = 0;
        for (window, end) in ends.into_iter().enumerate() {
            let last = end.div_ceil(self.global_batch).min(batches.len());
            let of_window = &batches[first.min(last)..last];
            let item = [data_epoch.to_le_bytes(), (window as u64).to_le_bytes()].concat();
            for batch in draws.permutation(&item, of_window.len()) {
                shuffled.extend_from_slice(of_window[batch]);
            }
            first = last.max(first);
        }
        shuffled.extend_from_slice(rest);
        shuffled
    }
}

/// The contiguous slice of a global batch of this rank. The slices partition the batch; their
/// lengths differ by at most one.
pub fn rank_slice(global_batch: usize, rank: usize, world_size: usize) -> Range<usize> {
    global_batch * rank / world_size..global_batch * (rank + 1) / world_size
}

#[cfg(test)]
mod tests;
