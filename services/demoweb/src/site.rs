//! The site: all pages and pictures by URL, the ground truth, and the expected result of a crawl.

mod answer;
mod markup;
mod pages;
mod pairs;
mod place;
mod plant;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

pub(crate) use answer::{Answer, Picture};

use crate::annotations::{self, AnnotationError};
use crate::judge::{Judge, Judgement};
use crate::log::{LogEntry, RequestLog, violations};
use crate::robots::Robots;
use crate::scene::Scene;
use crate::wording::TextKind;
use crate::world::World;

/// The expected outcome for a picture on a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// A row with these texts and their kinds.
    Row(Vec<(String, TextKind)>),
    /// A row that repeats the bytes and texts of another.
    Duplicate(Vec<(String, TextKind)>),
    /// A reject with this code.
    Reject(&'static str),
}

/// A picture on a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// URL of the picture. If there are several candidates, the one that a crawler must choose.
    pub image_url: String,
    /// URL of the page, after redirects.
    pub page_url: String,
    /// The expected outcome.
    pub fate: Fate,
}

/// The expected result of a correct crawl of the site.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expected {
    /// Pages that can be fetched.
    pub pages: usize,
    /// Pages that are rejected, by code.
    pub rejected_pages: BTreeMap<String, usize>,
    /// Distinct (picture, page).
    pub found: usize,
    /// Rows among them.
    pub fetched: usize,
    /// Rejects among them, by code.
    pub rejected: BTreeMap<String, usize>,
    /// Rows that repeat the bytes and texts of another row, which exact deduplication drops.
    pub duplicates: usize,
    /// Rows without any text.
    pub without_text: usize,
    /// Texts of all rows.
    pub texts: usize,
    /// Texts after deduplication, by kind. Caps and filters may drop more.
    pub distinct_texts: BTreeMap<TextKind, usize>,
}

/// A host and its answers.
#[derive(Debug, Default)]
pub(crate) struct Host {
    robots: Robots,
    /// Answers by path and query.
    answers: HashMap<String, Answer>,
}

/// A miniature web, a pure function of world and seed.
#[derive(Debug)]
pub struct Site {
    world: World,
    seed: u64,
    hosts: BTreeMap<String, Host>,
    seeds: Vec<String>,
    found: Vec<Found>,
    rejected_pages: BTreeMap<String, usize>,
    scenes: HashMap<String, Arc<Scene>>,
    kinds: HashMap<(String, String), TextKind>,
    opted_out: HashSet<String>,
    opted_out_by_page: HashSet<String>,
    judge: Judge,
    log: RequestLog,
}

impl Site {
    /// Builds the web. Pictures are rendered when they are requested.
    pub fn build(world: &World, seed: u64) -> Self {
        pages::build(world, seed)
    }

    /// The world of the site.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The seed of the site.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// All host names, sorted. A crawler must resolve them to the listeners.
    pub fn hosts(&self) -> Vec<String> {
        self.hosts.keys().cloned().collect()
    }

    /// The seed pages of a crawl, from which every other page can be reached.
    pub fn seeds(&self) -> Vec<String> {
        self.seeds.clone()
    }

    /// All pictures on pages that can be fetched.
    pub fn found(&self) -> &[Found] {
        &self.found
    }

    /// The scene of the picture at this URL, which may be the URL on a page, another candidate, or
    /// the target of its redirect.
    pub fn scene(&self, image_url: &str) -> Option<&Scene> {
        self.scenes.get(image_url).map(Arc::as_ref)
    }

    /// The kind of a web text of the picture at this URL.
    pub fn kind(&self, image_url: &str, text: &str) -> Option<TextKind> {
        self.kinds
            .get(&(image_url.to_owned(), text.to_owned()))
            .copied()
    }

    /// The judgement of a text, from the web or synthetic, for a scene in the words of this world.
    pub fn judge(&self, scene: &Scene, text: &str) -> Judgement {
        self.judge.judge(scene, text)
    }

    /// The judgement of a text for the picture at this URL.
    pub fn judgement(&self, image_url: &str, text: &str) -> Option<Judgement> {
        self.scene(image_url).map(|scene| self.judge(scene, text))
    }

    /// The zero-shot classes, sorted.
    pub fn classes(&self) -> Vec<String> {
        let names = self.world.names();
        let mut classes: Vec<String> = names
            .iter()
            .map(|name| annotations::class(&self.world, *name))
            .collect();
        classes.sort_unstable();
        classes
    }

    /// Writes `dir/human`, `dir/evaluation` and `dir/zero_shot`: each a `captions.json` in the
    /// format of COCO captions beside a folder `images`. Existing files are replaced.
    ///
    /// # Errors
    /// [`AnnotationError`] with the folder or file that cannot be written.
    pub fn write_annotations(&self, dir: &Path) -> Result<(), AnnotationError> {
        annotations::write(self, dir)
    }

    /// The expected result of a correct crawl, counted from the site.
    pub fn expected(&self) -> Expected {
        let pages = self.hosts.values().flat_map(|host| host.answers.values());
        let mut expected = Expected {
            pages: pages
                .filter(|answer| matches!(answer, Answer::Page { .. }))
                .count(),
            rejected_pages: self.rejected_pages.clone(),
            found: self.found.len(),
            ..Expected::default()
        };
        for found in &self.found {
            match &found.fate {
                Fate::Reject(code) => {
                    *expected.rejected.entry((*code).to_owned()).or_default() += 1
                }
                Fate::Duplicate(texts) => {
                    expected.duplicates += 1;
                    expected.texts += texts.len();
                }
                Fate::Row(texts) => {
                    expected.without_text += usize::from(texts.is_empty());
                    expected.texts += texts.len();
                    for (_, kind) in texts {
                        *expected.distinct_texts.entry(*kind).or_default() += 1;
                    }
                }
            }
        }
        expected.fetched = expected.found - expected.rejected.values().sum::<usize>();
        expected
    }

    /// All requests so far in order of arrival, at most a million.
    pub fn log(&self) -> Vec<LogEntry> {
        self.log_from(0)
    }

    /// The requests of [`Site::log`] from index `first` on, to write them continuously.
    pub fn log_from(&self, first: usize) -> Vec<LogEntry> {
        self.log.entries_from(first)
    }

    /// The violations of a crawler, one line each: of robots.txt (not read first, or not obeyed),
    /// of opt-outs (a picture fetched again after it opted out, or fetched although its page opts
    /// out), of a Crawl-delay (two requests closer than the delay, except those for robots.txt).
    ///
    /// - `user_agent`: only requests whose user agent contains it are checked.
    pub fn violations(&self, log: &[LogEntry], user_agent: &str) -> Vec<String> {
        violations(self, log, user_agent)
    }

    pub(crate) fn request_log(&self) -> &RequestLog {
        &self.log
    }

    pub(crate) fn robots(&self, host: &str) -> Option<&Robots> {
        self.hosts.get(host).map(|host| &host.robots)
    }

    pub(crate) fn answer(&self, host: &str, path: &str) -> Option<&Answer> {
        self.hosts.get(host)?.answers.get(path)
    }

    pub(crate) fn picture_opts_out(&self, url: &str) -> bool {
        self.opted_out.contains(url)
    }

    pub(crate) fn page_opts_out(&self, url: &str) -> bool {
        self.opted_out_by_page.contains(url)
    }
}
