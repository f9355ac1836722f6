//! Names under which other programs store the weights of a network, and their configurations.
//!
//! A [`Stored`] says for each tensor of a network where its values lie in such a file. Reading is
//! [`flat`]: it takes the tensors as they were read and gives the vector for
//! [`crate::Model::load_flat`]. [`tensors`] is the way back. [`crate::towers`] reads the files of
//! `vit` and `bert`, which hold one tower.

pub(crate) mod bert;
pub mod blip;
pub mod open_clip;
pub(crate) mod vit;

use std::collections::BTreeMap;

use crate::params::ParamSlice;

/// Where the values of one tensor lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Name in the file.
    pub name: String,
    /// Which of its values, and in which order.
    pub view: View,
}

/// Which values of a stored tensor make up a tensor of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// All of them, in order.
    Whole,
    /// One third of the rows: query, key or value of a fused projection.
    Third(usize),
    /// The transposed matrix.
    Transposed,
}

/// A tensor of a file: shape and values.
pub type Tensor = (Vec<usize>, Vec<f32>);

/// What is wrong with the weights of another program.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A tensor of the network has no name in that format.
    #[error("tensor `{0}` has no name in this format")]
    Unnamed(String),
    /// A tensor is not there.
    #[error("tensor `{0}` is missing")]
    Missing(String),
    /// A tensor has another number of values.
    #[error("tensor `{name}` has shape {found:?}, the configuration asks for {expected:?}")]
    Shape {
        /// Name in the file.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape that the network needs.
        expected: Vec<usize>,
    },
    /// A tensor belongs to no layer.
    #[error("tensor `{0}` belongs to no layer of the network")]
    Unused(String),
    /// The configuration describes a network that is not supported.
    #[error("the configuration is not supported: {0}")]
    Config(String),
}

impl View {
    /// The values of this view, if the tensor has them.
    fn of(self, tensor: &Tensor, shape: &[usize]) -> Option<Vec<f32>> {
        let (found, values) = tensor;
        let len: usize = shape.iter().product();
        match self {
            Self::Whole => (values.len() == len).then(|| values.clone()),
            Self::Third(third) => {
                let range = third * len..(third + 1) * len;
                (values.len() == 3 * len).then(|| values[range].to_vec())
            }
            Self::Transposed => {
                let [rows, columns] = found[..] else {
                    return None;
                };
                let at = |place: usize| values[place % rows * columns + place / rows];
                (shape == [columns, rows]).then(|| (0..len).map(at).collect())
            }
        }
    }
}

/// The parameters of a network with this layout as one vector.
///
/// - `place`: where the values of a tensor of the network lie.
/// - `extra`: names of the file that no parameter needs, such as buffers.
///
/// # Errors
/// [`Error`] names the tensor.
pub fn flat(
    layout: &[ParamSlice],
    tensors: &BTreeMap<String, Tensor>,
    place: &dyn Fn(&str) -> Option<Stored>,
    extra: &dyn Fn(&str) -> bool,
) -> Result<Vec<f32>, Error> {
    let mut flat = Vec::with_capacity(layout.last().map_or(0, |slice| slice.range.end));
    let mut used = std::collections::BTreeSet::new();
    for slice in layout {
        let stored = place(&slice.name).ok_or_else(|| Error::Unnamed(slice.name.clone()))?;
        let tensor = tensors
            .get(&stored.name)
            .ok_or_else(|| Error::Missing(stored.name.clone()))?;
        let values = stored.view.of(tensor, &slice.shape);
        flat.extend(values.ok_or_else(|| Error::Shape {
            name: stored.name.clone(),
            found: tensor.0.clone(),
            expected: slice.shape.clone(),
        })?);
        used.insert(stored.name);
    }
    let unused = tensors
        .keys()
        .find(|name| !used.contains(*name) && !extra(name));
    match unused {
        Some(name) => Err(Error::Unused(name.clone())),
        None => Ok(flat),
    }
}

/// The tensors of such a file from a network's flat vector: parameters, gradients or moments. Thirds
/// of one tensor are joined.
///
/// # Errors
/// [`Error::Unnamed`].
pub fn tensors(
    layout: &[ParamSlice],
    flat: &[f32],
    place: &dyn Fn(&str) -> Option<Stored>,
) -> Result<BTreeMap<String, Tensor>, Error> {
    let mut tensors = BTreeMap::new();
    for slice in layout {
        let stored = place(&slice.name).ok_or_else(|| Error::Unnamed(slice.name.clone()))?;
        let values = &flat[slice.range.clone()];
        let tensor = match stored.view {
            View::Whole => (slice.shape.clone(), values.to_vec()),
            View::Transposed => {
                let transposed: Vec<usize> = slice.shape.iter().rev().copied().collect();
                let back =
                    View::Transposed.of(&(slice.shape.clone(), values.to_vec()), &transposed);
                (transposed, back.unwrap_or_default())
            }
            View::Third(third) => {
                let mut shape = slice.shape.clone();
                shape[0] *= 3;
                let blank = || (shape, vec![0.0; 3 * values.len()]);
                let (_, all) = tensors.entry(stored.name).or_insert_with(blank);
                all[third * values.len()..][..values.len()].copy_from_slice(values);
                continue;
            }
        };
        tensors.insert(stored.name, tensor);
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(name: &str, shape: &[usize], start: usize) -> ParamSlice {
        let len: usize = shape.iter().product();
        ParamSlice {
            name: name.to_owned(),
            shape: shape.to_vec(),
            range: start..start + len,
            decay: true,
        }
    }

    fn place(name: &str) -> Option<Stored> {
        let (name, view) = match name {
            "q" => ("qkv", View::Third(0)),
            "v" => ("qkv", View::Third(2)),
            "proj" => ("proj", View::Transposed),
            _ => return None,
        };
        Some(Stored {
            name: name.to_owned(),
            view,
        })
    }

    const EXPECTED: [f32; 10] = [0., 1., 4., 5., 0., 3., 1., 4., 2., 5.];

    #[test]
    fn views_give_thirds_and_transposed_matrices() {
        let layout = [
            slice("q", &[1, 2], 0),
            slice("v", &[1, 2], 2),
            slice("proj", &[3, 2], 4),
        ];
        let back = super::tensors(&layout, &EXPECTED, &place).unwrap();
        assert_eq!(back["proj"], (vec![2, 3], vec![0., 1., 2., 3., 4., 5.]));
        assert_eq!(back["qkv"], (vec![3, 2], vec![0., 1., 0., 0., 4., 5.]));
        let numbers = |shape: &[usize]| {
            let len: usize = shape.iter().product();
            (shape.to_vec(), (0..len).map(|i| i as f32).collect())
        };
        let mut tensors = BTreeMap::from([
            ("qkv".to_owned(), numbers(&[3, 2])),
            ("proj".to_owned(), numbers(&[2, 3])),
        ]);
        let read = |tensors: &_| flat(&layout, tensors, &place, &|name| name == "ptr");
        let expected = EXPECTED;
        assert_eq!(read(&tensors), Ok(expected.to_vec()));
        tensors.insert("ptr".to_owned(), numbers(&[1]));
        assert_eq!(read(&tensors), Ok(expected.to_vec()));
        tensors.insert("more".to_owned(), numbers(&[1]));
        assert_eq!(read(&tensors), Err(Error::Unused("more".to_owned())));
        tensors.remove("qkv");
        assert_eq!(read(&tensors), Err(Error::Missing("qkv".to_owned())));
    }

    #[test]
    fn a_tensor_of_another_shape_is_named() {
        let tensors = BTreeMap::from([("proj".to_owned(), (vec![2, 2], vec![0.0; 4]))]);
        let error = flat(&[slice("proj", &[3, 2], 0)], &tensors, &place, &|_| false);
        let message = error.unwrap_err().to_string();
        assert!(message.contains("`proj` has shape [2, 2]"), "{message}");
        let unnamed = flat(&[slice("k", &[1], 0)], &tensors, &place, &|_| false);
        assert_eq!(unnamed, Err(Error::Unnamed("k".to_owned())));
    }
}
