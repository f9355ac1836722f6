//! The vision transformer (Dosovitskiy et al. 2021) and its layer, which norms what
//! goes into attention and feed-forward.

use burn::tensor::{Device, Tensor, TensorData};

use super::{LayerNorm, Linear, Mlp};
use crate::config::{Tower, VisionConfig};
use crate::ops::{self, Keys};
use crate::params::{Kind, Param, Part, params};
use crate::positions::{self, Resample};

/// Names under which a pre-norm layer is stored.
pub(crate) struct PreNormNames {
    /// The maps to query, key and value, in this order, with the share of the outputs of each.
    pub qkv: &'static [&'static str],
    /// The map after attention.
    pub out: &'static str,
}

/// A transformer layer that norms what goes into attention and feed-forward.
#[derive(Debug, Clone)]
pub(crate) struct PreNormLayer {
    norm1: LayerNorm,
    qkv: Linear,
    out: Linear,
    norm2: LayerNorm,
    mlp: Mlp,
    heads: usize,
}

params!(PreNormLayer {
    norm1,
    qkv,
    out,
    norm2,
    mlp
});

impl PreNormLayer {
    pub fn new(prefix: &str, names: &PreNormNames, tower: &Tower, device: &Device) -> Self {
        let width = tower.width;
        let share = 3 * width / names.qkv.len();
        let qkv: Vec<_> = names
            .qkv
            .iter()
            .map(|name| (format!("{prefix}.self_attn.{name}"), share))
            .collect();
        let norm =
            |name: &str| LayerNorm::new(&format!("{prefix}.{name}"), width, tower.epsilon, device);
        Self {
            norm1: norm("layer_norm1"),
            qkv: Linear::stacked(&qkv, width, true, device),
            out: Linear::new(
                &format!("{prefix}.self_attn.{}", names.out),
                width,
                width,
                true,
                device,
            ),
            norm2: norm("layer_norm2"),
            mlp: Mlp::new(
                &format!("{prefix}.mlp.fc1"),
                &format!("{prefix}.mlp.fc2"),
                tower,
                device,
            ),
            heads: tower.heads,
        }
    }

    pub fn forward(&self, x: Tensor<2>, keys: &Keys) -> Tensor<2> {
        let qkv = self.qkv.forward(self.norm1.forward(x.clone()));
        let attended = self
            .out
            .forward(ops::self_attention(qkv, self.heads, keys, None));
        let x = x + attended;
        let hidden = self.mlp.forward(self.norm2.forward(x.clone()));
        x + hidden
    }
}

/// How a family stores its vision transformer.
pub(crate) struct VitNames {
    pub layer: PreNormNames,
    /// Shape of the class token and of the positions before `[width]`.
    pub batched: bool,
    pub positions: &'static str,
    pub patch_bias: bool,
    pub pre_norm: Option<&'static str>,
}

/// Vision transformer up to the tokens of its last layer (before the last norm).
#[derive(Debug, Clone)]
pub(crate) struct Vit {
    patch: Linear,
    class: Param,
    positions: Param,
    pre_norm: Option<LayerNorm>,
    layers: Vec<PreNormLayer>,
    pub post_norm: LayerNorm,
    config: VisionConfig,
}

params!(Vit {
    patch,
    class,
    positions,
    pre_norm,
    layers,
    post_norm
});

impl Vit {
    pub fn new(names: &VitNames, config: &VisionConfig, device: &Device) -> Self {
        let tower = config.tower();
        let width = tower.width;
        let patch_shape = [
            width,
            config.num_channels,
            config.patch_size,
            config.patch_size,
        ];
        let lead: &[usize] = if names.batched { &[1, 1] } else { &[] };
        let lead_positions: &[usize] = if names.batched { &[1] } else { &[] };
        let embeddings = |end: &str| format!("vision_model.embeddings.{end}");
        let norm = |end: &str| {
            LayerNorm::new(&format!("vision_model.{end}"), width, tower.epsilon, device)
        };
        let one = |kind, name: String, shape: &[usize]| {
            Param::zeros(kind, vec![Part::new(name, shape)], device)
        };
        Self {
            patch: Linear {
                weight: one(
                    Kind::Convolution,
                    embeddings("patch_embedding.weight"),
                    &patch_shape,
                ),
                bias: names
                    .patch_bias
                    .then(|| one(Kind::Bias, embeddings("patch_embedding.bias"), &[width])),
            },
            class: one(
                Kind::ClassToken,
                embeddings("class_embedding"),
                &[lead, &[width]].concat(),
            ),
            positions: one(
                Kind::ImagePosition,
                embeddings(names.positions),
                &[lead_positions, &[config.tokens(), width]].concat(),
            ),
            pre_norm: names.pre_norm.map(norm),
            layers: (0..tower.layers)
                .map(|i| {
                    let prefix = format!("vision_model.encoder.layers.{i}");
                    PreNormLayer::new(&prefix, &names.layer, &tower, device)
                })
                .collect(),
            post_norm: norm("post_layernorm"),
            config: config.clone(),
        }
    }

    /// Tokens of the pictures `[batch, channels, height, width]`, as
    /// `[batch * tokens, width]`, before the last norm. For pictures of another size than the
    /// configuration's, the positions are interpolated ([`positions::Resample::Plain`]).
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<2> {
        let [batch, channels, height, width] = pixels.dims();
        let patch = self.config.patch_size;
        assert!(
            channels == self.config.num_channels
                && height.is_multiple_of(patch)
                && width.is_multiple_of(patch),
            "pictures of {} channels in whole patches of {patch} pixels, found {channels} x {height} x {width}",
            self.config.num_channels
        );
        let grid = [height / patch, width / patch];
        let projected = self.patch.forward(ops::patches(pixels, patch));
        let positions = self.positions_of(grid);
        let mut x = ops::picture_tokens(projected, &self.class, positions, batch);
        if let Some(norm) = &self.pre_norm {
            x = norm.forward(x);
        }
        let keys = Keys::all(batch, grid[0] * grid[1] + 1);
        for layer in &self.layers {
            x = layer.forward(x, &keys);
        }
        x
    }

    /// The positions of the class token and of a grid of patches, `[(1 + patches) * width]`.
    fn positions_of(&self, grid: [usize; 2]) -> Tensor<1> {
        let side = self.config.image_size / self.config.patch_size;
        if grid == [side, side] {
            return self.positions.tensor();
        }
        let [cells, from] = [grid[0] * grid[1], side * side];
        let table = self.positions.wide();
        let table = table.reshape([1 + from, self.config.hidden_size]);
        let matrix = positions::matrix([side, side], grid, Resample::Plain);
        let matrix =
            Tensor::<2>::from_data(TensorData::new(matrix, [cells, from]), &table.device());
        let class = table.clone().narrow(0, 0, 1);
        let patches = matrix.matmul(table.narrow(0, 1, from));
        Tensor::cat(vec![class, patches], 0).flatten(0, 1)
    }
}
