//! `capstan report`: the page of any run, from the store alone.

use capstan_plan::id::RunId;

use super::{block_on, dataset};
use crate::args;
use crate::error::{Exit, ExpectedError};
use crate::report::{self, Heading, PAGE, Recorded, gather};
use crate::settings::Settings;

/// Writes report.html and summary.json of a run.
///
/// A run that goes on, or that failed, gives the page of what is committed.
///
/// # Errors
/// Usage for a run that the store does not hold, or a folder that cannot be made; unavailable
/// store; run failed, where a file of the run cannot be read or a page cannot be written.
pub fn run(args: &args::Report, settings: &Settings) -> Result<(), ExpectedError> {
    block_on(async {
        let store = dataset::open(&args.store, settings).await?;
        let run = RunId::from(args.run.as_str());
        let recorded = Recorded::read(&store, &run).await?;
        let gathered = gather(&store, &recorded, None, None).await?;
        std::fs::create_dir_all(&args.out).map_err(|error| {
            let line = format!("--out {}: cannot be made: {error}", args.out.display());
            ExpectedError::new(Exit::Usage, line)
        })?;
        let heading = Heading {
            title: format!("run {run}"),
            started: None,
            command: format!("capstan report {run} --store {}", store.url()),
        };
        report::write(&store, &gathered, None, heading, &args.out).await?;
        report::print(&gathered.summary, args.store.json)?;
        eprintln!("report: {}", args.out.join(PAGE).display());
        Ok(())
    })
}
