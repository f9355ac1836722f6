//! The symmetric contrastive loss (InfoNCE) over the global batch, with its gradient in closed form.
//!
//! Each rank computes the rows of its own samples, in both directions, against the gathered
//! features of all; the gradient that these rows send to the features of other ranks is theirs to
//! have: summed over ranks, the parts are the loss and the gradient of the global batch.

use std::ops::Range;

use super::positives::Positives;

/// Independent partial sums of a dot product: enough to fill vector registers.
const LANES: usize = 16;

/// Unit features of the global batch and the factor of their cosines.
#[derive(Debug, Clone, Copy)]
pub struct Gathered<'a> {
    /// Image features, `[batch, width]`.
    pub images: &'a [f32],
    /// Text features, `[batch, width]`.
    pub texts: &'a [f32],
    /// Size of a feature.
    pub width: usize,
    /// What cosines are multiplied with: exp(logit_scale), or 1 over the temperature.
    pub scale: f32,
}

impl Gathered<'_> {
    /// Samples of the global batch.
    pub fn batch(&self) -> usize {
        self.images.len() / self.width
    }

    /// Logits of every image (row) with every text, `[batch, batch]`.
    pub fn logits(&self) -> Vec<f32> {
        let texts = || self.texts.chunks_exact(self.width);
        let images = self.images.chunks_exact(self.width);
        images
            .flat_map(|a| texts().map(move |b| self.scale * dot(a, b)))
            .collect()
    }
}

/// One rank's part of the loss and what it asks of the features.
#[derive(Debug, Clone)]
pub struct Contrast {
    /// This rank's part; the sum over ranks is the mean over the global batch.
    pub loss: f64,
    /// Gradient of the part with respect to all image features, `[batch, width]`.
    pub images: Vec<f32>,
    /// Gradient of the part with respect to all text features, `[batch, width]`.
    pub texts: Vec<f32>,
    /// Gradient of the part with respect to `scale`.
    pub scale: f64,
}

/// The part of the symmetric loss that belongs to the samples `rows`.
///
/// - `logits`: [`Gathered::logits`].
/// - `positives`: the target of a sample is spread evenly over its positives. Where each sample
///   has itself alone, it is CLIP's loss.
pub fn contrast(
    gathered: &Gathered<'_>,
    logits: &[f32],
    positives: &Positives,
    rows: Range<usize>,
) -> Contrast {
    let (batch, width) = (gathered.batch(), gathered.width);
    let mut slopes = vec![0f32; batch * batch];
    let mut loss = 0.0;
    for row in rows {
        // Text given image: along row `row`. Image given text: along column `row`.
        for (start, stride) in [(row * batch, 1), (row, batch)] {
            let line = |other: usize| start + other * stride;
            loss += line_loss(
                positives,
                row,
                |other| logits[line(other)],
                |other, slope| {
                    slopes[line(other)] += slope;
                },
            );
        }
    }
    let mut out = Contrast {
        loss: loss / (2 * batch) as f64,
        images: vec![0.0; batch * width],
        texts: vec![0.0; batch * width],
        scale: 0.0,
    };
    let share = 1.0 / (2 * batch) as f32;
    for image in 0..batch {
        for text in 0..batch {
            let slope = slopes[image * batch + text] * share;
            if slope == 0.0 {
                continue;
            }
            let (i, t) = (
                image * width..(image + 1) * width,
                text * width..(text + 1) * width,
            );
            add_scaled(
                &mut out.images[i.clone()],
                slope * gathered.scale,
                &gathered.texts[t.clone()],
            );
            add_scaled(
                &mut out.texts[t],
                slope * gathered.scale,
                &gathered.images[i],
            );
            out.scale += f64::from(slope * logits[image * batch + text] / gathered.scale);
        }
    }
    out
}

/// Cross-entropy of one line of logits against its soft target; `slope` takes its derivative.
fn line_loss(
    positives: &Positives,
    row: usize,
    logit: impl Fn(usize) -> f32,
    mut slope: impl FnMut(usize, f32),
) -> f64 {
    let batch = positives.samples();
    let are = |other: usize| positives.are(row, other);
    let count = (0..batch).filter(|other| are(*other)).count() as f64;
    let top = (0..batch).map(&logit).fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = (0..batch)
        .map(|other| f64::from(logit(other) - top).exp())
        .sum();
    let mut loss = 0.0;
    for other in 0..batch {
        let log_probability = f64::from(logit(other) - top) - total.ln();
        let target = if are(other) { 1.0 / count } else { 0.0 };
        if target > 0.0 {
            loss -= target * log_probability;
        }
        slope(other, (log_probability.exp() - target) as f32);
    }
    loss
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (mut a_blocks, mut b_blocks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (a, b) in (&mut a_blocks).zip(&mut b_blocks) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    let rest = a_blocks.remainder().iter().zip(b_blocks.remainder());
    lanes.iter().sum::<f32>() + rest.map(|(a, b)| a * b).sum::<f32>()
}

fn add_scaled(target: &mut [f32], factor: f32, source: &[f32]) {
    for (target, source) in target.iter_mut().zip(source) {
        *target += factor * source;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_plan::stage;

    fn positives(texts: &[u32]) -> Positives {
        let rows: Vec<Vec<u32>> = texts.iter().map(|text| vec![*text]).collect();
        let pictures: Vec<u32> = (0..texts.len() as u32).collect();
        Positives::new(stage::Positives::PictureOrText, &pictures, &rows)
    }

    const WIDTH: usize = 19;

    fn features(batch: usize, phase: f32) -> Vec<f32> {
        let raw: Vec<f32> = (0..batch * WIDTH)
            .map(|i| ((i * i) as f32 * 0.37 + phase).sin())
            .collect();
        raw.chunks(WIDTH)
            .flat_map(|row| {
                let norm = dot(row, row).sqrt();
                row.iter().map(move |x| x / norm)
            })
            .collect()
    }

    fn whole(images: &[f32], texts: &[f32], scale: f32, positives: &Positives) -> Contrast {
        let gathered = Gathered {
            images,
            texts,
            width: WIDTH,
            scale,
        };
        contrast(
            &gathered,
            &gathered.logits(),
            positives,
            0..positives.samples(),
        )
    }

    #[test]
    fn gradients_agree_with_differences() {
        let (images, texts) = (features(6, 0.1), features(6, 0.9));
        let (scale, positives) = (9.0, positives(&[0, 1, 0, 3, 4, 4]));
        let exact = whole(&images, &texts, scale, &positives);
        let h = 1e-2f32;
        let slope = |up: f64, down: f64| (up - down) / f64::from(2.0 * h);
        for at in (0..images.len()).step_by(7) {
            let bent = |h: f32, of_images: bool| {
                let (mut images, mut texts) = (images.clone(), texts.clone());
                if of_images {
                    images[at] += h
                } else {
                    texts[at] += h
                }
                whole(&images, &texts, scale, &positives).loss
            };
            let (di, dt) = (
                slope(bent(h, true), bent(-h, true)),
                slope(bent(h, false), bent(-h, false)),
            );
            assert!(
                (di - f64::from(exact.images[at])).abs() < 2e-3,
                "{di} {}",
                exact.images[at]
            );
            assert!(
                (dt - f64::from(exact.texts[at])).abs() < 2e-3,
                "{dt} {}",
                exact.texts[at]
            );
        }
        let loss = |scale| whole(&images, &texts, scale, &positives).loss;
        assert!((slope(loss(scale + h), loss(scale - h)) - exact.scale).abs() < 1e-4);
    }

    #[test]
    fn parts_sum_to_the_whole() {
        let (images, texts) = (features(12, 0.3), features(12, 0.7));
        let positives = positives(&[0, 1, 2, 3, 4, 5, 1, 7, 8, 9, 10, 11]);
        let gathered = Gathered {
            images: &images,
            texts: &texts,
            width: WIDTH,
            scale: 14.0,
        };
        let logits = gathered.logits();
        let all = contrast(&gathered, &logits, &positives, 0..12);
        for world_size in [2, 3, 4] {
            let share = 12 / world_size;
            let parts: Vec<Contrast> = (0..world_size)
                .map(|r| contrast(&gathered, &logits, &positives, r * share..(r + 1) * share))
                .collect();
            let loss: f64 = parts.iter().map(|p| p.loss).sum();
            assert!((loss - all.loss).abs() < 1e-9);
            for at in 0..all.images.len() {
                let sum: f32 = parts.iter().map(|p| p.images[at]).sum();
                assert!((sum - all.images[at]).abs() < 1e-5);
                let sum: f32 = parts.iter().map(|p| p.texts[at]).sum();
                assert!((sum - all.texts[at]).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn equal_features_cost_the_log_of_the_batch() {
        let one = features(1, 0.0);
        let same: Vec<f32> = one.iter().copied().cycle().take(8 * WIDTH).collect();
        let positives = positives(&(0..8).collect::<Vec<u32>>());
        let got = whole(&same, &same, 5.0, &positives).loss;
        assert!((got - 8f64.ln()).abs() < 1e-6, "{got}");
    }
}
