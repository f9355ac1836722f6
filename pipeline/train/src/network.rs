//! The network that is trained: drawn by its architecture, or read to go on from.

use std::path::Path;

use capstan_model::config::{BlipConfig, ClipConfig, Sizes, SpecialIds};
use capstan_model::{
    Clip, Device, InitRecipe, Load, Med, MedParts, Model, Network, Scale, pretrained,
};
use capstan_plan::stage::{Architecture, Family, Objective};

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
    let mut network: Box<dyn Network> = match architecture.family {
        Family::Clip => {
            let config = ClipConfig::new(&sizes, vocab_size, special).map_err(wrong)?;
            Box::new(Clip::new(config, device))
        }
        Family::Blip => {
            let config = BlipConfig::new(&sizes, vocab_size, special).map_err(wrong)?;
            Box::new(Med::new(config, med_parts(objectives), device))
        }
    };
    network.initialise(seed, &InitRecipe::default());
    Ok(network)
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

/// Fails if the network lacks what an objective trains.
pub(crate) fn check(network: &dyn Network, objectives: &[Objective]) -> Result<(), TrainError> {
    for objective in objectives {
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
