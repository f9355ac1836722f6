//! Figures as plain types: what evaluation gives, training records and `report` draws.
//! Percentages are 0 to 100; CIDEr-D is times 100.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::stage::ValidationMetric;

/// Recall at k, in percent. TR: texts of a picture; IR: pictures of a text. A tie is a miss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RetrievalFigures {
    /// Text retrieval, R@1.
    pub tr_at_1: f64,
    /// Text retrieval, R@5.
    pub tr_at_5: f64,
    /// Text retrieval, R@10; absent in figures of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tr_at_10: Option<f64>,
    /// Image retrieval, R@1.
    pub ir_at_1: f64,
    /// Image retrieval, R@5.
    pub ir_at_5: f64,
    /// Image retrieval, R@10; absent in figures of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ir_at_10: Option<f64>,
}

impl RetrievalFigures {
    /// R: the mean of TR@1 and IR@1.
    pub fn mean_at_1(&self) -> f64 {
        (self.tr_at_1 + self.ir_at_1) / 2.0
    }
}

/// Captioning against references.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CaptioningFigures {
    /// CIDEr-D times 100.
    pub cider: f64,
    /// BLEU-4 in percent.
    pub bleu4: f64,
    /// ROUGE-L in percent. Not in the results of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rouge_l: Option<f64>,
}

/// Zero-shot classification.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ZeroShotFigures {
    /// Share of pictures whose class comes first, in percent. A tie is a miss.
    pub accuracy: f64,
}

/// The figures of one model, sighted or blind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct ModelFigures {
    /// By cosine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<RetrievalFigures>,
    /// The first k by cosine re-scored by ITM (BLIP).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval_reranked: Option<RetrievalFigures>,
    /// Zero-shot classification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_shot: Option<ZeroShotFigures>,
    /// Captions of the model as it is (BLIP).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captioning: Option<CaptioningFigures>,
    /// Captions after the same LM fine-tuning on the human pairs (BLIP).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captioning_fine_tuned: Option<CaptioningFigures>,
}

/// What an evaluation commits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Evaluation {
    /// With the pictures where they belong.
    pub sighted: ModelFigures,
    /// With the pictures permuted so that none keeps its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blind: Option<ModelFigures>,
}

/// One step of a training, as the metrics file has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingStep {
    /// From 0.
    pub step: u64,
    /// Pass over the samples, from 0.
    pub data_epoch: u64,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// The sum of the parts.
    pub loss: f64,
    /// The parts by name: `itc`, `itm`, `lm`.
    pub parts: BTreeMap<String, f64>,
    /// Global norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Wall time of the step.
    pub step_seconds: f64,
    /// Wall time of it in the ring.
    pub all_reduce_seconds: f64,
}

/// The course of a training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Training {
    /// Ranks.
    pub world_size: usize,
    /// Bytes that each rank sent for reductions and gathers.
    pub bytes_reduced: u64,
    /// Samples in a pass.
    pub samples: u64,
    /// The curve: losses averaged over at most 200 stretches of steps.
    pub curve: Vec<CurvePoint>,
    /// What was measured on the validation set, where the stage names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<ValidationCurve>,
}

/// A stretch of a training curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Last step of the stretch.
    pub step: u64,
    /// Mean loss by part, `loss` for the sum.
    pub means: BTreeMap<String, f64>,
}

/// The measurements of a training on its validation set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValidationCurve {
    /// The figure that decides which measurement is the best.
    pub metric: ValidationMetric,
    /// The measurements in the order of the steps, at most 1000.
    pub points: Vec<ValidationPoint>,
    /// Steps that the weights have which the stage gave.
    pub published_step: u64,
}

/// One measurement of a model in training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValidationPoint {
    /// Steps that the model was trained for.
    pub step: u64,
    /// The figures by name, the metric among them.
    pub figures: BTreeMap<String, f64>,
}

impl ValidationCurve {
    /// The value of the metric at a point.
    pub fn value(&self, point: &ValidationPoint) -> Option<f64> {
        point.figures.get(self.metric.as_str()).copied()
    }

    /// The point with the greatest value of the metric, the earliest of several.
    pub fn best(&self) -> Option<&ValidationPoint> {
        let mut best: Option<(&ValidationPoint, f64)> = None;
        for point in &self.points {
            let value = self.value(point)?;
            if best.is_none_or(|(_, greatest)| value > greatest) {
                best = Some((point, value));
            }
        }
        best.map(|(point, _)| point)
    }

    /// The best value and its step, and the step of the published weights, in words.
    pub fn summary(&self) -> Option<String> {
        let best = self.best()?;
        let (metric, value) = (self.metric.as_str(), self.value(best)?);
        let published = match self.published_step == best.step {
            true => "published".to_owned(),
            false => format!("the weights of step {} are published", self.published_step),
        };
        Some(format!(
            "best {metric} {value:.1} after {} steps, {published}",
            best.step
        ))
    }
}
