//! A loaded model and the batches of a shard.

use std::path::Path;

use capstan_dataset::view::ViewRow;
use capstan_model::{ComputePool, DeviceSpec, ImageEmbeds, Load, MedParts, Pretrained};
use capstan_plan::id::ModelDigest;
use rayon::prelude::*;

use crate::error::Error;

/// A network, its tokenizer and its picture preparation.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub digest: ModelDigest,
    pub model: Pretrained,
}

impl Loaded {
    pub fn load(
        folder: &Path,
        parts: MedParts,
        digest: ModelDigest,
        device: DeviceSpec,
        pool: &ComputePool,
    ) -> Result<Self, Error> {
        let load = Load::on(&device.open()?).parts(parts);
        let model = pool.install(|| Pretrained::open(folder, &load));
        let model = model.map_err(|source| Error::Model {
            folder: folder.to_owned(),
            role: match parts.decodes() {
                true => "captioner",
                false => "filter",
            },
            source: Box::new(source),
        })?;
        Ok(Self { digest, model })
    }

    /// Encodes the pictures of these rows.
    pub fn encode(&self, rows: &[&ViewRow]) -> Result<ImageEmbeds, Error> {
        let pictures: Vec<&[u8]> = rows.iter().map(|row| &row.pair.image[..]).collect();
        let pixels = self.model.pixels(&pictures);
        let pixels = pixels.map_err(|(place, source)| Error::Picture {
            pair: rows[place].pair.pair_id,
            source,
        })?;
        Ok(self.model.network.encode(pixels))
    }

    /// Runs `work` over `rows` in batches of `batch` on the threads of `pool`, in row order, and returns
    /// one result per row.
    ///
    /// `progress` is called from the calling thread with the number of rows done, and returns
    /// whether to continue.
    pub fn each_batch<T: Send>(
        &self,
        pool: &ComputePool,
        rows: &[&ViewRow],
        batch: usize,
        progress: &dyn Fn(u64) -> bool,
        work: impl Fn(&[&ViewRow]) -> Result<Vec<T>, Error> + Sync,
    ) -> Result<Vec<T>, Error> {
        let batches: Vec<&[&ViewRow]> = rows.chunks(batch.max(1)).collect();
        let mut results = Vec::with_capacity(rows.len());
        for wave in batches.chunks(self.model.batches_at_a_time(pool.threads())) {
            let done: Vec<Vec<T>> = pool.install(|| {
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
