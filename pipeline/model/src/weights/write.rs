//! Writes parameters as tensors of a file, one at a time.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use safetensors::tensor::{Dtype as Stored, View};

use super::{Error, Naming};
use crate::params::{Dtype, Model, Param};

/// Writes the parameters that `naming` names into the file `path`: the same model gives the same
/// bytes.
pub(crate) fn write(path: &Path, model: &dyn Model, naming: Naming) -> Result<(), Error> {
    let mut tensors = Vec::new();
    for param in model.params() {
        let mut start = 0;
        for part in param.parts() {
            let range = start..start + part.len();
            start = range.end;
            if let Some(name) = naming(&part.name) {
                let shape = &part.shape[..];
                tensors.push((
                    name,
                    Tensor {
                        param,
                        range,
                        shape,
                    },
                ));
            }
        }
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(tensors, Some(metadata), path).map_err(|source| Error::Write {
        path: path.to_owned(),
        source,
    })
}

/// One tensor of a parameter.
struct Tensor<'a> {
    param: &'a Param,
    range: Range<usize>,
    shape: &'a [usize],
}

impl View for Tensor<'_> {
    fn dtype(&self) -> Stored {
        match self.param.dtype() {
            Dtype::F32 => Stored::F32,
            Dtype::Bf16 => Stored::BF16,
            Dtype::F16 => Stored::F16,
        }
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.param.part(self.range.clone()).bytes().to_vec())
    }

    fn data_len(&self) -> usize {
        self.range.len() * self.param.dtype().size()
    }
}
