//! `crawl`: pages, then pictures, fetched in waves from seeds.
//!
//! ```text
//! frontier-0 ─► pages-0-* ─► frontier-1 ─► pages-1-* ... until a frontier is empty or max_depth
//! is reached ─► image-frontier ─► images-* ─► a dataset
//! ```

use serde::{Deserialize, Serialize};

use super::{Input, Output, Settings, Split, StageKind, Storing, TaskWork};
use crate::check::Check;
use crate::commit::{File, FileKind, FileList, FilesHasher};
use crate::expand::{Error, Items, Next, Outcome, Request, Step, Tasks};
use crate::id::{DatasetName, Digest, ShardId};
use crate::recipe::{Recipes, hash};
use crate::task::Role;

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
        /// The wave to plan, from 0 (the seeds).
        wave: u32,
        /// `Pages` files of all earlier waves, a list for each: the pages already seen.
        seen: Vec<FileList>,
        /// `PageLinks` files of the wave before.
        links: Option<FileList>,
    },
    /// Map: fetches the pages of one shard of a wave. Commits `PageLinks`, `ImageLinks`, `Rejects`.
    Pages {
        /// The `Pages` file.
        pages: File,
    },
    /// Global: sorts the pictures found into shards by image host. Commits one `Images` file per
    /// shard.
    ImageFrontier {
        /// `ImageLinks` files of all waves, a list for each.
        links: Vec<FileList>,
    },
    /// Map: fetches the pictures of one shard. Commits base files and `Rejects`.
    Images {
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

    fn next(&self, request: &Request<'_>) -> Result<Next, Error> {
        Ok(waves(request, self))
    }

    fn follower(&self, shard: &ShardId) -> Option<ShardId> {
        let wave = shard.as_str().strip_prefix("pages-")?;
        let (wave, _) = wave.split_once('-')?;
        let wave: u32 = wave.parse().ok()?;
        Some(ShardId(match wave {
            last if last >= self.max_depth => IMAGE_FRONTIER.to_owned(),
            wave => frontier(wave + 1),
        }))
    }
}

impl TaskWork for CrawlWork {
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
fn waves(request: &Request<'_>, config: &Crawl) -> Next {
    let (mut seen, mut image_links) = (Vec::new(), Vec::new());
    let mut links = None;
    let mut steps = request.steps.iter();
    for wave in 0..=config.max_depth {
        let Some(planned) = steps.next() else {
            return Next::Tasks(frontier_task(request, config, wave, seen, links));
        };
        let pages = list(planned, FileKind::Pages);
        if pages.count == 0 {
            break;
        }
        let Some(fetched) = steps.next() else {
            let prefix = format!("pages-{wave}-");
            let work = |pages| CrawlWork::Pages { pages };
            let items = fetches(config, "pages", pages, work);
            let lists = &[FileKind::PageLinks, FileKind::ImageLinks];
            return Next::Tasks(request.step(prefix, items, lists));
        };
        seen.push(pages);
        links = Some(list(fetched, FileKind::PageLinks));
        image_links.push(list(fetched, FileKind::ImageLinks));
    }
    let Some(sorted) = steps.next() else {
        let inputs = rows(&image_links);
        let config = nameless(config);
        let recipe = hash::<Crawl>("image-frontier", None, &config, &[], &inputs);
        let work = CrawlWork::ImageFrontier { links: image_links };
        return Next::Tasks(request.one(IMAGE_FRONTIER, work, recipe, &[FileKind::Images]));
    };
    if steps.next().is_none() {
        let images = list(sorted, FileKind::Images);
        let items = fetches(config, "images", images, |images| CrawlWork::Images {
            images,
        });
        return Next::Tasks(request.step("images-", items, &[]));
    }
    Next::Done(Outcome::NewDataset(config.dataset.clone()))
}

fn frontier_task(
    request: &Request<'_>,
    config: &Crawl,
    wave: u32,
    seen: Vec<FileList>,
    links: Option<FileList>,
) -> Tasks {
    // The number of lists seen marks where `seen` ends and `links` begin.
    let config = (nameless(config), wave, seen.len());
    let inputs = rows(seen.iter().chain(&links));
    let recipe = hash::<Crawl>("frontier", None, &config, &[], &inputs);
    let work = CrawlWork::Frontier { wave, seen, links };
    request.one(frontier(wave), work, recipe, &[FileKind::Pages])
}

/// A task per file.
fn fetches(
    config: &Crawl,
    step: &str,
    files: FileList,
    work: impl Fn(File) -> CrawlWork + Send + Sync + 'static,
) -> Items {
    let recipes = Recipes::new::<Crawl>(step, None, &nameless(config), &[]);
    let make = move |file: File| {
        let recipe = recipes.hash(&[file.rows_digest], None);
        (work(file).into(), recipe)
    };
    Items::Files(files, Box::new(make))
}

/// The files of this kind that a step made.
fn list(step: &Step, kind: FileKind) -> FileList {
    let list = step.lists.get(&kind).cloned();
    list.unwrap_or_else(|| FilesHasher::default().finish(Vec::new()))
}

fn rows<'a>(lists: impl IntoIterator<Item = &'a FileList>) -> Vec<Digest> {
    lists.into_iter().map(|list| list.rows).collect()
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
