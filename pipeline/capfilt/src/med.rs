//! A loaded MED with its tokenizer and picture preparation, and the batches of a shard.

use std::path::Path;

use capstan_dataset::view::ViewRow;
use capstan_model::{
    ComputePool, Device, DeviceSpec, ImageEmbeds, ImagePreprocess, Med, MedParts, Tokenizer,
};
use capstan_plan::id::ModelDigest;
use rayon::prelude::*;

use crate::error::Error;

/// A MED, its tokenizer and its picture preparation.
pub(crate) struct LoadedMed<'pool> {
    pub digest: ModelDigest,
    pub med: Med,
    pub tokenizer: Tokenizer,
    preprocess: ImagePreprocess,
    device: Device,
    pool: &'pool ComputePool,
}

impl<'pool> LoadedMed<'pool> {
    pub fn load(
        folder: &Path,
        parts: MedParts,
        digest: ModelDigest,
        device: DeviceSpec,
        pool: &'pool ComputePool,
    ) -> Result<Self, Error> {
        let device = device.open()?;
        let role = if parts.decodes() {
            "captioner"
        } else {
            "filter"
        };
        let model = |source| Error::Model {
            folder: folder.to_owned(),
            role,
            source: Box::new(source),
        };
        let med = pool
            .install(|| Med::load(folder, parts, &device))
            .map_err(model)?;
        let preprocess = ImagePreprocess::load(folder).map_err(model)?;
        let tokenizer = Tokenizer::load(folder).map_err(|source| Error::Tokenizer {
            folder: folder.to_owned(),
            source,
        })?;
        let (tokens, rows) = (tokenizer.len(), med.config().text_config.vocab_size);
        if tokens > rows {
            return Err(Error::Vocabulary {
                folder: folder.to_owned(),
                tokens,
                rows,
            });
        }
        Ok(Self {
            digest,
            med,
            tokenizer,
            preprocess,
            device,
            pool,
        })
    }

    /// Greatest number of tokens of a text.
    pub fn max_tokens(&self) -> usize {
        self.med.config().text_config.max_position_embeddings
    }

    /// Encodes the pictures of these rows.
    pub fn encode(&self, rows: &[&ViewRow]) -> Result<ImageEmbeds, Error> {
        let mut pixels = Vec::new();
        for row in rows {
            let prepared = self.preprocess.pixels(&row.pair.image);
            pixels.extend(prepared.map_err(|source| Error::Picture {
                pair: row.pair.pair_id,
                source,
            })?);
        }
        Ok(self
            .med
            .image_embeds(self.preprocess.batch(pixels, &self.device)))
    }

    /// Runs `work` over `rows` in batches of `batch`, in row order, and returns one result per row.
    ///
    /// As many batches as the pool has threads run at a time, because the operations of a small
    /// model are too short to be split. `progress` is called from the calling thread with the
    /// number of rows done, and returns whether to continue.
    pub fn each_batch<T: Send>(
        &self,
        rows: &[&ViewRow],
        batch: usize,
        progress: &dyn Fn(u64) -> bool,
        work: impl Fn(&[&ViewRow]) -> Result<Vec<T>, Error> + Sync,
    ) -> Result<Vec<T>, Error> {
        let batches: Vec<&[&ViewRow]> = rows.chunks(batch.max(1)).collect();
        let mut results = Vec::with_capacity(rows.len());
        for wave in batches.chunks(self.pool.threads()) {
            let done: Vec<Vec<T>> = self.pool.install(|| {
                wave.par_iter()
                    .map(|rows| work(rows))
                    .collect::<Result<_, _>>()
            })?;
            results.extend(done.into_iter().flatten());
            if !progress(results.len() as u64) {
                return Err(Error::Cancelled);
            }
        }
        Ok(results)
    }
}
