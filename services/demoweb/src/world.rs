//! The world file: which things exist, how people speak of them, how noisy the web is.

mod check;
mod print;
mod shipped;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use check::WorldError;

use crate::scene::{Background, Colour, Object, Relation, Size};

/// A demo web as the world file describes it. A key that a file leaves out has the shipped value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct World {
    /// What is drawn.
    pub scenes: Scenes,
    /// How many pictures there are.
    pub counts: Counts,
    /// The words for it.
    pub words: Words,
    /// How annotators write.
    #[serde(deserialize_with = "shipped::read_human")]
    pub human: Style,
    /// How honest people on the web write.
    #[serde(deserialize_with = "shipped::read_web")]
    pub web: Style,
    /// What the rest of the web writes.
    pub noise: Noise,
    /// The hosts that serve it.
    pub hosts: Hosts,
    /// What a crawler must refuse, merge or survive.
    pub planted: Planted,
}

/// What is drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenes {
    /// Side of a picture in pixels.
    pub size_px: u32,
    /// Kinds of thing.
    pub objects: Vec<Object>,
    /// Colours.
    pub colours: Vec<Colour>,
    /// Sizes.
    pub sizes: Vec<Size>,
    /// Backgrounds.
    pub backgrounds: Vec<Background>,
    /// How two things may lie.
    pub relations: Vec<Relation>,
    /// Share of scenes with two different things; the others have one kind.
    pub pair_percent: f64,
    /// How many things a scene of one kind has; a count written twice is drawn twice as often.
    pub counts: Vec<usize>,
}

/// How many pictures there are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Counts {
    /// Web pictures with at least one text.
    pub pairs: usize,
    /// Share of them that have a second text.
    pub second_text_percent: f64,
    /// Human-annotated pictures, one text each.
    pub human: usize,
    /// Evaluation pictures, no two alike in what a text can say.
    pub evaluation: usize,
    /// Texts of an evaluation picture.
    pub references: usize,
    /// Evaluation pictures with one kind of thing, at most.
    pub evaluation_alike_percent: f64,
    /// Zero-shot pictures: one thing each, the classes in turn.
    pub zero_shot: usize,
}

/// The words of the world. The first of a list is the one that annotators use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Words {
    /// Nouns, singular.
    pub objects: BTreeMap<Object, Vec<String>>,
    /// Adjectives.
    pub colours: BTreeMap<Colour, Vec<String>>,
    /// Adjectives.
    pub sizes: BTreeMap<Size, Vec<String>>,
    /// Phrases that say where the things are.
    pub places: BTreeMap<Background, Vec<String>>,
    /// Single words by which the judge knows a background outside of these phrases.
    pub backgrounds: BTreeMap<Background, Vec<String>>,
    /// Phrases for the first lying left of the second.
    pub left_of: Vec<String>,
    /// Phrases for the first lying right of the second; understood, never written.
    pub right_of: Vec<String>,
    /// Phrases for the first lying above the second.
    pub above: Vec<String>,
    /// Phrases for the first lying below the second; understood, never written.
    pub below: Vec<String>,
    /// Number words, from zero.
    pub numbers: Vec<String>,
}

/// How a group of people writes about a scene. Two groups, two sets of shipped values.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Style {
    /// Sentences about things of one kind; `{things}`, `{be}` (is or are) and `{place}` stand for words.
    pub frames_alike: Vec<String>,
    /// Sentences about two things.
    pub frames_pair: Vec<String>,
    /// Words between two things where the sentence does not state how they lie.
    pub joins: Vec<String>,
    /// Sentences that state the background.
    pub place_percent: f64,
    /// Sentences about two things that state how they lie.
    pub relation_percent: f64,
    /// Things whose size is stated.
    pub size_percent: f64,
    /// Whether other words than the first of a list are used.
    pub synonyms: bool,
    /// Put before the sentence; an empty one stands for none.
    pub prefixes: Vec<String>,
    /// Put after the sentence.
    pub suffixes: Vec<String>,
}

/// What the rest of the web writes. The shares add up to 100.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Noise {
    /// A true text that names everything.
    pub honest_percent: f64,
    /// A true text that names little or nothing.
    pub vague_percent: f64,
    /// An honest text with a colour or kind changed.
    pub wrong_percent: f64,
    /// An honest text of another picture.
    pub other_percent: f64,
    /// A file name.
    pub file_percent: f64,
    /// Text of the page's furniture.
    pub boilerplate_percent: f64,
    /// Vague beginnings, followed by a place.
    pub vague_places: Vec<String>,
    /// Vague beginnings, followed by "in" and a colour of the picture.
    pub vague_colours: Vec<String>,
    /// Vague texts that state nothing.
    pub vague_plain: Vec<String>,
    /// File names; `{n}` stands for a number of one to four digits.
    pub files: Vec<String>,
    /// Furniture.
    pub boilerplate: Vec<String>,
    /// Words that sometimes follow furniture.
    pub boilerplate_ends: Vec<String>,
}

/// The hosts of the web.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hosts {
    /// Every host is a name under this domain.
    pub domain: String,
    /// Hosts with pages and pictures.
    pub pages: Vec<String>,
    /// Host with pictures alone: as many as each of the others.
    pub pictures: String,
    /// Pictures on a listing page.
    pub pictures_per_page: usize,
    /// Listing pages of a section.
    pub pages_per_section: usize,
    /// Product token of the crawler that robots rules and tags speak to.
    pub crawler: String,
}

/// What a crawler must refuse, merge or survive: numbers of pictures, unless the key says pages
/// or bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Planted {
    /// Disallowed by robots.txt, or on a host whose robots.txt cannot be had.
    pub robots: usize,
    /// Opted out of by their own answer or by their page.
    pub opt_out: usize,
    /// 404, 410, 403, 500.
    pub http_status: usize,
    /// Redirected in a loop, too often, or to nowhere.
    pub redirects: usize,
    /// At private, link-local and loopback addresses.
    pub address: usize,
    /// Never answered. Each costs a crawler its time limit, times its tries.
    pub timeout: usize,
    /// Cut off in the middle of an answer.
    pub network: usize,
    /// Longer than `too_many_bytes`.
    pub bytes: usize,
    /// Something else behind a picture's name.
    pub not_image: usize,
    /// Corrupt or cut short.
    pub decode: usize,
    /// A header that claims 900 million pixels.
    pub pixels: usize,
    /// Tracking pixels.
    pub too_small: usize,
    /// With an alt text of `long_text_bytes`; the first has `longest_text_bytes`.
    pub text_bytes: usize,
    /// At a URL of more than 2,000 characters.
    pub url: usize,
    /// Bytes of a picture that is too long.
    pub too_many_bytes: u64,
    /// Bytes of a text that is too long.
    pub long_text_bytes: usize,
    /// Bytes of the longest text.
    pub longest_text_bytes: usize,
    /// Pages that are not there, disallowed, or redirected in a loop: so many of each.
    pub bad_pages: usize,
    /// The same bytes and text on another page, half of them under another URL.
    pub duplicates: usize,
    /// Pictures without any text.
    pub without_text: usize,
    /// Pairs that lie behind a redirect.
    pub redirected: usize,
    /// Pairs whose first request is answered 503.
    pub flaky: usize,
    /// Pairs with a tag that does not refuse anything.
    pub harmless_tags: usize,
    /// Pairs on the host with a Crawl-delay.
    pub quiet: usize,
}

impl Noise {
    /// The six shares in percent, in the order of [`crate::TextKind::ALL`].
    pub fn shares(&self) -> [f64; 6] {
        [
            self.honest_percent,
            self.vague_percent,
            self.wrong_percent,
            self.other_percent,
            self.file_percent,
            self.boilerplate_percent,
        ]
    }
}

impl World {
    /// The shipped world.
    pub fn shipped() -> Self {
        Self::default()
    }

    /// Reads a world file.
    ///
    /// - `file_name`: for the error alone.
    ///
    /// # Errors
    /// One line that names the file, the key and the mend.
    pub fn from_toml(text: &str, file_name: &str) -> Result<Self, WorldError> {
        check::read(text, file_name)
    }

    /// The world as a file, with a comment on every key.
    pub fn to_toml(&self) -> String {
        print::print(self)
    }

    /// Every (colour, object) of the world: what a zero-shot class names.
    pub fn names(&self) -> Vec<(Colour, Object)> {
        let mut names = Vec::new();
        for object in &self.scenes.objects {
            for colour in &self.scenes.colours {
                names.push((*colour, *object));
            }
        }
        names
    }
}
