//! Contrast of a batch with momentum features, against labels that are partly the copies' own
//! similarities.

use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Tensor, TensorData};

use super::Features;

/// One rank's part of the contrast. Each pair holds images against texts, then texts against images.
#[derive(Debug, Clone)]
pub struct SoftContrast {
    /// This rank's part of the mean over the global batch, `[1]`.
    pub loss: Tensor<1>,
    /// Logits of the samples with every entry, `[samples, entries]`.
    pub logits: [Tensor<2>; 2],
    /// Labels, each row summing to 1, `[samples, entries]`.
    pub targets: [Tensor<2>; 2],
}

/// The symmetric contrast of a rank's samples with all entries.
///
/// - `own`: online features of this rank's samples, with gradients.
/// - `copies`: momentum features of the same samples.
/// - `entries`: momentum features of the global batch, then of the queue ([`super::Queue::entries`]).
/// - `temperature`: `[1]`; gradients reach it through the logits alone.
/// - `hard`: [`hard_targets`], `[samples, entries]`.
/// - `soft_share`: share of the copies' similarities in the labels (alpha).
/// - `global_batch`: samples over which the mean is taken.
pub fn contrast(
    own: &Features,
    copies: &Features,
    entries: &Features,
    temperature: Tensor<1>,
    hard: &Tensor<2>,
    soft_share: f64,
    global_batch: usize,
) -> SoftContrast {
    let fixed = temperature.clone().inner();
    let half = |own: &Tensor<2>, copies: &Tensor<2>, entries: &Tensor<2>| {
        let others = entries.clone().transpose();
        let similar = copies.clone().matmul(others.clone()) / fixed.clone().unsqueeze();
        let targets = softmax(similar, 1) * soft_share + hard.clone() * (1.0 - soft_share);
        let logits = own.clone().matmul(others) / temperature.clone().unsqueeze();
        let loss = soft_cross_entropy_sum(logits.clone(), targets.clone());
        (loss, logits, targets)
    };
    let (i2t, image_logits, image_targets) = half(&own.images, &copies.images, &entries.texts);
    let (t2i, text_logits, text_targets) = half(&own.texts, &copies.texts, &entries.images);
    SoftContrast {
        loss: (i2t + t2i) / (2 * global_batch) as f64,
        logits: [image_logits, text_logits],
        targets: [image_targets, text_targets],
    }
}

/// Sum over rows of the cross entropy of `logits` against labels that are distributions, `[1]`.
///
/// - `logits`, `targets`: `[rows, classes]`.
pub fn soft_cross_entropy_sum(logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    -(log_softmax(logits, 1) * targets).sum()
}

/// Labels that spread a sample's weight evenly over its positives, `[samples, entries]`.
///
/// - `positive(sample, entry)`: whether the entry is of the same class as the sample; an entry of
///   its own is.
///
/// # Panics
/// When a sample has no positive.
pub fn hard_targets(
    samples: usize,
    entries: usize,
    positive: &dyn Fn(usize, usize) -> bool,
    like: &Features,
) -> Tensor<2> {
    let mut targets = vec![0f32; samples * entries];
    for (sample, row) in targets.chunks_exact_mut(entries).enumerate() {
        let of_class = |entry: &usize| positive(sample, *entry);
        let count = (0..entries).filter(of_class).count();
        assert!(count > 0, "sample {sample} has no positive");
        for entry in (0..entries).filter(of_class) {
            row[entry] = 1.0 / count as f32;
        }
    }
    let data = TensorData::new(targets, [samples, entries]);
    Tensor::from_data(data, &like.images.device())
}
