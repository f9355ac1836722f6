//! The sizes of a model that `train` draws.

use std::ops::Bound;

use serde::{Deserialize, Serialize};

use crate::check::Check;

/// Which family a model belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Two encoders, contrastive.
    Clip,
    /// Multimodal mixture of encoder and decoder.
    Blip,
}

/// The sizes of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// CLIP or BLIP.
    pub family: Family,
    /// Side of the picture that the model sees, in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Width of both towers.
    pub width: usize,
    /// Attention heads of both towers.
    pub heads: usize,
    /// Layers of the ViT.
    pub vision_layers: usize,
    /// Layers of the text transformer.
    pub text_layers: usize,
    /// Width of the shared embedding space.
    pub projection: usize,
    /// Tokens of a text at most, special ones included.
    pub max_text_tokens: usize,
    /// Width of the text tower; that of the ViT where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_width: Option<usize>,
    /// Attention heads of the text tower; those of the ViT where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_heads: Option<usize>,
    /// Width of the feed-forward layers of the ViT, as a multiple of its width.
    #[serde(default = "mlp_ratio", skip_serializing_if = "is_mlp_ratio")]
    pub mlp_ratio: f64,
    /// The same for the text tower; that of the ViT where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_mlp_ratio: Option<f64>,
    /// Activation of the feed-forward layers: `gelu`, or `quick_gelu` as OpenAI's CLIP.
    #[serde(default, skip_serializing_if = "Activation::is_gelu")]
    pub activation: Activation,
    /// Added to the variance by the layer norms of the ViT; 1e-5 where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm_epsilon: Option<f64>,
}

/// Activation of the feed-forward layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x * Phi(x)`, exact.
    #[default]
    Gelu,
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
}

impl Activation {
    fn is_gelu(&self) -> bool {
        *self == Self::Gelu
    }
}

impl Architecture {
    /// States the rules of the sizes and how they fit together.
    pub(super) fn check(&self, check: &mut Check) {
        check.any("family", "both families are meant");
        check.integer("image_size", self.image_size, 1..=4_096);
        check.integer("patch_size", self.patch_size, 1..=4_096);
        let divides = self.patch_size > 0 && self.image_size.is_multiple_of(self.patch_size);
        let text = format!("a multiple of `patch_size` {}", self.patch_size);
        check.rule("image_size", self.image_size, divides, &text);
        check.integer("width", self.width, 1..=65_536);
        check.integer("heads", self.heads, 1..=1_024);
        let divides = self.heads > 0 && self.width.is_multiple_of(self.heads);
        let text = format!("a multiple of `heads` {}", self.heads);
        check.rule("width", self.width, divides, &text);
        check.integer("vision_layers", self.vision_layers, 1..=1_000);
        check.integer("text_layers", self.text_layers, 1..=1_000);
        check.integer("projection", self.projection, 1..=65_536);
        check.integer("max_text_tokens", self.max_text_tokens, 3..=65_536);
        let (width, heads) = (self.text_width(), self.text_heads());
        if let Some(width) = self.text_width {
            check.integer("text_width", width, 1..=65_536);
        }
        if let Some(heads) = self.text_heads {
            check.integer("text_heads", heads, 1..=1_024);
        }
        let divides = heads > 0 && width.is_multiple_of(heads);
        let key = match self.text_width {
            Some(_) => "text_width",
            None => "text_heads",
        };
        if self.text_width.is_some() || self.text_heads.is_some() {
            let shown = format!("width {width}, {heads} heads");
            check.rule(key, shown, divides, "a width that the heads divide");
        }
        let ratio = (Bound::Excluded(0.0), Bound::Included(64.0));
        check.number("mlp_ratio", self.mlp_ratio, ratio);
        if let Some(value) = self.text_mlp_ratio {
            check.number("text_mlp_ratio", value, ratio);
        }
        check.any("activation", "both are meant");
        if let Some(value) = self.norm_epsilon {
            check.number(
                "norm_epsilon",
                value,
                (Bound::Excluded(0.0), Bound::Included(1.0)),
            );
        }
    }

    /// Width of the text tower.
    pub fn text_width(&self) -> usize {
        self.text_width.unwrap_or(self.width)
    }

    /// Attention heads of the text tower.
    pub fn text_heads(&self) -> usize {
        self.text_heads.unwrap_or(self.heads)
    }

    /// Width of the feed-forward layers of the ViT and of the text tower.
    pub fn mlp_widths(&self) -> [usize; 2] {
        let text = self.text_mlp_ratio.unwrap_or(self.mlp_ratio);
        [(self.width, self.mlp_ratio), (self.text_width(), text)]
            .map(|(width, ratio)| (width as f64 * ratio).round() as usize)
    }
}

fn mlp_ratio() -> f64 {
    4.0
}

fn is_mlp_ratio(ratio: &f64) -> bool {
    *ratio == mlp_ratio()
}
