//! The arms of the comparison: which family a model is of, and what it was trained on.

use crate::summary::Summary;

/// Arms as pipelines name them, with their titles and data, in the order of the page.
const KINDS: &[(&str, &str, &str)] = &[
    ("web", "Web", "curated web texts + human pairs"),
    ("human", "Human only", "human pairs alone"),
    ("filter_only", "Filter only", "kept web texts + human pairs"),
    (
        "captioner_only",
        "Captioner only",
        "web texts + synthetic texts + human pairs",
    ),
    (
        "bootstrapped",
        "Bootstrapped",
        "kept web + kept synthetic texts + human pairs",
    ),
];

/// A model's place in the comparison, read from its name: `clip_bootstrapped`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arm<'a> {
    /// The whole name.
    pub name: &'a str,
    /// `clip`, `blip`: what stands before the first underscore.
    pub family: &'a str,
    /// The rest: `web`, `human`, `bootstrapped` ...
    pub kind: &'a str,
}

impl<'a> Arm<'a> {
    /// Takes a model's name apart.
    pub fn of(name: &'a str) -> Self {
        let (family, kind) = name.split_once('_').unwrap_or((name, ""));
        Self { name, family, kind }
    }

    /// For people: `Bootstrapped`; the kind itself where it is not one of ours.
    pub fn title(&self) -> &'a str {
        match self.place() {
            Some(place) => KINDS[place].1,
            None if self.kind.is_empty() => self.name,
            None => self.kind,
        }
    }

    /// What it was trained on; empty where that is not known.
    pub fn data(&self) -> &'static str {
        self.place().map_or("", |place| KINDS[place].2)
    }

    /// Class by which the style sheet colours it.
    pub fn class(&self) -> &'static str {
        match self.kind {
            "web" => "c-web",
            "human" => "c-human",
            "filter_only" => "c-filter",
            "captioner_only" => "c-captioner",
            "bootstrapped" => "c-boot",
            _ => "c-other",
        }
    }

    fn place(&self) -> Option<usize> {
        KINDS.iter().position(|(kind, _, _)| *kind == self.kind)
    }
}

/// The models of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family<'a> {
    /// `clip`, `blip`.
    pub name: &'a str,
    /// Its arms in the order of the page.
    pub arms: Vec<Arm<'a>>,
}

impl Family<'_> {
    /// `CLIP`, `BLIP`.
    pub fn title(&self) -> String {
        self.name.to_uppercase()
    }

    /// The figure of one of its arms.
    pub fn mean_at_1(&self, summary: &Summary, kind: &str) -> Option<f64> {
        let arm = self.arms.iter().find(|arm| arm.kind == kind)?;
        mean_at_1(summary, arm.name)
    }

    /// Bootstrapped less `kind`, mean R@1 in points.
    pub fn gain_over(&self, summary: &Summary, kind: &str) -> Option<f64> {
        let gain = self.mean_at_1(summary, "bootstrapped")? - self.mean_at_1(summary, kind)?;
        gain.is_finite().then_some(gain)
    }
}

/// Mean of TR@1 and IR@1 of a model, by cosine, in percent.
pub fn mean_at_1(summary: &Summary, model: &str) -> Option<f64> {
    let retrieval = summary.model(model)?.retrieval?;
    Some(retrieval.mean_at_1()).filter(|mean| mean.is_finite())
}

/// The measured models by family: CLIP first, then BLIP, then others by name.
pub fn families(summary: &Summary) -> Vec<Family<'_>> {
    let mut arms: Vec<Arm<'_>> = summary.models.keys().map(|name| Arm::of(name)).collect();
    let place = |arm: &Arm<'_>| arm.place().unwrap_or(KINDS.len());
    arms.sort_by_key(|arm| (family_place(arm.family), arm.family, place(arm), arm.name));
    arms.chunk_by(|left, right| left.family == right.family)
        .map(|arms| Family {
            name: arms[0].family,
            arms: arms.to_vec(),
        })
        .collect()
}

fn family_place(family: &str) -> usize {
    ["clip", "blip"]
        .iter()
        .position(|known| *known == family)
        .unwrap_or(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_grouped_and_ordered() {
        let mut summary = Summary::default();
        for name in [
            "blip_bootstrapped",
            "blip_web",
            "clip_human",
            "clip_filter_only",
            "zebra",
        ] {
            summary.models.insert(name.to_owned(), Default::default());
        }
        let names: Vec<Vec<&str>> = families(&summary)
            .iter()
            .map(|family| family.arms.iter().map(|arm| arm.name).collect())
            .collect();
        assert_eq!(
            names,
            [
                vec!["clip_human", "clip_filter_only"],
                vec!["blip_web", "blip_bootstrapped"],
                vec!["zebra"]
            ]
        );
        assert_eq!(Arm::of("zebra").title(), "zebra");
        assert_eq!(Arm::of("clip_bootstrapped").title(), "Bootstrapped");
    }
}
