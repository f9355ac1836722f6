//! CLIP (Radford et al. 2021) as Hugging Face's CLIPModel computes it.

use burn::tensor::{Device, Tensor};
use std::path::Path;

use crate::config::ClipConfig;
use crate::folder::{self, Assets};
use crate::init::Kind;
use crate::layers::{LayerNorm, Linear, PreNormLayer, PreNormNames, Vit, VitNames};
use crate::ops::{self, Keys};
use crate::tokens::TokenBatch;
use crate::weights::{Model, Part, Weight};

/// Largest logit scale that training may reach.
pub const MAX_LOGIT_SCALE: f64 = 100.0;

const LAYER: PreNormNames = PreNormNames {
    qkv: &["q_proj", "k_proj", "v_proj"],
    out: "out_proj",
};

const VISION: VitNames = VitNames {
    layer: LAYER,
    batched: false,
    positions: "position_embedding.weight",
    patch_bias: false,
    // Spelt so in every checkpoint.
    pre_norm: Some("pre_layrnorm"),
};

/// A vision transformer and a causal text transformer with a common space.
#[derive(Debug, Clone)]
pub struct Clip {
    config: ClipConfig,
    vision: Vit,
    words: Weight,
    positions: Weight,
    layers: Vec<PreNormLayer>,
    final_norm: LayerNorm,
    visual_projection: Linear,
    text_projection: Linear,
    logit_scale: Weight,
    device: Device,
}

impl Clip {
    /// A network of this configuration on `device`, all parameters zero: give them
    /// values by [`Model::initialise`] or [`Model::load_flat`].
    pub fn new(config: ClipConfig, device: &Device) -> Self {
        let text = config.text_config.tower();
        let width = text.width;
        let table = |kind, name: &str, rows| {
            let name = format!("text_model.embeddings.{name}.weight");
            Weight::zeros(kind, vec![Part::new(name, &[rows, width])], device)
        };
        Self {
            vision: Vit::new(&VISION, &config.vision_config, device),
            words: table(
                Kind::Embedding,
                "token_embedding",
                config.text_config.vocab_size,
            ),
            positions: table(
                Kind::TextPosition,
                "position_embedding",
                config.text_config.max_position_embeddings,
            ),
            layers: (0..text.layers)
                .map(|i| {
                    PreNormLayer::new(
                        &format!("text_model.encoder.layers.{i}"),
                        &LAYER,
                        &text,
                        device,
                    )
                })
                .collect(),
            final_norm: LayerNorm::new("text_model.final_layer_norm", width, text.epsilon, device),
            visual_projection: Linear::new(
                "visual_projection",
                config.vision_config.hidden_size,
                config.projection_dim,
                false,
                device,
            ),
            text_projection: Linear::new(
                "text_projection",
                width,
                config.projection_dim,
                false,
                device,
            ),
            logit_scale: Weight::zeros(
                Kind::LogitScale,
                vec![Part::new("logit_scale", &[])],
                device,
            ),
            config,
            device: device.clone(),
        }
    }

    /// Reads a CLIPModel folder.
    ///
    /// # Errors
    /// [`folder::Error`] names the file and the tensor.
    pub fn load(path: &Path, device: &Device) -> Result<Self, folder::Error> {
        let config: ClipConfig = folder::read_config(path)?;
        let mut clip = Self::new(config, device);
        folder::read_weights(path, &mut clip, folder::own_name)?;
        Ok(clip)
    }

    /// Writes a CLIPModel folder: configuration, weights, and what `assets` holds.
    /// The same model gives the same bytes.
    ///
    /// # Errors
    /// [`folder::Error::Write`].
    pub fn save(&self, path: &Path, assets: &Assets) -> Result<(), folder::Error> {
        folder::write(path, &self.config, self, folder::own_name, assets)
    }

    /// The configuration.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// Picture embeddings `[batch, projection]`, not normalised, of pixels
    /// `[batch, channels, side, side]`.
    pub fn encode_image(&self, pixels: Tensor<4>) -> Tensor<2> {
        let batch = pixels.dims()[0];
        self.project_image(self.vision.forward(pixels), batch)
    }

    /// Text embeddings `[rows, projection]`, not normalised.
    ///
    /// # Panics
    /// When a row is longer than the positions, or holds no end token where one is looked for.
    pub fn encode_text(&self, texts: &TokenBatch) -> Tensor<2> {
        self.project_text(self.text_hidden(texts), texts)
    }

    /// Picture embeddings of length 1.
    pub fn image_features(&self, pixels: Tensor<4>) -> Tensor<2> {
        ops::normalise(self.encode_image(pixels))
    }

    /// Text embeddings of length 1.
    pub fn text_features(&self, texts: &TokenBatch) -> Tensor<2> {
        ops::normalise(self.encode_text(texts))
    }

    /// The factor on cosines, `[1]`: the exponential of the parameter, at most
    /// [`MAX_LOGIT_SCALE`].
    pub fn logit_scale(&self) -> Tensor<1> {
        self.logit_scale.tensor().exp().clamp_max(MAX_LOGIT_SCALE)
    }

    /// Tokens of the last vision layer before the last norm, `[batch * tokens, width]`.
    pub fn image_hidden(&self, pixels: Tensor<4>) -> Tensor<2> {
        self.vision.forward(pixels)
    }

    /// Tokens of the text tower after the last norm, `[rows * padded_len, width]`.
    /// Padding is attended to as the reference does without a mask: the mask is
    /// causal and it stands behind the end token.
    pub fn text_hidden(&self, texts: &TokenBatch) -> Tensor<2> {
        let (rows, len) = (texts.rows(), texts.padded_len());
        assert!(
            len <= self.config.text_config.max_position_embeddings,
            "text of {len} tokens is too long"
        );
        let at: Vec<u32> = (0..rows).flat_map(|_| 0..len as u32).collect();
        let width = self.config.text_config.hidden_size;
        let mut x = ops::embed(texts.ids(), &self.words, &self.positions, &at, width);
        let keys = Keys {
            causal: true,
            ..Keys::all(rows, len)
        };
        for layer in &self.layers {
            x = layer.forward(x, &keys);
        }
        self.final_norm.forward(x)
    }

    fn project_image(&self, hidden: Tensor<2>, batch: usize) -> Tensor<2> {
        let tokens = (hidden.dims()[0] / batch) as u32;
        let class: Vec<u32> = (0..batch as u32).map(|i| i * tokens).collect();
        let pooled = self
            .vision
            .post_norm
            .forward(ops::select_rows(hidden, &class));
        self.visual_projection.forward(pooled)
    }

    fn project_text(&self, hidden: Tensor<2>, texts: &TokenBatch) -> Tensor<2> {
        let len = texts.padded_len() as u32;
        let ends: Vec<u32> = (0..texts.rows())
            .map(|row| row as u32 * len + self.pooled_position(texts.row(row)))
            .collect();
        self.text_projection
            .forward(ops::select_rows(hidden, &ends))
    }

    fn pooled_position(&self, ids: &[u32]) -> u32 {
        let eos = self.config.text_config.eos_token_id;
        let position = if eos == 2 {
            let largest = ids.iter().max();
            ids.iter().position(|id| Some(id) == largest)
        } else {
            ids.iter().position(|id| *id == eos)
        };
        position.expect("a text has an end token") as u32
    }
}

impl Model for Clip {
    fn weights(&self) -> Vec<&Weight> {
        let mut weights = vec![&self.logit_scale, &self.words, &self.positions];
        weights.extend(self.layers.iter().flat_map(PreNormLayer::weights));
        weights.extend(self.final_norm.weights());
        weights.extend(self.vision.weights());
        weights.extend(self.visual_projection.weights());
        weights.extend(self.text_projection.weights());
        weights
    }

    fn weights_mut(&mut self) -> Vec<&mut Weight> {
        let mut weights = vec![&mut self.logit_scale, &mut self.words, &mut self.positions];
        weights.extend(self.layers.iter_mut().flat_map(PreNormLayer::weights_mut));
        weights.extend(self.final_norm.weights_mut());
        weights.extend(self.vision.weights_mut());
        weights.extend(self.visual_projection.weights_mut());
        weights.extend(self.text_projection.weights_mut());
        weights
    }

    fn device(&self) -> &Device {
        &self.device
    }
}
