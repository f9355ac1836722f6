//! Layers that both families share. Activations are `[rows * tokens, width]`.

use burn::tensor::{Device, Tensor, TensorData};

use crate::config::{Tower, VisionConfig};
use crate::init::Kind;
use crate::ops::{self, Keys};
use crate::positions::{self, Resample};
use crate::weights::{Part, Weight};

/// `y = x W^T + b`, `W` as `[outputs, inputs]`.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    pub weight: Weight,
    pub bias: Option<Weight>,
}

impl Linear {
    /// One or several linear maps of the same input, stored under `names`, each
    /// with its number of outputs, computed as one.
    pub fn stacked(names: &[(String, usize)], inputs: usize, bias: bool, device: &Device) -> Self {
        let parts = |end: &str, matrix: bool| {
            let shape = |n: usize| if matrix { vec![n, inputs] } else { vec![n] };
            names
                .iter()
                .map(|(name, n)| Part::new(format!("{name}.{end}"), &shape(*n)))
                .collect()
        };
        Self {
            weight: Weight::zeros(
                Kind::Linear { fan_in: inputs },
                parts("weight", true),
                device,
            ),
            bias: bias.then(|| Weight::zeros(Kind::Bias, parts("bias", false), device)),
        }
    }

    pub fn new(name: &str, inputs: usize, outputs: usize, bias: bool, device: &Device) -> Self {
        Self::stacked(&[(name.to_owned(), outputs)], inputs, bias, device)
    }

    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        ops::linear(x, &self.weight, self.bias.as_ref())
    }

    pub fn weights(&self) -> Vec<&Weight> {
        [Some(&self.weight), self.bias.as_ref()]
            .into_iter()
            .flatten()
            .collect()
    }

    pub fn weights_mut(&mut self) -> Vec<&mut Weight> {
        [Some(&mut self.weight), self.bias.as_mut()]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// Layer norm over the last dimension.
#[derive(Debug, Clone)]
pub(crate) struct LayerNorm {
    pub gain: Weight,
    pub bias: Weight,
    pub epsilon: f64,
}

impl LayerNorm {
    pub fn new(name: &str, width: usize, epsilon: f64, device: &Device) -> Self {
        let part = |end: &str| vec![Part::new(format!("{name}.{end}"), &[width])];
        Self {
            gain: Weight::zeros(Kind::Gain, part("weight"), device),
            bias: Weight::zeros(Kind::Bias, part("bias"), device),
            epsilon,
        }
    }

    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        ops::layer_norm(x, &self.gain, &self.bias, self.epsilon)
    }

    /// The norm of `x + y`, as a post-norm layer needs it.
    pub fn of_sum(&self, x: Tensor<2>, y: Tensor<2>) -> Tensor<2> {
        ops::add_layer_norm(x, y, &self.gain, &self.bias, self.epsilon)
    }

    pub fn weights(&self) -> Vec<&Weight> {
        vec![&self.gain, &self.bias]
    }

    pub fn weights_mut(&mut self) -> Vec<&mut Weight> {
        vec![&mut self.gain, &mut self.bias]
    }
}

/// Two linear maps with an activation between them.
#[derive(Debug, Clone)]
pub(crate) struct Mlp {
    pub first: Linear,
    pub second: Linear,
    activation: crate::config::Activation,
}

impl Mlp {
    pub fn new(first: &str, second: &str, tower: &Tower, device: &Device) -> Self {
        Self {
            first: Linear::new(first, tower.width, tower.hidden, true, device),
            second: Linear::new(second, tower.hidden, tower.width, true, device),
            activation: tower.activation,
        }
    }

    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let hidden = self.first.forward(x);
        self.second
            .forward(ops::activation(hidden, self.activation))
    }

    pub fn weights(&self) -> Vec<&Weight> {
        [self.first.weights(), self.second.weights()].concat()
    }

    pub fn weights_mut(&mut self) -> Vec<&mut Weight> {
        let mut weights = self.first.weights_mut();
        weights.extend(self.second.weights_mut());
        weights
    }
}

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
        let attended = self.out.forward(ops::self_attention(qkv, self.heads, keys));
        let x = x + attended;
        let hidden = self.mlp.forward(self.norm2.forward(x.clone()));
        x + hidden
    }

    pub fn weights(&self) -> Vec<&Weight> {
        [
            self.norm1.weights(),
            self.qkv.weights(),
            self.out.weights(),
            self.norm2.weights(),
            self.mlp.weights(),
        ]
        .concat()
    }

    pub fn weights_mut(&mut self) -> Vec<&mut Weight> {
        let mut weights = self.norm1.weights_mut();
        weights.extend(self.qkv.weights_mut());
        weights.extend(self.out.weights_mut());
        weights.extend(self.norm2.weights_mut());
        weights.extend(self.mlp.weights_mut());
        weights
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
    class: Weight,
    positions: Weight,
    pre_norm: Option<LayerNorm>,
    layers: Vec<PreNormLayer>,
    pub post_norm: LayerNorm,
    config: VisionConfig,
}

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
            Weight::zeros(kind, vec![Part::new(name, shape)], device)
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
        let table = self.positions.matrix(self.config.hidden_size);
        let [cells, from] = [grid[0] * grid[1], side * side];
        let matrix = positions::matrix([side, side], grid, Resample::Plain);
        let matrix =
            Tensor::<2>::from_data(TensorData::new(matrix, [cells, from]), &table.device());
        let class = table.clone().narrow(0, 0, 1);
        let patches = matrix.matmul(table.narrow(0, 1, from));
        Tensor::cat(vec![class, patches], 0).flatten(0, 1)
    }

    pub fn weights(&self) -> Vec<&Weight> {
        let mut weights = self.patch.weights();
        weights.extend([&self.class, &self.positions]);
        weights.extend(self.pre_norm.iter().flat_map(LayerNorm::weights));
        weights.extend(self.layers.iter().flat_map(PreNormLayer::weights));
        weights.extend(self.post_norm.weights());
        weights
    }

    pub fn weights_mut(&mut self) -> Vec<&mut Weight> {
        let mut weights = self.patch.weights_mut();
        weights.extend([&mut self.class, &mut self.positions]);
        weights.extend(self.pre_norm.iter_mut().flat_map(LayerNorm::weights_mut));
        weights.extend(self.layers.iter_mut().flat_map(PreNormLayer::weights_mut));
        weights.extend(self.post_norm.weights_mut());
        weights
    }
}
