//! Dropout of a text transformer in training, drawn by key (Srivastava et al. 2014).
//!
//! Which values are dropped is a function of the key of a row, the layer, and the place of the value in
//! its row. It does not depend on the other rows of the batch, on padding, or on threads, so a second
//! pass over a row drops the same values.

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

use crate::tokens::TokenBatch;

/// Draws are of 16 bits.
const DRAWS: u32 = 1 << 16;

/// What share of the values of a batch is dropped, and the key of each of its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dropout {
    /// Draws below this are dropped.
    threshold: u32,
    keys: Vec<u64>,
}

impl Dropout {
    /// - `rate`: at least 0 and below 1; rounded to a multiple of 1/65,536.
    /// - `keys`: one a row.
    pub fn new(rate: f64, keys: Vec<u64>) -> Self {
        assert!((0.0..1.0).contains(&rate), "a dropout rate of {rate}");
        let threshold = (rate * f64::from(DRAWS)).round() as u32;
        Self {
            threshold: threshold.min(DRAWS - 1),
            keys,
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.keys.len()
    }
}

/// Where in the transformer values are dropped: as in BERT.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Site {
    Embeddings,
    SelfWeights,
    SelfOutput,
    CrossWeights,
    CrossOutput,
    MlpOutput,
}

/// The dropout of a batch in one layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerDropout<'a> {
    texts: &'a TokenBatch,
    dropout: &'a Dropout,
    layer: usize,
}

impl<'a> LayerDropout<'a> {
    pub fn new(texts: &'a TokenBatch, dropout: &'a Dropout, layer: usize) -> Self {
        Self {
            texts,
            dropout,
            layer,
        }
    }

    /// `x` `[rows * padded_len, width]` with some values dropped and the others scaled up.
    pub fn values(&self, x: Tensor<2>, site: Site) -> Tensor<2> {
        let [tokens, width] = x.dims();
        let factors = self.factors(tokens * width, |row, factors| {
            let length = self.texts.lengths()[row] as usize;
            self.draw(row, site, factors[..length * width].iter_mut());
        });
        let factors = Tensor::from_data(TensorData::new(factors, [tokens, width]), &x.device());
        x * factors
    }

    /// Factors of attention weights, `[rows, heads, padded_len, keys]`.
    ///
    /// - `keys`: `None` for those of the row itself.
    pub fn weights(
        &self,
        heads: usize,
        keys: Option<usize>,
        site: Site,
        device: &Device,
    ) -> Tensor<4> {
        let (rows, len) = (self.texts.rows(), self.texts.padded_len());
        let k_len = keys.unwrap_or(len);
        let factors = self.factors(rows * heads * len * k_len, |row, factors| {
            let length = self.texts.lengths()[row] as usize;
            // Query by query, so that padding shifts no draw.
            let mut of_query: Vec<Vec<&mut f32>> = Vec::new();
            of_query.resize_with(length, Vec::new);
            for factors in factors.chunks_exact_mut(len * k_len) {
                let queries = factors.chunks_exact_mut(k_len);
                for (factors, of_query) in queries.zip(&mut of_query) {
                    of_query.extend(factors.iter_mut().take(keys.unwrap_or(length)));
                }
            }
            self.draw(row, site, of_query.into_iter().flatten());
        });
        let shape = [rows, heads, len, k_len];
        Tensor::from_data(TensorData::new(factors, shape), device)
    }

    /// This many factors in equal parts for all rows, each 1 until `fill` changes it.
    fn factors(&self, count: usize, fill: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
        let mut factors = vec![1.0; count];
        let of_rows = factors.par_chunks_exact_mut(count / self.texts.rows());
        of_rows
            .enumerate()
            .for_each(|(row, factors)| fill(row, factors));
        factors
    }

    /// Draws the factors of a row in their order: 0, or what keeps the expected value.
    fn draw<'f>(&self, row: usize, site: Site, factors: impl Iterator<Item = &'f mut f32>) {
        let mut hasher = blake3::Hasher::new_derive_key("capstan 2026 dropout");
        hasher.update(&self.dropout.keys[row].to_le_bytes());
        hasher.update(
            &[self.layer as u64, site as u64]
                .map(u64::to_le_bytes)
                .concat(),
        );
        let mut stream = hasher.finalize_xof();
        let kept = DRAWS as f32 / (DRAWS - self.dropout.threshold) as f32;
        let (mut bytes, mut at) = ([0u8; 1024], 1024);
        for factor in factors {
            if at == bytes.len() {
                stream.fill(&mut bytes);
                at = 0;
            }
            let draw = u16::from_le_bytes([bytes[at], bytes[at + 1]]);
            at += 2;
            *factor = match u32::from(draw) < self.dropout.threshold {
                true => 0.0,
                false => kept,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceSpec;

    fn device() -> Device {
        DeviceSpec::Cpu.open().unwrap()
    }

    fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().try_to_vec().unwrap()
    }

    /// Rows of these lengths.
    fn texts(rate: f64, rows: &[(usize, u64)]) -> TokenBatch {
        let ids: Vec<Vec<u32>> = rows.iter().map(|(length, _)| vec![7; *length]).collect();
        let keys = rows.iter().map(|(_, key)| *key).collect();
        TokenBatch::new(&ids, 0).with_dropout(rate, keys)
    }

    fn values(texts: &TokenBatch, layer: usize, site: Site) -> Vec<f32> {
        let ones = Tensor::ones([texts.rows() * texts.padded_len(), 8], &device());
        floats(texts.dropout(layer).unwrap().values(ones, site))
    }

    fn weights(texts: &TokenBatch, keys: Option<usize>) -> Vec<f32> {
        let layer = texts.dropout(0).unwrap();
        floats(layer.weights(2, keys, Site::SelfWeights, &device()))
    }

    #[test]
    fn the_share_is_dropped_and_the_mean_is_kept() {
        let texts = texts(0.1, &[(500, 1), (500, 2)]);
        for values in [
            values(&texts, 0, Site::MlpOutput),
            weights(&texts, Some(9)),
            weights(&texts, None),
        ] {
            let count = values.len() as f32;
            let dropped = values.iter().filter(|value| **value == 0.0).count() as f32;
            assert!((dropped / count - 0.1).abs() < 0.01, "{dropped} of {count}");
            let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>();
            assert!((mean / f64::from(count) - 1.0).abs() < 0.01);
            let kept = values.iter().filter(|value| **value != 0.0);
            assert!(
                kept.into_iter()
                    .all(|value| (value - 1.0 / 0.9).abs() < 1e-4)
            );
        }
    }

    #[test]
    fn a_row_draws_the_same_in_any_batch() {
        let (alone, batch) = (texts(0.5, &[(3, 5)]), texts(0.5, &[(6, 9), (3, 5)]));
        let own = values(&alone, 1, Site::Embeddings);
        let found = values(&batch, 1, Site::Embeddings);
        assert_eq!(found[6 * 8..9 * 8], own);
        assert!(found[9 * 8..].iter().all(|factor| *factor == 1.0));
        for keys in [None, Some(4)] {
            let (own, found) = (weights(&alone, keys), weights(&batch, keys));
            let (k_own, k_found) = (keys.unwrap_or(3), keys.unwrap_or(6));
            for head in 0..2 {
                for query in 0..3 {
                    let own = &own[(head * 3 + query) * k_own..][..k_own];
                    let found = &found[((2 + head) * 6 + query) * k_found..][..k_own];
                    assert_eq!(own, found);
                }
            }
        }
    }

    #[test]
    fn draws_depend_on_key_layer_and_site() {
        let base = values(&texts(0.5, &[(9, 5)]), 1, Site::SelfOutput);
        assert_eq!(base, values(&texts(0.5, &[(9, 5)]), 1, Site::SelfOutput));
        for other in [
            values(&texts(0.5, &[(9, 6)]), 1, Site::SelfOutput),
            values(&texts(0.5, &[(9, 5)]), 2, Site::SelfOutput),
            values(&texts(0.5, &[(9, 5)]), 1, Site::MlpOutput),
        ] {
            assert_ne!(base, other);
        }
    }
}
