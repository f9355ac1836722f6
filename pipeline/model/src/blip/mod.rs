//! BLIP's multimodal mixture of encoder and decoder, MED (Li et al. 2022).
//!
//! One text transformer in three uses: text encoder (bidirectional), image-grounded
//! encoder (the same with cross-attention) and decoder (causal). Encoder and
//! decoder share everything but self-attention (the paper, section 3.2), its output
//! norm included.

mod load;
mod text;

use burn::tensor::{Device, Tensor};

use crate::config::BlipConfig;
use crate::init::Kind;
use crate::layers::{LayerNorm, Linear, PreNormNames, Vit, VitNames};
use crate::ops::{self, Keys, Targets};
use crate::tokens::TokenBatch;
use crate::weights::{Model, Part, Weight};

pub use load::{CAPTIONER_FOLDER, FILTER_FOLDER};
pub(crate) use text::Cache;
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

/// Tokens of pictures after the last norm.
#[derive(Debug, Clone)]
pub struct ImageEmbeds {
    tokens: Tensor<2>,
    pictures: usize,
}

impl ImageEmbeds {
    /// `[pictures * tokens, width]`.
    pub fn tokens(&self) -> Tensor<2> {
        self.tokens.clone()
    }

    /// Number of pictures.
    pub fn pictures(&self) -> usize {
        self.pictures
    }

    fn tokens_per_picture(&self) -> usize {
        self.tokens.dims()[0] / self.pictures
    }
}

/// Keys and values of the cross-attention of every layer, computed once a picture;
/// any number of texts may look at one. Gradients flow back to the pictures.
#[derive(Debug, Clone)]
pub struct Memory {
    layers: Vec<Tensor<2>>,
    pictures: usize,
    tokens: usize,
}

impl Memory {
    /// Number of pictures.
    pub fn pictures(&self) -> usize {
        self.pictures
    }
}

/// A language-modelling loss as a sum, so that ranks can divide by a global count.
#[derive(Debug, Clone)]
pub struct LmLoss {
    /// Sum of the cross entropies of all predicted tokens, `[1]`.
    pub sum: Tensor<1>,
    /// How many tokens were predicted.
    pub tokens: usize,
}

/// The heads of the text encoder.
#[derive(Debug, Clone)]
struct EncoderHeads {
    vision_proj: Linear,
    text_proj: Linear,
    itm_head: Linear,
    temperature: Weight,
}

/// The head of the decoder; its output matrix is that of the word embeddings.
#[derive(Debug, Clone)]
struct LmHead {
    transform: Linear,
    norm: LayerNorm,
    bias: Weight,
}

/// The MED network.
#[derive(Debug, Clone)]
pub struct Med {
    config: BlipConfig,
    parts: MedParts,
    vision: Vit,
    words: Weight,
    positions: Weight,
    norm: LayerNorm,
    layers: Vec<TextLayer>,
    heads: Option<EncoderHeads>,
    lm_head: Option<LmHead>,
    device: Device,
}

impl Med {
    /// A network of this configuration on `device`, all parameters zero: give them
    /// values by [`Model::initialise`] or [`Model::load_flat`].
    ///
    /// Parameters are named as in BlipForImageTextRetrieval, those of the decoder
    /// alone as in BlipForConditionalGeneration.
    pub fn new(config: BlipConfig, parts: MedParts, device: &Device) -> Self {
        let text = config.text_config.tower();
        let width = text.width;
        let one = |kind, name: &str, shape: &[usize]| {
            Weight::zeros(kind, vec![Part::new(name, shape)], device)
        };
        let table = |kind, name: &str, rows| {
            one(
                kind,
                &format!("text_encoder.embeddings.{name}.weight"),
                &[rows, width],
            )
        };
        let common = config.image_text_hidden_size;
        let vision_width = config.vision_config.hidden_size;
        let head = |name: &str, inputs, outputs| Linear::new(name, inputs, outputs, true, device);
        let predictions = |end: &str| format!("text_decoder.cls.predictions.{end}");
        Self {
            vision: Vit::new(&VISION, &config.vision_config, device),
            words: table(
                Kind::Embedding,
                "word_embeddings",
                config.text_config.vocab_size,
            ),
            positions: table(
                Kind::TextPosition,
                "position_embeddings",
                config.text_config.max_position_embeddings,
            ),
            norm: LayerNorm::new(
                "text_encoder.embeddings.LayerNorm",
                width,
                text.epsilon,
                device,
            ),
            layers: (0..text.layers)
                .map(|i| {
                    TextLayer::new(
                        i,
                        &text,
                        config.text_config.encoder_hidden_size,
                        parts,
                        device,
                    )
                })
                .collect(),
            heads: parts.encodes().then(|| EncoderHeads {
                vision_proj: head("vision_proj", vision_width, common),
                text_proj: head("text_proj", width, common),
                itm_head: head("itm_head", width, 2),
                temperature: one(Kind::Temperature, "temperature", &[1]),
            }),
            lm_head: parts.decodes().then(|| LmHead {
                transform: head(&predictions("transform.dense"), width, width),
                norm: LayerNorm::new(
                    &predictions("transform.LayerNorm"),
                    width,
                    text.epsilon,
                    device,
                ),
                bias: one(
                    Kind::Bias,
                    &predictions("bias"),
                    &[config.text_config.vocab_size],
                ),
            }),
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

    /// Tokens of pictures of pixels `[batch, channels, side, side]`.
    pub fn image_embeds(&self, pixels: Tensor<4>) -> ImageEmbeds {
        let pictures = pixels.dims()[0];
        ImageEmbeds {
            tokens: self.vision.post_norm.forward(self.vision.forward(pixels)),
            pictures,
        }
    }

    /// Picture features of length 1, `[pictures, common]`.
    ///
    /// # Panics
    /// On a captioner, which has no encoder.
    pub fn image_features(&self, images: &ImageEmbeds) -> Tensor<2> {
        let tokens = images.tokens_per_picture() as u32;
        let class: Vec<u32> = (0..images.pictures as u32).map(|i| i * tokens).collect();
        ops::normalise(
            self.encoder_heads()
                .vision_proj
                .forward(ops::select_rows(images.tokens(), &class)),
        )
    }

    /// Text features of length 1, `[rows, common]`, of rows `[CLS] ... [SEP]`.
    ///
    /// # Panics
    /// On a captioner, or a text longer than the positions.
    pub fn text_features(&self, texts: &TokenBatch) -> Tensor<2> {
        let hidden = self.hidden(texts, Use::Encoder, None);
        ops::normalise(
            self.encoder_heads()
                .text_proj
                .forward(self.first_tokens(hidden, texts)),
        )
    }

    /// Temperature of the image-text contrast, `[1]`, as it is: training clamps it.
    ///
    /// # Panics
    /// On a captioner.
    pub fn temperature(&self) -> Tensor<1> {
        self.encoder_heads().temperature.tensor()
    }

    /// Keys and values of the pictures for [`Med::itm_logits`], [`Med::lm_loss`] and decoding.
    pub fn memory(&self, images: &ImageEmbeds) -> Memory {
        Memory {
            layers: self
                .layers
                .iter()
                .map(|layer| layer.picture_keys(images.tokens()))
                .collect(),
            pictures: images.pictures,
            tokens: images.tokens_per_picture(),
        }
    }

    /// Whether text and picture match, `[rows, 2]`, class 1 a match.
    ///
    /// [ENC] takes the place of the first token. `pictures[row]` is the picture in
    /// `memory` that a row looks at.
    ///
    /// # Panics
    /// On a captioner, or when `pictures` has not one entry a row.
    pub fn itm_logits(&self, memory: &Memory, texts: &TokenBatch, pictures: &[usize]) -> Tensor<2> {
        self.itm_logits_as_is(
            memory,
            &texts.with_first(self.config.text_config.enc_id()),
            pictures,
        )
    }

    /// [`Med::itm_logits`] with the first token as it is.
    ///
    /// # Panics
    /// As [`Med::itm_logits`].
    pub fn itm_logits_as_is(
        &self,
        memory: &Memory,
        texts: &TokenBatch,
        pictures: &[usize],
    ) -> Tensor<2> {
        let hidden = self.hidden(texts, Use::Encoder, Some((memory, pictures)));
        self.encoder_heads()
            .itm_head
            .forward(self.first_tokens(hidden, texts))
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

    /// Language-modelling loss of rows `[CLS] ... [SEP]` given their pictures: every
    /// token but the first is predicted from [DEC] and those before it.
    ///
    /// # Panics
    /// As [`Med::lm_logits`]; when no row has two tokens.
    pub fn lm_loss(
        &self,
        memory: &Memory,
        texts: &TokenBatch,
        pictures: &[usize],
        label_smoothing: f64,
    ) -> LmLoss {
        self.lm_loss_of(memory, texts, pictures, label_smoothing, &|_, _| true)
    }

    /// [`Med::lm_loss`] of the tokens for which `counts(row, position)` holds: a prompt
    /// is read but not learned.
    ///
    /// # Panics
    /// As [`Med::lm_logits`]; when no token counts.
    pub fn lm_loss_of(
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

    /// Sum over rows of the cross entropy of `logits` `[rows, classes]` against
    /// `classes`, `[1]`; the ITM loss of `itm_logits` is this over the number of rows.
    pub fn cross_entropy_sum(logits: Tensor<2>, classes: &[u32]) -> Tensor<1> {
        Self::smoothed_cross_entropy_sum(logits, classes, 0.0)
    }

    /// [`Med::cross_entropy_sum`] with this share of each target spread over all classes.
    pub fn smoothed_cross_entropy_sum(
        logits: Tensor<2>,
        classes: &[u32],
        smoothing: f64,
    ) -> Tensor<1> {
        ops::cross_entropy_sum(logits, &Targets { classes, smoothing })
    }

    fn vocabulary_logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        let head = self.lm_head.as_ref().expect("a filter has no decoder");
        let activation = self.config.text_config.hidden_act;
        let transformed = ops::activation(head.transform.forward(hidden), activation);
        ops::linear(
            head.norm.forward(transformed),
            &self.words,
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
        let longest = self.config.text_config.max_position_embeddings;
        assert!(
            len <= longest,
            "text of {len} tokens is longer than {longest}"
        );
        let at: Vec<u32> = (0..rows).flat_map(|_| 0..len as u32).collect();
        let mut x = self.embed(texts.ids(), &at);
        let own = Keys {
            lengths: texts.mask_lengths().map(<[u32]>::to_vec),
            causal: uses == Use::Decoder,
            ..Keys::all(rows, len)
        };
        let pictures = memory.map(|(memory, pictures)| memory.keys(pictures, rows, len));
        for (i, layer) in self.layers.iter().enumerate() {
            let look = memory
                .zip(pictures.as_ref())
                .map(|((memory, _), keys)| (&memory.layers[i], keys));
            x = layer.forward(x, uses, &own, look);
        }
        x
    }

    fn embed(&self, ids: &[u32], at: &[u32]) -> Tensor<2> {
        let width = self.config.text_config.hidden_size;
        self.norm
            .forward(ops::embed(ids, &self.words, &self.positions, at, width))
    }

    fn first_tokens(&self, hidden: Tensor<2>, texts: &TokenBatch) -> Tensor<2> {
        let len = texts.padded_len() as u32;
        let first: Vec<u32> = (0..texts.rows() as u32).map(|row| row * len).collect();
        ops::select_rows(hidden, &first)
    }

    fn encoder_heads(&self) -> &EncoderHeads {
        self.heads
            .as_ref()
            .expect("a captioner has no text encoder")
    }

    /// One step of decoding: the logits `[rows, vocabulary]` after `ids`, one a row,
    /// which stand at `position`; `cache` grows by them.
    pub(crate) fn decode_step(
        &self,
        ids: &[u32],
        position: usize,
        memory: &Memory,
        pictures: &[usize],
        cache: &mut Cache,
    ) -> Tensor<2> {
        let at = vec![position as u32; ids.len()];
        let mut x = self.embed(ids, &at);
        let keys = memory.keys(pictures, ids.len(), 1);
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.step(x, cache.layer(i), (&memory.layers[i], &keys));
        }
        self.vocabulary_logits(x)
    }

    /// An empty cache for decoding.
    pub(crate) fn cache(&self) -> Cache {
        Cache::new(self.layers.len())
    }
}

impl Memory {
    fn keys(&self, pictures: &[usize], rows: usize, q_len: usize) -> Keys {
        assert_eq!(pictures.len(), rows, "a picture for every row");
        assert!(
            pictures.iter().all(|picture| *picture < self.pictures),
            "pictures within the memory"
        );
        Keys {
            rows,
            q_len,
            k_len: self.tokens,
            lengths: None,
            causal: false,
            index: Some(pictures.iter().map(|picture| *picture as u32).collect()),
        }
    }
}

impl EncoderHeads {
    fn weights(&self) -> Vec<&Weight> {
        let mut weights = [
            self.vision_proj.weights(),
            self.text_proj.weights(),
            self.itm_head.weights(),
        ]
        .concat();
        weights.push(&self.temperature);
        weights
    }

    fn weights_mut(&mut self) -> Vec<&mut Weight> {
        let mut weights = self.vision_proj.weights_mut();
        weights.extend(self.text_proj.weights_mut());
        weights.extend(self.itm_head.weights_mut());
        weights.push(&mut self.temperature);
        weights
    }
}

impl LmHead {
    fn weights(&self) -> Vec<&Weight> {
        let mut weights = [self.transform.weights(), self.norm.weights()].concat();
        weights.push(&self.bias);
        weights
    }

    fn weights_mut(&mut self) -> Vec<&mut Weight> {
        let mut weights = self.transform.weights_mut();
        weights.extend(self.norm.weights_mut());
        weights.push(&mut self.bias);
        weights
    }
}

impl Model for Med {
    fn weights(&self) -> Vec<&Weight> {
        let mut weights = self.vision.weights();
        weights.extend([&self.words, &self.positions]);
        weights.extend(self.norm.weights());
        weights.extend(self.layers.iter().flat_map(TextLayer::weights));
        weights.extend(self.heads.iter().flat_map(EncoderHeads::weights));
        weights.extend(self.lm_head.iter().flat_map(LmHead::weights));
        weights
    }

    fn weights_mut(&mut self) -> Vec<&mut Weight> {
        let mut weights = self.vision.weights_mut();
        weights.extend([&mut self.words, &mut self.positions]);
        weights.extend(self.norm.weights_mut());
        weights.extend(self.layers.iter_mut().flat_map(TextLayer::weights_mut));
        weights.extend(self.heads.iter_mut().flat_map(EncoderHeads::weights_mut));
        weights.extend(self.lm_head.iter_mut().flat_map(LmHead::weights_mut));
        weights
    }

    fn device(&self) -> &Device {
        &self.device
    }
}

#[cfg(test)]
mod tests;
