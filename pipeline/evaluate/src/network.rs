//! A loaded model with its vocabulary and picture preparation, which computes on a pool of threads.

use std::path::Path;

use capstan_model::config::SpecialIds;
use capstan_model::generate::{self, generate};
use capstan_model::{
    Clip, ComputePool, Device, DeviceSpec, ImageEmbeds, ImagePreprocess, Med, Tensor, TokenBatch,
    Tokenizer, folder,
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

/// The networks that can be measured.
enum Network {
    Clip(Box<Clip>),
    Med(Box<Med>),
}

/// A network, its vocabulary and its preparation of pictures.
pub(crate) struct LoadedNetwork<'a> {
    network: Network,
    tokenizer: Tokenizer,
    preprocess: ImagePreprocess,
    device: Device,
    pool: &'a ComputePool,
    folder: &'a Path,
}

/// The output of a network for pictures.
pub(crate) struct Pictures {
    /// Features of unit length, `[pictures, projection]`; empty for a model without an encoder.
    pub features: Vec<f32>,
    /// Picture tokens by batch of [`PICTURES_PER_BATCH`]; empty for a CLIP. All are kept until the
    /// set is finished, as in BLIP's own evaluation.
    embeds: Vec<ImageEmbeds>,
}

impl<'a> LoadedNetwork<'a> {
    pub fn load(
        folder: &'a Path,
        device: DeviceSpec,
        pool: &'a ComputePool,
    ) -> Result<Self, Error> {
        let device = device.open()?;
        let model = |source| Error::Model {
            folder: folder.to_owned(),
            source,
        };
        let network = pool
            .install(|| Network::open(folder, &device))
            .map_err(model)?;
        let preprocess = ImagePreprocess::load(folder).map_err(model)?;
        let tokenizer = Tokenizer::load(folder).map_err(|source| Error::Tokenizer {
            folder: folder.to_owned(),
            source,
        })?;
        let (tokens, rows) = (tokenizer.len(), network.vocabulary());
        if tokens > rows {
            return Err(Error::Vocabulary {
                folder: folder.to_owned(),
                tokens,
                rows,
            });
        }
        Ok(Self {
            network,
            tokenizer,
            preprocess,
            device,
            pool,
            folder,
        })
    }

    /// Fails if the model has no features of pictures and texts.
    pub fn needs_encoders(&self, asked: &'static str) -> Result<(), Error> {
        match &self.network {
            Network::Med(med) if !med.parts().encodes() => Err(self.lacks(asked, "text encoder")),
            _ => Ok(()),
        }
    }

    /// Fails if the model cannot generate captions.
    pub fn needs_decoder(&self, asked: &'static str) -> Result<(), Error> {
        match &self.network {
            Network::Med(med) if med.parts().decodes() => Ok(()),
            _ => Err(self.lacks(asked, "decoder")),
        }
    }

    /// Whether the model has an ITM head.
    pub fn has_itm(&self) -> bool {
        matches!(&self.network, Network::Med(med) if med.parts().encodes())
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
        let encoded = self.map_batches(&batches, progress, |pairs| {
            let pixels = self.pixels(pairs)?;
            Ok(match &self.network {
                Network::Clip(clip) => (numbers(clip.image_features(pixels)), None),
                Network::Med(med) => {
                    let embeds = med.image_embeds(pixels);
                    let encodes = med.parts().encodes();
                    let features = encodes.then(|| numbers(med.image_features(&embeds)));
                    (features.unwrap_or_default(), Some(embeds))
                }
            })
        })?;
        let (features, embeds): (Vec<_>, Vec<_>) = encoded.into_iter().unzip();
        Ok(Pictures {
            features: features.concat(),
            embeds: embeds.into_iter().flatten().collect(),
        })
    }

    fn pixels(&self, pairs: &[Pair]) -> Result<Tensor<4>, Error> {
        let mut pixels = Vec::new();
        for pair in pairs {
            let prepared = self.preprocess.pixels(&pair.image);
            pixels.extend(prepared.map_err(|source| Error::Picture {
                pair: pair.pair_id,
                source,
            })?);
        }
        Ok(self.preprocess.batch(pixels, &self.device))
    }

    /// Token ids of texts, for [`LoadedNetwork::texts`] and [`LoadedNetwork::itm`].
    pub fn tokens<S: AsRef<str>>(&self, texts: &[S]) -> Vec<Vec<u32>> {
        let longest = self.network.positions();
        texts
            .iter()
            .map(|text| self.tokenizer.encode(text.as_ref(), longest))
            .collect()
    }

    /// Features of unit length of every text, `[texts][projection]`.
    pub fn texts(
        &self,
        tokens: &[Vec<u32>],
        progress: &BatchProgress<'_>,
    ) -> Result<Vec<Vec<f32>>, Error> {
        // Texts of similar length form a batch, which needs little padding.
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.sort_by_key(|&text| tokens[text].len());
        let batches: Vec<&[usize]> = order.chunks(TEXTS_PER_BATCH).collect();
        let encoded = self.map_batches(&batches, progress, |texts| {
            let batch = self.batch(texts.iter().map(|&text| &tokens[text][..]));
            Ok(numbers(match &self.network {
                Network::Clip(clip) => clip.text_features(&batch),
                Network::Med(med) => med.text_features(&batch),
            }))
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
        let Network::Med(med) = &self.network else {
            return Err(self.lacks("re-ranking", "image-grounded encoder"));
        };
        let batches: Vec<(&ImageEmbeds, &[Vec<usize>])> = pictures
            .embeds
            .iter()
            .zip(wanted.chunks(PICTURES_PER_BATCH))
            .collect();
        let logits = self.map_batches(&batches, progress, |&(embeds, wanted)| {
            let memory = med.memory(embeds);
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
                let scores = numbers(med.itm_logits(&memory, &batch, &shown));
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
        let Network::Med(med) = &self.network else {
            return Err(self.lacks("captioning", "decoder"));
        };
        let decoding = decoding_of(
            decoding,
            &self.tokenizer.special(),
            self.network.positions(),
        );
        let batches: Vec<(usize, &ImageEmbeds)> = pictures.embeds.iter().enumerate().collect();
        let captions = self.map_batches(&batches, progress, |&(batch, embeds)| {
            let first = batch * PICTURES_PER_BATCH;
            let draw = |picture: usize, position: usize| draw(first + picture, position);
            let written = generate(med, &med.memory(embeds), &[], &decoding, &draw);
            let written = written.map_err(Error::Decoding)?;
            Ok(written
                .iter()
                .map(|text| self.tokenizer.decode(&text.ids))
                .collect::<Vec<_>>())
        })?;
        Ok(captions.into_iter().flatten().collect())
    }

    fn batch<'t>(&self, rows: impl Iterator<Item = &'t [u32]>) -> TokenBatch {
        TokenBatch::new(&rows.collect::<Vec<_>>(), self.tokenizer.special().pad)
    }

    /// The products of every row of `a` with every row of `b`, both `[rows, width]`. The result is
    /// `[a, b]` in row-major order.
    pub fn products(&self, a: &[f32], b: &[f32], width: usize) -> Vec<f32> {
        let matrix = |values: &[f32]| {
            let flat = Tensor::<1>::from_floats(values, &self.device);
            flat.reshape([values.len() / width, width])
        };
        self.pool
            .install(|| numbers(matrix(a).matmul(matrix(b).transpose())))
    }

    /// Processes as many batches in parallel as there are threads, because operations of a small
    /// model are too short to be split. Returns the results in order.
    fn map_batches<B: Sync, T: Send>(
        &self,
        batches: &[B],
        progress: &BatchProgress<'_>,
        work: impl Fn(&B) -> Result<T, Error> + Sync,
    ) -> Result<Vec<T>, Error> {
        let mut results = Vec::with_capacity(batches.len());
        for wave in batches.chunks(self.pool.threads()) {
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

impl Network {
    /// Opens a folder as the family that its configuration names.
    fn open(path: &Path, device: &Device) -> Result<Self, folder::Error> {
        #[derive(serde::Deserialize)]
        struct Family {
            #[serde(default)]
            model_type: String,
        }
        let config = std::fs::read(path.join(folder::CONFIG_FILE)).unwrap_or_default();
        // A folder without its own configuration may be a pre-trained MED. The loader of that
        // family reports any other error.
        match serde_json::from_slice::<Family>(&config) {
            Ok(family) if family.model_type == "clip" => {
                Clip::load(path, device).map(Box::new).map(Self::Clip)
            }
            _ => Med::open(path, device).map(Box::new).map(Self::Med),
        }
    }

    fn positions(&self) -> usize {
        match self {
            Self::Clip(clip) => clip.config().text_config.max_position_embeddings,
            Self::Med(med) => med.config().text_config.max_position_embeddings,
        }
    }

    fn vocabulary(&self) -> usize {
        match self {
            Self::Clip(clip) => clip.config().text_config.vocab_size,
            Self::Med(med) => med.config().text_config.vocab_size,
        }
    }
}

/// The settings of the stage as settings of `model`. `max_tokens` is limited to the model's positions,
/// and special tokens are banned.
fn decoding_of(
    decoding: &stage::Decoding,
    special: &SpecialIds,
    positions: usize,
) -> generate::Decoding {
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
        max_tokens: decoding.max_tokens.min(positions),
        repetition_penalty: decoding.repetition_penalty,
        no_repeat_ngram: decoding.no_repeat_ngram,
        banned: vec![
            special.pad,
            special.unk,
            special.cls,
            special.dec,
            special.enc,
        ],
    }
}

/// The values of a tensor in row-major order.
fn numbers(tensor: Tensor<2>) -> Vec<f32> {
    let data = tensor.into_data();
    data.as_slice::<f32>()
        .expect("networks compute in f32")
        .to_vec()
}
