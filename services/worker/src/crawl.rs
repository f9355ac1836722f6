//! The waves of a crawl, and imports.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use capstan_crawl::Net;
use capstan_dataset::files;
use capstan_lease::Done;
use capstan_plan::commit::{File, FileKind, Outputs};
use capstan_plan::reject::RejectCode;
use capstan_plan::row::{ImageLink, PageLink, Pair, Reject};
use capstan_plan::stage;
use tokio::sync::mpsc;

use crate::context::Context;
use crate::error::Error;

/// Pairs between the decoder and the file writer at most.
const PAIRS_IN_FLIGHT: usize = 64;

/// Plans the pages of a wave.
pub(crate) async fn frontier(
    context: &Context,
    config: &stage::Crawl,
    wave: u32,
    seen: &[File],
    links: &[File],
) -> Result<Done, Error> {
    let seen_pages: Vec<PageLink> = read_all(context, seen).await?;
    let linked: Vec<PageLink> = read_all(context, links).await?;
    let shards = capstan_crawl::plan_pages(config, wave, &seen_pages, &linked);
    let mut outputs = Outputs::default();
    for shard in shards {
        outputs
            .files
            .push(files::write(&context.store, FileKind::Pages, shard).await?);
    }
    Ok(done(outputs, seen.iter().chain(links)))
}

/// Fetches the pages of one shard.
pub(crate) async fn pages(
    context: &Context,
    config: &stage::Crawl,
    pages: &File,
) -> Result<Done, Error> {
    let net = Net::new(context.net.clone(), config)?;
    let rows: Vec<PageLink> = files::read(&context.store, pages).await?;
    context.control.progress.begin("pages", rows.len() as u64);
    let count = rows.len() as u64;
    let fetched = capstan_crawl::fetch_pages(config, &net, rows, &control(context)).await?;
    let mut outputs = Outputs::default();
    outputs.counts.insert("pages".to_owned(), count);
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
    Ok(done(outputs, [pages]))
}

/// Spreads the pictures found over shards by image host.
pub(crate) async fn image_frontier(
    context: &Context,
    config: &stage::Crawl,
    links: &[File],
) -> Result<Done, Error> {
    let rows: Vec<ImageLink> = read_all(context, links).await?;
    let mut outputs = Outputs::default();
    for shard in capstan_crawl::plan_images(config, rows) {
        outputs
            .files
            .push(files::write(&context.store, FileKind::Images, shard).await?);
    }
    Ok(done(outputs, links))
}

/// Fetches the pictures of one shard.
pub(crate) async fn images(
    context: &Context,
    config: &stage::Crawl,
    images: &File,
) -> Result<Done, Error> {
    let net = Net::new(context.net.clone(), config)?;
    let rows: Vec<ImageLink> = files::read(&context.store, images).await?;
    context
        .control
        .progress
        .begin("pictures", rows.len() as u64);
    let (sender, receiver) = mpsc::channel(PAIRS_IN_FLIGHT);
    let control = control(context);
    let fetch = capstan_crawl::fetch_images(config, &net, rows, &control, sender);
    let written = store_pairs(context, receiver, config.storing.rows_per_file);
    let (rejects, written) = tokio::join!(fetch, written);
    finish_pairs(context, written?, rejects?, &[images.clone()]).await
}

/// Imports annotated pairs.
pub(crate) async fn import(context: &Context, config: &stage::Import) -> Result<Done, Error> {
    let folder = import_folder(&context.import_root, &config.source);
    let (sender, receiver) = mpsc::channel(PAIRS_IN_FLIGHT);
    let control = control(context);
    let read = match config.format {
        stage::ImportFormat::CocoCaptions => {
            capstan_crawl::import_coco(config, &folder, &control, sender)
        }
    };
    let written = store_pairs(context, receiver, config.storing.rows_per_file);
    let (rejects, written) = tokio::join!(read, written);
    finish_pairs(context, written?, rejects?, &[]).await
}

/// What came of writing pairs.
struct Written {
    files: Vec<File>,
    pairs: u64,
    texts: u64,
}

/// Writes pairs as they come. On an error the receiver is dropped, which ends the sender.
async fn store_pairs(
    context: &Context,
    mut pairs: mpsc::Receiver<Pair>,
    rows_per_file: usize,
) -> Result<Written, Error> {
    let mut writer = files::PairWriter::new(&context.store, rows_per_file);
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
    written: Written,
    rejects: Vec<Reject>,
    inputs: &[File],
) -> Result<Done, Error> {
    let mut outputs = Outputs {
        files: written.files,
        ..Outputs::default()
    };
    outputs.counts.insert("fetched".to_owned(), written.pairs);
    outputs.counts.insert("texts".to_owned(), written.texts);
    count_rejects(&mut outputs, &rejects);
    outputs
        .files
        .push(files::write(&context.store, FileKind::Rejects, rejects).await?);
    Ok(done(outputs, inputs))
}

fn count_rejects(outputs: &mut Outputs, rejects: &[Reject]) {
    let mut by_code: BTreeMap<RejectCode, u64> = BTreeMap::new();
    for reject in rejects {
        *by_code.entry(reject.code).or_default() += 1;
    }
    let pictures = rejects.iter().filter(|reject| reject.is_image).count() as u64;
    outputs.counts.insert("rejected".to_owned(), pictures);
    outputs
        .counts
        .insert("rejected_pages".to_owned(), rejects.len() as u64 - pictures);
    outputs.rejects = by_code;
}

async fn read_all<T: capstan_dataset::record::Record>(
    context: &Context,
    inputs: &[File],
) -> Result<Vec<T>, Error> {
    let mut rows = Vec::new();
    for file in inputs {
        rows.extend(files::read(&context.store, file).await?);
    }
    Ok(rows)
}

fn done<'a>(outputs: Outputs, inputs: impl IntoIterator<Item = &'a File>) -> Done {
    let inputs = inputs.into_iter().map(|file| file.digest).collect();
    Done {
        outputs,
        inputs,
        ..Done::default()
    }
}

fn control(context: &Context) -> capstan_crawl::Control {
    let progress = context.control.progress.clone();
    capstan_crawl::Control::new(
        context.control.cancel.clone(),
        move |now| progress.set(now.done),
        || {
            let since = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            since.as_millis() as i64
        },
    )
}

/// A relative source lies under the root.
fn import_folder(root: &Path, source: &str) -> PathBuf {
    root.join(source)
}
