//! A MED on disk: one folder for a captioner or a filter, two for a pre-trained
//! model, whose shared tensors must be equal.
//!
//! The temperature of the contrast has no tensor in the Hugging Face classes; it
//! is kept in `config.json` of the retrieval folder as `itc_temperature`.

use burn::tensor::Device;
use std::path::Path;

use super::{Med, MedParts};
use crate::config::BlipConfig;
use crate::folder::{self, Assets, CONFIG_FILE, Error, Naming, Tensors};
use crate::init::Kind;
use crate::weights::{Model, ParamSlice};

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
    /// Reads a model folder as what it is: a captioner, a filter, or both.
    ///
    /// # Errors
    /// [`Error`] names the file and the tensor.
    pub fn open(path: &Path, device: &Device) -> Result<Self, Error> {
        let file = path.join(CONFIG_FILE);
        if !file.exists() && path.join(CAPTIONER_FOLDER).exists() {
            return Self::load(path, MedParts::Both, device);
        }
        let config: BlipConfig = folder::read_config(path)?;
        let is = |class: &str| config.architectures.iter().any(|found| found == class);
        let parts = match (is(CAPTIONER_CLASS), is(FILTER_CLASS)) {
            (true, false) => MedParts::Captioner,
            (false, true) => MedParts::Filter,
            _ => {
                return Err(Error::Class {
                    path: file,
                    found: config.architectures,
                    expected: "BlipForConditionalGeneration or BlipForImageTextRetrieval",
                });
            }
        };
        Self::load(path, parts, device)
    }

    /// Reads `parts` of a model folder. A captioner or a filter may be read from
    /// its own folder or from a pre-trained model; both, from a pre-trained model.
    ///
    /// # Errors
    /// [`Error`] names the file and the tensor; [`Error::Shared`] where the two
    /// folders of a pre-trained model disagree.
    pub fn load(path: &Path, parts: MedParts, device: &Device) -> Result<Self, Error> {
        let own = |sub: &str| {
            let sub = path.join(sub);
            if sub.exists() { sub } else { path.to_owned() }
        };
        match parts {
            MedParts::Captioner => {
                Self::load_one(&own(CAPTIONER_FOLDER), parts, captioner_name, device)
            }
            MedParts::Filter => Self::load_one(&own(FILTER_FOLDER), parts, filter_name, device),
            MedParts::Both => Self::load_both(path, device),
        }
    }

    fn load_one(
        path: &Path,
        parts: MedParts,
        naming: Naming,
        device: &Device,
    ) -> Result<Self, Error> {
        let config: BlipConfig = folder::read_config(path)?;
        let mut med = Self::new(config, parts, device);
        let mut flat = vec![0.0; med.num_params()];
        med.read_into(&mut flat, &mut Tensors::read(path)?, naming, None)?;
        med.set_temperature(&mut flat);
        med.load_flat(&flat);
        Ok(med)
    }

    fn load_both(path: &Path, device: &Device) -> Result<Self, Error> {
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
        let mut med = Self::new(config, MedParts::Both, device);
        let mut flat = vec![0.0; med.num_params()];
        med.read_into(&mut flat, &mut Tensors::read(&filter)?, filter_name, None)?;
        med.read_into(
            &mut flat,
            &mut Tensors::read(&captioner)?,
            captioner_name,
            Some(filter_name),
        )?;
        med.set_temperature(&mut flat);
        med.load_flat(&flat);
        Ok(med)
    }

    /// Reads one folder into `flat`; parameters that `before` has read already must be equal.
    fn read_into(
        &self,
        flat: &mut [f32],
        tensors: &mut Tensors,
        naming: Naming,
        before: Option<Naming>,
    ) -> Result<(), Error> {
        for slice in self.layout() {
            let Some(name) = naming(&slice.name) else {
                continue;
            };
            let values = tensors.take(&name, &slice.shape)?;
            let read = before.is_some_and(|before| before(&slice.name).is_some());
            let place = &mut flat[slice.range];
            if read && !folder::same_bits(place, &values) {
                return Err(Error::Shared {
                    path: tensors.path().to_owned(),
                    tensor: name,
                });
            }
            place.copy_from_slice(&values);
        }
        for (tied, original) in TIED {
            if let Some(slice) = self
                .layout()
                .into_iter()
                .find(|slice| slice.name == *original)
            {
                tensors.take_tied(tied, &flat[slice.range])?;
            }
        }
        std::mem::replace(tensors, Tensors::empty()).finish()
    }

    fn set_temperature(&self, flat: &mut [f32]) {
        if let Some(slice) = self.temperature_slice() {
            flat[slice.range].fill(self.config.temperature());
        }
    }

    fn temperature_slice(&self) -> Option<ParamSlice> {
        let has = self
            .weights()
            .iter()
            .any(|weight| weight.kind() == Kind::Temperature);
        has.then(|| {
            self.layout()
                .into_iter()
                .find(|slice| slice.name == "temperature")
        })
        .flatten()
    }

    /// Writes the model as what it holds: one folder for a captioner or a filter, two
    /// sub-folders ([`CAPTIONER_FOLDER`], [`FILTER_FOLDER`]) for both. The same model
    /// gives the same bytes.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn save(&self, path: &Path, assets: &Assets) -> Result<(), Error> {
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
        if let Some(slice) = self.temperature_slice() {
            let temperature = self.to_flat()[slice.range.start];
            config.itc_temperature = Some(temperature);
            config.logit_scale_init_value = -f64::from(temperature).ln();
        }
        let (class, naming): (&str, Naming) = match parts {
            MedParts::Captioner => (CAPTIONER_CLASS, captioner_name),
            MedParts::Filter => (FILTER_CLASS, filter_name),
            MedParts::Both => return self.save(path, assets),
        };
        assert!(
            self.parts == MedParts::Both || self.parts == parts,
            "the model holds {parts:?}"
        );
        config.architectures = vec![class.to_owned()];
        folder::write(path, &config, self, naming, assets)
    }
}
