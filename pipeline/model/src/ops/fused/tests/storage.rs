//! Weights that are stored in a narrow type.

use burn::tensor::DType;

use super::*;

const NARROW: [DType; 2] = [DType::F16, DType::BF16];

/// A weight in a narrow type and its values in f32, without gradients.
fn weight(len: usize, seed: u32, dtype: DType) -> (Tensor<1>, Tensor<1>) {
    let device = Device::flex().autodiff();
    let data = TensorData::new(noise(len, seed), [len]);
    let stored = Tensor::<1>::from_data(data, (&device, dtype));
    assert_eq!(stored.dtype(), dtype);
    let widened = stored.clone().cast(DType::F32);
    (stored, widened)
}

#[test]
fn a_frozen_narrow_map_gives_values_and_gradients_of_its_widened_weights() {
    for dtype in NARROW {
        for rows in [1, 3, 7, 50] {
            let (stored, widened) = weight(40 * 24, 1, dtype);
            let (bias, wide_bias) = weight(40, 2, dtype);
            let run = |weight: &Tensor<1>, bias: &Tensor<1>| {
                let x = leaf([rows, 24], 3);
                let y = fused::linear(x.clone(), weight.clone(), Some(bias.clone()));
                let mut gradients = y.clone().powi_scalar(2).sum().backward();
                let of_x = x.grad_remove(&mut gradients).expect("a gradient");
                (values_of(&y), values_of(&of_x))
            };
            assert_eq!(run(&stored, &bias), run(&widened, &wide_bias), "{dtype:?}");
        }
    }
}

#[test]
fn narrow_tables_and_scales_give_what_their_widened_values_give() {
    for dtype in NARROW {
        let (words, wide_words) = weight(9 * 24, 1, dtype);
        let (positions, wide_positions) = weight(4 * 24, 2, dtype);
        let embed = |words: &Tensor<1>, positions: &Tensor<1>| {
            let (ids, at) = ([8, 0, 3], [0, 1, 3]);
            values_of(&fused::embed(
                &ids,
                words.clone(),
                positions.clone(),
                &at,
                24,
            ))
        };
        assert_eq!(
            embed(&words, &positions),
            embed(&wide_words, &wide_positions)
        );

        let (gain, wide_gain) = weight(24, 3, dtype);
        let (bias, wide_bias) = weight(24, 4, dtype);
        let norm = |gain: &Tensor<1>, bias: &Tensor<1>| {
            let x = leaf([5, 24], 5);
            let y = fused::layer_norm(x.clone(), gain.clone(), bias.clone(), 1e-5);
            let mut gradients = y.clone().powi_scalar(2).sum().backward();
            let of_x = x.grad_remove(&mut gradients).expect("a gradient");
            (values_of(&y), values_of(&of_x))
        };
        assert_eq!(norm(&gain, &bias), norm(&wide_gain, &wide_bias));

        let (class, wide_class) = weight(24, 6, dtype);
        let (places, wide_places) = weight(3 * 24, 7, dtype);
        let tokens = |class: &Tensor<1>, places: &Tensor<1>| {
            let patches = constant([4, 24], 8);
            values_of(&fused::picture_tokens(
                patches,
                class.clone(),
                places.clone(),
                2,
            ))
        };
        assert_eq!(tokens(&class, &places), tokens(&wide_class, &wide_places));
    }
}
