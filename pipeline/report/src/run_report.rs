//! What the page of a run is made from: the figures and a sample of pictures with their texts.

use capstan_plan::results::Training;
use capstan_plan::row::Origin;

use crate::summary::Summary;

/// Everything that the page shows. What is absent or empty is left out, or said to be missing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunReport {
    /// Heading of the page, such as `capstan demo`.
    pub title: String,
    /// The figures of `summary.json`.
    pub summary: Summary,
    /// About 60 pictures: kept and dropped, with texts kept and dropped.
    pub samples: Vec<SampleCard>,
    /// The trainings by stage name, in the order of the pipeline.
    pub trainings: Vec<(String, Training)>,
    /// Name and version of the program, such as `capstan 0.1.0`.
    pub made_with: String,
    /// When the run started, as people read it.
    pub started: Option<String>,
    /// The command that made it.
    pub command: Option<String>,
}

/// A picture with its texts and what became of them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SampleCard {
    /// The picture as stored: JPEG, PNG, WebP or GIF; told by its first bytes.
    pub image: Vec<u8>,
    /// Page on which it was found.
    pub page_url: String,
    /// Where it was fetched from.
    pub image_url: String,
    /// Whether curation kept it.
    pub curated: bool,
    /// The rule by which curation dropped it.
    pub reason: Option<String>,
    /// Its texts, web and synthetic.
    pub texts: Vec<TextLine>,
}

/// A text of a picture with its scores and verdict.
#[derive(Debug, Clone, PartialEq)]
pub struct TextLine {
    /// The text.
    pub text: String,
    /// Where it came from.
    pub origin: Origin,
    /// Cosine of picture and text by the filter, -1 to 1.
    pub itc: Option<f32>,
    /// Probability by the filter that they match, 0 to 1.
    pub itm: Option<f32>,
    /// Whether the text stayed; absent where no filter saw it.
    pub kept: Option<bool>,
    /// The rule that decided, such as `itm>=0.5`.
    pub reason: Option<String>,
    /// What the judge of the demo web says: `good`, `vague` or `bad`.
    pub judgement: Option<String>,
}
