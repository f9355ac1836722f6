//! Which keys each query of an attention sees.

use burn::tensor::{Bool, Device, Tensor, TensorData};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// The mask of an attention: every query sees one contiguous run of keys.
///
/// A key that no query sees is not read and may hold anything, NaN included. The result of a
/// query that sees no key is zero.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// Rows of queries.
    pub rows: usize,
    /// Queries of a row.
    pub q_len: usize,
    /// Keys of a block.
    pub k_len: usize,
    /// Block of keys of each row; row `i` has block `i` where absent.
    pub index: Option<Vec<u32>>,
    /// First visible key of each row; 0 where absent. Left padding is before it.
    pub starts: Option<Vec<u32>>,
    /// One past the last visible key of each row; `k_len` where absent.
    pub lengths: Option<Vec<u32>>,
    /// What a query sees of its row's keys.
    pub rule: Rule,
    /// Added to the scores, `[heads, q_len, k_len]`, without a gradient.
    pub bias: Option<Arc<[f32]>>,
    /// The mask as a tensor, for devices other than the CPU.
    pub built: BuiltMask,
}

/// A mask that the first layer builds and the other layers of a pass take. It is not copied with
/// its [`Keys`], because a copy may get other fields.
#[derive(Debug, Default)]
pub(crate) struct BuiltMask(OnceLock<Tensor<4, Bool>>);

impl Clone for BuiltMask {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// What a query sees of the keys between its row's start and length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "decoders and query transformers use the rest")
)]
pub(crate) enum Rule {
    /// All of them.
    #[default]
    All,
    /// Query `i` sees keys up to and including `before + i`.
    Causal {
        /// Keys that are before the first query: the tokens of a cache.
        before: usize,
    },
    /// All queries see the keys below `len`; query `i` sees those up to `i` as well.
    Prefix {
        /// Length of the prefix.
        len: usize,
    },
    /// Queries below `at` see the keys below `at`, the other queries see the keys from `at` on.
    Parted {
        /// Where the second part begins, in queries and in keys.
        at: usize,
    },
}

impl Keys {
    /// Every query of a row sees every token of the row.
    pub fn all(rows: usize, len: usize) -> Self {
        Self {
            rows,
            q_len: len,
            k_len: len,
            index: None,
            starts: None,
            lengths: None,
            rule: Rule::All,
            bias: None,
            built: BuiltMask::default(),
        }
    }

    /// Block of keys of a row.
    pub fn block(&self, row: usize) -> usize {
        self.index.as_ref().map_or(row, |index| index[row] as usize)
    }

    /// The keys that this query sees.
    pub fn visible(&self, row: usize, query: usize) -> Range<usize> {
        let of_row = |values: &Option<Vec<u32>>, all| {
            values.as_ref().map_or(all, |values| values[row] as usize)
        };
        let (start, end) = (of_row(&self.starts, 0), of_row(&self.lengths, self.k_len));
        let (first, last) = match self.rule {
            Rule::All => (0, end),
            Rule::Causal { before } => (0, before + query + 1),
            Rule::Prefix { len } => (0, len.max(query + 1)),
            Rule::Parted { at } if query < at => (0, at),
            Rule::Parted { at } => (at, end),
        };
        let first = start.max(first);
        first..end.min(last).max(first)
    }

    /// True where a query must not see a key, `[rows, 1, q_len, k_len]`; `None` if every query
    /// sees every key.
    pub fn hidden(&self, device: &Device) -> Option<Tensor<4, Bool>> {
        if self.starts.is_none() && self.lengths.is_none() && self.rule == Rule::All {
            return None;
        }
        Some(self.built.0.get_or_init(|| self.build(device)).clone())
    }

    fn build(&self, device: &Device) -> Tensor<4, Bool> {
        let mut hidden = Vec::with_capacity(self.rows * self.q_len * self.k_len);
        for row in 0..self.rows {
            for query in 0..self.q_len {
                let visible = self.visible(row, query);
                hidden.extend((0..self.k_len).map(|key| !visible.contains(&key)));
            }
        }
        let shape = [self.rows, 1, self.q_len, self.k_len];
        Tensor::from_data(TensorData::new(hidden, shape), device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(keys: &Keys, row: usize) -> Vec<Range<usize>> {
        (0..keys.q_len).map(|i| keys.visible(row, i)).collect()
    }

    #[test]
    fn each_rule_gives_its_runs_of_keys() {
        let keys = |rule| Keys {
            rule,
            ..Keys::all(1, 4)
        };
        assert_eq!(ranges(&keys(Rule::All), 0), vec![0..4; 4]);
        let causal = keys(Rule::Causal { before: 0 });
        assert_eq!(ranges(&causal, 0), [0..1, 0..2, 0..3, 0..4]);
        let prefix = keys(Rule::Prefix { len: 2 });
        assert_eq!(ranges(&prefix, 0), [0..2, 0..2, 0..3, 0..4]);
        let parted = keys(Rule::Parted { at: 1 });
        assert_eq!(ranges(&parted, 0), [0..1, 1..4, 1..4, 1..4]);
    }

    #[test]
    fn padding_on_either_side_narrows_the_runs() {
        let keys = Keys {
            starts: Some(vec![0, 2]),
            lengths: Some(vec![3, 4]),
            rule: Rule::Causal { before: 0 },
            ..Keys::all(2, 4)
        };
        assert_eq!(ranges(&keys, 0), [0..1, 0..2, 0..3, 0..3]);
        assert_eq!(ranges(&keys, 1), [2..2, 2..2, 2..3, 2..4]);
        let cached = Keys {
            q_len: 2,
            lengths: Some(vec![3, 2]),
            rule: Rule::Causal { before: 1 },
            ..Keys::all(2, 8)
        };
        assert_eq!(ranges(&cached, 0), [0..2, 0..3]);
        assert_eq!(ranges(&cached, 1), [0..2, 0..2]);
    }
}
