//! How pictures are stored by the stages that write base files.

use serde::{Deserialize, Serialize};

use crate::check::Check;

/// How pictures are stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storing {
    /// Longest side of a stored picture in pixels; larger ones are shrunk.
    pub max_side_px: u32,
    /// Shortest side that a picture may have as downloaded.
    pub min_side_px: u32,
    /// Most pixels that a header may claim.
    pub max_pixels: u64,
    /// JPEG quality, 1 to 100.
    pub jpeg_quality: u8,
    /// Rows in a base file at most.
    pub rows_per_file: usize,
    /// Bytes of a base file with its pictures at most, 268435456 where left out; a larger picture
    /// has a file of its own.
    #[serde(skip_serializing_if = "Storing::is_default_bytes_per_file")]
    pub bytes_per_file: u64,
}

impl Default for Storing {
    fn default() -> Self {
        Self {
            max_side_px: 384,
            min_side_px: 32,
            max_pixels: 89_478_484,
            jpeg_quality: 95,
            rows_per_file: 4096,
            bytes_per_file: Self::BYTES_PER_FILE,
        }
    }
}

impl Storing {
    /// Default of [`Storing::bytes_per_file`].
    const BYTES_PER_FILE: u64 = 256 << 20;

    /// Keeps the default out of recipes, which hold the settings as JSON.
    fn is_default_bytes_per_file(bytes: &u64) -> bool {
        *bytes == Self::BYTES_PER_FILE
    }

    /// States the rules of the settings.
    pub(super) fn check(&self, check: &mut Check) {
        check.integer("max_side_px", self.max_side_px, 1..=65_535);
        check.integer("min_side_px", self.min_side_px, 0..=65_535);
        check.integer("max_pixels", self.max_pixels, 1..=4_294_836_225);
        check.integer("jpeg_quality", self.jpeg_quality, 1..=100);
        check.integer("rows_per_file", self.rows_per_file, 1..=16_777_216);
        check.integer("bytes_per_file", self.bytes_per_file, 1 << 20..=4 << 30);
    }
}
