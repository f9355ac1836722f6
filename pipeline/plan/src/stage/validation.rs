//! Validation within a training, and which step's weights the training gives.

use serde::{Deserialize, Serialize};

use super::evaluate::{self, Captioning, Evaluate, Retrieval, ZeroShot};
use super::{Decoding, Objective, Train, blank_stage};
use crate::check::Check;
use crate::id::StageName;
use crate::results::{ModelFigures, ValidationPoint};

/// Measurements of one training at most. A commit lists them all, and has a bounded size.
const MAX_MEASUREMENTS: u64 = 1_000;

/// How a model is measured while it is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validation {
    /// The stage whose dataset holds pictures with their reference texts; for `accuracy`, with their
    /// class as the one text. Rank 0 keeps these pictures in memory, as they are encoded, and their
    /// image tokens during a measurement.
    pub from: StageName,
    /// Steps between two measurements. The last step is measured as well.
    pub every_steps: u64,
    /// The figure that decides which step is the best: recall at 1, 5 or 10 (means of text and image
    /// retrieval), CIDEr-D of captions, or the accuracy of zero-shot classification.
    pub metric: ValidationMetric,
    /// Pictures of the set at most: those with the smallest pair ids, which are a fixed random
    /// sample. All where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Candidates re-scored by ITM (BLIP) before recall is measured; 0 re-ranks nothing.
    #[serde(default)]
    pub rerank: usize,
    /// How captions are written, for `cider`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoding: Option<Decoding>,
    /// Templates for `accuracy`, `{}` stands for the class; their normalised embeddings are averaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub templates: Option<Vec<String>>,
}

/// The figure by which the steps of a training are compared; a greater one is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ValidationMetric {
    /// Mean of TR@1 and IR@1.
    #[serde(rename = "r_at_1")]
    RecallAt1,
    /// Mean of TR@5 and IR@5.
    #[serde(rename = "r_at_5")]
    RecallAt5,
    /// Mean of TR@10 and IR@10.
    #[serde(rename = "r_at_10")]
    RecallAt10,
    /// CIDEr-D of captions, times 100.
    #[serde(rename = "cider")]
    Cider,
    /// Accuracy of zero-shot classification, in percent.
    #[serde(rename = "accuracy")]
    Accuracy,
}

/// The step whose weights a training gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeepStep {
    /// The last one.
    #[default]
    Last,
    /// The one with the greatest value of the metric, the earliest of several.
    Best,
}

impl KeepStep {
    pub(super) fn is_last(&self) -> bool {
        *self == Self::Last
    }
}

impl ValidationMetric {
    /// The metric as the pipeline file writes it.
    pub fn as_str(self) -> &'static str {
        self.figures()[0]
    }

    /// Names of the figures of one measurement: the metric, then what is measured with it.
    pub fn figures(self) -> &'static [&'static str] {
        const TR: [&str; 3] = ["tr_at_1", "tr_at_5", "tr_at_10"];
        const IR: [&str; 3] = ["ir_at_1", "ir_at_5", "ir_at_10"];
        match self {
            Self::RecallAt1 => &["r_at_1", TR[0], TR[1], TR[2], IR[0], IR[1], IR[2]],
            Self::RecallAt5 => &["r_at_5", TR[0], TR[1], TR[2], IR[0], IR[1], IR[2]],
            Self::RecallAt10 => &["r_at_10", TR[0], TR[1], TR[2], IR[0], IR[1], IR[2]],
            Self::Cider => &["cider", "bleu4", "rouge_l"],
            Self::Accuracy => &["accuracy"],
        }
    }

    /// The values of [`ValidationMetric::figures`]; `None` where the evaluation lacks one. Recall is
    /// that of re-ranking, where there is one.
    pub fn values(self, found: &ModelFigures) -> Option<Vec<f64>> {
        match self {
            Self::RecallAt1 | Self::RecallAt5 | Self::RecallAt10 => {
                let found = found.retrieval_reranked.or(found.retrieval)?;
                let tr = [found.tr_at_1, found.tr_at_5, found.tr_at_10?];
                let ir = [found.ir_at_1, found.ir_at_5, found.ir_at_10?];
                let place = match self {
                    Self::RecallAt1 => 0,
                    Self::RecallAt5 => 1,
                    _ => 2,
                };
                let mean = (tr[place] + ir[place]) / 2.0;
                Some([mean].into_iter().chain(tr).chain(ir).collect())
            }
            Self::Cider => {
                let found = found.captioning?;
                Some(vec![found.cider, found.bleu4, found.rouge_l?])
            }
            Self::Accuracy => Some(vec![found.zero_shot?.accuracy]),
        }
    }

    /// The measurement after `step` steps, from the values of [`ValidationMetric::figures`].
    pub fn point(self, step: u64, values: &[f64]) -> ValidationPoint {
        let names = self.figures().iter().map(|name| (*name).to_owned());
        ValidationPoint {
            step,
            figures: names.zip(values.iter().copied()).collect(),
        }
    }

    fn is_recall(self) -> bool {
        matches!(self, Self::RecallAt1 | Self::RecallAt5 | Self::RecallAt10)
    }

    /// The objective that trains what is measured.
    fn objective(self) -> Objective {
        match self {
            Self::Cider => Objective::Lm,
            _ => Objective::Itc,
        }
    }
}

impl Validation {
    /// The measurement as settings of an `evaluate` stage, without names of stages.
    pub fn evaluation(&self) -> Evaluate {
        let captioning = self.decoding.as_ref().map(|decoding| Captioning {
            from: blank_stage(),
            decoding: decoding.clone(),
        });
        let zero_shot = self.templates.as_ref().map(|templates| ZeroShot {
            from: blank_stage(),
            templates: templates.clone(),
        });
        Evaluate {
            model: blank_stage(),
            captioner: None,
            retrieval: self.metric.is_recall().then(|| Retrieval {
                from: blank_stage(),
                rerank: self.rerank,
            }),
            captioning,
            zero_shot,
            blind: false,
        }
    }

    /// Whether the model is measured after `step` of `steps` steps.
    pub fn is_due(&self, step: u64, steps: u64) -> bool {
        step > 0 && (step.is_multiple_of(self.every_steps.max(1)) || step == steps)
    }

    /// The settings without the name of the stage, for a recipe.
    pub(super) fn nameless(&self) -> Self {
        Self {
            from: blank_stage(),
            ..self.clone()
        }
    }

    /// States the rules of the settings.
    pub(super) fn check(&self, train: &Train, check: &mut Check) {
        let least = train.steps.div_ceil(MAX_MEASUREMENTS).max(1);
        let text = format!(
            "1 to `steps`, and so many that there are at most {MAX_MEASUREMENTS} measurements"
        );
        let holds = (least..=train.steps).contains(&self.every_steps);
        check.rule("every_steps", self.every_steps, holds, &text);
        let metric = self.metric;
        let shown = format!("{:?}", metric.as_str());
        let holds = train.objectives.contains(&metric.objective());
        let text =
            "cider with objective lm; r_at_1, r_at_5, r_at_10 or accuracy with objective itc";
        check.rule("metric", shown, holds, text);
        check.integer("limit", self.limit.unwrap_or(1), 1..=100_000_000);
        check.integer("rerank", self.rerank, 0..=100_000);
        let matches = metric.is_recall() && train.objectives.contains(&Objective::Itm);
        let text = "0 unless recall is measured and `objectives` have itm";
        let holds = self.rerank == 0 || matches;
        check.rule("rerank", self.rerank, holds, text);
        let holds = self.decoding.is_some() == (metric == ValidationMetric::Cider);
        let text = "given for cider, and left out for other metrics";
        check.rule("decoding", "...", holds, text);
        if let Some(decoding) = &self.decoding {
            check.table("decoding", |check| decoding.check(check));
        }
        let holds = self.templates.is_some() == (metric == ValidationMetric::Accuracy);
        let text = "given for accuracy, and left out for other metrics";
        check.rule("templates", "...", holds, text);
        if let Some(templates) = &self.templates {
            evaluate::check_templates(check, "templates", templates);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{CaptioningFigures, RetrievalFigures, ZeroShotFigures};

    const ALL: [ValidationMetric; 5] = [
        ValidationMetric::RecallAt1,
        ValidationMetric::RecallAt5,
        ValidationMetric::RecallAt10,
        ValidationMetric::Cider,
        ValidationMetric::Accuracy,
    ];

    fn recall(first: f64) -> RetrievalFigures {
        RetrievalFigures {
            tr_at_1: first,
            tr_at_5: 30.0,
            tr_at_10: Some(50.0),
            ir_at_1: 20.0,
            ir_at_5: 40.0,
            ir_at_10: Some(60.0),
        }
    }

    #[test]
    fn every_figure_has_a_name_and_the_metric_is_the_first() {
        let figures = ModelFigures {
            retrieval: Some(recall(10.0)),
            zero_shot: Some(ZeroShotFigures { accuracy: 7.0 }),
            captioning: Some(CaptioningFigures {
                cider: 90.0,
                bleu4: 30.0,
                rouge_l: Some(50.0),
            }),
            ..ModelFigures::default()
        };
        let firsts = ALL.map(|metric| {
            let values = metric.values(&figures).unwrap();
            assert_eq!(values.len(), metric.figures().len(), "{metric:?}");
            let point = metric.point(4, &values);
            assert_eq!(point.figures[metric.as_str()], values[0]);
            let written = serde_json::to_value(metric).unwrap();
            assert_eq!(written, metric.as_str(), "as the file writes it");
            values[0]
        });
        assert_eq!(firsts, [15.0, 35.0, 55.0, 90.0, 7.0]);
        for metric in ALL {
            assert_eq!(metric.values(&ModelFigures::default()), None);
        }
        let reranked = ModelFigures {
            retrieval_reranked: Some(recall(80.0)),
            ..figures
        };
        assert_eq!(ALL[0].values(&reranked).unwrap()[..2], [50.0, 80.0]);
    }

    #[test]
    fn the_last_step_is_measured_and_the_first_weights_are_not() {
        let validation: Validation =
            serde_json::from_str(r#"{"from": "x", "every_steps": 4, "metric": "r_at_1"}"#).unwrap();
        let due: Vec<u64> = (0..=10)
            .filter(|step| validation.is_due(*step, 10))
            .collect();
        assert_eq!(due, [4, 8, 10]);
    }
}
