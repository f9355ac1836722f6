//! `crawl`: frontiers are planned, pages and pictures fetched.

use capstan_crawl::Net;
use capstan_dataset::{files, lists};
use capstan_lease::Done;
use capstan_plan::commit::{File, FileKind, FileList, Outputs};
use capstan_plan::row::{ImageLink, PageLink, Pair, Reject};
use capstan_plan::stage::{Crawl, CrawlWork};
use tokio::sync::mpsc;

use crate::context::Context;
use crate::error::Error;
use crate::fetched::{PAIRS_IN_FLIGHT, control, count_rejects, done};
use crate::measured::{Measured, computed, on_own_threads};

/// Works on one task of a crawl.
pub(crate) async fn run(context: &Context, config: &Crawl, work: CrawlWork) -> Result<Done, Error> {
    match work {
        CrawlWork::Frontier { wave, seen, links } => {
            frontier(context, config, wave, &seen, links.as_ref()).await
        }
        CrawlWork::Pages { pages } => self::pages(context, config, &pages).await,
        CrawlWork::ImageFrontier { links } => image_frontier(context, config, &links).await,
        CrawlWork::Images { images } => self::images(context, config, &images).await,
    }
}

/// Plans the pages of a wave.
async fn frontier(
    context: &Context,
    config: &Crawl,
    wave: u32,
    seen: &[FileList],
    links: Option<&FileList>,
) -> Result<Done, Error> {
    let seen_pages: Vec<PageLink> = read_all(context, seen).await?;
    let linked: Vec<PageLink> = read_all(context, links).await?;
    let config = config.clone();
    let plan = move || {
        Ok(capstan_crawl::plan_pages(
            &config,
            wave,
            &seen_pages,
            &linked,
        ))
    };
    let shards = computed(plan).await?;
    let mut outputs = Outputs::default();
    for shard in shards.value {
        outputs
            .files
            .push(files::write(&context.store, FileKind::Pages, shard).await?);
    }
    let read = seen.iter().chain(links).flat_map(|list| &list.manifests);
    Ok(done(outputs, read, shards.cpu_seconds))
}

/// Fetches the pages of one shard.
async fn pages(context: &Context, config: &Crawl, pages: &File) -> Result<Done, Error> {
    let rows: Vec<PageLink> = files::read(&context.store, pages).await?;
    context.control.progress.begin("pages", rows.len() as u64);
    let count = rows.len() as u64;
    let (net, config, control) = (context.net.clone(), config.clone(), control(context));
    let fetch = on_own_threads(async move {
        let net = Net::new(net, &config)?;
        Ok(capstan_crawl::fetch_pages(&config, &net, rows, &control).await?)
    });
    let measured = fetch.await?;
    let fetched = measured.value;
    let mut outputs = Outputs::default();
    outputs.counts.insert("pages".to_owned(), count);
    // Pictures that are passed on to a fetch are counted as found by the task that fetches them.
    let refused = fetched.rejects.iter().filter(|reject| reject.is_image);
    let refused = refused.count() as u64;
    outputs.counts.insert("found".to_owned(), refused);
    count_rejects(&mut outputs, &fetched.rejects);
    let store = &context.store;
    outputs
        .files
        .push(files::write(store, FileKind::PageLinks, fetched.links).await?);
    outputs
        .files
        .push(files::write(store, FileKind::ImageLinks, fetched.images).await?);
    outputs
        .files
        .push(files::write(store, FileKind::Rejects, fetched.rejects).await?);
    Ok(done(outputs, [pages], measured.cpu_seconds))
}

/// Spreads the pictures found over shards by image host.
async fn image_frontier(
    context: &Context,
    config: &Crawl,
    links: &[FileList],
) -> Result<Done, Error> {
    let rows: Vec<ImageLink> = read_all(context, links).await?;
    let config = config.clone();
    let shards = computed(move || Ok(capstan_crawl::plan_images(&config, rows))).await?;
    let mut outputs = Outputs::default();
    for shard in shards.value {
        outputs
            .files
            .push(files::write(&context.store, FileKind::Images, shard).await?);
    }
    let read = links.iter().flat_map(|list| &list.manifests);
    Ok(done(outputs, read, shards.cpu_seconds))
}

/// Fetches the pictures of one shard.
async fn images(context: &Context, config: &Crawl, images: &File) -> Result<Done, Error> {
    let rows: Vec<ImageLink> = files::read(&context.store, images).await?;
    context
        .control
        .progress
        .begin("pictures", rows.len() as u64);
    let found = rows.len() as u64;
    let (sender, receiver) = mpsc::channel(PAIRS_IN_FLIGHT);
    let written = store_pairs(context, receiver, (&config.storing).into());
    let (net, config, control) = (context.net.clone(), config.clone(), control(context));
    let fetch = on_own_threads(async move {
        let net = Net::new(net, &config)?;
        Ok(capstan_crawl::fetch_images(&config, &net, rows, &control, sender).await?)
    });
    let (rejects, written) = tokio::join!(fetch, written);
    finish_pairs(context, found, written?, rejects?, images).await
}

/// Pairs that were written to base files.
struct Written {
    files: Vec<File>,
    pairs: u64,
    texts: u64,
}

/// Writes pairs as they come. On an error the receiver is dropped, which ends the sender.
async fn store_pairs(
    context: &Context,
    mut pairs: mpsc::Receiver<Pair>,
    bounds: files::FileBounds,
) -> Result<Written, Error> {
    let mut writer = files::PairWriter::new(&context.store, bounds);
    let (mut count, mut texts) = (0, 0);
    while let Some(pair) = pairs.recv().await {
        count += 1;
        texts += pair.texts.len() as u64;
        writer.push(pair).await?;
    }
    Ok(Written {
        files: writer.finish().await?,
        pairs: count,
        texts,
    })
}

async fn finish_pairs(
    context: &Context,
    found: u64,
    written: Written,
    read: Measured<Vec<Reject>>,
    input: &File,
) -> Result<Done, Error> {
    let rejects = read.value;
    let mut outputs = Outputs {
        files: written.files,
        ..Outputs::default()
    };
    outputs.counts.insert("found".to_owned(), found);
    outputs.counts.insert("fetched".to_owned(), written.pairs);
    outputs.counts.insert("texts".to_owned(), written.texts);
    count_rejects(&mut outputs, &rejects);
    outputs
        .files
        .push(files::write(&context.store, FileKind::Rejects, rejects).await?);
    Ok(done(outputs, [input], read.cpu_seconds))
}

/// The rows of every file of these lists, in order.
async fn read_all<T: capstan_dataset::record::Record>(
    context: &Context,
    inputs: impl IntoIterator<Item = &FileList>,
) -> Result<Vec<T>, Error> {
    let mut rows = Vec::new();
    for list in inputs {
        for file in lists::files_of(&context.store, list).await? {
            rows.extend(files::read(&context.store, &file).await?);
        }
    }
    Ok(rows)
}
