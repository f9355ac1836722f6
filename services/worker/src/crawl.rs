//! The waves of a crawl, and imports.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use capstan_crawl::{Imported, Net};
use capstan_dataset::files;
use capstan_lease::Done;
use capstan_plan::commit::{File, FileKind, Outputs};
use capstan_plan::reject::RejectCode;
use capstan_plan::row::{ImageLink, PageLink, Pair, Reject};
use capstan_plan::stage;
use capstan_plan::task::Slice;
use tokio::sync::mpsc;

use crate::context::Context;
use crate::error::Error;
use crate::measured::{Measured, computed, on_own_threads};

/// Pairs between the decoder and the file writer at most.
const PAIRS_IN_FLIGHT: usize = 64;
/// Rejects of an import that wait in memory for a file.
const REJECTS_PER_FILE: usize = 65_536;

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
    Ok(done(outputs, seen.iter().chain(links), shards.cpu_seconds))
}

/// Fetches the pages of one shard.
pub(crate) async fn pages(
    context: &Context,
    config: &stage::Crawl,
    pages: &File,
) -> Result<Done, Error> {
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
pub(crate) async fn image_frontier(
    context: &Context,
    config: &stage::Crawl,
    links: &[File],
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
    Ok(done(outputs, links, shards.cpu_seconds))
}

/// Fetches the pictures of one shard.
pub(crate) async fn images(
    context: &Context,
    config: &stage::Crawl,
    images: &File,
) -> Result<Done, Error> {
    let rows: Vec<ImageLink> = files::read(&context.store, images).await?;
    context
        .control
        .progress
        .begin("pictures", rows.len() as u64);
    let (sender, receiver) = mpsc::channel(PAIRS_IN_FLIGHT);
    let written = store_pairs(context, receiver, (&config.storing).into());
    let (net, config, control) = (context.net.clone(), config.clone(), control(context));
    let fetch = on_own_threads(async move {
        let net = Net::new(net, &config)?;
        Ok(capstan_crawl::fetch_images(&config, &net, rows, &control, sender).await?)
    });
    let (rejects, written) = tokio::join!(fetch, written);
    finish_pairs(context, written?, rejects?, std::slice::from_ref(images)).await
}

/// Imports one slice of somebody's pairs.
pub(crate) async fn import(
    context: &Context,
    config: &stage::Import,
    slice: Slice,
) -> Result<Done, Error> {
    let folder = given_folder(context, &config.source);
    context.control.progress.begin("pictures", 0);
    let (sender, receiver) = mpsc::channel(PAIRS_IN_FLIGHT);
    let stored = store_imported(context, receiver, (&config.storing).into());
    let (config, control) = (config.clone(), control(context));
    let read = on_own_threads(async move {
        Ok(capstan_crawl::import(&config, &folder, slice, &control, sender).await?)
    });
    let (read, outputs) = tokio::join!(read, stored);
    // Where writing failed, reading ended for want of a receiver: the first cause is told.
    let outputs = outputs?;
    Ok(done(outputs, [], read?.cpu_seconds))
}

/// Writes pairs and rejects as they come. On an error the receiver is dropped, which ends the sender.
async fn store_imported(
    context: &Context,
    mut imported: mpsc::Receiver<Imported>,
    bounds: files::FileBounds,
) -> Result<Outputs, Error> {
    let mut writer = files::PairWriter::new(&context.store, bounds);
    let (mut fetched, mut texts) = (0, 0);
    let (mut rejects, mut sidecars) = (Vec::new(), Vec::new());
    let mut counts = Rejected::default();
    while let Some(imported) = imported.recv().await {
        match imported {
            Imported::Pair(pair) => {
                fetched += 1;
                texts += pair.texts.len() as u64;
                writer.push(*pair).await?;
            }
            Imported::Reject(reject) => {
                counts.add(&reject);
                rejects.push(reject);
            }
        }
        if rejects.len() == REJECTS_PER_FILE {
            let full = std::mem::take(&mut rejects);
            sidecars.push(files::write(&context.store, FileKind::Rejects, full).await?);
        }
    }
    if sidecars.is_empty() || !rejects.is_empty() {
        sidecars.push(files::write(&context.store, FileKind::Rejects, rejects).await?);
    }
    let mut outputs = Outputs {
        files: writer.finish().await?,
        ..Outputs::default()
    };
    outputs.files.extend(sidecars);
    outputs.counts.insert("fetched".to_owned(), fetched);
    outputs.counts.insert("texts".to_owned(), texts);
    counts.tell(&mut outputs);
    Ok(outputs)
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
    written: Written,
    read: Measured<Vec<Reject>>,
    inputs: &[File],
) -> Result<Done, Error> {
    let rejects = read.value;
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
    Ok(done(outputs, inputs, read.cpu_seconds))
}

fn count_rejects(outputs: &mut Outputs, rejects: &[Reject]) {
    let mut counts = Rejected::default();
    rejects.iter().for_each(|reject| counts.add(reject));
    counts.tell(outputs);
}

/// Rejects, counted.
#[derive(Default)]
struct Rejected {
    by_code: BTreeMap<RejectCode, u64>,
    pictures: u64,
    others: u64,
}

impl Rejected {
    fn add(&mut self, reject: &Reject) {
        *self.by_code.entry(reject.code).or_default() += 1;
        match reject.is_image {
            true => self.pictures += 1,
            false => self.others += 1,
        }
    }

    fn tell(self, outputs: &mut Outputs) {
        let counts = &mut outputs.counts;
        counts.insert("rejected".to_owned(), self.pictures);
        counts.insert("rejected_pages".to_owned(), self.others);
        outputs.rejects = self.by_code;
    }
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

fn done<'a>(
    outputs: Outputs,
    inputs: impl IntoIterator<Item = &'a File>,
    cpu_seconds: f64,
) -> Done {
    let inputs = inputs.into_iter().map(|file| file.digest).collect();
    Done {
        outputs,
        inputs,
        cpu_seconds,
        ..Done::default()
    }
}

fn control(context: &Context) -> capstan_crawl::Control {
    let told = context.told();
    capstan_crawl::Control::new(
        context.control.cancel.clone(),
        move |now| {
            told(now.done);
        },
        || {
            let since = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            since.as_millis() as i64
        },
    )
}

/// The folder of an import or a given model; a relative one lies under the root.
pub(crate) fn given_folder(context: &Context, source: &str) -> PathBuf {
    context.import_root.join(source)
}
