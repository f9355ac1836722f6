//! The key figures as tiles.

use maud::{Markup, html};

use crate::arm::families;
use crate::number;
use crate::summary::Summary;

struct Tile {
    number: String,
    title: String,
    detail: String,
}

/// The tiles of what was measured; those without a figure are left out.
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
    let gain = |family: &crate::arm::Family<'_>| {
        let gain = family.gain_over(summary, "web")?;
        let from = number::figure(family.mean_at_1(summary, "web"));
        let to = number::figure(family.mean_at_1(summary, "bootstrapped"));
        Some(Tile {
            number: number::points(gain),
            title: format!("{} over the raw web", family.title()),
            detail: format!("points of mean R@1: {from} → {to} %"),
        })
    };
    families(summary).iter().filter_map(gain).collect()
}

fn zero_shot(summary: &Summary) -> Option<Tile> {
    let of = |name: &str| {
        summary
            .model(name)?
            .zero_shot
            .map(|zero_shot| zero_shot.accuracy)
    };
    let (from, to) = (of("clip_web")?, of("clip_bootstrapped")?);
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
    (all > 0).then(|| Tile {
        number: number::count(pairs.kept_web + pairs.kept_synthetic),
        title: "Texts kept by the filter".to_owned(),
        detail: format!(
            "of {}: {} web, {} synthetic",
            number::count(all),
            number::count(pairs.kept_web),
            number::count(pairs.kept_synthetic)
        ),
    })
}

fn filter(summary: &Summary) -> Option<Tile> {
    let web = summary.filter.web;
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
    let of = |name: &str| summary.model(name)?.captioning_fine_tuned.map(|c| c.cider);
    let (from, to) = (of("blip_web")?, of("blip_bootstrapped")?);
    Some(Tile {
        number: number::points(to - from),
        title: "BLIP CIDEr, fine-tuned alike".to_owned(),
        detail: format!("{} → {}", number::decimal(from), number::decimal(to)),
    })
}

fn time(summary: &Summary) -> Option<Tile> {
    let cpu: f64 = summary.stages.iter().map(|stage| stage.cpu_seconds).sum();
    (summary.wall_seconds > 0.0).then(|| Tile {
        number: number::seconds(summary.wall_seconds),
        title: "The whole loop".to_owned(),
        detail: format!(
            "{} of CPU over {} stages",
            number::seconds(cpu),
            summary.stages.len()
        ),
    })
}
