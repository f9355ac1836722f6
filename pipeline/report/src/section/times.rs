//! Times of the stages.

use maud::{Markup, html};

use super::{missing, section};
use crate::number;
use crate::plot::bar::bar;
use crate::summary::{StageFigures, Summary};

/// The section.
pub fn times(summary: &Summary) -> Markup {
    let lead = html! {
        @if summary.sums_task_times {
            "Wall time summed over the tasks of a stage, which may have overlapped; "
        } @else {
            "Wall time from the first lease to the last commit of a stage, a training's without "
            "waiting for its turn; "
        }
        "CPU time over all threads and ranks."
    };
    let longest = summary
        .stages
        .iter()
        .flat_map(|stage| [stage.wall_seconds, stage.cpu_seconds])
        .filter(|seconds| seconds.is_finite())
        .fold(0.0, f64::max);
    let body = html! {
        @if summary.stages.is_empty() {
            (missing("No stage was timed."))
        } @else {
            ul class="legend" {
                li { span class="key c-boot" {} "wall" }
                li { span class="key c-web" {} "CPU" }
            }
            div class="scroll" {
                table class="times" {
                    thead { tr {
                        th scope="col" { "Stage" } th {} th scope="col" { "Wall" } th scope="col" { "CPU" }
                        th scope="col" title="CPU seconds by wall seconds" { "Cores busy" }
                        th scope="col" { "Ranks" } th scope="col" { "Reduced a rank" }
                    } }
                    tbody { @for stage in &summary.stages { (row(stage, longest)) } }
                }
            }
            (estimate(summary))
        }
    };
    section("times", "Stage times", &lead, &body)
}

fn row(stage: &StageFigures, longest: f64) -> Markup {
    let cores = stage.cpu_seconds / stage.wall_seconds;
    html! {
        tr {
            th scope="row" { (stage.name.replace('_', " ")) }
            td class="bars" {
                (bar(stage.wall_seconds, longest, "c-boot"))
                (bar(stage.cpu_seconds, longest, "c-web"))
            }
            td { (number::seconds(stage.wall_seconds)) }
            td { (number::seconds(stage.cpu_seconds)) }
            td { @if stage.wall_seconds >= 0.1 { (number::decimal(cores)) } @else { (number::NONE) } }
            td { (stage.world_size.map_or_else(|| number::NONE.to_owned(), |ranks| ranks.to_string())) }
            td { (stage.bytes_reduced.map_or_else(|| number::NONE.to_owned(), number::bytes)) }
        }
    }
}

/// The accuracy of the estimate that the terminal showed.
fn estimate(summary: &Summary) -> Markup {
    let both = summary
        .remaining_shown_at_60s
        .zip(summary.remaining_taken_at_60s);
    let off = both.map(|(shown, taken)| 100.0 * (shown - taken) / taken);
    html! {
        @if let (Some((shown, taken)), Some(off)) = (both, off.filter(|off| off.is_finite())) {
            p class="note" {
                "After 60 s the terminal promised " (number::seconds(shown)) " more; it took "
                (number::seconds(taken)) " (" (number::points(off)) " % off)."
            }
        }
    }
}
