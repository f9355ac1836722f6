//! A crawl in waves: global frontiers and map steps in turn.

use super::{Done, Error, Expansion, Given, Step, done, ordinal_name};
use crate::commit::{Commit, File, FileKind};
use crate::id::ShardId;
use crate::stage::Crawl;
use crate::task::{Task, Work};

/// The shard that sorts the pictures found.
const IMAGE_FRONTIER: &str = "image-frontier";

/// The shard that chooses the pages of a wave.
fn frontier(wave: u32) -> String {
    format!("frontier-{wave}")
}

/// The next step of a crawl.
///
/// - `left_out`: takes the shards that later steps were built without.
pub(super) fn crawl(
    step: &Step<'_>,
    config: &Crawl,
    left_out: &mut Vec<ShardId>,
) -> Result<Expansion, Error> {
    let mut seen: Vec<File> = Vec::new();
    let mut page_links: Vec<File> = Vec::new();
    let mut image_links: Vec<File> = Vec::new();
    let mut tasks: Vec<Task> = Vec::new();
    for wave in 0..=config.max_depth {
        let work = Work::Frontier {
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
            Work::Pages {
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
    let work = Work::ImageFrontier {
        config: config.clone(),
        links,
    };
    let frontier = step.task(IMAGE_FRONTIER, work);
    let Some(commit) = step.needed(&frontier.shard)? else {
        return Ok(Expansion::Tasks(vec![frontier]));
    };
    tasks.push(frontier);
    let images = files(commit, FileKind::Images);
    let fetches = map(step, "images", &images, |images| Work::Images {
        config: config.clone(),
        images,
    });
    if !step.settled(&fetches) {
        return Ok(Expansion::Tasks(fetches));
    }
    let parts = done::all_bases(step, &fetches)?;
    tasks.extend(fetches);
    let given = Given::Dataset {
        dataset: config.dataset.clone(),
        derived_from: None,
        parts,
    };
    Ok(Expansion::Done(Done::new(step, given, &tasks)))
}

/// One task a file, `<prefix>-<ordinal>`.
fn map(step: &Step<'_>, prefix: &str, files: &[File], work: impl Fn(File) -> Work) -> Vec<Task> {
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

/// Files of one kind of all of these tasks' commits, in the order of the tasks.
fn all(step: &Step<'_>, tasks: &[Task], kind: FileKind) -> Vec<File> {
    let commits = tasks.iter().filter_map(|task| step.commit(&task.shard));
    commits.flat_map(|commit| files(commit, kind)).collect()
}
