//! Prepares the batches of coming steps while the training computes.
//!
//! ```text
//! loader's threads:  Sampler ─► slice of this rank ─► Pictures ─► Augment ─┐
//!                                                                          ▼ bounded queue
//! rank's threads:                                       Objectives::gradient ─► update
//! ```
//! A batch is a function of its step alone, so what is trained does not depend on how far the loader
//! is ahead. An error takes the place of its step in the queue: the training does all steps before it
//! first.

use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use capstan_dataset::sampler::{Sampler, rank_slice};
use rayon::prelude::*;

use crate::objective::Slice;
use crate::{Augment, Pictures, Sample, TrainError};

/// Bytes of prepared batches in the queue.
const QUEUED_BYTES: usize = 256 << 20;
/// Batches in the queue at most.
const QUEUED_BATCHES: usize = 4;

/// Steps whose pictures are announced together, so that the source reads each part of a file once for
/// all of them.
const ANNOUNCED_STEPS: u64 = 64;
/// Pictures announced together at most, which the source may hold encoded.
const ANNOUNCED_PICTURES: usize = 4_096;

/// This rank's part of a step, ready to compute on.
pub(crate) struct Prepared {
    pub(crate) data_epoch: u64,
    pub(crate) slice: Slice,
}

/// The batches in the order of their steps.
pub(crate) type Batches = Receiver<Result<Prepared, TrainError>>;

/// Prepares batches of one rank.
pub(crate) struct Loader<'a> {
    pub(crate) samples: &'a [Sample],
    pub(crate) pictures: &'a mut Pictures,
    pub(crate) sampler: Sampler,
    pub(crate) augment: Augment,
    pub(crate) rank: usize,
    pub(crate) world_size: usize,
    /// Side of the model's pictures.
    pub(crate) side: usize,
}

impl Loader<'_> {
    /// The queue for batches of `global_batch` samples, two batches of which are in memory beside it:
    /// the one that is prepared and the one that is trained on.
    pub(crate) fn queue(
        &self,
        global_batch: usize,
    ) -> (SyncSender<Result<Prepared, TrainError>>, Batches) {
        let samples = global_batch.div_ceil(self.world_size);
        let bytes = samples * 3 * self.side * self.side * size_of::<f32>();
        sync_channel((QUEUED_BYTES / bytes.max(1)).min(QUEUED_BATCHES))
    }

    /// Prepares `steps` until one fails or nothing receives them.
    pub(crate) fn run(
        mut self,
        steps: Range<u64>,
        queue: &SyncSender<Result<Prepared, TrainError>>,
    ) {
        if self.augment.crops() {
            self.pictures.keep_whole();
        }
        let mut announced = steps.start;
        for step in steps.clone() {
            if step == announced {
                announced = self.announce(step..steps.end);
            }
            let prepared = self.prepare(step);
            let failed = prepared.is_err();
            if queue.send(prepared).is_err() || failed {
                return;
            }
        }
    }

    /// Announces the pictures of the first of `steps`; gives the first step that is left.
    fn announce(&mut self, steps: Range<u64>) -> u64 {
        let mut coming = Vec::new();
        let mut next = steps.start;
        while next < steps.end.min(steps.start + ANNOUNCED_STEPS) {
            let batch = self.sampler.batch(next);
            let own = &batch.samples[self.range(batch.samples.len())];
            if coming.len() + own.len() > ANNOUNCED_PICTURES && next > steps.start {
                break;
            }
            coming.extend(own.iter().map(|sample| self.samples[*sample].picture));
            next += 1;
        }
        coming.truncate(ANNOUNCED_PICTURES);
        self.pictures.expect(&coming);
        next
    }

    /// This rank's part of a global batch.
    fn range(&self, global_batch: usize) -> Range<usize> {
        rank_slice(global_batch, self.rank, self.world_size)
    }

    /// This rank's pictures, augmented, and texts.
    fn prepare(&mut self, step: u64) -> Result<Prepared, TrainError> {
        let batch = self.sampler.batch(step);
        let range = self.range(batch.samples.len());
        let samples: Vec<&Sample> = batch.samples[range.clone()]
            .iter()
            .map(|sample| &self.samples[*sample])
            .collect();
        let wanted: Vec<usize> = samples.iter().map(|sample| sample.picture).collect();
        let pictures = self.pictures.load(&wanted)?;
        let floats = 3 * self.side * self.side;
        let mut pixels = vec![0.0; samples.len() * floats];
        let planes = pixels.par_chunks_exact_mut(floats);
        let each = planes.zip(&pictures).zip(&samples);
        each.for_each(|((planes, picture), sample)| {
            let key = (batch.data_epoch, &sample.text_id);
            self.augment.apply(key, picture, planes);
        });
        Ok(Prepared {
            data_epoch: batch.data_epoch,
            slice: Slice {
                step,
                range,
                pixels,
                tokens: samples.iter().map(|sample| sample.tokens.clone()).collect(),
                pictures: wanted.iter().map(|picture| *picture as u32).collect(),
            },
        })
    }
}

#[cfg(test)]
mod tests;
