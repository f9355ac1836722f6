//! The inputs that a training reads before its first step.

use std::path::{Path, PathBuf};

use capstan_dataset::{Store, index, models, versions};
use capstan_model::tokenizer::Tokenizer;
use capstan_model::towers::{self, Modality};
use capstan_model::{Device, ImagePreprocess, Network, pretrained};
use capstan_plan::commit::Shards;
use capstan_plan::id::{Digest, ModelDigest};
use capstan_plan::stage::{self, TowerModels};
use capstan_plan::task::Data;
use capstan_train::{PictureRow, Sample, TrainError, network, tokenised};

use crate::error::Error;
use crate::validation::ValidationSet;

/// The fields of a training task.
pub(crate) struct Training {
    pub(crate) config: stage::Train,
    pub(crate) data: Vec<Data>,
    pub(crate) tokenizer: ModelDigest,
    pub(crate) init: Option<ModelDigest>,
    pub(crate) towers: Option<TowerModels>,
    pub(crate) validation: Option<Shards>,
}

/// The samples, pictures and vocabulary of a training.
pub(crate) struct Inputs {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) init: Option<PathBuf>,
    /// Folders of the models that towers begin with.
    pub(crate) towers: Vec<(Modality, PathBuf)>,
    pub(crate) samples: Vec<Sample>,
    pub(crate) prompt_tokens: usize,
    pub(crate) parts: Vec<capstan_plan::commit::Part>,
    pub(crate) rows: Vec<PictureRow>,
}

impl Training {
    /// Reads the index, the vocabulary and the models that training starts from.
    pub(crate) async fn read(&self, store: &Store, cache: &Path) -> Result<Inputs, Error> {
        let folder = models::fetch(store, &self.tokenizer, cache).await?;
        let tokenizer = Tokenizer::load(&folder)?;
        let init = match &self.init {
            Some(model) => Some(models::fetch(store, model, cache).await?),
            None => None,
        };
        let towers = self.tower_folders(store, cache).await?;
        let max_tokens = self.max_text_tokens(init.as_deref())?;
        let index = index::samples(store, &self.data).await?;
        if index.samples.is_empty() {
            return Err(Error::NoSamples);
        }
        let asked = self.config.text_tokens.unwrap_or(max_tokens);
        let (prompt, max_tokens) = (&self.config.prompt, asked.min(max_tokens));
        let (samples, rows) = tokenised(&index.samples, &tokenizer, prompt, max_tokens);
        let prompt_tokens = match prompt.as_str() {
            "" => 0,
            // All but the last special token.
            prompt => tokenizer.encode(prompt, max_tokens).len() - 1,
        };
        Ok(Inputs {
            tokenizer,
            init,
            towers,
            samples,
            prompt_tokens,
            parts: index.parts,
            rows,
        })
    }

    async fn tower_folders(
        &self,
        store: &Store,
        cache: &Path,
    ) -> Result<Vec<(Modality, PathBuf)>, Error> {
        let Some(towers) = &self.towers else {
            return Ok(Vec::new());
        };
        let vision = towers.vision.map(|model| (Modality::Vision, model));
        let text = towers.text.map(|model| (Modality::Text, model));
        let mut folders = Vec::new();
        for (modality, model) in vision.into_iter().chain(text) {
            folders.push((modality, models::fetch(store, &model, cache).await?));
        }
        Ok(folders)
    }

    /// The validation set, where the stage names one.
    pub(crate) async fn validation_set(
        &self,
        store: &Store,
    ) -> Result<Option<ValidationSet>, Error> {
        match self.validation.as_ref().zip(self.config.validate.as_ref()) {
            Some((shards, settings)) => {
                let set = ValidationSet::read(store, shards, settings).await?;
                Ok(Some(set))
            }
            None => Ok(None),
        }
    }

    /// The longest text that the model takes, by the given sizes or by the initial model.
    fn max_text_tokens(&self, init: Option<&Path>) -> Result<usize, Error> {
        match (&self.config.architecture, init) {
            (Some(architecture), _) => Ok(architecture.max_text_tokens),
            (None, Some(folder)) => {
                Ok(pretrained::max_text_tokens(folder).map_err(TrainError::from)?)
            }
            (None, None) => Err(Error::NoModel),
        }
    }

    /// The network with its initial weights: drawn but for the given towers, or those of the
    /// initial model.
    pub(crate) fn network(
        &self,
        inputs: &Inputs,
        seed: u64,
        device: &Device,
    ) -> Result<(Box<dyn Network>, ImagePreprocess), Error> {
        match (&self.config.architecture, &inputs.init) {
            (Some(architecture), _) => {
                let vocabulary = (inputs.tokenizer.len(), &inputs.tokenizer.special());
                let objectives = &self.config.objectives;
                let mut network =
                    network::drawn(architecture, objectives, vocabulary, seed, device)?;
                for (modality, folder) in &inputs.towers {
                    towers::read(&mut *network, *modality, folder, &inputs.tokenizer)?;
                }
                Ok((network, ImagePreprocess::new(architecture.image_size)))
            }
            (None, Some(folder)) => {
                let network = network::load(folder, &self.config.objectives, device)?;
                Ok((network, ImagePreprocess::load(folder)?))
            }
            (None, None) => Err(Error::NoModel),
        }
    }

    /// Digests of all inputs, for the commit record.
    pub(crate) async fn digests(&self, store: &Store) -> Result<Vec<Digest>, Error> {
        let mut digests = Vec::new();
        for data in &self.data {
            digests.extend(versions::manifests(store, &data.shards).await?);
        }
        if let Some(shards) = &self.validation {
            digests.extend(versions::manifests(store, shards).await?);
        }
        digests.push(self.tokenizer.0);
        digests.extend(self.init.map(|model| model.0));
        digests.extend(self.towers.iter().flat_map(TowerModels::digests));
        Ok(digests)
    }
}
