//! The key figures as tiles.

use capstan_plan::results::ModelFigures;
use capstan_plan::stage::Family;
use maud::{Markup, html};

use crate::arm::{Group, Texts, groups};
use crate::number;
use crate::summary::Summary;

struct Tile {
    number: String,
    title: String,
    detail: String,
}

/// The tiles. A tile without a figure is left out.
pub fn tiles(summary: &Summary) -> Markup {
    let mut tiles = gains(summary);
    tiles.extend(zero_shot(summary));
    tiles.extend(pictures(summary));
    tiles.extend(texts(summary));
    tiles.extend(filter(summary));
    tiles.extend(captions(summary));
    tiles.extend(time(summary));
    html! {
        @if !tiles.is_empty() {
            div class="tiles" id="figures" {
                @for tile in &tiles {
                    div class="tile" {
                        div class="tile-title" { (tile.title) }
                        div class="tile-number" { (tile.number) }
                        div class="tile-detail" { (tile.detail) }
                    }
                }
            }
        }
    }
}

fn gains(summary: &Summary) -> Vec<Tile> {
    let gain = |family: &Group<'_>| {
        let gain = family.gain_over(summary, Texts::Web)?;
        let from = number::figure(family.mean_at_1(summary, Texts::Web));
        let to = number::figure(family.mean_at_1(summary, Texts::Bootstrapped));
        Some(Tile {
            number: number::points(gain),
            title: format!("{} over the raw web", family.title()),
            detail: format!("points of mean R@1: {from} → {to} %"),
        })
    };
    groups(summary).iter().filter_map(gain).collect()
}

/// A figure of the web arm and of the bootstrapped arm of a family.
fn web_and_bootstrapped(
    summary: &Summary,
    family: Family,
    figure: fn(&ModelFigures) -> Option<f64>,
) -> Option<(f64, f64)> {
    let groups = groups(summary);
    let group = groups.iter().find(|group| group.family == Some(family))?;
    let best = |texts| group.best(summary, texts, figure);
    Some((best(Texts::Web)?, best(Texts::Bootstrapped)?))
}

fn zero_shot(summary: &Summary) -> Option<Tile> {
    let (from, to) = web_and_bootstrapped(summary, Family::Clip, |model| {
        model.zero_shot.map(|zero_shot| zero_shot.accuracy)
    })?;
    Some(Tile {
        number: format!("{} %", number::decimal(to)),
        title: "CLIP zero-shot".to_owned(),
        detail: format!(
            "web: {} % ({} points)",
            number::decimal(from),
            number::points(to - from)
        ),
    })
}

fn pictures(summary: &Summary) -> Option<Tile> {
    let pairs = &summary.pairs;
    (pairs.found > 0).then(|| Tile {
        number: number::count(pairs.curated),
        title: "Pictures curated".to_owned(),
        detail: format!(
            "of {} found, {} fetched",
            number::count(pairs.found),
            number::count(pairs.fetched)
        ),
    })
}

fn texts(summary: &Summary) -> Option<Tile> {
    let pairs = &summary.pairs;
    let all = pairs.curated_texts + pairs.synthetic;
    let judged = all - pairs.unfiltered_web - pairs.unfiltered_synthetic;
    (judged > 0).then(|| Tile {
        number: number::count(pairs.kept_web + pairs.kept_synthetic),
        title: "Texts kept by the filter".to_owned(),
        detail: format!(
            "of {}: {} web, {} synthetic",
            number::count(judged),
            number::count(pairs.kept_web),
            number::count(pairs.kept_synthetic)
        ),
    })
}

fn filter(summary: &Summary) -> Option<Tile> {
    let web = summary.filter.as_ref()?.web;
    (summary.pairs.kept_web > 0).then(|| Tile {
        number: format!("{} %", number::decimal(web.precision)),
        title: "Filter precision, web texts".to_owned(),
        detail: format!(
            "it finds {} % of the good ones",
            number::decimal(web.recall)
        ),
    })
}

/// Compared after the same fine-tuning: raw CIDEr flatters the bootstrapped model.
fn captions(summary: &Summary) -> Option<Tile> {
    let (from, to) = web_and_bootstrapped(summary, Family::Blip, |model| {
        model.captioning_fine_tuned.map(|captions| captions.cider)
    })?;
    Some(Tile {
        number: number::points(to - from),
        title: "BLIP CIDEr, fine-tuned alike".to_owned(),
        detail: format!("{} → {}", number::decimal(from), number::decimal(to)),
    })
}

fn time(summary: &Summary) -> Option<Tile> {
    let cpu: f64 = summary.stages.iter().map(|stage| stage.cpu_seconds).sum();
    let is_loop = summary
        .arms
        .values()
        .any(|arm| arm.texts == Texts::Bootstrapped);
    let title = if is_loop {
        "The whole loop"
    } else {
        "The whole run"
    };
    (summary.wall_seconds > 0.0).then(|| Tile {
        number: number::seconds(summary.wall_seconds),
        title: title.to_owned(),
        detail: format!(
            "{} of CPU over {} stages",
            number::seconds(cpu),
            summary.stages.len()
        ),
    })
}
