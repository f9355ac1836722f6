//! The verdict in one sentence, with the bars that it describes.

use maud::{Markup, html};

use crate::arm::{Group, Texts, groups, mean_at_1};
use crate::number;
use crate::plot::bar::bar;
use crate::plot::range::Range;
use crate::run_report::RunReport;
use crate::summary::Summary;

/// The seed alone causes differences up to this, in points of R@1.
const SEED_MOVES_POINTS: f64 = 10.0;

/// The head of the page.
pub fn headline(report: &RunReport) -> Markup {
    let summary = &report.summary;
    html! {
        header class="hero" id="verdict" {
            p class="eyebrow" {
                span { (report.title) }
                span { "seed " (summary.seed) }
                @if summary.wall_seconds > 0.0 { span { (number::seconds(summary.wall_seconds)) } }
                @if let Some(started) = &report.started { span { (started) } }
            }
            h1 { (verdict(summary)) }
            @if let Some(caution) = caution(summary) { p class="caution" { (caution) } }
            (chart(summary))
        }
    }
}

/// Bootstrapped against web and against human-only, mean R@1 in points.
fn verdict(summary: &Summary) -> String {
    let families = groups(summary);
    let clause = |texts: Texts| {
        let gains: Vec<(&str, f64)> = families
            .iter()
            .filter_map(|family| Some((family.title(), family.gain_over(summary, texts)?)))
            .collect();
        (!gains.is_empty()).then(|| phrase(&gains))
    };
    match (clause(Texts::Web), clause(Texts::Human)) {
        (Some(web), Some(human)) => format!(
            "Against the raw web, bootstrapping {web}; against human pairs alone it {human}."
        ),
        (Some(web), None) => format!("Against the raw web, bootstrapping {web}."),
        (None, Some(human)) => format!("Against human pairs alone, bootstrapping {human}."),
        (None, None) => "This run measured no bootstrapped model beside another, so it says \
                         nothing of what bootstrapping gains."
            .to_owned(),
    }
}

/// `gains 37.1 points of mean R@1 for CLIP and 28.9 for BLIP`;
/// `loses 2.0 points of mean R@1 for CLIP but gains 3.0 for BLIP`.
fn phrase(gains: &[(&str, f64)]) -> String {
    let mut text = String::new();
    let mut before = None;
    for (family, gain) in gains {
        let amount = number::decimal(gain.abs());
        let verb = match gain {
            _ if amount == "0.0" => "changes nothing",
            gain if *gain > 0.0 => "gains",
            _ => "loses",
        };
        let amount = match (amount.as_str(), before) {
            ("0.0", _) => String::new(),
            (_, None) => format!(" {amount} points of mean R@1"),
            _ => format!(" {amount}"),
        };
        match before {
            None => text = format!("{verb}{amount} for {family}"),
            Some(same) if same == verb => text.push_str(&format!(" and{amount} for {family}")),
            Some(_) => text.push_str(&format!(" but {verb}{amount} for {family}")),
        }
        before = Some(verb);
    }
    text
}

/// Names the differences that one seed cannot prove.
fn caution(summary: &Summary) -> Option<String> {
    let families = groups(summary);
    let named = [(Texts::Web, "the web"), (Texts::Human, "human pairs alone")];
    let small: Vec<String> = families
        .iter()
        .flat_map(|family| named.map(|(texts, title)| (family, texts, title)))
        .filter_map(|(family, texts, title)| {
            let gain = family.gain_over(summary, texts)?;
            (gain.abs() < SEED_MOVES_POINTS).then(|| {
                format!(
                    "{} against {title} ({})",
                    family.title(),
                    number::points(gain)
                )
            })
        })
        .collect();
    (!small.is_empty()).then(|| {
        format!(
            "One seed alone moves R@1 by 5 to 10 points, so this run cannot tell: {}.",
            small.join(", ")
        )
    })
}

/// Mean R@1 by arm: one panel per family, one scale for all.
fn chart(summary: &Summary) -> Markup {
    let families: Vec<Group<'_>> = groups(summary)
        .into_iter()
        .filter(|family| {
            family
                .models
                .iter()
                .any(|model| mean_at_1(summary, model.name).is_some())
        })
        .collect();
    let means = summary
        .models
        .keys()
        .filter_map(|name| mean_at_1(summary, name));
    let range = Range::holding(means, 5);
    html! {
        @if !families.is_empty() {
            div class="panels" {
                @for family in &families {
                    figure class="panel" {
                        figcaption {
                            strong { (family.title()) }
                            " mean R@1, %"
                            @if let Some(gain) = family.gain_over(summary, Texts::Web) {
                                span class={ "delta " (if gain < 0.0 { "down" } else { "up" }) } {
                                    (number::points(gain)) " over web"
                                }
                            }
                        }
                        (arms(summary, family, range.end))
                    }
                }
            }
            p class="note" {
                "Mean R@1: how often the right text of a picture, or the right picture of a text, "
                "comes first by cosine; the mean of both directions. Same initial weights, batch and "
                "steps for every arm of a family; all bars end at " (number::count(range.end as u64)) "\u{a0}%."
            }
        }
    }
}

fn arms(summary: &Summary, family: &Group<'_>, end: f64) -> Markup {
    html! {
        @for model in &family.models {
            @let mean = mean_at_1(summary, model.name);
            div class={ "arm" @if model.texts == Texts::Bootstrapped { " leading" } } {
                span class="arm-name" title=(model.texts.description()) { (model.label()) }
                (bar(mean.unwrap_or(f64::NAN), end, model.texts.class()))
                span class="arm-number" { (number::figure(mean)) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use capstan_plan::results::{ModelFigures, RetrievalFigures};
    use capstan_plan::stage::Family;

    use super::*;
    use crate::arm::Arm;

    /// Models named after their family and arm.
    fn arm(name: &str) -> Arm {
        let (family, texts) = name.split_once('_').unwrap();
        Arm {
            family: Some(match family {
                "clip" => Family::Clip,
                _ => Family::Blip,
            }),
            texts: match texts {
                "web" => Texts::Web,
                "human" => Texts::Human,
                _ => Texts::Bootstrapped,
            },
        }
    }

    fn summary(models: &[(&str, f64)]) -> Summary {
        let figures = |mean: f64| ModelFigures {
            retrieval: Some(RetrievalFigures {
                tr_at_1: mean + 1.0,
                tr_at_5: 0.0,
                tr_at_10: None,
                ir_at_1: mean - 1.0,
                ir_at_5: 0.0,
                ir_at_10: None,
            }),
            ..ModelFigures::default()
        };
        Summary {
            models: models
                .iter()
                .map(|(name, mean)| ((*name).to_owned(), figures(*mean)))
                .collect(),
            arms: models
                .iter()
                .map(|(name, _)| ((*name).to_owned(), arm(name)))
                .collect(),
            ..Summary::default()
        }
    }

    #[test]
    fn gains_of_both_families_stand_in_one_sentence() {
        let all = [
            ("clip_web", 14.0),
            ("clip_human", 40.0),
            ("clip_bootstrapped", 51.2),
            ("blip_web", 26.0),
            ("blip_bootstrapped", 54.0),
        ];
        assert_eq!(
            verdict(&summary(&all)),
            "Against the raw web, bootstrapping gains 37.2 points of mean R@1 for CLIP and 28.0 for \
             BLIP; against human pairs alone it gains 11.2 points of mean R@1 for CLIP."
        );
        assert_eq!(caution(&summary(&all)), None);
    }

    #[test]
    fn losses_are_called_losses() {
        let mixed = [
            ("clip_web", 14.0),
            ("clip_bootstrapped", 12.0),
            ("blip_web", 20.0),
            ("blip_bootstrapped", 23.0),
        ];
        assert_eq!(
            verdict(&summary(&mixed)),
            "Against the raw web, bootstrapping loses 2.0 points of mean R@1 for CLIP but gains 3.0 \
             for BLIP."
        );
        let caution = caution(&summary(&mixed)).unwrap();
        assert!(
            caution.contains("CLIP against the web (\u{2212}2.0)"),
            "{caution}"
        );
    }

    #[test]
    fn no_difference_is_neither() {
        let equal = [("clip_web", 14.0), ("clip_bootstrapped", 14.0)];
        assert!(verdict(&summary(&equal)).contains("changes nothing for CLIP"));
    }

    #[test]
    fn nothing_measured_claims_nothing() {
        assert!(verdict(&summary(&[])).contains("says nothing"));
        assert!(verdict(&summary(&[("clip_web", 14.0)])).contains("says nothing"));
        let nan = [("clip_web", f64::NAN), ("clip_bootstrapped", 14.0)];
        assert!(verdict(&summary(&nan)).contains("says nothing"));
    }
}
