use half::{bf16, f16};

use pulp::{Scalar, Simd};

use super::product::Whole;
use super::{Matrix, STREAMED_ROWS, Start, Values, gemm};

fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len)
        .map(|i| ((i * 37 + seed * 11) % 23) as f32 / 7.0 - 1.5)
        .collect()
}

fn transpose(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns)
        .flat_map(|c| (0..rows).map(move |r| (r, c)))
        .map(|(r, c)| x[r * columns + c])
        .collect()
}

/// Rows, columns and inner dimension: tiles and panels that are full and not, one and several
/// blocks of the inner dimension, runs of the wide side, few rows.
const SIZES: [[usize; 3]; 14] = [
    [1, 1, 1],
    [3, 5, 7],
    [17, 33, 64],
    [272, 64, 64],
    [9, 300, 20],
    [40, 2, 64],
    [600, 70, 70],
    [1, 400, 100],
    [2, 1300, 33],
    [3, 17, 8],
    [4, 150, 257],
    [5, 1100, 9],
    [50, 700, 300],
    [30, 20, 2500],
];

#[test]
fn every_layout_and_size_gives_the_plain_product() {
    for [m, n, k] in SIZES {
        let (a, b, bias) = (values(m * k, 1), values(k * n, 2), values(n, 3));
        let (at, bt) = (transpose(&a, m, k), transpose(&b, k, n));
        let plain: Vec<f64> = (0..m * n)
            .map(|i| {
                let (row, column) = (i / n, i % n);
                (0..k)
                    .map(|p| f64::from(a[row * k + p]) * f64::from(b[p * n + column]))
                    .sum()
            })
            .collect();
        for (left_t, right_t, biased) in [
            (false, false, false),
            (true, false, true),
            (false, true, true),
            (false, true, false),
            (true, true, false),
        ] {
            let left = if left_t {
                Matrix::transposed(&at[..], m)
            } else {
                Matrix::new(&a[..], k)
            };
            let right = if right_t {
                Matrix::transposed(&bt[..], k)
            } else {
                Matrix::new(&b[..], n)
            };
            let start = if biased {
                Start::Bias(&bias)
            } else {
                Start::Zero
            };
            let mut out = vec![f32::NAN; m * n];
            gemm([m, n, k], left, right, start, &mut out);
            for (i, value) in out.iter().enumerate() {
                let wanted = plain[i] + if biased { f64::from(bias[i % n]) } else { 0.0 };
                assert!(
                    (f64::from(*value) - wanted).abs() < 4e-6 * (k as f64 + 100.0),
                    "{m} {n} {k}: {value} for {wanted}"
                );
            }
        }
    }
}

/// `x W^T + b` for rows of one matrix.
fn linear(rows: &[f32], weight: Values<'_>, bias: &[f32], k: usize) -> Vec<f32> {
    let (m, n) = (rows.len() / k, bias.len());
    let mut out = vec![0.0; m * n];
    let right = Matrix::transposed(weight, k);
    let left = Matrix::new(rows, k);
    gemm([m, n, k], left, right, Start::Bias(bias), &mut out);
    out
}

fn pool(threads: usize) -> rayon::ThreadPool {
    let builder = rayon::ThreadPoolBuilder::new().num_threads(threads);
    builder.build().expect("a pool")
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let (one, two, three) = (pool(1), pool(2), pool(3));
    for [m, n, k] in [
        [1000, 64, 64],
        [3, 700, 500],
        [40, 900, 100],
        [700, 90, 2100],
        [5, 3000, 300],
    ] {
        let (a, b) = (values(m * k, 4), values(k * n, 5));
        for (left_t, right_t) in [(false, false), (true, false), (false, true)] {
            let side = |values, transposed, stride, other| {
                if transposed {
                    Matrix::transposed(values, other)
                } else {
                    Matrix::new(values, stride)
                }
            };
            let product = || {
                let mut out = vec![0.0; m * n];
                let left = side(&a[..], left_t, k, m);
                let right = side(&b[..], right_t, n, k);
                gemm([m, n, k], left, right, Start::Zero, &mut out);
                out
            };
            let expected = one.install(product);
            assert_eq!(expected, two.install(product), "{m} {n} {k}");
            assert_eq!(expected, three.install(product), "{m} {n} {k}");
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    for [m, n, k] in [[1000, 64, 64], [200, 300, 70], [40, 500, 600]] {
        let (a, b, bias) = (values(m * k, 4), values(k * n, 5), values(n, 6));
        let product = |rows: std::ops::Range<usize>| {
            linear(&a[rows.start * k..rows.end * k], (&b[..]).into(), &bias, k)
        };
        let all = product(0..m);
        for rows in [0..5, 20..39, 7..m] {
            assert_eq!(product(rows.clone()), all[rows.start * n..rows.end * n]);
        }
        let few = product(0..STREAMED_ROWS);
        for row in 0..STREAMED_ROWS {
            assert_eq!(product(row..row + 1), few[row * n..(row + 1) * n]);
        }
    }
}

#[test]
fn a_narrow_matrix_gives_what_its_widened_values_give() {
    for [m, n, k] in [
        [1, 500, 100],
        [3, 190, 257],
        [10, 300, 40],
        [80, 20, 30],
        [7, 16, 5000],
    ] {
        let (a, b, bias) = (values(m * k, 1), values(n * k, 2), values(n, 3));
        let halves: Vec<f16> = b.iter().map(|b| f16::from_f32(*b)).collect();
        let bfloats: Vec<bf16> = b.iter().map(|b| bf16::from_f32(*b)).collect();
        let widened: Vec<f32> = halves.iter().map(|b| b.to_f32()).collect();
        assert_eq!(
            linear(&a, Values::F16(&halves), &bias, k),
            linear(&a, (&widened[..]).into(), &bias, k)
        );
        let widened: Vec<f32> = bfloats.iter().map(|b| b.to_f32()).collect();
        assert_eq!(
            linear(&a, Values::Bf16(&bfloats), &bias, k),
            linear(&a, (&widened[..]).into(), &bias, k)
        );
        // Backwards, the matrix is the right side as it lies.
        let product = |values| {
            let (mut out, gradient) = (vec![0.0; m * k], self::values(m * n, 4));
            let left = Matrix::new(&gradient[..], n);
            gemm(
                [m, k, n],
                left,
                Matrix::new(values, k),
                Start::Zero,
                &mut out,
            );
            out
        };
        assert_eq!(
            product(Values::Bf16(&bfloats)),
            product(Values::F32(&widened))
        );
    }
}

#[test]
fn a_processor_without_vectors_gives_the_same_product() {
    for [m, n, k] in SIZES.into_iter().filter(|[m, n, k]| m * n * k < 1 << 19) {
        let (a, b, bias) = (values(m * k, 1), values(n * k, 2), values(n, 3));
        let (left, right) = (Matrix::new(&a[..], k), Matrix::transposed(&b[..], k));
        let mut out = vec![f32::NAN; m * n];
        let start = Start::Bias(&bias);
        Scalar::new().vectorize(Whole::new([m, n, k], left, right, start, &mut out));
        let mut expected = vec![f32::NAN; m * n];
        gemm([m, n, k], left, right, start, &mut expected);
        for (found, expected) in out.iter().zip(&expected) {
            assert!(
                (found - expected).abs() < 2e-3,
                "{m} {n} {k}: {found} for {expected}"
            );
        }
    }
}
