//! CLIP (Radford et al. 2021) as Hugging Face's CLIPModel computes it.

use burn::tensor::{Device, Tensor};
use std::path::Path;

use crate::blocks::{Embeddings, LayerNorm, Linear, PreNormLayer, PreNormNames, Vit, VitNames};
use crate::config::ClipConfig;
use crate::device;
use crate::folder::{self, Assets};
use crate::network::{Embed, Generate, ImageEmbeds, Match, Network, Scale};
use crate::ops::{self, Keys, Rule};
use crate::params::{Kind, Model, Param, Part, params};
use crate::pretrained::Load;
use crate::tokens::TokenBatch;
use crate::towers::Towers;
use crate::weights::{self, Source, own_name};

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
    embeddings: Embeddings,
    layers: Vec<PreNormLayer>,
    final_norm: LayerNorm,
    visual_projection: Linear,
    text_projection: Linear,
    logit_scale: Param,
    device: Device,
}

params!(Clip {
    logit_scale,
    embeddings,
    layers,
    final_norm,
    vision,
    visual_projection,
    text_projection
});

impl Clip {
    /// A network of this configuration on `device`, all parameters zero: give them
    /// values by [`Model::initialise`] or [`Model::load_flat`].
    pub fn new(config: ClipConfig, device: &Device) -> Self {
        let text = config.text_config.tower();
        let width = text.width;
        let name = |end: &str| format!("text_model.embeddings.{end}.weight");
        Self {
            vision: Vit::new(&VISION, &config.vision_config, device),
            embeddings: Embeddings::new(
                (&name("token_embedding"), config.text_config.vocab_size),
                (
                    &name("position_embedding"),
                    config.text_config.max_position_embeddings,
                ),
                width,
                device,
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
            logit_scale: Param::zeros(
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
    pub fn load(path: &Path, load: &Load) -> Result<Self, folder::Error> {
        let config: ClipConfig = folder::read_config(path)?;
        let mut clip = Self::new(config, &load.device);
        let source = Source::open(path)?;
        let used = weights::read(&source, &mut clip, own_name, None, load.keep)?;
        source.finish(&used)?;
        Ok(clip)
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

    /// The factor on cosines, `[1]`: the exponential of the parameter, at most 100.
    pub fn logit_scale(&self) -> Tensor<1> {
        self.logit_scale.wide().exp().clamp_max(100.0)
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
        let at: Vec<u32> = (0..rows).flat_map(|_| 0..len as u32).collect();
        let mut x = self.embeddings.forward(texts.ids(), &at);
        let keys = Keys {
            rule: Rule::Causal { before: 0 },
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
    fn device(&self) -> &Device {
        &self.device
    }
}

impl Network for Clip {
    fn role(&self) -> &'static str {
        "clip"
    }

    fn image_size(&self) -> usize {
        self.config.vision_config.image_size
    }

    fn max_text_tokens(&self) -> usize {
        self.config.text_config.max_position_embeddings
    }

    fn towers(&self) -> Towers {
        Towers {
            family: "clip",
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

    /// Picture embeddings, not normalised, one token a picture.
    fn encode(&self, pixels: Tensor<4>) -> ImageEmbeds {
        let pictures = pixels.dims()[0];
        ImageEmbeds::new(self.encode_image(pixels), pictures)
    }

    fn embed(&self) -> Option<&dyn Embed> {
        Some(self)
    }

    fn matching(&self) -> Option<&dyn Match> {
        None
    }

    fn generator(&self) -> Option<&dyn Generate> {
        None
    }

    fn has_dropout(&self) -> bool {
        false
    }

    fn blank_encoders(&self) -> Option<Box<dyn Network>> {
        None
    }

    fn inference(&self) -> Box<dyn Network> {
        let mut network = self.clone();
        network.untrack();
        network.device = device::untracked(&self.device);
        Box::new(network)
    }

    fn save(&self, path: &Path, assets: &Assets<'_>) -> Result<(), folder::Error> {
        folder::write(path, &self.config, self, own_name, assets)
    }
}

impl Embed for Clip {
    fn image_features(&self, images: &ImageEmbeds) -> Tensor<2> {
        ops::normalise(images.tokens())
    }

    fn text_features(&self, texts: &TokenBatch) -> Tensor<2> {
        ops::normalise(self.encode_text(texts))
    }

    fn width(&self) -> usize {
        self.config.projection_dim
    }

    fn scale(&self) -> (&Param, Scale) {
        (&self.logit_scale, Scale::Logarithm)
    }
}
