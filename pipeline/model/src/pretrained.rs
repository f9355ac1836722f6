//! Model folders of every family, by what their configuration says.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use rayon::prelude::*;
use serde::Deserialize;

use crate::blip::CAPTIONER_FOLDER;
use crate::folder::{self, CONFIG_FILE};
use crate::generate::Decoding;
use crate::network::Network;
use crate::preprocess::ImagePreprocess;
use crate::tokenizer::{self, Tokenizer};
use crate::tokens::TokenBatch;
use crate::weights::{self, Keep};
use crate::{Clip, Med, MedParts, towers};

/// How a model folder is read.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where the network lives; an autodiff device for training.
    pub device: Device,
    /// The parts of a MED that are asked for; those that the folder holds where absent.
    pub parts: Option<MedParts>,
    /// In what type weights are kept.
    pub keep: Keep,
}

impl Load {
    /// All of a folder, as it is stored.
    pub fn on(device: &Device) -> Self {
        Self {
            device: device.clone(),
            parts: None,
            keep: Keep::AsStored,
        }
    }

    /// These parts alone.
    pub fn parts(self, parts: MedParts) -> Self {
        Self {
            parts: Some(parts),
            ..self
        }
    }
}

/// The kinds of model that are known: the class that `config.json` names, the family that it
/// belongs to (for configurations that name no class), and how it is read.
struct Kind {
    class: &'static str,
    model_type: &'static str,
    open: Open,
}

type Open = fn(&Path, &Load) -> Result<Box<dyn Network>, folder::Error>;

const KINDS: &[Kind] = &[
    Kind {
        class: "CLIPModel",
        model_type: "clip",
        open: |path, load| Ok(Box::new(Clip::load(path, load)?)),
    },
    Kind {
        class: "BlipForConditionalGeneration",
        model_type: "blip",
        open: med,
    },
    Kind {
        class: "BlipForImageTextRetrieval",
        model_type: "blip",
        open: med,
    },
];

const CLASSES: &str = "CLIPModel, BlipForConditionalGeneration or BlipForImageTextRetrieval";

fn med(path: &Path, load: &Load) -> Result<Box<dyn Network>, folder::Error> {
    Ok(Box::new(Med::load(path, load)?))
}

#[derive(Deserialize)]
struct Class {
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    model_type: String,
}

/// Reads the network of a model folder.
///
/// # Errors
/// [`folder::Error`] names the file and what is wrong with it; one of no known class is refused
/// before anything else of its configuration is looked at.
pub fn open(path: &Path, load: &Load) -> Result<Box<dyn Network>, folder::Error> {
    let file = path.join(CONFIG_FILE);
    // A pre-trained MED is two folders.
    if !file.exists() && path.join(CAPTIONER_FOLDER).exists() {
        return med(path, load);
    }
    let class: Class = folder::read_json(&file)?;
    let found = class.architectures.unwrap_or_default();
    let kind = KINDS.iter().find(|kind| {
        let named = found.iter().any(|found| found == kind.class);
        named || (found.is_empty() && class.model_type == kind.model_type)
    });
    match kind {
        Some(kind) => (kind.open)(path, load),
        None => Err(folder::Error::Class {
            path: file,
            found: match found.is_empty() {
                true => vec![class.model_type],
                false => found,
            },
            expected: CLASSES,
        }),
    }
}

/// What `model` stages take.
const GIVEN: &str = "CLIPModel, BlipForConditionalGeneration, BlipForImageTextRetrieval, or a ViT or BERT for towers";

/// Reads all of a folder that a training can begin with: a whole model, or a ViT or BERT for one of
/// its towers ([`towers`]). Returns the number of its parameters.
///
/// # Errors
/// [`Error`], with the file and what is wrong with it.
pub fn inspect(path: &Path, load: &Load) -> Result<usize, Error> {
    if let Some(parameters) = towers::inspect(path, &load.device)? {
        return Ok(parameters);
    }
    match Pretrained::open(path, load) {
        Ok(model) => Ok(model.network.num_params()),
        Err(Error::Folder(folder::Error::Class { path, found, .. })) => {
            Err(Error::Folder(folder::Error::Class {
                path,
                found,
                expected: GIVEN,
            }))
        }
        Err(error) => Err(error),
    }
}

/// Tokens of a text at most that the network of a model folder takes, by its configuration alone.
///
/// # Errors
/// [`folder::Error`] names the file.
pub fn max_text_tokens(path: &Path) -> Result<usize, folder::Error> {
    #[derive(Deserialize)]
    struct Config {
        text_config: Text,
    }
    #[derive(Deserialize)]
    struct Text {
        max_position_embeddings: usize,
    }
    let own = path.join(CONFIG_FILE);
    let file = match own.exists() {
        true => own,
        false => path.join(CAPTIONER_FOLDER).join(CONFIG_FILE),
    };
    let config: Config = folder::read_json(&file)?;
    Ok(config.text_config.max_position_embeddings)
}

/// A network with its vocabulary and its preparation of pictures.
#[derive(Debug)]
pub struct Pretrained {
    /// The network.
    pub network: Box<dyn Network>,
    /// Its vocabulary.
    pub tokenizer: Tokenizer,
    /// Its preparation of pictures.
    pub preprocess: ImagePreprocess,
}

/// Parameters from which on the operations of a network are long enough to be split over threads.
const SPLIT_FROM: usize = 10_000_000;

/// What is wrong with a model folder. Each names the folder or the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Network, configuration or preparation of pictures.
    #[error(transparent)]
    Folder(#[from] folder::Error),
    /// The vocabulary.
    #[error("model folder {folder} has no usable tokenizer", folder = folder.display())]
    Tokenizer {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        #[source]
        source: tokenizer::Error,
    },
    /// Network and vocabulary do not belong together.
    #[error("model folder {folder}: the vocabulary has {tokens} tokens, the network {rows}", folder = folder.display())]
    Vocabulary {
        /// The folder.
        folder: PathBuf,
        /// Tokens of the vocabulary.
        tokens: usize,
        /// Rows of the embedding table.
        rows: usize,
    },
}

impl Pretrained {
    /// Reads all of a model folder: configuration, weights by name and shape, vocabulary,
    /// preparation of pictures.
    ///
    /// # Errors
    /// [`Error`], with the file and what is wrong with it.
    pub fn open(path: &Path, load: &Load) -> Result<Self, Error> {
        let network = open(path, load)?;
        let preprocess = ImagePreprocess::load(path)?;
        let tokenizer = Tokenizer::load(path).map_err(|source| Error::Tokenizer {
            folder: path.to_owned(),
            source,
        })?;
        let (tokens, rows) = (tokenizer.len(), network.vocab_size());
        if tokens > rows {
            return Err(Error::Vocabulary {
                folder: path.to_owned(),
                tokens,
                rows,
            });
        }
        Ok(Self {
            network,
            tokenizer,
            preprocess,
        })
    }
}

impl Pretrained {
    /// Pixels `[pictures, 3, side, side]` of encoded pictures.
    ///
    /// # Errors
    /// The place of the first picture that cannot be decoded, and why.
    pub fn pixels(
        &self,
        pictures: &[&[u8]],
    ) -> Result<Tensor<4>, (usize, crate::preprocess::Error)> {
        let prepared: Vec<Vec<f32>> = pictures
            .par_iter()
            .enumerate()
            .map(|(place, bytes)| {
                let pixels = self.preprocess.pixels(bytes);
                pixels.map_err(|error| (place, error))
            })
            .collect::<Result<_, _>>()?;
        Ok(self
            .preprocess
            .batch(prepared.concat(), self.network.device()))
    }

    /// Token ids of a text, cut to what the network reads.
    pub fn tokens(&self, text: &str) -> Vec<u32> {
        self.tokens_within(text, self.network.max_text_tokens())
    }

    /// Token ids of a text, cut to `longest` and to what the network reads.
    pub fn tokens_within(&self, text: &str, longest: usize) -> Vec<u32> {
        let longest = longest.min(self.network.max_text_tokens());
        self.tokenizer.encode(text, longest)
    }

    /// Token ids of what a text begins with, without the special tokens around it.
    pub fn prompt(&self, text: &str) -> Vec<u32> {
        if text.is_empty() {
            return Vec::new();
        }
        let ids = self.tokens(text);
        ids[1..ids.len() - 1].to_vec()
    }

    /// Rows of token ids, padded to one length.
    ///
    /// # Panics
    /// When there is no row.
    pub fn batch<R: AsRef<[u32]>>(&self, rows: &[R]) -> TokenBatch {
        TokenBatch::new(rows, self.tokenizer.special().pad)
    }

    /// `decoding` within the limits of this model: no more tokens behind the prompt than it has
    /// positions, and no special tokens.
    pub fn limited(&self, decoding: Decoding, prompt: &[u32]) -> Decoding {
        let special = self.tokenizer.special();
        let room = self.network.max_text_tokens().saturating_sub(prompt.len());
        Decoding {
            max_tokens: decoding.max_tokens.min(room),
            banned: vec![
                special.pad,
                special.unk,
                special.cls,
                special.dec,
                special.enc,
            ],
            ..decoding
        }
    }

    /// How many batches to compute at a time on `threads`: one where operations are split over
    /// threads, so that memory does not grow with these; one a thread for a small network, whose
    /// operations are too short for that.
    pub fn batches_at_a_time(&self, threads: usize) -> usize {
        match self.network.num_params() {
            SPLIT_FROM.. => 1,
            _ => threads,
        }
    }
}

impl Error {
    /// Whether the machine, not the folder, is at fault: a file is there and cannot be read.
    pub fn is_fault_of_machine(&self) -> bool {
        let Self::Folder(error) = self else {
            return false;
        };
        match error {
            folder::Error::Read { source, .. }
            | folder::Error::Weights(weights::Error::Read { source, .. }) => {
                source.kind() != std::io::ErrorKind::NotFound
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
