//! The annotated sets as COCO captions: human, evaluation, zero-shot. None of their pictures is on
//! the web.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::draw::Draw;
use crate::picture::{encode_png, render};
use crate::scene::{Scene, Things, draw_alike, draw_scene};
use crate::site::Site;
use crate::wording::Writer;
use crate::world::World;

/// Why an annotated set cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path} (make the folder writable or free some space)")]
pub struct AnnotationError {
    /// The file or folder.
    pub path: PathBuf,
    /// The error of the system.
    #[source]
    pub source: io::Error,
}

/// An annotated picture: its scene and texts.
pub(crate) struct Annotated {
    pub(crate) scene: Scene,
    pub(crate) texts: Vec<String>,
}

/// `counts.human` pictures with one text each.
pub(crate) fn human(world: &World, seed: u64) -> Vec<Annotated> {
    let writer = Writer::new(world);
    (0..world.counts.human as u64)
        .map(|item| {
            let scene = draw_scene(world, &mut Draw::new(seed, "human scene", item));
            let text = writer.human(&scene, &mut Draw::new(seed, "human text", item));
            Annotated {
                scene,
                texts: vec![text],
            }
        })
        .collect()
}

/// `counts.evaluation` pictures, no two with the same key, with their references.
pub(crate) fn evaluation(world: &World, seed: u64) -> Vec<Annotated> {
    let counts = &world.counts;
    let writer = Writer::new(world);
    let most_alike = (counts.evaluation as f64 * counts.evaluation_alike_percent / 100.0) as usize;
    let (mut seen, mut alike, mut sets) = (HashSet::new(), 0, Vec::new());
    let mut candidate = 0;
    // The check of the world ensures that there are enough keys, so the loop ends.
    while sets.len() < counts.evaluation {
        let scene = draw_scene(world, &mut Draw::new(seed, "evaluation scene", candidate));
        candidate += 1;
        let is_alike = matches!(scene.things, Things::Alike { .. });
        if (is_alike && alike >= most_alike) || !seen.insert(scene.key()) {
            continue;
        }
        alike += usize::from(is_alike);
        let draw = &mut Draw::new(seed, "evaluation text", sets.len() as u64);
        let texts = (0..counts.references)
            .map(|_| writer.human(&scene, draw))
            .collect();
        sets.push(Annotated { scene, texts });
    }
    sets
}

/// `counts.zero_shot` pictures of one thing; the text is the class.
pub(crate) fn zero_shot(world: &World, seed: u64) -> Vec<Annotated> {
    let names = world.names();
    (0..world.counts.zero_shot)
        .map(|item| {
            let name = names[item % names.len()];
            let draw = &mut Draw::new(seed, "zero-shot scene", item as u64);
            Annotated {
                scene: draw_alike(world, name, 1, draw),
                texts: vec![class(world, name)],
            }
        })
        .collect()
}

/// The text of a class: "red ball".
pub(crate) fn class(world: &World, (colour, object): (crate::Colour, crate::Object)) -> String {
    format!(
        "{} {}",
        world.words.colours[&colour][0], world.words.objects[&object][0]
    )
}

/// Writes `dir/{human,evaluation,zero_shot}`.
pub(crate) fn write(site: &Site, dir: &Path) -> Result<(), AnnotationError> {
    let (world, seed) = (site.world(), site.seed());
    write_set(world, seed, "human", &human(world, seed), dir)?;
    write_set(world, seed, "evaluation", &evaluation(world, seed), dir)?;
    write_set(world, seed, "zero_shot", &zero_shot(world, seed), dir)
}

fn write_set(
    world: &World,
    seed: u64,
    name: &str,
    set: &[Annotated],
    dir: &Path,
) -> Result<(), AnnotationError> {
    let folder = dir.join(name);
    let images = folder.join("images");
    with_path(&images, fs::create_dir_all(&images))?;
    // Each set has its own draws, which no other set and no web picture uses.
    let key = Draw::new(seed, name, 0).bits();
    let size_px = world.scenes.size_px;
    for (index, picture) in set.iter().enumerate() {
        let rgb = render(&picture.scene, size_px, key, index as u64);
        let path = images.join(file_name(index));
        with_path(&path, fs::write(&path, encode_png(&rgb, size_px)))?;
    }
    let path = folder.join("captions.json");
    let captions = captions(name, set, size_px);
    with_path(&path, fs::write(&path, captions))
}

fn file_name(index: usize) -> String {
    format!("{:012}.png", index + 1)
}

fn with_path<T>(path: &Path, result: io::Result<T>) -> Result<T, AnnotationError> {
    result.map_err(|source| AnnotationError {
        path: path.to_owned(),
        source,
    })
}

/// A file of COCO captions. Ids start at 1; texts have the order of the pictures.
fn captions(name: &str, set: &[Annotated], size_px: u32) -> String {
    let images: Vec<_> = (0..set.len())
        .map(|index| {
            json!({
                "id": index + 1, "file_name": file_name(index),
                "width": size_px, "height": size_px, "license": 1,
            })
        })
        .collect();
    let texts = set.iter().enumerate();
    let texts =
        texts.flat_map(|(index, picture)| picture.texts.iter().map(move |text| (index, text)));
    let annotations: Vec<_> = texts
        .enumerate()
        .map(|(id, (index, text))| json!({"id": id + 1, "image_id": index + 1, "caption": text}))
        .collect();
    let file = json!({
        "info": {"description": format!("demo web, {name} set"), "version": "1"},
        "licenses": [{"id": 1, "name": "CC0-1.0"}],
        "images": images,
        "annotations": annotations,
    });
    format!("{file:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluation_pictures_differ_in_what_a_text_can_say() {
        let world = World::shipped();
        for seed in 1..=3 {
            let set = evaluation(&world, seed);
            let keys: HashSet<_> = set.iter().map(|picture| picture.scene.key()).collect();
            assert_eq!((set.len(), keys.len()), (250, 250));
            let alike = set
                .iter()
                .filter(|picture| matches!(picture.scene.things, Things::Alike { .. }));
            assert!(alike.count() <= 75);
            assert!(set.iter().all(|picture| picture.texts.len() == 5));
        }
    }
    #[test]
    fn no_error_prints_its_source() {
        use std::error::Error;
        let full = || io::Error::other("disk full");
        let errors: [&dyn Error; 2] = [
            &AnnotationError {
                path: "annotations.json".into(),
                source: full(),
            },
            &crate::ServeError { source: full() },
        ];
        for error in errors {
            let source = error.source().expect("the error has a source").to_string();
            assert!(!error.to_string().contains(&source), "{error}");
        }
    }
}
