//! Attention.

use burn::tensor::Tensor;
use std::sync::Arc;

use super::node::{Array, Operation, apply};
use crate::ops::Keys;
use crate::ops::kernel::attention::{self as heads, Gradients, Inputs, Lanes, Shape};
use crate::ops::kernel::rows;

/// Attention over keys and values in the operand of the queries (`N` = 1) or another.
#[derive(Debug, Clone)]
struct Attention {
    heads: usize,
    keys: Arc<Keys>,
}

impl Attention {
    fn shape(&self, q: &Array, kv: Option<&Array>) -> Shape {
        let stride = q.width();
        match kv {
            None => {
                let width = stride / 3;
                let lanes = |first| Lanes { stride, first };
                Shape {
                    heads: self.heads,
                    size: width / self.heads,
                    scale: scale(width / self.heads),
                    query: lanes(0),
                    key: lanes(width),
                    value: lanes(2 * width),
                }
            }
            Some(kv) => {
                let lanes = |first| Lanes {
                    stride: kv.width(),
                    first,
                };
                Shape {
                    heads: self.heads,
                    size: stride / self.heads,
                    scale: scale(stride / self.heads),
                    query: Lanes { stride, first: 0 },
                    key: lanes(0),
                    value: lanes(stride),
                }
            }
        }
    }

    fn inputs<'a>(&'a self, q: &'a Array, kv: Option<&'a Array>) -> Inputs<'a> {
        Inputs {
            q: q.values(),
            kv: kv.unwrap_or(q).values(),
            shape: self.shape(q, kv),
            keys: &self.keys,
        }
    }

    fn attend(&self, q: &Array, kv: Option<&Array>, keep: bool) -> (Array, Softmaxes) {
        let inputs = self.inputs(q, kv);
        let rows = self.keys.rows * self.keys.q_len;
        let width = inputs.shape.heads * inputs.shape.size;
        let mut out = vec![0.0; rows * width];
        let softmax = heads::forward(inputs, keep, &mut out);
        (Array::from_values(out, &[rows, width]), softmax.into())
    }
}

/// What the products of query and key are multiplied with.
fn scale(size: usize) -> f32 {
    (size as f32).powf(-0.5)
}

/// What the backward pass needs of the softmax of every query.
type Softmaxes = Arc<[Vec<rows::Softmax>]>;

impl Operation<1> for Attention {
    type Saved = (Array, Softmaxes);

    fn forward(&self, [qkv]: [Array; 1]) -> (Array, Self::Saved) {
        let (out, softmax) = self.attend(&qkv, None, true);
        (out, (qkv, softmax))
    }

    fn value(&self, [qkv]: [Array; 1]) -> Array {
        self.attend(&qkv, None, false).0
    }

    fn backward(
        self,
        (qkv, softmax): Self::Saved,
        gradient: Array,
        _: [bool; 1],
    ) -> [Option<Array>; 1] {
        let mut of_qkv = vec![0.0; qkv.len()];
        let gradients = Gradients {
            of_q: &mut of_qkv,
            of_kv: None,
        };
        let inputs = self.inputs(&qkv, None);
        heads::backward(inputs, gradient.values(), &softmax, gradients);
        [Some(Array::from_values(of_qkv, &qkv.shape()))]
    }
}

impl Operation<2> for Attention {
    type Saved = (Array, Array, Softmaxes);

    fn forward(&self, [q, kv]: [Array; 2]) -> (Array, Self::Saved) {
        let (out, softmax) = self.attend(&q, Some(&kv), true);
        (out, (q, kv, softmax))
    }

    fn value(&self, [q, kv]: [Array; 2]) -> Array {
        self.attend(&q, Some(&kv), false).0
    }

    fn backward(
        self,
        (q, kv, softmax): Self::Saved,
        gradient: Array,
        _: [bool; 2],
    ) -> [Option<Array>; 2] {
        let (mut of_q, mut of_kv) = (vec![0.0; q.len()], vec![0.0; kv.len()]);
        let gradients = Gradients {
            of_q: &mut of_q,
            of_kv: Some(&mut of_kv),
        };
        let inputs = self.inputs(&q, Some(&kv));
        heads::backward(inputs, gradient.values(), &softmax, gradients);
        [
            Some(Array::from_values(of_q, &q.shape())),
            Some(Array::from_values(of_kv, &kv.shape())),
        ]
    }
}

/// Attention of `q` over `kv`, or of each row of `q` `[rows, 3 * width]` over itself.
pub(in crate::ops) fn attention(
    q: Tensor<2>,
    kv: Option<Tensor<2>>,
    heads: usize,
    keys: &Keys,
) -> Tensor<2> {
    let operation = Attention {
        heads,
        keys: Arc::new(keys.clone()),
    };
    match kv {
        Some(kv) => apply(operation, [q.into_dispatch(), kv.into_dispatch()]),
        None => apply(operation, [q.into_dispatch()]),
    }
}
