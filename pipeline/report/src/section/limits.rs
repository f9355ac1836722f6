//! The limits of what the run proves.

use maud::{Markup, html};

use super::section;

/// Claim, reason, and whether it holds for the demo alone.
const LIMITS: &[(&str, &str, bool)] = &[
    (
        "The world is tiny and synthetic.",
        "A few kinds of things in a few colours on drawn backgrounds, and noise that we chose. The \
         real web is wider in every way; what holds here need not hold there.",
        true,
    ),
    (
        "Training and evaluation share combinations.",
        "No picture of the evaluation set stands on the web, but the few hundred combinations of \
         things and colours are the same. This measures recognition, not the grasp of new combinations.",
        true,
    ),
    (
        "The models are small.",
        "Well under a million parameters, trained from scratch for minutes. Gains at this size \
         say little of gains at scale.",
        true,
    ),
    (
        "Seeds move R@1 by 5 to 10 points.",
        "Only gaps well beyond that mean something, and only over several seeds.",
        false,
    ),
    (
        "Human style flatters raw CIDEr.",
        "The bootstrapped model has read more texts in the style of the references. Compare \
         captions after the same fine-tuning on the human pairs (“CIDEr fine-tuned”).",
        false,
    ),
    (
        "Human pairs are a rival.",
        "With enough annotated pairs a model trained on them alone does as well. The arm stands \
         beside the others for that reason.",
        false,
    ),
    (
        "The filter knows less than the judge.",
        "It keeps texts that are wrong and throws away true ones; the samples show both.",
        true,
    ),
];

/// The section.
///
/// - `is_demo`: whether the run is over the demo web.
pub fn limits(is_demo: bool) -> Markup {
    let lead = html! { "Read this before you quote a number from above." };
    let body = html! {
        ol class="limits" {
            @for (claim, why, of_demo) in LIMITS {
                @if is_demo || !of_demo { li { strong { (claim) } " " (why) } }
            }
        }
    };
    section("limits", "What this does not prove", &lead, &body)
}
