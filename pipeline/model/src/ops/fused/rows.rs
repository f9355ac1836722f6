//! Embeddings, choice of rows, and lengths of rows.

use burn::tensor::Tensor;
use std::sync::Arc;

use super::node::{Array, Operation, apply};
use crate::ops::kernel::{math, rows};

fn gather(table: &[f32], width: usize, rows: &[u32], out: &mut Vec<f32>) {
    for row in rows {
        out.extend_from_slice(&table[*row as usize * width..][..width]);
    }
}

fn scatter(gradient: &Array, at: &[u32], len: usize) -> Vec<f32> {
    rows::scatter(gradient.values(), gradient.width(), at, len)
}

/// Words and positions of ids.
#[derive(Debug, Clone)]
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
        let (words_of, positions_of) = (
            (words.stored(), &*self.ids),
            (positions.stored(), &*self.at),
        );
        let out = rows::gather_sums(words_of, positions_of, width);
        let sizes = [words.len(), positions.len()];
        (Array::from_values(out, &[self.ids.len(), width]), sizes)
    }

    fn backward(self, sizes: [usize; 2], gradient: Array, needed: [bool; 2]) -> [Option<Array>; 2] {
        let table = |rows: &[u32], len, needed: bool| {
            needed.then(|| Array::from_values(scatter(&gradient, rows, len), &[len]))
        };
        [
            table(&self.ids, sizes[0], needed[0]),
            table(&self.at, sizes[1], needed[1]),
        ]
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
#[derive(Debug, Clone)]
struct PictureTokens {
    batch: usize,
}

impl Operation<3> for PictureTokens {
    type Saved = ();

    fn forward(&self, [patches, class, positions]: [Array; 3]) -> (Array, ()) {
        let width = patches.width();
        let (class, positions) = (class.widened(), positions.widened());
        let out = rows::picture_tokens(patches.values(), class.values(), positions.values());
        let rows = out.len() / width;
        (Array::from_values(out, &[rows, width]), ())
    }

    fn backward(self, (): (), gradient: Array, _: [bool; 3]) -> [Option<Array>; 3] {
        let width = gradient.width();
        let each = gradient.len() / self.batch;
        let of_patches = rows::without_first_rows(gradient.values(), each, width);
        let of_positions = rows::column_sums(gradient.values(), each);
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
#[derive(Debug, Clone)]
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
#[derive(Debug, Clone)]
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
