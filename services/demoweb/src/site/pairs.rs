//! The pairs of the web: scenes and texts, with exact shares of the kinds of text.

use std::sync::Arc;

use super::markup::Slot;
use crate::draw::{Draw, shares};
use crate::scene::{Scene, draw_scene};
use crate::wording::{TextKind, Writer};
use crate::world::World;

/// Most draws of a second text that differs from the first.
const TRIES: usize = 100;

/// A web picture with its texts.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub(super) scene: Arc<Scene>,
    pub(super) texts: Vec<(Slot, String, TextKind)>,
}

/// All pairs of the world by item.
pub(super) fn pairs(world: &World, seed: u64) -> Vec<Pair> {
    let count = world.counts.pairs;
    let scenes: Vec<Arc<Scene>> = (0..count as u64)
        .map(|item| Arc::new(draw_scene(world, &mut Draw::new(seed, "web scene", item))))
        .collect();
    let seconds = (count as f64 * world.counts.second_text_percent / 100.0).round() as usize;
    let kinds = kinds(world, count + seconds, seed);
    let writer = Writer::new(world);
    let mut pairs: Vec<Pair> = scenes
        .iter()
        .zip(&kinds)
        .enumerate()
        .map(|(item, (scene, kind))| {
            let draw = &mut Draw::new(seed, "web text", item as u64);
            let other = &scenes[other_than(item, count, draw)];
            let text = writer.web(*kind, scene, other, draw);
            Pair {
                scene: scene.clone(),
                texts: vec![(first_slot(draw), text, *kind)],
            }
        })
        .collect();
    let owners = Draw::new(seed, "second texts", 0).permutation(count);
    for (item, kind) in owners.into_iter().zip(&kinds[count..]) {
        let draw = &mut Draw::new(seed, "second text", item as u64);
        let other = &scenes[other_than(item, count, draw)];
        let texts = (0..TRIES).map(|_| writer.web(*kind, &scenes[item], other, draw));
        let pair = &mut pairs[item];
        let new = texts.into_iter().find(|text| *text != pair.texts[0].1);
        if let Some(text) = new {
            pair.texts.push((second_slot(pair.texts[0].0), text, *kind));
        }
    }
    pairs
}

/// The kind of each text: exact shares of the world in a drawn order.
fn kinds(world: &World, texts: usize, seed: u64) -> Vec<TextKind> {
    let counts = shares(texts, &world.noise.shares());
    let sorted: Vec<TextKind> = TextKind::ALL
        .iter()
        .zip(counts)
        .flat_map(|(kind, count)| std::iter::repeat_n(*kind, count))
        .collect();
    let order = Draw::new(seed, "kinds", 0).permutation(texts);
    order.into_iter().map(|index| sorted[index]).collect()
}

fn other_than(item: usize, count: usize, draw: &mut Draw) -> usize {
    (item + 1 + draw.below(count.max(2) - 1)) % count
}

fn first_slot(draw: &mut Draw) -> Slot {
    match draw.below(10) {
        0 => Slot::Title,
        1 | 2 => Slot::Caption,
        _ => Slot::Alt,
    }
}

fn second_slot(first: Slot) -> Slot {
    match first {
        Slot::Alt => Slot::Caption,
        Slot::Title | Slot::Caption => Slot::Alt,
    }
}
