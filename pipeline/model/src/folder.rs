//! Model folders in Hugging Face layout: `config.json`, `model.safetensors`, and
//! the tokenizer and picture preparation beside them.
//!
//! Names, shapes and completeness are checked strictly: a folder that holds a
//! tensor too many or too few is refused with the file and the tensor.

use burn::tensor::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use crate::config::{self, Check};
use crate::preprocess::ImagePreprocess;
use crate::tokenizer::Tokenizer;
use crate::weights::Model;

/// Largest safetensors header that is read: names and shapes, never values.
pub const MAX_HEADER_BYTES: u64 = 16 << 20;

/// File of the configuration.
pub const CONFIG_FILE: &str = "config.json";

/// File of the weights.
pub const WEIGHTS_FILE: &str = "model.safetensors";

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
    /// The weights' header is larger than any honest one.
    #[error("{path}: a header of {bytes} bytes is over the limit of {MAX_HEADER_BYTES}")]
    Header {
        /// The file.
        path: PathBuf,
        /// What the file claims.
        bytes: u64,
    },
    /// Not a safetensors file.
    #[error("{path}: not a complete safetensors file")]
    Format {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        #[source]
        source: safetensors::SafeTensorError,
    },
    /// A tensor that the network needs is not there.
    #[error("{path}: tensor `{tensor}` is missing")]
    Missing {
        /// The file.
        path: PathBuf,
        /// Its name.
        tensor: String,
    },
    /// A tensor is there that the network does not have.
    #[error(
        "{path}: tensor `{tensor}` belongs to no layer of the network that config.json describes"
    )]
    Unused {
        /// The file.
        path: PathBuf,
        /// Its name.
        tensor: String,
    },
    /// A tensor has another shape.
    #[error("{path}: tensor `{tensor}` has shape {found:?}, config.json asks for {expected:?}")]
    Shape {
        /// The file.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape that follows from the configuration.
        expected: Vec<usize>,
    },
    /// A tensor is not of floats.
    #[error("{path}: tensor `{tensor}` is of {dtype:?}, not of floats")]
    Dtype {
        /// The file.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// Its type.
        dtype: Dtype,
    },
    /// The two folders of a pre-trained MED disagree.
    #[error("{path}: tensor `{tensor}` differs from its twin in the other folder of this model")]
    Shared {
        /// The second folder's file.
        path: PathBuf,
        /// Its name there.
        tensor: String,
    },
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
    /// The tokenizer beside the network.
    #[error(transparent)]
    Tokenizer(#[from] crate::tokenizer::Error),
    /// The preparation of pictures beside the network.
    #[error(transparent)]
    Preprocess(#[from] crate::preprocess::Unsupported),
}

/// From the name of a parameter to the name under which a folder stores it;
/// `None` where the folder has no tensor for it.
pub(crate) type Naming = fn(&str) -> Option<String>;

/// The parameter's own name.
pub(crate) fn own_name(name: &str) -> Option<String> {
    Some(name.to_owned())
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

/// The tensors of one `model.safetensors`, as f32.
#[derive(Debug)]
pub(crate) struct Tensors {
    path: PathBuf,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Tensors {
    /// Reads all of `folder/model.safetensors`.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(WEIGHTS_FILE);
        let bytes = std::fs::read(&path).map_err(|source| Error::Read {
            path: path.clone(),
            source,
        })?;
        if let Some(length) = bytes.first_chunk::<8>() {
            let length = u64::from_le_bytes(*length);
            if length > MAX_HEADER_BYTES {
                return Err(Error::Header {
                    path,
                    bytes: length,
                });
            }
        }
        let file = SafeTensors::deserialize(&bytes).map_err(|source| Error::Format {
            path: path.clone(),
            source,
        })?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            // Buffers of old checkpoints: the numbers 0, 1, 2 ...
            if name.ends_with("position_ids") {
                continue;
            }
            let values = floats(&view).ok_or_else(|| Error::Dtype {
                path: path.clone(),
                tensor: name.to_owned(),
                dtype: view.dtype(),
            })?;
            tensors.insert(name.to_owned(), (view.shape().to_vec(), values));
        }
        Ok(Self { path, tensors })
    }

    /// Takes one tensor of this shape.
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let (found, values) = self.tensors.remove(name).ok_or_else(|| Error::Missing {
            path: self.path.clone(),
            tensor: name.to_owned(),
        })?;
        if found != shape {
            return Err(Error::Shape {
                path: self.path.clone(),
                tensor: name.to_owned(),
                found,
                expected: shape.to_vec(),
            });
        }
        Ok(values)
    }

    /// Takes the copy of a tied matrix that some writers store, if it is there;
    /// it must equal `original`.
    pub fn take_tied(&mut self, name: &str, original: &[f32]) -> Result<(), Error> {
        match self.tensors.remove(name) {
            Some((_, values)) if !same_bits(&values, original) => Err(Error::Shared {
                path: self.path.clone(),
                tensor: name.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// No tensors.
    pub fn empty() -> Self {
        Self {
            path: PathBuf::new(),
            tensors: BTreeMap::new(),
        }
    }

    /// Fails if anything is left.
    pub fn finish(self) -> Result<(), Error> {
        match self.tensors.into_keys().next() {
            Some(tensor) => Err(Error::Unused {
                path: self.path,
                tensor,
            }),
            None => Ok(()),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

pub(crate) fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

fn floats(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let bytes = view.data();
    let values = match view.dtype() {
        Dtype::F32 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        Dtype::F64 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| f64::from_le_bytes(*b) as f32)
            .collect(),
        Dtype::F16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| f16::from_le_bytes(*b).to_f32())
            .collect(),
        Dtype::BF16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| bf16::from_le_bytes(*b).to_f32())
            .collect(),
        _ => return None,
    };
    Some(values)
}

/// Reads the weights of a folder into `model`; parameters that the folder has no
/// tensor for keep their values.
pub(crate) fn read_weights(
    folder: &Path,
    model: &mut impl Model,
    naming: Naming,
) -> Result<(), Error> {
    let mut tensors = Tensors::read(folder)?;
    let mut flat = model.to_flat();
    for slice in model.layout() {
        if let Some(name) = naming(&slice.name) {
            flat[slice.range].copy_from_slice(&tensors.take(&name, &slice.shape)?);
        }
    }
    tensors.finish()?;
    model.load_flat(&flat);
    Ok(())
}

/// Writes a folder: the same model gives the same bytes.
pub(crate) fn write(
    folder: &Path,
    config: &impl Serialize,
    model: &impl Model,
    naming: Naming,
    assets: &Assets,
) -> Result<(), Error> {
    std::fs::create_dir_all(folder).map_err(|source| Error::Write {
        path: folder.to_owned(),
        source,
    })?;
    write_json(&folder.join(CONFIG_FILE), config)?;
    write_weights(&folder.join(WEIGHTS_FILE), model, naming)?;
    if let Some(tokenizer) = assets.tokenizer {
        tokenizer.save(folder)?;
    }
    if let Some(preprocess) = assets.preprocess {
        preprocess.save(folder)?;
    }
    Ok(())
}

fn write_weights(path: &Path, model: &impl Model, naming: Naming) -> Result<(), Error> {
    let flat = model.to_flat();
    let bytes: Vec<u8> = flat.iter().flat_map(|value| value.to_le_bytes()).collect();
    let format = |source| Error::Format {
        path: path.to_owned(),
        source,
    };
    let mut views = Vec::new();
    for slice in model.layout() {
        if let Some(name) = naming(&slice.name) {
            let data = &bytes[4 * slice.range.start..4 * slice.range.end];
            views.push((
                name,
                TensorView::new(Dtype::F32, slice.shape, data).map_err(format)?,
            ));
        }
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let file = safetensors::serialize(views, Some(metadata)).map_err(format)?;
    write_file(path, &file)
}
