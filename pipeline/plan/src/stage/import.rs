//! Stages that bring in what somebody already has: pairs, and models.

use serde::{Deserialize, Serialize};

use super::{Storing, defaults};
use crate::id::{DatasetName, ModelDigest};
use crate::row::Origin;

/// The form of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportFormat {
    /// `captions.json` in COCO captions form beside a folder `images`.
    CocoCaptions,
    /// Parquet as img2dataset writes it with `output_format=parquet`: a row per URL, the picture
    /// in a column named after its encoding (`jpg`, `png`, `webp`).
    Img2dataset,
    /// Tar files of `<key>.<jpg|png|webp>`, `<key>.txt` and, where there is one, `<key>.json`: what
    /// img2dataset writes with `output_format=webdataset`.
    Webdataset,
    /// A folder of pictures, nested or not, each with a `.txt` of the same name; a line is a text.
    Folder,
}

impl ImportFormat {
    /// The format as the pipeline file writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::CocoCaptions => "coco_captions",
            Self::Img2dataset => "img2dataset",
            Self::Webdataset => "webdataset",
            Self::Folder => "folder",
        }
    }

    /// Tasks that a source of this form is shared out to, where the stage does not say.
    ///
    /// Files of many pairs go to sixteen; a folder stays whole, for a shard of a few pictures
    /// costs later stages a model's loading; COCO's one file cannot be split.
    fn default_shards(self) -> usize {
        match self {
            Self::CocoCaptions | Self::Folder => 1,
            Self::Img2dataset | Self::Webdataset => defaults::shards(),
        }
    }

    /// Where its texts come from, where the stage does not say: COCO's were written by
    /// annotators, the others' are judged like any text of the web.
    fn default_origin(self) -> Origin {
        match self {
            Self::CocoCaptions => Origin::Human,
            Self::Img2dataset | Self::Webdataset => Origin::Alt,
            Self::Folder => Origin::Caption,
        }
    }
}

/// `kind = "import"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// The dataset whose base files it writes.
    pub dataset: DatasetName,
    /// What the source looks like.
    pub format: ImportFormat,
    /// Folder with the pairs; a relative one lies under `[import] root` of the configuration, and
    /// every worker must see the same one.
    pub source: String,
    /// Tasks; the source's files (of a folder: its pictures), sorted by name, go to them in turn.
    /// 16 for img2dataset and webdataset where left out, 1 for the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<usize>,
    /// What the texts are: `human` ones are kept without a verdict, `alt`, `title` and `caption`
    /// are judged. `human` for coco_captions where left out, `caption` for a folder, else `alt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Label of the state of the source: an equal label adopts an earlier run's import. Without
    /// one every run reads the source anew, for nobody knows whether it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Bytes of a text at most.
    #[serde(default = "defaults::max_text_bytes")]
    pub max_text_bytes: usize,
    /// Bytes of a picture at most.
    #[serde(default = "defaults::max_image_bytes")]
    pub max_image_bytes: u64,
    /// How pictures are stored.
    #[serde(default)]
    pub storing: Storing,
}

impl Import {
    /// Tasks that the source is shared out to, at least one.
    pub fn shards(&self) -> usize {
        let default = self.format.default_shards();
        self.shards.unwrap_or(default).max(1)
    }

    /// Where its texts come from.
    pub fn origin(&self) -> Origin {
        self.origin.unwrap_or_else(|| self.format.default_origin())
    }

    /// What serde cannot check.
    pub(crate) fn check(&self) -> Result<(), String> {
        match (self.shards, self.format) {
            (Some(0), _) => return Err("`shards` must be at least 1".to_owned()),
            (Some(shards), _) if shards > MAX_SHARDS => {
                return Err(format!("`shards` {shards} is over {MAX_SHARDS}"));
            }
            (Some(2..), ImportFormat::CocoCaptions) => {
                return Err("`shards`: a coco_captions file cannot be split".to_owned());
            }
            _ => {}
        }
        match self.origin {
            Some(Origin::Synthetic) => {
                Err("`origin = \"synthetic\"` belongs to caption stages alone".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// Tasks of an import at most; an expansion holds all tasks of a step in memory.
const MAX_SHARDS: usize = 1_000_000;

/// `kind = "model"`: a model that is there already, in place of training one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GivenModel {
    /// Folder in Hugging Face layout (`config.json`, `model.safetensors`, `vocab.txt`,
    /// `preprocessor_config.json`); a relative one lies under `[import] root` of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Digest of a model: without `source` one that the store holds already; with it, what the
    /// folder must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<ModelDigest>,
}

impl GivenModel {
    /// What serde cannot check.
    pub(crate) fn check(&self) -> Result<(), String> {
        match (&self.source, &self.digest) {
            (None, None) => Err("give `source` (a folder) or `digest` (of the store)".to_owned()),
            _ => Ok(()),
        }
    }
}
