//! The demo from its first request to its report.

use capstan_tests::lines::Lines;
use serde_json::Value;

use crate::harness::{
    ALL_COMMITTED, assert_line, capstan, fail, outcome, small_demo, succeed, summary,
};
use crate::provenance::every_row_is_traceable;

#[test]
fn a_small_demo_runs_to_its_report_and_runs_again_without_work() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("out");
    succeed(&mut small_demo(&out));

    let figures = summary(&out);
    sums_close(&figures["pairs"]);
    every_row_is_traceable(&out);
    every_model_is_measured(&figures);
    let report = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(
        report.contains("<svg") && report.contains("data:image/"),
        "no plots or pictures"
    );
    let store = out.join("store");
    let verify = succeed(capstan(["dataset", "verify", "--store"]).arg(&store));
    assert_line(&verify.stdout, "clean");

    let before = outcome(&out);
    let again = succeed(&mut small_demo(&out));
    assert_line(&again.stderr, ALL_COMMITTED);
    assert_eq!(outcome(&out), before);
    assert_eq!(summary(&out)["models"], figures["models"]);

    tools_read_the_folder_of_a_demo(&out);
}

fn sums_close(pairs: &Value) {
    let number = |key: &str| pairs[key].as_u64().unwrap_or_else(|| panic!("no `{key}`"));
    let total = |key: &str| -> u64 {
        pairs[key]
            .as_object()
            .unwrap()
            .values()
            .map(|count| count.as_u64().unwrap())
            .sum()
    };
    assert!(number("fetched") > 150, "{pairs}");
    assert_eq!(number("found"), number("fetched") + total("rejected"));
    assert_eq!(number("fetched"), number("curated") + total("dropped"));
    assert_eq!(
        number("curated_texts"),
        number("kept_web") + number("dropped_web")
    );
    assert_eq!(
        number("synthetic"),
        number("kept_synthetic") + number("dropped_synthetic")
    );
    assert_eq!(number("human"), 40);
}

fn every_model_is_measured(figures: &Value) {
    for model in [
        "clip_web",
        "clip_bootstrapped",
        "blip_web",
        "blip_bootstrapped",
    ] {
        let of_model = &figures["models"][model];
        for figure in ["tr_at_1", "tr_at_5", "ir_at_1", "ir_at_5"] {
            let value = of_model["retrieval"][figure].as_f64().unwrap();
            assert!((0.0..=100.0).contains(&value), "{model} {figure} {value}");
        }
        assert!(of_model["zero_shot"]["accuracy"].is_f64(), "{model}");
        let blip = model.starts_with("blip");
        for figure in ["retrieval_reranked", "captioning", "captioning_fine_tuned"] {
            assert_eq!(of_model[figure].is_object(), blip, "{model} {figure}");
        }
    }
    for model in ["clip_bootstrapped", "blip_bootstrapped"] {
        assert!(
            figures["blind"][model]["retrieval"].is_object(),
            "{model} blind"
        );
    }
    let stages = figures["stages"].as_object().unwrap();
    let trained = stages.values().filter(|stage| stage["world_size"] == 2);
    assert!(trained.clone().count() >= 7, "gangs of two ranks");
    assert!(
        trained
            .clone()
            .all(|stage| stage["bytes_reduced"].as_u64().unwrap() > 0)
    );
}

/// `caption`, `match` and `dataset` on the folder of a demo.
fn tools_read_the_folder_of_a_demo(out: &std::path::Path) {
    let picture = out.join("annotations/evaluation/images");
    let picture = std::fs::read_dir(picture)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let models = out.join("models");
    let output = succeed(
        capstan(["caption", "--json", "--model"])
            .arg(models.join("captioner"))
            .arg(&picture),
    );
    let caption: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(caption["caption"].is_string(), "{caption}");
    for (model, itm) in [("matcher", true), ("clip_web", false)] {
        let output = succeed(
            capstan(["match", "--json", "--model"])
                .arg(models.join(model))
                .arg(&picture)
                .args(["a red ball", "two blue rings"]),
        );
        let lines: Vec<Value> = String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        assert!(
            lines
                .iter()
                .all(|l| l["itc"].is_f64() && l["itm"].is_f64() == itm),
            "{lines:?}"
        );
    }
    unreadable_pictures_are_refused(out);
    let store = out.join("store");
    let output = succeed(capstan(["dataset", "ls", "--json", "--store"]).arg(&store));
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(listed.as_array().unwrap().len() >= 8, "{listed}");
    let output = succeed(
        capstan(["dataset", "show", "web", "--rows", "3", "--json", "--store"]).arg(&store),
    );
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 3);
    succeed(capstan(["dataset", "stats", "web", "--json", "--store"]).arg(&store));
}

fn unreadable_pictures_are_refused(out: &std::path::Path) {
    let mut lines = Lines::expected_in("e2e", "unreadable_pictures_are_refused");
    let folder = out.parent().unwrap();
    lines.name("$DIR", folder.display());
    let picture = out.with_file_name("cut.png");
    std::fs::write(&picture, b"\x89PNG\r\n\x1a\nnot much of a picture").unwrap();
    for (command, texts, model) in [
        ("caption", &[][..], "captioner"),
        ("match", &["a red ball"][..], "matcher"),
    ] {
        let mut command = capstan([command]);
        command
            .arg(&picture)
            .args(texts)
            .arg("--model")
            .arg(out.join("models").join(model));
        lines.add(&fail(&mut command, 6));
    }
    lines.check();
}
