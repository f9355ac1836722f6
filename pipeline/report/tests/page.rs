//! The page as a reader's browser gets it: whole, well formed, escaped, and with the figures.

use std::collections::BTreeMap;
use std::fs;

use capstan_plan::results::{
    CurvePoint, ModelFigures, RetrievalFigures, Training, ValidationCurve, ZeroShotFigures,
};
use capstan_plan::row::Origin;
use capstan_plan::stage::{Family, ValidationMetric};
use capstan_report::arm::{Arm, Texts};
use capstan_report::summary::{BestStep, Filter, Judged, Pairs, StageFigures, Summary};
use capstan_report::{Error, RunReport, SampleCard, TextLine, write};
use scraper::{Html, Selector};

const SECTIONS: &[&str] = &[
    "verdict",
    "flow",
    "samples",
    "filter",
    "rejects",
    "comparison",
    "blind",
    "curves",
    "times",
    "limits",
];

fn page(report: &RunReport) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("report.html");
    write(&path, report).expect("the folder is there");
    assert_eq!(
        fs::read_dir(folder.path()).expect("it is there").count(),
        1,
        "nothing else is left behind"
    );
    fs::read_to_string(path).expect("it was written")
}

fn selector(text: &str) -> Selector {
    Selector::parse(text).expect("a selector of this file")
}

fn texts(page: &str, css: &str) -> Vec<String> {
    let document = Html::parse_document(page);
    document
        .select(&selector(css))
        .map(|element| element.text().collect())
        .collect()
}

/// Every tag is closed in order, and none was broken by a value.
fn assert_well_formed(page: &str) {
    const VOID: &[&str] = &["meta", "img", "br", "hr", "input", "link"];
    let mut open = Vec::new();
    let mut rest = page;
    while let Some(start) = rest.find('<') {
        rest = &rest[start + 1..];
        let end = rest.find('>').expect("a tag ends");
        let tag = &rest[..end];
        rest = &rest[end + 1..];
        assert_eq!(
            tag.matches('"').count() % 2,
            0,
            "quotes are even in <{tag}>"
        );
        let name: String = tag
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '!'))
            .collect();
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop().as_deref(), Some(name)),
            None if name == "!DOCTYPE" || VOID.contains(&name.as_str()) => {}
            None => open.push(name.clone()),
        }
        if name == "style" || name == "script" {
            rest = &rest[rest.find("</").expect("it is closed")..];
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
}

fn model(mean: f64) -> ModelFigures {
    ModelFigures {
        retrieval: Some(RetrievalFigures {
            tr_at_1: mean + 3.0,
            tr_at_5: 77.7,
            tr_at_10: None,
            ir_at_1: mean - 3.0,
            ir_at_5: 66.6,
            ir_at_10: None,
        }),
        zero_shot: Some(ZeroShotFigures { accuracy: 33.3 }),
        ..ModelFigures::default()
    }
}

fn clip(texts: Texts) -> Arm {
    Arm {
        family: Some(Family::Clip),
        texts,
    }
}

fn report() -> RunReport {
    let models = [
        ("clip_web", 14.2),
        ("clip_human", 36.4),
        ("clip_bootstrapped", 51.9),
    ];
    let judged = Judged {
        good: [60, 40],
        vague: [5, 5],
        bad: [10, 80],
    };
    let summary = Summary {
        seed: 7,
        stages: vec![StageFigures {
            name: "clip_web".to_owned(),
            wall_seconds: 41.2,
            cpu_seconds: 78.9,
            world_size: Some(2),
            bytes_reduced: Some(84_200_000),
            validation: None,
        }],
        remaining_shown_at_60s: Some(300.0),
        remaining_taken_at_60s: Some(320.0),
        wall_seconds: 380.0,
        pairs: Pairs {
            found: 2345,
            fetched: 2300,
            rejected: BTreeMap::from([("robots".to_owned(), 45)]),
            dropped: BTreeMap::from([("no_text".to_owned(), 1300)]),
            curated: 1000,
            curated_texts: 1111,
            curated_texts_by_kind: BTreeMap::from([("honest".to_owned(), 1111)]),
            kept_web: 444,
            dropped_web: 667,
            synthetic: 1000,
            kept_synthetic: 321,
            dropped_synthetic: 679,
            human: 50,
            ..Pairs::default()
        },
        filter: Some(Filter {
            web: judged.figures(),
            synthetic: Judged::default().figures(),
        }),
        models: models
            .map(|(name, mean)| (name.to_owned(), model(mean)))
            .into(),
        arms: [
            ("clip_web", Texts::Web),
            ("clip_human", Texts::Human),
            ("clip_bootstrapped", Texts::Bootstrapped),
        ]
        .map(|(name, texts)| (name.to_owned(), clip(texts)))
        .into(),
        blind: BTreeMap::from([("clip_bootstrapped".to_owned(), model(0.4))]),
        ..Summary::default()
    };
    RunReport {
        title: "capstan demo".to_owned(),
        summary,
        samples: vec![
            card("a red ball", Some(true)),
            card("IMG_0001.jpg", Some(false)),
        ],
        trainings: vec![("clip_web".to_owned(), training(&[3.4, 1.2]))],
        made_with: "capstan 0.1.0".to_owned(),
        started: Some("2026-01-05".to_owned()),
        command: Some("capstan demo --seed 7".to_owned()),
    }
}

fn card(text: &str, kept: Option<bool>) -> SampleCard {
    SampleCard {
        image: vec![0xff, 0xd8, 0xff, 0xe0],
        page_url: "http://gallery.demo.test/".to_owned(),
        image_url: "http://gallery.demo.test/1.jpg".to_owned(),
        curated: kept.is_some(),
        reason: kept.is_none().then(|| "no_query".to_owned()),
        texts: vec![TextLine {
            text: text.to_owned(),
            origin: Origin::Alt,
            itc: kept.map(|_| -0.12),
            itm: kept.map(|_| 0.73),
            kept,
            reason: kept.map(|_| "itm>=0.5".to_owned()),
            judgement: Some("good".to_owned()),
        }],
    }
}

fn training(losses: &[f64]) -> Training {
    let curve = losses.iter().enumerate().map(|(step, loss)| CurvePoint {
        step: step as u64,
        means: BTreeMap::from([("itc".to_owned(), *loss), ("loss".to_owned(), *loss)]),
    });
    Training {
        world_size: 2,
        bytes_reduced: 1,
        samples: 10,
        curve: curve.collect(),
        validation: None,
    }
}

/// Recall after 5, 10 and 15 steps, the best twice.
fn validation(published_step: u64) -> ValidationCurve {
    let metric = ValidationMetric::RecallAt1;
    let point =
        |(step, value): (u64, f64)| metric.point(step, &[value, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let points = [(5, 20.0), (10, 61.25), (15, 61.25)];
    ValidationCurve {
        metric,
        points: points.map(point).to_vec(),
        published_step,
    }
}

#[test]
fn a_validation_has_a_panel_with_the_best_step_and_the_published_one() {
    let plain = page(&report());
    assert!(!plain.contains("Validation"), "nothing was measured");
    for (published, text) in [
        (10, "best r_at_1 61.2 after 10 steps, published"),
        (
            15,
            "best r_at_1 61.2 after 10 steps, the weights of step 15 are published",
        ),
    ] {
        let mut report = report();
        report.trainings[0].1.validation = Some(validation(published));
        let page = page(&report);
        assert_well_formed(&page);
        let document = Html::parse_document(&page);
        let panels = selector("#curves figure.validation");
        let panel = document.select(&panels).next().unwrap();
        assert!(panel.inner_html().contains(text), "{}", panel.inner_html());
        let count = |of: &str| panel.select(&selector(of)).count();
        assert_eq!((count("path.l-metric"), count("path.l-other")), (1, 6));
        assert_eq!(count("circle.l-best"), 1);
    }
}

#[test]
fn the_summary_names_the_earliest_of_equal_steps() {
    let best = BestStep::of_curve(&validation(15)).unwrap();
    let expected = BestStep {
        metric: "r_at_1".to_owned(),
        best: 61.25,
        best_step: 10,
        published_step: 15,
    };
    assert_eq!(best, expected);
    let empty = ValidationCurve {
        points: Vec::new(),
        ..validation(15)
    };
    assert_eq!(BestStep::of_curve(&empty), None);
}

#[test]
fn every_section_is_there_and_the_page_is_well_formed() {
    let page = page(&report());
    assert_well_formed(&page);
    let document = Html::parse_document(&page);
    for id in SECTIONS {
        assert_eq!(
            document.select(&selector(&format!("#{id}"))).count(),
            1,
            "{id}"
        );
    }
    for link in document.select(&selector("nav a")) {
        let target = link.attr("href").unwrap();
        assert_eq!(
            document.select(&selector(target)).count(),
            1,
            "{target} leads somewhere"
        );
    }
}

#[test]
fn the_figures_of_the_summary_are_shown() {
    let page = page(&report());
    let whole = texts(&page, "body").concat();
    for figure in [
        "2,345",
        "2,300",
        "1,000",
        "1,111",
        "444",
        "667",
        "321",
        "679", // pairs
        "17.2",
        "11.2",
        "14.2",
        "51.9",
        "36.4",
        "77.7",
        "66.6",
        "33.3", // models
        "+37.7",
        "+22.2", // gains over web
        "85.7 %",
        "60.0 %",
        "50.0 %", // filter
        "41.2 s",
        "78.9 s",
        "84.2 MB",
        "5 min 20 s", // times
        "\u{2212}0.12",
        "0.73",
        "itm>=0.5", // a sample
    ] {
        assert!(whole.contains(figure), "{figure} is missing");
    }
    assert_eq!(
        texts(&page, "h1"),
        [
            "Against the raw web, bootstrapping gains 37.7 points of mean R@1 for CLIP; against human \
            pairs alone it gains 15.5 points of mean R@1 for CLIP."
        ]
    );
    assert!(texts(&page, ".comparison td.best").contains(&"51.9".to_owned()));
    assert!(texts(&page, ".sums.ok").len() == 1);
}

#[test]
fn a_loss_and_a_sum_that_does_not_close_are_said() {
    let mut report = report();
    report
        .summary
        .models
        .insert("clip_web".to_owned(), model(60.0));
    report.summary.pairs.fetched -= 1;
    let page = page(&report);
    assert!(texts(&page, "h1")[0].contains("loses 8.1 points of mean R@1 for CLIP"));
    assert!(texts(&page, ".caution")[0].contains("cannot tell"));
    assert!(texts(&page, ".sums.broken")[0].contains("found = fetched + rejected"));
    assert!(texts(&page, ".comparison .gain.down").contains(&"\u{2212}8.1".to_owned()));
}

#[test]
fn hostile_text_stays_text() {
    let hostile = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>";
    let mut report = report();
    let mut card = card(hostile, Some(true));
    card.page_url = format!("javascript:{hostile}");
    card.image_url = format!("http://x/{hostile}");
    card.image = b"<svg onload=alert(3)></svg>".to_vec();
    card.texts[0].reason = Some(hostile.to_owned());
    card.texts[0].judgement = Some(hostile.to_owned());
    report.samples.push(card);
    report.title = hostile.to_owned();
    report.command = Some(hostile.to_owned());
    report
        .trainings
        .push((hostile.to_owned(), training(&[1.0])));
    report.summary.pairs.rejected.insert(hostile.to_owned(), 0);
    report
        .summary
        .models
        .insert(format!("clip_{hostile}"), model(1.0));
    report.summary.blind.insert(hostile.to_owned(), model(1.0));
    report.summary.stages[0].name = hostile.to_owned();
    let page = page(&report);
    assert_well_formed(&page);
    let document = Html::parse_document(&page);
    assert_eq!(document.select(&selector("script")).count(), 1, "our own");
    let pictures: Vec<&str> = document
        .select(&selector("img"))
        .filter_map(|image| image.attr("src"))
        .collect();
    assert_eq!(pictures.len(), 2);
    assert!(
        pictures
            .iter()
            .all(|source| source.starts_with("data:image/jpeg;base64,"))
    );
    for element in document.select(&selector("*")) {
        assert!(
            element
                .value()
                .attrs()
                .all(|(name, _)| !name.starts_with("on"))
        );
    }
    assert!(
        document
            .select(&selector("a"))
            .all(|link| link.attr("href").unwrap().starts_with('#'))
    );
    assert!(
        texts(&page, ".words").iter().any(|text| text == hostile),
        "it is shown as it is"
    );
}

#[test]
fn a_run_without_anything_still_has_its_page() {
    let page = page(&RunReport::default());
    assert_well_formed(&page);
    assert!(!page.contains("NaN") && !page.contains(">inf"));
    // Flow, samples, filter (2), rejects (3), comparison, blind, curves, times.
    assert_eq!(texts(&page, ".missing").len(), 11);
    assert!(texts(&page, "h1")[0].contains("says nothing"));
}

#[test]
fn a_run_without_a_judge_claims_nothing_of_one() {
    let mut report = report();
    report.summary.filter = None;
    report.summary.pairs.curated_texts_by_kind.clear();
    report
        .samples
        .iter_mut()
        .for_each(|card| card.texts[0].judgement = None);
    let page = page(&report);
    assert_well_formed(&page);
    let body = texts(&page, "body").concat();
    assert!(
        !body.to_lowercase().contains("judge\u{2019}s word"),
        "no judge"
    );
    assert!(!body.contains("Precision"), "no precision without a judge");
    assert_eq!(
        texts(&page, "#filter .total"),
        ["444 kept of 1,111", "321 kept of 1,000"]
    );
    let limits = texts(&page, "#limits li");
    assert_eq!(limits.len(), 3, "{limits:?}");
}

#[test]
fn a_run_that_imports_and_trains_shows_its_texts_as_not_filtered() {
    let mut report = report();
    report.summary = Summary {
        pairs: Pairs {
            imported: true,
            found: 12,
            fetched: 10,
            rejected: BTreeMap::from([("decode".to_owned(), 2)]),
            curated: 10,
            curated_texts: 20,
            unfiltered_web: 20,
            ..Pairs::default()
        },
        ..Summary::default()
    };
    let page = page(&report);
    assert_well_formed(&page);
    assert_eq!(texts(&page, ".sums.ok").len(), 1);
    let labels = texts(&page, "#flow .flow-label");
    assert_eq!(
        labels,
        [
            "pictures found",
            "imported",
            "rejected",
            "pictures curated",
            "web texts",
            "web, not filtered",
            "texts to train on"
        ]
    );
}

#[test]
fn curves_that_are_empty_or_no_numbers_break_nothing() {
    let mut report = report();
    report.trainings = vec![
        ("empty".to_owned(), training(&[])),
        ("one".to_owned(), training(&[2.0])),
        (
            "nan".to_owned(),
            training(&[f64::NAN, f64::INFINITY, f64::NAN]),
        ),
        (
            "holes".to_owned(),
            training(&[4.0, 3.0, f64::NAN, 2.0, 1.0]),
        ),
    ];
    report
        .summary
        .models
        .insert("clip_web".to_owned(), model(f64::NAN));
    report.summary.stages[0].wall_seconds = f64::NAN;
    report.samples[0].texts[0].itm = Some(f32::NAN);
    let page = page(&report);
    assert_well_formed(&page);
    assert!(
        !page.contains("NaN") && !page.contains("inf\""),
        "no coordinate is no number"
    );
    let document = Html::parse_document(&page);
    let drawn: Vec<(usize, usize)> = document
        .select(&selector("#curves figure"))
        .map(|panel| {
            let count = |css: &str| panel.select(&selector(css)).count();
            (count("path"), count("circle"))
        })
        .collect();
    assert_eq!(drawn, [(0, 0), (0, 1), (0, 0), (1, 0)]);
}

#[test]
fn nothing_is_loaded_from_anywhere() {
    let page = page(&report());
    let document = Html::parse_document(&page);
    let policy = document
        .select(&selector("meta[http-equiv]"))
        .next()
        .unwrap();
    assert!(
        policy
            .attr("content")
            .unwrap()
            .starts_with("default-src 'none'; img-src data:;")
    );
    assert_eq!(
        document
            .select(&selector("link, iframe, object, [srcset]"))
            .count(),
        0
    );
    assert!(!page.contains("url(") && !page.contains("@import"));
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nowhere/report.html");
    let error = write(&path, &report()).unwrap_err();
    let Error::Write { source, .. } = &error;
    assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
    assert!(error.to_string().contains("nowhere/report.html"), "{error}");
}

#[test]
fn an_older_page_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.html");
    fs::write(&path, "old").unwrap();
    write(&path, &report()).unwrap();
    assert!(
        fs::read_to_string(&path)
            .unwrap()
            .starts_with("<!DOCTYPE html>")
    );
}
