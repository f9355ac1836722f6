//! Every command but the demo, a module each.

mod config;
mod dataset;
mod model;

use crate::args::{Args, Command};
use crate::error::{Exit, ExpectedError, OrExit};

/// Runs the command.
///
/// # Errors
/// One line and an exit code, see [`Exit`].
pub fn run(args: Args) -> Result<(), ExpectedError> {
    match &args.command {
        Command::Demo(demo) => crate::demo::run(demo),
        Command::Caption(caption) => model::caption(caption),
        Command::Match(matching) => model::matching(matching),
        Command::Dataset(dataset) => dataset::run(dataset, args.config.as_deref()),
        Command::Config => config::print(args.config.as_deref()),
    }
}

/// Runs an async command on a runtime of its own.
fn block_on<T>(work: impl Future<Output = Result<T, ExpectedError>>) -> Result<T, ExpectedError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .or_exit(Exit::RunFailed)?
        .block_on(work)
}
