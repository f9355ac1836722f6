//! `import`: existing pairs are read into a dataset, in slices.

use serde::{Deserialize, Serialize};

use super::crawl::{max_image_bytes, max_text_bytes, shards};
use super::{Input, Output, Settings, Split, StageKind, Storing, TaskWork};
use crate::check::Check;
use crate::expand::{ALL, Error, Items, Next, Outcome, Request};
use crate::id::DatasetName;
use crate::recipe;
use crate::row::Origin;
use crate::task::{Role, Slice};

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
            Self::Img2dataset | Self::Webdataset => shards(),
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

/// What an import does with a picture without a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Texts {
    /// It is a row without texts, which a caption stage can write for.
    #[default]
    Optional,
    /// It is rejected with the code `record`.
    Required,
}

impl Texts {
    fn is_default(&self) -> bool {
        *self == Self::default()
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
    /// Folder with the pairs: a path below the first of `[import] roots` of the configuration that
    /// has it, or an absolute path below one of them. Every worker must see the same folder.
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
    /// one, every run reads the source again, because it may have changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// `optional`: a picture without a text is a row like any other. `required`: it is rejected with
    /// the code `record`.
    #[serde(default, skip_serializing_if = "Texts::is_default")]
    pub texts: Texts,
    /// Bytes of a text at most.
    #[serde(default = "max_text_bytes")]
    pub max_text_bytes: usize,
    /// Bytes of a picture at most.
    #[serde(default = "max_image_bytes")]
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
}

/// Tasks of an import at most.
const MAX_SHARDS: usize = 1_000_000;

/// Slice: imports pairs. Commits base files and `Rejects`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImportWork {
    /// Which slice of the source: items `i` of its sorted order with `i % of == index`.
    #[serde(default)]
    pub slice: Slice,
}

impl StageKind for Import {
    const NAME: &'static str = "import";
    const VERSION: u32 = 2;
}

impl Settings for Import {
    fn inputs(&self) -> Vec<Input> {
        Vec::new()
    }

    fn output(&self) -> Output<'_> {
        Output::NewDataset(&self.dataset)
    }

    fn check(&self, check: &mut Check) {
        check.name("dataset", self.dataset.as_str());
        check.any("format", "each of the names is meant");
        check.text("source", &self.source, 4_096);
        let shards = self.shards.unwrap_or(1);
        check.integer("shards", shards, 1..=MAX_SHARDS);
        let holds = self.format != ImportFormat::CocoCaptions || shards <= 1;
        check.rule(
            "shards",
            shards,
            holds,
            "1 for coco_captions, whose file cannot be split",
        );
        let origin = self.origin.map_or("", Origin::as_str);
        let holds = self.origin != Some(Origin::Synthetic);
        let text = "human, alt, title or caption; synthetic texts come from caption stages alone";
        check.rule("origin", format!("{origin:?}"), holds, text);
        check.text("snapshot", self.snapshot.as_deref().unwrap_or("none"), 200);
        check.any("texts", "both values are meant");
        check.integer("max_text_bytes", self.max_text_bytes, 1..=1 << 30);
        check.integer("max_image_bytes", self.max_image_bytes, 1..=1 << 30);
        check.table("storing", |check| self.storing.check(check));
    }

    fn split(&self) -> Split {
        match self.shards() {
            1 => Split::Global,
            _ => Split::Slices,
        }
    }

    fn role(&self) -> Role {
        Role::Crawl
    }

    /// A source that is not split is one task, `all`. Slices that were given up are left out.
    ///
    /// What lies in the source is unknown here: without a label of its state no other run's import is
    /// adopted. Later stages, whose recipes hold the rows, are. The name of the dataset is part of
    /// the rows, so it stays in the recipe.
    fn next(&self, request: &Request<'_>) -> Result<Next, Error> {
        if !request.steps.is_empty() {
            return Ok(Next::Done(Outcome::NewDataset(self.dataset.clone())));
        }
        let config = Self {
            shards: None,
            ..self.clone()
        };
        let run = config.snapshot.is_none().then(|| request.run.clone());
        let of = self.shards();
        let make = move |index: usize| {
            let slice = Slice { index, of };
            let config = (&config, slice, &run);
            let recipe = recipe::hash::<Self>("", None, &config, &[], &[]);
            (ImportWork { slice }.into(), recipe)
        };
        let (prefix, items) = match of {
            1 => (ALL, Items::One(Box::new(make(0)))),
            _ => ("", Items::Slices(of as u64, Box::new(make))),
        };
        Ok(Next::Tasks(request.step(prefix, items, &[])))
    }
}

impl TaskWork for ImportWork {}
