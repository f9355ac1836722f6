//! Which texts of a dataset a stage reads.

use serde::{Deserialize, Serialize};

use super::{Input, Kind, Wants, blank_stage};
use crate::check::Check;
use crate::id::StageName;
use crate::pipeline::Graph;

/// Which of a dataset's texts are used. Human texts always are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The stage whose dataset version is read.
    pub from: StageName,
    /// Web texts that curation kept.
    #[serde(default = "Use::all")]
    pub web: Use,
    /// Synthetic texts.
    #[serde(default = "Use::none")]
    pub synthetic: Use,
}

/// How much of a kind of text is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Use {
    /// All of them.
    All,
    /// Those that the filter kept.
    Kept,
    /// None.
    None,
}

impl Use {
    fn all() -> Self {
        Self::All
    }

    fn none() -> Self {
        Self::None
    }
}

/// The inputs that a list of sources under the key `data` names.
pub(super) fn inputs(sources: &[Source]) -> impl Iterator<Item = Input> + '_ {
    sources.iter().enumerate().map(|(place, source)| {
        Input::new(format!("data[{place}].from"), &source.from, Wants::Dataset)
    })
}

/// The sources without the names of their stages, for a recipe.
pub(super) fn nameless(sources: &[Source]) -> Vec<Source> {
    let blank = |source: &Source| Source {
        from: blank_stage(),
        ..source.clone()
    };
    sources.iter().map(blank).collect()
}

/// States the rules of a list of sources under the key `data`.
pub(super) fn check(sources: &[Source], check: &mut Check) {
    check.count("data", sources, 10_000, "sources");
    check.any("data[].web", "each of the names is meant");
    check.any("data[].synthetic", "each of the names is meant");
}

/// Checks that verdicts and synthetic texts that are asked for exist.
pub(super) fn check_graph(sources: &[Source], graph: &Graph<'_>, check: &mut Check) {
    for (place, source) in sources.iter().enumerate() {
        let stages = graph.dataset_stages(&source.from);
        let filtered = stages.iter().any(|kind| matches!(kind, Kind::Filter(_)));
        let captioned = stages.iter().any(|kind| matches!(kind, Kind::Caption(_)));
        let web = format!("data[{place}].web");
        let holds = source.web != Use::Kept || filtered;
        let text = "all or none: no filter stage judged the texts of this dataset";
        check.rule(&web, "\"kept\"", holds, text);
        let synthetic = format!("data[{place}].synthetic");
        let holds = source.synthetic == Use::None || captioned;
        let text = "none: no caption stage wrote texts for this dataset";
        check.rule(&synthetic, "...", holds, text);
        let holds = source.synthetic != Use::Kept || !captioned || filtered;
        let text = "all or none: no filter stage judged the texts of this dataset";
        check.rule(&synthetic, "\"kept\"", holds, text);
    }
}
