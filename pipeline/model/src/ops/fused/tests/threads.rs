//! Results and gradients do not depend on the number of threads.

use super::*;
use crate::ops::{Keys, Rule};

/// Result and gradients of `function` on leaves of these sizes, by pools of several sizes.
fn assert_same<const O: usize>(
    what: &str,
    lens: &[usize],
    function: impl Fn(&[Tensor<1>]) -> Tensor<O> + Sync,
) {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("a pool").install(|| {
            let leaves: Vec<_> = lens
                .iter()
                .zip(1..)
                .map(|(len, seed)| leaf([*len], seed))
                .collect();
            let out = function(&leaves);
            let mut gradients = out.clone().powi_scalar(2).sum().backward();
            let mut found = vec![values_of(&out)];
            for leaf in leaves {
                found.push(values_of(
                    &leaf.grad_remove(&mut gradients).expect("a gradient"),
                ));
            }
            let inputs: Vec<_> = lens
                .iter()
                .zip(1..)
                .map(|(len, seed)| constant([*len], seed))
                .collect();
            found.push(values_of(&function(&inputs)));
            found
        })
    };
    let expected = run(1);
    for threads in [2, 3] {
        assert_eq!(run(threads), expected, "{what} on {threads} threads");
    }
}

#[test]
fn rows_are_the_same_on_any_number_of_threads() {
    let (rows, width) = (300, 160);
    assert_same("layer norm", &[rows * width, width, width], |x| {
        fused::layer_norm(matrix(&x[0], width), x[1].clone(), x[2].clone(), 1e-5)
    });
    let lens = [rows * width, rows * width, width, width];
    assert_same("layer norm of a sum", &lens, |x| {
        let (a, b) = (matrix(&x[0], width), matrix(&x[1], width));
        fused::add_layer_norm(a, b, x[2].clone(), x[3].clone(), 1e-5)
    });
    assert_same("gelu", &[rows * width], |x| {
        fused::activation(matrix(&x[0], width), Activation::Gelu)
    });
    assert_same("linear", &[rows * width, 90 * width, 90], |x| {
        fused::linear(matrix(&x[0], width), x[1].clone(), Some(x[2].clone()))
    });
    let classes: Vec<u32> = (0..rows as u32).map(|row| row % width as u32).collect();
    assert_same("cross entropy", &[rows * width], |x| {
        let targets = Targets {
            classes: &classes,
            smoothing: 0.1,
        };
        fused::cross_entropy_sum(matrix(&x[0], width), &targets)
    });
    assert_same("picture tokens", &[60 * 4 * width, width, 5 * width], |x| {
        fused::picture_tokens(matrix(&x[0], width), x[1].clone(), x[2].clone(), 60)
    });
    let ids: Vec<u32> = (0..rows as u32).map(|row| row % 50).collect();
    assert_same("embedding", &[50 * width, 50 * width], |x| {
        fused::embed(&ids, x[0].clone(), x[1].clone(), &ids, width)
    });
}

#[test]
fn attention_is_the_same_on_any_number_of_threads() {
    let (rows, len, heads, width) = (3, 70, 4, 64);
    let keys = Keys {
        rule: Rule::Causal { before: 0 },
        ..Keys::all(rows, len)
    };
    assert_same("self-attention", &[rows * len * 3 * width], |x| {
        fused::attention(matrix(&x[0], 3 * width), None, heads, &keys)
    });
    for q_len in [1, 60] {
        let keys = Keys {
            q_len,
            index: Some(vec![1, 0, 1]),
            ..Keys::all(3, 600)
        };
        let lens = [3 * q_len * width, 2 * 600 * 2 * width];
        assert_same("cross-attention", &lens, |x| {
            let kv = matrix(&x[1], 2 * width);
            fused::attention(matrix(&x[0], width), Some(kv), heads, &keys)
        });
    }
}
