//! A layer of the text transformer: BERT's, with cross-attention to pictures and a
//! self-attention each for encoder and decoder.

use burn::tensor::{Device, Tensor};

use super::MedParts;
use crate::config::Tower;
use crate::layers::{LayerNorm, Linear, Mlp};
use crate::ops::{self, Keys};
use crate::weights::Weight;

/// What the text transformer is used as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Encoder,
    Decoder,
}

/// Self-attention with its output map and norm.
#[derive(Debug, Clone)]
pub(super) struct SelfAttention {
    qkv: Linear,
    out: Linear,
    norm: LayerNorm,
}

impl SelfAttention {
    fn new(prefix: &str, tower: &Tower, device: &Device) -> Self {
        let width = tower.width;
        let qkv = ["query", "key", "value"].map(|name| (format!("{prefix}.self.{name}"), width));
        Self {
            qkv: Linear::stacked(&qkv, width, true, device),
            out: Linear::new(
                &format!("{prefix}.output.dense"),
                width,
                width,
                true,
                device,
            ),
            norm: LayerNorm::new(
                &format!("{prefix}.output.LayerNorm"),
                width,
                tower.epsilon,
                device,
            ),
        }
    }

    fn weights(&self) -> Vec<&Weight> {
        [self.qkv.weights(), self.out.weights(), self.norm.weights()].concat()
    }

    fn weights_mut(&mut self) -> Vec<&mut Weight> {
        let mut weights = self.qkv.weights_mut();
        weights.extend(self.out.weights_mut());
        weights.extend(self.norm.weights_mut());
        weights
    }
}

/// Cross-attention with its output map and norm.
#[derive(Debug, Clone)]
struct CrossAttention {
    query: Linear,
    kv: Linear,
    out: Linear,
    norm: LayerNorm,
}

/// One layer.
#[derive(Debug, Clone)]
pub(super) struct TextLayer {
    encoder: Option<SelfAttention>,
    decoder: Option<SelfAttention>,
    cross: CrossAttention,
    mlp: Mlp,
    norm: LayerNorm,
    heads: usize,
}

impl TextLayer {
    pub fn new(
        index: usize,
        tower: &Tower,
        picture_width: usize,
        parts: MedParts,
        device: &Device,
    ) -> Self {
        let width = tower.width;
        let prefix = format!("text_encoder.encoder.layer.{index}");
        let decoder_prefix = format!("text_decoder.bert.encoder.layer.{index}.attention");
        let cross = format!("{prefix}.crossattention");
        let kv = ["key", "value"].map(|name| (format!("{cross}.self.{name}"), width));
        let norm = |name: &str| LayerNorm::new(name, width, tower.epsilon, device);
        Self {
            encoder: parts
                .encodes()
                .then(|| SelfAttention::new(&format!("{prefix}.attention"), tower, device)),
            decoder: parts
                .decodes()
                .then(|| SelfAttention::new(&decoder_prefix, tower, device)),
            cross: CrossAttention {
                query: Linear::new(&format!("{cross}.self.query"), width, width, true, device),
                kv: Linear::stacked(&kv, picture_width, true, device),
                out: Linear::new(&format!("{cross}.output.dense"), width, width, true, device),
                norm: norm(&format!("{cross}.output.LayerNorm")),
            },
            mlp: Mlp::new(
                &format!("{prefix}.intermediate.dense"),
                &format!("{prefix}.output.dense"),
                tower,
                device,
            ),
            norm: norm(&format!("{prefix}.output.LayerNorm")),
            heads: tower.heads,
        }
    }

    /// Keys and values of pictures, `[pictures * tokens, 2 * width]`.
    pub fn picture_keys(&self, tokens: Tensor<2>) -> Tensor<2> {
        self.cross.kv.forward(tokens)
    }

    /// `x` through the layer; with `look`, through cross-attention as well.
    pub fn forward(
        &self,
        x: Tensor<2>,
        uses: Use,
        own: &Keys,
        look: Option<(&Tensor<2>, &Keys)>,
    ) -> Tensor<2> {
        let attention = self.attention(uses);
        let qkv = attention.qkv.forward(x.clone());
        let attended = attention
            .out
            .forward(ops::self_attention(qkv, self.heads, own));
        self.rest(attention.norm.of_sum(x, attended), look)
    }

    /// One token a row through the decoder, whose earlier tokens lie in `cache`.
    pub fn step(
        &self,
        x: Tensor<2>,
        cache: &mut LayerCache,
        look: (&Tensor<2>, &Keys),
    ) -> Tensor<2> {
        let attention = self.attention(Use::Decoder);
        let [rows, width] = x.dims();
        let qkv = attention.qkv.forward(x.clone());
        let query = qkv.clone().narrow(1, 0, width);
        let (kv, len) = cache.push(qkv.narrow(1, width, 2 * width));
        let keys = Keys {
            q_len: 1,
            ..Keys::all(rows, len)
        };
        let attended = attention
            .out
            .forward(ops::cross_attention(query, kv, self.heads, &keys));
        self.rest(attention.norm.of_sum(x, attended), Some(look))
    }

    fn rest(&self, mut x: Tensor<2>, look: Option<(&Tensor<2>, &Keys)>) -> Tensor<2> {
        if let Some((kv, keys)) = look {
            let query = self.cross.query.forward(x.clone());
            let attended = ops::cross_attention(query, kv.clone(), self.heads, keys);
            x = self.cross.norm.of_sum(x, self.cross.out.forward(attended));
        }
        let hidden = self.mlp.forward(x.clone());
        self.norm.of_sum(x, hidden)
    }

    fn attention(&self, uses: Use) -> &SelfAttention {
        match uses {
            Use::Encoder => self
                .encoder
                .as_ref()
                .expect("a captioner has no text encoder"),
            Use::Decoder => self.decoder.as_ref().expect("a filter has no decoder"),
        }
    }

    pub fn weights(&self) -> Vec<&Weight> {
        let mut weights: Vec<&Weight> = [&self.encoder, &self.decoder]
            .into_iter()
            .flatten()
            .flat_map(SelfAttention::weights)
            .collect();
        for linear in [&self.cross.query, &self.cross.kv, &self.cross.out] {
            weights.extend(linear.weights());
        }
        weights.extend(self.cross.norm.weights());
        weights.extend(self.mlp.weights());
        weights.extend(self.norm.weights());
        weights
    }

    pub fn weights_mut(&mut self) -> Vec<&mut Weight> {
        let mut weights: Vec<&mut Weight> = [&mut self.encoder, &mut self.decoder]
            .into_iter()
            .flatten()
            .flat_map(SelfAttention::weights_mut)
            .collect();
        for linear in [
            &mut self.cross.query,
            &mut self.cross.kv,
            &mut self.cross.out,
        ] {
            weights.extend(linear.weights_mut());
        }
        weights.extend(self.cross.norm.weights_mut());
        weights.extend(self.mlp.weights_mut());
        weights.extend(self.norm.weights_mut());
        weights
    }
}

/// Keys and values of the tokens decoded so far, for every layer.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    layers: Vec<LayerCache>,
}

/// The same for one layer: `[rows, len, 2 * width]`, `None` before the first token.
#[derive(Debug, Clone, Default)]
pub(crate) struct LayerCache {
    kv: Option<Tensor<3>>,
}

impl Cache {
    pub(super) fn new(layers: usize) -> Self {
        Self {
            layers: vec![LayerCache::default(); layers],
        }
    }

    pub(super) fn layer(&mut self, index: usize) -> &mut LayerCache {
        &mut self.layers[index]
    }

    /// Keeps these rows, in this order: beams that go on.
    pub(crate) fn select(&mut self, rows: &[u32]) {
        for layer in &mut self.layers {
            layer.kv = layer.kv.take().map(|kv| {
                let [old, len, width] = kv.dims();
                let picked = ops::select_rows(kv.reshape([old, len * width]), rows);
                picked.reshape([rows.len(), len, width])
            });
        }
    }
}

impl LayerCache {
    /// Adds one token a row, `[rows, 2 * width]`, and gives all as `[rows * len, 2 * width]`.
    fn push(&mut self, kv: Tensor<2>) -> (Tensor<2>, usize) {
        let [rows, width] = kv.dims();
        let token = kv.reshape([rows, 1, width]);
        let all = match self.kv.take() {
            Some(old) => Tensor::cat(vec![old, token], 1),
            None => token,
        };
        let len = all.dims()[1];
        self.kv = Some(all.clone());
        (all.reshape([rows * len, width]), len)
    }
}
