//! A loaded model with its vocabulary and picture preparation, which computes on a pool of threads.

use std::path::Path;

use capstan_model::generate::{self, generate};
use capstan_model::{
    ComputePool, DeviceSpec, Embed, ImageEmbeds, Load, Match, Pretrained, Tensor, TokenBatch,
};
use capstan_plan::row::Pair;
use capstan_plan::stage;
use rayon::prelude::*;

use crate::error::Error;
use crate::progress::BatchProgress;

/// Most pictures in a batch.
const PICTURES_PER_BATCH: usize = 32;
/// Most texts in a batch.
const TEXTS_PER_BATCH: usize = 128;

/// A network, its vocabulary and its preparation of pictures.
#[derive(Clone, Copy)]
pub(crate) struct LoadedNetwork<'a> {
    model: &'a Pretrained,
    pool: &'a ComputePool,
    folder: &'a Path,
}

/// Reads a model folder.
pub(crate) fn open(
    folder: &Path,
    device: DeviceSpec,
    pool: &ComputePool,
) -> Result<Pretrained, Error> {
    let load = Load::on(&device.open()?);
    let model = pool.install(|| Pretrained::open(folder, &load));
    model.map_err(|source| Error::Model {
        folder: folder.to_owned(),
        source: Box::new(source),
    })
}

/// The output of a network for pictures.
pub(crate) struct Pictures {
    /// Features of unit length, `[pictures, projection]`; empty for a model without an encoder.
    pub features: Vec<f32>,
    /// What the network encodes, by batch of [`PICTURES_PER_BATCH`]. All are kept until the set is
    /// finished, as in BLIP's own evaluation.
    embeds: Vec<ImageEmbeds>,
}

impl<'a> LoadedNetwork<'a> {
    /// - `folder`: names the model in errors.
    pub fn new(model: &'a Pretrained, pool: &'a ComputePool, folder: &'a Path) -> Self {
        Self {
            model,
            pool,
            folder,
        }
    }

    /// Fails if the model has no features of pictures and texts.
    pub fn needs_encoders(&self, asked: &'static str) -> Result<(), Error> {
        self.space(asked).map(|_| ())
    }

    /// Fails if the model cannot generate captions.
    pub fn needs_decoder(&self, asked: &'static str) -> Result<(), Error> {
        match self.model.network.generator() {
            Some(_) => Ok(()),
            None => Err(self.lacks(asked, "decoder")),
        }
    }

    /// Whether the model has an ITM head.
    pub fn has_itm(&self) -> bool {
        self.model.network.matching().is_some()
    }

    fn space(&self, asked: &'static str) -> Result<&dyn Embed, Error> {
        let space = self.model.network.embed();
        space.ok_or_else(|| self.lacks(asked, "text encoder"))
    }

    fn lacks(&self, asked: &'static str, part: &'static str) -> Error {
        Error::Lacks {
            folder: self.folder.to_owned(),
            asked,
            part,
        }
    }

    /// Encodes each picture once.
    pub fn pictures(
        &self,
        pairs: &[Pair],
        progress: &BatchProgress<'_>,
    ) -> Result<Pictures, Error> {
        let batches: Vec<&[Pair]> = pairs.chunks(PICTURES_PER_BATCH).collect();
        let network = &self.model.network;
        let encoded = self.map_batches(&batches, progress, |pairs| {
            let embeds = network.encode(self.pixels(pairs)?);
            let features = network
                .embed()
                .map(|space| numbers(space.image_features(&embeds)));
            Ok((features.unwrap_or_default(), embeds))
        })?;
        let (features, embeds): (Vec<_>, Vec<_>) = encoded.into_iter().unzip();
        Ok(Pictures {
            features: features.concat(),
            embeds,
        })
    }

    fn pixels(&self, pairs: &[Pair]) -> Result<Tensor<4>, Error> {
        let pictures: Vec<&[u8]> = pairs.iter().map(|pair| &pair.image[..]).collect();
        let pixels = self.model.pixels(&pictures);
        pixels.map_err(|(place, source)| Error::Picture {
            pair: pairs[place].pair_id,
            source,
        })
    }

    /// Token ids of texts, for [`LoadedNetwork::texts`] and [`LoadedNetwork::itm`].
    pub fn tokens<S: AsRef<str>>(&self, texts: &[S]) -> Vec<Vec<u32>> {
        texts
            .iter()
            .map(|text| self.model.tokens(text.as_ref()))
            .collect()
    }

    /// Features of unit length of every text, `[texts][projection]`.
    pub fn texts(
        &self,
        tokens: &[Vec<u32>],
        progress: &BatchProgress<'_>,
    ) -> Result<Vec<Vec<f32>>, Error> {
        let space = self.space("texts")?;
        // Texts of similar length form a batch, which needs little padding.
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.sort_by_key(|&text| tokens[text].len());
        let batches: Vec<&[usize]> = order.chunks(TEXTS_PER_BATCH).collect();
        let encoded = self.map_batches(&batches, progress, |texts| {
            let batch = self.batch(texts.iter().map(|&text| &tokens[text][..]));
            Ok(numbers(space.text_features(&batch)))
        })?;
        let mut features = vec![Vec::new(); tokens.len()];
        for (texts, encoded) in batches.iter().zip(encoded) {
            let width = encoded.len() / texts.len();
            for (&text, row) in texts.iter().zip(encoded.chunks_exact(width)) {
                features[text] = row.to_vec();
            }
        }
        Ok(features)
    }

    /// The logit of a match (class 1) of every requested pair. `wanted[picture]` lists texts, and the
    /// result has their logits in the same order. Keys and values of a picture are computed once.
    pub fn itm(
        &self,
        pictures: &Pictures,
        tokens: &[Vec<u32>],
        wanted: &[Vec<usize>],
        progress: &BatchProgress<'_>,
    ) -> Result<Vec<Vec<f32>>, Error> {
        let head: &dyn Match = self
            .model
            .network
            .matching()
            .ok_or_else(|| self.lacks("re-ranking", "image-grounded encoder"))?;
        let batches: Vec<(&ImageEmbeds, &[Vec<usize>])> = pictures
            .embeds
            .iter()
            .zip(wanted.chunks(PICTURES_PER_BATCH))
            .collect();
        let logits = self.map_batches(&batches, progress, |&(embeds, wanted)| {
            let memory = head.memory(embeds);
            let mut pairs: Vec<(usize, usize)> = Vec::new();
            for (picture, texts) in wanted.iter().enumerate() {
                pairs.extend((0..texts.len()).map(|place| (picture, place)));
            }
            let ids = |&(picture, place): &(usize, usize)| &tokens[wanted[picture][place]][..];
            pairs.sort_by_key(|pair| ids(pair).len());
            let mut logits: Vec<Vec<f32>> = wanted
                .iter()
                .map(|texts| vec![f32::NAN; texts.len()])
                .collect();
            for chunk in pairs.chunks(TEXTS_PER_BATCH) {
                let batch = self.batch(chunk.iter().map(ids));
                let shown: Vec<usize> = chunk.iter().map(|&(picture, _)| picture).collect();
                let scores = numbers(head.match_logits(&memory, &batch, &shown));
                for (&(picture, place), two) in chunk.iter().zip(scores.chunks_exact(2)) {
                    logits[picture][place] = two[1];
                }
            }
            Ok(logits)
        })?;
        Ok(logits.into_iter().flatten().collect())
    }

    /// A caption of every picture. Only nucleus sampling calls `draw(picture, position)`.
    pub fn captions(
        &self,
        pictures: &Pictures,
        decoding: &stage::Decoding,
        draw: &(dyn Fn(usize, usize) -> f64 + Sync),
        progress: &BatchProgress<'_>,
    ) -> Result<Vec<String>, Error> {
        let writer = self.model.network.generator();
        let writer = writer.ok_or_else(|| self.lacks("captioning", "decoder"))?;
        let prompt = self.model.prompt(&decoding.prompt);
        let decoding = self.model.limited(decoding_of(decoding), &prompt);
        let batches: Vec<(usize, &ImageEmbeds)> = pictures.embeds.iter().enumerate().collect();
        let captions = self.map_batches(&batches, progress, |&(batch, embeds)| {
            let first = batch * PICTURES_PER_BATCH;
            let draw = |picture: usize, position: usize| draw(first + picture, position);
            let memory = writer.memory(embeds);
            let prompts = vec![prompt.clone(); memory.pictures()];
            let written = generate(writer.decoder(), &memory, &prompts, &decoding, &draw);
            let written = written.map_err(Error::Decoding)?;
            Ok(written
                .iter()
                .map(|text| self.model.tokenizer.decode(&text.ids[prompt.len()..]))
                .collect::<Vec<_>>())
        })?;
        Ok(captions.into_iter().flatten().collect())
    }

    fn batch<'t>(&self, rows: impl Iterator<Item = &'t [u32]>) -> TokenBatch {
        self.model.batch(&rows.collect::<Vec<_>>())
    }

    /// How alike pictures and texts are by their features, both `[rows, width]`. The result is
    /// `[pictures, texts]` in row-major order.
    pub fn similarities(
        &self,
        images: &[f32],
        texts: &[f32],
        width: usize,
    ) -> Result<Vec<f32>, Error> {
        let space = self.space("similarities")?;
        let matrix = |values: &[f32]| {
            let flat = Tensor::<1>::from_floats(values, self.model.network.device());
            flat.reshape([values.len() / width, width])
        };
        let found = self
            .pool
            .install(|| numbers(space.similarities(matrix(images), matrix(texts))));
        Ok(found)
    }

    /// Processes batches, and returns the results in order.
    fn map_batches<B: Sync, T: Send>(
        &self,
        batches: &[B],
        progress: &BatchProgress<'_>,
        work: impl Fn(&B) -> Result<T, Error> + Sync,
    ) -> Result<Vec<T>, Error> {
        let mut results = Vec::with_capacity(batches.len());
        for wave in batches.chunks(self.model.batches_at_a_time(self.pool.threads())) {
            let done: Vec<T> = self
                .pool
                .install(|| wave.par_iter().map(&work).collect::<Result<_, _>>())?;
            results.extend(done);
            progress.advance(wave.len())?;
        }
        Ok(results)
    }
}

/// Number of batches in [`LoadedNetwork::pictures`], [`LoadedNetwork::itm`] and
/// [`LoadedNetwork::captions`].
pub(crate) fn picture_batches(pictures: usize) -> usize {
    pictures.div_ceil(PICTURES_PER_BATCH)
}

/// Number of batches in [`LoadedNetwork::texts`].
pub(crate) fn text_batches(texts: usize) -> usize {
    texts.div_ceil(TEXTS_PER_BATCH)
}

/// The settings of the stage as settings of `model`.
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

/// The values of a tensor in row-major order.
fn numbers(tensor: Tensor<2>) -> Vec<f32> {
    let data = tensor.into_data();
    data.as_slice::<f32>()
        .expect("networks compute in f32")
        .to_vec()
}
