//! Attention of rows over their keys, forward and backward, head by head on the
//! interleaved layout that the projections give: nothing is permuted.
//!
//! A task is a block of keys in one head, with the queries of all rows that look at it. It packs
//! the keys and values once and takes the queries a tile of rows at a time, so that the scores
//! stay in the second cache. For a few queries [`few`] reads the keys where they lie. The forward
//! pass keeps two numbers of each query ([`Softmax`]), from which the backward pass computes the
//! probabilities again.

mod backward;
mod few;
mod forward;

use rayon::prelude::*;
use std::ops::Range;

use super::gemm::{Operand, Panels, STEP, Sums, Values, add_product};
use super::math::{add_scaled, dot};
use super::rows::Softmax;
use crate::ops::Keys;

pub(in crate::ops) use backward::{Gradients, backward};
pub(in crate::ops) use forward::forward;

/// Where the heads of one operand lie.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Lanes {
    /// Length of a row of the operand.
    pub stride: usize,
    /// First column of what is meant: query, key or value.
    pub first: usize,
}

/// Sizes of an attention.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Shape {
    pub heads: usize,
    /// Width of a head.
    pub size: usize,
    pub query: Lanes,
    pub key: Lanes,
    pub value: Lanes,
}

/// What an attention reads. Queries, keys and values are in one operand or in two.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Inputs<'a> {
    pub q: &'a [f32],
    pub kv: &'a [f32],
    pub shape: Shape,
    pub keys: &'a Keys,
}

/// Queries whose scores are computed at a time: whole tiles of every size.
const TILE_QUERIES: usize = 48;

/// Tasks of fewer multiplications run together on one thread.
const TASK_WORK: usize = 1 << 18;

impl Lanes {
    #[inline(always)]
    fn at(self, row: usize, head: usize, size: usize) -> usize {
        row * self.stride + self.first + head * size
    }
}

impl Inputs<'_> {
    /// For each block of keys, the rows that look at it.
    fn rows_of_blocks(&self) -> Vec<Vec<usize>> {
        let blocks = self.kv.len() / (self.shape.key.stride * self.keys.k_len).max(1);
        let mut rows = vec![Vec::new(); blocks];
        for row in 0..self.keys.rows {
            rows[self.keys.block(row)].push(row);
        }
        rows
    }

    /// Tasks that run together on one thread.
    fn tasks_together(&self) -> usize {
        let Keys {
            rows, q_len, k_len, ..
        } = *self.keys;
        let work = rows * q_len * k_len * self.shape.size;
        let blocks = self.kv.len() / (self.shape.key.stride * k_len).max(1);
        TASK_WORK / (work / blocks.max(1)).max(1) + 1
    }
}

/// Runs `task` on each of `tasks`, on all threads if they are worth it, with scratch memory.
fn for_each<T: Send, O: Send>(
    tasks: Vec<T>,
    together: usize,
    task: impl Fn(&mut Scratch, T) -> O + Send + Sync,
) -> Vec<O> {
    if tasks.len() <= together || rayon::current_num_threads() == 1 {
        let mut scratch = Scratch::default();
        let each = tasks.into_iter().map(|it| task(&mut scratch, it));
        return each.collect();
    }
    let tasks = tasks.into_par_iter().with_min_len(together);
    tasks.map_init(Scratch::default, task).collect()
}

/// A block of keys in one head and the rows whose queries look at it.
#[derive(Clone, Copy)]
struct Head<'a> {
    rows: &'a [usize],
    block: usize,
    head: usize,
}

impl Head<'_> {
    /// Row of a query, and its place there.
    #[inline(always)]
    fn query(&self, keys: &Keys, index: usize) -> (usize, usize) {
        (self.rows[index / keys.q_len], index % keys.q_len)
    }

    /// The run of keys that at least one of the queries sees is within this one.
    fn seen(&self, keys: &Keys) -> Range<usize> {
        let queries = (0..self.rows.len() * keys.q_len).map(|index| {
            let (row, query) = self.query(keys, index);
            keys.visible(row, query)
        });
        let runs = queries.filter(|run| !run.is_empty());
        let hull = runs.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end));
        hull.unwrap_or(0..0)
    }
}

/// Memory that tasks use one after the other.
#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    slopes: Vec<f32>,
    queries: Vec<f32>,
    gradients: Vec<f32>,
    product: Vec<f32>,
    of_keys: Vec<f32>,
    of_values: Vec<f32>,
    narrow: Vec<f32>,
}

/// A run of rows of one operand in one head.
#[derive(Clone, Copy)]
struct Part<'a> {
    values: &'a [f32],
    lanes: Lanes,
    first: usize,
    head: usize,
    size: usize,
}

impl<'a> Part<'a> {
    #[inline(always)]
    fn row(&self, row: usize) -> &'a [f32] {
        &self.values[self.lanes.at(self.first + row, self.head, self.size)..][..self.size]
    }

    /// With the rows as vectors of the inner dimension.
    #[inline(always)]
    fn rows(&self) -> Operand<'a> {
        self.operand(true)
    }

    /// With the columns as vectors of the inner dimension.
    #[inline(always)]
    fn columns(&self) -> Operand<'a> {
        self.operand(false)
    }

    #[inline(always)]
    fn operand(&self, along: bool) -> Operand<'a> {
        let at = self.lanes.at(self.first, self.head, self.size);
        Operand {
            values: Values::F32(self.values.get(at..).unwrap_or(&[])),
            stride: self.lanes.stride,
            along,
        }
    }
}

impl<'a> Inputs<'a> {
    /// Keys of a block from `first` on.
    #[inline(always)]
    fn keys_of(&self, head: &Head<'_>, first: usize) -> Part<'a> {
        self.part(self.kv, self.shape.key, head, first)
    }

    /// Values of a block from `first` on.
    #[inline(always)]
    fn values_of(&self, head: &Head<'_>, first: usize) -> Part<'a> {
        self.part(self.kv, self.shape.value, head, first)
    }

    #[inline(always)]
    fn part(&self, values: &'a [f32], lanes: Lanes, head: &Head<'_>, first: usize) -> Part<'a> {
        Part {
            values,
            lanes,
            first: head.block * self.keys.k_len + first,
            head: head.head,
            size: self.shape.size,
        }
    }

    /// Copies rows of queries, or of what lies like them, as contiguous lines of whole steps.
    #[inline(always)]
    fn gather(
        &self,
        from: &[f32],
        lanes: Lanes,
        head: &Head<'_>,
        queries: Range<usize>,
        factor: f32,
        to: &mut Vec<f32>,
    ) {
        let size = self.shape.size;
        let line = size.next_multiple_of(STEP);
        to.clear();
        to.resize(line * queries.len(), 0.0);
        for (to, index) in to.chunks_exact_mut(line).zip(queries) {
            let (row, query) = head.query(self.keys, index);
            let at = lanes.at(row * self.keys.q_len + query, head.head, size);
            for (to, value) in to.iter_mut().zip(&from[at..at + size]) {
                *to = value * factor;
            }
        }
    }

    /// Adds the bias of these queries to their scores of the keys in `seen`.
    #[inline(always)]
    fn add_bias(&self, head: &Head<'_>, query: usize, seen: &Range<usize>, scores: &mut [f32]) {
        if let Some(bias) = &self.keys.bias {
            let Keys { q_len, k_len, .. } = *self.keys;
            let first = (head.head * q_len + query) * k_len;
            let bias = &bias[first + seen.start..first + seen.end];
            add_scaled(&mut scores[..bias.len()], 1.0, bias);
        }
    }
}

/// Contiguous lines as the narrow side of a product.
#[inline(always)]
fn lines(values: &[f32], stride: usize) -> Operand<'_> {
    Operand {
        values: Values::F32(values),
        stride,
        along: true,
    }
}

/// The columns of contiguous lines as the narrow side of a product.
#[inline(always)]
fn columns(values: &[f32], stride: usize) -> Operand<'_> {
    Operand {
        values: Values::F32(values),
        stride,
        along: false,
    }
}

/// Products of `count` lines, `stride` apart, with all panels, in `sums`; gives their stride.
#[inline(always)]
fn multiply<S: pulp::Simd>(
    simd: S,
    (left, stride): (&[f32], usize),
    count: usize,
    steps: usize,
    panels: &Panels,
    sums: &mut Vec<f32>,
    narrow: &mut Vec<f32>,
) -> usize {
    let mut sums = Sums::zeros::<S>(sums, count, panels.columns());
    let left = lines(left, stride);
    add_product(simd, left, 0..count, 0..steps, panels, &mut sums, narrow);
    sums.stride
}
