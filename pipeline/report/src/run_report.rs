//! The content of the page of a run: the figures and a sample of pictures with their texts.

use capstan_plan::results::Training;
use capstan_plan::row::Origin;

use crate::summary::Summary;

/// The content of the page. A part that is empty is left out or marked as missing.
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
    /// The start of the run, formatted for readers.
    pub started: Option<String>,
    /// The command that writes the page again.
    pub command: Option<String>,
}

/// A picture with its texts and their verdicts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SampleCard {
    /// The picture as stored: JPEG, PNG, WebP or GIF.
    pub image: Vec<u8>,
    /// Page on which it was found.
    pub page_url: String,
    /// URL of the picture.
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
    /// Origin of the text.
    pub origin: Origin,
    /// Cosine of picture and text by the filter, -1 to 1.
    pub itc: Option<f32>,
    /// Probability by the filter that they match, 0 to 1.
    pub itm: Option<f32>,
    /// Whether the filter kept the text; absent if no filter judged it.
    pub kept: Option<bool>,
    /// The rule that decided, such as `itm>=0.5`.
    pub reason: Option<String>,
    /// Verdict of the judge of the demo web: `good`, `vague` or `bad`.
    pub judgement: Option<String>,
}
