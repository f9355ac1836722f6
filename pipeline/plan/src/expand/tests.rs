//! Expansion of every kind of stage, and what recipes depend on.

use proptest::prelude::*;

use std::collections::BTreeSet;

use super::memory::{Done, Expansion, Given, Lists, expand};
use super::*;
use crate::commit::{Summary, VersionRef};
use crate::pipeline::Pipeline;
use crate::reject::RejectCode;
use crate::stage::{BalanceWork, CaptionWork, CrawlWork, CurateWork, FilterWork, Kind};

mod golden;
mod imports;
mod towers;
mod validation;

const PIPELINE: &str = r#"
name = "small"
seed = 1
[[stage]]
name = "crawl"
kind = "crawl"
dataset = "web"
seeds = ["http://a.test/"]
snapshot = "x"
max_depth = 2
[[stage]]
name = "human"
kind = "import"
dataset = "human"
format = "coco_captions"
source = "human"
[[stage]]
name = "curated"
kind = "curate"
from = "crawl"
queries = ["ball"]
[[stage]]
name = "balanced"
kind = "balance"
from = "curated"
[[stage]]
name = "words"
kind = "tokenizer"
data = [{ from = "balanced" }]
[[stage]]
name = "blip"
kind = "train"
tokenizer = "words"
data = [{ from = "balanced" }]
objectives = ["itc", "itm", "lm"]
steps = 1
global_batch = 2
learning_rate = 0.1
architecture = { family = "blip", image_size = 32, patch_size = 16, width = 8, heads = 1, vision_layers = 1, text_layers = 1, projection = 4, max_text_tokens = 8 }
[[stage]]
name = "captions"
kind = "caption"
from = "balanced"
model = "blip"
decoding = { choose = { strategy = "nucleus", top_p = 0.9 } }
[[stage]]
name = "kept"
kind = "filter"
from = "captions"
model = "blip"
[[stage]]
name = "figures"
kind = "evaluate"
model = "blip"
retrieval = { from = "human" }
"#;

/// What models compute on in these tests.
static DEVICE: std::sync::LazyLock<Option<DeviceKind>> =
    std::sync::LazyLock::new(|| Some("cpu-avx512".into()));

fn pipeline() -> Pipeline {
    Pipeline::from_toml(PIPELINE, "small.toml").unwrap()
}

fn file(kind: FileKind, name: &str) -> File {
    File {
        kind,
        digest: Digest::of(name.as_bytes()),
        rows_digest: Digest::of(format!("rows of {name}").as_bytes()),
        rows: 10,
        size_bytes: 100,
        base: None,
    }
}

fn overlay(kind: FileKind, part: &Part, name: &str) -> File {
    File {
        base: Some(part.base.digest),
        ..file(kind, name)
    }
}

/// What earlier stages gave, and the lists that tasks name.
#[derive(Debug, Clone, Default)]
struct World {
    given: BTreeMap<StageName, StageOutput>,
    lists: Lists,
}

/// Commits by shard.
type Commits = BTreeMap<ShardId, Summary>;

fn commit(task: &Task, outputs: Outputs) -> (ShardId, Summary) {
    let summary = Summary {
        recipe: task.recipe,
        outputs,
        adopted: false,
    };
    (task.shard.clone(), summary)
}

impl World {
    fn expand(&mut self, stage: &Stage, commits: &Commits) -> Result<Expansion, Error> {
        self.expand_without(stage, 1, commits, &BTreeSet::new())
    }

    fn expand_without(
        &mut self,
        stage: &Stage,
        seed: u64,
        commits: &Commits,
        missing: &BTreeSet<ShardId>,
    ) -> Result<Expansion, Error> {
        self.expand_for("r", stage, seed, commits, missing)
    }

    fn expand_for(
        &mut self,
        run: &str,
        stage: &Stage,
        seed: u64,
        commits: &Commits,
        missing: &BTreeSet<ShardId>,
    ) -> Result<Expansion, Error> {
        let request = Request {
            stage,
            run: &run.into(),
            seed,
            device: DEVICE.as_ref(),
            inputs: &self.given,
            steps: &[],
        };
        expand(request, &mut self.lists, commits, missing)
    }

    /// The tasks of the current step.
    fn tasks(&mut self, stage: &Stage, commits: &Commits) -> Vec<Task> {
        match self.expand(stage, commits).unwrap() {
            Expansion::Tasks(tasks) => tasks,
            Expansion::Done(done) => panic!("{done:?}"),
        }
    }

    fn shards(&self, stage: &str) -> &[Part] {
        match &self.given[&StageName::from(stage)] {
            StageOutput::Dataset(shards) => self.lists.shards(shards),
            other => panic!("{other:?}"),
        }
    }
}

/// Base files, each followed by its pixels.
fn split_bases(shard: &ShardId, count: usize) -> Vec<File> {
    let split = |i| {
        let base = file(FileKind::Base, &format!("Base {i} of {shard}"));
        let pixels = File {
            base: Some(base.digest),
            ..file(FileKind::Pixels, &format!("pixels {i} of {shard}"))
        };
        [base, pixels]
    };
    (0..count).flat_map(split).collect()
}

/// What a worker would commit, with `wave_files[k]` shards in wave k and `images` image shards.
fn outputs(world: &World, task: &Task, wave_files: &[usize], images: usize) -> Outputs {
    let shard = &task.shard;
    let many = |kind, count: usize| -> Vec<File> {
        (0..count)
            .map(|i| file(kind, &format!("{kind:?} {i} of {shard}")))
            .collect()
    };
    let (mut model, mut evaluation) = (None, None);
    let files = match &task.work {
        Work::Crawl(CrawlWork::Frontier { wave, .. }) => many(
            FileKind::Pages,
            wave_files.get(*wave as usize).copied().unwrap_or(0),
        ),
        Work::Crawl(CrawlWork::Pages { .. }) => {
            [FileKind::PageLinks, FileKind::ImageLinks, FileKind::Rejects]
                .map(|kind| file(kind, &format!("{kind:?} of {shard}")))
                .to_vec()
        }
        Work::Crawl(CrawlWork::ImageFrontier { .. }) => many(FileKind::Images, images),
        Work::Crawl(CrawlWork::Images { .. }) => split_bases(shard, 2),
        Work::Import(_) => split_bases(shard, 1),
        Work::Curate(CurateWork { part, .. }) => vec![overlay(FileKind::Curation, part, "curated")],
        Work::Caption(CaptionWork { part, .. }) => {
            vec![overlay(FileKind::Captions, part, "captions")]
        }
        Work::Filter(FilterWork { part, .. }) => {
            vec![overlay(FileKind::Verdicts, part, "verdicts")]
        }
        Work::Balance(BalanceWork { shards }) => world
            .lists
            .shards(shards)
            .iter()
            .map(|part| overlay(FileKind::Curation, part, "balanced"))
            .collect(),
        Work::Model(_) | Work::Tokenizer(_) | Work::Train(_) => {
            model = Some(ModelDigest(Digest::of(task.stage.as_str().as_bytes())));
            Vec::new()
        }
        Work::Evaluate(_) => {
            evaluation = Some(Default::default());
            Vec::new()
        }
    };
    Outputs {
        files,
        model,
        evaluation,
        rejects: [(RejectCode::Robots, 1)].into(),
        counts: [("found".to_owned(), 2)].into(),
        ..Outputs::default()
    }
}

/// Expands and commits until the stage is done; gives what it gave and the steps by shard.
fn work_through(
    world: &mut World,
    stage: &Stage,
    seed: u64,
    waves: &[usize],
    images: usize,
) -> (Done, Vec<Vec<Task>>) {
    let mut commits = Commits::new();
    let mut steps = Vec::new();
    loop {
        match world.expand_without(stage, seed, &commits, &BTreeSet::new()) {
            Ok(Expansion::Done(done)) => return (done, steps),
            Ok(Expansion::Tasks(tasks)) => {
                let open = tasks.iter().filter(|t| !commits.contains_key(&t.shard));
                let open: Vec<_> = open
                    .map(|task| commit(task, outputs(world, task, waves, images)))
                    .collect();
                assert!(!open.is_empty(), "a step without open tasks");
                commits.extend(open);
                steps.push(tasks);
            }
            Err(error) => panic!("{error}"),
        }
        assert!(steps.len() < 100, "a stage that never ends");
    }
}

/// A stage that reads nothing, worked through.
fn work_alone(stage: &Stage, waves: &[usize], images: usize) -> (World, Done, Vec<Vec<Task>>) {
    let mut world = World::default();
    let (done, steps) = work_through(&mut world, stage, 1, waves, images);
    (world, done, steps)
}

fn published(world: &mut World, done: Done) -> StageOutput {
    match done.given {
        Given::Dataset { dataset, parts, .. } => {
            let version = VersionRef { dataset, number: 1 };
            StageOutput::Dataset(world.lists.add_shards(version, parts))
        }
        Given::Model(digest) => StageOutput::Model { digest },
        Given::Figures => StageOutput::Figures,
    }
}

/// Works through a whole pipeline; gives outputs and tasks of every stage.
fn work_through_all(pipeline: &Pipeline, seed: u64) -> (World, BTreeMap<StageName, Vec<Task>>) {
    let (mut world, mut tasks) = (World::default(), BTreeMap::new());
    for name in pipeline.order() {
        let stage = pipeline.stage(&name).unwrap();
        let (done, steps) = work_through(&mut world, stage, seed, &[2, 1], 3);
        assert_eq!(done.recipes.len(), steps.iter().flatten().count());
        let output = published(&mut world, done);
        world.given.insert(name.clone(), output);
        tasks.insert(name, steps.into_iter().flatten().collect());
    }
    (world, tasks)
}

fn shards(steps: &[Vec<Task>]) -> Vec<Vec<&str>> {
    steps
        .iter()
        .map(|step| step.iter().map(|task| task.shard.as_str()).collect())
        .collect()
}

fn crawl(max_depth: u32) -> Stage {
    let mut stage = pipeline().stages.remove(0);
    if let Kind::Crawl(config) = &mut stage.kind {
        config.max_depth = max_depth;
    }
    stage
}

#[test]
fn a_crawl_goes_in_waves_until_a_frontier_is_empty() {
    let (_, done, steps) = work_alone(&crawl(8), &[1, 2], 2);
    let expected: [&[&str]; 7] = [
        &["frontier-0"],
        &["pages-0-00000"],
        &["frontier-1"],
        &["pages-1-00000", "pages-1-00001"],
        &["frontier-2"],
        &["image-frontier"],
        &["images-00000", "images-00001"],
    ];
    assert_eq!(shards(&steps), expected);
    let Given::Dataset {
        dataset,
        parts,
        derived_from: None,
    } = &done.given
    else {
        panic!("no dataset: {:?}", done.given)
    };
    assert_eq!(dataset.as_str(), "web");
    let bases: Vec<_> = parts.iter().map(|part| part.base.digest).collect();
    let names = [
        "0 of images-00000",
        "1 of images-00000",
        "0 of images-00001",
        "1 of images-00001",
    ];
    let expected = names.map(|name| Digest::of(format!("Base {name}").as_bytes()));
    assert_eq!(bases, expected, "base files in the order of their shards");
    assert_eq!(done.statistics["rows"], 40);
    assert_eq!(done.statistics["found"], 2 * 9);
    assert_eq!(done.statistics["rejected.robots"], 9);
}

#[test]
fn only_the_fetches_of_a_crawl_contact_foreign_hosts() {
    let (_, tasks) = work_through_all(&pipeline(), 1);
    let contact = tasks.values().flatten().filter_map(|task| {
        let contacts = task.work.contacts_foreign_hosts();
        contacts.then_some(task.shard.as_str())
    });
    let contact: BTreeSet<&str> = contact
        .map(|shard| shard.trim_end_matches(char::is_numeric))
        .collect();
    assert_eq!(contact, BTreeSet::from(["images-", "pages-0-", "pages-1-"]));
}

#[test]
fn frontiers_read_what_was_seen_and_the_links_of_the_wave_before() {
    let (world, _, steps) = work_alone(&crawl(8), &[1, 2], 1);
    let Work::Crawl(CrawlWork::Frontier {
        wave: 2,
        seen,
        links: Some(links),
    }) = &steps[4][0].work
    else {
        panic!()
    };
    let seen: Vec<u64> = seen.iter().map(|list| list.count).collect();
    assert_eq!(seen, [1, 2], "pages of both waves");
    let links = world.lists.files(links);
    assert_eq!(links.len(), 2, "links of the last wave alone");
    assert!(links.iter().all(|file| file.kind == FileKind::PageLinks));
    let Work::Crawl(CrawlWork::ImageFrontier { links }) = &steps[5][0].work else {
        panic!()
    };
    let links: Vec<&File> = links
        .iter()
        .flat_map(|list| world.lists.files(list))
        .collect();
    assert_eq!(links.len(), 3, "pictures of every wave");
    assert!(links.iter().all(|file| file.kind == FileKind::ImageLinks));
}

#[test]
fn a_crawl_stops_at_its_depth() {
    let (_, _, steps) = work_alone(&crawl(0), &[1, 1, 1, 1], 0);
    let expected: [&[&str]; 3] = [&["frontier-0"], &["pages-0-00000"], &["image-frontier"]];
    assert_eq!(shards(&steps), expected);
}

#[test]
fn overlays_pile_up_on_their_parts() {
    let (world, tasks) = work_through_all(&pipeline(), 1);
    let StageOutput::Dataset(kept) = &world.given[&StageName::from("kept")] else {
        panic!()
    };
    let parts = world.lists.shards(kept);
    assert_eq!(
        kept.version.dataset.as_str(),
        "web",
        "overlays stay with their dataset"
    );
    let kinds: Vec<_> = parts[0].overlays.iter().map(|file| file.kind).collect();
    use FileKind::{Captions, Curation, Verdicts};
    assert_eq!(kinds, [Curation, Curation, Captions, Verdicts]);
    assert_eq!(parts.len(), 6);
    let names: Vec<_> = tasks[&StageName::from("captions")]
        .iter()
        .map(|t| &t.shard.0)
        .collect();
    assert_eq!(
        names,
        ["00000", "00001", "00002", "00003", "00004", "00005"]
    );
    assert_eq!(tasks[&StageName::from("blip")][0].shard.as_str(), ALL);
    assert_eq!(
        pipeline()
            .stage(&"blip".into())
            .unwrap()
            .kind
            .settings()
            .world_size(),
        2
    );
}

#[test]
fn names_are_no_part_of_a_recipe() {
    let renamed = PIPELINE.replace("\"crawl\"\nkind", "\"other\"\nkind");
    let renamed = renamed.replace("from = \"crawl\"", "from = \"other\"");
    let renamed = renamed
        .replace("balanced", "evened")
        .replace("\"web\"", "\"net\"");
    let (_, ours) = work_through_all(&pipeline(), 1);
    let (_, theirs) = work_through_all(&Pipeline::from_toml(&renamed, "x").unwrap(), 1);
    let recipes = |tasks: &BTreeMap<_, Vec<Task>>| -> BTreeSet<_> {
        tasks.values().flatten().map(|task| task.recipe).collect()
    };
    assert_eq!(recipes(&ours), recipes(&theirs));
}

#[test]
fn a_seed_changes_the_stages_that_draw_and_those_after_them() {
    let (_, one) = work_through_all(&pipeline(), 1);
    let (_, two) = work_through_all(&pipeline(), 2);
    let changed: Vec<&str> = one
        .iter()
        .filter(|(name, tasks)| {
            let pairs = tasks.iter().zip(&two[*name]);
            pairs.into_iter().any(|(a, b)| a.recipe != b.recipe)
        })
        .map(|(name, _)| name.as_str())
        .collect();
    // Outputs are named by stage in these tests, so stages after a draw do not change here.
    assert_eq!(changed, ["balanced", "blip", "captions"]);
}

#[test]
fn every_task_of_a_pipeline_has_a_recipe_of_its_own() {
    let (_, tasks) = work_through_all(&pipeline(), 1);
    let recipes: BTreeSet<_> = tasks.values().flatten().map(|task| task.recipe).collect();
    assert_eq!(recipes.len(), tasks.values().flatten().count());
}

#[test]
fn a_recipe_follows_settings_and_rows_but_no_file_digests() {
    let stage = pipeline().stages.remove(2);
    let recipe = |stage: &Stage, base: &File| {
        let part = Part {
            base: base.clone(),
            pixels: None,
            overlays: Vec::new(),
        };
        let version = VersionRef {
            dataset: "web".into(),
            number: 7,
        };
        let mut world = World::default();
        let shards = world.lists.add_shards(version, vec![part]);
        world.given = [("crawl".into(), StageOutput::Dataset(shards))].into();
        work_through(&mut world, stage, 1, &[], 0).0.recipes[0]
    };
    let base = file(FileKind::Base, "base");
    let same_rows = File {
        digest: Digest::of(b"written otherwise"),
        ..base.clone()
    };
    let other_rows = File {
        rows_digest: Digest::of(b"other rows"),
        ..base.clone()
    };
    assert_eq!(recipe(&stage, &base), recipe(&stage, &same_rows));
    assert_ne!(recipe(&stage, &base), recipe(&stage, &other_rows));
    let mut stricter = stage.clone();
    if let Kind::Curate(config) = &mut stricter.kind {
        config.min_chars += 1;
    }
    assert_ne!(recipe(&stage, &base), recipe(&stricter, &base));
}

#[test]
fn how_often_a_model_is_saved_shapes_nothing() {
    let rare = PIPELINE.replace("steps = 1\n", "steps = 1\ncheckpoint_steps = 7\n");
    let wide = PIPELINE.replace("steps = 1\n", "steps = 1\nworld_size = 1\n");
    let recipe = |text: &str| {
        let (_, tasks) = work_through_all(&Pipeline::from_toml(text, "x").unwrap(), 1);
        tasks[&StageName::from("blip")][0].recipe
    };
    assert_eq!(recipe(PIPELINE), recipe(&rare));
    assert_ne!(
        recipe(PIPELINE),
        recipe(&wide),
        "the world size is part of it"
    );
}

#[test]
fn shards_that_were_given_up_are_left_out() {
    let (mut world, _) = work_through_all(&pipeline(), 1);
    let pipeline = pipeline();
    let stage = pipeline.stage(&"curated".into()).unwrap();
    let missing: BTreeSet<ShardId> = ["00002".into()].into();
    let none = Commits::new();
    let Ok(Expansion::Tasks(tasks)) = world.expand_without(stage, 1, &none, &missing) else {
        panic!()
    };
    assert_eq!(tasks.len(), 6, "given up or not");
    let kept = tasks.iter().filter(|task| task.shard.as_str() != "00002");
    let commits = kept
        .map(|task| commit(task, outputs(&world, task, &[], 0)))
        .collect();
    let Ok(Expansion::Done(done)) = world.expand_without(stage, 1, &commits, &missing) else {
        panic!()
    };
    let Given::Dataset { parts, .. } = done.given else {
        panic!()
    };
    assert_eq!(parts.len(), 5);
    assert_eq!(done.missing, [ShardId::from("00002")]);
}

#[test]
fn a_crawl_goes_on_without_a_shard_that_later_steps_were_built_without() {
    let stage = crawl(1);
    let (mut world, done, steps) = work_alone(&stage, &[2, 1], 3);
    assert!(done.missing.is_empty());
    let lost = "pages-0-00001";
    let all: Vec<(ShardId, Summary)> = steps
        .iter()
        .flatten()
        .map(|task| commit(task, outputs(&world, task, &[2, 1], 3)))
        .collect();
    let without = |until: &str| -> Commits {
        let end = all.iter().position(|(shard, _)| shard.as_str() == until);
        let kept = all[..=end.unwrap()].iter();
        kept.filter(|(shard, _)| shard.as_str() != lost)
            .cloned()
            .collect()
    };
    // Its step is not over.
    let tasks = world.tasks(&stage, &without("pages-0-00000"));
    assert!(tasks.iter().any(|task| task.shard.as_str() == lost));
    // The next frontier was made without it: so it stays.
    let tasks = world.tasks(&stage, &without("frontier-1"));
    assert_eq!(shards(&[tasks]), [["pages-1-00000"]]);
    let Ok(Expansion::Done(done)) = world.expand(&stage, &without("images-00002")) else {
        panic!()
    };
    assert_eq!(done.missing, [ShardId::from(lost)]);
    assert_eq!(done.recipes.len(), all.len() - 1);
}

#[test]
fn each_fetch_of_a_crawl_names_the_task_that_is_built_on_it() {
    let stage = crawl(1);
    let follower = |shard: &str| stage.kind.settings().follower(&shard.into());
    assert_eq!(follower("pages-0-00001"), Some("frontier-1".into()));
    assert_eq!(follower("pages-1-a100000"), Some("image-frontier".into()));
    for last in ["frontier-1", "image-frontier", "images-00000"] {
        assert_eq!(follower(last), None);
    }
}

#[test]
fn a_stage_of_one_task_cannot_lose_it() {
    let stage = pipeline().stages.remove(1);
    let missing: BTreeSet<ShardId> = [ALL.into()].into();
    let mut world = World::default();
    let lost = world.expand_without(&stage, 1, &Commits::new(), &missing);
    assert!(matches!(lost, Err(Error::Missing { .. })));
}

#[test]
fn inputs_and_commits_of_the_wrong_kind_are_named() {
    let (mut world, tasks) = work_through_all(&pipeline(), 1);
    let pipeline = pipeline();
    let ask = |world: &mut World, stage: &str, commits: &Commits| {
        let stage = pipeline.stage(&stage.into()).unwrap();
        world.expand(stage, commits).unwrap_err().to_string()
    };
    let text = ask(&mut World::default(), "captions", &Commits::new());
    assert_eq!(
        text,
        "stage captions reads a model of stage blip, which gave none"
    );
    let empty = |stage: &str| [commit(&tasks[&stage.into()][0], Outputs::default())].into();
    assert_eq!(
        ask(&mut world, "blip", &empty("blip")),
        "commit blip/all names no model"
    );
    let text = ask(&mut world, "balanced", &empty("balanced"));
    assert_eq!(text, "commit balanced/all names 0 overlays for 6 shards");
    let committed = |world: &World, stage: &str, waves: &[usize], images| -> Commits {
        let tasks = tasks[&stage.into()].iter();
        tasks
            .map(|task| commit(task, outputs(world, task, waves, images)))
            .collect()
    };
    let bases = split_bases(&"images-00000".into(), 2);
    let mut crawled = committed(&world, "crawl", &[1], 1);
    let images = crawled.get_mut(&"images-00000".into()).unwrap();
    images.outputs.files = bases[..3].to_vec();
    let text = ask(&mut world, "crawl", &crawled);
    let expected = format!(
        "commit crawl/images-00000 names base {} without its pixels",
        bases[2].digest
    );
    assert_eq!(text, expected);
    let mut foreign = committed(&world, "curated", &[], 0);
    foreign.get_mut(&"00003".into()).unwrap().outputs.files[0].base = None;
    let text = ask(&mut world, "curated", &foreign);
    assert!(
        text.starts_with("commit curated/00003 names an overlay of another base"),
        "{text}"
    );
}

proptest! {
    /// Whatever the waves, commits in any order and one at a time lead to the same end.
    #[test]
    fn the_order_of_commits_decides_nothing(
        waves in prop::collection::vec(0usize..4, 0..5),
        images in 0usize..4,
        picks in prop::collection::vec(any::<prop::sample::Index>(), 64),
    ) {
        let stage = crawl(3);
        let (mut world, whole, _) = work_alone(&stage, &waves, images);
        let mut commits = Commits::new();
        let mut picks = picks.iter().cycle();
        let piecemeal = loop {
            match world.expand(&stage, &commits).unwrap() {
                Expansion::Done(done) => break done,
                Expansion::Tasks(tasks) => {
                    let open = tasks.iter().filter(|task| !commits.contains_key(&task.shard));
                    let open: Vec<_> = open.collect();
                    let task = picks.next().unwrap().get(&open);
                    let made = outputs(&world, task, &waves, images);
                    commits.extend([commit(task, made)]);
                }
            }
        };
        prop_assert_eq!(piecemeal, whole);
    }
}
