//! What a training needs to go on as if it had never stopped, and its form as checkpoint files:
//! safetensors with an index.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};

use crate::Validated;
use crate::momentum::{Buffers, Classes, Queue};

/// The tensors' file.
const TENSORS: &str = "state.safetensors";
/// The index: which tensors lie in which file, and the counters.
const INDEX: &str = "state.index.json";
/// The tensor of the validation's measurements.
const POINTS: &str = "validation.points";
/// The tensor of the best parameters.
const BEST: &str = "validation.best";

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
    /// Momentum copies and queue; `None` where the training has none.
    pub buffers: Option<Buffers>,
    /// What was measured on the validation set.
    pub validation: Validated,
}

/// Why checkpoint files cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The index is not what this program writes.
    #[error("checkpoint index `{INDEX}` is unreadable")]
    Index(#[source] serde_json::Error),
    /// The tensors are no safetensors file, or a tensor is of another type.
    #[error("checkpoint file `{TENSORS}` is unreadable")]
    Tensors(#[source] SafeTensorError),
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
    /// The parts of the queue do not fit together.
    #[error("checkpoint tensors `queue.*` do not make a queue")]
    Queue,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    step: u64,
    updates: u64,
    layout: String,
    params: usize,
    curve: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    buffers: Option<BuffersIndex>,
    /// Values of the validation and parameters of its best step, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    validation: Option<[usize; 2]>,
    /// Tensor name to file, as in sharded Hugging Face checkpoints.
    weight_map: BTreeMap<String, String>,
}

/// Sizes of the momentum copies and of the queue.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BuffersIndex {
    copies: usize,
    capacity: usize,
    width: usize,
    next: usize,
}

/// In the place of a class where an entry of the queue belongs to no sample.
const NO_CLASS: u64 = u64::MAX;

impl State {
    /// Writes the files of a checkpoint into `folder`, which exists.
    ///
    /// # Errors
    /// [`StateError`] where a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), StateError> {
        let Validated { points, best } = &self.validation;
        let mut tensors = vec![
            ("params", Flat::new(&self.params, Dtype::F32)),
            ("adamw.first", Flat::new(&self.first, Dtype::F32)),
            ("adamw.second", Flat::new(&self.second, Dtype::F32)),
            ("curve", Flat::new(&self.curve, Dtype::F64)),
        ];
        let classes = self.buffers.as_ref().map(classes);
        if let Some((buffers, [pictures, words])) = self.buffers.as_ref().zip(classes.as_ref()) {
            let [images, texts] = buffers.queue.features();
            tensors.extend([
                ("momentum", Flat::new(&buffers.copies, Dtype::F32)),
                ("queue.images", Flat::new(images, Dtype::F32)),
                ("queue.texts", Flat::new(texts, Dtype::F32)),
                ("queue.picture_classes", Flat::new(pictures, Dtype::U64)),
                ("queue.text_classes", Flat::new(words, Dtype::U64)),
            ]);
        }
        let has_validation = !points.is_empty();
        if has_validation {
            tensors.push((POINTS, Flat::new(points, Dtype::F64)));
            tensors.push((BEST, Flat::new(best, Dtype::F32)));
        }
        let index = Index {
            step: self.step,
            updates: self.updates,
            layout: self.layout.clone(),
            params: self.params.len(),
            curve: self.curve.len(),
            buffers: self.buffers.as_ref().map(|buffers| BuffersIndex {
                copies: buffers.copies.len(),
                capacity: buffers.queue.capacity(),
                width: buffers.queue.width(),
                next: buffers.queue.next(),
            }),
            validation: has_validation.then_some([points.len(), best.len()]),
            weight_map: tensors
                .iter()
                .map(|(n, _)| ((*n).to_owned(), TENSORS.to_owned()))
                .collect(),
        };
        let index = serde_json::to_vec_pretty(&index).map_err(StateError::Index)?;
        let path = folder.join(TENSORS);
        safetensors::serialize_to_file(tensors, None, &path).map_err(|error| match error {
            // A full disk, for example: the machine's fault, so another one may go on.
            SafeTensorError::IoError(source) => StateError::File { path, source },
            error => StateError::Tensors(error),
        })?;
        let path = folder.join(INDEX);
        std::fs::write(&path, index).map_err(|source| StateError::File { path, source })
    }

    /// Reads the files of a checkpoint from `folder`; every length is checked.
    ///
    /// # Errors
    /// [`StateError`]: a file is missing or not what [`State::write`] writes.
    pub fn read(folder: &Path) -> Result<Self, StateError> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|source| StateError::File { path, source })
        };
        let index: Index = serde_json::from_slice(&read(INDEX)?).map_err(StateError::Index)?;
        let bytes = read(TENSORS)?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(StateError::Tensors)?;
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
        let floats = |name, expected| {
            let chunks = bytes(name, expected, Dtype::F32)?.as_chunks().0;
            Ok::<Vec<f32>, StateError>(chunks.iter().map(|b| f32::from_le_bytes(*b)).collect())
        };
        let doubles = |name, expected| {
            let chunks = bytes(name, expected, Dtype::F64)?.as_chunks().0;
            Ok::<Vec<f64>, StateError>(chunks.iter().map(|b| f64::from_le_bytes(*b)).collect())
        };
        let classes = |name, expected| {
            let chunks = bytes(name, expected, Dtype::U64)?.as_chunks().0;
            Ok::<Vec<u64>, StateError>(chunks.iter().map(|b| u64::from_le_bytes(*b)).collect())
        };
        let buffers = |sizes: BuffersIndex| {
            let features = sizes.capacity.saturating_mul(sizes.width);
            let pictures = classes("queue.picture_classes", sizes.capacity)?;
            let words = classes("queue.text_classes", sizes.capacity)?;
            let pairs = pictures.into_iter().zip(words);
            let classes = pairs.map(|(picture, text)| {
                (picture != NO_CLASS || text != NO_CLASS).then_some(Classes { picture, text })
            });
            let queue = Queue::from_parts(
                floats("queue.images", features)?,
                floats("queue.texts", features)?,
                sizes.width,
                classes.collect(),
                sizes.next,
            );
            Ok::<Buffers, StateError>(Buffers {
                copies: floats("momentum", sizes.copies)?,
                queue: queue.ok_or(StateError::Queue)?,
            })
        };
        let validation = match index.validation {
            Some([points, best]) => Validated {
                points: doubles(POINTS, points)?,
                best: floats(BEST, best)?,
            },
            None => Validated::default(),
        };
        Ok(Self {
            step: index.step,
            updates: index.updates,
            params: floats("params", index.params)?,
            first: floats("adamw.first", index.params)?,
            second: floats("adamw.second", index.params)?,
            buffers: index.buffers.map(buffers).transpose()?,
            curve: doubles("curve", index.curve)?,
            validation,
            layout: index.layout,
        })
    }
}

/// The picture and the text class of each entry of the queue.
fn classes(buffers: &Buffers) -> [Vec<u64>; 2] {
    let side = |class: fn(&Classes) -> u64| {
        let entries = buffers.queue.classes().iter();
        entries
            .map(|entry| entry.as_ref().map_or(NO_CLASS, class))
            .collect()
    };
    [side(|entry| entry.picture), side(|entry| entry.text)]
}

/// A flat tensor that is written from where it lies.
struct Flat<'a> {
    dtype: Dtype,
    shape: [usize; 1],
    bytes: &'a [u8],
}

impl<'a> Flat<'a> {
    fn new<T: bytemuck::Pod>(values: &'a [T], dtype: Dtype) -> Self {
        Self {
            dtype,
            shape: [values.len()],
            bytes: bytemuck::cast_slice(values),
        }
    }
}

impl View for Flat<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.bytes)
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
            buffers: None,
            validation: Validated {
                points: vec![40.0, 0.1 + 0.2],
                best: vec![-0.0, 2.0, 3.0, 4.0],
            },
        }
    }

    fn with_buffers() -> State {
        let classes = Classes {
            picture: 7,
            text: u64::MAX,
        };
        let (images, texts) = (vec![0.5, -0.0, 1e-30, 4.0], vec![0.1; 4]);
        let queue = Queue::from_parts(images, texts, 2, vec![Some(classes), None], 1);
        State {
            buffers: Some(Buffers {
                copies: vec![1.5, -2.5, 0.0],
                queue: queue.unwrap(),
            }),
            ..state()
        }
    }

    #[test]
    fn files_hold_every_bit() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            State::read(folder.path()),
            Err(StateError::File { .. })
        ));
        state().write(folder.path()).unwrap();
        let read = State::read(folder.path()).unwrap();
        assert_eq!(read, state());
        assert_eq!(read.params[1].to_bits(), (-0.0f32).to_bits());
        assert_eq!(read.validation.best[0].to_bits(), (-0.0f32).to_bits());
        // A training without validation writes what earlier versions read.
        let plain = State {
            validation: Validated::default(),
            ..state()
        };
        plain.write(folder.path()).unwrap();
        let index = std::fs::read_to_string(folder.path().join(INDEX)).unwrap();
        assert!(!index.contains("validation"), "{index}");
        assert_eq!(State::read(folder.path()).unwrap(), plain);
    }

    #[test]
    fn momentum_copies_and_queue_are_part_of_the_files() {
        let folder = tempfile::tempdir().unwrap();
        with_buffers().write(folder.path()).unwrap();
        assert_eq!(State::read(folder.path()).unwrap(), with_buffers());
        let path = folder.path().join(INDEX);
        let index = std::fs::read_to_string(&path).unwrap();
        let wrong = index.replace("\"next\": 1", "\"next\": 2");
        assert_ne!(wrong, index);
        std::fs::write(&path, wrong).unwrap();
        let error = State::read(folder.path()).unwrap_err();
        assert!(matches!(error, StateError::Queue), "{error}");
    }

    #[test]
    fn files_without_momentum_and_validation_are_those_of_earlier_versions() {
        let folder = tempfile::tempdir().unwrap();
        let plain = State {
            validation: Validated::default(),
            ..state()
        };
        plain.write(folder.path()).unwrap();
        let index = std::fs::read_to_string(folder.path().join(INDEX)).unwrap();
        let index: serde_json::Value = serde_json::from_str(&index).unwrap();
        let keys: Vec<&String> = index.as_object().unwrap().keys().collect();
        let known = ["step", "updates", "layout", "params", "curve", "weight_map"];
        assert_eq!(keys, known);
        let tensors: Vec<&String> = index["weight_map"].as_object().unwrap().keys().collect();
        assert_eq!(tensors, ["adamw.first", "adamw.second", "curve", "params"]);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_not_a_broken_one() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(TENSORS)).unwrap();
        let error = state().write(folder.path()).unwrap_err();
        let path = folder.path().join(TENSORS);
        assert!(
            matches!(&error, StateError::File { path: of, .. } if *of == path),
            "{error:?}"
        );
    }

    #[test]
    fn broken_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let read = |spoil: &dyn Fn(&str) -> Option<Vec<u8>>| {
            state().write(folder.path()).unwrap();
            for name in [TENSORS, INDEX] {
                if let Some(bytes) = spoil(name) {
                    std::fs::write(folder.path().join(name), bytes).unwrap();
                }
            }
            State::read(folder.path()).unwrap_err()
        };
        let bytes = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        let cut = read(&|name| (name == TENSORS).then(|| bytes(name)[..100].to_vec()));
        assert!(matches!(cut, StateError::Tensors(_)), "{cut}");
        let short = read(&|name| {
            let text = (name == INDEX).then(|| String::from_utf8(bytes(name)).unwrap());
            text.map(|text| text.replace("\"params\": 4", "\"params\": 5").into_bytes())
        });
        assert!(matches!(short, StateError::Tensor { .. }), "{short}");
        state().write(folder.path()).unwrap();
        std::fs::remove_file(folder.path().join(TENSORS)).unwrap();
        let missing = State::read(folder.path()).unwrap_err();
        assert!(matches!(missing, StateError::File { .. }), "{missing}");
    }
}
