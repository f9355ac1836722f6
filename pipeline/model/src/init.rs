//! First values of parameters, drawn by key.
//!
//! Every draw is a function of (seed, stored name, index): no global generator,
//! so two ranks, two processes and two models of one shape begin alike.

use serde::{Deserialize, Serialize};

/// What a parameter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Matrix of a linear layer with `fan_in` inputs.
    Linear {
        /// Number of inputs of one output.
        fan_in: usize,
    },
    /// Patch projection of a vision transformer.
    Convolution,
    /// Word embeddings.
    Embedding,
    /// Positions of text tokens.
    TextPosition,
    /// Positions of picture tokens.
    ImagePosition,
    /// Class token of a vision transformer.
    ClassToken,
    /// Gain of a layer norm.
    Gain,
    /// Bias of anything.
    Bias,
    /// CLIP's logarithm of the inverse temperature.
    LogitScale,
    /// BLIP's temperature of the image-text contrast.
    Temperature,
}

impl Kind {
    /// Whether weight decay applies.
    pub fn decays(self) -> bool {
        matches!(self, Self::Linear { .. } | Self::Convolution)
    }
}

/// Standard deviations and constants of first values.
///
/// The defaults are those of the demo's prototype: at widths of 64 a linear gain
/// of 0.7 and strong picture positions make the difference between learning and
/// not learning in a thousand steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InitRecipe {
    /// Linear layers: standard deviation times the square root of `fan_in`.
    pub linear_gain: f64,
    /// Patch projection.
    pub convolution_std: f64,
    /// Word embeddings.
    pub embedding_std: f64,
    /// Positions of text tokens.
    pub text_position_std: f64,
    /// Positions of picture tokens.
    pub image_position_std: f64,
    /// Class token.
    pub class_token_std: f64,
    /// Temperature of the contrast (CLIP stores the logarithm of its inverse).
    pub temperature: f64,
}

impl Default for InitRecipe {
    fn default() -> Self {
        Self {
            linear_gain: 0.7,
            convolution_std: 0.03,
            embedding_std: 0.02,
            text_position_std: 0.02,
            image_position_std: 0.5,
            class_token_std: 0.1,
            temperature: 0.07,
        }
    }
}

impl InitRecipe {
    /// Adds `len` first values of the parameter stored as `name` to `to`.
    pub(crate) fn draw(&self, seed: u64, name: &str, kind: Kind, len: usize, to: &mut Vec<f32>) {
        let std = match kind {
            Kind::Linear { fan_in } => self.linear_gain / (fan_in as f64).sqrt(),
            Kind::Convolution => self.convolution_std,
            Kind::Embedding => self.embedding_std,
            Kind::TextPosition => self.text_position_std,
            Kind::ImagePosition => self.image_position_std,
            Kind::ClassToken => self.class_token_std,
            Kind::Gain => return to.resize(to.len() + len, 1.0),
            Kind::Bias => return to.resize(to.len() + len, 0.0),
            Kind::LogitScale => return to.resize(to.len() + len, (-self.temperature.ln()) as f32),
            Kind::Temperature => return to.resize(to.len() + len, self.temperature as f32),
        };
        to.extend(normals(seed, name, len).map(|z| (z * std) as f32));
    }
}

/// Standard normal draws (Box and Muller) from a keyed BLAKE3 stream.
fn normals(seed: u64, name: &str, len: usize) -> impl Iterator<Item = f64> {
    let mut hasher = blake3::Hasher::new_derive_key("capstan 2026 parameter initialisation");
    hasher.update(&seed.to_le_bytes());
    hasher.update(name.as_bytes());
    let mut stream = hasher.finalize_xof();
    let mut unit = move || {
        let mut bytes = [0u8; 8];
        stream.fill(&mut bytes);
        // In (0, 1): the logarithm below stays finite.
        ((u64::from_le_bytes(bytes) >> 11) as f64 + 0.5) * (1.0 / (1u64 << 53) as f64)
    };
    std::iter::repeat_with(move || {
        let radius = (-2.0 * unit().ln()).sqrt();
        let (sine, cosine) = (std::f64::consts::TAU * unit()).sin_cos();
        [radius * cosine, radius * sine]
    })
    .flatten()
    .take(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(recipe: &InitRecipe, seed: u64, name: &str, kind: Kind, len: usize) -> Vec<f32> {
        let mut values = Vec::new();
        recipe.draw(seed, name, kind, len, &mut values);
        values
    }

    #[test]
    fn draws_depend_on_seed_and_name_alone() {
        let recipe = InitRecipe::default();
        let kind = Kind::Linear { fan_in: 64 };
        let a = values(&recipe, 1, "a", kind, 1000);
        assert_eq!(a, values(&recipe, 1, "a", kind, 1000));
        assert_eq!(a[..10], values(&recipe, 1, "a", kind, 10)[..]);
        assert_ne!(a, values(&recipe, 2, "a", kind, 1000));
        assert_ne!(a, values(&recipe, 1, "b", kind, 1000));
    }

    #[test]
    fn draws_are_normal_with_the_stated_deviation() {
        let values = values(
            &InitRecipe::default(),
            3,
            "w",
            Kind::Linear { fan_in: 49 },
            40_000,
        );
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / 4e4;
        let second = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / 4e4;
        let fourth = values.iter().map(|v| f64::from(*v).powi(4)).sum::<f64>() / 4e4;
        assert!(mean.abs() < 0.002, "mean {mean}");
        assert!(
            (second.sqrt() - 0.1).abs() < 0.002,
            "deviation {}",
            second.sqrt()
        );
        assert!((fourth / second.powi(2) - 3.0).abs() < 0.1, "kurtosis");
    }
}
