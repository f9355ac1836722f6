//! Every fused operation against the composition of primitives: values and gradients.

use burn::tensor::{Device, Tensor, TensorData};

use crate::config::Activation;
use crate::ops::{Targets, fused, plain};

mod attention;
mod storage;
mod threads;

fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn leaf<const D: usize>(shape: [usize; D], seed: u32) -> Tensor<D> {
    let values = noise(shape.iter().product(), seed);
    Tensor::from_data(TensorData::new(values, shape), &Device::flex().autodiff()).require_grad()
}

/// The same values as a leaf's, without a graph.
fn constant<const D: usize>(shape: [usize; D], seed: u32) -> Tensor<D> {
    let values = noise(shape.iter().product(), seed);
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

fn values_of<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.to_data().try_into_vec().expect("f32")
}

fn assert_near(what: &str, a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "{what}");
    let size = b.iter().fold(1.0f32, |m, v| m.max(v.abs()));
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() <= 2e-5 * size, "{what}: {a} instead of {b}");
    }
}

/// Runs both ways on leaves of their own and compares result and gradients, weighted
/// so that no gradient is constant, and the fused result without a graph.
fn compare<const O: usize>(
    what: &str,
    shapes: &[&[usize]],
    fused: impl Fn(&[Tensor<1>]) -> Tensor<O>,
    plain: impl Fn(&[Tensor<1>]) -> Tensor<O>,
) {
    let run = |function: &dyn Fn(&[Tensor<1>]) -> Tensor<O>| {
        let leaves: Vec<Tensor<1>> = shapes
            .iter()
            .zip(1..)
            .map(|(shape, seed)| leaf([shape.iter().product()], seed))
            .collect();
        let out = function(&leaves);
        let weights = Tensor::from_data(
            TensorData::new(noise(out.shape().num_elements(), 99), out.dims()),
            &out.device(),
        );
        let mut gradients = (out.clone() * weights).sum().backward();
        let of: Vec<Vec<f32>> = leaves
            .iter()
            .map(|leaf| values_of(&leaf.grad_remove(&mut gradients).expect("a gradient")))
            .collect();
        (values_of(&out), of)
    };
    let (found, found_gradients) = run(&fused);
    let (wanted, wanted_gradients) = run(&plain);
    assert_near(what, &found, &wanted);
    let inputs: Vec<Tensor<1>> = shapes
        .iter()
        .zip(1..)
        .map(|(shape, seed)| constant([shape.iter().product()], seed))
        .collect();
    let untracked = values_of(&fused(&inputs));
    assert_near(&format!("{what}, untracked"), &untracked, &wanted);
    for (i, (found, wanted)) in found_gradients.iter().zip(&wanted_gradients).enumerate() {
        assert_near(&format!("{what}, gradient {i}"), found, wanted);
    }
}

fn matrix(x: &Tensor<1>, width: usize) -> Tensor<2> {
    let rows = x.dims()[0] / width;
    x.clone().reshape([rows, width])
}

#[test]
fn linear_maps_agree() {
    compare(
        "linear",
        &[&[37, 24], &[40, 24], &[40]],
        |x| fused::linear(matrix(&x[0], 24), x[1].clone(), Some(x[2].clone())),
        |x| plain::linear(matrix(&x[0], 24), matrix(&x[1], 24), Some(x[2].clone())),
    );
    compare(
        "linear without bias",
        &[&[5, 64], &[2, 64]],
        |x| fused::linear(matrix(&x[0], 64), x[1].clone(), None),
        |x| plain::linear(matrix(&x[0], 64), matrix(&x[1], 64), None),
    );
}

#[test]
fn norms_and_activations_agree() {
    for (width, epsilon) in [(24, 1e-5), (64, 1e-12)] {
        compare(
            "layer norm",
            &[&[9, width], &[width], &[width]],
            |x| fused::layer_norm(matrix(&x[0], width), x[1].clone(), x[2].clone(), epsilon),
            |x| plain::layer_norm(matrix(&x[0], width), x[1].clone(), x[2].clone(), epsilon),
        );
        compare(
            "layer norm of a sum",
            &[&[9, width], &[9, width], &[width], &[width]],
            |x| {
                fused::add_layer_norm(
                    matrix(&x[0], width),
                    matrix(&x[1], width),
                    x[2].clone(),
                    x[3].clone(),
                    epsilon,
                )
            },
            |x| {
                plain::layer_norm(
                    matrix(&x[0], width) + matrix(&x[1], width),
                    x[2].clone(),
                    x[3].clone(),
                    epsilon,
                )
            },
        );
    }
    for kind in [Activation::Gelu, Activation::QuickGelu] {
        compare(
            "activation",
            &[&[11, 33]],
            |x| fused::activation(matrix(&x[0], 33) * 4.0, kind),
            |x| plain::activation(matrix(&x[0], 33) * 4.0, kind),
        );
    }
}

#[test]
fn rows_agree() {
    let (ids, at) = ([3, 0, 3, 5, 1, 3], [0, 1, 2, 0, 1, 2]);
    compare(
        "embedding",
        &[&[6, 8], &[4, 8]],
        |x| fused::embed(&ids, x[0].clone(), x[1].clone(), &at, 8),
        |x| plain::embed(&ids, matrix(&x[0], 8), matrix(&x[1], 8), &at),
    );
    compare(
        "picture tokens",
        &[&[3 * 4, 8], &[8], &[5, 8]],
        |x| fused::picture_tokens(matrix(&x[0], 8), x[1].clone(), x[2].clone(), 3),
        |x| plain::picture_tokens(matrix(&x[0], 8), x[1].clone(), matrix(&x[2], 8), 3),
    );
    compare(
        "rows",
        &[&[6, 8]],
        |x| fused::select_rows(matrix(&x[0], 8), &ids),
        |x| plain::select_rows(matrix(&x[0], 8), &ids),
    );
    compare(
        "length 1",
        &[&[6, 20]],
        |x| fused::normalise(matrix(&x[0], 20)),
        |x| plain::normalise(matrix(&x[0], 20)),
    );
}

#[test]
fn cross_entropies_agree() {
    for smoothing in [0.0, 0.1] {
        let targets = Targets {
            classes: &[4, 0, 18, 7, 7],
            smoothing,
        };
        compare(
            "cross entropy",
            &[&[5, 19]],
            |x| fused::cross_entropy_sum(matrix(&x[0], 19) * 5.0, &targets),
            |x| plain::cross_entropy_sum(matrix(&x[0], 19) * 5.0, &targets),
        );
    }
}

#[test]
fn without_autodiff_the_values_are_the_same() {
    let device = Device::flex();
    let tensor = |shape: [usize; 1], seed| {
        Tensor::<1>::from_data(TensorData::new(noise(shape[0], seed), shape), &device)
    };
    let x = tensor([12], 1).reshape([3, 4]);
    let y = fused::linear(x.clone(), tensor([8], 2), Some(tensor([2], 3)));
    let plain = plain::linear(x, tensor([8], 2).reshape([2, 4]), Some(tensor([2], 3)));
    assert_near("linear", &values_of(&y), &values_of(&plain));
    assert!(!y.device().is_autodiff());
}
