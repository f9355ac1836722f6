//! `import`: one slice of existing pairs becomes base files.

use capstan_dataset::files;
use capstan_import::Imported;
use capstan_lease::Done;
use capstan_plan::commit::{FileKind, Outputs};
use capstan_plan::stage::{Import, ImportWork};
use tokio::sync::mpsc;

use crate::context::Context;
use crate::error::Error;
use crate::fetched::{PAIRS_IN_FLIGHT, Rejected, control, done};
use crate::measured::on_own_threads;

/// Rejects of an import that wait in memory for a file.
const REJECTS_PER_FILE: usize = 65_536;

/// Imports one slice of existing pairs.
pub(crate) async fn run(
    context: &Context,
    config: &Import,
    work: ImportWork,
) -> Result<Done, Error> {
    let ImportWork { slice } = work;
    let config = config.clone();
    let source = context.import_roots.resolve(&config.source)?;
    context.control.progress.begin("pictures", 0);
    let (sender, receiver) = mpsc::channel(PAIRS_IN_FLIGHT);
    let stored = store_imported(context, receiver, (&config.storing).into());
    let control = control(context);
    let read = on_own_threads(async move {
        Ok(capstan_import::import(&config, &source, slice, &control, sender).await?)
    });
    let (read, outputs) = tokio::join!(read, stored);
    // A writer that fails drops its receiver, which ends the reader: report the writer's cause.
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
    let (mut found, mut fetched, mut texts) = (0, 0, 0);
    let (mut rejects, mut sidecars) = (Vec::new(), Vec::new());
    let mut counts = Rejected::default();
    while let Some(imported) = imported.recv().await {
        match imported {
            Imported::Pair(pair) => {
                found += 1;
                fetched += 1;
                texts += pair.texts.len() as u64;
                writer.push(*pair).await?;
            }
            Imported::Reject(reject) => {
                found += u64::from(reject.is_image);
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
    outputs.counts.insert("found".to_owned(), found);
    outputs.counts.insert("fetched".to_owned(), fetched);
    outputs.counts.insert("texts".to_owned(), texts);
    counts.write(&mut outputs);
    Ok(outputs)
}
