//! Pictures of rows as a batch for the model.

use capstan_dataset::view::ViewRow;
use capstan_model::{Device, ImagePreprocess, Tensor};
use rayon::prelude::*;

use crate::error::Error;

/// The pictures of these rows, decoded and normalised: `[rows, 3, side, side]`.
pub(crate) fn batch(
    preprocess: &ImagePreprocess,
    rows: &[&ViewRow],
    device: &Device,
) -> Result<Tensor<4>, Error> {
    let decoded: Vec<Vec<f32>> = rows
        .par_iter()
        .map(|row| {
            preprocess
                .pixels(&row.pair.image)
                .map_err(|source| Error::Picture { pair: row.pair.pair_id, source })
        })
        .collect::<Result<_, _>>()?;
    Ok(preprocess.batch(decoded.concat(), device))
}
