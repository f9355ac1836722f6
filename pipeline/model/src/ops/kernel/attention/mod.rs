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
use std::cell::Cell;
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
    /// What the products of query and key are multiplied with.
    pub scale: f32,
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
    /// The blocks of keys.
    fn blocks(&self) -> Vec<Block> {
        let count = self.kv.len() / (self.shape.key.stride * self.keys.k_len).max(1);
        let mut blocks = Vec::new();
        blocks.resize_with(count, Block::default);
        for row in 0..self.keys.rows {
            let block = &mut blocks[self.keys.block(row)];
            block.queries.reserve(self.keys.q_len);
            for query in 0..self.keys.q_len {
                let visible = self.keys.visible(row, query);
                if block.seen.is_empty() {
                    block.seen = visible.clone();
                } else if !visible.is_empty() {
                    block.seen.start = block.seen.start.min(visible.start);
                    block.seen.end = block.seen.end.max(visible.end);
                }
                block.queries.push(Query {
                    token: row * self.keys.q_len + query,
                    place: query,
                    visible,
                });
            }
        }
        blocks
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
    let task = |it| {
        let mut scratch = SCRATCH.take().unwrap_or_default();
        let done = task(&mut scratch, it);
        SCRATCH.set(Some(scratch));
        done
    };
    if tasks.len() <= together || rayon::current_num_threads() == 1 {
        return tasks.into_iter().map(task).collect();
    }
    let tasks = tasks.into_par_iter().with_min_len(together);
    tasks.map(task).collect()
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// The queries of the rows that look at one block of keys.
#[derive(Default)]
struct Block {
    queries: Vec<Query>,
    /// All keys that a query sees are in this run.
    seen: Range<usize>,
}

struct Query {
    /// Row of the operand of the queries.
    token: usize,
    /// Place in its row of queries.
    place: usize,
    /// Keys that it sees.
    visible: Range<usize>,
}

/// A block of keys in one head.
#[derive(Clone, Copy)]
struct Head<'a> {
    queries: &'a [Query],
    seen: &'a Range<usize>,
    block: usize,
    head: usize,
}

impl<'a> Head<'a> {
    fn new(blocks: &'a [Block], block: usize, head: usize) -> Self {
        let Block { queries, seen } = &blocks[block];
        Self {
            queries,
            seen,
            block,
            head,
        }
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
    keys: Panels,
    key_columns: Panels,
    values: Panels,
    tile: Panels,
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

    /// Copies queries, or what lies like them, as contiguous lines of whole steps.
    #[inline(always)]
    fn gather(
        &self,
        (from, lanes): (&[f32], Lanes),
        head: usize,
        queries: &[Query],
        factor: f32,
        to: &mut Vec<f32>,
    ) {
        let size = self.shape.size;
        let line = size.next_multiple_of(STEP);
        to.resize(line * queries.len(), 0.0);
        for (to, query) in to.chunks_exact_mut(line).zip(queries) {
            let at = lanes.at(query.token, head, size);
            for (to, value) in to.iter_mut().zip(&from[at..at + size]) {
                *to = value * factor;
            }
            if line > size {
                to[size..].fill(0.0);
            }
        }
    }

    /// Adds the bias of a query to its scores of the keys in `seen`.
    #[inline(always)]
    fn add_bias(&self, head: usize, place: usize, seen: &Range<usize>, scores: &mut [f32]) {
        if let Some(bias) = &self.keys.bias {
            let Keys { q_len, k_len, .. } = *self.keys;
            let first = (head * q_len + place) * k_len;
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
