//! A page with made-up figures, to look at: `cargo run -p capstan-report --example sample_report -- report.html`.
//!
//! Nothing here was measured; the pictures are drawn below.

use std::collections::BTreeMap;
use std::f64::consts::PI;
use std::path::Path;

use capstan_plan::results::{
    CaptioningFigures, CurvePoint, ModelFigures, RetrievalFigures, Training, ValidationCurve,
    ZeroShotFigures,
};
use capstan_plan::row::Origin;
use capstan_plan::stage::{Family, ValidationMetric};
use capstan_report::arm::{Arm, Texts};
use capstan_report::summary::{Filter, FilterFigures, Pairs, StageFigures, Summary};
use capstan_report::{RunReport, SampleCard, TextLine};
use image::{ImageFormat, Rgb, RgbImage};

type Figures = (&'static str, [f64; 4], f64, Option<[f64; 2]>);

/// TR@1, TR@5, IR@1, IR@5; zero-shot; CIDEr raw and fine-tuned.
const MODELS: &[Figures] = &[
    ("clip_web", [15.2, 38.4, 12.3, 34.0], 14.2, None),
    ("clip_human", [40.4, 72.8, 32.1, 66.9], 38.0, None),
    ("clip_bootstrapped", [55.6, 85.2, 45.5, 80.4], 47.1, None),
    (
        "blip_web",
        [27.2, 58.0, 24.7, 55.2],
        25.3,
        Some([261.0, 294.0]),
    ),
    (
        "blip_bootstrapped",
        [61.6, 88.4, 53.8, 84.1],
        51.8,
        Some([326.0, 289.0]),
    ),
];

const STAGES: &[(&str, f64, f64, Option<u64>)] = &[
    ("crawl", 31.4, 18.0, None),
    ("human", 0.6, 0.5, None),
    ("evaluation", 0.4, 0.3, None),
    ("curate", 1.9, 2.8, None),
    ("balance", 0.3, 0.3, None),
    ("tokenizer", 0.2, 0.2, None),
    ("blip_web", 98.2, 188.1, Some(1_120_000_000)),
    ("captioner", 24.8, 47.0, Some(410_000_000)),
    ("matcher", 28.1, 53.9, Some(430_000_000)),
    ("caption", 6.2, 11.8, None),
    ("filter", 4.1, 7.7, None),
    ("blip_bootstrapped", 99.0, 189.7, Some(1_120_000_000)),
    ("clip_web", 38.8, 73.0, Some(560_000_000)),
    ("clip_human", 38.1, 72.6, Some(560_000_000)),
    ("clip_bootstrapped", 38.9, 73.3, Some(560_000_000)),
    ("evaluate_blip_bootstrapped", 9.1, 9.0, None),
    ("evaluate_clip_bootstrapped", 2.4, 2.3, None),
];

const COLOURS: &[(&str, [u8; 3])] = &[
    ("red", [205, 62, 52]),
    ("blue", [58, 98, 196]),
    ("green", [62, 148, 82]),
    ("yellow", [228, 188, 58]),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args()
        .nth(1)
        .ok_or("name the file to write, such as report.html")?;
    capstan_report::write(Path::new(&path), &report()?)?;
    Ok(())
}

fn report() -> Result<RunReport, image::ImageError> {
    Ok(RunReport {
        title: "Capstan demo (made-up figures)".to_owned(),
        summary: summary(),
        samples: (0..60).map(card).collect::<Result<_, _>>()?,
        trainings: trainings(),
        made_with: concat!("capstan ", env!("CARGO_PKG_VERSION")).to_owned(),
        started: Some("2026-01-05 09:30 UTC".to_owned()),
        command: Some("capstan demo --seed 1".to_owned()),
    })
}

fn summary() -> Summary {
    let models: BTreeMap<_, _> = MODELS
        .iter()
        .map(|figures| (figures.0.to_owned(), model(figures, 1.0)))
        .collect();
    let blind = MODELS
        .iter()
        .filter(|figures| arm(figures.0).texts == Texts::Bootstrapped);
    Summary {
        seed: 1,
        stages: STAGES.iter().map(stage).collect(),
        remaining_shown_at_60s: Some(371.0),
        remaining_taken_at_60s: Some(342.0),
        wall_seconds: 402.0,
        pairs: pairs(),
        filter: Some(Filter {
            web: FilterFigures {
                precision: 90.8,
                recall: 46.6,
                good_share_all: 41.0,
                good_share_kept: 79.5,
            },
            synthetic: FilterFigures {
                precision: 29.2,
                recall: 71.3,
                good_share_all: 19.8,
                good_share_kept: 26.9,
            },
        }),
        models,
        arms: MODELS
            .iter()
            .map(|(name, ..)| ((*name).to_owned(), arm(name)))
            .collect(),
        blind: blind
            .map(|figures| (figures.0.to_owned(), model(figures, 0.02)))
            .collect(),
        ..Summary::default()
    }
}

/// The models of this page are named after their family and arm.
fn arm(name: &str) -> Arm {
    let (family, texts) = name.split_once('_').unwrap_or_default();
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

fn model((_, retrieval, zero_shot, cider): &Figures, share: f64) -> ModelFigures {
    let scaled = |more: f64| {
        let [tr_at_1, tr_at_5, ir_at_1, ir_at_5] = retrieval.map(|figure| (figure + more) * share);
        RetrievalFigures {
            tr_at_1,
            tr_at_5,
            tr_at_10: None,
            ir_at_1,
            ir_at_5,
            ir_at_10: None,
        }
    };
    let captions = |cider: f64| CaptioningFigures {
        cider: cider * share,
        bleu4: cider / 7.0 * share,
        rouge_l: Some(cider / 5.0 * share),
    };
    ModelFigures {
        retrieval: Some(scaled(0.0)),
        retrieval_reranked: cider.map(|_| scaled(2.1)),
        zero_shot: Some(ZeroShotFigures {
            accuracy: zero_shot * share,
        }),
        captioning: cider.map(|[raw, _]| captions(raw)),
        captioning_fine_tuned: cider.map(|[_, fine_tuned]| captions(fine_tuned)),
    }
}

fn stage((name, wall, cpu, reduced): &(&str, f64, f64, Option<u64>)) -> StageFigures {
    StageFigures {
        name: (*name).to_owned(),
        wall_seconds: *wall,
        cpu_seconds: *cpu,
        world_size: reduced.map(|_| 2),
        bytes_reduced: *reduced,
        validation: None,
    }
}

fn pairs() -> Pairs {
    let counts = |counts: &[(&str, u64)]| {
        counts
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect()
    };
    Pairs {
        found: 6204,
        fetched: 6021,
        rejected: counts(&[
            ("robots", 61),
            ("http_status", 40),
            ("opt_out", 38),
            ("decode", 14),
            ("not_image", 11),
            ("too_small", 8),
            ("bytes", 6),
            ("redirects", 5),
        ]),
        dropped: counts(&[
            ("no_text", 402),
            ("no_query", 180),
            ("query_cap", 120),
            ("duplicate", 77),
        ]),
        curated: 5242,
        curated_texts: 5417,
        curated_texts_by_kind: counts(&[
            ("honest", 2178),
            ("other", 861),
            ("boilerplate", 753),
            ("file", 648),
            ("vague", 540),
            ("wrong", 437),
        ]),
        kept_web: 1270,
        dropped_web: 4147,
        synthetic: 5242,
        kept_synthetic: 2770,
        dropped_synthetic: 2472,
        human: 500,
        ..Pairs::default()
    }
}

fn trainings() -> Vec<(String, Training)> {
    let trained = STAGES.iter().filter_map(|stage| Some((stage.0, stage.3?)));
    trained
        .map(|(name, bytes_reduced)| {
            let parts: &[(&str, f64, f64)] = match name {
                "captioner" => &[("lm", 1.4, 0.9)],
                "matcher" => &[("itc", 1.9, 1.1), ("itm", 0.5, 0.35)],
                name if name.starts_with("blip") => {
                    &[("itc", 3.4, 0.9), ("itm", 0.64, 0.3), ("lm", 4.8, 0.8)]
                }
                _ => &[("itc", 3.4, 0.7)],
            };
            let curve = (0..200).map(|index| point(index, parts)).collect();
            let training = Training {
                world_size: 2,
                bytes_reduced,
                samples: 4540,
                curve,
                validation: (name == "captioner").then(validation),
            };
            (name.to_owned(), training)
        })
        .collect()
}

/// CIDEr of a captioner that learns its few pictures by heart.
fn validation() -> ValidationCurve {
    let metric = ValidationMetric::Cider;
    let point = |index: u32| {
        let cider = 96.0 - 0.4 * (f64::from(index) - 7.0).powi(2);
        metric.point(20 * u64::from(index), &[cider, cider / 3.0, cider / 2.0])
    };
    ValidationCurve {
        metric,
        points: (1..=10).map(point).collect(),
        published_step: 140,
    }
}

fn point(index: u32, parts: &[(&str, f64, f64)]) -> CurvePoint {
    let at = f64::from(index);
    let wobble = 1.0 + 0.05 * (at * 1.7).sin() * (at * 0.37).cos();
    let mut means: BTreeMap<String, f64> = parts
        .iter()
        .map(|(part, first, last)| {
            (
                (*part).to_owned(),
                wobble * (last + (first - last) * (-at / 45.0).exp()),
            )
        })
        .collect();
    means.insert("loss".to_owned(), means.values().sum());
    CurvePoint {
        step: u64::from(index) * 7 + 6,
        means,
    }
}

fn card(index: u32) -> Result<SampleCard, image::ImageError> {
    let count = index % 3 + 1;
    let (colour, rgb) = COLOURS[(index / 3) as usize % COLOURS.len()];
    let (other, _) = COLOURS[(index / 3 + 1) as usize % COLOURS.len()];
    let words = ["a", "two", "three"][count as usize - 1];
    let plural = if count > 1 { "s" } else { "" };
    let curated = index % 10 != 9;
    let honest = format!("{words} {colour} ball{plural} on a sandy ground");
    let (web, web_kept, web_good) = match index % 5 {
        0 | 3 => (honest, index % 4 != 3, "good"),
        1 => (format!("IMG_{:04}.jpg", 1200 + index), false, "bad"),
        2 => (
            format!("{words} {other} ball{plural}, small"),
            index.is_multiple_of(4),
            "bad",
        ),
        _ => (
            "Click to enlarge | Free shipping on all orders".to_owned(),
            false,
            "bad",
        ),
    };
    let synthetic_good = index.is_multiple_of(3);
    let caption = if synthetic_good { colour } else { other };
    let mut texts = vec![line(
        &web,
        Origin::Alt,
        curated.then_some(web_kept),
        web_good,
        index,
    )];
    if curated {
        let caption = format!("{words} {caption} ball{plural}");
        let judgement = if synthetic_good { "good" } else { "bad" };
        let kept = Some(index % 7 < 4);
        texts.push(line(
            &caption,
            Origin::Synthetic,
            kept,
            judgement,
            index + 1,
        ));
    }
    Ok(SampleCard {
        image: picture(count, rgb, index)?,
        page_url: format!("http://gallery.demo.test/room/{}", index / 6),
        image_url: format!("http://gallery.demo.test/images/{index}.jpg"),
        curated,
        reason: (!curated).then(|| "query_cap".to_owned()),
        texts,
    })
}

fn line(text: &str, origin: Origin, kept: Option<bool>, judgement: &str, index: u32) -> TextLine {
    let spread = (index * 37 % 40) as f32 / 100.0;
    TextLine {
        text: text.to_owned(),
        origin,
        itc: kept.map(|kept| if kept { 0.45 + spread } else { spread - 0.05 }),
        itm: kept.map(|kept| if kept { 0.58 + spread } else { 0.05 + spread }),
        kept,
        reason: kept.map(|kept| if kept { "itm>=0.5" } else { "itm<0.5" }.to_owned()),
        judgement: Some(judgement.to_owned()),
    }
}

/// Balls with a highlight on a waved ground.
fn picture(count: u32, colour: [u8; 3], index: u32) -> Result<Vec<u8>, image::ImageError> {
    let shade = |colour: [u8; 3], light: f64| {
        Rgb(colour.map(|part| (f64::from(part) * light).clamp(0.0, 255.0) as u8))
    };
    let picture = RgbImage::from_fn(64, 64, |x, y| {
        let (x, y) = (f64::from(x), f64::from(y));
        let ground = 0.9 + 0.1 * (y / 3.0 + (x / 9.0 + f64::from(index)).sin() * PI).sin();
        let ball = (0..count).find_map(|ball| {
            let centre = 64.0 * (f64::from(ball) + 0.5) / f64::from(count);
            let from = ((x - centre).powi(2) + (y - 36.0).powi(2)).sqrt();
            let shine = ((x - centre + 3.0).powi(2) + (y - 32.0).powi(2)).sqrt();
            (from < 9.5).then_some(1.45 - shine / 14.0)
        });
        match ball {
            Some(light) => shade(colour, light),
            None => shade([214, 196, 160], ground),
        }
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png)?;
    Ok(bytes.into_inner())
}
