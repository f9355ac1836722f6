//! Texts about scenes: honest, vague, wrong, of another picture, file names, boilerplate.

use serde::{Deserialize, Serialize};

use crate::draw::Draw;
use crate::scene::{Relation, Scene, Thing, Things};
use crate::world::{Style, World};

/// The kind of a web text. The judge decides how well it describes its picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextKind {
    /// True, and names everything.
    Honest,
    /// True, but names little or nothing.
    Vague,
    /// Honest except for a colour or kind.
    Wrong,
    /// Honest, but of another picture.
    Other,
    /// A file name.
    File,
    /// Boilerplate of the page.
    Boilerplate,
}

impl TextKind {
    /// Every kind, in the order of the world file.
    pub const ALL: &[Self] = &[
        Self::Honest,
        Self::Vague,
        Self::Wrong,
        Self::Other,
        Self::File,
        Self::Boilerplate,
    ];

    /// The name of the kind.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Honest => "honest",
            Self::Vague => "vague",
            Self::Wrong => "wrong",
            Self::Other => "other",
            Self::File => "file",
            Self::Boilerplate => "boilerplate",
        }
    }
}

/// Writes texts in the words of a world.
pub(crate) struct Writer<'w> {
    world: &'w World,
}

impl<'w> Writer<'w> {
    pub(crate) fn new(world: &'w World) -> Self {
        Self { world }
    }

    /// A web text of this kind. `other` is the scene that a text of another picture describes.
    pub(crate) fn web(
        &self,
        kind: TextKind,
        scene: &Scene,
        other: &Scene,
        draw: &mut Draw,
    ) -> String {
        let noise = &self.world.noise;
        match kind {
            TextKind::Honest => self.honest(scene, draw),
            TextKind::Vague => self.vague(scene, draw),
            TextKind::Wrong => self.honest(&self.altered(scene, draw), draw),
            TextKind::Other => self.honest(other, draw),
            TextKind::File => draw.choose(&noise.files).replace("{n}", &number(draw)),
            TextKind::Boilerplate => {
                let text = draw.choose(&noise.boilerplate).clone();
                if draw.percent(40.0) {
                    format!("{text} {}", draw.choose(&noise.boilerplate_ends))
                } else {
                    text
                }
            }
        }
    }

    /// An honest text in the style of the web.
    pub(crate) fn honest(&self, scene: &Scene, draw: &mut Draw) -> String {
        self.sentence(&self.world.web, scene, draw)
    }

    /// A text in the style of annotators.
    pub(crate) fn human(&self, scene: &Scene, draw: &mut Draw) -> String {
        self.sentence(&self.world.human, scene, draw)
    }

    fn sentence(&self, style: &Style, scene: &Scene, draw: &mut Draw) -> String {
        let prefix = draw.choose(&style.prefixes);
        let suffix = draw.choose(&style.suffixes);
        let (frames, be, things) = match &scene.things {
            Things::Alike { thing, cells } => {
                let be = if cells.len() == 1 { "is" } else { "are" };
                (
                    &style.frames_alike,
                    be,
                    self.noun_phrase(style, thing, cells.len(), draw),
                )
            }
            Things::Pair {
                first,
                second,
                relation,
            } => {
                let between = self.between(style, *relation, draw);
                let first = self.noun_phrase(style, first, 1, draw);
                let second = self.noun_phrase(style, second, 1, draw);
                (
                    &style.frames_pair,
                    "is",
                    format!("{first} {between} {second}"),
                )
            }
        };
        let place = if draw.percent(style.place_percent) {
            self.place(scene, draw)
        } else {
            ""
        };
        let frame = draw.choose(frames);
        let sentence = frame
            .replace("{things}", &things)
            .replace("{be}", be)
            .replace("{place}", place);
        joined(&[prefix, &sentence, suffix])
    }

    fn place(&self, scene: &Scene, draw: &mut Draw) -> &'w str {
        draw.choose::<String>(&self.world.words.places[&scene.background])
    }

    fn between(&self, style: &Style, relation: Relation, draw: &mut Draw) -> String {
        let words = &self.world.words;
        if !draw.percent(style.relation_percent) {
            return draw.choose(&style.joins).clone();
        }
        // The left or upper thing is always named first, because models of this size hardly learn
        // relations.
        match relation {
            Relation::LeftOf => draw.choose(&words.left_of).clone(),
            Relation::Above => draw.choose(&words.above).clone(),
        }
    }

    fn noun_phrase(&self, style: &Style, thing: &Thing, count: usize, draw: &mut Draw) -> String {
        let words = &self.world.words;
        let mut word = |list: &'w [String]| {
            if style.synonyms {
                draw.choose(list).as_str()
            } else {
                list[0].as_str()
            }
        };
        let colour = word(&words.colours[&thing.colour]);
        let object = word(&words.objects[&thing.object]);
        let size = if draw.percent(style.size_percent) {
            draw.choose(&words.sizes[&thing.size]).as_str()
        } else {
            ""
        };
        if count == 1 {
            let phrase = joined(&[size, colour, object]);
            format!("{} {phrase}", article(&phrase))
        } else {
            joined(&[&words.numbers[count], size, colour, &plural(object)])
        }
    }

    fn vague(&self, scene: &Scene, draw: &mut Draw) -> String {
        let noise = &self.world.noise;
        let way = draw.unit();
        if way < 0.3 {
            joined(&[
                draw.choose(&noise.vague_places).as_str(),
                self.place(scene, draw),
            ])
        } else if way < 0.6 {
            let colour = draw.choose(&self.world.words.colours[&scene.all()[0].colour]);
            joined(&[draw.choose(&noise.vague_colours).as_str(), "in", colour])
        } else {
            draw.choose(&noise.vague_plain).clone()
        }
    }

    /// The scene with one or two changed colours or kinds, so that its names differ.
    fn altered(&self, scene: &Scene, draw: &mut Draw) -> Scene {
        loop {
            let mut altered = scene.clone();
            let changes = if draw.percent(70.0) { 1 } else { 2 };
            for _ in 0..changes {
                self.alter(&mut altered, draw);
            }
            // The second change may undo the first.
            if altered.key() != scene.key() {
                return altered;
            }
        }
    }

    fn alter(&self, scene: &mut Scene, draw: &mut Draw) {
        let scenes = &self.world.scenes;
        let thing = match &mut scene.things {
            Things::Alike { thing, .. } => thing,
            Things::Pair { first, second, .. } => {
                if draw.percent(50.0) {
                    first
                } else {
                    second
                }
            }
        };
        if draw.percent(50.0) {
            thing.colour = *draw.choose(&scenes.colours);
        } else {
            thing.object = *draw.choose(&scenes.objects);
        }
    }
}

/// A number of one to four digits, as in file names of cameras and editors.
fn number(draw: &mut Draw) -> String {
    let n = draw.below(10_000);
    match draw.below(4) {
        0 => (n % 10).to_string(),
        1 => (n % 100).to_string(),
        2 => (n % 1000).to_string(),
        _ => format!("{n:04}"),
    }
}

fn joined(parts: &[&str]) -> String {
    let words: Vec<&str> = parts
        .iter()
        .flat_map(|part| part.split_whitespace())
        .collect();
    words.join(" ")
}

fn article(phrase: &str) -> &'static str {
    if phrase.starts_with(['a', 'e', 'i', 'o']) {
        "an"
    } else {
        "a"
    }
}

/// The plural of a regular English noun.
pub(crate) fn plural(noun: &str) -> String {
    let sibilant = ["s", "x", "z", "ch", "sh"]
        .iter()
        .any(|end| noun.ends_with(end));
    format!("{noun}{}", if sibilant { "es" } else { "s" })
}
