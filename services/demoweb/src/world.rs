//! The world file: the things, the words for them, and the noise of the web.

mod check;
mod print;
mod shipped;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use check::WorldError;

use crate::scene::{Background, Colour, Object, Relation, Size};

/// A demo web as described by a world file. Keys that are missing in the file have the shipped
/// value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct World {
    /// The scenes.
    pub scenes: Scenes,
    /// The numbers of pictures.
    pub counts: Counts,
    /// The words for the scenes.
    pub words: Words,
    /// The style of annotators.
    #[serde(deserialize_with = "shipped::read_human")]
    pub human: Style,
    /// The style of honest authors on the web.
    #[serde(deserialize_with = "shipped::read_web")]
    pub web: Style,
    /// The other texts of the web.
    pub noise: Noise,
    /// The hosts of the web.
    pub hosts: Hosts,
    /// The pictures that a crawler must reject, merge or survive.
    pub planted: Planted,
}

/// The scenes of the world.
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
    /// Relations of two things.
    pub relations: Vec<Relation>,
    /// Percentage of scenes with two different things. The others have things of one kind.
    pub pair_percent: f64,
    /// Counts of things in a scene of one kind. A count that is listed twice is drawn twice as
    /// often.
    pub counts: Vec<usize>,
}

/// The numbers of pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Counts {
    /// Web pictures with at least one text.
    pub pairs: usize,
    /// Percentage of them with a second text.
    pub second_text_percent: f64,
    /// Human-annotated pictures with one text each.
    pub human: usize,
    /// Evaluation pictures. No text can describe two of them.
    pub evaluation: usize,
    /// Texts of an evaluation picture.
    pub references: usize,
    /// Largest percentage of evaluation pictures with one kind of thing.
    pub evaluation_alike_percent: f64,
    /// Zero-shot pictures with one thing each. The classes alternate.
    pub zero_shot: usize,
}

/// The words of the world. Annotators use the first word of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Words {
    /// Nouns, singular.
    pub objects: BTreeMap<Object, Vec<String>>,
    /// Adjectives.
    pub colours: BTreeMap<Colour, Vec<String>>,
    /// Adjectives.
    pub sizes: BTreeMap<Size, Vec<String>>,
    /// Phrases for the background.
    pub places: BTreeMap<Background, Vec<String>>,
    /// Single words by which the judge recognises a background outside of these phrases.
    pub backgrounds: BTreeMap<Background, Vec<String>>,
    /// Phrases for a first thing left of the second.
    pub left_of: Vec<String>,
    /// Phrases for a first thing right of the second. The judge knows them; no text contains them.
    pub right_of: Vec<String>,
    /// Phrases for a first thing above the second.
    pub above: Vec<String>,
    /// Phrases for a first thing below the second. The judge knows them; no text contains them.
    pub below: Vec<String>,
    /// Number words, from zero.
    pub numbers: Vec<String>,
}

/// The style in which a group of authors describes scenes. Each of the two groups has its own
/// shipped values.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Style {
    /// Sentences about things of one kind, with placeholders `{things}`, `{be}` (is or are) and
    /// `{place}`.
    pub frames_alike: Vec<String>,
    /// Sentences about two things.
    pub frames_pair: Vec<String>,
    /// Words between two things if the sentence states no relation.
    pub joins: Vec<String>,
    /// Percentage of sentences that state the background.
    pub place_percent: f64,
    /// Percentage of sentences about two things that state their relation.
    pub relation_percent: f64,
    /// Percentage of things whose size is stated.
    pub size_percent: f64,
    /// Whether all words of a list are used, or only the first.
    pub synonyms: bool,
    /// Prefixes of the sentence. An empty one means no prefix.
    pub prefixes: Vec<String>,
    /// Suffixes of the sentence.
    pub suffixes: Vec<String>,
}

/// The kinds of web texts. The shares add up to 100.
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
    /// Boilerplate of the page.
    pub boilerplate_percent: f64,
    /// Starts of vague texts that are followed by a place.
    pub vague_places: Vec<String>,
    /// Starts of vague texts that are followed by "in" and a colour of the picture.
    pub vague_colours: Vec<String>,
    /// Vague texts that state nothing.
    pub vague_plain: Vec<String>,
    /// File names, with the placeholder `{n}` for a number of one to four digits.
    pub files: Vec<String>,
    /// Boilerplate texts.
    pub boilerplate: Vec<String>,
    /// Words that sometimes follow boilerplate.
    pub boilerplate_ends: Vec<String>,
}

/// The hosts of the web.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hosts {
    /// The domain of all hosts.
    pub domain: String,
    /// Hosts with pages and pictures.
    pub pages: Vec<String>,
    /// Host with pictures only, as many as on each of the others.
    pub pictures: String,
    /// Pictures on a listing page.
    pub pictures_per_page: usize,
    /// Listing pages of a section.
    pub pages_per_section: usize,
    /// Product token of the crawler that robots rules and tags address.
    pub crawler: String,
}

/// What a crawler must reject, merge or survive: numbers of pictures, unless the key names pages or
/// bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Planted {
    /// Disallowed by robots.txt, or on a host whose robots.txt is unavailable.
    pub robots: usize,
    /// Opted out by their own header or by their page.
    pub opt_out: usize,
    /// 404, 410, 403, 500.
    pub http_status: usize,
    /// Redirected in a loop, too often, or without a target.
    pub redirects: usize,
    /// At private, link-local and loopback addresses.
    pub address: usize,
    /// Never answered. Each costs a crawler its time limit for every attempt.
    pub timeout: usize,
    /// The connection breaks during the response.
    pub network: usize,
    /// Longer than `too_many_bytes`.
    pub bytes: usize,
    /// Other content under the name of a picture.
    pub not_image: usize,
    /// Corrupt or truncated.
    pub decode: usize,
    /// A header that claims 900 million pixels.
    pub pixels: usize,
    /// Tracking pixels.
    pub too_small: usize,
    /// With an alt text of `long_text_bytes`; the first has `longest_text_bytes`.
    pub text_bytes: usize,
    /// At a URL of more than 2,000 characters.
    pub url: usize,
    /// Bytes of a picture that is too large.
    pub too_many_bytes: u64,
    /// Bytes of a text that is too long.
    pub long_text_bytes: usize,
    /// Bytes of the longest text.
    pub longest_text_bytes: usize,
    /// Number of missing pages, of disallowed pages, and of pages redirected in a loop.
    pub bad_pages: usize,
    /// The same bytes and text on another page, half of them under another URL.
    pub duplicates: usize,
    /// Pictures without any text.
    pub without_text: usize,
    /// Pairs behind a redirect.
    pub redirected: usize,
    /// Pairs whose first request is answered 503.
    pub flaky: usize,
    /// Pairs with a tag that does not opt out.
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
    /// - `file_name`: for error messages.
    ///
    /// # Errors
    /// [`WorldError`]: one line with the file, the key and the fix.
    pub fn from_toml(text: &str, file_name: &str) -> Result<Self, WorldError> {
        check::read(text, file_name)
    }

    /// The world as a file, with a comment on every key.
    pub fn to_toml(&self) -> String {
        print::print(self)
    }

    /// Every (colour, object) of the world, which are the zero-shot classes.
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
