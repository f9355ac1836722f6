//! The parts of a BERT layer (Devlin et al. 2019), which norms what comes out of them.

use burn::tensor::{Device, Tensor};

use super::{LayerCache, LayerNorm, Linear};
use crate::config::Tower;
use crate::dropout::{LayerDropout, Site};
use crate::ops::{self, Keys};
use crate::params::params;

/// Self-attention with its output map and norm.
#[derive(Debug, Clone)]
pub(crate) struct SelfAttention {
    qkv: Linear,
    out: Linear,
    norm: LayerNorm,
    heads: usize,
}

params!(SelfAttention { qkv, out, norm });

impl SelfAttention {
    pub fn new(prefix: &str, tower: &Tower, device: &Device) -> Self {
        let width = tower.width;
        let qkv = ["query", "key", "value"].map(|name| (format!("{prefix}.self.{name}"), width));
        let output = |end: &str| format!("{prefix}.output.{end}");
        Self {
            qkv: Linear::stacked(&qkv, width, true, device),
            out: Linear::new(&output("dense"), width, width, true, device),
            norm: LayerNorm::new(&output("LayerNorm"), width, tower.epsilon, device),
            heads: tower.heads,
        }
    }

    /// Each row over itself.
    pub fn forward(
        &self,
        x: Tensor<2>,
        keys: &Keys,
        dropout: Option<LayerDropout<'_>>,
    ) -> Tensor<2> {
        let qkv = self.qkv.forward(x.clone());
        let factors = dropout
            .map(|dropout| dropout.weights(self.heads, None, Site::SelfWeights, &x.device()));
        let attended = ops::self_attention(qkv, self.heads, keys, factors);
        let out = dropped(self.out.forward(attended), dropout, Site::SelfOutput);
        self.norm.of_sum(x, out)
    }

    /// New tokens of each row over themselves and the earlier ones in `cache`, which grows by them.
    pub fn forward_cached(&self, x: Tensor<2>, cache: &mut LayerCache, keys: &Keys) -> Tensor<2> {
        let width = x.dims()[1];
        let qkv = self.qkv.forward(x.clone());
        let query = qkv.clone().narrow(1, 0, width);
        let kv = cache.push(qkv.narrow(1, width, 2 * width), keys);
        let attended = ops::cross_attention(query, kv, self.heads, keys, None);
        self.norm.of_sum(x, self.out.forward(attended))
    }
}

/// `x` after the dropout of this layer, if the pass has dropout.
pub(crate) fn dropped(x: Tensor<2>, dropout: Option<LayerDropout<'_>>, site: Site) -> Tensor<2> {
    match dropout {
        Some(dropout) => dropout.values(x, site),
        None => x,
    }
}

/// Attention to something else, such as the tokens of a picture, with its output map and norm.
#[derive(Debug, Clone)]
pub(crate) struct CrossAttention {
    query: Linear,
    kv: Linear,
    out: Linear,
    norm: LayerNorm,
    heads: usize,
}

params!(CrossAttention {
    query,
    kv,
    out,
    norm
});

impl CrossAttention {
    /// - `other`: width of what is looked at.
    pub fn new(prefix: &str, tower: &Tower, other: usize, device: &Device) -> Self {
        let width = tower.width;
        let kv = ["key", "value"].map(|name| (format!("{prefix}.self.{name}"), width));
        let output = |end: &str| format!("{prefix}.output.{end}");
        Self {
            query: Linear::new(&format!("{prefix}.self.query"), width, width, true, device),
            kv: Linear::stacked(&kv, other, true, device),
            out: Linear::new(&output("dense"), width, width, true, device),
            norm: LayerNorm::new(&output("LayerNorm"), width, tower.epsilon, device),
            heads: tower.heads,
        }
    }

    /// Keys and values of what is looked at, `[rows, 2 * width]`.
    pub fn keys_and_values(&self, other: Tensor<2>) -> Tensor<2> {
        self.kv.forward(other)
    }

    /// `x` over `kv` of [`CrossAttention::keys_and_values`].
    pub fn forward(
        &self,
        x: Tensor<2>,
        kv: Tensor<2>,
        keys: &Keys,
        dropout: Option<LayerDropout<'_>>,
    ) -> Tensor<2> {
        let query = self.query.forward(x.clone());
        let k_len = Some(keys.k_len);
        let factors = dropout
            .map(|dropout| dropout.weights(self.heads, k_len, Site::CrossWeights, &x.device()));
        let attended = ops::cross_attention(query, kv, self.heads, keys, factors);
        let out = dropped(self.out.forward(attended), dropout, Site::CrossOutput);
        self.norm.of_sum(x, out)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;
    use crate::config::Activation;
    use crate::device::DeviceSpec;
    use crate::params::Params;
    use crate::tokens::TokenBatch;

    const WIDTH: usize = 8;

    fn tower() -> Tower {
        Tower {
            width: WIDTH,
            heads: 2,
            layers: 1,
            hidden: 16,
            epsilon: 1e-12,
            activation: Activation::Gelu,
        }
    }

    fn device() -> Device {
        DeviceSpec::Cpu.open().unwrap()
    }

    fn waves<const D: usize>(shape: [usize; D], phase: f32) -> Tensor<D> {
        let len = shape.iter().product::<usize>();
        let values = (0..len).map(|i| (i as f32 * 0.7 + phase).sin()).collect();
        Tensor::from_data(TensorData::new(values, shape), &device())
    }

    fn fill(block: &mut impl Params) {
        let mut params = Vec::new();
        block.collect_mut(&mut params);
        for (at, param) in params.into_iter().enumerate() {
            let values = waves([param.len()], at as f32).into_data();
            let values: Vec<f32> = values.try_to_vec().unwrap();
            param.edit(|own| own.copy_from_slice(&values));
        }
    }

    /// Attention of two heads over three or more keys, one row, without a mask.
    fn attention([query, key, value]: [Tensor<2>; 3], factors: Tensor<4>) -> Tensor<2> {
        let head = |x: &Tensor<2>, head: usize| x.clone().narrow(1, head * 4, 4);
        let one = |at: usize| {
            let scores = head(&query, at).matmul(head(&key, at).transpose()) / 2.0;
            let weights = burn::tensor::activation::softmax(scores, 1);
            let shape = weights.dims();
            let factors = factors.clone().narrow(1, at, 1).reshape(shape);
            (weights * factors).matmul(head(&value, at))
        };
        Tensor::cat(vec![one(0), one(1)], 1)
    }

    fn near(a: Tensor<2>, b: Tensor<2>) {
        let far: f32 = (a - b).abs().max().into_scalar();
        assert!(far < 1e-5, "{far}");
    }

    #[test]
    fn self_attention_drops_weights_and_output() {
        let mut block = SelfAttention::new("a", &tower(), &device());
        fill(&mut block);
        let texts = TokenBatch::new(&[[1u32; 3]], 0).with_dropout(0.4, vec![9]);
        let dropout = texts.dropout(0).unwrap();
        let x = waves([3, WIDTH], 0.3);
        let qkv = block.qkv.forward(x.clone());
        let third = |i: usize| qkv.clone().narrow(1, i * WIDTH, WIDTH);
        let factors = dropout.weights(2, None, Site::SelfWeights, &device());
        let attended = attention([third(0), third(1), third(2)], factors);
        let out = dropout.values(block.out.forward(attended), Site::SelfOutput);
        let want = block.norm.forward(x.clone() + out);
        near(block.forward(x, &Keys::all(1, 3), Some(dropout)), want);
    }

    #[test]
    fn cross_attention_drops_weights_and_output() {
        let mut block = CrossAttention::new("a", &tower(), WIDTH, &device());
        fill(&mut block);
        let texts = TokenBatch::new(&[[1u32; 3]], 0).with_dropout(0.4, vec![9]);
        let dropout = texts.dropout(0).unwrap();
        let (x, kv) = (waves([3, WIDTH], 0.3), waves([5, 2 * WIDTH], 0.8));
        let half = |i: usize| kv.clone().narrow(1, i * WIDTH, WIDTH);
        let factors = dropout.weights(2, Some(5), Site::CrossWeights, &device());
        let query = block.query.forward(x.clone());
        let attended = attention([query, half(0), half(1)], factors);
        let out = dropout.values(block.out.forward(attended), Site::CrossOutput);
        let want = block.norm.forward(x.clone() + out);
        let keys = Keys {
            k_len: 5,
            ..Keys::all(1, 3)
        };
        near(block.forward(x, kv, &keys, Some(dropout)), want);
    }
}
