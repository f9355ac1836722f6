//! Linear maps.

use burn::tensor::Tensor;

use super::node::{Array, Operation, apply};
use crate::ops::kernel::{Matrix, Start, gemm, rows};

/// `x W^T + b`.
#[derive(Debug, Clone)]
struct Linear;

fn linear_forward(x: &Array, weight: &Array, start: Start<'_>) -> Array {
    let inputs = x.width();
    let (rows, outputs) = (x.len() / inputs, weight.len() / inputs);
    let mut y = vec![0.0; rows * outputs];
    let weight = Matrix::transposed(weight.stored(), inputs);
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
            Matrix::new(weight.stored(), inputs),
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
        let bias = bias.widened();
        let y = linear_forward(&x, &weight, Start::Bias(bias.values()));
        (y, (x, weight))
    }

    fn backward(
        self,
        (x, weight): Self::Saved,
        gradient: Array,
        needed: [bool; 3],
    ) -> [Option<Array>; 3] {
        let outputs = gradient.width();
        let of_bias = needed[2].then(|| {
            let sums = rows::column_sums(gradient.values(), outputs);
            Array::from_values(sums, &[outputs])
        });
        let [of_x, of_weight] = linear_backward(&x, &weight, &gradient, [needed[0], needed[1]]);
        [of_x, of_weight, of_bias]
    }
}

/// `x W^T + b` with `W` flat, in any type of storage. A narrow `W` gets no gradient.
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
