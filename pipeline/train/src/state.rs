//! What a training needs to go on as if it had never stopped, and its form as checkpoint files:
//! safetensors with an index.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};

/// The tensors' file.
const TENSORS: &str = "state.safetensors";
/// The index: which tensors lie in which file, and the counters.
const INDEX: &str = "state.index.json";

/// Everything that changes from step to step. Sample order and random draws are functions of the
/// step, so they need no state.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// The step to do next.
    pub step: u64,
    /// Updates that the optimiser has done.
    pub updates: u64,
    /// Digest of the names and shapes of the parameters: refuses another model's state.
    pub layout: String,
    /// All parameters, flat.
    pub params: Vec<f32>,
    /// AdamW's first moments.
    pub first: Vec<f32>,
    /// AdamW's second moments.
    pub second: Vec<f32>,
    /// Sums of the training curve.
    pub curve: Vec<f64>,
}

/// Why checkpoint files cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file is missing.
    #[error("checkpoint holds no `{name}`")]
    Missing {
        /// The file or tensor.
        name: &'static str,
    },
    /// The index is not what this program writes.
    #[error("checkpoint index `{INDEX}` is unreadable")]
    Index(#[source] serde_json::Error),
    /// The tensors are no safetensors file, or a tensor is of another type.
    #[error("checkpoint file `{TENSORS}` is unreadable")]
    Tensors(#[source] safetensors::SafeTensorError),
    /// A file of the checkpoint's folder cannot be read or written.
    #[error("cannot access {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A tensor has another type or length than the index says.
    #[error("checkpoint tensor `{name}` is not {expected} values of type {dtype:?}")]
    Tensor {
        /// The tensor.
        name: &'static str,
        /// Values that it should hold.
        expected: usize,
        /// Their type.
        dtype: Dtype,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    step: u64,
    updates: u64,
    layout: String,
    params: usize,
    curve: usize,
    /// Tensor name to file, as in sharded Hugging Face checkpoints.
    weight_map: BTreeMap<String, String>,
}

impl State {
    /// The files of a checkpoint, by name.
    ///
    /// # Errors
    /// [`StateError`] where the tensors cannot be written as safetensors.
    pub fn to_files(&self) -> Result<Vec<(String, Vec<u8>)>, StateError> {
        let floats = |values: &[f32]| Flat {
            dtype: Dtype::F32,
            shape: [values.len()],
            bytes: values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        };
        let curve = Flat {
            dtype: Dtype::F64,
            shape: [self.curve.len()],
            bytes: self
                .curve
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        };
        let tensors = [
            ("params", floats(&self.params)),
            ("adamw.first", floats(&self.first)),
            ("adamw.second", floats(&self.second)),
            ("curve", curve),
        ];
        let index = Index {
            step: self.step,
            updates: self.updates,
            layout: self.layout.clone(),
            params: self.params.len(),
            curve: self.curve.len(),
            weight_map: tensors
                .iter()
                .map(|(n, _)| ((*n).to_owned(), TENSORS.to_owned()))
                .collect(),
        };
        let index = serde_json::to_vec_pretty(&index).map_err(StateError::Index)?;
        let tensors = safetensors::serialize(tensors, None).map_err(StateError::Tensors)?;
        Ok(vec![
            (TENSORS.to_owned(), tensors),
            (INDEX.to_owned(), index),
        ])
    }

    /// Reads the files of a checkpoint; every length is checked.
    ///
    /// # Errors
    /// [`StateError`]: a file is missing or not what [`State::to_files`] writes.
    pub fn from_files(files: &[(String, Vec<u8>)]) -> Result<Self, StateError> {
        let file = |name: &'static str| {
            let found = files.iter().find(|(n, _)| n == name);
            found
                .map(|(_, bytes)| bytes.as_slice())
                .ok_or(StateError::Missing { name })
        };
        let index: Index = serde_json::from_slice(file(INDEX)?).map_err(StateError::Index)?;
        let tensors = SafeTensors::deserialize(file(TENSORS)?).map_err(StateError::Tensors)?;
        let bytes = |name: &'static str, expected: usize, dtype: Dtype| {
            let tensor = tensors.tensor(name).map_err(StateError::Tensors)?;
            if tensor.dtype() != dtype || tensor.shape() != [expected] {
                return Err(StateError::Tensor {
                    name,
                    expected,
                    dtype,
                });
            }
            Ok(tensor.data())
        };
        let floats = |name| {
            let data = bytes(name, index.params, Dtype::F32)?;
            let of = |b: &[u8]| f32::from_le_bytes(b.try_into().expect("chunks of four"));
            Ok(data.chunks_exact(4).map(of).collect::<Vec<f32>>())
        };
        let of = |b: &[u8]| f64::from_le_bytes(b.try_into().expect("chunks of eight"));
        Ok(Self {
            step: index.step,
            updates: index.updates,
            params: floats("params")?,
            first: floats("adamw.first")?,
            second: floats("adamw.second")?,
            curve: bytes("curve", index.curve, Dtype::F64)?
                .chunks_exact(8)
                .map(of)
                .collect(),
            layout: index.layout,
        })
    }
}

impl State {
    /// Writes the files of a checkpoint into `folder`, which exists.
    ///
    /// # Errors
    /// [`StateError::File`] names the file.
    pub fn write(&self, folder: &Path) -> Result<(), StateError> {
        for (name, bytes) in self.to_files()? {
            let path = folder.join(name);
            std::fs::write(&path, bytes).map_err(|source| StateError::File { path, source })?;
        }
        Ok(())
    }

    /// Reads the files of a checkpoint from `folder`.
    ///
    /// # Errors
    /// [`StateError`]: a file is missing or not what [`State::write`] writes.
    pub fn read(folder: &Path) -> Result<Self, StateError> {
        let read = |name: &str| {
            let path = folder.join(name);
            match std::fs::read(&path) {
                Ok(bytes) => Ok((name.to_owned(), bytes)),
                Err(source) => Err(StateError::File { path, source }),
            }
        };
        Self::from_files(&[read(TENSORS)?, read(INDEX)?])
    }
}

/// A flat tensor as bytes.
struct Flat {
    dtype: Dtype,
    shape: [usize; 1],
    bytes: Vec<u8>,
}

impl View for Flat {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            step: 40,
            updates: 40,
            layout: "abc".to_owned(),
            params: vec![1.0, -0.0, f32::MIN_POSITIVE, 1e30],
            first: vec![0.1; 4],
            second: vec![0.2; 4],
            curve: vec![40.0, 0.1 + 0.2, 1e-300],
        }
    }

    #[test]
    fn files_hold_every_bit() {
        let files = state().to_files().unwrap();
        let read = State::from_files(&files).unwrap();
        assert_eq!(read, state());
        assert_eq!(read.params[1].to_bits(), (-0.0f32).to_bits());
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            State::read(folder.path()),
            Err(StateError::File { .. })
        ));
        state().write(folder.path()).unwrap();
        assert_eq!(State::read(folder.path()).unwrap(), state());
    }

    #[test]
    fn broken_files_are_refused() {
        let files = state().to_files().unwrap();
        assert!(matches!(
            State::from_files(&files[..1]),
            Err(StateError::Missing { .. })
        ));
        let mut cut = files.clone();
        cut[0].1.truncate(100);
        assert!(matches!(
            State::from_files(&cut),
            Err(StateError::Tensors(_))
        ));
        let mut short = files;
        let index = String::from_utf8(short[1].1.clone()).unwrap();
        short[1].1 = index.replace("\"params\": 4", "\"params\": 5").into_bytes();
        assert!(matches!(
            State::from_files(&short),
            Err(StateError::Tensor { .. })
        ));
    }
}
