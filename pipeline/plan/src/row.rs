//! Rows as plain structs: what stages exchange in memory and `dataset` writes as Parquet.

use serde::{Deserialize, Serialize};

use crate::id::{ModelDigest, PairId, TextId};
use crate::reject::RejectCode;

/// Where a text came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The `alt` of an image.
    Alt,
    /// The `title` of an image.
    Title,
    /// A figure's caption.
    Caption,
    /// Written by a captioner.
    Synthetic,
    /// Written by an annotator; kept without a verdict.
    Human,
}

impl Origin {
    /// The origin as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alt => "alt",
            Self::Title => "title",
            Self::Caption => "caption",
            Self::Synthetic => "synthetic",
            Self::Human => "human",
        }
    }

    /// Reads an origin as it is written.
    pub fn parse(text: &str) -> Option<Self> {
        [
            Self::Alt,
            Self::Title,
            Self::Caption,
            Self::Synthetic,
            Self::Human,
        ]
        .into_iter()
        .find(|origin| origin.as_str() == text)
    }

    /// Whether the text was found on the web.
    pub fn is_web(self) -> bool {
        matches!(self, Self::Alt | Self::Title | Self::Caption)
    }
}

/// One text of a picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    /// blake3(pair id, origin, text).
    pub text_id: TextId,
    /// The text itself.
    pub text: String,
    /// Where it came from.
    pub origin: Origin,
}

impl Text {
    /// A text of `pair` with its id.
    pub fn new(pair: &PairId, origin: Origin, text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            text_id: TextId::new(pair, origin, &text),
            text,
            origin,
        }
    }
}

/// A row of a base file: one picture as found on one page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// blake3(canonical image URL or archive key, page URL).
    pub pair_id: PairId,
    /// Encoded bytes of the picture as stored (resized, re-encoded).
    pub image: Vec<u8>,
    /// Width of the stored picture in pixels.
    pub width: u32,
    /// Height of the stored picture in pixels.
    pub height: u32,
    /// Width as downloaded.
    pub original_width: u32,
    /// Height as downloaded.
    pub original_height: u32,
    /// SHA-256 of the bytes as downloaded.
    pub sha256: [u8; 32],
    /// Perceptual hash, 64 bits.
    pub phash: u64,
    /// Canonical URL of the picture; for imports a `file:` like key.
    pub image_url: String,
    /// URL of the page it was found on.
    pub page_url: String,
    /// Key within an archive, where there is one.
    pub archive_ref: Option<String>,
    /// Milliseconds since 1970. A time: left out of every comparison and digest of rows.
    pub fetched_at_ms: i64,
    /// Opt-out signals seen, as `name=value`, that the policy did not take for a refusal.
    pub opt_out: Vec<String>,
    /// Version of the policy by which the signals were read.
    pub policy_version: u32,
    /// Licence where stated.
    pub licence: Option<String>,
    /// Attribution where stated.
    pub attribution: Option<String>,
    /// Texts found with the picture.
    pub texts: Vec<Text>,
}

/// A row of a curation overlay, aligned with its base file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Curation {
    /// The row it speaks of.
    pub pair_id: PairId,
    /// Whether the picture stays.
    pub keep: bool,
    /// Why it does not: the name of the rule. `None` where it stays.
    pub reason: Option<String>,
    /// The texts that stay; empty where the picture does not.
    pub texts: Vec<TextId>,
    /// Queries that the kept texts match, sorted.
    pub queries: Vec<String>,
}

/// A row of a caption overlay, aligned with its base file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captions {
    /// The row it speaks of.
    pub pair_id: PairId,
    /// Synthetic texts; none for a picture that curation dropped.
    pub texts: Vec<Text>,
    /// The captioner.
    pub model: ModelDigest,
}

/// What a filter says of one text.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The text.
    pub text_id: TextId,
    /// Cosine of picture and text.
    pub itc: f32,
    /// Probability that they match.
    pub itm: f32,
    /// Whether the text stays.
    pub kept: bool,
    /// The rule that decided, such as `itm>=0.5`.
    pub reason: String,
}

/// A row of a verdict overlay, aligned with its base file.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdicts {
    /// The row it speaks of.
    pub pair_id: PairId,
    /// One verdict per web and synthetic text of the view; none for human texts.
    pub verdicts: Vec<Verdict>,
    /// The filter.
    pub model: ModelDigest,
}

/// A row of a reject sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject {
    /// Why.
    pub code: RejectCode,
    /// The picture (or page) that was refused: URL or file name.
    pub url: String,
    /// The page that named it; empty for a page itself.
    pub page_url: String,
    /// Whether a picture was refused (counts as found) or a page.
    pub is_image: bool,
    /// What happened, for people; at most 500 characters.
    pub detail: String,
}

/// An image found on a page: a row of a links file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLink {
    /// Canonical URL of the picture.
    pub image_url: String,
    /// URL as written on the page.
    pub raw_url: String,
    /// Page it was found on (after redirects, canonical).
    pub page_url: String,
    /// Texts found with it.
    pub texts: Vec<(Origin, String)>,
    /// Opt-out signals of the page.
    pub opt_out: Vec<String>,
    /// Licence where stated.
    pub licence: Option<String>,
    /// Attribution where stated.
    pub attribution: Option<String>,
}

/// A page to fetch or found: a row of a links file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageLink {
    /// Canonical URL.
    pub url: String,
    /// Links from a seed.
    pub depth: u32,
}
