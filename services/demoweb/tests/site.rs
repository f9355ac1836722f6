//! The shipped web and a small one: determinism, shares, ground truth, and planned URLs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet, HashMap};

use capstan_demoweb::{Fate, Judgement, Site, TextKind, World};

fn small() -> World {
    let mut world = World::shipped();
    world.counts.pairs = 200;
    world.counts.human = 40;
    world.counts.evaluation = 30;
    world.counts.zero_shot = 24;
    world
}

#[test]
fn a_site_is_a_function_of_world_and_seed() {
    let (one, same, other) = (
        Site::build(&small(), 3),
        Site::build(&small(), 3),
        Site::build(&small(), 4),
    );
    assert_eq!(one.found(), same.found());
    assert_eq!(one.expected(), same.expected());
    assert_ne!(one.found(), other.found());
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    one.write_annotations(a.path()).unwrap();
    same.write_annotations(b.path()).unwrap();
    for file in [
        "human/captions.json",
        "human/images/000000000001.png",
        "evaluation/captions.json",
    ] {
        let read = |dir: &std::path::Path| std::fs::read(dir.join(file)).unwrap();
        assert_eq!(read(a.path()), read(b.path()), "{file}");
    }
}

#[test]
fn kinds_of_text_have_their_shares_after_deduplication() {
    for (world, least) in [(World::shipped(), 5_000), (small(), 200)] {
        let expected = Site::build(&world, 1).expected();
        let texts: usize = expected.distinct_texts.values().sum();
        assert!(texts >= least, "{texts}");
        let shares = [40.0, 10.0, 8.0, 16.0, 12.0, 14.0];
        for (kind, share) in TextKind::ALL.iter().zip(shares) {
            let own = expected.distinct_texts[kind] as f64 / texts as f64 * 100.0;
            assert!((own - share).abs() < 0.5, "{kind:?}: {own} for {share}");
        }
    }
}

#[test]
fn at_least_five_pictures_are_planted_for_every_code() {
    let expected = Site::build(&World::shipped(), 2).expected();
    for code in [
        "robots",
        "opt_out",
        "http_status",
        "redirects",
        "address",
        "timeout",
        "network",
        "bytes",
        "not_image",
        "decode",
        "pixels",
        "too_small",
        "text_bytes",
        "url",
    ] {
        assert!(expected.rejected[code] >= 5, "{code}");
    }
    assert_eq!(expected.rejected.len(), 14);
    assert_eq!(
        expected.found,
        expected.fetched + expected.rejected.values().sum::<usize>()
    );
    assert!(expected.duplicates >= 5 && expected.without_text >= 5);
}

#[test]
fn a_picture_is_once_on_a_page_and_rows_have_their_ground_truth() {
    let site = Site::build(&World::shipped(), 5);
    let mut seen = BTreeSet::new();
    let mut worth: BTreeMap<(TextKind, Judgement), usize> = BTreeMap::new();
    for found in site.found() {
        assert!(
            seen.insert((&found.image_url, &found.page_url)),
            "{found:?}"
        );
        let (Fate::Row(texts) | Fate::Duplicate(texts)) = &found.fate else {
            continue;
        };
        assert!(site.scene(&found.image_url).is_some(), "{found:?}");
        for (text, kind) in texts {
            assert_eq!(site.kind(&found.image_url, text), Some(*kind));
            let judgement = site.judgement(&found.image_url, text).unwrap();
            *worth.entry((*kind, judgement)).or_default() += 1;
        }
    }
    let count = |kind, judgement| worth.get(&(kind, judgement)).copied().unwrap_or(0);
    assert_eq!(count(TextKind::Honest, Judgement::Vague), 0);
    assert_eq!(count(TextKind::Honest, Judgement::Bad), 0);
    assert_eq!(count(TextKind::Wrong, Judgement::Good), 0);
    assert_eq!(count(TextKind::Vague, Judgement::Good), 0);
    assert_eq!(
        count(TextKind::File, Judgement::Bad),
        site.expected_of(TextKind::File)
    );
}

trait ExpectedOf {
    fn expected_of(&self, kind: TextKind) -> usize;
}

impl ExpectedOf for Site {
    fn expected_of(&self, kind: TextKind) -> usize {
        let texts = self.found().iter().filter_map(|found| match &found.fate {
            Fate::Row(texts) | Fate::Duplicate(texts) => Some(texts),
            Fate::Reject(_) => None,
        });
        texts.flatten().filter(|(_, other)| *other == kind).count()
    }
}

#[test]
fn bulk_hosts_have_equal_parts_of_the_pictures() {
    let site = Site::build(&World::shipped(), 1);
    let mut by_host: HashMap<&str, usize> = HashMap::new();
    for found in site
        .found()
        .iter()
        .filter(|found| matches!(found.fate, Fate::Row(_)))
    {
        let host = found.image_url.split('/').nth(2).unwrap();
        *by_host.entry(host).or_default() += 1;
    }
    let bulk: Vec<usize> = by_host
        .values()
        .copied()
        .filter(|count| *count > 100)
        .collect();
    assert_eq!(bulk.len(), 4, "{by_host:?}");
    let (least, most) = (bulk.iter().min().unwrap(), bulk.iter().max().unwrap());
    assert!(most - least < most / 20, "{by_host:?}");
    assert!(site.hosts().len() >= 6);
}

#[test]
fn annotated_sets_are_coco_and_evaluation_pictures_differ() {
    let site = Site::build(&World::shipped(), 1);
    let dir = tempfile::tempdir().unwrap();
    site.write_annotations(dir.path()).unwrap();
    for (set, images, texts) in [
        ("human", 500, 500),
        ("evaluation", 250, 1250),
        ("zero_shot", 240, 240),
    ] {
        let file = std::fs::read_to_string(dir.path().join(set).join("captions.json")).unwrap();
        let file: serde_json::Value = serde_json::from_str(&file).unwrap();
        assert_eq!(file["images"].as_array().unwrap().len(), images);
        assert_eq!(file["annotations"].as_array().unwrap().len(), texts);
        for image in file["images"].as_array().unwrap() {
            let path = dir
                .path()
                .join(set)
                .join("images")
                .join(image["file_name"].as_str().unwrap());
            assert_eq!(image::image_dimensions(&path).unwrap(), (64, 64));
        }
    }
    let file = std::fs::read_to_string(dir.path().join("zero_shot/captions.json")).unwrap();
    let file: serde_json::Value = serde_json::from_str(&file).unwrap();
    let mut by_class: BTreeMap<&str, usize> = BTreeMap::new();
    for text in file["annotations"].as_array().unwrap() {
        *by_class
            .entry(text["caption"].as_str().unwrap())
            .or_default() += 1;
    }
    assert_eq!(by_class.keys().copied().collect::<Vec<_>>(), site.classes());
    assert_eq!(
        by_class.values().copied().collect::<BTreeSet<_>>(),
        BTreeSet::from([10])
    );
}
