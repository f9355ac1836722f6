//! `capstan demo`: the whole loop over the demo web, in one process, on loopback.
//!
//! ```text
//! world file + seed ─► demo web ─┐
//! pipeline file ──► coordinator ◄┼─► two workers, two trainer ranks ─► store in DIR
//!                        │ events
//!                        ▼
//!                   board (bars) ─► report ─► summary.json, report.html, table
//! ```

mod folder;
mod inputs;
mod run;

use std::sync::Arc;

use capstan_dataset::Store;
use capstan_demoweb::Site;

use crate::args;
use crate::error::{Exit, ExpectedError, OrExit};
use crate::report::{self, Heading, Recorded, gather};
use folder::Folder;
use inputs::Inputs;

/// The shipped pipeline, the same file as in `deploy`.
pub const PIPELINE: &str = include_str!("../../../../deploy/pipelines/demo.toml");

/// The stages that `--full` adds to it.
pub const FULL: &str = include_str!("full.toml");

/// Runs the demo.
///
/// # Errors
/// See the exit codes of [`Exit`].
pub fn run(args: &args::Demo) -> Result<(), ExpectedError> {
    if args.print_world {
        print!("{}", capstan_demoweb::World::shipped().to_toml());
        return Ok(());
    }
    if args.print_pipeline {
        print!("{}", inputs::pipeline_text(args)?);
        return Ok(());
    }
    let inputs = Inputs::read(args)?;
    let folder = Folder::open(&args.out, &inputs.marker)?;
    crate::output::log_to_file(&folder.log())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .or_exit(Exit::RunFailed)?;
    let site = Arc::new(Site::build(&inputs.world, args.seed));
    runtime.block_on(run_demo(args, inputs, &folder, site))
}

/// The part of the demo that needs the runtime.
async fn run_demo(
    args: &args::Demo,
    inputs: Inputs,
    folder: &Folder,
    site: Arc<Site>,
) -> Result<(), ExpectedError> {
    if !folder.annotations().exists() {
        inputs::write_annotations(&site, folder)?;
    }
    let store_url = folder.store().display().to_string();
    let store = Store::open(&store_url).or_exit(Exit::Unavailable)?;
    let leave = capstan_runtime::shutdown::on_signals().or_exit(Exit::RunFailed)?;
    let ended = run::to_its_end(folder, &store, site.clone(), &inputs, leave).await?;
    if ended.leased == 0 {
        eprintln!("nothing was left to do: every task is committed");
    }
    let recorded = Recorded::read(&store, &ended.run).await?;
    let gathered = gather(&store, &recorded, Some(&ended.watched), Some(&site)).await?;
    gathered.summary.check().or_exit(Exit::RunFailed)?;
    inputs::copy_models(&store, &gathered.models, folder).await?;
    let heading = Heading {
        title: "capstan demo".to_owned(),
        started: None,
        command: format!("capstan demo --seed {}", args.seed),
    };
    report::write(&store, &gathered, Some(&site), heading, folder.root()).await?;
    report::print(&gathered.summary, args.json)?;
    eprintln!("report: {}", folder.report().display());
    Ok(())
}
