//! `crawl`: pages, then pictures, fetched in waves from seeds.
//!
//! ```text
//! frontier-0 ─► pages-0-* ─► frontier-1 ─► pages-1-* ... until a frontier is empty or max_depth
//! is reached ─► image-frontier ─► images-* ─► a dataset
//! ```

use serde::{Deserialize, Serialize};

use super::{Input, Output, Settings, Split, StageKind, Storing, TaskWork};
use crate::check::Check;
use crate::commit::{Commit, File, FileKind};
use crate::expand::{Done, Error, Expansion, Given, Step, ordinal_name};
use crate::id::{DatasetName, RecipeHash, ShardId};
use crate::recipe::{Scope, hash, rows};
use crate::task::{Role, Task};

/// The shard that sorts the pictures found.
const IMAGE_FRONTIER: &str = "image-frontier";

/// `kind = "crawl"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crawl {
    /// The dataset whose base files it writes.
    pub dataset: DatasetName,
    /// Pages to begin with.
    pub seeds: Vec<String>,
    /// Label of the state of the web: an equal label adopts an earlier crawl.
    pub snapshot: String,
    /// Product token for robots.txt and the user agent header.
    #[serde(default = "user_agent")]
    pub user_agent: String,
    /// Links from a seed at most.
    #[serde(default = "max_depth")]
    pub max_depth: u32,
    /// Pages fetched at most, over all waves.
    #[serde(default = "max_pages")]
    pub max_pages: u64,
    /// Pictures fetched at most.
    #[serde(default = "max_images")]
    pub max_images: u64,
    /// Map tasks of a wave at most; hosts are spread over them by hash.
    #[serde(default = "shards")]
    pub shards: usize,
    /// Requests in flight at most, over all hosts of a task.
    #[serde(default = "concurrency")]
    pub concurrency: usize,
    /// Requests in flight at most to one host.
    #[serde(default = "concurrency_per_host")]
    pub concurrency_per_host: usize,
    /// Least time between two requests to one host, in milliseconds; robots.txt may ask for more.
    #[serde(default)]
    pub host_interval_ms: u64,
    /// Limit for one request with its redirects, in milliseconds.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
    /// Redirects followed at most.
    #[serde(default = "max_redirects")]
    pub max_redirects: u32,
    /// Tries of a request that fails for a transient cause (429, 5xx, network).
    #[serde(default = "tries")]
    pub tries: u32,
    /// Bytes of a page at most.
    #[serde(default = "max_page_bytes")]
    pub max_page_bytes: u64,
    /// Bytes of a picture at most.
    #[serde(default = "max_image_bytes")]
    pub max_image_bytes: u64,
    /// Bytes of a text at most; a pair with a longer one is a reject.
    #[serde(default = "max_text_bytes")]
    pub max_text_bytes: usize,
    /// How pictures are stored.
    #[serde(default)]
    pub storing: Storing,
}

/// One task of a crawl.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum CrawlWork {
    /// Global: takes the links of the waves so far and makes the pages of the next wave.
    /// Commits one `Pages` file per shard, none where nothing is left.
    Frontier {
        /// Settings.
        config: Crawl,
        /// The wave to plan, from 0 (the seeds).
        wave: u32,
        /// `Pages` files of all earlier waves: the pages already seen.
        seen: Vec<File>,
        /// `PageLinks` files of the wave before.
        links: Vec<File>,
    },
    /// Map: fetches the pages of one shard of a wave. Commits `PageLinks`, `ImageLinks`, `Rejects`.
    Pages {
        /// Settings.
        config: Crawl,
        /// The `Pages` file.
        pages: File,
    },
    /// Global: sorts the pictures found into shards by image host. Commits one `Images` file per
    /// shard.
    ImageFrontier {
        /// Settings.
        config: Crawl,
        /// `ImageLinks` files of all waves.
        links: Vec<File>,
    },
    /// Map: fetches the pictures of one shard. Commits base files and `Rejects`.
    Images {
        /// Settings.
        config: Crawl,
        /// The `Images` file.
        images: File,
    },
}

impl StageKind for Crawl {
    const NAME: &'static str = "crawl";
    const VERSION: u32 = 2;
}

impl Settings for Crawl {
    fn inputs(&self) -> Vec<Input> {
        Vec::new()
    }

    fn output(&self) -> Output<'_> {
        Output::NewDataset(&self.dataset)
    }

    fn check(&self, check: &mut Check) {
        check.name("dataset", self.dataset.as_str());
        check.count("seeds", &self.seeds, 1_000_000, "URLs");
        let http = |url: &String| url.starts_with("http://") || url.starts_with("https://");
        let odd = self
            .seeds
            .iter()
            .find(|url| !http(url) || url.len() > 2_000);
        let shown = format!("{:?}", odd.map_or("", String::as_str));
        let text = "URLs that begin with http:// or https:// and have at most 2000 bytes";
        check.rule("seeds", shown, odd.is_none(), text);
        check.text("snapshot", &self.snapshot, 200);
        let token = |b: u8| b.is_ascii_alphabetic() || b == b'-' || b == b'_';
        let agent = &self.user_agent;
        let holds = (1..=100).contains(&agent.len()) && agent.bytes().all(token);
        let text = "1 to 100 letters, `-` and `_`, as RFC 9309 has a product token";
        check.rule("user_agent", format!("{agent:?}"), holds, text);
        check.integer("max_depth", self.max_depth, 0..=1_000);
        check.integer("max_pages", self.max_pages, 1..=1_000_000_000_000);
        check.integer("max_images", self.max_images, 1..=1_000_000_000_000);
        check.integer("shards", self.shards, 1..=1_000_000);
        check.integer("concurrency", self.concurrency, 1..=10_000);
        check.integer("concurrency_per_host", self.concurrency_per_host, 1..=1_000);
        check.integer("host_interval_ms", self.host_interval_ms, 0..=86_400_000);
        check.integer("timeout_ms", self.timeout_ms, 1..=3_600_000);
        check.integer("max_redirects", self.max_redirects, 0..=20);
        check.integer("tries", self.tries, 1..=20);
        check.integer("max_page_bytes", self.max_page_bytes, 1..=1 << 30);
        check.integer("max_image_bytes", self.max_image_bytes, 1..=1 << 30);
        check.integer("max_text_bytes", self.max_text_bytes, 1..=1 << 30);
        check.table("storing", |check| self.storing.check(check));
    }

    fn split(&self) -> Split {
        Split::Waves
    }

    fn role(&self) -> Role {
        Role::Crawl
    }

    fn expand(&self, step: &Step<'_>) -> Result<Expansion, Error> {
        waves(step, self, &mut Vec::new())
    }

    fn left_out(&self, step: &Step<'_>) -> Result<Vec<ShardId>, Error> {
        let mut left_out = Vec::new();
        waves(step, self, &mut left_out)?;
        Ok(left_out)
    }
}

impl TaskWork for CrawlWork {
    fn recipe(&self, _: &Scope<'_>) -> RecipeHash {
        match self {
            Self::Frontier {
                config,
                wave,
                seen,
                links,
            } => {
                // The number of files seen marks where `seen` ends and `links` begin.
                let config = (nameless(config), wave, seen.len());
                let inputs = rows(seen.iter().chain(links));
                hash::<Crawl>("frontier", None, &config, &[], &inputs)
            }
            Self::Pages { config, pages } => {
                hash::<Crawl>("pages", None, &nameless(config), &[], &rows([pages]))
            }
            Self::ImageFrontier { config, links } => {
                hash::<Crawl>("image-frontier", None, &nameless(config), &[], &rows(links))
            }
            Self::Images { config, images } => {
                hash::<Crawl>("images", None, &nameless(config), &[], &rows([images]))
            }
        }
    }

    fn contacts_foreign_hosts(&self) -> bool {
        match self {
            Self::Pages { .. } | Self::Images { .. } => true,
            Self::Frontier { .. } | Self::ImageFrontier { .. } => false,
        }
    }
}

fn nameless(config: &Crawl) -> Crawl {
    Crawl {
        dataset: DatasetName(String::new()),
        ..config.clone()
    }
}

/// The shard that chooses the pages of a wave.
fn frontier(wave: u32) -> String {
    format!("frontier-{wave}")
}

/// The next step of a crawl.
///
/// - `left_out`: takes the shards that later steps were built without.
fn waves(step: &Step<'_>, config: &Crawl, left_out: &mut Vec<ShardId>) -> Result<Expansion, Error> {
    let mut seen: Vec<File> = Vec::new();
    let mut page_links: Vec<File> = Vec::new();
    let mut image_links: Vec<File> = Vec::new();
    let mut tasks: Vec<Task> = Vec::new();
    for wave in 0..=config.max_depth {
        let work = CrawlWork::Frontier {
            config: config.clone(),
            wave,
            seen: seen.clone(),
            links: std::mem::take(&mut page_links),
        };
        let chosen = step.task(frontier(wave), work);
        let Some(commit) = step.needed(&chosen.shard)? else {
            return Ok(Expansion::Tasks(vec![chosen]));
        };
        tasks.push(chosen);
        let pages = files(commit, FileKind::Pages);
        if pages.is_empty() {
            break;
        }
        let fetches = map(step, &format!("pages-{wave}"), &pages, |pages| {
            CrawlWork::Pages {
                config: config.clone(),
                pages,
            }
        });
        let next = match wave {
            last if last == config.max_depth => IMAGE_FRONTIER.to_owned(),
            wave => frontier(wave + 1),
        };
        // Once the next step was built without a shard, the crawl goes on without it.
        if step.commit(&ShardId(next)).is_some() {
            let open = fetches.iter().map(|fetch| &fetch.shard);
            left_out.extend(open.filter(|shard| step.commit(shard).is_none()).cloned());
        } else if !step.settled(&fetches) {
            return Ok(Expansion::Tasks(fetches));
        }
        page_links = all(step, &fetches, FileKind::PageLinks);
        image_links.extend(all(step, &fetches, FileKind::ImageLinks));
        seen.extend(pages);
        tasks.extend(fetches);
    }
    images(step, config, image_links, tasks)
}

/// The last two steps: pictures are sorted by host, then fetched.
fn images(
    step: &Step<'_>,
    config: &Crawl,
    links: Vec<File>,
    mut tasks: Vec<Task>,
) -> Result<Expansion, Error> {
    let work = CrawlWork::ImageFrontier {
        config: config.clone(),
        links,
    };
    let frontier = step.task(IMAGE_FRONTIER, work);
    let Some(commit) = step.needed(&frontier.shard)? else {
        return Ok(Expansion::Tasks(vec![frontier]));
    };
    tasks.push(frontier);
    let images = files(commit, FileKind::Images);
    let fetches = map(step, "images", &images, |images| CrawlWork::Images {
        config: config.clone(),
        images,
    });
    if !step.settled(&fetches) {
        return Ok(Expansion::Tasks(fetches));
    }
    let parts = step.bases(&fetches)?;
    tasks.extend(fetches);
    let given = Given::new_dataset(&config.dataset, parts);
    Ok(Expansion::Done(Done::new(step, given, &tasks)))
}

/// One task per file, `<prefix>-<ordinal>`.
fn map(
    step: &Step<'_>,
    prefix: &str,
    files: &[File],
    work: impl Fn(File) -> CrawlWork,
) -> Vec<Task> {
    let shard = |ordinal| ShardId(format!("{prefix}-{}", ordinal_name(ordinal)));
    files
        .iter()
        .enumerate()
        .map(|(ordinal, file)| step.task(shard(ordinal), work(file.clone())))
        .collect()
}

fn files(commit: &Commit, kind: FileKind) -> Vec<File> {
    let files = commit.outputs.files.iter();
    files.filter(|file| file.kind == kind).cloned().collect()
}

/// Files of one kind in all of these tasks' commits, in the order of the tasks.
fn all(step: &Step<'_>, tasks: &[Task], kind: FileKind) -> Vec<File> {
    step.commits_of(tasks)
        .flat_map(|commit| files(commit, kind))
        .collect()
}

fn user_agent() -> String {
    "capstanbot".to_owned()
}

fn max_depth() -> u32 {
    8
}

fn max_pages() -> u64 {
    100_000
}

fn max_images() -> u64 {
    1_000_000
}

pub(super) fn shards() -> usize {
    16
}

fn concurrency() -> usize {
    32
}

fn timeout_ms() -> u64 {
    10_000
}

fn concurrency_per_host() -> usize {
    4
}

fn max_redirects() -> u32 {
    5
}

fn tries() -> u32 {
    3
}

fn max_page_bytes() -> u64 {
    16 << 20
}

pub(super) fn max_image_bytes() -> u64 {
    16 << 20
}

pub(super) fn max_text_bytes() -> usize {
    64 << 10
}
