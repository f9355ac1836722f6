//! Whether a folder of somebody else is a model that everything here can use.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::blip::CAPTIONER_FOLDER;
use crate::device::{self, DeviceSpec};
use crate::folder::{self, CONFIG_FILE};
use crate::preprocess::ImagePreprocess;
use crate::tokenizer::{self, Tokenizer};
use crate::weights::Model;
use crate::{Clip, Med, MedParts};

/// The class of a CLIP folder.
const CLIP_CLASS: &str = "CLIPModel";
const CLASSES: &str = "CLIPModel, BlipForConditionalGeneration or BlipForImageTextRetrieval";

/// What a model folder holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// What it is: `clip`, `captioner`, `filter`, or `captioner and filter` (a pre-trained MED).
    pub role: &'static str,
    /// Numbers in its weights.
    pub parameters: usize,
    /// Tokens of its vocabulary.
    pub tokens: usize,
}

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
        /// Tokens of `vocab.txt`.
        tokens: usize,
        /// Rows of the embedding table.
        rows: usize,
    },
    /// The processor cannot be computed on.
    #[error(transparent)]
    Device(#[from] device::Error),
}

#[derive(Deserialize)]
struct Class {
    #[serde(default)]
    architectures: Option<Vec<String>>,
}

/// Reads all of a model folder, as every use of it would: configuration, weights by name and
/// shape, vocabulary, preparation of pictures. Takes the memory of the weights.
///
/// # Errors
/// [`Error`], with the file and what is wrong with it.
pub fn inspect(path: &Path) -> Result<Inspected, Error> {
    let device = DeviceSpec::Cpu.open()?;
    let (role, parameters, rows) = match is_clip(path)? {
        true => {
            let clip = Clip::load(path, &device)?;
            let rows = clip.config().text_config.vocab_size;
            ("clip", clip.num_params(), rows)
        }
        false => {
            let med = Med::open(path, &device)?;
            let rows = med.config().text_config.vocab_size;
            let role = match med.parts() {
                MedParts::Captioner => "captioner",
                MedParts::Filter => "filter",
                MedParts::Both => "captioner and filter",
            };
            (role, med.num_params(), rows)
        }
    };
    ImagePreprocess::load(path)?;
    let tokenizer = Tokenizer::load(path).map_err(|source| Error::Tokenizer {
        folder: path.to_owned(),
        source,
    })?;
    let tokens = tokenizer.len();
    if tokens > rows {
        return Err(Error::Vocabulary {
            folder: path.to_owned(),
            tokens,
            rows,
        });
    }
    Ok(Inspected {
        role,
        parameters,
        tokens,
    })
}

/// Whether the folder says that it holds a CLIP; one of neither family is refused by its class,
/// before anything else of its configuration is looked at.
fn is_clip(path: &Path) -> Result<bool, Error> {
    let file = path.join(CONFIG_FILE);
    if !file.exists() && path.join(CAPTIONER_FOLDER).exists() {
        return Ok(false);
    }
    let class: Class = folder::read_json(&file)?;
    let found = class.architectures.unwrap_or_default();
    let is = |class: &str| found.iter().any(|found| found == class);
    if is(CLIP_CLASS) {
        return Ok(true);
    }
    if CLASSES.split([' ', ',']).any(is) {
        return Ok(false);
    }
    Err(Error::Folder(folder::Error::Class {
        path: file,
        found,
        expected: CLASSES,
    }))
}

#[cfg(test)]
mod tests;
