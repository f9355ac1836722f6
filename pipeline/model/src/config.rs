//! Hugging Face `config.json` of CLIPModel, BlipForConditionalGeneration and
//! BlipForImageTextRetrieval: the keys that decide what is computed. Other keys
//! are kept as they were read and written again.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Activation of a feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x * Phi(x)`, exact.
    Gelu,
    /// `x * sigmoid(1.702 x)`, OpenAI's CLIP.
    QuickGelu,
}

/// Width and depth of one tower.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tower {
    pub width: usize,
    pub heads: usize,
    pub layers: usize,
    pub hidden: usize,
    pub epsilon: f64,
    pub activation: Activation,
}

/// `vision_config` of both families.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VisionConfig {
    /// Width of a token.
    pub hidden_size: usize,
    /// Width inside the feed-forward layers.
    pub intermediate_size: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Side of a picture in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Colours of a pixel.
    #[serde(default = "default_channels")]
    pub num_channels: usize,
    /// Activation of the feed-forward layers.
    pub hidden_act: Activation,
    /// Added to the variance by every layer norm.
    #[serde(default = "default_epsilon")]
    pub layer_norm_eps: f64,
    /// Keys that nothing here reads.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl VisionConfig {
    /// A tower with feed-forward layers four times as wide and exact GELU.
    pub fn new(
        width: usize,
        heads: usize,
        layers: usize,
        image_size: usize,
        patch_size: usize,
    ) -> Self {
        Self {
            hidden_size: width,
            intermediate_size: 4 * width,
            num_attention_heads: heads,
            num_hidden_layers: layers,
            image_size,
            patch_size,
            num_channels: default_channels(),
            hidden_act: Activation::Gelu,
            layer_norm_eps: default_epsilon(),
            other: Map::new(),
        }
    }

    /// Patches of a picture.
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }

    /// Tokens of a picture: the class token and the patches.
    pub fn tokens(&self) -> usize {
        self.patches() + 1
    }

    pub(crate) fn tower(&self) -> Tower {
        Tower {
            width: self.hidden_size,
            heads: self.num_attention_heads,
            layers: self.num_hidden_layers,
            hidden: self.intermediate_size,
            epsilon: self.layer_norm_eps,
            activation: self.hidden_act,
        }
    }
}

/// `text_config` of a CLIPModel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClipTextConfig {
    /// Number of token ids.
    pub vocab_size: usize,
    /// Width of a token.
    pub hidden_size: usize,
    /// Width inside the feed-forward layers.
    pub intermediate_size: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Longest text in tokens.
    pub max_position_embeddings: usize,
    /// Activation of the feed-forward layers.
    pub hidden_act: Activation,
    /// Added to the variance by every layer norm.
    #[serde(default = "default_epsilon")]
    pub layer_norm_eps: f64,
    /// First token of a text.
    #[serde(default = "default_bos")]
    pub bos_token_id: u32,
    /// Last token of a text. Where it is 2 (a mistake of early configurations that
    /// stays for their sake) the text is pooled at its largest id, otherwise at
    /// the first token of this id.
    #[serde(default = "default_eos")]
    pub eos_token_id: u32,
    /// Padding.
    #[serde(default)]
    pub pad_token_id: u32,
    /// Keys that nothing here reads.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl ClipTextConfig {
    pub(crate) fn tower(&self) -> Tower {
        Tower {
            width: self.hidden_size,
            heads: self.num_attention_heads,
            layers: self.num_hidden_layers,
            hidden: self.intermediate_size,
            epsilon: self.layer_norm_eps,
            activation: self.hidden_act,
        }
    }
}

/// `config.json` of a CLIPModel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClipConfig {
    /// The classes whose weights lie beside it.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub architectures: Vec<String>,
    /// `clip`.
    pub model_type: String,
    /// Width of the common space.
    pub projection_dim: usize,
    /// Logarithm of the inverse temperature at the start.
    #[serde(default = "default_logit_scale")]
    pub logit_scale_init_value: f64,
    /// The text tower.
    pub text_config: ClipTextConfig,
    /// The picture tower.
    pub vision_config: VisionConfig,
    /// Keys that nothing here reads.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// `text_config` of the BLIP classes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlipTextConfig {
    /// Number of token ids.
    pub vocab_size: usize,
    /// Width of a token.
    pub hidden_size: usize,
    /// Width of the picture tokens.
    pub encoder_hidden_size: usize,
    /// Width inside the feed-forward layers.
    pub intermediate_size: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Longest text in tokens.
    pub max_position_embeddings: usize,
    /// Activation of the feed-forward layers.
    pub hidden_act: Activation,
    /// Added to the variance by every layer norm.
    #[serde(default = "default_bert_epsilon")]
    pub layer_norm_eps: f64,
    /// First token of the decoder, [DEC].
    pub bos_token_id: u32,
    /// Unused by BLIP, whose texts end with `sep_token_id`.
    #[serde(default = "default_eos")]
    pub eos_token_id: u32,
    /// Padding.
    #[serde(default)]
    pub pad_token_id: u32,
    /// Last token of a text, [SEP].
    pub sep_token_id: u32,
    /// First token of the image-grounded encoder, [ENC]; the next id after [DEC]
    /// where the file does not say. A key of ours: Hugging Face leaves [ENC] to the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enc_token_id: Option<u32>,
    /// Label smoothing of the language-modelling loss.
    #[serde(default)]
    pub label_smoothing: f64,
    /// Keys that nothing here reads.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl BlipTextConfig {
    /// The id of [ENC].
    pub fn enc_id(&self) -> u32 {
        self.enc_token_id.unwrap_or(self.bos_token_id + 1)
    }

    pub(crate) fn tower(&self) -> Tower {
        Tower {
            width: self.hidden_size,
            heads: self.num_attention_heads,
            layers: self.num_hidden_layers,
            hidden: self.intermediate_size,
            epsilon: self.layer_norm_eps,
            activation: self.hidden_act,
        }
    }
}

/// `config.json` of BlipForConditionalGeneration and BlipForImageTextRetrieval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlipConfig {
    /// The classes whose weights lie beside it.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub architectures: Vec<String>,
    /// `blip`.
    pub model_type: String,
    /// Width of the common space of `vision_proj` and `text_proj`.
    pub image_text_hidden_size: usize,
    /// The same for BlipModel, which nothing here is.
    pub projection_dim: usize,
    /// Logarithm of the inverse temperature at the start.
    #[serde(default = "default_logit_scale")]
    pub logit_scale_init_value: f64,
    /// Temperature of the image-text contrast as trained. A key of ours: the
    /// Hugging Face classes have no tensor for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub itc_temperature: Option<f32>,
    /// The text tower.
    pub text_config: BlipTextConfig,
    /// The picture tower.
    pub vision_config: VisionConfig,
    /// Keys that nothing here reads.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl BlipConfig {
    /// Temperature of the image-text contrast.
    pub fn temperature(&self) -> f32 {
        self.itc_temperature
            .unwrap_or_else(|| (-self.logit_scale_init_value).exp() as f32)
    }
}

/// Sizes of a model of ours, from which both families' configurations follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Side of a picture in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Width of both towers.
    pub width: usize,
    /// Attention heads of both towers.
    pub heads: usize,
    /// Layers of the picture tower.
    pub vision_layers: usize,
    /// Layers of the text tower.
    pub text_layers: usize,
    /// Width of the common space.
    pub projection: usize,
    /// Longest text in tokens.
    pub max_text_tokens: usize,
}

/// Ids of the special tokens of a vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialIds {
    /// [PAD].
    pub pad: u32,
    /// [UNK].
    pub unk: u32,
    /// [CLS].
    pub cls: u32,
    /// [SEP].
    pub sep: u32,
    /// [DEC].
    pub dec: u32,
    /// [ENC].
    pub enc: u32,
}

impl ClipConfig {
    /// A CLIP of these sizes over a WordPiece vocabulary: texts are `[CLS] ... [SEP]`
    /// and pooled at the first [SEP].
    ///
    /// # Errors
    /// [`Error`]: sizes that do not fit together.
    pub fn new(sizes: &Sizes, vocab_size: usize, special: &SpecialIds) -> Result<Self, Error> {
        sizes.check()?;
        if special.sep == 2 {
            return Err(Error::EosIsTwo);
        }
        Ok(Self {
            architectures: vec!["CLIPModel".to_owned()],
            model_type: "clip".to_owned(),
            projection_dim: sizes.projection,
            logit_scale_init_value: default_logit_scale(),
            text_config: ClipTextConfig {
                vocab_size,
                hidden_size: sizes.width,
                intermediate_size: 4 * sizes.width,
                num_attention_heads: sizes.heads,
                num_hidden_layers: sizes.text_layers,
                max_position_embeddings: sizes.max_text_tokens,
                hidden_act: Activation::Gelu,
                layer_norm_eps: default_epsilon(),
                bos_token_id: special.cls,
                eos_token_id: special.sep,
                pad_token_id: special.pad,
                other: Map::new(),
            },
            vision_config: sizes.vision(),
            other: Map::new(),
        })
    }
}

impl BlipConfig {
    /// A BLIP of these sizes over a WordPiece vocabulary.
    ///
    /// # Errors
    /// [`Error`]: sizes that do not fit together.
    pub fn new(sizes: &Sizes, vocab_size: usize, special: &SpecialIds) -> Result<Self, Error> {
        sizes.check()?;
        Ok(Self {
            architectures: Vec::new(),
            model_type: "blip".to_owned(),
            image_text_hidden_size: sizes.projection,
            projection_dim: sizes.projection,
            logit_scale_init_value: default_logit_scale(),
            itc_temperature: None,
            text_config: BlipTextConfig {
                vocab_size,
                hidden_size: sizes.width,
                encoder_hidden_size: sizes.width,
                intermediate_size: 4 * sizes.width,
                num_attention_heads: sizes.heads,
                num_hidden_layers: sizes.text_layers,
                max_position_embeddings: sizes.max_text_tokens,
                hidden_act: Activation::Gelu,
                layer_norm_eps: default_bert_epsilon(),
                bos_token_id: special.dec,
                eos_token_id: special.sep,
                pad_token_id: special.pad,
                sep_token_id: special.sep,
                enc_token_id: Some(special.enc),
                label_smoothing: 0.1,
                other: Map::from_iter([("is_decoder".to_owned(), Value::Bool(true))]),
            },
            vision_config: sizes.vision(),
            other: Map::new(),
        })
    }
}

/// Sizes that do not fit together.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Heads do not divide the width.
    #[error("width {width} is no multiple of {heads} heads")]
    Heads {
        /// Width of a tower.
        width: usize,
        /// Its heads.
        heads: usize,
    },
    /// Patches do not tile the picture.
    #[error("image_size {image_size} is no multiple of patch_size {patch_size}")]
    Patches {
        /// Side of a picture.
        image_size: usize,
        /// Side of a patch.
        patch_size: usize,
    },
    /// A size is 0.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// CLIP's pooling treats this id in its own way.
    #[error("[SEP] must not be token 2: CLIP pools such texts at their largest id")]
    EosIsTwo,
}

impl Sizes {
    fn check(&self) -> Result<(), Error> {
        check_tower(self.width, self.heads)?;
        check_picture(self.image_size, self.patch_size)?;
        for (value, name) in [
            (self.projection, "projection"),
            (self.max_text_tokens, "max_text_tokens"),
        ] {
            if value == 0 {
                return Err(Error::Zero(name));
            }
        }
        Ok(())
    }

    fn vision(&self) -> VisionConfig {
        VisionConfig::new(
            self.width,
            self.heads,
            self.vision_layers,
            self.image_size,
            self.patch_size,
        )
    }
}

fn check_tower(width: usize, heads: usize) -> Result<(), Error> {
    if width == 0 {
        return Err(Error::Zero("width"));
    }
    if heads == 0 || !width.is_multiple_of(heads) {
        return Err(Error::Heads { width, heads });
    }
    Ok(())
}

fn check_picture(image_size: usize, patch_size: usize) -> Result<(), Error> {
    if image_size == 0 {
        return Err(Error::Zero("image_size"));
    }
    if patch_size == 0 || !image_size.is_multiple_of(patch_size) {
        return Err(Error::Patches {
            image_size,
            patch_size,
        });
    }
    Ok(())
}

/// Checks that a configuration read from a file describes a network.
pub(crate) trait Check {
    fn check(&self) -> Result<(), Error>;
}

impl Check for ClipConfig {
    fn check(&self) -> Result<(), Error> {
        check_tower(
            self.text_config.hidden_size,
            self.text_config.num_attention_heads,
        )?;
        check_tower(
            self.vision_config.hidden_size,
            self.vision_config.num_attention_heads,
        )?;
        check_picture(self.vision_config.image_size, self.vision_config.patch_size)
    }
}

impl Check for BlipConfig {
    fn check(&self) -> Result<(), Error> {
        check_tower(
            self.text_config.hidden_size,
            self.text_config.num_attention_heads,
        )?;
        check_tower(
            self.vision_config.hidden_size,
            self.vision_config.num_attention_heads,
        )?;
        check_picture(self.vision_config.image_size, self.vision_config.patch_size)
    }
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default())
}

fn default_channels() -> usize {
    3
}

fn default_epsilon() -> f64 {
    1e-5
}

fn default_bert_epsilon() -> f64 {
    1e-12
}

fn default_logit_scale() -> f64 {
    2.6592
}

fn default_bos() -> u32 {
    0
}

fn default_eos() -> u32 {
    2
}
