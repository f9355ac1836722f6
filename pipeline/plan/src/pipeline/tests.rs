//! Pipeline files that hold and pipeline files that must be refused, each with its one line.

use super::*;

const DEMO: &str = include_str!("../../../../deploy/pipelines/demo.toml");
const CAPFILT: &str = include_str!("../../../../deploy/pipelines/capfilt.toml");
const CAPTION_FOLDER: &str = include_str!("../../../../deploy/pipelines/caption-folder.toml");
const FULL: &str = include_str!("../../../../services/cli/src/demo/full.toml");

/// Everything that is wrong with a text.
fn refused(text: &str) -> Vec<String> {
    let error = Pipeline::from_toml(text, "p.toml").unwrap_err();
    error.to_string().lines().map(str::to_owned).collect()
}

/// The line of the first occurrence of `part`, from 1.
fn line_of(text: &str, part: &str) -> usize {
    1 + text[..text.find(part).unwrap()].matches('\n').count()
}

#[test]
fn shipped_pipelines_are_read_and_every_stage_comes_after_its_inputs() {
    for text in [
        DEMO.to_owned(),
        format!("{DEMO}\n{FULL}"),
        CAPFILT.to_owned(),
        CAPTION_FOLDER.to_owned(),
    ] {
        let pipeline = Pipeline::from_toml(&text, "demo.toml").unwrap();
        let order = pipeline.order();
        assert_eq!(order.len(), pipeline.stages.len());
        for (position, name) in order.iter().enumerate() {
            for input in pipeline.stage(name).unwrap().kind.inputs() {
                assert!(order[..position].contains(&input), "{name} before {input}");
            }
        }
    }
}

#[test]
fn a_pipeline_survives_json() {
    let pipeline = Pipeline::from_toml(&format!("{DEMO}\n{FULL}"), "demo.toml").unwrap();
    let json = serde_json::to_string(&pipeline).unwrap();
    assert_eq!(serde_json::from_str::<Pipeline>(&json).unwrap(), pipeline);
}

#[test]
fn an_unknown_key_is_named_with_its_stage_and_line() {
    let text = DEMO.replacen("cap = 2000", "cup = 2000", 1);
    let line = line_of(&text, "cup = 2000");
    assert_eq!(
        refused(&text),
        [format!(
            "p.toml:{line}: stage `balance`: `cup = 2000`: \
             unknown field `cup`, expected one of `from`, `mode`, `cap`"
        )]
    );
    let text = DEMO.replacen("seed = 1", "sead = 1", 1);
    let line = line_of(&text, "sead");
    assert_eq!(
        refused(&text),
        [format!(
            "p.toml:{line}: `sead = 1`: unknown key; known are name, seed, max_quarantined, \
             stage, architectures, decodings, templates, training"
        )]
    );
}

#[test]
fn every_problem_is_listed_at_once_in_the_order_of_the_file() {
    let text = r#"
name = "Wrong"
[[stage]]
name = "web"
kind = "crawl"
dataset = "We b"
seeds = []
snapshot = "x"
storing = { jpeg_quality = 0 }
tries = "two"
depth = 3

[[stage]]
name = "captions"
kind = "caption"
from = "web"
model = "nobody"
decoding = { choose = { strategy = "nucleus", top_p = 9.0 }, max_tokens = 2 }

[[stage]]
name = "curated"
kind = "curate"
from = "captions"
queries = ["a"]
max_aspect = inf

[[stage]]
name = "odd"
kind = "crop"
"#;
    assert_eq!(
        refused(text),
        [
            "p.toml: `name = \"Wrong\"`: must be 1 to 100 lower-case letters, digits, `-` and `_`",
            "p.toml:6: stage `web`: `dataset = \"We b\"`: must be 1 to 100 lower-case letters, digits, \
             `-` and `_`",
            "p.toml:7: stage `web`: `seeds = [0 URLs]`: must be 1 to 1000000 URLs",
            "p.toml:9: stage `web`: `storing.jpeg_quality = 0`: must be 1 to 100",
            "p.toml:10: stage `web`: `tries = \"two\"`: invalid type: string \"two\", expected u32",
            "p.toml:11: stage `web`: `depth = 3`: unknown field `depth`, expected one of `dataset`, \
             `seeds`, `snapshot`, `user_agent`, `max_depth`, `max_pages`, `max_images`, `shards`, \
             `concurrency`, `concurrency_per_host`, `host_interval_ms`, `timeout_ms`, \
             `max_redirects`, `tries`, `max_page_bytes`, `max_image_bytes`, `max_text_bytes`, \
             `storing`",
            "p.toml:17: stage `captions`: `model = \"nobody\"`: no stage has this name",
            "p.toml:18: stage `captions`: `decoding.choose.top_p = 9.0`: must be over 0 and at most 1",
            "p.toml:18: stage `captions`: `decoding.max_tokens = 2`: must be 5 to 65536",
            "p.toml:25: stage `curated`: `max_aspect = inf`: must be 1 to 1000",
            "p.toml:27: stage `odd`: `kind = \"crop\"`: unknown kind; known are crawl, import, model, \
             curate, balance, tokenizer, train, caption, filter, evaluate",
        ]
    );
}

#[test]
fn values_are_checked_with_the_keys_that_cannot_be_read() {
    let text = DEMO.replacen("cap = 2000", "cap = 0\nfoo = 1", 1);
    let problems = refused(&text);
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems[0].ends_with("`cap = 0`: must be 1 to 1000000000000"),
        "{problems:?}"
    );
}

#[test]
fn a_stage_must_read_a_stage_that_exists_and_gives_what_it_needs() {
    let one = |text: &str| {
        let problems = refused(text);
        assert_eq!(problems.len(), 1, "{problems:?}");
        let (_, problem) = problems[0].split_once(": ").unwrap();
        problem.to_owned()
    };
    assert_eq!(
        one(&DEMO.replacen("from = \"curate\"", "from = \"curat\"", 1)),
        "stage `balance`: `from = \"curat\"`: no stage has this name"
    );
    assert_eq!(
        one(&DEMO.replacen("model = \"captioner\"", "model = \"balance\"", 1)),
        "stage `caption`: `model = \"balance\"`: must be a stage that gives a model; this is one of kind `balance`"
    );
    assert_eq!(
        one(&DEMO.replacen("from = \"crawl\"", "from = \"evaluate_clip_web\"", 1)),
        "stage `curate`: `from = \"evaluate_clip_web\"`: must be a stage that gives a dataset; this is one of kind `evaluate`"
    );
}

#[test]
fn models_must_have_been_trained_for_what_they_are_used_for() {
    let one = |from: &str, to: &str| {
        assert!(DEMO.contains(from), "{from}");
        let problems = refused(&DEMO.replacen(from, to, 1));
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems[0].split_once(": ").unwrap().1.to_owned()
    };
    assert_eq!(
        one("model = \"captioner\"", "model = \"clip_web\""),
        "stage `caption`: `model = \"clip_web\"`: must be a BLIP model that was trained with objective lm"
    );
    assert_eq!(
        one("model = \"matcher\"", "model = \"clip_web\""),
        "stage `filter`: `model = \"clip_web\"`: must be a BLIP model that was trained with objective itm"
    );
    assert_eq!(
        one(
            "data = [{ from = \"balance\" }, { from = \"human\" }]\nobjectives",
            "data = [{ from = \"balance\", web = \"kept\" }]\nobjectives"
        ),
        "stage `blip_web`: `data[0].web = \"kept\"`: must be all or none: no filter stage judged \
         the texts of this dataset"
    );
}

#[test]
fn a_cycle_is_named() {
    let problems = refused(&DEMO.replacen("from = \"crawl\"", "from = \"balance\"", 1));
    assert_eq!(
        problems,
        ["p.toml: stages wait for one another: `curate` reads `balance`, `balance` reads `curate`"]
    );
}

#[test]
fn stages_that_only_wait_for_a_cycle_are_not_named_with_it() {
    let stage = |name, from| {
        format!("[[stage]]\nname = \"{name}\"\nkind = \"balance\"\nfrom = \"{from}\"\n")
    };
    let stages = [("late", "c"), ("a", "b"), ("c", "a"), ("b", "c")];
    let stages = stages.map(|(name, from)| stage(name, from)).concat();
    assert_eq!(
        refused(&format!("name = \"round\"\n{stages}")),
        ["p.toml: stages wait for one another: `a` reads `b`, `b` reads `c`, `c` reads `a`"]
    );
}

#[test]
fn names_are_unique_and_plain() {
    let problems = refused(&DEMO.replacen("name = \"balance\"", "name = \"curate\"", 1));
    let own = problems
        .iter()
        .any(|p| p.ends_with("two stages have this name"));
    assert!(own, "{problems:?}");
    let problems = refused(&DEMO.replacen("name = \"balance\"", "name = \"Balance it\"", 1));
    let own = "stage `Balance it`: `name = \"Balance it\"`: must be 1 to 100 lower-case letters";
    assert!(problems.iter().any(|p| p.contains(own)), "{problems:?}");
    let problems = refused(&DEMO.replacen("dataset = \"human\"", "dataset = \"web\"", 1));
    assert!(
        problems[0].ends_with("stage `crawl` writes this dataset already; give each its own"),
        "{problems:?}"
    );
}

#[test]
fn a_batch_that_cannot_be_shared_out_is_refused() {
    let text = DEMO.replacen("world_size = 2", "world_size = 3", 1);
    let problems = refused(&text);
    let own = "stage `blip_web`: `global_batch = 32`: must be a multiple of `world_size` 3";
    assert!(problems[0].ends_with(own), "{problems:?}");
}

#[test]
fn momentum_needs_the_contrast_of_a_blip_and_dropout_a_blip() {
    let with = |line: &str, stage: &str, changes: &[(&str, &str)]| {
        let name = format!("name = \"{stage}\"\n");
        let mut text = DEMO.replacen(&name, &format!("{name}{line}\n"), 1);
        assert_ne!(text, DEMO, "{stage}");
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replacen(from, to, 1);
        }
        text
    };
    let (momentum, dropout) = ("momentum = { queue = 64 }", "dropout = 0.1");
    for (line, stage) in [
        (momentum, "blip_web"),
        (momentum, "matcher"),
        (dropout, "blip_web"),
        (dropout, "captioner"),
    ] {
        Pipeline::from_toml(&with(line, stage, &[]), "p.toml").unwrap();
    }
    let of_clip = ("init = \"blip_web\"", "init = \"clip_web\"");
    let contrast = ("[\"lm\"]\nsteps = 800", "[\"itc\"]\nsteps = 800");
    for (line, stage, changes) in [
        (momentum, "captioner", &[][..]),
        (momentum, "clip_web", &[]),
        (momentum, "captioner", &[of_clip, contrast]),
        (dropout, "clip_web", &[]),
        (dropout, "captioner", &[of_clip, contrast]),
    ] {
        let problems = refused(&with(line, stage, changes));
        let own = match line == momentum {
            true => {
                "`momentum = { ... }`: must be left out unless `objectives` has itc and the model is a BLIP"
            }
            false => "`dropout = 0.1`: must be 0 for CLIP, whose recipe has no dropout",
        };
        let own = format!("stage `{stage}`: {own}");
        assert!(problems[0].ends_with(&own), "{problems:?}");
    }
}

#[test]
fn a_text_that_is_no_toml_is_refused_with_its_line() {
    let problems = refused("name = \"x\"\nseed = = 1\n");
    assert!(problems[0].starts_with("p.toml:2: "), "{problems:?}");
}

const NAMED: &str = r#"
name = "named"
[architectures.tiny]
family = "clip"
image_size = 32
patch_size = 16
width = 8
heads = 1
vision_layers = 1
text_layers = 1
projection = 4
max_text_tokens = 8
[templates]
few = ["a {}"]
[training.short]
tokenizer = "words"
objectives = ["itc"]
steps = 5
global_batch = 4
learning_rate = 1e-3
[[stage]]
name = "pairs"
kind = "import"
dataset = "pairs"
format = "folder"
source = "x"
[[stage]]
name = "words"
kind = "tokenizer"
data = [{ from = "pairs" }]
[[stage]]
name = "clip"
kind = "train"
architecture = "tiny"
training = "short"
steps = 7
data = [{ from = "pairs" }]
[[stage]]
name = "figures"
kind = "evaluate"
model = "clip"
[stage.zero_shot]
from = "pairs"
templates = "few"
"#;

#[test]
fn named_tables_stand_for_what_they_hold() {
    let pipeline = Pipeline::from_toml(NAMED, "named.toml").unwrap();
    let Kind::Train(train) = &pipeline.stage(&"clip".into()).unwrap().kind else {
        panic!()
    };
    assert_eq!(train.architecture.as_ref().unwrap().width, 8);
    assert_eq!((train.steps, train.global_batch), (7, 4), "the stage wins");
    let Kind::Evaluate(figures) = &pipeline.stage(&"figures".into()).unwrap().kind else {
        panic!()
    };
    assert_eq!(figures.zero_shot.as_ref().unwrap().templates, ["a {}"]);
}

#[test]
fn presets_need_no_table_and_can_be_changed() {
    let read = |architecture: &str| {
        let text = NAMED.replacen("architecture = \"tiny\"", architecture, 1);
        let pipeline = Pipeline::from_toml(&text, "named.toml").unwrap();
        let Kind::Train(train) = &pipeline.stage(&"clip".into()).unwrap().kind else {
            panic!()
        };
        train.architecture.clone().unwrap()
    };
    for preset in ["vit-b-32", "vit-b-16", "vit-l-14"] {
        let found = read(&format!("architecture = {preset:?}"));
        assert!(found.text_width() < found.width && found.max_text_tokens == 77);
    }
    let larger = "architecture = { like = \"vit-b-16\", image_size = 384, projection = 64 }";
    let larger = read(larger);
    assert_eq!(
        (larger.image_size, larger.projection, larger.patch_size),
        (384, 64, 16)
    );
    let text = NAMED.replacen(
        "architecture = \"tiny\"",
        "architecture = { like = \"x\" }",
        1,
    );
    let refused = refused(&text);
    assert!(
        refused[0].contains("`architecture.like = \"x\"`"),
        "{refused:?}"
    );
}

#[test]
fn problems_of_named_tables_are_found_where_they_stand() {
    let text = NAMED.replacen("heads = 1", "heads = 3", 1);
    let line = line_of(&text, "width = 8");
    assert_eq!(
        refused(&text),
        [format!(
            "p.toml:{line}: stage `clip`: `architecture.width = 8`: must be a multiple of `heads` 3"
        )]
    );
    let text = NAMED.replacen("architecture = \"tiny\"", "architecture = \"huge\"", 1);
    let line = line_of(&text, "architecture = \"huge\"");
    assert_eq!(
        refused(&text),
        [format!(
            "p.toml:{line}: stage `clip`: `architecture = \"huge\"`: [architectures] has tiny; \
             presets are blip-base, blip-large, vit-b-16, vit-b-32, vit-l-14"
        )]
    );
    let text = NAMED.replacen("global_batch = 4", "global_bath = 4", 1);
    let line = line_of(&text, "global_bath");
    let problems = refused(&text);
    assert!(
        problems[0].starts_with(&format!(
            "p.toml:{line}: stage `clip`: `global_bath = 4`: unknown"
        )),
        "{problems:?}"
    );
}

#[test]
fn a_stage_may_say_itself_how_many_shards_it_can_do_without() {
    let text = DEMO.replacen(
        "kind = \"curate\"",
        "kind = \"curate\"\nmax_quarantined = 7",
        1,
    );
    let pipeline = Pipeline::from_toml(&text, "demo.toml").unwrap();
    let allowed = |name: &str| {
        let stage = pipeline.stage(&name.into()).unwrap();
        pipeline.max_quarantined_of(stage)
    };
    assert_eq!((allowed("curate"), allowed("balance")), (7, 0));
    let json = serde_json::to_string(&pipeline).unwrap();
    assert_eq!(serde_json::from_str::<Pipeline>(&json).unwrap(), pipeline);
    let plain = Pipeline::from_toml(DEMO, "demo.toml").unwrap();
    let stages = &serde_json::to_value(&plain).unwrap()["stage"];
    assert!(stages[0].get("max_quarantined").is_none(), "{stages}");
    let text = text.replacen("max_quarantined = 7", "max_quarantined = -7", 1);
    let line = line_of(&text, "max_quarantined = -7");
    assert_eq!(
        refused(&text),
        [format!(
            "p.toml:{line}: stage `curate`: `max_quarantined = -7`: \
             invalid value: integer `-7`, expected u64"
        )]
    );
}
