//! Synthetic texts.

use std::path::Path;

use capstan_dataset::view::ViewRow;
use capstan_model::generate::{self, generate};
use capstan_model::{ComputePool, DeviceSpec, MedParts};
use capstan_plan::draw::Draws;
use capstan_plan::id::{ModelDigest, PairId};
use capstan_plan::row::{Captions, Origin, Text};
use capstan_plan::stage;

use crate::error::Error;
use crate::model::Loaded;

/// Writes texts for pictures: a MED fine-tuned by language modelling.
#[derive(Debug)]
pub struct Captioner {
    model: Loaded,
}

impl Captioner {
    /// Loads a captioner from the folder of a BlipForConditionalGeneration or of a pre-trained
    /// MED, with vocabulary and picture preparation beside the weights.
    ///
    /// - `digest`: recorded in every row as the captioner.
    /// - `pool`: the threads that read the weights.
    ///
    /// # Errors
    /// [`Error::Model`], [`Error::Device`].
    pub fn load(
        folder: &Path,
        digest: ModelDigest,
        device: DeviceSpec,
        pool: &ComputePool,
    ) -> Result<Self, Error> {
        let model = Loaded::load(folder, MedParts::Captioner, digest, device, pool)?;
        Ok(Self { model })
    }

    /// Writes up to `captions_per_image` texts for every picture that curation keeps. Returns one
    /// row per input row, in order; the row of a dropped picture has no texts.
    ///
    /// Draws are keyed by (seed, pair id, ordinal of the caption, position). A text that repeats
    /// another caption of the same picture is left out, and so is an empty one.
    ///
    /// - `pool`: all numeric work runs on its threads.
    /// - `rows`: the rows of one shard, with their pictures.
    /// - `progress`: called with the number of pictures done; `false` stops the work.
    ///
    /// # Errors
    /// [`Error::Picture`] names the pair; [`Error::Decoding`]; [`Error::Cancelled`].
    pub fn caption_shard(
        &self,
        pool: &ComputePool,
        config: &stage::Caption,
        seed: u64,
        rows: &[ViewRow],
        progress: &dyn Fn(u64) -> bool,
    ) -> Result<Vec<Captions>, Error> {
        let model = &self.model.model;
        let prompt = model.prompt(&config.decoding.prompt);
        let decoding = model.limited(decoding_of(&config.decoding), &prompt);
        let draws = Draws::new(seed, "caption");
        let kept: Vec<&ViewRow> = rows.iter().filter(|row| row.keep).collect();
        let texts = self
            .model
            .each_batch(pool, &kept, config.batch, progress, |batch| {
                self.caption(batch, config.captions_per_image, &prompt, &decoding, &draws)
            })?;
        let mut texts = texts.into_iter();
        let texts_of = |row: &ViewRow| {
            if row.keep {
                texts.next().expect("one list of texts per kept row")
            } else {
                Vec::new()
            }
        };
        let texts: Vec<Vec<Text>> = rows.iter().map(texts_of).collect();
        let captions = rows.iter().zip(texts).map(|(row, texts)| Captions {
            pair_id: row.pair.pair_id,
            texts,
            model: self.model.digest,
        });
        Ok(captions.collect())
    }

    /// Writes the texts of one batch of pictures.
    fn caption(
        &self,
        rows: &[&ViewRow],
        captions: usize,
        prompt: &[u32],
        decoding: &generate::Decoding,
        draws: &Draws,
    ) -> Result<Vec<Vec<Text>>, Error> {
        let model = &self.model.model;
        let writer = model.network.generator();
        let writer = writer.expect("a captioner is loaded with its decoder");
        let memory = writer.memory(&self.model.encode(rows)?);
        let prompts = vec![prompt.to_vec(); rows.len()];
        let mut texts = vec![Vec::new(); rows.len()];
        for ordinal in 0..captions {
            let items: Vec<Vec<u8>> = rows
                .iter()
                .map(|row| item(&row.pair.pair_id, ordinal))
                .collect();
            let draw =
                |picture: usize, position: usize| draws.unit(&items[picture], position as u64);
            let written = generate(writer.decoder(), &memory, &prompts, decoding, &draw);
            let written = written.map_err(Error::Decoding)?;
            for ((row, texts), text) in rows.iter().zip(&mut texts).zip(written) {
                let text = model.tokenizer.decode(&text.ids[prompt.len()..]);
                let text = Text::new(&row.pair.pair_id, Origin::Synthetic, text);
                if !text.text.is_empty() && !texts.contains(&text) {
                    texts.push(text);
                }
            }
        }
        Ok(texts)
    }
}

/// The settings in the form of the model room.
fn decoding_of(decoding: &stage::Decoding) -> generate::Decoding {
    generate::Decoding {
        strategy: match decoding.choose {
            stage::Strategy::Greedy => generate::Strategy::Greedy,
            stage::Strategy::Beam { beams } => generate::Strategy::Beam {
                beams,
                length_penalty: 1.0,
            },
            stage::Strategy::Nucleus {
                top_p,
                temperature,
                top_k,
            } => generate::Strategy::Nucleus {
                top_p,
                temperature,
                top_k,
            },
        },
        min_tokens: decoding.min_tokens,
        max_tokens: decoding.max_tokens,
        repetition_penalty: decoding.repetition_penalty,
        no_repeat_ngram: decoding.no_repeat_ngram,
        banned: Vec::new(),
    }
}

/// The key of the draws of one caption.
fn item(pair: &PairId, ordinal: usize) -> Vec<u8> {
    [&pair.0.0[..], &(ordinal as u64).to_le_bytes()].concat()
}
