//! A batch of token rows, padded to one length.

use crate::dropout::{Dropout, LayerDropout};

/// Token ids `[rows, len]`, padded on the right, with the length of every row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBatch {
    ids: Vec<u32>,
    lengths: Vec<u32>,
    len: usize,
    dropout: Option<Dropout>,
}

impl TokenBatch {
    /// Pads `rows` with `pad` to the longest of them.
    ///
    /// # Panics
    /// When there is no row or one is empty.
    pub fn new<R: AsRef<[u32]>>(rows: &[R], pad: u32) -> Self {
        let lengths: Vec<u32> = rows.iter().map(|row| row.as_ref().len() as u32).collect();
        let len = lengths.iter().copied().max().expect("a batch has a row") as usize;
        assert!(
            lengths.iter().all(|len| *len > 0),
            "a row of a batch has a token"
        );
        let mut ids = Vec::with_capacity(rows.len() * len);
        for row in rows {
            ids.extend_from_slice(row.as_ref());
            ids.resize(ids.len().next_multiple_of(len), pad);
        }
        Self {
            ids,
            lengths,
            len,
            dropout: None,
        }
    }

    /// A padded table `[lengths.len(), len]` as it is.
    ///
    /// # Panics
    /// When the table's size does not fit, or a length is 0 or above `len`.
    pub fn from_padded(ids: Vec<u32>, len: usize, lengths: Vec<u32>) -> Self {
        assert_eq!(ids.len(), len * lengths.len(), "size of the padded table");
        assert!(
            lengths.iter().all(|l| *l > 0 && *l as usize <= len),
            "lengths of rows"
        );
        Self {
            ids,
            lengths,
            len,
            dropout: None,
        }
    }

    /// The same rows, for a pass of training that drops a share of the values of the text transformer.
    ///
    /// - `rate`: the share, at least 0 and below 1.
    /// - `keys`: one a row; equal keys drop equal values of rows of equal length.
    ///
    /// # Panics
    /// If the rate is out of bounds, or there is not a key for every row.
    pub fn with_dropout(&self, rate: f64, keys: Vec<u64>) -> Self {
        let dropout = Dropout::new(rate, keys);
        assert_eq!(dropout.rows(), self.rows(), "a key for every row");
        Self {
            dropout: Some(dropout),
            ..self.clone()
        }
    }

    /// All ids, row by row.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The ids of one row, padding included.
    pub fn row(&self, row: usize) -> &[u32] {
        &self.ids[row * self.len..(row + 1) * self.len]
    }

    /// Tokens of each row before padding.
    pub fn lengths(&self) -> &[u32] {
        &self.lengths
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.lengths.len()
    }

    /// Padded length of every row.
    pub fn padded_len(&self) -> usize {
        self.len
    }

    /// The same rows with `id` at position 0: [ENC] or [DEC] in the place of [CLS].
    pub fn with_first(&self, id: u32) -> Self {
        let mut batch = self.clone();
        for row in batch.ids.chunks_exact_mut(self.len) {
            row[0] = id;
        }
        batch
    }

    /// The dropout of a layer, if the pass has dropout.
    pub(crate) fn dropout(&self, layer: usize) -> Option<LayerDropout<'_>> {
        let dropout = self.dropout.as_ref()?;
        Some(LayerDropout::new(self, dropout, layer))
    }

    /// The key lengths as a mask needs them: `None` where no row is padded.
    pub(crate) fn mask_lengths(&self) -> Option<&[u32]> {
        let padded = self.lengths.iter().any(|len| (*len as usize) < self.len);
        padded.then_some(&self.lengths[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_padded_to_the_longest() {
        let batch = TokenBatch::new(&[vec![2, 7, 3], vec![2, 3]], 0);
        assert_eq!(batch.ids(), [2, 7, 3, 2, 3, 0]);
        assert_eq!(batch.lengths(), [3, 2]);
        assert_eq!(batch.mask_lengths(), Some(&[3, 2][..]));
        assert_eq!(batch.with_first(5).ids(), [5, 7, 3, 5, 3, 0]);
        assert_eq!(TokenBatch::new(&[vec![1], vec![2]], 0).mask_lengths(), None);
    }
}
