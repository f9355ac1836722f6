//! The measurements of a model between its steps, by `evaluate`.

use capstan_dataset::{Store, held_out};
use capstan_evaluate::Sets;
use capstan_lease::ProgressCounter;
use capstan_model::tokenizer::Tokenizer;
use capstan_model::{ComputePool, ImagePreprocess, Network, Pretrained};
use capstan_plan::FailureKind;
use capstan_plan::commit::Shards;
use capstan_plan::results::ValidationPoint;
use capstan_plan::row::Pair;
use capstan_plan::stage::{self, Evaluate, ValidationMetric};
use capstan_train::{SourceError, Validator};

use crate::error::Error;
use crate::record::Record;

/// The validation set and how it is used.
pub(crate) struct ValidationSet {
    metric: ValidationMetric,
    config: Evaluate,
    sets: Sets,
}

impl ValidationSet {
    /// Reads the pictures, as they are encoded, and checks that they have what is measured.
    pub(crate) async fn read(
        store: &Store,
        shards: &Shards,
        settings: &stage::Validation,
    ) -> Result<Self, Error> {
        let pairs = match settings.limit {
            Some(limit) => held_out::sample(store, shards, limit).await?,
            None => held_out::pairs(store, shards).await?,
        };
        Self::new(pairs, settings)
    }

    fn new(pairs: Vec<Pair>, settings: &stage::Validation) -> Result<Self, Error> {
        let config = settings.evaluation();
        let mut sets = Sets::default();
        match settings.metric {
            ValidationMetric::Cider => sets.captioning = pairs,
            ValidationMetric::Accuracy => sets.zero_shot = pairs,
            _ => sets.retrieval = pairs,
        }
        capstan_evaluate::check(&config, &sets).map_err(Error::Validation)?;
        Ok(Self {
            metric: settings.metric,
            config,
            sets,
        })
    }
}

/// Measures the model of one attempt. Only rank 0 has one.
pub(crate) struct Measuring<'a> {
    pub(crate) set: ValidationSet,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) preprocess: &'a ImagePreprocess,
    pub(crate) seed: u64,
    pub(crate) progress: ProgressCounter,
    pub(crate) record: &'a Record,
}

impl Validator for Measuring<'_> {
    fn measure(
        &mut self,
        network: Box<dyn Network>,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<f64>>, SourceError> {
        let ValidationSet {
            metric,
            config,
            sets,
        } = &self.set;
        let model = Pretrained {
            network,
            tokenizer: self.tokenizer.clone(),
            preprocess: self.preprocess.clone(),
        };
        let (seed, pool) = (self.seed, ComputePool::current());
        self.progress.show_unit("steps, validating");
        let report = |_: u64, _: u64| goes_on();
        let found = capstan_evaluate::evaluate_model(config, &model, sets, seed, &pool, &report);
        self.progress.show_unit("steps");
        let failed = |kind: FailureKind, source| SourceError { kind, source };
        match found {
            Ok(found) => match metric.values(&found.sighted) {
                Some(values) => Ok(Some(values)),
                None => Err(failed(
                    FailureKind::Fatal,
                    "the evaluation lacks a figure".into(),
                )),
            },
            Err(capstan_evaluate::Error::Cancelled) => Ok(None),
            Err(error) => Err(failed(error.kind(), Box::new(error))),
        }
    }

    fn record(&mut self, point: &ValidationPoint) {
        self.record.validation(point);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_without_pictures_is_refused_before_the_first_step() {
        let settings = r#"{"from": "x", "every_steps": 4, "metric": "r_at_1"}"#;
        let settings = serde_json::from_str(settings).unwrap();
        let error = ValidationSet::new(Vec::new(), &settings).err().unwrap();
        assert_eq!(error.kind(), FailureKind::BadInput);
        let line = capstan_plan::failure::chain(&error);
        assert!(
            line.contains("validation set") && line.contains("no picture"),
            "{line}"
        );
    }
}
