//! The order of samples: a pure function of (samples, seed, step), independent of the world size.
//!
//! Each data epoch assigns every shard to a window by hash(seed, data_epoch, shard). Within a window
//! samples are sorted by hash(seed, data_epoch, text_id); groups of `length_bucket` batches are
//! sorted by length and cut into batches, and the batches of the window are shuffled, so that texts
//! of a batch have similar lengths and the order is otherwise random. The last batch of a window is
//! filled with samples of the same window that come a second time.
//!
//! ```text
//! epoch 0: window 0: [ batch ][ batch ][ rest + first ]  window 1: [ batch ] ...   epoch 1: ...
//! ```
//! So the composition of a batch depends on the samples of its window alone: removing a pair changes
//! no batch of another window, though later steps may shift.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use capstan_plan::draw::Draws;
use capstan_plan::id::TextId;

use crate::error::{Error, Result};

/// Rows of base files that a window is meant to have; bounds what a reader buffers.
const WINDOW_ROWS: u64 = 65_536;

/// Windows whose batches are kept.
const KEPT_WINDOWS: usize = 2;

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
    /// Pass over the samples that it belongs to, from 0.
    pub data_epoch: u64,
    /// Window of the pass that its samples are of.
    pub window: usize,
    /// `global_batch` indices into the samples.
    pub samples: Vec<usize>,
}

/// Computes the batch of any step.
#[derive(Debug)]
pub struct Sampler {
    keys: Vec<SampleKey>,
    /// Samples of each shard that has any.
    shards: BTreeMap<u32, Vec<usize>>,
    global_batch: usize,
    length_bucket: usize,
    windows: u64,
    seed: u64,
    kept: Mutex<Kept>,
}

/// The batches of a window in their order, as indices into the samples.
type Batches = Arc<Vec<Vec<usize>>>;

/// What consecutive steps need again.
#[derive(Debug, Default)]
struct Kept {
    /// First step of each data epoch so far, and of the next one.
    first_steps: Vec<u64>,
    /// The epoch requested last.
    epoch: Option<Arc<Epoch>>,
    /// Batches of the windows requested last, the newest last.
    windows: Vec<((u64, usize), Batches)>,
}

/// A data epoch: windows that have samples.
#[derive(Debug)]
struct Epoch {
    number: u64,
    windows: Vec<Window>,
}

#[derive(Debug)]
struct Window {
    shards: Vec<u32>,
    /// Batches of the epoch before this window.
    first: u64,
    batches: u64,
}

impl Sampler {
    /// - `rows`: rows of all base files, which no filter changes: they decide the number of windows.
    /// - `global_batch`: samples of a step, over all ranks.
    /// - `length_bucket`: batches that are sorted by length together; 1 disables sorting.
    ///
    /// # Errors
    /// [`Error::Sampler`] without samples, or for a size of 0.
    pub fn new(
        keys: Vec<SampleKey>,
        rows: u64,
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
        let mut shards: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (sample, key) in keys.iter().enumerate() {
            shards.entry(key.shard).or_default().push(sample);
        }
        Ok(Self {
            keys,
            shards,
            global_batch,
            length_bucket,
            windows: (rows / WINDOW_ROWS).max(1),
            seed,
            kept: Mutex::default(),
        })
    }

    /// Assigns shards to this many windows. More windows need less memory and shuffle less.
    pub fn with_windows(mut self, windows: u64) -> Self {
        self.windows = windows.max(1);
        self.kept = Mutex::default();
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

    /// The batch of a step, from 0. Cheap for consecutive steps: what they have in common is kept.
    pub fn batch(&self, step: u64) -> Batch {
        // What is kept is inserted complete, so a panic elsewhere leaves it consistent.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = self.epoch_of(step, &mut kept);
        let within = step - kept.first_steps[epoch.number as usize];
        let index = epoch
            .windows
            .partition_point(|window| window.first <= within)
            - 1;
        let window = &epoch.windows[index];
        let batches = self.window(&epoch, index, &mut kept);
        Batch {
            data_epoch: epoch.number,
            window: index,
            samples: batches[(within - window.first) as usize].clone(),
        }
    }

    /// The data epoch that a step belongs to.
    fn epoch_of(&self, step: u64, kept: &mut Kept) -> Arc<Epoch> {
        if kept.first_steps.is_empty() {
            kept.first_steps.push(0);
        }
        // Epochs differ in their number of steps where windows end in different places.
        while kept.first_steps.last().is_some_and(|next| *next <= step) {
            let number = kept.first_steps.len() as u64 - 1;
            let epoch = Arc::new(self.draw(number));
            let steps: u64 = epoch.windows.iter().map(|window| window.batches).sum();
            let next = kept.first_steps[number as usize] + steps;
            kept.first_steps.push(next);
            kept.epoch = Some(epoch);
        }
        let number = kept.first_steps.partition_point(|first| *first <= step) as u64 - 1;
        match &kept.epoch {
            Some(epoch) if epoch.number == number => epoch.clone(),
            _ => {
                let epoch = Arc::new(self.draw(number));
                kept.epoch = Some(epoch.clone());
                epoch
            }
        }
    }

    /// Assigns the shards to windows.
    fn draw(&self, data_epoch: u64) -> Epoch {
        let draws = Draws::new(self.seed, "sampler-windows");
        let mut assigned: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for shard in self.shards.keys() {
            let window = draws.u64(&shard.to_le_bytes(), data_epoch) % self.windows;
            assigned.entry(window).or_default().push(*shard);
        }
        let mut first = 0;
        let windows = assigned.into_values().map(|shards| {
            let samples: usize = shards.iter().map(|shard| self.shards[shard].len()).sum();
            let batches = samples.div_ceil(self.global_batch) as u64;
            let window = Window {
                shards,
                first,
                batches,
            };
            first += batches;
            window
        });
        Epoch {
            windows: windows.collect(),
            number: data_epoch,
        }
    }

    /// The batches of a window in their order.
    fn window(&self, epoch: &Epoch, index: usize, kept: &mut Kept) -> Batches {
        let key = (epoch.number, index);
        if let Some((_, batches)) = kept.windows.iter().find(|(held, _)| *held == key) {
            return batches.clone();
        }
        let batches = Arc::new(self.batches(epoch.number, &epoch.windows[index]));
        if kept.windows.len() == KEPT_WINDOWS {
            kept.windows.remove(0);
        }
        kept.windows.push((key, batches.clone()));
        batches
    }

    fn batches(&self, data_epoch: u64, window: &Window) -> Vec<Vec<usize>> {
        let draws = Draws::new(self.seed, "sampler-samples");
        let mut samples: Vec<usize> = window
            .shards
            .iter()
            .flat_map(|shard| &self.shards[shard])
            .copied()
            .collect();
        // A text in two versions has one hash: the index breaks the tie.
        samples.sort_by_cached_key(|sample| {
            let text = self.keys[*sample].text_id;
            (draws.u64(&text.0.0, data_epoch), *sample)
        });
        let full = samples.len().next_multiple_of(self.global_batch);
        samples = samples.iter().copied().cycle().take(full).collect();
        if self.length_bucket > 1 {
            for group in samples.chunks_mut(self.length_bucket * self.global_batch) {
                group.sort_by_key(|sample| self.keys[*sample].length);
            }
        }
        let batches: Vec<&[usize]> = samples.chunks_exact(self.global_batch).collect();
        // Keyed by what the window holds, not by its place.
        let item = [
            &data_epoch.to_le_bytes()[..],
            &window.shards[0].to_le_bytes(),
        ]
        .concat();
        let order = Draws::new(self.seed, "sampler-batches").permutation(&item, batches.len());
        order
            .into_iter()
            .map(|batch| batches[batch].to_vec())
            .collect()
    }
}

/// The contiguous slice of a global batch of this rank. The slices partition the batch; their
/// lengths differ by at most one.
pub fn rank_slice(global_batch: usize, rank: usize, world_size: usize) -> Range<usize> {
    global_batch * rank / world_size..global_batch * (rank + 1) / world_size
}

#[cfg(test)]
mod tests;
