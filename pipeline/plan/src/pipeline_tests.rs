//! Pipeline files that hold and pipeline files that must be refused, each with its one line.

use super::*;

const DEMO: &str = include_str!("../../../deploy/pipelines/demo.toml");
const CAPFILT: &str = include_str!("../../../deploy/pipelines/capfilt.toml");
const CAPTION_FOLDER: &str = include_str!("../../../deploy/pipelines/caption-folder.toml");
const FULL: &str = include_str!("../../../services/cli/src/demo/full.toml");

fn refused(text: &str) -> String {
    let error = Pipeline::from_toml(text, "p.toml").unwrap_err().to_string();
    assert!(!error.contains('\n'), "more than one line: {error}");
    assert!(
        error.starts_with("p.toml: "),
        "does not name the file: {error}"
    );
    error
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
fn an_unknown_key_is_named_with_its_stage() {
    let error = refused(&DEMO.replacen("cap = 2000", "cup = 2000", 1));
    assert!(
        error.contains("`balance`") && error.contains("cup"),
        "{error}"
    );
    let error = refused(&DEMO.replacen("seed = 1", "sead = 1", 1));
    assert!(error.contains("sead"), "{error}");
}

#[test]
fn a_stage_must_read_a_stage_that_exists_and_gives_what_it_needs() {
    let error = refused(&DEMO.replacen("from = \"curate\"", "from = \"curat\"", 1));
    assert!(error.contains("`balance` reads `curat`"), "{error}");
    let error = refused(&DEMO.replacen("model = \"captioner\"", "model = \"balance\"", 1));
    assert!(error.contains("read as a model"), "{error}");
    let error = refused(&DEMO.replacen("from = \"crawl\"", "from = \"tokenizer\"", 1));
    assert!(error.contains("read as a dataset"), "{error}");
}

#[test]
fn a_cycle_is_named() {
    let error = refused(&DEMO.replacen("from = \"crawl\"", "from = \"balance\"", 1));
    let circle = "wait for one another: `curate` reads `balance`, `balance` reads `curate`";
    assert!(error.contains(circle), "{error}");
}

#[test]
fn stages_that_only_wait_for_a_cycle_are_not_named_with_it() {
    let stage = |name, from| {
        format!("[[stage]]\nname = \"{name}\"\nkind = \"balance\"\nfrom = \"{from}\"\n")
    };
    let stages = [("late", "c"), ("a", "b"), ("c", "a"), ("b", "c")];
    let stages = stages.map(|(name, from)| stage(name, from)).concat();
    let error = refused(&format!("name = \"round\"\n{stages}"));
    let circle = "one another: `a` reads `b`, `b` reads `c`, `c` reads `a`";
    assert!(error.ends_with(circle), "{error}");
}

#[test]
fn names_are_unique_and_plain() {
    let error = refused(&DEMO.replacen("name = \"balance\"", "name = \"curate\"", 1));
    assert!(error.contains("two stages are called `curate`"), "{error}");
    let error = refused(&DEMO.replacen("name = \"balance\"", "name = \"Balance it\"", 1));
    assert!(error.contains("`Balance it`"), "{error}");
}

#[test]
fn a_batch_that_cannot_be_shared_out_is_refused() {
    let error = refused(&DEMO.replacen("world_size = 2", "world_size = 3", 1));
    assert!(error.contains("no multiple of `world_size` 3"), "{error}");
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
    let error = refused(&text.replacen("= 7", "= -7", 1));
    assert!(
        error.contains("`max_quarantined = -7` is no number"),
        "{error}"
    );
}
