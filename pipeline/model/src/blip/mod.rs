//! BLIP's multimodal mixture of encoder and decoder, MED (Li et al. 2022).
//!
//! One text transformer in three uses: text encoder (bidirectional), image-grounded
//! encoder (the same with cross-attention) and decoder (causal). Encoder and
//! decoder share everything but self-attention (the paper, section 3.2), its output
//! norm included.

mod decode;
mod load;
mod text;

use std::path::Path;

use burn::tensor::{Device, Tensor};

use crate::blocks::{Embeddings, LayerNorm, Linear, PreNormNames, Vit, VitNames, dropped};
use crate::config::BlipConfig;
use crate::device;
use crate::dropout::Site;
use crate::folder::{self, Assets};
use crate::generate::Decoder;
use crate::network::{Embed, Generate, ImageEmbeds, LmLoss, Look, Match, Memory, Network, Scale};
use crate::ops::{self, Keys, Rule, Targets};
use crate::params::{Kind, Model, Param, Part, params};
use crate::tokens::TokenBatch;
use crate::towers::Towers;

pub use load::{CAPTIONER_FOLDER, FILTER_FOLDER};
use text::{TextLayer, Use};

const VISION: VitNames = VitNames {
    layer: PreNormNames {
        qkv: &["qkv"],
        out: "projection",
    },
    batched: true,
    positions: "position_embedding",
    patch_bias: true,
    pre_norm: None,
};

/// Which uses of the text transformer a [`Med`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MedParts {
    /// All: pre-training.
    Both,
    /// The decoder and the picture encoder: BlipForConditionalGeneration.
    Captioner,
    /// The encoders and their heads: BlipForImageTextRetrieval.
    Filter,
}

impl MedParts {
    /// Whether there is a text encoder.
    pub fn encodes(self) -> bool {
        self != Self::Captioner
    }

    /// Whether there is a decoder.
    pub fn decodes(self) -> bool {
        self != Self::Filter
    }
}

/// The heads of the text encoder.
#[derive(Debug, Clone)]
struct EncoderHeads {
    vision_proj: Linear,
    text_proj: Linear,
    itm_head: Linear,
    temperature: Param,
}

params!(EncoderHeads {
    vision_proj,
    text_proj,
    itm_head,
    temperature
});

impl EncoderHeads {
    fn new(config: &BlipConfig, device: &Device) -> Self {
        let head = |name: &str, inputs, outputs| Linear::new(name, inputs, outputs, true, device);
        let (width, common) = (
            config.text_config.hidden_size,
            config.image_text_hidden_size,
        );
        let temperature = vec![Part::new("temperature", &[1])];
        Self {
            vision_proj: head("vision_proj", config.vision_config.hidden_size, common),
            text_proj: head("text_proj", width, common),
            itm_head: head("itm_head", width, 2),
            temperature: Param::zeros(Kind::Temperature, temperature, device),
        }
    }
}

/// The head of the decoder; its output matrix is that of the word embeddings.
#[derive(Debug, Clone)]
struct LmHead {
    transform: Linear,
    norm: LayerNorm,
    bias: Param,
}

params!(LmHead {
    transform,
    norm,
    bias
});

impl LmHead {
    fn new(config: &BlipConfig, device: &Device) -> Self {
        let text = config.text_config.tower();
        let name = |end: &str| format!("text_decoder.cls.predictions.{end}");
        let bias = vec![Part::new(name("bias"), &[config.text_config.vocab_size])];
        Self {
            transform: Linear::new(
                &name("transform.dense"),
                text.width,
                text.width,
                true,
                device,
            ),
            norm: LayerNorm::new(
                &name("transform.LayerNorm"),
                text.width,
                text.epsilon,
                device,
            ),
            bias: Param::zeros(Kind::Bias, bias, device),
        }
    }
}

/// The MED network.
#[derive(Debug, Clone)]
pub struct Med {
    config: BlipConfig,
    parts: MedParts,
    vision: Vit,
    embeddings: Embeddings,
    norm: LayerNorm,
    layers: Vec<TextLayer>,
    heads: Option<EncoderHeads>,
    lm_head: Option<LmHead>,
    device: Device,
}

params!(Med {
    vision,
    embeddings,
    norm,
    layers,
    heads,
    lm_head
});

impl Med {
    /// A network of this configuration on `device`, all parameters zero: give them
    /// values by [`Model::initialise`] or [`Model::load_flat`].
    ///
    /// Parameters are named as in BlipForImageTextRetrieval, those of the decoder
    /// alone as in BlipForConditionalGeneration.
    pub fn new(config: BlipConfig, parts: MedParts, device: &Device) -> Self {
        let text = config.text_config.tower();
        let name = |end: &str| format!("text_encoder.embeddings.{end}");
        let layer = |i| {
            let pictures = config.text_config.encoder_hidden_size;
            TextLayer::new(i, &text, pictures, parts, device)
        };
        Self {
            vision: Vit::new(&VISION, &config.vision_config, device),
            embeddings: Embeddings::new(
                (
                    &name("word_embeddings.weight"),
                    config.text_config.vocab_size,
                ),
                (
                    &name("position_embeddings.weight"),
                    config.text_config.max_position_embeddings,
                ),
                text.width,
                device,
            ),
            norm: LayerNorm::new(&name("LayerNorm"), text.width, text.epsilon, device),
            layers: (0..text.layers).map(layer).collect(),
            heads: parts.encodes().then(|| EncoderHeads::new(&config, device)),
            lm_head: parts.decodes().then(|| LmHead::new(&config, device)),
            config,
            parts,
            device: device.clone(),
        }
    }

    /// The configuration.
    pub fn config(&self) -> &BlipConfig {
        &self.config
    }

    /// Which uses it holds.
    pub fn parts(&self) -> MedParts {
        self.parts
    }

    /// Temperature of the image-text contrast, `[1]`, as it is: training clamps it.
    ///
    /// # Panics
    /// On a captioner.
    pub fn temperature(&self) -> Tensor<1> {
        self.encoder_heads().temperature.wide()
    }

    /// [`Match::match_logits`] with the first token as it is.
    ///
    /// # Panics
    /// On a captioner, or when `pictures` has not one entry a row.
    pub fn itm_logits_as_is(
        &self,
        memory: &Memory,
        texts: &TokenBatch,
        pictures: &[usize],
    ) -> Tensor<2> {
        let hidden = self.hidden(texts, Use::Encoder, Some((memory, pictures)));
        self.encoder_heads()
            .itm_head
            .forward(first_tokens(hidden, texts))
    }

    /// Logits of the next token at every position, `[rows * padded_len, vocabulary]`;
    /// [DEC] takes the place of the first token.
    ///
    /// # Panics
    /// On a filter, or when `pictures` has not one entry a row.
    pub fn lm_logits(&self, memory: &Memory, texts: &TokenBatch, pictures: &[usize]) -> Tensor<2> {
        let texts = texts.with_first(self.config.text_config.bos_token_id);
        self.vocabulary_logits(self.hidden(&texts, Use::Decoder, Some((memory, pictures))))
    }

    fn vocabulary_logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        let head = self.lm_head.as_ref().expect("a filter has no decoder");
        let activation = self.config.text_config.hidden_act;
        let transformed = ops::activation(head.transform.forward(hidden), activation);
        ops::linear(
            head.norm.forward(transformed),
            &self.embeddings.words,
            Some(&head.bias),
        )
    }

    fn hidden(
        &self,
        texts: &TokenBatch,
        uses: Use,
        memory: Option<(&Memory, &[usize])>,
    ) -> Tensor<2> {
        let (rows, len) = (texts.rows(), texts.padded_len());
        let at: Vec<u32> = (0..rows).flat_map(|_| 0..len as u32).collect();
        let x = self.embed_tokens(texts.ids(), &at);
        let mut x = dropped(x, texts.dropout(0), Site::Embeddings);
        let own = Keys {
            lengths: texts.mask_lengths().map(<[u32]>::to_vec),
            rule: match uses {
                Use::Encoder => Rule::All,
                Use::Decoder => Rule::Causal { before: 0 },
            },
            ..Keys::all(rows, len)
        };
        let seen = memory.map(|(memory, pictures)| {
            let pictures: Vec<u32> = pictures.iter().map(|picture| *picture as u32).collect();
            (memory, memory.keys(&pictures, rows, len))
        });
        for (i, layer) in self.layers.iter().enumerate() {
            let look = seen.as_ref().map(|(memory, keys)| (memory.layer(i), keys));
            x = layer.forward(x, uses, &own, look, texts.dropout(i));
        }
        x
    }

    fn embed_tokens(&self, ids: &[u32], at: &[u32]) -> Tensor<2> {
        self.norm.forward(self.embeddings.forward(ids, at))
    }

    fn encoder_heads(&self) -> &EncoderHeads {
        self.heads
            .as_ref()
            .expect("a captioner has no text encoder")
    }
}

fn first_tokens(hidden: Tensor<2>, texts: &TokenBatch) -> Tensor<2> {
    let len = texts.padded_len() as u32;
    let first: Vec<u32> = (0..texts.rows() as u32).map(|row| row * len).collect();
    ops::select_rows(hidden, &first)
}

impl Model for Med {
    fn device(&self) -> &Device {
        &self.device
    }
}

impl Network for Med {
    fn role(&self) -> &'static str {
        match self.parts {
            MedParts::Captioner => "captioner",
            MedParts::Filter => "filter",
            MedParts::Both => "captioner and filter",
        }
    }

    fn image_size(&self) -> usize {
        self.config.vision_config.image_size
    }

    fn max_text_tokens(&self) -> usize {
        self.config.text_config.max_position_embeddings
    }

    fn towers(&self) -> Towers {
        Towers {
            family: "blip",
            vision: self.config.vision_config.tower(),
            text: self.config.text_config.tower(),
        }
    }

    fn vocab_size(&self) -> usize {
        self.config.text_config.vocab_size
    }

    fn pad(&self) -> u32 {
        self.config.text_config.pad_token_id
    }

    /// Tokens of the pictures after the last norm.
    fn encode(&self, pixels: Tensor<4>) -> ImageEmbeds {
        let pictures = pixels.dims()[0];
        let tokens = self.vision.post_norm.forward(self.vision.forward(pixels));
        ImageEmbeds::new(tokens, pictures)
    }

    fn embed(&self) -> Option<&dyn Embed> {
        self.parts.encodes().then_some(self)
    }

    fn matching(&self) -> Option<&dyn Match> {
        self.parts.encodes().then_some(self)
    }

    fn generator(&self) -> Option<&dyn Generate> {
        self.parts.decodes().then_some(self)
    }

    fn has_dropout(&self) -> bool {
        true
    }

    fn blank_encoders(&self) -> Option<Box<dyn Network>> {
        self.parts.encodes().then(|| {
            let device = self.device.clone().inner();
            let filter = Med::new(self.config.clone(), MedParts::Filter, &device);
            Box::new(filter) as Box<dyn Network>
        })
    }

    fn inference(&self) -> Box<dyn Network> {
        let mut network = self.clone();
        network.untrack();
        network.device = device::untracked(&self.device);
        Box::new(network)
    }

    fn save(&self, path: &Path, assets: &Assets<'_>) -> Result<(), folder::Error> {
        self.save_parts(path, assets)
    }
}

/// # Panics
/// On a captioner, which has no text encoder.
impl Embed for Med {
    fn image_features(&self, images: &ImageEmbeds) -> Tensor<2> {
        let projection = &self.encoder_heads().vision_proj;
        ops::normalise(projection.forward(images.first_tokens()))
    }

    /// Of rows `[CLS] ... [SEP]`.
    fn text_features(&self, texts: &TokenBatch) -> Tensor<2> {
        let hidden = self.hidden(texts, Use::Encoder, None);
        let projection = &self.encoder_heads().text_proj;
        ops::normalise(projection.forward(first_tokens(hidden, texts)))
    }

    fn width(&self) -> usize {
        self.config.image_text_hidden_size
    }

    fn scale(&self) -> (&Param, Scale) {
        (&self.encoder_heads().temperature, Scale::Temperature)
    }
}

impl Look for Med {
    fn memory(&self, images: &ImageEmbeds) -> Memory {
        let layers = self.layers.iter();
        let layers = layers.map(|layer| layer.picture_keys(images.tokens()));
        Memory::new(
            layers.collect(),
            images.pictures(),
            images.tokens_per_picture(),
        )
    }
}

/// # Panics
/// On a captioner, or when `pictures` has not one entry a row.
impl Match for Med {
    /// [ENC] takes the place of the first token.
    fn match_logits(&self, memory: &Memory, texts: &TokenBatch, pictures: &[usize]) -> Tensor<2> {
        let texts = texts.with_first(self.config.text_config.enc_id());
        self.itm_logits_as_is(memory, &texts, pictures)
    }
}

/// # Panics
/// On a filter, which has no decoder.
impl Generate for Med {
    /// [DEC] takes the place of the first token.
    fn lm_loss_of(
        &self,
        memory: &Memory,
        texts: &TokenBatch,
        pictures: &[usize],
        label_smoothing: f64,
        counts: &dyn Fn(usize, usize) -> bool,
    ) -> LmLoss {
        let decoder = texts.with_first(self.config.text_config.bos_token_id);
        let hidden = self.hidden(&decoder, Use::Decoder, Some((memory, pictures)));
        let len = texts.padded_len();
        let mut positions = Vec::new();
        let mut classes = Vec::new();
        for (row, length) in texts.lengths().iter().enumerate() {
            for position in (1..*length as usize).filter(|position| counts(row, *position)) {
                positions.push((row * len + position - 1) as u32);
                classes.push(texts.row(row)[position]);
            }
        }
        assert!(!classes.is_empty(), "a loss needs a token to predict");
        // Positions without a target are dropped before the widest product.
        let logits = self.vocabulary_logits(ops::select_rows(hidden, &positions));
        let targets = Targets {
            classes: &classes,
            smoothing: label_smoothing,
        };
        LmLoss {
            sum: ops::cross_entropy_sum(logits, &targets),
            tokens: classes.len(),
        }
    }

    fn decoder(&self) -> &dyn Decoder {
        self
    }
}

#[cfg(test)]
mod tests;
