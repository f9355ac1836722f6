//! Attention under every mask.

use super::*;
use crate::ops::{Keys, Rule};

/// `x` as `[rows, 3 * width]` through both forms.
fn compare_self(what: &str, heads: usize, width: usize, keys: &Keys) {
    let third = |x: &Tensor<1>, i: usize| matrix(x, 3 * width).narrow(1, i * width, width);
    compare(
        what,
        &[&[keys.rows * keys.q_len, 3 * width]],
        |x| fused::attention(matrix(&x[0], 3 * width), None, heads, keys),
        |x| {
            let qkv = [0, 1, 2].map(|i| third(&x[0], i));
            plain::attention(qkv, heads, keys, None)
        },
    );
}

/// Queries over `blocks` of keys and values through both forms.
fn compare_cross(what: &str, heads: usize, width: usize, blocks: usize, keys: &Keys) {
    let shapes: [&[usize]; 2] = [
        &[keys.rows * keys.q_len, width],
        &[blocks * keys.k_len, 2 * width],
    ];
    compare(
        what,
        &shapes,
        |x| {
            let kv = matrix(&x[1], 2 * width);
            fused::attention(matrix(&x[0], width), Some(kv), heads, keys)
        },
        |x| {
            let kv = matrix(&x[1], 2 * width);
            let (k, v) = (kv.clone().narrow(1, 0, width), kv.narrow(1, width, width));
            plain::attention([matrix(&x[0], width), k, v], heads, keys, None)
        },
    );
}

/// Every rule for queries over as many keys.
const RULES: [Rule; 5] = [
    Rule::All,
    Rule::Causal { before: 0 },
    Rule::Causal { before: 3 },
    Rule::Prefix { len: 3 },
    Rule::Parted { at: 2 },
];

#[test]
fn self_attention_agrees_under_every_mask() {
    for rule in RULES {
        for (starts, lengths) in [
            (None, None),
            (None, Some(vec![7, 2, 5])),
            (Some(vec![0, 3, 1]), None),
            // The second row sees nothing.
            (Some(vec![2, 4, 0]), Some(vec![6, 3, 7])),
        ] {
            let keys = Keys {
                starts,
                lengths,
                rule,
                ..Keys::all(3, 7)
            };
            compare_self(&format!("{keys:?}"), 3, 24, &keys);
        }
    }
}

#[test]
fn self_attention_agrees_where_tiles_are_full_and_where_they_are_not() {
    for (rows, len, heads, width) in [(1, 100, 2, 32), (2, 33, 1, 64), (1, 150, 2, 40)] {
        for rule in [
            Rule::All,
            Rule::Causal { before: 0 },
            Rule::Parted { at: 19 },
        ] {
            let keys = Keys {
                rule,
                ..Keys::all(rows, len)
            };
            compare_self(&format!("{len} tokens, {rule:?}"), heads, width, &keys);
        }
    }
}

#[test]
fn cross_attention_agrees_where_rows_share_blocks() {
    for q_len in [1, 3, 21] {
        for lengths in [None, Some(vec![5, 18, 1, 9])] {
            let keys = Keys {
                q_len,
                index: Some(vec![1, 0, 1, 1]),
                lengths,
                ..Keys::all(4, 18)
            };
            compare_cross("rows that share blocks", 2, 16, 2, &keys);
        }
    }
}

#[test]
fn one_query_over_many_keys_agrees() {
    for (heads, width) in [(2, 32), (1, 80), (3, 24), (1, 64)] {
        let keys = Keys {
            q_len: 1,
            starts: Some(vec![0, 30]),
            lengths: Some(vec![70, 67]),
            ..Keys::all(2, 70)
        };
        compare_cross("one query", heads, width, 2, &keys);
    }
}

#[test]
fn a_bias_is_added_to_the_scores() {
    for rule in RULES {
        let (heads, len) = (2, 9);
        let keys = Keys {
            rule,
            bias: Some(noise(heads * len * len, 7).into()),
            ..Keys::all(2, len)
        };
        compare_self("attention with a bias", heads, 16, &keys);
    }
    let keys = Keys {
        q_len: 1,
        bias: Some(noise(2 * 9, 8).into()),
        ..Keys::all(2, 9)
    };
    compare_cross("one query with a bias", 2, 16, 2, &keys);
}

#[test]
fn hidden_keys_are_not_read() {
    let (capacity, heads, width) = (40, 2, 16);
    for q_len in [1, 3, 20] {
        let keys = Keys {
            q_len,
            starts: Some(vec![0, 2]),
            lengths: Some(vec![23, 21]),
            rule: Rule::Causal { before: 20 - q_len },
            ..Keys::all(2, capacity)
        };
        let q = leaf([2 * q_len, width], 1);
        let run = |hidden: f32| {
            let mut values = noise(2 * capacity * 2 * width, 2);
            for (i, value) in values.iter_mut().enumerate() {
                let (row, key) = (i / (2 * width * capacity), i / (2 * width) % capacity);
                if !(0..q_len).any(|query| keys.visible(row, query).contains(&key)) {
                    *value = hidden;
                }
            }
            let shape = [2 * capacity, 2 * width];
            let device = Device::flex().autodiff();
            let kv = Tensor::<2>::from_data(TensorData::new(values, shape), &device);
            let kv = kv.require_grad();
            let out = fused::attention(q.clone(), Some(kv.clone()), heads, &keys);
            let mut gradients = out.clone().powi_scalar(2).sum().backward();
            let of_q = q.grad_remove(&mut gradients).expect("a gradient");
            let of_kv = kv.grad_remove(&mut gradients).expect("a gradient");
            let inner = |tensor: &Tensor<2>| tensor.clone().inner();
            let untracked = fused::attention(inner(&q), Some(inner(&kv)), heads, &keys);
            [&out, &of_q, &of_kv, &untracked].map(values_of)
        };
        let found = run(f32::NAN);
        assert!(found.iter().flatten().all(|value| value.is_finite()));
        assert_eq!(run(0.0), found, "{q_len} queries");
    }
}
