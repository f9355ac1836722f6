//! Hard negatives of image-text matching, drawn over the global batch from the softmax of the
//! contrastive logits.
//!
//! Every rank draws for the whole batch: the logits and the keys are the same everywhere, so all
//! ranks know which picture a text was sent to, whatever the world size.

use capstan_plan::draw::Draws;

use super::positives::Positives;

/// Added to every allowed weight, so that a peaked softmax still leaves a choice (the official
/// code of BLIP's pre-training and retrieval).
const FLOOR: f64 = 1e-4;

/// What is drawn for each sample of the global batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negatives {
    /// For each image the index of a text that is no positive; `None` where all are.
    pub texts: Vec<Option<usize>>,
    /// For each text the index of an image that is no positive.
    pub images: Vec<Option<usize>>,
}

impl Negatives {
    /// Draws by (seed, step, sample); `draws` holds the seed.
    ///
    /// - `logits`: of an image with a text, and of a text with an image, by their samples.
    /// - `positives`: which samples are no negatives of each other.
    pub fn draw(
        draws: &Draws,
        step: u64,
        logits: [&dyn Fn(usize, usize) -> f32; 2],
        positives: &Positives,
    ) -> Self {
        let key = step.to_le_bytes();
        let side = |side: usize| {
            let one = |sample: usize| {
                let unit = draws.unit(&key, (2 * sample + side) as u64);
                pick(unit, sample, positives, |other| logits[side](sample, other))
            };
            (0..positives.samples()).map(one).collect()
        };
        Self {
            texts: side(0),
            images: side(1),
        }
    }

    /// Pairs of the global batch: a positive for each sample, and the negatives.
    pub fn pairs(&self) -> usize {
        let drawn = self.texts.iter().chain(&self.images).flatten().count();
        self.texts.len() + drawn
    }
}

/// The sample at `unit` of the cumulative softmax of those that are no positives.
fn pick(
    unit: f64,
    sample: usize,
    positives: &Positives,
    logit: impl Fn(usize) -> f32,
) -> Option<usize> {
    let batch = positives.samples();
    let top = (0..batch).map(&logit).fold(f32::NEG_INFINITY, f32::max);
    let exps: Vec<f64> = (0..batch)
        .map(|other| f64::from(logit(other) - top).exp())
        .collect();
    let total: f64 = exps.iter().sum();
    let allowed = |other: &usize| !positives.are(*other, sample);
    let weight = |other: usize| exps[other] / total + FLOOR;
    let sum: f64 = (0..batch).filter(allowed).map(weight).sum();
    let mut left = unit * sum;
    let mut last = None;
    for other in (0..batch).filter(allowed) {
        last = Some(other);
        left -= weight(other);
        if left < 0.0 {
            break;
        }
    }
    last
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

    fn draw(step: u64, logits: &[f32], positives: &Positives) -> Negatives {
        let batch = positives.samples();
        let both: [&dyn Fn(usize, usize) -> f32; 2] = [
            &|image, text| logits[image * batch + text],
            &|text, image| logits[image * batch + text],
        ];
        Negatives::draw(&Draws::new(4, "itm"), step, both, positives)
    }

    #[test]
    fn negatives_are_no_positives() {
        let logits: Vec<f32> = (0..64).map(|i| (i as f32 * 0.9).sin() * 3.0).collect();
        let texts = [0, 1, 0, 3, 3, 5, 6, 0];
        for step in 0..200 {
            let drawn = draw(step, &logits, &positives(&texts));
            for (sample, other) in drawn.texts.iter().chain(&drawn.images).enumerate() {
                assert_ne!(texts[sample % 8], texts[other.unwrap()]);
            }
            assert_eq!(drawn.pairs(), 24);
        }
    }

    #[test]
    fn likelier_ones_are_drawn_more_often() {
        // Image 0 has logits 0, 0, ln 3: of its two negatives the second has weight 3/4.
        let logits = [0.0, 0.0, 3f32.ln(), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let hits = (0..4000)
            .filter(|s| {
                let drawn = draw(*s, &logits, &positives(&[0, 1, 2]));
                drawn.texts[0] == Some(2)
            })
            .count();
        assert!((2900..3100).contains(&hits), "{hits} of 4000");
    }

    #[test]
    fn each_side_is_drawn_by_its_own_logits() {
        let likely = |favourite: usize| {
            move |_: usize, other: usize| {
                if other == favourite { 20.0 } else { 0.0 }
            }
        };
        let both: [&dyn Fn(usize, usize) -> f32; 2] = [&likely(1), &likely(2)];
        let drawn = Negatives::draw(&Draws::new(4, "itm"), 0, both, &positives(&[0, 1, 2, 3]));
        assert_eq!((drawn.texts[0], drawn.images[0]), (Some(1), Some(2)));
        assert_eq!((drawn.texts[3], drawn.images[3]), (Some(1), Some(2)));
    }

    #[test]
    fn a_batch_of_one_text_has_no_negatives() {
        let drawn = draw(0, &[1.0; 9], &positives(&[0, 0, 0]));
        assert_eq!(drawn.texts, [None; 3]);
        assert_eq!(drawn.pairs(), 3);
    }

    #[test]
    fn small_errors_of_the_logits_change_no_draw() {
        let logits: Vec<f32> = (0..144).map(|i| (i as f32 * 0.7).sin() * 4.0).collect();
        let bent: Vec<f32> = logits.iter().map(|l| l * (1.0 + 1e-6)).collect();
        let positives = positives(&(0..12).collect::<Vec<u32>>());
        for step in 0..50 {
            let a = draw(step, &logits, &positives);
            assert_eq!(a, draw(step, &bent, &positives));
        }
    }
}
