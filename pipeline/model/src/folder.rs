//! Model folders in Hugging Face layout: `config.json`, `model.safetensors`, and
//! the tokenizer and picture preparation beside them.
//!
//! Names, shapes and completeness are checked strictly: a folder that holds a
//! tensor too many or too few is refused with the file and the tensor.

use serde::{Serialize, de::DeserializeOwned};
use std::path::{Path, PathBuf};

use crate::config::{self, Check};
use crate::params::Model;
use crate::preprocess::ImagePreprocess;
use crate::tokenizer::Tokenizer;
use crate::weights::{self, Naming};

/// File of the configuration.
pub const CONFIG_FILE: &str = "config.json";

/// What a model folder holds beside the network.
#[derive(Debug, Clone, Copy, Default)]
pub struct Assets<'a> {
    /// The vocabulary that the network was trained with.
    pub tokenizer: Option<&'a Tokenizer>,
    /// How pictures are prepared for it.
    pub preprocess: Option<&'a ImagePreprocess>,
}

/// What is wrong with a model folder.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{path}: cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("{path}: cannot be written")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A JSON file is not what it should be.
    #[error("{path}: not the expected JSON")]
    Json {
        /// The file.
        path: PathBuf,
        /// Which field.
        #[source]
        source: serde_json::Error,
    },
    /// A configuration describes no network.
    #[error("{path}: describes no network")]
    Sizes {
        /// The file.
        path: PathBuf,
        /// Which sizes.
        #[source]
        source: config::Error,
    },
    /// The weights.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// The two folders of a pre-trained MED are of different networks.
    #[error("{path}: describes another network than its twin in the other folder of this model")]
    SharedConfig {
        /// The second folder's configuration.
        path: PathBuf,
    },
    /// A folder of another kind of model.
    #[error("{path}: holds {found:?}, expected {expected}")]
    Class {
        /// The configuration.
        path: PathBuf,
        /// What it says.
        found: Vec<String>,
        /// What was asked for.
        expected: &'static str,
    },
    /// A folder whose tower the network cannot begin with.
    #[error(
        "{path}: model_type is {found:?}, expected {expected} for the {modality} tower of a {family}"
    )]
    Tower {
        /// The configuration.
        path: PathBuf,
        /// Its `model_type`.
        found: String,
        /// Which tower.
        modality: &'static str,
        /// Family of the network.
        family: &'static str,
        /// What it could begin with.
        expected: String,
    },
    /// A tower that computes something else with weights of the same shape, or has another depth.
    #[error("{path}: {key} is {found}, the network that is to begin with this tower has {own}")]
    TowerSizes {
        /// The configuration.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// The network's.
        own: String,
    },
    /// A text tower of other tokens.
    #[error(
        "{path}: token {id} is {found:?}, that of the vocabulary in training {}; it must begin with all tokens of this file",
        own.as_ref().map_or("none".to_owned(), |own| format!("{own:?}"))
    )]
    TowerVocabulary {
        /// The file.
        path: PathBuf,
        /// The first id that differs.
        id: usize,
        /// Its token in the file.
        found: String,
        /// Its token in training, if there is one.
        own: Option<String>,
    },
    /// The tokenizer beside the network.
    #[error(transparent)]
    Tokenizer(#[from] crate::tokenizer::Error),
    /// The preparation of pictures beside the network.
    #[error(transparent)]
    Preprocess(#[from] crate::preprocess::Unsupported),
}

/// Reads and checks `config.json`.
pub(crate) fn read_config<C: DeserializeOwned + Check>(folder: &Path) -> Result<C, Error> {
    let path = folder.join(CONFIG_FILE);
    let config: C = read_json(&path)?;
    config
        .check()
        .map_err(|source| Error::Sizes { path, source })?;
    Ok(config)
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = std::fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|source| Error::Json {
        path: path.to_owned(),
        source,
    })
}

pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|source| Error::Json {
        path: path.to_owned(),
        source,
    })?;
    text.push(b'\n');
    write_file(path, &text)
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    std::fs::write(path, bytes).map_err(|source| Error::Write {
        path: path.to_owned(),
        source,
    })
}

/// Writes a folder: the same model gives the same bytes.
pub(crate) fn write(
    folder: &Path,
    config: &impl Serialize,
    model: &dyn Model,
    naming: Naming,
    assets: &Assets,
) -> Result<(), Error> {
    std::fs::create_dir_all(folder).map_err(|source| Error::Write {
        path: folder.to_owned(),
        source,
    })?;
    write_json(&folder.join(CONFIG_FILE), config)?;
    weights::write(&folder.join(weights::WEIGHTS_FILE), model, naming)?;
    if let Some(tokenizer) = assets.tokenizer {
        tokenizer.save(folder)?;
    }
    if let Some(preprocess) = assets.preprocess {
        preprocess.save(folder)?;
    }
    Ok(())
}
