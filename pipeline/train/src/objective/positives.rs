//! Which samples of a global batch belong together.

use std::collections::HashMap;
use std::hash::Hash;

use capstan_plan::stage;

use crate::momentum::Classes;

/// Whether the text of one sample is a right one for the picture of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Positives {
    rule: stage::Positives,
    samples: usize,
    /// A number for each sample, equal for equal pictures.
    pictures: Option<Vec<usize>>,
    /// The same for equal texts.
    texts: Option<Vec<usize>>,
}

impl Positives {
    /// - `pictures`: a picture for each sample of the global batch.
    /// - `texts`: the tokens of each.
    pub fn new(rule: stage::Positives, pictures: &[u32], texts: &[Vec<u32>]) -> Self {
        let (by_picture, by_text) = match rule {
            stage::Positives::Pair => (false, false),
            stage::Positives::Picture => (true, false),
            stage::Positives::PictureOrText => (true, true),
        };
        Self {
            rule,
            samples: texts.len(),
            pictures: by_picture.then(|| classes(pictures)),
            texts: by_text.then(|| classes(texts)),
        }
    }

    /// Samples of the global batch.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// Whether two samples are positives of each other; a sample is one of itself.
    pub fn are(&self, a: usize, b: usize) -> bool {
        let equal = |classes: &Option<Vec<usize>>| {
            let classes = classes.as_ref();
            classes.is_some_and(|classes| classes[a] == classes[b])
        };
        a == b || equal(&self.pictures) || equal(&self.texts)
    }

    /// Whether samples of two batches are positives of each other.
    pub fn join(&self, a: &Classes, b: &Classes) -> bool {
        match self.rule {
            stage::Positives::Pair => false,
            stage::Positives::Picture => a.picture == b.picture,
            stage::Positives::PictureOrText => a.picture == b.picture || a.text == b.text,
        }
    }
}

/// A number for each value such that equal values have equal numbers.
fn classes<T: Eq + Hash>(values: &[T]) -> Vec<usize> {
    let mut seen = HashMap::new();
    let numbered = values.iter().enumerate();
    numbered
        .map(|(index, value)| *seen.entry(value).or_insert(index))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_join_pictures_and_texts() {
        let pictures = [7, 8, 7, 9];
        let texts = [vec![1], vec![2], vec![3], vec![2]];
        let pairs = |rule| {
            let positives = Positives::new(rule, &pictures, &texts);
            let pairs = (0..4).flat_map(|a| (a + 1..4).map(move |b| (a, b)));
            let pairs = pairs.filter(|(a, b)| positives.are(*a, *b));
            assert!((0..4).all(|sample| positives.are(sample, sample)));
            pairs.collect::<Vec<_>>()
        };
        assert_eq!(pairs(stage::Positives::Pair), []);
        assert_eq!(pairs(stage::Positives::Picture), [(0, 2)]);
        assert_eq!(pairs(stage::Positives::PictureOrText), [(0, 2), (1, 3)]);
    }

    #[test]
    fn rules_join_samples_of_two_batches() {
        let sample = Classes::new(7, &[1, 2]);
        let [same_picture, same_text] = [Classes::new(7, &[3]), Classes::new(8, &[1, 2])];
        let joined = |rule| {
            let positives = Positives::new(rule, &[], &[]);
            [sample, same_picture, same_text, Classes::new(8, &[2, 1])]
                .map(|other| positives.join(&sample, &other))
        };
        assert_eq!(joined(stage::Positives::Pair), [false; 4]);
        assert_eq!(
            joined(stage::Positives::Picture),
            [true, true, false, false]
        );
        assert_eq!(
            joined(stage::Positives::PictureOrText),
            [true, true, true, false]
        );
    }
}
