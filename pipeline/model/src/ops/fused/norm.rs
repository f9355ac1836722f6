//! Layer norms and activations.

use burn::tensor::Tensor;

use super::node::{Array, Operation, apply};
use crate::config::Activation;
use crate::ops::kernel::{norm, rows};

/// Layer norm of rows.
#[derive(Debug, Clone)]
struct LayerNorm {
    epsilon: f32,
}

/// What [`norm::forward`] kept, and the gain.
type Normed = (Array, Array);

impl LayerNorm {
    fn input<'a>(
        &self,
        x: &'a Array,
        y: Option<&'a Array>,
        [gain, bias]: [&'a Array; 2],
    ) -> norm::Input<'a> {
        norm::Input {
            x: x.values(),
            y: y.map(Array::values),
            gain: gain.values(),
            bias: bias.values(),
            epsilon: self.epsilon,
        }
    }

    fn norm(&self, x: &Array, y: Option<&Array>, scales: [Array; 2]) -> (Array, Normed) {
        let [gain, bias] = scales.map(Array::widened);
        let (out, kept) = norm::forward(self.input(x, y, [&gain, &bias]));
        let rows = [x.len() / gain.len(), gain.len() + 1];
        let kept = Array::from_values(kept, &rows);
        (Array::from_values(out, &x.shape()), (kept, gain))
    }

    fn norm_value(&self, x: &Array, y: Option<&Array>, scales: [Array; 2]) -> Array {
        let [gain, bias] = scales.map(Array::widened);
        let out = norm::value(self.input(x, y, [&gain, &bias]));
        Array::from_values(out, &x.shape())
    }

    /// Of input, gain and bias.
    fn gradients((kept, gain): Normed, gradient: &Array, needed: [bool; 3]) -> [Option<Array>; 3] {
        let (values, width) = (gradient.values(), gain.len());
        let of_input = needed[0].then(|| {
            let out = norm::of_input(values, kept.values(), gain.values());
            Array::from_values(out, &gradient.shape())
        });
        let of_gain = needed[1]
            .then(|| Array::from_values(norm::of_gain(values, kept.values(), width), &[width]));
        let of_bias =
            needed[2].then(|| Array::from_values(rows::column_sums(values, width), &[width]));
        [of_input, of_gain, of_bias]
    }
}

impl Operation<3> for LayerNorm {
    type Saved = Normed;

    fn forward(&self, [x, gain, bias]: [Array; 3]) -> (Array, Normed) {
        self.norm(&x, None, [gain, bias])
    }

    fn value(&self, [x, gain, bias]: [Array; 3]) -> Array {
        self.norm_value(&x, None, [gain, bias])
    }

    fn backward(self, saved: Normed, gradient: Array, needed: [bool; 3]) -> [Option<Array>; 3] {
        Self::gradients(saved, &gradient, needed)
    }
}

/// Layer norm of the rows of a sum.
#[derive(Debug, Clone)]
struct AddLayerNorm(LayerNorm);

impl Operation<4> for AddLayerNorm {
    type Saved = Normed;

    fn forward(&self, [x, y, gain, bias]: [Array; 4]) -> (Array, Normed) {
        self.0.norm(&x, Some(&y), [gain, bias])
    }

    fn value(&self, [x, y, gain, bias]: [Array; 4]) -> Array {
        self.0.norm_value(&x, Some(&y), [gain, bias])
    }

    fn backward(self, saved: Normed, gradient: Array, needed: [bool; 4]) -> [Option<Array>; 4] {
        let [of_x, of_y, gain, bias] = needed;
        let needed = [of_x || of_y, gain, bias];
        let [of_sum, of_gain, of_bias] = LayerNorm::gradients(saved, &gradient, needed);
        [of_sum.clone(), of_sum, of_gain, of_bias]
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
    let scales = [gain, bias].map(Tensor::into_dispatch);
    let [gain, bias] = scales;
    apply(operation, [x.into_dispatch(), gain, bias])
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
    let [gain, bias] = [gain, bias].map(Tensor::into_dispatch);
    apply(
        operation,
        [x.into_dispatch(), y.into_dispatch(), gain, bias],
    )
}

/// An activation; its derivative is computed beside it, from the same exponential.
#[derive(Debug, Clone)]
struct Activate(Activation);

impl Operation<1> for Activate {
    type Saved = Array;

    fn forward(&self, [x]: [Array; 1]) -> (Array, Array) {
        let shape = x.shape();
        let (y, slopes) = rows::activate_both(self.0, x.values());
        (
            Array::from_values(y, &shape),
            Array::from_values(slopes, &shape),
        )
    }

    fn value(&self, [x]: [Array; 1]) -> Array {
        Array::from_values(rows::activate(self.0, x.values()), &x.shape())
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
