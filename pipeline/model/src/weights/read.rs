//! Reads tensors from files into parameters, each value once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use burn::tensor::{bf16, f16};
use rayon::prelude::*;
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype as Stored, Metadata};
use serde::Deserialize;

use super::{Error, INDEX_FILE, Keep, MAX_HEADER_BYTES, Naming, WEIGHTS_FILE};
use crate::params::{Dtype, Model, Param, Role, Values};

/// Bytes that are converted at a time.
const CONVERT_BYTES: usize = 1 << 20;

/// The tensors of a folder.
#[derive(Debug)]
pub(crate) struct Source {
    files: Vec<Open>,
    tensors: BTreeMap<String, Place>,
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: File,
}

/// Where a tensor lies.
#[derive(Debug, Clone)]
struct Place {
    file: usize,
    /// Its name there.
    name: String,
    start: u64,
    bytes: u64,
    dtype: Stored,
    shape: Vec<usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Source {
    /// Reads the headers of `model.safetensors`, or of the files that its index names.
    ///
    /// # Errors
    /// [`Error`] names the file.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let mut source = Self {
            files: Vec::new(),
            tensors: BTreeMap::new(),
        };
        let index = folder.join(INDEX_FILE);
        if folder.join(WEIGHTS_FILE).exists() || !index.exists() {
            source.add(folder.join(WEIGHTS_FILE))?;
            return Ok(source);
        }
        for file in files_of(&index)? {
            source.add(folder.join(file))?;
        }
        Ok(source)
    }

    fn add(&mut self, path: PathBuf) -> Result<(), Error> {
        let read = |source| Error::Read {
            path: path.clone(),
            source,
        };
        let file = File::open(&path).map_err(read)?;
        let size = file.metadata().map_err(read)?.len();
        let (header, metadata) = header(&path, &file, size)?;
        for (name, info) in metadata.tensors() {
            // Buffers of old checkpoints: the numbers 0, 1, 2 ...
            if name.ends_with("position_ids") {
                continue;
            }
            let (start, end) = info.data_offsets;
            let place = Place {
                file: self.files.len(),
                name: name.clone(),
                start: header + start as u64,
                bytes: (end - start) as u64,
                dtype: info.dtype,
                shape: info.shape.clone(),
            };
            self.tensors.insert(name, place);
        }
        self.files.push(Open { path, file });
        Ok(())
    }

    /// Gives every tensor the name that `select` says, and forgets those for which it says none.
    pub fn select(&mut self, select: fn(&str) -> Option<String>) {
        let tensors = std::mem::take(&mut self.tensors).into_iter();
        self.tensors = tensors
            .filter_map(|(name, place)| Some((select(&name)?, place)))
            .collect();
    }

    /// Names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// File, name in it and shape of a tensor.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub fn find(&self, name: &str) -> Result<(&Path, &str, &[usize]), Error> {
        let place = self.place(name)?;
        let path = &self.files[place.file].path;
        Ok((path, &place.name, &place.shape))
    }

    /// All values of a tensor.
    ///
    /// # Errors
    /// [`Error`] names the file and the tensor.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>, Error> {
        let shape = self.place(name)?.shape.clone();
        let mut values = Values::zeros(Dtype::F32, shape.iter().product());
        self.read(name, &shape, &mut values, 0)?;
        match values {
            Values::F32(values) => Ok(values),
            _ => unreachable!("the type that was asked for"),
        }
    }

    /// Number of values in all tensors.
    pub fn len(&self) -> usize {
        let sizes = self.tensors.values();
        sizes
            .map(|place| place.shape.iter().product::<usize>())
            .sum()
    }

    fn place(&self, name: &str) -> Result<&Place, Error> {
        self.tensors.get(name).ok_or_else(|| Error::Missing {
            path: self.path().to_owned(),
            tensor: name.to_owned(),
        })
    }

    /// The first file, for errors about all of them.
    pub fn path(&self) -> &Path {
        &self.files[0].path
    }

    /// Type of a tensor's values in memory if they are not to be changed.
    fn dtype(&self, name: &str) -> Dtype {
        match self.tensors.get(name).map(|place| place.dtype) {
            Some(Stored::BF16) => Dtype::Bf16,
            Some(Stored::F16) => Dtype::F16,
            _ => Dtype::F32,
        }
    }

    /// Reads a tensor of this shape into `to[first..]`.
    fn read(
        &self,
        name: &str,
        shape: &[usize],
        to: &mut Values,
        first: usize,
    ) -> Result<(), Error> {
        let place = self.place(name)?;
        let Open { path, file } = &self.files[place.file];
        if place.shape != shape {
            return Err(Error::Shape {
                path: path.clone(),
                tensor: place.name.clone(),
                found: place.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        if !matches!(
            place.dtype,
            Stored::F64 | Stored::F32 | Stored::F16 | Stored::BF16
        ) {
            return Err(Error::Dtype {
                path: path.clone(),
                tensor: place.name.clone(),
                dtype: place.dtype,
            });
        }
        let len = shape.iter().product::<usize>();
        place
            .read(file, to, first..first + len)
            .map_err(|source| Error::Read {
                path: path.clone(),
                source,
            })
    }

    /// Fails if a tensor is left that is not in `used`.
    pub fn finish(&self, used: &BTreeSet<String>) -> Result<(), Error> {
        match self.tensors.iter().find(|(name, _)| !used.contains(*name)) {
            Some((_, place)) => Err(Error::Unused {
                path: self.files[place.file].path.clone(),
                tensor: place.name.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Fails if the copy of a tied tensor that some writers store differs from the values of
    /// `original`; whether there is one.
    pub fn check_tied(&self, name: &str, original: &Param) -> Result<bool, Error> {
        let Some(place) = self.tensors.get(name) else {
            return Ok(false);
        };
        let mut values = Values::zeros(original.dtype(), original.len());
        self.read(name, &place.shape.clone(), &mut values, 0)?;
        if original.has_bits(&values) {
            return Ok(true);
        }
        Err(Error::Shared {
            path: self.files[place.file].path.clone(),
            tensor: name.to_owned(),
        })
    }
}

fn files_of(index: &Path) -> Result<BTreeSet<String>, Error> {
    let text = std::fs::read(index).map_err(|source| Error::Read {
        path: index.to_owned(),
        source,
    })?;
    let read: Index = serde_json::from_slice(&text).map_err(|source| Error::Index {
        path: index.to_owned(),
        source,
    })?;
    let files: BTreeSet<String> = read.weight_map.into_values().collect();
    let plain = |file: &String| Path::new(file).file_name() == Some(file.as_ref());
    match files.iter().find(|file| !plain(file)) {
        Some(file) => Err(Error::IndexFile {
            path: index.to_owned(),
            file: file.clone(),
        }),
        None => Ok(files),
    }
}

/// Where the values of a file begin, and what the header says.
fn header(path: &Path, file: &File, size: u64) -> Result<(u64, Metadata), Error> {
    let format = |source| Error::Format {
        path: path.to_owned(),
        source,
    };
    let read = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let mut length = [0; 8];
    if size < 8 {
        return Err(format(SafeTensorError::HeaderTooSmall));
    }
    file.read_exact_at(&mut length, 0).map_err(read)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES {
        return Err(Error::Header {
            path: path.to_owned(),
            bytes: length,
        });
    }
    if length > size - 8 {
        return Err(format(SafeTensorError::InvalidHeaderLength));
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 8).map_err(read)?;
    let metadata: Metadata = serde_json::from_slice(&bytes)
        .map_err(|source| format(SafeTensorError::InvalidHeaderDeserialization(source)))?;
    if 8 + length + metadata.data_len() as u64 != size {
        return Err(format(SafeTensorError::MetadataIncompleteBuffer));
    }
    Ok((8 + length, metadata))
}

impl Place {
    fn read(
        &self,
        file: &File,
        to: &mut Values,
        range: std::ops::Range<usize>,
    ) -> std::io::Result<()> {
        match (to, self.dtype) {
            (Values::F32(to), Stored::F32) => self.fill(file, &mut to[range]),
            (Values::Bf16(to), Stored::BF16) => self.fill(file, &mut to[range]),
            (Values::F16(to), Stored::F16) => self.fill(file, &mut to[range]),
            (Values::F32(to), _) => self.convert(file, &mut to[range], |value| value),
            (Values::Bf16(to), _) => self.convert(file, &mut to[range], bf16::from_f32),
            (Values::F16(to), _) => self.convert(file, &mut to[range], f16::from_f32),
        }
    }

    /// Reads values that are kept as they are stored.
    fn fill<T: bytemuck::Pod>(&self, file: &File, to: &mut [T]) -> std::io::Result<()> {
        const {
            assert!(
                cfg!(target_endian = "little"),
                "safetensors is little-endian"
            )
        };
        file.read_exact_at(bytemuck::cast_slice_mut(to), self.start)
    }

    fn convert<T>(
        &self,
        file: &File,
        mut to: &mut [T],
        convert: fn(f32) -> T,
    ) -> std::io::Result<()> {
        let mut buffer = vec![0; CONVERT_BYTES.min(self.bytes as usize)];
        let mut at = 0;
        while at < self.bytes {
            let count = buffer.len().min((self.bytes - at) as usize);
            let bytes = &mut buffer[..count];
            file.read_exact_at(bytes, self.start + at)?;
            at += count as u64;
            let mut put = |values: &mut dyn Iterator<Item = f32>| {
                let mut done = 0;
                for (to, value) in to.iter_mut().zip(values) {
                    *to = convert(value);
                    done += 1;
                }
                done
            };
            let done = match self.dtype {
                Stored::F64 => put(&mut bytes
                    .as_chunks()
                    .0
                    .iter()
                    .map(|b| f64::from_le_bytes(*b) as f32)),
                Stored::F32 => put(&mut bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
                Stored::F16 => put(&mut bytes
                    .as_chunks()
                    .0
                    .iter()
                    .map(|b| f16::from_le_bytes(*b).to_f32())),
                _ => put(&mut bytes
                    .as_chunks()
                    .0
                    .iter()
                    .map(|b| bf16::from_le_bytes(*b).to_f32())),
            };
            to = &mut to[done..];
        }
        Ok(())
    }
}

/// Reads the weights of a folder into `model`. Parameters that the folder has no tensor for keep
/// their values; those that `before` has read already must be equal. Gives the names that were
/// used.
///
/// # Errors
/// [`Error`] names the file and the tensor.
pub(crate) fn read(
    source: &Source,
    model: &mut dyn Model,
    naming: Naming,
    before: Option<Naming>,
    keep: Keep,
) -> Result<BTreeSet<String>, Error> {
    let trains = model.device().is_autodiff();
    let named = |param: &Param, naming: Naming| -> Option<Vec<String>> {
        let parts = param.parts().iter();
        parts.map(|part| naming(&part.name)).collect()
    };
    let mut wanted = Vec::new();
    let mut used = BTreeSet::new();
    for param in model.params_mut() {
        if let Some(names) = named(param, naming) {
            used.extend(names.iter().cloned());
            let read = before.is_some_and(|before| named(param, before).is_some());
            wanted.push((param, names, read));
        }
    }
    wanted
        .into_par_iter()
        .try_for_each(|(param, names, read)| {
            let dtype = match keep {
                Keep::As(dtype) => dtype,
                Keep::AsStored if trains && param.role() == Role::Trained => Dtype::F32,
                Keep::AsStored => common(names.iter().map(|name| source.dtype(name))),
            };
            let mut values = Values::zeros(dtype, param.len());
            let mut first = 0;
            for (part, name) in param.parts().iter().zip(&names) {
                source.read(name, &part.shape, &mut values, first)?;
                first += part.len();
            }
            if !read {
                param.set(values);
            } else if !param.has_bits(&values) {
                return Err(Error::Shared {
                    path: source.path().to_owned(),
                    tensor: names[0].clone(),
                });
            }
            Ok(())
        })?;
    Ok(used)
}

/// The type of all, or f32.
fn common(mut dtypes: impl Iterator<Item = Dtype>) -> Dtype {
    let first = dtypes.next().unwrap_or(Dtype::F32);
    if dtypes.all(|dtype| dtype == first) {
        first
    } else {
        Dtype::F32
    }
}
