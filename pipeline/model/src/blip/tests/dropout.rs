//! Dropout in the three uses of the text transformer.

use super::*;

const PICTURES: [usize; 3] = [0, 1, 2];

/// Text features, match logits and LM losses of these texts, about the pictures of the same number.
fn uses(med: &Med, texts: &TokenBatch) -> [Vec<f32>; 3] {
    let device = Device::flex();
    let memory = med.memory(&med.encode(pixels(3, &device)));
    let pictures = &PICTURES[..texts.rows()];
    let loss = med.lm_loss(&memory, texts, pictures, 0.1).sum;
    [
        values(med.text_features(texts)),
        values(med.match_logits(&memory, texts, pictures)),
        values(loss),
    ]
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("f32")
}

fn far(a: &[f32], b: &[f32]) -> f32 {
    let pairs = a.iter().zip(b);
    pairs.fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

#[test]
fn nothing_is_dropped_at_a_rate_of_nearly_zero() {
    let med = med(&Device::flex());
    let plain = uses(&med, &texts());
    // Less than half of a draw's step, so that only the way of computing differs.
    let dropped = uses(&med, &texts().with_dropout(1e-6, vec![1, 2, 3]));
    for (plain, dropped) in plain.iter().zip(dropped) {
        assert!(far(plain, &dropped) < 2e-5 * plain.len() as f32);
    }
}

#[test]
fn every_use_drops_by_key() {
    let med = med(&Device::flex());
    let of = |keys: [u64; 3]| uses(&med, &texts().with_dropout(0.2, keys.to_vec()));
    let (plain, one, two) = (uses(&med, &texts()), of([1, 2, 3]), of([4, 5, 6]));
    assert_eq!(one, of([1, 2, 3]));
    for ((plain, one), two) in plain.iter().zip(&one).zip(&two) {
        assert!(far(plain, one) > 1e-3 && far(one, two) > 1e-3);
    }
}

#[test]
fn what_is_dropped_of_a_row_does_not_depend_on_its_batch() {
    let med = med(&Device::flex());
    let together = uses(&med, &texts().with_dropout(0.3, vec![1, 2, 3]));
    let row = TokenBatch::new(&[texts().row(0)[..4].to_vec()], SPECIAL.pad);
    let alone = uses(&med, &row.with_dropout(0.3, vec![1]));
    for (alone, together) in alone.iter().zip(together).take(2) {
        assert!(far(alone, &together[..alone.len()]) < 1e-5);
    }
}

#[test]
fn embeddings_are_dropped() {
    let device = Device::flex();
    let mut config = med(&device).config().clone();
    config.text_config.num_hidden_layers = 0;
    let mut bare = Med::new(config, MedParts::Filter, &device);
    bare.initialise(7, &InitRecipe::default());
    let dropped = texts().with_dropout(0.3, vec![1, 2, 3]);
    let features = |texts| values(bare.text_features(texts));
    assert!(far(&features(&texts()), &features(&dropped)) > 1e-3);
}
