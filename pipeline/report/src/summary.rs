//! `summary.json`: the figures of a run, and the sums that must close.
//!
//! Figures are in percent, CIDEr-D times 100. The same struct feeds the page.

use std::collections::BTreeMap;

use capstan_plan::results::{
    CaptioningFigures, ModelFigures, RetrievalFigures, ValidationCurve, ZeroShotFigures,
};
use serde::{Deserialize, Serialize};

use crate::arm::Arm;

/// The content of `summary.json`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Seed of the world and of every draw.
    pub seed: u64,
    /// Times by stage, in the order of the pipeline; in JSON a map by name.
    #[serde(with = "stages_by_name")]
    pub stages: Vec<StageFigures>,
    /// The estimate of the remaining seconds after 60 s; absent if the run took less.
    pub remaining_shown_at_60s: Option<f64>,
    /// Seconds that the run took after those 60 s; absent if it took less.
    pub remaining_taken_at_60s: Option<f64>,
    /// Seconds from the first lease to the last commit of this invocation; 0 if unknown.
    pub wall_seconds: f64,
    /// Whether the wall time of a stage is the sum over its tasks. A store does not record when
    /// tasks overlapped; a coordinator does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sums_task_times: bool,
    /// Pictures and texts, from the web to the training sets.
    pub pairs: Pairs,
    /// The filter against a judge; absent if no judge knows the texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// Figures by model. The key is the stage that trained the model or, if several stages evaluate
    /// one model, the stage that evaluated it.
    pub models: BTreeMap<String, ModelFigures>,
    /// The arms of these models, by the same keys.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub arms: BTreeMap<String, Arm>,
    /// Figures on permuted pictures of the bootstrapped models, or of all if none is bootstrapped.
    pub blind: BTreeMap<String, ModelFigures>,
}

/// Times of a stage.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct StageFigures {
    /// Name of the stage: the key in JSON.
    #[serde(skip)]
    pub name: String,
    /// Time from the first lease to the last commit, or see [`Summary::sums_task_times`]. The time in
    /// which a training waits for its turn does not count.
    pub wall_seconds: f64,
    /// CPU time over all threads and ranks.
    pub cpu_seconds: f64,
    /// Ranks of a training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub world_size: Option<usize>,
    /// Bytes that each rank of a training sent through the ring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_reduced: Option<u64>,
    /// The best step of a training on its validation set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<BestStep>,
}

/// The best step of a training on its validation set, and the step whose weights it gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BestStep {
    /// The figure that was compared, such as `r_at_1`.
    pub metric: String,
    /// Its greatest value.
    pub best: f64,
    /// Steps that the model had been trained for then.
    pub best_step: u64,
    /// Steps that the published weights have.
    pub published_step: u64,
}

impl BestStep {
    /// The best step of a validation curve; `None` if nothing was measured.
    pub fn of_curve(curve: &ValidationCurve) -> Option<Self> {
        let best = curve.best()?;
        Some(Self {
            metric: curve.metric.as_str().to_owned(),
            best: curve.value(best)?,
            best_step: best.step,
            published_step: curve.published_step,
        })
    }
}

/// Stages as a JSON object that keeps their order.
mod stages_by_name {
    use serde::ser::SerializeMap;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::StageFigures;

    pub(super) fn serialize<S: Serializer>(
        stages: &[StageFigures],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(stages.len()))?;
        for stage in stages {
            map.serialize_entry(&stage.name, stage)?;
        }
        map.end()
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<StageFigures>, D::Error> {
        let map = serde_json::Map::deserialize(deserializer)?;
        let stage = |(name, value)| {
            let figures: StageFigures = serde_json::from_value(value)?;
            Ok(StageFigures { name, ..figures })
        };
        map.into_iter()
            .map(stage)
            .collect::<Result<_, _>>()
            .map_err(|error: serde_json::Error| serde::de::Error::custom(error))
    }
}

/// Pictures and texts. See [`Summary::check`] for the sums that close.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pairs {
    /// Whether the pictures were imported, and not crawled.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub imported: bool,
    /// Pictures found on pages, or in the source of an import.
    pub found: u64,
    /// Pictures fetched and stored.
    pub fetched: u64,
    /// Pictures rejected, by code.
    pub rejected: BTreeMap<String, u64>,
    /// Fetched pictures that curation dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Fetched pictures that curation kept.
    pub curated: u64,
    /// Web texts of the curated pictures.
    pub curated_texts: u64,
    /// These texts by kind, if the run crawled the demo web.
    pub curated_texts_by_kind: BTreeMap<String, u64>,
    /// Web texts that the filter kept.
    pub kept_web: u64,
    /// Web texts that the filter dropped.
    pub dropped_web: u64,
    /// Web texts that no filter judged.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unfiltered_web: u64,
    /// Texts that the captioner wrote.
    pub synthetic: u64,
    /// Synthetic texts that the filter kept.
    pub kept_synthetic: u64,
    /// Synthetic texts that the filter dropped.
    pub dropped_synthetic: u64,
    /// Synthetic texts that no filter judged.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unfiltered_synthetic: u64,
    /// Texts written by annotators.
    pub human: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Quality of the filter, on web and on synthetic texts.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Filter {
    /// On web texts.
    pub web: FilterFigures,
    /// On synthetic texts.
    pub synthetic: FilterFigures,
}

/// The filter against the judge. Precision and recall leave vague texts out.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct FilterFigures {
    /// Share of good texts among the kept texts that are not vague, in percent.
    pub precision: f64,
    /// Share of kept texts among the good texts, in percent.
    pub recall: f64,
    /// Share of good texts among all texts, in percent.
    pub good_share_all: f64,
    /// Share of good texts among the kept texts, in percent.
    pub good_share_kept: f64,
}

/// Counts of the verdicts of a judge about the texts of one origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Judged {
    /// Good texts: kept by the filter, dropped by it.
    pub good: [u64; 2],
    /// Vague texts: kept, dropped.
    pub vague: [u64; 2],
    /// Bad texts: kept, dropped.
    pub bad: [u64; 2],
}

impl Judged {
    /// The figures; 0 where the divisor is 0.
    pub fn figures(&self) -> FilterFigures {
        let percent = |part: u64, whole: u64| {
            if whole == 0 {
                0.0
            } else {
                100.0 * part as f64 / whole as f64
            }
        };
        let kept = self.good[0] + self.vague[0] + self.bad[0];
        let all = kept + self.good[1] + self.vague[1] + self.bad[1];
        FilterFigures {
            precision: percent(self.good[0], self.good[0] + self.bad[0]),
            recall: percent(self.good[0], self.good[0] + self.good[1]),
            good_share_all: percent(self.good[0] + self.good[1], all),
            good_share_kept: percent(self.good[0], kept),
        }
    }
}

/// A sum that does not close: pictures or texts were lost or counted twice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {left} is not {right}; pictures or texts were lost or counted twice")]
pub struct Unbalanced {
    /// Which sum.
    pub what: &'static str,
    /// Its left side.
    pub left: u64,
    /// Its right side.
    pub right: u64,
}

impl Summary {
    /// Checks that every sum closes.
    ///
    /// # Errors
    /// The first one that does not.
    pub fn check(&self) -> Result<(), Unbalanced> {
        let pairs = &self.pairs;
        let total = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>();
        let sums = [
            (
                "found = fetched + rejected",
                pairs.found,
                pairs.fetched + total(&pairs.rejected),
            ),
            (
                "fetched = curated + dropped",
                pairs.fetched,
                pairs.curated + total(&pairs.dropped),
            ),
            (
                "curated_texts = kept_web + dropped_web + unfiltered_web",
                pairs.curated_texts,
                pairs.kept_web + pairs.dropped_web + pairs.unfiltered_web,
            ),
            (
                "synthetic = kept_synthetic + dropped_synthetic + unfiltered_synthetic",
                pairs.synthetic,
                pairs.kept_synthetic + pairs.dropped_synthetic + pairs.unfiltered_synthetic,
            ),
            (
                "curated_texts = its kinds",
                pairs.curated_texts,
                if pairs.curated_texts_by_kind.is_empty() {
                    pairs.curated_texts
                } else {
                    total(&pairs.curated_texts_by_kind)
                },
            ),
        ];
        match sums.into_iter().find(|(_, left, right)| left != right) {
            Some((what, left, right)) => Err(Unbalanced { what, left, right }),
            None => Ok(()),
        }
    }

    /// The arm of a model; unknown if the summary does not name it.
    pub fn arm(&self, name: &str) -> Arm {
        self.arms.get(name).copied().unwrap_or_default()
    }

    /// The figures of a model, if it was measured.
    pub fn model(&self, name: &str) -> Option<&ModelFigures> {
        self.models.get(name)
    }
}

/// A column of a table: its title, and the function that reads its figure.
pub type Column = (&'static str, fn(&ModelFigures) -> Option<f64>);

/// The columns of the comparison table, in their order.
pub const COLUMNS: &[Column] = &[
    ("TR@1", |m| m.retrieval.map(|r: RetrievalFigures| r.tr_at_1)),
    ("TR@5", |m| m.retrieval.map(|r| r.tr_at_5)),
    ("TR@10", |m| m.retrieval.and_then(|r| r.tr_at_10)),
    ("IR@1", |m| m.retrieval.map(|r| r.ir_at_1)),
    ("IR@5", |m| m.retrieval.map(|r| r.ir_at_5)),
    ("IR@10", |m| m.retrieval.and_then(|r| r.ir_at_10)),
    ("R@1 mean", |m| m.retrieval.map(|r| r.mean_at_1())),
    ("TR@1 re-ranked", |m| {
        m.retrieval_reranked.map(|r| r.tr_at_1)
    }),
    ("IR@1 re-ranked", |m| {
        m.retrieval_reranked.map(|r| r.ir_at_1)
    }),
    ("zero-shot", |m| {
        m.zero_shot.map(|z: ZeroShotFigures| z.accuracy)
    }),
    ("CIDEr", |m| {
        m.captioning.map(|c: CaptioningFigures| c.cider)
    }),
    ("BLEU-4", |m| m.captioning.map(|c| c.bleu4)),
    ("CIDEr fine-tuned", |m| {
        m.captioning_fine_tuned.map(|c| c.cider)
    }),
    ("BLEU-4 fine-tuned", |m| {
        m.captioning_fine_tuned.map(|c| c.bleu4)
    }),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn closing() -> Summary {
        let pairs = Pairs {
            found: 12,
            fetched: 10,
            rejected: BTreeMap::from([("robots".to_owned(), 2)]),
            dropped: BTreeMap::from([("no_text".to_owned(), 3)]),
            curated: 7,
            curated_texts: 8,
            curated_texts_by_kind: BTreeMap::from([("honest".to_owned(), 8)]),
            kept_web: 5,
            dropped_web: 3,
            synthetic: 7,
            kept_synthetic: 4,
            dropped_synthetic: 3,
            human: 2,
            ..Pairs::default()
        };
        Summary {
            pairs,
            ..Summary::default()
        }
    }

    #[test]
    fn sums_that_close_pass_and_each_broken_one_is_named() {
        closing().check().unwrap();
        type Break = fn(&mut Pairs);
        let breaks: [(&str, Break); 5] = [
            ("found", |p| p.found += 1),
            ("fetched = curated", |p| p.curated -= 1),
            ("kept_web", |p| p.kept_web += 1),
            ("synthetic", |p| p.dropped_synthetic = 0),
            ("kinds", |p| {
                p.curated_texts_by_kind.insert("vague".to_owned(), 1);
            }),
        ];
        for (name, broken) in breaks {
            let mut summary = closing();
            broken(&mut summary.pairs);
            let error = summary.check().unwrap_err();
            assert!(error.what.contains(name), "{error}");
        }
    }

    #[test]
    fn stages_are_a_map_that_keeps_its_order() {
        let stage = |name: &str| StageFigures {
            name: name.to_owned(),
            ..StageFigures::default()
        };
        let summary = Summary {
            stages: vec![stage("train"), stage("crawl")],
            ..Summary::default()
        };
        let json = serde_json::to_string(&summary).unwrap();
        assert!(json.contains("\"stages\":{\"train\":{"), "{json}");
        assert_eq!(serde_json::from_str::<Summary>(&json).unwrap(), summary);
    }

    #[test]
    fn vague_texts_stand_outside_precision_and_recall() {
        let judged = Judged {
            good: [6, 4],
            vague: [100, 50],
            bad: [2, 8],
        };
        let figures = judged.figures();
        assert_eq!(figures.precision, 75.0);
        assert_eq!(figures.recall, 60.0);
        assert!((figures.good_share_kept - 100.0 * 6.0 / 108.0).abs() < 1e-9);
        assert!((figures.good_share_all - 100.0 * 10.0 / 170.0).abs() < 1e-9);
    }

    #[test]
    fn nothing_judged_gives_zeros_not_nan() {
        assert_eq!(Judged::default().figures(), FilterFigures::default());
    }
}
