//! The scene of a picture: ground truth that only the demo web has.

use serde::{Deserialize, Serialize};

use crate::draw::Draw;
use crate::world::World;

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// All values.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in the world file.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

names! {
    /// A kind of thing. Each has its own inner pattern, because plain silhouettes are not learned
    /// within the demo's budget.
    Object {
        /// A disc with a highlight.
        Ball = "ball",
        /// A square with bars.
        Crate = "crate",
        /// A triangle with stripes.
        Tent = "tent",
        /// An open circle.
        Ring = "ring",
        /// A disc with a face and two hands.
        Clock = "clock",
    }
}

names! {
    /// The colour of a thing.
    Colour {
        /// About (210, 40, 40).
        Red = "red",
        /// About (40, 160, 60).
        Green = "green",
        /// About (40, 80, 210).
        Blue = "blue",
        /// About (235, 215, 50).
        Yellow = "yellow",
        /// About (140, 50, 170).
        Purple = "purple",
        /// About (245, 245, 245).
        White = "white",
        /// About (25, 25, 25).
        Black = "black",
    }
}

names! {
    /// The size of a thing.
    Size {
        /// A radius of about 0.18 of the picture's side.
        Small = "small",
        /// A radius of about 0.235 of the picture's side.
        Big = "big",
    }
}

names! {
    /// The background of a scene.
    Background {
        /// Dots.
        Sand = "sand",
        /// Strokes.
        Grass = "grass",
        /// Waves.
        Water = "water",
        /// Courses of bricks.
        Brick = "brick",
        /// Plain.
        Paper = "paper",
        /// Grain.
        Wood = "wood",
    }
}

names! {
    /// The position of the first thing of a pair relative to the second.
    Relation {
        /// The first is left of the second.
        LeftOf = "left_of",
        /// The first is above the second.
        Above = "above",
    }
}

/// One thing of a scene.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Thing {
    /// Its kind.
    pub object: Object,
    /// Its colour.
    pub colour: Colour,
    /// Its size.
    pub size: Size,
}

impl Thing {
    /// The colour and kind, which a text must name. Things with equal names are alike in a text.
    pub fn name(&self) -> (Colour, Object) {
        (self.colour, self.object)
    }
}

/// The things of a scene and their positions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Things {
    /// One to four equal things, each in a cell of a 2 x 2 grid (0, 1 above, 2, 3 below). A single
    /// thing has no cell.
    Alike {
        /// The things.
        thing: Thing,
        /// Their cells. The length is the count.
        cells: Vec<u8>,
    },
    /// Two things that differ in kind or colour.
    Pair {
        /// The left or upper one.
        first: Thing,
        /// The right or lower one.
        second: Thing,
        /// The relation of the first to the second.
        relation: Relation,
    },
}

/// The scene of a picture.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scene {
    /// The things.
    pub things: Things,
    /// The background.
    pub background: Background,
}

/// Everything that a text must name of a scene: kind, colour and count, in any order.
pub type Key = Vec<(Colour, Object)>;

impl Scene {
    /// Every thing on the picture.
    pub fn all(&self) -> Vec<Thing> {
        match &self.things {
            Things::Alike { thing, cells } => vec![*thing; cells.len()],
            Things::Pair { first, second, .. } => vec![*first, *second],
        }
    }

    /// Names and counts of all things, sorted. Equal for scenes that a text cannot distinguish by
    /// their objects.
    pub fn key(&self) -> Key {
        let mut key: Key = self.all().iter().map(Thing::name).collect();
        key.sort_unstable();
        key
    }

    /// Whether thing `left` of [`Scene::all`] is left of thing `right`.
    pub fn is_left_of(&self, left: usize, right: usize) -> bool {
        match &self.things {
            Things::Pair { relation, .. } => {
                *relation == Relation::LeftOf && (left, right) == (0, 1)
            }
            Things::Alike { cells, .. } => cells[left] % 2 < cells[right] % 2,
        }
    }

    /// Whether thing `upper` of [`Scene::all`] is above thing `lower`.
    pub fn is_above(&self, upper: usize, lower: usize) -> bool {
        match &self.things {
            Things::Pair { relation, .. } => {
                *relation == Relation::Above && (upper, lower) == (0, 1)
            }
            Things::Alike { cells, .. } => cells[upper] / 2 < cells[lower] / 2,
        }
    }
}

/// Draws a scene of the world: a pair with the probability that the world states.
pub(crate) fn draw_scene(world: &World, draw: &mut Draw) -> Scene {
    let is_pair = draw.percent(world.scenes.pair_percent);
    if is_pair {
        draw_pair(world, draw)
    } else {
        let count = *draw.choose(&world.scenes.counts);
        let name = draw_name(world, draw);
        draw_alike(world, name, count, draw)
    }
}

fn draw_name(world: &World, draw: &mut Draw) -> (Colour, Object) {
    (
        *draw.choose(&world.scenes.colours),
        *draw.choose(&world.scenes.objects),
    )
}

fn draw_thing(world: &World, (colour, object): (Colour, Object), draw: &mut Draw) -> Thing {
    Thing {
        object,
        colour,
        size: *draw.choose(&world.scenes.sizes),
    }
}

/// A scene with `count` things of one name.
pub(crate) fn draw_alike(
    world: &World,
    name: (Colour, Object),
    count: usize,
    draw: &mut Draw,
) -> Scene {
    let thing = draw_thing(world, name, draw);
    let cells = draw
        .permutation(4)
        .iter()
        .take(count)
        .map(|c| *c as u8)
        .collect();
    Scene {
        things: Things::Alike { thing, cells },
        background: *draw.choose(&world.scenes.backgrounds),
    }
}

fn draw_pair(world: &World, draw: &mut Draw) -> Scene {
    let first = draw_name(world, draw);
    // The check of the world ensures at least two names, so the loop ends.
    let second = loop {
        let name = draw_name(world, draw);
        if name != first {
            break name;
        }
    };
    Scene {
        things: Things::Pair {
            first: draw_thing(world, first, draw),
            second: draw_thing(world, second, draw),
            relation: *draw.choose(&world.scenes.relations),
        },
        background: *draw.choose(&world.scenes.backgrounds),
    }
}
