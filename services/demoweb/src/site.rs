//! The site: every page and picture of the web by URL, the truth, and what a crawl must find.

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

/// What must become of a picture on a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// A row with these texts, each with how it came about.
    Row(Vec<(String, TextKind)>),
    /// A row that repeats the bytes and texts of another.
    Duplicate(Vec<(String, TextKind)>),
    /// A reject with this code.
    Reject(&'static str),
}

/// A picture as it stands on a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// URL of the picture: the one that a crawler must choose where there are candidates.
    pub image_url: String,
    /// URL of the page, after redirects.
    pub page_url: String,
    /// What must become of it.
    pub fate: Fate,
}

/// What a correct crawl of the site comes to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expected {
    /// Pages that can be had.
    pub pages: usize,
    /// Pages that cannot, by reject code.
    pub rejected_pages: BTreeMap<String, usize>,
    /// Distinct (picture, page).
    pub found: usize,
    /// Of these, rows.
    pub fetched: usize,
    /// Of these, rejects by code.
    pub rejected: BTreeMap<String, usize>,
    /// Rows that repeat the bytes and texts of another: exact deduplication drops so many.
    pub duplicates: usize,
    /// Rows without any text.
    pub without_text: usize,
    /// Texts of all rows.
    pub texts: usize,
    /// Texts that are left after deduplication, by kind; caps and filters may drop more.
    pub distinct_texts: BTreeMap<TextKind, usize>,
}

/// The hosts and what they answer.
#[derive(Debug, Default)]
pub(crate) struct Host {
    robots: Robots,
    /// By path and query.
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
    /// Builds the web. Pictures are rendered when they are asked for.
    pub fn build(world: &World, seed: u64) -> Self {
        pages::build(world, seed)
    }

    /// The world it was built from.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The seed it was built with.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Every host name, sorted: the names that a crawler's map must lead to the listeners.
    pub fn hosts(&self) -> Vec<String> {
        self.hosts.keys().cloned().collect()
    }

    /// The pages to begin with; every other page can be reached from them.
    pub fn seeds(&self) -> Vec<String> {
        self.seeds.clone()
    }

    /// Every picture as it stands on a page that can be had.
    pub fn found(&self) -> &[Found] {
        &self.found
    }

    /// What is on the picture behind this URL, be it the one that a page names, another
    /// candidate, or the end of its redirect.
    pub fn scene(&self, image_url: &str) -> Option<&Scene> {
        self.scenes.get(image_url).map(Arc::as_ref)
    }

    /// How a web text of the picture behind this URL came about.
    pub fn kind(&self, image_url: &str, text: &str) -> Option<TextKind> {
        self.kinds
            .get(&(image_url.to_owned(), text.to_owned()))
            .copied()
    }

    /// What a text, of the web or synthetic, is worth for a scene, in the words of this world.
    pub fn judge(&self, scene: &Scene, text: &str) -> Judgement {
        self.judge.judge(scene, text)
    }

    /// What a text is worth for the picture behind this URL.
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

    /// Lays out `dir/human`, `dir/evaluation` and `dir/zero_shot`: each a `captions.json` in COCO
    /// captions form beside a folder `images`. Files that are there are replaced.
    ///
    /// # Errors
    /// A folder or file that cannot be written, by name.
    pub fn write_annotations(&self, dir: &Path) -> Result<(), AnnotationError> {
        annotations::write(self, dir)
    }

    /// What a correct crawl comes to, counted from what was planted.
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

    /// Every request so far, in the order in which they came; at most a million.
    pub fn log(&self) -> Vec<LogEntry> {
        self.log_from(0)
    }

    /// The requests of [`Site::log`] from the `first`-th on, for whoever writes them as they come.
    pub fn log_from(&self, first: usize) -> Vec<LogEntry> {
        self.log.entries_from(first)
    }

    /// What the requests of a crawler broke, one line each: robots.txt (not read first, or not
    /// heeded), opt-outs (a picture fetched again after it had refused, or fetched though its
    /// page refuses), a Crawl-delay (two requests closer than that; robots.txt itself is free).
    ///
    /// - `user_agent`: requests whose user agent contains it are looked at.
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
