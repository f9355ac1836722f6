//! The network that is trained: drawn by its architecture, or read to go on from.

use std::path::Path;

use capstan_model::config::{self, BlipConfig, ClipConfig, Sizes, SpecialIds, VisionConfig};
use capstan_model::{
    Clip, Device, InitRecipe, Load, Med, MedParts, Model, Network, Scale, params, pretrained,
};
use capstan_plan::stage::{self, Activation, Architecture, Decay, Family, Objective};

use crate::TrainError;

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
) -> Result<Box<dyn Network>, TrainError> {
    let mut network = blank(architecture, objectives, (vocab_size, special), device)?;
    network.initialise(seed, &InitRecipe::default());
    Ok(network)
}

/// The network with all parameters zero.
fn blank(
    architecture: &Architecture,
    objectives: &[Objective],
    (vocab_size, special): (usize, &SpecialIds),
    device: &Device,
) -> Result<Box<dyn Network>, TrainError> {
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
    Ok(match architecture.family {
        Family::Clip => {
            let mut config = ClipConfig::new(&sizes, vocab_size, special).map_err(wrong)?;
            shape_vision(&mut config.vision_config, architecture);
            let text = &mut config.text_config;
            text.hidden_size = architecture.text_width();
            text.num_attention_heads = architecture.text_heads();
            text.intermediate_size = architecture.mlp_widths()[1];
            text.hidden_act = activation(architecture);
            Box::new(Clip::new(config, device))
        }
        Family::Blip => {
            let mut config = BlipConfig::new(&sizes, vocab_size, special).map_err(wrong)?;
            shape_vision(&mut config.vision_config, architecture);
            let text = &mut config.text_config;
            text.hidden_size = architecture.text_width();
            text.num_attention_heads = architecture.text_heads();
            text.intermediate_size = architecture.mlp_widths()[1];
            text.hidden_act = activation(architecture);
            Box::new(Med::new(config, med_parts(objectives), device))
        }
    })
}

fn shape_vision(vision: &mut VisionConfig, architecture: &Architecture) {
    vision.intermediate_size = architecture.mlp_widths()[0];
    vision.hidden_act = activation(architecture);
    if let Some(epsilon) = architecture.norm_epsilon {
        vision.layer_norm_eps = epsilon;
    }
}

fn activation(architecture: &Architecture) -> config::Activation {
    match architecture.activation {
        Activation::Gelu => config::Activation::Gelu,
        Activation::QuickGelu => config::Activation::QuickGelu,
    }
}

/// Reads the network of a model folder for further training, with the parts that these objectives
/// train.
///
/// # Errors
/// [`TrainError::Model`] names the file and the tensor.
pub fn load(
    folder: &Path,
    objectives: &[Objective],
    device: &Device,
) -> Result<Box<dyn Network>, TrainError> {
    let load = Load::on(device).parts(med_parts(objectives));
    Ok(pretrained::open(folder, &load)?)
}

/// Fails if the network lacks what an objective trains, or has no dropout where the settings ask for it.
pub(crate) fn check(network: &dyn Network, config: &stage::Train) -> Result<(), TrainError> {
    if config.dropout > 0.0 && !network.has_dropout() {
        return Err(TrainError::Settings {
            field: "dropout",
            problem: format!("a {} has no dropout: leave it out", network.role()),
        });
    }
    for objective in &config.objectives {
        let has = match objective {
            Objective::Itc => network.embed().is_some(),
            Objective::Itm => network.embed().is_some() && network.matching().is_some(),
            Objective::Lm => network.generator().is_some(),
        };
        if !has {
            let (role, objective) = (network.role(), objective.as_str());
            return Err(TrainError::Settings {
                field: "objectives",
                problem: format!("a {role} cannot be trained by `{objective}`: leave it out"),
            });
        }
    }
    Ok(())
}

/// The rule of the settings in the words of the model room.
pub(crate) fn decay_of(decay: Decay) -> params::Decay {
    match decay {
        Decay::Matrices => params::Decay::Matrices,
        Decay::Dimensions => params::Decay::Dimensions,
        Decay::All => params::Decay::All,
    }
}

/// The parameter behind the factor on cosines.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ScaleParameter {
    /// How the factor follows from it.
    pub(crate) rule: Scale,
    /// Its value.
    pub(crate) value: f32,
    /// Its place in the flat vectors, if it is trained.
    pub(crate) place: Option<usize>,
}

/// The parameter behind the factor on cosines; none in a captioner.
pub(crate) fn scale(network: &dyn Network) -> Option<ScaleParameter> {
    let (param, rule) = network.embed()?.scale();
    let name = &param.parts()[0].name;
    let layout = network.layout();
    let slice = layout.iter().find(|slice| slice.name == *name);
    Some(ScaleParameter {
        rule,
        value: param.floats()[0],
        place: slice.map(|slice| slice.range.start),
    })
}

/// Digest of the names and shapes of all parameters that are trained.
pub fn layout_digest(network: &(impl Model + ?Sized)) -> String {
    let mut hasher = blake3::Hasher::new();
    for slice in network.layout() {
        hasher.update(format!("{} {:?}\n", slice.name, slice.shape).as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_model::DeviceSpec;

    #[test]
    fn dropout_of_a_clip_is_refused() {
        let special = SpecialIds {
            pad: 0,
            unk: 1,
            cls: 3,
            sep: 4,
            dec: 5,
            enc: 6,
        };
        let device = DeviceSpec::Cpu.open().unwrap();
        for (family, refused) in [("clip", true), ("blip", false)] {
            let text = format!(
                r#"{{"family": "{family}", "image_size": 8, "patch_size": 8, "width": 8, "heads": 2,
                "vision_layers": 1, "text_layers": 1, "projection": 8, "max_text_tokens": 8}}"#
            );
            let architecture = serde_json::from_str(&text).unwrap();
            let parts = [Objective::Itc];
            let network = blank(&architecture, &parts, (10, &special), &device).unwrap();
            let text = r#"{"data": [], "tokenizer": "t", "objectives": ["itc"], "steps": 1,
                "global_batch": 1, "learning_rate": 1e-3, "dropout": 0.1}"#;
            let found = check(&*network, &serde_json::from_str(text).unwrap());
            assert_eq!(found.is_err(), refused, "{found:?}");
        }
    }

    #[test]
    fn towers_of_published_shapes_have_their_number_of_parameters() {
        let special = SpecialIds {
            pad: 0,
            unk: 1,
            cls: 3,
            sep: 4,
            dec: 5,
            enc: 6,
        };
        let device = DeviceSpec::Cpu.open().unwrap();
        let parameters = |json: &str, objectives: &[Objective], tokens| {
            let architecture: Architecture = serde_json::from_str(json).unwrap();
            let network = blank(&architecture, objectives, (tokens, &special), &device).unwrap();
            network.num_params()
        };
        // open_clip's ViT-B-32.
        let clip = r#"{"family": "clip", "image_size": 224, "patch_size": 32, "width": 768, "heads": 12,
            "vision_layers": 12, "text_layers": 12, "text_width": 512, "text_heads": 8,
            "projection": 512, "max_text_tokens": 77}"#;
        assert_eq!(parameters(clip, &[Objective::Itc], 49_408), 151_277_313);
        // BlipForConditionalGeneration of this shape, whose output
        // matrix is that of the word embeddings.
        let blip = r#"{"family": "blip", "image_size": 384, "patch_size": 16, "width": 768, "heads": 12,
            "vision_layers": 12, "text_layers": 12, "projection": 256, "max_text_tokens": 512,
            "norm_epsilon": 1e-6}"#;
        assert_eq!(parameters(blip, &[Objective::Lm], 30_524), 223_971_644);
    }
}
