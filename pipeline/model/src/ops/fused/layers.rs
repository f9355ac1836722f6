//! Linear maps, norms, activations and attention.

use burn::tensor::Tensor;

use super::node::{Array, Operation, apply};
use crate::config::Activation;
use crate::ops::Keys;
use crate::ops::kernel::attention::{Lanes, Shape};
use crate::ops::kernel::{Matrix, Start, attention as heads, gemm, norm, rows};

/// `x W^T + b`.
#[derive(Debug)]
struct Linear;

fn linear_forward(x: &Array, weight: &Array, start: Start<'_>) -> Array {
    let inputs = x.width();
    let (rows, outputs) = (x.values().len() / inputs, weight.values().len() / inputs);
    let mut y = vec![0.0; rows * outputs];
    let weight = Matrix::transposed(weight.values(), inputs);
    gemm(
        [rows, outputs, inputs],
        Matrix::new(x.values(), inputs),
        weight,
        start,
        &mut y,
    );
    Array::from_values(y, &[rows, outputs])
}

fn linear_backward(
    x: &Array,
    weight: &Array,
    gradient: &Array,
    needed: [bool; 2],
) -> [Option<Array>; 2] {
    let (inputs, outputs) = (x.width(), gradient.width());
    let rows = x.values().len() / inputs;
    let of_x = needed[0].then(|| {
        let mut of_x = vec![0.0; rows * inputs];
        let left = Matrix::new(gradient.values(), outputs);
        gemm(
            [rows, inputs, outputs],
            left,
            Matrix::new(weight.values(), inputs),
            Start::Zero,
            &mut of_x,
        );
        Array::from_values(of_x, &[rows, inputs])
    });
    let of_weight = needed[1].then(|| {
        let mut of_weight = vec![0.0; outputs * inputs];
        let left = Matrix::transposed(gradient.values(), outputs);
        gemm(
            [outputs, inputs, rows],
            left,
            Matrix::new(x.values(), inputs),
            Start::Zero,
            &mut of_weight,
        );
        Array::from_values(of_weight, &[outputs * inputs])
    });
    [of_x, of_weight]
}

impl Operation<2> for Linear {
    type Saved = (Array, Array);

    fn forward(&self, [x, weight]: [Array; 2]) -> (Array, Self::Saved) {
        (linear_forward(&x, &weight, Start::Zero), (x, weight))
    }

    fn backward(
        self,
        (x, weight): Self::Saved,
        gradient: Array,
        needed: [bool; 2],
    ) -> [Option<Array>; 2] {
        linear_backward(&x, &weight, &gradient, needed)
    }
}

impl Operation<3> for Linear {
    type Saved = (Array, Array);

    fn forward(&self, [x, weight, bias]: [Array; 3]) -> (Array, Self::Saved) {
        (
            linear_forward(&x, &weight, Start::Bias(bias.values())),
            (x, weight),
        )
    }

    fn backward(
        self,
        (x, weight): Self::Saved,
        gradient: Array,
        needed: [bool; 3],
    ) -> [Option<Array>; 3] {
        let outputs = gradient.width();
        let of_bias = needed[2].then(|| {
            let mut sums = vec![0.0; outputs];
            rows::add_rows(gradient.values(), &mut sums);
            Array::from_values(sums, &[outputs])
        });
        let [of_x, of_weight] = linear_backward(&x, &weight, &gradient, [needed[0], needed[1]]);
        [of_x, of_weight, of_bias]
    }
}

/// `x W^T + b` with `W` flat.
pub(in crate::ops) fn linear(
    x: Tensor<2>,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
) -> Tensor<2> {
    match bias {
        Some(bias) => apply(
            Linear,
            [
                x.into_dispatch(),
                weight.into_dispatch(),
                bias.into_dispatch(),
            ],
        ),
        None => apply(Linear, [x.into_dispatch(), weight.into_dispatch()]),
    }
}

/// Layer norm of rows.
#[derive(Debug)]
struct LayerNorm {
    epsilon: f32,
}

/// Normed rows, their factors, the gain.
type Normed = (Array, std::sync::Arc<Vec<f32>>, Array);

impl LayerNorm {
    fn norm(&self, mut x: Vec<f32>, gain: Array, bias: &Array) -> (Array, Normed) {
        let width = gain.values().len();
        let rows = x.len() / width;
        let mut out = vec![0.0; x.len()];
        let mut factors = vec![0.0; rows];
        norm::forward(
            &mut x,
            gain.values(),
            bias.values(),
            self.epsilon,
            &mut out,
            &mut factors,
        );
        let shape = [rows, width];
        (
            Array::from_values(out, &shape),
            (Array::from_values(x, &shape), factors.into(), gain),
        )
    }

    fn gradients((normed, factors, gain): Normed, gradient: &Array) -> [Array; 3] {
        let (of_x, of_gain, of_bias) =
            norm::backward(gradient.values(), normed.values(), &factors, gain.values());
        let width = gain.values().len();
        [
            Array::from_values(of_x, &[factors.len(), width]),
            Array::from_values(of_gain, &[width]),
            Array::from_values(of_bias, &[width]),
        ]
    }
}

impl Operation<3> for LayerNorm {
    type Saved = Normed;

    fn forward(&self, [x, gain, bias]: [Array; 3]) -> (Array, Normed) {
        self.norm(x.values().to_vec(), gain, &bias)
    }

    fn backward(self, saved: Normed, gradient: Array, _: [bool; 3]) -> [Option<Array>; 3] {
        Self::gradients(saved, &gradient).map(Some)
    }
}

/// Layer norm of the rows of a sum.
#[derive(Debug)]
struct AddLayerNorm(LayerNorm);

impl Operation<4> for AddLayerNorm {
    type Saved = Normed;

    fn forward(&self, [x, y, gain, bias]: [Array; 4]) -> (Array, Normed) {
        let mut sum = vec![0.0; x.values().len()];
        rows::add(x.values(), y.values(), &mut sum);
        self.0.norm(sum, gain, &bias)
    }

    fn backward(self, saved: Normed, gradient: Array, _: [bool; 4]) -> [Option<Array>; 4] {
        let [of_sum, of_gain, of_bias] = LayerNorm::gradients(saved, &gradient);
        [of_sum.clone(), of_sum, of_gain, of_bias].map(Some)
    }
}

pub(in crate::ops) fn layer_norm(
    x: Tensor<2>,
    gain: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
) -> Tensor<2> {
    let operation = LayerNorm {
        epsilon: epsilon as f32,
    };
    apply(
        operation,
        [
            x.into_dispatch(),
            gain.into_dispatch(),
            bias.into_dispatch(),
        ],
    )
}

pub(in crate::ops) fn add_layer_norm(
    x: Tensor<2>,
    y: Tensor<2>,
    gain: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
) -> Tensor<2> {
    let operation = AddLayerNorm(LayerNorm {
        epsilon: epsilon as f32,
    });
    apply(
        operation,
        [
            x.into_dispatch(),
            y.into_dispatch(),
            gain.into_dispatch(),
            bias.into_dispatch(),
        ],
    )
}

/// An activation; its derivative is computed beside it, from the same exponential.
#[derive(Debug)]
struct Activate(Activation);

impl Operation<1> for Activate {
    type Saved = Array;

    fn forward(&self, [x]: [Array; 1]) -> (Array, Array) {
        let shape = x.shape();
        let mut y = vec![0.0; x.values().len()];
        let mut slopes = vec![0.0; x.values().len()];
        rows::activate(self.0, x.values(), &mut y, &mut slopes);
        (
            Array::from_values(y, &shape),
            Array::from_values(slopes, &shape),
        )
    }

    fn backward(self, slopes: Array, gradient: Array, _: [bool; 1]) -> [Option<Array>; 1] {
        let shape = gradient.shape();
        let mut values = gradient.into_values();
        rows::multiply(&mut values, slopes.values());
        [Some(Array::from_values(values, &shape))]
    }
}

pub(in crate::ops) fn activation(x: Tensor<2>, kind: Activation) -> Tensor<2> {
    apply(Activate(kind), [x.into_dispatch()])
}

/// Attention over keys and values in the operand of the queries (`N` = 1) or another.
#[derive(Debug)]
struct Attention {
    heads: usize,
    keys: std::sync::Arc<Keys>,
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
                    query: Lanes { stride, first: 0 },
                    key: lanes(0),
                    value: lanes(stride),
                }
            }
        }
    }

    fn attend(&self, q: &Array, kv: Option<&Array>) -> (Array, Array) {
        let shape = self.shape(q, kv);
        let keys = &self.keys;
        let (rows, width) = (keys.rows * keys.q_len, shape.heads * shape.size);
        let mut out = vec![0.0; rows * width];
        let from = kv.unwrap_or(q).values();
        let probabilities = heads::forward(q.values(), from, shape, keys, &mut out);
        let len = probabilities.len();
        (
            Array::from_values(out, &[rows, width]),
            Array::from_values(probabilities, &[len]),
        )
    }
}

impl Operation<1> for Attention {
    type Saved = (Array, Array);

    fn forward(&self, [qkv]: [Array; 1]) -> (Array, Self::Saved) {
        let (out, probabilities) = self.attend(&qkv, None);
        (out, (qkv, probabilities))
    }

    fn backward(
        self,
        (qkv, probabilities): Self::Saved,
        gradient: Array,
        _: [bool; 1],
    ) -> [Option<Array>; 1] {
        let shape = self.shape(&qkv, None);
        let values = qkv.values();
        let mut of_qkv = vec![0.0; values.len()];
        let probabilities = probabilities.values();
        heads::backward(
            gradient.values(),
            values,
            values,
            probabilities,
            shape,
            &self.keys,
            &mut of_qkv,
            None,
        );
        [Some(Array::from_values(of_qkv, &qkv.shape()))]
    }
}

impl Operation<2> for Attention {
    type Saved = (Array, Array, Array);

    fn forward(&self, [q, kv]: [Array; 2]) -> (Array, Self::Saved) {
        let (out, probabilities) = self.attend(&q, Some(&kv));
        (out, (q, kv, probabilities))
    }

    fn backward(
        self,
        (q, kv, probabilities): Self::Saved,
        gradient: Array,
        _: [bool; 2],
    ) -> [Option<Array>; 2] {
        let shape = self.shape(&q, Some(&kv));
        let mut of_q = vec![0.0; q.values().len()];
        let mut of_kv = vec![0.0; kv.values().len()];
        heads::backward(
            gradient.values(),
            q.values(),
            kv.values(),
            probabilities.values(),
            shape,
            &self.keys,
            &mut of_q,
            Some(&mut of_kv),
        );
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
        keys: std::sync::Arc::new(keys.clone()),
    };
    match kv {
        Some(kv) => apply(operation, [q.into_dispatch(), kv.into_dispatch()]),
        None => apply(operation, [q.into_dispatch()]),
    }
}
