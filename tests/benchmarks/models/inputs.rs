//! Arrays that both halves read.

use capstan_model::names;
use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::{Device, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};

/// A safetensors file of inputs.
pub struct Inputs {
    bytes: Vec<u8>,
}

impl Inputs {
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        Ok(Self { bytes })
    }

    /// Floats with their shape.
    pub fn floats(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let file = SafeTensors::deserialize(&self.bytes)?;
        let view = file.tensor(name)?;
        ensure!(view.dtype() == Dtype::F32, "`{name}` is not of F32");
        let (chunks, _) = view.data().as_chunks();
        let values = chunks.iter().map(|bytes| f32::from_le_bytes(*bytes));
        Ok((view.shape().to_vec(), values.collect()))
    }

    /// Every tensor, all of floats.
    pub fn all_floats(&self) -> Result<BTreeMap<String, names::Tensor>> {
        let file = SafeTensors::deserialize(&self.bytes)?;
        let names = file.names().into_iter();
        names
            .map(|name| Ok((name.to_owned(), self.floats(name)?)))
            .collect()
    }

    /// Rows of token ids.
    pub fn ids(&self, name: &str) -> Result<Vec<Vec<u32>>> {
        let file = SafeTensors::deserialize(&self.bytes)?;
        let view = file.tensor(name)?;
        ensure!(view.dtype() == Dtype::I64, "`{name}` is not of I64");
        let [_, columns] = view.shape() else {
            bail!("`{name}` is not a matrix");
        };
        let (chunks, _) = view.data().as_chunks();
        let ids = chunks
            .iter()
            .map(|b| Ok(u32::try_from(i64::from_le_bytes(*b))?));
        let ids = ids.collect::<Result<Vec<u32>>>()?;
        Ok(ids.chunks_exact(*columns).map(<[u32]>::to_vec).collect())
    }

    /// `pixels`, `[pictures, 3, side, side]`.
    pub fn pixels(&self, device: &Device) -> Result<Tensor<4>> {
        let (shape, values) = self.floats("pixels")?;
        ensure!(shape.len() == 4, "`pixels` has shape {shape:?}");
        Ok(Tensor::from_data(TensorData::new(values, shape), device))
    }
}

/// The values of a tensor on the host, which ends all work on the device.
pub fn host<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    let values = tensor.into_data().try_into_vec();
    values.map_err(|error| anyhow::anyhow!("values are not of f32: {error:?}"))
}
