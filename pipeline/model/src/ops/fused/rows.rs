//! Embeddings, choice of rows, lengths of rows, and the cross entropy.

use burn::tensor::Tensor;
use std::sync::Arc;

use super::node::{Array, Operation, apply};
use crate::ops::Targets;
use crate::ops::kernel::{math, rows};

fn gather(table: &[f32], width: usize, rows: &[u32], out: &mut Vec<f32>) {
    for row in rows {
        out.extend_from_slice(&table[*row as usize * width..][..width]);
    }
}

fn scatter(gradient: &Array, at: &[u32], len: usize) -> Vec<f32> {
    let mut sums = vec![0.0; len];
    rows::scatter(gradient.values(), gradient.width(), at, &mut sums);
    sums
}

/// Words and positions of ids.
#[derive(Debug)]
struct Embed {
    ids: Arc<[u32]>,
    at: Arc<[u32]>,
    width: usize,
}

impl Operation<2> for Embed {
    /// Sizes of both tables.
    type Saved = [usize; 2];

    fn forward(&self, [words, positions]: [Array; 2]) -> (Array, [usize; 2]) {
        let width = self.width;
        let mut out = Vec::with_capacity(self.ids.len() * width);
        for (id, at) in self.ids.iter().zip(&*self.at) {
            let word = &words.values()[*id as usize * width..][..width];
            let position = &positions.values()[*at as usize * width..][..width];
            out.extend(
                word.iter()
                    .zip(position)
                    .map(|(word, position)| word + position),
            );
        }
        let sizes = [words.values().len(), positions.values().len()];
        (Array::from_values(out, &[self.ids.len(), width]), sizes)
    }

    fn backward(self, sizes: [usize; 2], gradient: Array, _: [bool; 2]) -> [Option<Array>; 2] {
        let one =
            |rows: &[u32], len| Some(Array::from_values(scatter(&gradient, rows, len), &[len]));
        [one(&self.ids, sizes[0]), one(&self.at, sizes[1])]
    }
}

pub(in crate::ops) fn embed(
    ids: &[u32],
    words: Tensor<1>,
    positions: Tensor<1>,
    at: &[u32],
    width: usize,
) -> Tensor<2> {
    let operation = Embed {
        ids: ids.into(),
        at: at.into(),
        width,
    };
    apply(
        operation,
        [words.into_dispatch(), positions.into_dispatch()],
    )
}

/// Class token and positions of pictures.
#[derive(Debug)]
struct PictureTokens {
    batch: usize,
}

impl Operation<3> for PictureTokens {
    type Saved = ();

    fn forward(&self, [patches, class, positions]: [Array; 3]) -> (Array, ()) {
        let width = patches.width();
        let each = patches.values().len() / self.batch;
        let mut out = Vec::with_capacity(self.batch * (each + width));
        for patches in patches.values().chunks_exact(each) {
            let tokens = class.values().iter().chain(patches);
            out.extend(
                tokens
                    .zip(positions.values())
                    .map(|(token, position)| token + position),
            );
        }
        let rows = out.len() / width;
        (Array::from_values(out, &[rows, width]), ())
    }

    fn backward(self, (): (), gradient: Array, _: [bool; 3]) -> [Option<Array>; 3] {
        let width = gradient.width();
        let each = gradient.values().len() / self.batch;
        let mut of_patches = Vec::with_capacity(self.batch * (each - width));
        let mut of_positions = vec![0.0; each];
        for gradient in gradient.values().chunks_exact(each) {
            of_patches.extend_from_slice(&gradient[width..]);
        }
        rows::add_rows(gradient.values(), &mut of_positions);
        let rows = of_patches.len() / width;
        [
            Some(Array::from_values(of_patches, &[rows, width])),
            Some(Array::from_values(of_positions[..width].to_vec(), &[width])),
            Some(Array::from_values(of_positions, &[each])),
        ]
    }
}

pub(in crate::ops) fn picture_tokens(
    patches: Tensor<2>,
    class: Tensor<1>,
    positions: Tensor<1>,
    batch: usize,
) -> Tensor<2> {
    let inputs = [
        patches.into_dispatch(),
        class.into_dispatch(),
        positions.into_dispatch(),
    ];
    apply(PictureTokens { batch }, inputs)
}

/// Rows by number.
#[derive(Debug)]
struct SelectRows(Arc<[u32]>);

impl Operation<1> for SelectRows {
    type Saved = Vec<usize>;

    fn forward(&self, [x]: [Array; 1]) -> (Array, Vec<usize>) {
        let width = x.width();
        let mut out = Vec::with_capacity(self.0.len() * width);
        gather(x.values(), width, &self.0, &mut out);
        (Array::from_values(out, &[self.0.len(), width]), x.shape())
    }

    fn backward(self, shape: Vec<usize>, gradient: Array, _: [bool; 1]) -> [Option<Array>; 1] {
        let len = shape.iter().product();
        [Some(Array::from_values(
            scatter(&gradient, &self.0, len),
            &shape,
        ))]
    }
}

pub(in crate::ops) fn select_rows(x: Tensor<2>, rows: &[u32]) -> Tensor<2> {
    apply(SelectRows(rows.into()), [x.into_dispatch()])
}

/// Rows of length 1.
#[derive(Debug)]
struct Normalise;

impl Operation<1> for Normalise {
    /// The normalised rows and the inverse lengths.
    type Saved = (Array, Arc<[f32]>);

    fn forward(&self, [x]: [Array; 1]) -> (Array, Self::Saved) {
        let shape = x.shape();
        let width = x.width();
        let mut out = Vec::with_capacity(x.values().len());
        let mut inverses = Vec::new();
        for row in x.values().chunks_exact(width) {
            let inverse = 1.0 / math::dot(row, row).sqrt();
            out.extend(row.iter().map(|value| value * inverse));
            inverses.push(inverse);
        }
        let out = Array::from_values(out, &shape);
        (out.clone(), (out, inverses.into()))
    }

    fn backward(
        self,
        (out, inverses): Self::Saved,
        gradient: Array,
        _: [bool; 1],
    ) -> [Option<Array>; 1] {
        let width = out.width();
        let mut of_x = Vec::with_capacity(out.values().len());
        let rows = out
            .values()
            .chunks_exact(width)
            .zip(gradient.values().chunks_exact(width));
        for ((out, gradient), inverse) in rows.zip(inverses.iter()) {
            let along = math::dot(out, gradient);
            of_x.extend(
                gradient
                    .iter()
                    .zip(out)
                    .map(|(g, y)| (g - y * along) * inverse),
            );
        }
        [Some(Array::from_values(of_x, &out.shape()))]
    }
}

pub(in crate::ops) fn normalise(x: Tensor<2>) -> Tensor<2> {
    apply(Normalise, [x.into_dispatch()])
}

/// Sum of cross entropies.
#[derive(Debug)]
struct CrossEntropy {
    classes: Arc<[u32]>,
    smoothing: f32,
}

impl Operation<1> for CrossEntropy {
    /// The probabilities.
    type Saved = Array;

    fn forward(&self, [logits]: [Array; 1]) -> (Array, Array) {
        let shape = logits.shape();
        let count = logits.width();
        let mut probabilities = vec![0.0; logits.values().len()];
        let smoothing = f64::from(self.smoothing);
        let total = rows::cross_entropy(
            logits.values(),
            count,
            &self.classes,
            smoothing,
            &mut probabilities,
        );
        (
            Array::from_values(vec![total as f32], &[1]),
            Array::from_values(probabilities, &shape),
        )
    }

    fn backward(self, probabilities: Array, gradient: Array, _: [bool; 1]) -> [Option<Array>; 1] {
        let factor = gradient.values()[0];
        let shape = probabilities.shape();
        let count = probabilities.width();
        let mut values = probabilities.into_values();
        rows::cross_entropy_slopes(&mut values, count, &self.classes, self.smoothing, factor);
        [Some(Array::from_values(values, &shape))]
    }
}

pub(in crate::ops) fn cross_entropy_sum(logits: Tensor<2>, targets: &Targets) -> Tensor<1> {
    let operation = CrossEntropy {
        classes: targets.classes.into(),
        smoothing: targets.smoothing as f32,
    };
    apply(operation, [logits.into_dispatch()])
}
