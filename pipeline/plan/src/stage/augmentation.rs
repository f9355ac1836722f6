//! How pictures are varied in training.

use serde::{Deserialize, Serialize};

use crate::check::Check;

/// Random variation of each picture, drawn again in every data epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    /// Share of the picture's area that a random crop keeps, at least and at most, before it is
    /// resized; left out, the picture is prepared as for inference. BLIP pre-trains with
    /// `[0.2, 1.0]` and fine-tunes with `[0.5, 1.0]`; open_clip trains with `[0.9, 1.0]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop_scale: Option<[f64; 2]>,
    /// Width over height of the crop, at least and at most.
    #[serde(default = "crop_ratio")]
    pub crop_ratio: [f64; 2],
    /// Whether half of the pictures are mirrored, as BLIP does.
    #[serde(default)]
    pub flip: bool,
    /// Random operations on colours and geometry after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub randaugment: Option<RandAugment>,
}

/// BLIP's RandAugment: operations drawn from identity, contrast stretched to the full range,
/// brightness, sharpness, equalized histogram, shear and translation along each axis, and rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandAugment {
    /// Operations drawn for a picture; each is applied with probability one half. BLIP has 2.
    pub operations: u32,
    /// Strength of the operations, of 10. BLIP has 5.
    pub magnitude: u32,
}

impl Augmentation {
    /// States the rules of the settings.
    pub(super) fn check(&self, check: &mut Check) {
        let ascending = |[least, most]: [f64; 2]| least > 0.0 && least <= most;
        let scale = self.crop_scale.unwrap_or([1.0; 2]);
        check.rule(
            "crop_scale",
            format!("{scale:?}"),
            ascending(scale) && scale[1] <= 1.0,
            "two ascending numbers over 0 and at most 1",
        );
        check.rule(
            "crop_ratio",
            format!("{:?}", self.crop_ratio),
            ascending(self.crop_ratio) && self.crop_ratio[1] <= 100.0,
            "two ascending numbers over 0 and at most 100",
        );
        check.any("flip", "both are meant");
        check.table("randaugment", |check| {
            let RandAugment {
                operations,
                magnitude,
            } = self.randaugment.unwrap_or(RandAugment {
                operations: 2,
                magnitude: 5,
            });
            check.integer("operations", operations, 1..=16);
            check.integer("magnitude", magnitude, 0..=10);
        });
    }
}

fn crop_ratio() -> [f64; 2] {
    [3.0 / 4.0, 4.0 / 3.0]
}
