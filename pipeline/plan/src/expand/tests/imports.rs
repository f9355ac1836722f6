//! Imports in slices, given models, and what their recipes depend on.

use super::*;
use crate::stage::{ImportWork, TrainWork};
use crate::task::Slice;

const GIVEN: &str = r#"
name = "given"
[[stage]]
name = "pairs"
kind = "import"
dataset = "pairs"
format = "img2dataset"
source = "downloads"
shards = 3
[[stage]]
name = "captioner"
kind = "model"
source = "models/captioner"
[[stage]]
name = "captions"
kind = "caption"
from = "pairs"
model = "captioner"
decoding = { choose = { strategy = "greedy" } }
[[stage]]
name = "further"
kind = "train"
init = "captioner"
tokenizer = "captioner"
data = [{ from = "pairs" }]
objectives = ["lm"]
steps = 1
global_batch = 2
learning_rate = 0.1
"#;

fn stage(text: &str) -> Stage {
    let pipeline = Pipeline::from_toml(&format!("name = \"one\"\n{text}"), "p.toml");
    pipeline.unwrap().stages.remove(0)
}

fn import(settings: &str) -> Stage {
    stage(&format!(
        "[[stage]]\nname = \"i\"\nkind = \"import\"\ndataset = \"d\"\nsource = \"s\"\n{settings}"
    ))
}

/// The one problem of a stage, without file and line.
fn refused(settings: &str) -> String {
    let text = format!("name = \"one\"\n[[stage]]\nname = \"s\"\n{settings}");
    let error = Pipeline::from_toml(&text, "p.toml").unwrap_err();
    assert_eq!(error.problems.len(), 1, "{error}");
    error.problems[0].to_string()
}

/// Recipes of the first step under a run.
fn recipes(stage: &Stage, run: &str) -> Vec<RecipeHash> {
    let (mut world, none) = (World::default(), BTreeSet::new());
    match world.expand_for(run, stage, 1, &Commits::new(), &none) {
        Ok(Expansion::Tasks(tasks)) => tasks.iter().map(|task| task.recipe).collect(),
        other => panic!("nothing to do: {other:?}"),
    }
}

#[test]
fn a_rule_for_texts_stays_out_of_the_json_while_it_is_the_default() {
    let json = |settings: &str| serde_json::to_value(import(settings).kind).unwrap();
    let format = "format = \"folder\"\nsnapshot = \"1\"\n";
    let plain = json(format);
    assert_eq!(plain.get("texts"), None);
    assert_eq!(json(&format!("{format}texts = \"optional\"\n")), plain);
    let required = format!("{format}texts = \"required\"\n");
    assert_eq!(json(&required)["texts"], "required");
    assert_ne!(
        recipes(&import(&required), "r"),
        recipes(&import(format), "r")
    );
    let line = refused(&format!(
        "kind = \"import\"\ndataset = \"d\"\nsource = \"s\"\n{format}texts = \"maybe\"\n"
    ));
    assert!(line.contains("optional"), "{line}");
}

#[test]
fn an_import_is_split_into_slices_and_a_given_model_is_read_like_a_trained_one() {
    let pipeline = Pipeline::from_toml(GIVEN, "given.toml").unwrap();
    let (world, tasks) = work_through_all(&pipeline, 1);
    let pairs = &tasks[&StageName::from("pairs")];
    let names: Vec<_> = pairs.iter().map(|task| task.shard.as_str()).collect();
    assert_eq!(names, ["00000", "00001", "00002"]);
    for (index, task) in pairs.iter().enumerate() {
        let Work::Import(ImportWork { slice, .. }) = &task.work else {
            panic!()
        };
        assert_eq!(*slice, Slice { index, of: 3 });
    }
    let bases: Vec<_> = world
        .shards("pairs")
        .iter()
        .map(|part| part.base.digest)
        .collect();
    let expected = bases_of(&names);
    assert_eq!(bases, expected, "in the order of the slices");
    let StageOutput::Model { digest } = &world.given[&StageName::from("captioner")] else {
        panic!()
    };
    let Work::Train(TrainWork {
        tokenizer, init, ..
    }) = &tasks[&StageName::from("further")][0].work
    else {
        panic!()
    };
    assert_eq!((tokenizer, init.as_ref()), (digest, Some(digest)));
    let Work::Caption(CaptionWork { model, .. }) = &tasks[&StageName::from("captions")][0].work
    else {
        panic!()
    };
    assert_eq!(model, digest);
}

/// Base files of these shards, as `outputs` names them.
fn bases_of(shards: &[&str]) -> Vec<Digest> {
    let base = |shard: &&str| Digest::of(format!("Base 0 of {shard}").as_bytes());
    shards.iter().map(base).collect()
}

#[test]
fn a_slice_that_was_given_up_is_left_out() {
    let stage = import("format = \"webdataset\"\nshards = 3");
    let mut world = World::default();
    let missing: BTreeSet<ShardId> = ["00001".into()].into();
    let tasks = world.tasks(&stage, &Commits::new());
    let kept = tasks.iter().filter(|task| task.shard.as_str() != "00001");
    let commits = kept
        .map(|task| commit(task, outputs(&world, task, &[], 0)))
        .collect();
    let Ok(Expansion::Done(done)) = world.expand_without(&stage, 1, &commits, &missing) else {
        panic!()
    };
    let Given::Dataset { parts, .. } = done.given else {
        panic!()
    };
    assert_eq!((parts.len(), done.recipes.len()), (2, 2));
}

#[test]
fn only_a_label_or_a_digest_lets_another_run_adopt_what_was_read() {
    let plain = import("format = \"folder\"");
    assert_ne!(recipes(&plain, "a"), recipes(&plain, "b"));
    assert_eq!(recipes(&plain, "a"), recipes(&plain, "a"));
    let monday = import("format = \"folder\"\nsnapshot = \"monday\"");
    let tuesday = import("format = \"folder\"\nsnapshot = \"tuesday\"");
    assert_eq!(recipes(&monday, "a"), recipes(&monday, "b"));
    assert_ne!(recipes(&monday, "a"), recipes(&tuesday, "a"));
    let folder = stage("[[stage]]\nname = \"m\"\nkind = \"model\"\nsource = \"m\"");
    assert_ne!(recipes(&folder, "a"), recipes(&folder, "b"));
    let digest = Digest::of(b"m");
    let pinned = |source: &str| {
        stage(&format!(
            "[[stage]]\nname = \"m\"\nkind = \"model\"\ndigest = \"{digest}\"\n{source}"
        ))
    };
    let (stored, read) = (pinned(""), pinned("source = \"m\""));
    assert_eq!(recipes(&stored, "a"), recipes(&read, "b"));
}

#[test]
fn what_shapes_the_rows_of_a_slice_is_in_its_recipe() {
    let of = |settings: &str| recipes(&import(&format!("snapshot = \"x\"\n{settings}")), "r");
    let whole = of("format = \"folder\"");
    let halves = of("format = \"folder\"\nshards = 2");
    assert_eq!(whole.len() + halves.len(), 3);
    let distinct: BTreeSet<_> = whole.iter().chain(&halves).collect();
    assert_eq!(distinct.len(), 3, "each slice is another task");
    assert_ne!(whole, of("format = \"folder\"\norigin = \"human\""));
    assert_ne!(whole, of("format = \"webdataset\"\nshards = 1"));
    let other = stage(
        "[[stage]]\nname = \"i\"\nkind = \"import\"\ndataset = \"other\"\nsource = \"s\"\n\
         format = \"folder\"\nsnapshot = \"x\"",
    );
    assert_ne!(whole, recipes(&other, "r"), "the rows name their dataset");
}

#[test]
fn imports_and_models_that_cannot_be_are_refused() {
    let import = "kind = \"import\"\ndataset = \"d\"\nsource = \"s\"\n";
    for (settings, problem) in [
        (
            format!("{import}format = \"folder\"\nshards = 0"),
            "stage `s`: `shards = 0`: must be 1 to 1000000",
        ),
        (
            format!("{import}format = \"coco_captions\"\nshards = 2"),
            "stage `s`: `shards = 2`: must be 1 for coco_captions, whose file cannot be split",
        ),
        (
            format!("{import}format = \"img2dataset\"\norigin = \"synthetic\""),
            "stage `s`: `origin = \"synthetic\"`: must be human, alt, title or caption; synthetic \
             texts come from caption stages alone",
        ),
        (
            format!("{import}format = \"laion\""),
            "stage `s`: `format = \"laion\"`: unknown variant `laion`, expected one of \
             `coco_captions`, `img2dataset`, `webdataset`, `folder`",
        ),
        (
            "kind = \"model\"".to_owned(),
            "stage `s`: `source = none`: must be given, or `digest` of a model in the store",
        ),
        (
            "kind = \"model\"\ndigest = \"abc\"".to_owned(),
            "stage `s`: `digest = \"abc\"`: `abc` is not a digest of 64 hexadecimal digits",
        ),
    ] {
        assert_eq!(refused(&settings), problem);
    }
}

proptest! {
    /// Whatever the number of slices, every item is in exactly one.
    #[test]
    fn slices_hold_every_item_once(of in 1usize..50, items in 0usize..500) {
        let mut met = vec![0; items];
        for index in 0..of {
            let slice = Slice { index, of };
            (0..items).filter(|place| slice.holds(*place)).for_each(|place| met[place] += 1);
        }
        prop_assert!(met.iter().all(|times| *times == 1));
    }

    /// Slices that are committed in any order give their base files in the order of the slices.
    #[test]
    fn the_order_of_slices_is_that_of_their_names(of in 2usize..20, seed in any::<u64>()) {
        let stage = import(&format!("format = \"img2dataset\"\nshards = {of}"));
        let mut world = World::default();
        let tasks = world.tasks(&stage, &Commits::new());
        let made = tasks.iter().map(|task| commit(task, outputs(&world, task, &[], 0)));
        let mut made: Vec<_> = made.collect();
        made.sort_by_key(|(shard, _)| Digest::of_parts([shard.as_str().as_bytes(), &seed.to_le_bytes()[..]]));
        let mut commits = Commits::new();
        for one in made {
            prop_assert_eq!(&world.tasks(&stage, &commits), &tasks);
            commits.extend([one]);
        }
        let Ok(Expansion::Done(done)) = world.expand(&stage, &commits) else { panic!("never done") };
        let Given::Dataset { parts, .. } = done.given else { panic!() };
        let names: Vec<_> = tasks.iter().map(|task| task.shard.as_str()).collect();
        let bases: Vec<_> = parts.iter().map(|part| part.base.digest).collect();
        prop_assert_eq!(bases, bases_of(&names));
        prop_assert_eq!(done.recipes, tasks.iter().map(|task| task.recipe).collect::<Vec<_>>());
    }
}
