//! The scores and captions of a model, from which figures are computed twice: with every picture in
//! its own place, and with the pictures permuted.

use capstan_plan::results::ModelFigures;

use crate::rerank::Reranked;
use crate::scores::Scores;
use crate::{captioning, retrieval, zero_shot};

/// Scores and captions of one model.
#[derive(Debug, Default)]
pub(crate) struct Measurement {
    pub retrieval: Option<Retrieval>,
    pub zero_shot: Option<ZeroShot>,
    /// References of the captioning set, by picture.
    pub references: Vec<Vec<String>>,
    /// Captions of the model without fine-tuning.
    pub captions: Option<Vec<String>>,
    /// Captions after fine-tuning.
    pub fine_tuned: Option<Vec<String>>,
}

/// Scores of the retrieval set.
#[derive(Debug)]
pub(crate) struct Retrieval {
    /// `[texts]`: the picture of each text.
    pub owner: Vec<usize>,
    pub cosine: Scores,
    pub reranked: Option<Reranked>,
}

/// Scores of the zero-shot set.
#[derive(Debug)]
pub(crate) struct ZeroShot {
    /// `[pictures]`: the class of each picture.
    pub class: Vec<usize>,
    /// `[pictures, classes]`.
    pub scores: Scores,
}

impl Measurement {
    /// The figures with the picture `order(n)[i]` in the place `i` of a set of n pictures.
    ///
    /// The output of a model for a picture does not depend on the other pictures of its set, so
    /// permuting scores and captions is equal to permuting pictures.
    pub fn figures(&self, order: &dyn Fn(usize) -> Vec<usize>) -> ModelFigures {
        let moved = |scores: &Scores| scores.with_pictures(&order(scores.pictures()));
        let caption = |captions: &Vec<String>| {
            let order = order(captions.len());
            let moved: Vec<String> = order.iter().map(|&i| captions[i].clone()).collect();
            captioning::figures(&moved, &self.references)
        };
        let retrieval = self.retrieval.as_ref();
        ModelFigures {
            retrieval: retrieval.map(|set| {
                let cosine = moved(&set.cosine);
                retrieval::figures(&cosine, &cosine, &set.owner)
            }),
            retrieval_reranked: retrieval.and_then(|set| {
                let scores = set.reranked.as_ref()?;
                let [texts, pictures] = [&scores.of_texts, &scores.of_pictures].map(moved);
                Some(retrieval::figures(&texts, &pictures, &set.owner))
            }),
            zero_shot: self
                .zero_shot
                .as_ref()
                .map(|set| zero_shot::figures(&moved(&set.scores), &set.class)),
            captioning: self.captions.as_ref().map(caption),
            captioning_fine_tuned: self.fine_tuned.as_ref().map(caption),
        }
    }
}
