//! Named arrays of a case.

use burn::tensor::{DType, TensorData};
use capstan_model::names;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::BTreeMap;
use std::path::Path;

/// Values of an array.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Floats.
    Float(Vec<f64>),
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
        Self::double(shape, values.into_iter().map(f64::from).collect())
    }

    /// An array of floats of double precision.
    pub fn double(shape: &[usize], values: Vec<f64>) -> Self {
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
    pub fn floats(&self) -> Vec<f32> {
        match &self.values {
            Values::Float(values) => values.iter().map(|value| *value as f32).collect(),
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
    each(path, &|_| true, &|data, shape| {
        let values = match data.dtype() {
            DType::F64 | DType::F32 | DType::F16 | DType::BF16 => {
                Values::Float(data.iter::<f64>().collect())
            }
            _ => Values::Int(data.iter::<i64>().collect()),
        };
        Array { shape, values }
    })
}

/// Reads the arrays of floats of a safetensors file, with their shapes.
pub fn read_floats(path: &Path) -> Result<BTreeMap<String, names::Tensor>, String> {
    each(path, &is_float, &|data, shape| {
        (shape, data.iter::<f32>().collect())
    })
}

/// Reads the arrays of integers of a safetensors file.
pub fn read_ints(path: &Path) -> Result<BTreeMap<String, Vec<i64>>, String> {
    each(path, &|dtype| !is_float(dtype), &|data, _| {
        data.iter::<i64>().collect()
    })
}

fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// What `make` gives for every array whose type is `wanted`.
fn each<T>(
    path: &Path,
    wanted: &dyn Fn(Dtype) -> bool,
    make: &dyn Fn(TensorData, Vec<usize>) -> T,
) -> Result<BTreeMap<String, T>, String> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let bytes = std::fs::read(path).map_err(|error| named(&error))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| named(&error))?;
    let arrays = file.iter().filter(|(_, view)| wanted(view.dtype()));
    arrays
        .map(|(name, view)| {
            let data = data(&view).map_err(|error| named(&format!("`{name}` {error}")))?;
            Ok((name.to_owned(), make(data, view.shape().to_vec())))
        })
        .collect()
}

/// The values of a tensor of any type.
fn data(view: &TensorView<'_>) -> Result<TensorData, String> {
    let dtype = match view.dtype() {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I16 => DType::I16,
        Dtype::I8 => DType::I8,
        Dtype::U64 => DType::U64,
        Dtype::U32 => DType::U32,
        Dtype::U16 => DType::U16,
        // A truth value is a byte, 0 or 1.
        Dtype::U8 | Dtype::BOOL => DType::U8,
        other => return Err(format!("has type {other:?}, of which no array is read")),
    };
    let (bytes, shape) = (view.data().to_vec(), view.shape().to_vec());
    Ok(TensorData::from_bytes_vec(bytes, shape, dtype))
}
