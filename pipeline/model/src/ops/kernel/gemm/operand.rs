//! The sides of a product as they lie in memory.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::ops::Range;

use super::tile::{Narrow, STEP};
use crate::ops::kernel::math::copy;

/// Numbers as they are stored.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) enum Values<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
}

impl<'a> From<&'a [f32]> for Values<'a> {
    fn from(values: &'a [f32]) -> Self {
        Self::F32(values)
    }
}

impl Values<'_> {
    /// Copies the values from `first` on, widened.
    #[inline(always)]
    pub fn read(self, first: usize, to: &mut [f32]) {
        match self {
            Self::F32(values) => copy(to, &values[first..][..to.len()]),
            Self::F16(values) => values[first..][..to.len()].convert_to_f32_slice(to),
            Self::Bf16(values) => {
                for (to, value) in to.iter_mut().zip(&values[first..]) {
                    *to = f32::from_bits(u32::from(value.to_bits()) << 16);
                }
            }
        }
    }

    /// Number of values.
    pub fn len(self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }
}

/// A matrix in a slice: value `(row, column)` is at `row * stride + column`, or at
/// `column * stride + row` if it lies there transposed.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Matrix<'a> {
    pub values: Values<'a>,
    pub transposed: bool,
    /// Length of a stored row.
    pub stride: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix as it lies.
    pub fn new(values: impl Into<Values<'a>>, stride: usize) -> Self {
        Self {
            values: values.into(),
            transposed: false,
            stride,
        }
    }

    /// The transposed of what lies there.
    pub fn transposed(values: impl Into<Values<'a>>, stride: usize) -> Self {
        Self {
            values: values.into(),
            transposed: true,
            stride,
        }
    }

    /// As the left side of a product.
    pub(super) fn rows(self) -> Operand<'a> {
        Operand {
            values: self.values,
            stride: self.stride,
            along: !self.transposed,
        }
    }

    /// As the right side of a product.
    pub(super) fn columns(self) -> Operand<'a> {
        Operand {
            values: self.values,
            stride: self.stride,
            along: self.transposed,
        }
    }
}

/// One side of a product: vectors of the inner dimension.
#[derive(Clone, Copy)]
pub(in crate::ops::kernel) struct Operand<'a> {
    pub values: Values<'a>,
    pub stride: usize,
    /// Whether a vector is contiguous; else value `p` of vector `i` is at `p * stride + i`.
    pub along: bool,
}

impl<'a> Operand<'a> {
    /// The `steps` of these vectors, where they lie or in `scratch`, with zeros up to a whole
    /// number of [`STEP`]. `R` is the number of vectors in a tile.
    #[inline(always)]
    pub(super) fn narrow<'b, const R: usize>(
        self,
        vectors: Range<usize>,
        steps: Range<usize>,
        scratch: &'b mut Vec<f32>,
    ) -> Narrow<'b>
    where
        'a: 'b,
    {
        let count = vectors.len();
        let whole = steps.len().next_multiple_of(STEP);
        if self.along {
            if let Values::F32(values) = self.values
                && steps.len() == whole
            {
                return Narrow::Lines {
                    values: &values[vectors.start * self.stride + steps.start..],
                    stride: self.stride,
                    count,
                };
            }
            // Lines a power of two apart would share a few lines of the cache.
            let stride = whole + 2 * STEP;
            scratch.resize(stride * count, 0.0);
            for (line, vector) in scratch.chunks_exact_mut(stride).zip(vectors) {
                let first = vector * self.stride + steps.start;
                self.values.read(first, &mut line[..steps.len()]);
                if steps.len() < whole {
                    line[steps.len()..whole].fill(0.0);
                }
            }
            return Narrow::Lines {
                values: scratch,
                stride,
                count,
            };
        }
        scratch.resize(whole * count.next_multiple_of(R), 0.0);
        for (index, block) in scratch.chunks_exact_mut(whole * R).enumerate() {
            let first = vectors.start + index * R;
            let width = R.min(vectors.end - first);
            if steps.len() < whole {
                block[steps.len() * R..].fill(0.0);
            }
            for (line, step) in block.as_chunks_mut::<R>().0.iter_mut().zip(steps.clone()) {
                let at = step * self.stride + first;
                match self.values {
                    Values::F32(values) if width == R => {
                        line.copy_from_slice(&values[at..at + R]);
                    }
                    values => values.read(at, &mut line[..width]),
                }
            }
        }
        Narrow::Blocks {
            values: scratch,
            count,
        }
    }

    /// Interleaves the `steps` of these vectors in panels of `lanes`: `[panel][step][lane]`. The
    /// last panel of `to` may have fewer lanes. `depth` is the number of steps in `to`.
    #[inline(always)]
    pub fn interleave(
        self,
        vectors: Range<usize>,
        steps: Range<usize>,
        [lanes, depth]: [usize; 2],
        to: &mut [f32],
    ) {
        if self.along {
            for (panel, first) in to
                .chunks_mut(depth * lanes)
                .zip(vectors.clone().step_by(lanes))
            {
                let vectors = first..vectors.end.min(first + lanes);
                let lanes = panel.len() / depth;
                self.transpose(vectors, steps.clone(), lanes, panel);
                if steps.len() < depth {
                    panel[steps.len() * lanes..].fill(0.0);
                }
            }
            return;
        }
        if steps.len() < depth {
            for panel in to.chunks_mut(depth * lanes) {
                let lanes = panel.len() / depth;
                panel[steps.len() * lanes..].fill(0.0);
            }
        }
        // Step by step, because a step is contiguous.
        for (s, step) in steps.enumerate() {
            for (panel, first) in to
                .chunks_mut(depth * lanes)
                .zip(vectors.clone().step_by(lanes))
            {
                let count = lanes.min(vectors.end - first);
                let line = s * (panel.len() / depth);
                let at = step * self.stride + first;
                self.values.read(at, &mut panel[line..line + count]);
            }
        }
    }

    #[inline(always)]
    fn transpose(
        self,
        vectors: Range<usize>,
        steps: Range<usize>,
        lanes: usize,
        panel: &mut [f32],
    ) {
        // As many steps as fit in the first cache, with all of their vectors.
        const RUN: usize = 64;
        let mut run = [0.0; RUN];
        for (lines, first) in panel
            .chunks_mut(RUN * lanes)
            .zip(steps.clone().step_by(RUN))
        {
            let len = RUN.min(steps.end - first);
            for (lane, vector) in vectors.clone().enumerate() {
                let at = vector * self.stride + first;
                let run = match self.values {
                    Values::F32(values) => &values[at..at + len],
                    values => {
                        values.read(at, &mut run[..len]);
                        &run[..len]
                    }
                };
                for (line, value) in lines.chunks_exact_mut(lanes).zip(run) {
                    line[lane] = *value;
                }
            }
        }
    }
}
