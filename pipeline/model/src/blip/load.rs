//! A MED on disk: one folder for a captioner or a filter, two for a pre-trained
//! model, whose shared tensors must be equal.
//!
//! The temperature of the contrast has no tensor in the Hugging Face classes; it
//! is kept in `config.json` of the retrieval folder as `itc_temperature`.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Med, MedParts};
use crate::config::BlipConfig;
use crate::folder::{self, Assets, CONFIG_FILE, Error};
use crate::params::Model;
use crate::pretrained::Load;
use crate::weights::{self, Naming, Source};

/// Sub-folder of a pre-trained model that is a BlipForConditionalGeneration.
pub const CAPTIONER_FOLDER: &str = "conditional_generation";

/// Sub-folder of a pre-trained model that is a BlipForImageTextRetrieval.
pub const FILTER_FOLDER: &str = "image_text_retrieval";

const CAPTIONER_CLASS: &str = "BlipForConditionalGeneration";
const FILTER_CLASS: &str = "BlipForImageTextRetrieval";
const ENCODER_PREFIX: &str = "text_encoder.";
const DECODER_PREFIX: &str = "text_decoder.";
const TIED: &[(&str, &str)] = &[
    (
        "text_decoder.cls.predictions.decoder.weight",
        "text_encoder.embeddings.word_embeddings.weight",
    ),
    (
        "text_decoder.cls.predictions.decoder.bias",
        "text_decoder.cls.predictions.bias",
    ),
];

/// The name in a BlipForConditionalGeneration folder.
fn captioner_name(name: &str) -> Option<String> {
    if name.starts_with("vision_model.") || name.starts_with(DECODER_PREFIX) {
        return Some(name.to_owned());
    }
    let rest = name.strip_prefix(ENCODER_PREFIX)?;
    // Self-attention is the one thing that encoder and decoder do not share.
    (!rest.contains(".attention.")).then(|| format!("{DECODER_PREFIX}bert.{rest}"))
}

/// The name in a BlipForImageTextRetrieval folder.
fn filter_name(name: &str) -> Option<String> {
    let absent = name.starts_with(DECODER_PREFIX) || name == "temperature";
    (!absent).then(|| name.to_owned())
}

impl Med {
    /// Reads a model folder as what it is: a captioner, a filter, or both; or the parts that
    /// `load` names. A captioner or a filter may be read from its own folder or from a
    /// pre-trained model; both, from a pre-trained model.
    ///
    /// # Errors
    /// [`Error`] names the file and the tensor; [`weights::Error::Shared`] where the two
    /// folders of a pre-trained model disagree.
    pub fn load(path: &Path, load: &Load) -> Result<Self, Error> {
        let parts = match load.parts {
            Some(parts) => parts,
            None => parts_of(path)?,
        };
        let own = |sub: &str| {
            let sub = path.join(sub);
            if sub.exists() { sub } else { path.to_owned() }
        };
        match parts {
            MedParts::Captioner => {
                Self::load_one(&own(CAPTIONER_FOLDER), parts, captioner_name, load)
            }
            MedParts::Filter => Self::load_one(&own(FILTER_FOLDER), parts, filter_name, load),
            MedParts::Both => Self::load_both(path, load),
        }
    }

    fn load_one(path: &Path, parts: MedParts, naming: Naming, load: &Load) -> Result<Self, Error> {
        let config: BlipConfig = folder::read_config(path)?;
        let mut med = Self::new(config, parts, &load.device);
        med.read_folder(path, naming, None, load)?;
        med.read_temperature();
        Ok(med)
    }

    fn load_both(path: &Path, load: &Load) -> Result<Self, Error> {
        let (captioner, filter) = (path.join(CAPTIONER_FOLDER), path.join(FILTER_FOLDER));
        let config: BlipConfig = folder::read_config(&filter)?;
        let twin: BlipConfig = folder::read_config(&captioner)?;
        let alike = BlipConfig {
            architectures: config.architectures.clone(),
            itc_temperature: config.itc_temperature,
            logit_scale_init_value: config.logit_scale_init_value,
            ..twin
        };
        if alike != config {
            return Err(Error::SharedConfig {
                path: captioner.join(CONFIG_FILE),
            });
        }
        let mut med = Self::new(config, MedParts::Both, &load.device);
        med.read_folder(&filter, filter_name, None, load)?;
        med.read_folder(&captioner, captioner_name, Some(filter_name), load)?;
        med.read_temperature();
        Ok(med)
    }

    /// Reads one folder; parameters that `before` has read already must be equal.
    fn read_folder(
        &mut self,
        path: &Path,
        naming: Naming,
        before: Option<Naming>,
        load: &Load,
    ) -> Result<(), Error> {
        let source = Source::open(path)?;
        let mut used = weights::read(&source, self, naming, before, load.keep)?;
        used.extend(self.tied(&source)?);
        source.finish(&used)?;
        Ok(())
    }

    /// Copies of tied tensors that `source` has, which are equal to their originals.
    fn tied(&self, source: &Source) -> Result<BTreeSet<String>, Error> {
        let mut found = BTreeSet::new();
        for (tied, original) in TIED {
            let params = self.params();
            let original = params
                .iter()
                .find(|param| param.parts()[0].name == *original);
            if let Some(original) = original
                && source.check_tied(tied, original)?
            {
                found.insert((*tied).to_owned());
            }
        }
        Ok(found)
    }

    /// Gives the temperature the value of the configuration.
    fn read_temperature(&mut self) {
        let temperature = self.config.temperature();
        if let Some(heads) = &mut self.heads {
            heads.temperature.edit(|values| values.fill(temperature));
        }
    }

    /// Writes the model as what it holds: one folder for a captioner or a filter, two
    /// sub-folders ([`CAPTIONER_FOLDER`], [`FILTER_FOLDER`]) for both. The same model
    /// gives the same bytes.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(super) fn save_parts(&self, path: &Path, assets: &Assets<'_>) -> Result<(), Error> {
        match self.parts {
            MedParts::Both => {
                self.save_as(&path.join(CAPTIONER_FOLDER), MedParts::Captioner, assets)?;
                self.save_as(&path.join(FILTER_FOLDER), MedParts::Filter, assets)
            }
            parts => self.save_as(path, parts, assets),
        }
    }

    /// Writes one use of the model as a folder of its own.
    ///
    /// # Errors
    /// [`Error::Write`].
    ///
    /// # Panics
    /// When the model does not hold `parts`.
    pub fn save_as(&self, path: &Path, parts: MedParts, assets: &Assets) -> Result<(), Error> {
        let mut config = self.config.clone();
        if let Some(heads) = &self.heads {
            let temperature = heads.temperature.floats()[0];
            config.itc_temperature = Some(temperature);
            config.logit_scale_init_value = -f64::from(temperature).ln();
        }
        let (class, naming): (&str, Naming) = match parts {
            MedParts::Captioner => (CAPTIONER_CLASS, captioner_name),
            MedParts::Filter => (FILTER_CLASS, filter_name),
            MedParts::Both => return self.save_parts(path, assets),
        };
        assert!(
            self.parts == MedParts::Both || self.parts == parts,
            "the model holds {parts:?}"
        );
        config.architectures = vec![class.to_owned()];
        folder::write(path, &config, self, naming, assets)
    }
}

/// The parts that a folder holds.
fn parts_of(path: &Path) -> Result<MedParts, Error> {
    let file = path.join(CONFIG_FILE);
    if !file.exists() && path.join(CAPTIONER_FOLDER).exists() {
        return Ok(MedParts::Both);
    }
    let config: BlipConfig = folder::read_config(path)?;
    let is = |class: &str| config.architectures.iter().any(|found| found == class);
    match (is(CAPTIONER_CLASS), is(FILTER_CLASS)) {
        (true, false) => Ok(MedParts::Captioner),
        (false, true) => Ok(MedParts::Filter),
        _ => Err(Error::Class {
            path: file,
            found: config.architectures,
            expected: "BlipForConditionalGeneration or BlipForImageTextRetrieval",
        }),
    }
}
