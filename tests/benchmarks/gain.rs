//! Gains of bootstrapping over seeds 1, 2 and 3: runs `capstan demo` for each, prints the README's table,
//! and exits 1 if a figure is below its bound.
//!
//! ```text
//! cargo build --release && cargo run --release -p capstan-tests --bin gain -- [DIR]
//! ```
//! A demo that is already finished in the folder is not run again.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, ensure};
use capstan_plan::results::ModelFigures;
use capstan_report::summary::{Filter, Summary};

const SEEDS: [u64; 3] = [1, 2, 3];

fn main() -> anyhow::Result<ExitCode> {
    let dir = std::env::args()
        .nth(1)
        .map_or_else(|| PathBuf::from("target/gain"), PathBuf::from);
    let mut summaries = Vec::new();
    for seed in SEEDS {
        let out = dir.join(format!("seed-{seed}"));
        summaries.push(demo(seed, &out).with_context(|| format!("demo of seed {seed}"))?);
    }
    print_table(&summaries);
    let broken = broken_bounds(&summaries);
    for bound in &broken {
        println!("below the bound: {bound}");
    }
    Ok(if broken.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs one demo, or resumes it, and reads its summary.
fn demo(seed: u64, out: &Path) -> anyhow::Result<Summary> {
    let summary = out.join("summary.json");
    if !summary.exists() {
        let binary = std::env::current_exe()?.with_file_name("capstan");
        ensure!(
            binary.exists(),
            "{} is missing: cargo build --release",
            binary.display()
        );
        let status = Command::new(binary)
            .args(["demo", "--seed", &seed.to_string(), "--out"])
            .arg(out)
            .status()?;
        ensure!(status.success(), "capstan demo ended with {status}");
    }
    let text = std::fs::read_to_string(&summary)?;
    let summary: Summary = serde_json::from_str(&text)?;
    summary.check()?;
    Ok(summary)
}

/// Mean of TR@1 and IR@1.
fn recall(model: &ModelFigures) -> f64 {
    model
        .retrieval
        .map_or(f64::NAN, |figures| figures.mean_at_1())
}

fn zero_shot(model: &ModelFigures) -> f64 {
    model.zero_shot.map_or(f64::NAN, |figures| figures.accuracy)
}

fn cider(model: &ModelFigures) -> f64 {
    model.captioning.map_or(f64::NAN, |figures| figures.cider)
}

fn fine_tuned(model: &ModelFigures) -> f64 {
    model
        .captioning_fine_tuned
        .map_or(f64::NAN, |figures| figures.cider)
}

/// The filter against the judge; zeros, which hold no bound, where it was not judged.
fn filter(summary: &Summary) -> Filter {
    summary.filter.clone().unwrap_or_default()
}

type Figure = fn(&ModelFigures) -> f64;

/// A figure of one model in one summary.
fn of(summary: &Summary, model: &str, figure: Figure) -> f64 {
    summary.model(model).map_or(f64::NAN, figure)
}

fn print_table(summaries: &[Summary]) {
    let columns: &[(&str, &str, Figure)] = &[
        ("CLIP web", "clip_web", recall),
        ("human", "clip_human", recall),
        ("bootstrapped", "clip_bootstrapped", recall),
        ("zero-shot web", "clip_web", zero_shot),
        ("human", "clip_human", zero_shot),
        ("bootstrapped", "clip_bootstrapped", zero_shot),
        ("BLIP web", "blip_web", recall),
        ("bootstrapped", "blip_bootstrapped", recall),
        ("CIDEr web", "blip_web", cider),
        ("bootstrapped", "blip_bootstrapped", cider),
        ("fine-tuned web", "blip_web", fine_tuned),
        ("bootstrapped", "blip_bootstrapped", fine_tuned),
    ];
    let titles: Vec<_> = columns.iter().map(|(title, ..)| *title).collect();
    println!(
        "| Seed | {} | Filter precision / recall | Minutes |",
        titles.join(" | ")
    );
    println!("|---|{}---|---|", "---|".repeat(columns.len()));
    for summary in summaries {
        let figures: Vec<_> = columns
            .iter()
            .map(|(_, model, figure)| format!("{:.1}", of(summary, model, *figure)))
            .collect();
        let web = filter(summary).web;
        println!(
            "| {} | {} | {:.0} / {:.0} | {:.1} |",
            summary.seed,
            figures.join(" | "),
            web.precision,
            web.recall,
            summary.wall_seconds / 60.0
        );
    }
}

/// One line for each bound that does not hold.
fn broken_bounds(summaries: &[Summary]) -> Vec<String> {
    let mut broken = Vec::new();
    for summary in summaries {
        broken.extend(bounds_of_seed(summary));
    }
    let mean = |model: &str, figure: Figure| {
        summaries.iter().map(|s| of(s, model, figure)).sum::<f64>() / summaries.len() as f64
    };
    let (human, boot) = (
        mean("clip_human", recall),
        mean("clip_bootstrapped", recall),
    );
    at_least(
        &mut broken,
        "mean: CLIP bootstrapped R against human-only + 5",
        boot,
        human + 5.0,
    );
    let (web, boot) = (
        mean("blip_web", fine_tuned),
        mean("blip_bootstrapped", fine_tuned),
    );
    at_least(
        &mut broken,
        "mean: fine-tuned CIDEr against 95 % of web's",
        boot,
        0.95 * web,
    );
    let mut times: Vec<f64> = summaries.iter().map(|s| s.wall_seconds).collect();
    times.sort_by(f64::total_cmp);
    at_least(
        &mut broken,
        "median seconds at most 600",
        600.0,
        times[times.len() / 2],
    );
    at_least(
        &mut broken,
        "no run above 900 seconds",
        900.0,
        times[times.len() - 1],
    );
    broken
}

fn bounds_of_seed(summary: &Summary) -> Vec<String> {
    let mut broken = Vec::new();
    let mut bound = |what: &str, value: f64, least: f64| {
        at_least(
            &mut broken,
            &format!("seed {}: {what}", summary.seed),
            value,
            least,
        );
    };
    for (name, family, floor) in [("CLIP", "clip", 35.0), ("BLIP", "blip", 40.0)] {
        let web = of(summary, &format!("{family}_web"), recall);
        let boot = of(summary, &format!("{family}_bootstrapped"), recall);
        bound(
            &format!("{name} R bootstrapped against web + 10"),
            boot,
            web + 10.0,
        );
        bound(&format!("{name} R bootstrapped"), boot, floor);
    }
    let boot =
        |figure: Figure, family: &str| of(summary, &format!("{family}_bootstrapped"), figure);
    let web = |figure: Figure, family: &str| of(summary, &format!("{family}_web"), figure);
    bound(
        "CLIP zero-shot against web + 15",
        boot(zero_shot, "clip"),
        web(zero_shot, "clip") + 15.0,
    );
    bound(
        "CIDEr against web's",
        boot(cider, "blip"),
        web(cider, "blip"),
    );
    bound(
        "filter precision on web texts",
        filter(summary).web.precision,
        80.0,
    );
    bound(
        "filter recall on web texts",
        filter(summary).web.recall,
        25.0,
    );
    let synthetic = filter(summary).synthetic;
    bound(
        "good share of kept synthetic texts against all",
        synthetic.good_share_kept,
        synthetic.good_share_all,
    );
    let human = of(summary, "clip_human", recall);
    bound(
        "CLIP bootstrapped R against human-only",
        boot(recall, "clip"),
        human,
    );
    for (model, blind) in &summary.blind {
        let retrieval = blind.retrieval;
        let at_1 = retrieval.map_or(f64::NAN, |r| r.tr_at_1.max(r.ir_at_1));
        let at_5 = retrieval.map_or(f64::NAN, |r| r.tr_at_5.max(r.ir_at_5));
        bound(&format!("{model} blind R@1 at most 2"), 2.0, at_1);
        bound(&format!("{model} blind R@5 at most 6"), 6.0, at_5);
        bound(
            &format!("{model} blind zero-shot at most 10"),
            10.0,
            zero_shot(blind),
        );
        if let (Some(sighted), Some(blind)) = (
            summary.model(model).and_then(|m| m.captioning),
            blind.captioning,
        ) {
            let what = format!("{model} blind CIDEr under half of the sighted one");
            bound(&what, sighted.cider / 2.0, blind.cider);
        }
    }
    for stage in summary.stages.iter().filter(|s| s.world_size.is_some()) {
        let what = format!("{}: CPU seconds a second", stage.name);
        bound(&what, stage.cpu_seconds / stage.wall_seconds, 1.6);
    }
    if let Some(took) = summary.remaining_taken_at_60s {
        let shown = summary.remaining_shown_at_60s.unwrap_or(f64::NAN);
        let off = (shown / took - 1.0).abs() * 100.0;
        bound(
            "remaining time shown at 60 s off by at most 40 %",
            40.0,
            off,
        );
    }
    if summary.blind.is_empty() {
        broken.push(format!("seed {}: no blind figures", summary.seed));
    }
    broken
}

/// Adds a line if the bound does not hold. A missing figure holds no bound.
fn at_least(broken: &mut Vec<String>, what: &str, value: f64, least: f64) {
    // NaN compares as false, so it counts as broken.
    let holds = value >= least;
    if !holds {
        broken.push(format!("{what}: {value:.1} is below {least:.1}"));
    }
}
