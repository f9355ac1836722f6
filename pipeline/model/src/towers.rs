//! Weights of one tower, from the folder of another model.
//!
//! | network | tower  | begins with the tower of                                       |
//! |---------|--------|----------------------------------------------------------------|
//! | BLIP    | vision | a ViT (ViTModel, ViTForImageClassification), a BLIP            |
//! | BLIP    | text   | a BERT (BertModel, BertForMaskedLM, BertForPreTraining)        |
//! | CLIP    | either | a CLIP                                                         |
//!
//! A CLIP's vision tower norms its first tokens and has no bias of patches, so it computes nothing
//! that a BLIP's tower could. What the folder does not have keeps its values: cross-attention, heads,
//! projections, and the rows of tokens behind the folder's vocabulary.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::blip::CAPTIONER_FOLDER;
use crate::config::{
    Activation, BlipConfig, BlipTextConfig, Check, ClipConfig, Sizes, SpecialIds, Tower,
    VisionConfig,
};
use crate::folder::{self, CONFIG_FILE, Error};
use crate::names::{bert, vit};
use crate::network::Network;
use crate::params::{Part, Values};
use crate::positions::{self, Resample};
use crate::tokenizer::Tokenizer;
use crate::weights::{self, Source};
use crate::{Med, MedParts};

/// What a tower reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modality {
    /// Pictures.
    Vision,
    /// Texts.
    Text,
}

impl Modality {
    /// The modality in a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vision => "vision",
            Self::Text => "text",
        }
    }
}

/// Family and sizes of a network's towers.
#[derive(Debug, Clone, Copy)]
pub struct Towers {
    /// `model_type` of its configuration.
    pub(crate) family: &'static str,
    pub(crate) vision: Tower,
    pub(crate) text: Tower,
}

/// A tower as a folder stores it.
struct Format {
    /// `model_type` of the folder's configuration.
    model_type: &'static str,
    modality: Modality,
    /// Family of the networks that can begin with it.
    family: &'static str,
    /// Heads, activation and tokens of a folder.
    config: fn(&Path) -> Result<Facts, Error>,
    /// The name by which [`Format::place`] knows a tensor of the file; `None` for what is not of the
    /// tower.
    select: fn(&str) -> Option<String>,
    /// The tensors of the file that make up one of the network, one after the other.
    place: fn(&str) -> Option<Vec<String>>,
}

/// What the configuration says of a tower.
struct Facts {
    layers: usize,
    heads: usize,
    activation: Activation,
    /// Rows of the table of words; 0 for a vision tower.
    tokens: usize,
}

const FORMATS: &[Format] = &[
    Format {
        model_type: "vit",
        modality: Modality::Vision,
        family: "blip",
        config: |path| Ok(of_vision(&read_json(path)?)),
        select: vit::select,
        place: vit::place,
    },
    Format {
        model_type: "blip",
        modality: Modality::Vision,
        family: "blip",
        config: |path| Ok(of_vision(&read_json::<BlipConfig>(path)?.vision_config)),
        select: of_vision_model,
        place: vision_name,
    },
    Format {
        model_type: "bert",
        modality: Modality::Text,
        family: "blip",
        config: |path| {
            let text = read_json::<Bert>(path)?;
            Ok(Facts {
                layers: text.num_hidden_layers,
                heads: text.num_attention_heads,
                activation: text.hidden_act,
                tokens: text.vocab_size,
            })
        },
        select: bert::select,
        place: bert::place,
    },
    Format {
        model_type: "clip",
        modality: Modality::Vision,
        family: "clip",
        config: |path| Ok(of_vision(&read_json::<ClipConfig>(path)?.vision_config)),
        select: of_vision_model,
        place: vision_name,
    },
    Format {
        model_type: "clip",
        modality: Modality::Text,
        family: "clip",
        config: |path| {
            let text = read_json::<ClipConfig>(path)?.text_config;
            Ok(Facts {
                layers: text.num_hidden_layers,
                heads: text.num_attention_heads,
                activation: text.hidden_act,
                tokens: text.vocab_size,
            })
        },
        select: of_text_model,
        place: |name| Some(vec![of_text_model(name)?]),
    },
];

/// `config.json` of a BERT.
#[derive(Deserialize)]
struct Bert {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_attention_heads: usize,
    num_hidden_layers: usize,
    max_position_embeddings: usize,
    hidden_act: Activation,
}

#[derive(Deserialize)]
struct ModelType {
    #[serde(default)]
    model_type: String,
}

fn read_json<C: DeserializeOwned>(folder: &Path) -> Result<C, Error> {
    folder::read_json(&folder.join(CONFIG_FILE))
}

fn of_vision(config: &VisionConfig) -> Facts {
    Facts {
        layers: config.num_hidden_layers,
        heads: config.num_attention_heads,
        activation: config.hidden_act,
        tokens: 0,
    }
}

fn of_vision_model(name: &str) -> Option<String> {
    name.starts_with("vision_model.").then(|| name.to_owned())
}

fn vision_name(name: &str) -> Option<Vec<String>> {
    Some(vec![of_vision_model(name)?])
}

fn of_text_model(name: &str) -> Option<String> {
    name.starts_with("text_model.").then(|| name.to_owned())
}

/// Gives a tower of `network` the weights of the tower in `folder`.
///
/// Positions of pictures of another size are resampled, for a BLIP as its `interpolate_pos_embed`
/// does, for a CLIP as open_clip's `resize_pos_embed`.
///
/// - `vocabulary`: that of the network. It must begin with the tokens of the folder's, because a
///   token keeps its row.
///
/// # Errors
/// [`Error`] names the file, and the tensor with its shapes or the setting that does not fit.
/// `network` is then unspecified.
pub fn read(
    network: &mut dyn Network,
    modality: Modality,
    folder: &Path,
    vocabulary: &Tokenizer,
) -> Result<(), Error> {
    let folder = &own_folder(folder);
    let towers = network.towers();
    let path = folder.join(CONFIG_FILE);
    let found: ModelType = folder::read_json(&path)?;
    let fits = |format: &&Format| format.modality == modality && format.family == towers.family;
    let format = FORMATS
        .iter()
        .filter(fits)
        .find(|format| format.model_type == found.model_type);
    let Some(format) = format else {
        let types: Vec<_> = FORMATS.iter().filter(fits).map(|f| f.model_type).collect();
        return Err(Error::Tower {
            path,
            found: found.model_type,
            modality: modality.as_str(),
            family: towers.family,
            expected: types.join(" or "),
        });
    };
    let facts = (format.config)(folder)?;
    let own = match modality {
        Modality::Vision => towers.vision,
        Modality::Text => towers.text,
    };
    check_facts(path, &facts, &own)?;
    if modality == Modality::Text {
        check_vocabulary(folder, facts.tokens, vocabulary)?;
    }
    take(network, format, folder)?;
    Ok(())
}

/// What shapes do not show: heads and activation decide what the same weights compute.
fn check_facts(path: PathBuf, found: &Facts, own: &Tower) -> Result<(), Error> {
    let act = |activation: Activation| serde_json::json!(activation).to_string();
    let rows = [
        (
            "num_hidden_layers",
            found.layers.to_string(),
            own.layers.to_string(),
        ),
        (
            "num_attention_heads",
            found.heads.to_string(),
            own.heads.to_string(),
        ),
        ("hidden_act", act(found.activation), act(own.activation)),
    ];
    match rows.into_iter().find(|(_, found, own)| found != own) {
        Some((key, found, own)) => Err(Error::TowerSizes {
            path,
            key,
            found,
            own,
        }),
        None => Ok(()),
    }
}

/// - `rows`: of the folder's table of words.
fn check_vocabulary(folder: &Path, rows: usize, vocabulary: &Tokenizer) -> Result<(), Error> {
    let own = Tokenizer::load(folder)?;
    let tokens = own.tokens().iter().take(rows).enumerate();
    let mut pairs = tokens.map(|(id, token)| (id, token, vocabulary.tokens().get(id)));
    match pairs.find(|(_, token, known)| *known != Some(*token)) {
        Some((id, token, known)) => Err(Error::TowerVocabulary {
            path: folder.join(crate::tokenizer::VOCAB_FILE),
            id,
            found: token.clone(),
            own: known.cloned(),
        }),
        None => Ok(()),
    }
}

/// Reads the tensors of a tower; the number of values that were read.
fn take(network: &mut dyn Network, format: &Format, folder: &Path) -> Result<usize, Error> {
    let mut source = Source::open(folder)?;
    source.select(format.select);
    let is_head = |name: &str| name.starts_with(bert::WORD_HEAD);
    let has_head = source.names().any(is_head);
    let resample = match format.family {
        "clip" => Resample::Antialias,
        _ => Resample::Plain,
    };
    let mut used = BTreeSet::new();
    if network.generator().is_none() {
        used.extend(
            source
                .names()
                .filter(|name| is_head(name))
                .map(str::to_owned),
        );
    }
    for param in network.params_mut() {
        let places: Vec<Option<Vec<String>>> = param
            .parts()
            .iter()
            .map(|part| (format.place)(&part.name).filter(|names| has_head || !is_head(&names[0])))
            .collect();
        if places.iter().all(Option::is_none) {
            continue;
        }
        let mut values = param.floats();
        let mut first = 0;
        for (part, names) in param.parts().iter().zip(&places) {
            for (at, name) in names.iter().flatten().enumerate() {
                let of = names.as_ref().map_or(1, Vec::len);
                let share = Share { part, at, of };
                share.read(&source, name, &mut values, first, resample)?;
                used.insert(name.clone());
            }
            first += part.len();
        }
        param.set(Values::F32(values));
    }
    source.finish(&used)?;
    Ok(source.len())
}

/// A share of a tensor of the network, which one tensor of the file gives.
struct Share<'a> {
    part: &'a Part,
    /// Which share, of this many equal ones.
    at: usize,
    of: usize,
}

impl Share<'_> {
    /// Reads `name` into `values`, where the network's tensor begins at `first`.
    fn read(
        &self,
        source: &Source,
        name: &str,
        values: &mut [f32],
        first: usize,
        resample: Resample,
    ) -> Result<(), weights::Error> {
        let mut expected = self.part.shape.clone();
        if self.of > 1 {
            expected[0] /= self.of;
        }
        let first = first + self.at * (self.part.len() / self.of);
        let (path, tensor, found) = source.find(name)?;
        let begins = is_table_of_tokens(&self.part.name)
            && found.len() == expected.len()
            && found[0] < expected[0]
            && found[1..] == expected[1..];
        let read = if found == expected || begins {
            source.floats(name)?
        } else if let Some((width, from, to)) = grids(&self.part.name, found, &expected) {
            positions::resize(&source.floats(name)?, width, 1, from, to, resample)
        } else {
            return Err(weights::Error::TowerShape {
                path: path.to_owned(),
                tensor: tensor.to_owned(),
                found: found.to_vec(),
                of: self.part.name.clone(),
                expected,
            });
        };
        values[first..first + read.len()].copy_from_slice(&read);
        Ok(())
    }
}

/// Whether a tensor has a row for each token, so that a shorter vocabulary fills its first rows.
fn is_table_of_tokens(name: &str) -> bool {
    [
        "word_embeddings.weight",
        "token_embedding.weight",
        "cls.predictions.bias",
    ]
    .iter()
    .any(|end| name.ends_with(end))
}

/// Width and both grids, if these are the shapes of positions of a class token and square grids.
fn grids(name: &str, found: &[usize], own: &[usize]) -> Option<(usize, [usize; 2], [usize; 2])> {
    let of_pictures = name.starts_with("vision_model.embeddings.position_embedding");
    let table = |shape: &[usize]| match *shape {
        [1, rows, width] | [rows, width] => {
            let side = positions::square(rows.checked_sub(1)?)?;
            (side > 0).then_some((width, [side, side]))
        }
        _ => None,
    };
    let ((width, from), (own_width, to)) = (table(found)?, table(own)?);
    (of_pictures && width == own_width).then_some((width, from, to))
}

/// Reads a folder that holds one tower, a ViT or a BERT, as [`read`] does; the number of its values.
/// `None` for a folder of another model.
///
/// # Errors
/// [`Error`] names the file and the tensor, or the vocabulary that a BERT needs.
pub fn inspect(folder: &Path, device: &Device) -> Result<Option<usize>, Error> {
    let path = folder.join(CONFIG_FILE);
    if !path.exists() {
        return Ok(None);
    }
    let found: ModelType = folder::read_json(&path)?;
    let mut config = BlipConfig::new(&SMALLEST, 1, &NO_TOKENS).map_err(|source| Error::Sizes {
        path: path.clone(),
        source,
    })?;
    match found.model_type.as_str() {
        "vit" => config.vision_config = folder::read_json(&path)?,
        "bert" => {
            config.text_config = folder::read_json::<Bert>(&path)?.text_config(config.text_config);
            Tokenizer::load(folder)?;
        }
        _ => return Ok(None),
    }
    config
        .check()
        .map_err(|source| Error::Sizes { path, source })?;
    let format = FORMATS
        .iter()
        .find(|format| format.model_type == found.model_type);
    let mut network = Med::new(config, MedParts::Captioner, device);
    format
        .map(|format| take(&mut network, format, folder))
        .transpose()
}

/// The tower that a folder does not hold.
const SMALLEST: Sizes = Sizes {
    image_size: 1,
    patch_size: 1,
    width: 1,
    heads: 1,
    vision_layers: 0,
    text_layers: 0,
    projection: 1,
    max_text_tokens: 1,
};

const NO_TOKENS: SpecialIds = SpecialIds {
    pad: 0,
    unk: 0,
    cls: 0,
    sep: 0,
    dec: 0,
    enc: 0,
};

impl Bert {
    /// The text transformer of a BLIP of these sizes.
    fn text_config(self, other: BlipTextConfig) -> BlipTextConfig {
        BlipTextConfig {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_attention_heads: self.num_attention_heads,
            num_hidden_layers: self.num_hidden_layers,
            max_position_embeddings: self.max_position_embeddings,
            hidden_act: self.hidden_act,
            ..other
        }
    }
}

/// The folder with the configuration: a pre-trained BLIP is two folders, which share their tower.
fn own_folder(folder: &Path) -> PathBuf {
    let sub = folder.join(CAPTIONER_FOLDER);
    match folder.join(CONFIG_FILE).exists() || !sub.exists() {
        true => folder.to_owned(),
        false => sub,
    }
}

#[cfg(test)]
mod tests;
