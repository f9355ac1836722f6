//! The network that is trained, of either family.

use std::path::Path;

use capstan_model::blip::CAPTIONER_FOLDER;
use capstan_model::config::{BlipConfig, ClipConfig, Sizes, SpecialIds};
use capstan_model::folder::{Assets, CONFIG_FILE};
use capstan_model::{Clip, Device, InitRecipe, Med, MedParts, Model};
use capstan_plan::stage::{Architecture, Family, Objective};

use crate::TrainError;

/// Bounds of BLIP's temperature (the official code clamps it after each update).
const TEMPERATURE: (f32, f32) = (0.001, 0.5);
/// CLIP's logit scale is at most this (section 2.5 of the paper).
const MAX_LOGIT_SCALE: f32 = 100.0;

/// A CLIP or BLIP network on an autodiff device.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "a process holds a network or two, never a list of them"
)]
pub enum Network {
    /// Two encoders.
    Clip(Clip),
    /// A MED with the parts that its objectives need.
    Blip(Med),
}

/// What the cosines of a contrast are multiplied with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scale {
    /// The factor.
    pub(crate) factor: f32,
    /// Its derivative with respect to the parameter behind it.
    pub(crate) slope: f64,
}

/// The parts of a MED that these objectives train.
pub fn med_parts(objectives: &[Objective]) -> MedParts {
    let decodes = objectives.contains(&Objective::Lm);
    let encodes = objectives.iter().any(|o| *o != Objective::Lm);
    match (encodes, decodes) {
        (false, _) => MedParts::Captioner,
        (true, false) => MedParts::Filter,
        (true, true) => MedParts::Both,
    }
}

impl Network {
    /// A network with drawn weights, a pure function of `seed` and the sizes.
    ///
    /// - `device`: an autodiff one.
    ///
    /// # Errors
    /// [`TrainError::Settings`]: sizes that do not fit together.
    pub fn drawn(
        architecture: &Architecture,
        objectives: &[Objective],
        (vocab_size, special): (usize, &SpecialIds),
        seed: u64,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let sizes = Sizes {
            image_size: architecture.image_size,
            patch_size: architecture.patch_size,
            width: architecture.width,
            heads: architecture.heads,
            vision_layers: architecture.vision_layers,
            text_layers: architecture.text_layers,
            projection: architecture.projection,
            max_text_tokens: architecture.max_text_tokens,
        };
        let wrong = |error: capstan_model::config::Error| TrainError::Settings {
            field: "architecture",
            problem: error.to_string(),
        };
        let mut network = match architecture.family {
            Family::Clip => {
                let config = ClipConfig::new(&sizes, vocab_size, special).map_err(wrong)?;
                Self::Clip(Clip::new(config, device))
            }
            Family::Blip => {
                let config = BlipConfig::new(&sizes, vocab_size, special).map_err(wrong)?;
                Self::Blip(Med::new(config, med_parts(objectives), device))
            }
        };
        network.model_mut().initialise(seed, &InitRecipe::default());
        Ok(network)
    }

    /// Writes a model folder in Hugging Face layout.
    ///
    /// # Errors
    /// [`TrainError::Model`] names the file.
    pub fn save(&self, folder: &Path, assets: &Assets<'_>) -> Result<(), TrainError> {
        match self {
            Self::Clip(clip) => clip.save(folder, assets)?,
            Self::Blip(med) => med.save(folder, assets)?,
        }
        Ok(())
    }

    /// The family.
    pub fn family(&self) -> Family {
        match self {
            Self::Clip(_) => Family::Clip,
            Self::Blip(_) => Family::Blip,
        }
    }

    /// The network as a list of weights.
    pub fn model(&self) -> &dyn Model {
        match self {
            Self::Clip(clip) => clip,
            Self::Blip(med) => med,
        }
    }

    /// The network as a list of weights.
    pub fn model_mut(&mut self) -> &mut dyn Model {
        match self {
            Self::Clip(clip) => clip,
            Self::Blip(med) => med,
        }
    }

    /// Side of the pictures that it takes, in pixels.
    pub fn image_size(&self) -> usize {
        match self {
            Self::Clip(clip) => clip.config().vision_config.image_size,
            Self::Blip(med) => med.config().vision_config.image_size,
        }
    }

    /// Tokens of a text at most.
    pub fn max_text_tokens(&self) -> usize {
        match self {
            Self::Clip(clip) => clip.config().text_config.max_position_embeddings,
            Self::Blip(med) => med.config().text_config.max_position_embeddings,
        }
    }

    /// The padding token.
    pub fn pad(&self) -> u32 {
        match self {
            Self::Clip(clip) => clip.config().text_config.pad_token_id,
            Self::Blip(med) => med.config().text_config.pad_token_id,
        }
    }

    /// Place of the parameter behind the scale in the flat vector; none in a captioner.
    pub(crate) fn scale_at(&self) -> Option<usize> {
        let name = match self {
            Self::Clip(_) => "logit_scale",
            Self::Blip(_) => "temperature",
        };
        let layout = self.model().layout();
        layout
            .iter()
            .find(|slice| slice.name == name)
            .map(|slice| slice.range.start)
    }

    /// The scale that follows from its parameter.
    pub(crate) fn scale(&self, parameter: f32) -> Scale {
        match self {
            Self::Clip(_) => {
                let factor = parameter.exp().min(MAX_LOGIT_SCALE);
                Scale {
                    factor,
                    slope: f64::from(factor),
                }
            }
            Self::Blip(_) => {
                let temperature = parameter.clamp(TEMPERATURE.0, TEMPERATURE.1);
                let factor = 1.0 / temperature;
                Scale {
                    factor,
                    slope: -f64::from(factor).powi(2),
                }
            }
        }
    }

    /// The parameter behind the scale, brought back into its bounds after an update.
    pub(crate) fn bounded_scale(&self, parameter: f32) -> f32 {
        match self {
            Self::Clip(_) => parameter.min(MAX_LOGIT_SCALE.ln()),
            Self::Blip(_) => parameter.clamp(TEMPERATURE.0, TEMPERATURE.1),
        }
    }

    /// Digest of the names and shapes of all parameters.
    pub fn layout_digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for slice in self.model().layout() {
            hasher.update(format!("{} {:?}\n", slice.name, slice.shape).as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Which of the flat parameters decay.
    pub fn decays(&self) -> Vec<bool> {
        let layout = self.model().layout();
        layout
            .iter()
            .flat_map(|slice| slice.range.clone().map(|_| slice.decay))
            .collect()
    }
}

/// Reads the network of a model folder for further training, with the parts that these objectives
/// train.
///
/// # Errors
/// [`TrainError::Model`] names the file and the tensor; [`TrainError::Init`]: the folder holds
/// another kind of model.
pub fn load(
    folder: &Path,
    objectives: &[Objective],
    device: &Device,
) -> Result<Network, TrainError> {
    Ok(match family_of(folder)? {
        Family::Clip => Network::Clip(Clip::load(folder, device)?),
        Family::Blip => Network::Blip(Med::load(folder, med_parts(objectives), device)?),
    })
}

/// The family of the model in `folder`.
fn family_of(folder: &Path) -> Result<Family, TrainError> {
    if folder.join(CAPTIONER_FOLDER).exists() {
        return Ok(Family::Blip);
    }
    let path = folder.join(CONFIG_FILE);
    let read = |path: &Path| -> Option<serde_json::Value> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    };
    let config = read(&path);
    match config
        .as_ref()
        .and_then(|config| config["model_type"].as_str())
    {
        Some("clip") => Ok(Family::Clip),
        Some("blip") => Ok(Family::Blip),
        _ => Err(TrainError::Init { path }),
    }
}
