//! Weights in files: safetensors in one file or several, read straight into place.

mod read;
mod write;

use std::path::PathBuf;

use crate::params::Dtype;

pub(crate) use read::{Source, read};
pub(crate) use write::write;

/// File of the weights.
pub const WEIGHTS_FILE: &str = "model.safetensors";

/// Index of weights that lie in several files.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// Largest safetensors header that is read: names and shapes, never values.
pub const MAX_HEADER_BYTES: u64 = 16 << 20;

/// From the name of a parameter to the name under which a folder stores it;
/// `None` where the folder has no tensor for it.
pub(crate) type Naming = fn(&str) -> Option<String>;

/// The parameter's own name.
pub(crate) fn own_name(name: &str) -> Option<String> {
    Some(name.to_owned())
}

/// What is wrong with the weights of a folder.
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
        /// What the library said.
        #[source]
        source: safetensors::SafeTensorError,
    },
    /// The header is larger than any honest one.
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
    /// The index of several files is not what it should be.
    #[error("{path}: not an index of safetensors files")]
    Index {
        /// The file.
        path: PathBuf,
        /// Which field.
        #[source]
        source: serde_json::Error,
    },
    /// The index names a file outside of the folder.
    #[error("{path}: `{file}` is no file of this folder")]
    IndexFile {
        /// The index.
        path: PathBuf,
        /// What it names.
        file: String,
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
    /// A tensor of a tower does not fit the network that begins with it.
    #[error(
        "{path}: tensor `{tensor}` has shape {found:?}, the network needs {expected:?} for `{of}`"
    )]
    TowerShape {
        /// The file.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// The tensor of the network.
        of: String,
        /// Shape that the network needs in the file.
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
        dtype: safetensors::Dtype,
    },
    /// The two folders of a pre-trained MED disagree.
    #[error("{path}: tensor `{tensor}` differs from its twin in the other folder of this model")]
    Shared {
        /// The second folder's file.
        path: PathBuf,
        /// Its name there.
        tensor: String,
    },
}

/// Type in which read weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keep {
    /// That of the file; f32 for one of 64 bits and for what is trained.
    #[default]
    AsStored,
    /// This one.
    As(Dtype),
}
