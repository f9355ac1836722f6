//! A layer of the text transformer: BERT's, with cross-attention to pictures and a
//! self-attention each for encoder and decoder.

use burn::tensor::{Device, Tensor};

use super::MedParts;
use crate::blocks::{CrossAttention, LayerCache, LayerNorm, Mlp, SelfAttention, dropped};
use crate::config::Tower;
use crate::dropout::{LayerDropout, Site};
use crate::ops::Keys;
use crate::params::params;

/// What the text transformer is used as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Encoder,
    Decoder,
}

/// One layer.
#[derive(Debug, Clone)]
pub(super) struct TextLayer {
    encoder: Option<SelfAttention>,
    decoder: Option<SelfAttention>,
    cross: CrossAttention,
    mlp: Mlp,
    norm: LayerNorm,
}

params!(TextLayer {
    encoder,
    decoder,
    cross,
    mlp,
    norm
});

/// Keys and values of pictures, and which of them each row sees.
pub(super) type Look<'a> = (&'a Tensor<2>, &'a Keys);

impl TextLayer {
    pub fn new(
        index: usize,
        tower: &Tower,
        picture_width: usize,
        parts: MedParts,
        device: &Device,
    ) -> Self {
        let prefix = format!("text_encoder.encoder.layer.{index}");
        let attention = format!("{prefix}.attention");
        let decoder = format!("text_decoder.bert.encoder.layer.{index}.attention");
        let cross = format!("{prefix}.crossattention");
        Self {
            encoder: parts
                .encodes()
                .then(|| SelfAttention::new(&attention, tower, device)),
            decoder: parts
                .decodes()
                .then(|| SelfAttention::new(&decoder, tower, device)),
            cross: CrossAttention::new(&cross, tower, picture_width, device),
            mlp: Mlp::new(
                &format!("{prefix}.intermediate.dense"),
                &format!("{prefix}.output.dense"),
                tower,
                device,
            ),
            norm: LayerNorm::new(
                &format!("{prefix}.output.LayerNorm"),
                tower.width,
                tower.epsilon,
                device,
            ),
        }
    }

    /// Keys and values of pictures, `[pictures * tokens, 2 * width]`.
    pub fn picture_keys(&self, tokens: Tensor<2>) -> Tensor<2> {
        self.cross.keys_and_values(tokens)
    }

    /// `x` through the layer; with `look`, through cross-attention as well.
    pub fn forward(
        &self,
        x: Tensor<2>,
        uses: Use,
        own: &Keys,
        look: Option<Look<'_>>,
        dropout: Option<LayerDropout<'_>>,
    ) -> Tensor<2> {
        let x = self.attention(uses).forward(x, own, dropout);
        self.rest(x, look, dropout)
    }

    /// New tokens through the decoder, whose earlier tokens lie in `cache`.
    pub fn forward_cached(
        &self,
        x: Tensor<2>,
        cache: &mut LayerCache,
        own: &Keys,
        look: Look<'_>,
    ) -> Tensor<2> {
        let attention = self.attention(Use::Decoder);
        self.rest(attention.forward_cached(x, cache, own), Some(look), None)
    }

    fn rest(
        &self,
        mut x: Tensor<2>,
        look: Option<Look<'_>>,
        dropout: Option<LayerDropout<'_>>,
    ) -> Tensor<2> {
        if let Some((kv, keys)) = look {
            x = self.cross.forward(x, kv.clone(), keys, dropout);
        }
        let hidden = dropped(self.mlp.forward(x.clone()), dropout, Site::MlpOutput);
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Activation;
    use crate::device::DeviceSpec;
    use crate::params::Params;
    use crate::tokens::TokenBatch;

    #[test]
    fn a_layer_drops_of_the_output_of_its_mlp() {
        let device = DeviceSpec::Cpu.open().unwrap();
        let tower = Tower {
            width: 8,
            heads: 2,
            layers: 1,
            hidden: 16,
            epsilon: 1e-12,
            activation: Activation::Gelu,
        };
        let mut layer = TextLayer::new(0, &tower, 8, MedParts::Filter, &device);
        let mut params = Vec::new();
        layer.collect_mut(&mut params);
        for param in params {
            param.edit(|values| {
                let waves = values.iter_mut().enumerate();
                waves.for_each(|(at, value)| *value = (at as f32 * 0.7).sin());
            });
        }
        let texts = TokenBatch::new(&[[1u32; 3]], 0).with_dropout(0.4, vec![9]);
        let dropout = texts.dropout(0).unwrap();
        let x = Tensor::<2>::ones([3, 8], &device);
        let hidden = dropout.values(layer.mlp.forward(x.clone()), Site::MlpOutput);
        let want = layer.norm.of_sum(x.clone(), hidden);
        let far: f32 = (layer.rest(x, None, Some(dropout)) - want)
            .abs()
            .max()
            .into_scalar();
        assert!(far < 1e-6, "{far}");
    }
}
