//! Dropout of the text transformer, keyed by seed, step and sample.
//!
//! A sample is counted in the global batch, so neither the world size nor chunks change what is
//! dropped, and the second pass over a chunk drops what the first one dropped.

use capstan_model::TokenBatch;
use capstan_plan::draw::Draws;

/// A pass of texts through the transformer. Passes of one step drop different values.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pass {
    Text,
    /// Through the momentum copies, which the release trains with dropout as well.
    Momentum,
    Match,
    Decode,
}

/// The dropout of a training.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dropout {
    rate: f64,
    draws: Draws,
}

impl Dropout {
    pub(super) fn new(rate: f64, seed: u64) -> Self {
        Self {
            rate,
            draws: Draws::new(seed, "dropout"),
        }
    }

    pub(super) fn with_rate(self, rate: f64) -> Self {
        Self { rate, ..self }
    }

    /// `texts` with the dropout of a pass.
    ///
    /// - `rows`: what each row is in the global batch, such as its sample.
    pub(super) fn apply<const N: usize>(
        &self,
        texts: TokenBatch,
        (step, pass): (u64, Pass),
        rows: impl Iterator<Item = [usize; N]>,
    ) -> TokenBatch {
        if self.rate == 0.0 {
            return texts;
        }
        let key = |row: [usize; N]| {
            let item = row.map(|part| (part as u64).to_le_bytes());
            let item = [step.to_le_bytes().as_slice(), item.as_flattened()].concat();
            self.draws.u64(&item, pass as u64)
        };
        texts.with_dropout(self.rate, rows.map(key).collect())
    }
}
