//! Named arrays of a case.

use safetensors::tensor::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::Path;

/// Values of an array.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Floats.
    Float(Vec<f32>),
    /// Integers, ids and bytes.
    Int(Vec<i64>),
}

/// An array with its shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Values in row-major order.
    pub values: Values,
}

impl Array {
    /// An array of floats.
    pub fn float(shape: &[usize], values: Vec<f32>) -> Self {
        Self {
            shape: shape.to_vec(),
            values: Values::Float(values),
        }
    }

    /// An array of integers.
    pub fn int(shape: &[usize], values: Vec<i64>) -> Self {
        Self {
            shape: shape.to_vec(),
            values: Values::Int(values),
        }
    }

    /// The values of a tensor with another shape.
    pub fn tensor<const D: usize>(shape: &[usize], tensor: burn::Tensor<D>) -> Self {
        let values = tensor
            .into_data()
            .try_into_vec::<f32>()
            .expect("f32 tensor");
        assert_eq!(
            values.len(),
            shape.iter().product::<usize>(),
            "size of {shape:?}"
        );
        Self::float(shape, values)
    }

    /// Its floats.
    pub fn floats(&self) -> &[f32] {
        match &self.values {
            Values::Float(values) => values,
            Values::Int(_) => panic!("an array of floats"),
        }
    }

    /// Its integers.
    pub fn ints(&self) -> &[i64] {
        match &self.values {
            Values::Int(values) => values,
            Values::Float(_) => panic!("an array of integers"),
        }
    }

    /// Rows of token ids of a matrix.
    pub fn ids(&self) -> Vec<Vec<u32>> {
        let ids: Vec<u32> = self
            .ints()
            .iter()
            .map(|id| u32::try_from(*id).expect("a token id"))
            .collect();
        ids.chunks_exact(self.shape[1])
            .map(<[u32]>::to_vec)
            .collect()
    }
}

/// Reads every array of a safetensors file.
pub fn read(path: &Path) -> Result<BTreeMap<String, Array>, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let file =
        SafeTensors::deserialize(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    file.iter()
        .map(|(name, view)| {
            let data = view.data();
            let values = match view.dtype() {
                Dtype::F32 => Values::Float(
                    data.as_chunks()
                        .0
                        .iter()
                        .map(|b| f32::from_le_bytes(*b))
                        .collect(),
                ),
                Dtype::I64 => Values::Int(
                    data.as_chunks()
                        .0
                        .iter()
                        .map(|b| i64::from_le_bytes(*b))
                        .collect(),
                ),
                Dtype::U8 => Values::Int(data.iter().map(|b| i64::from(*b)).collect()),
                other => return Err(format!("{}: `{name}` has type {other:?}", path.display())),
            };
            Ok((
                name.to_owned(),
                Array {
                    shape: view.shape().to_vec(),
                    values,
                },
            ))
        })
        .collect()
}
